//! Who may talk to a scheduler, and how executors and clients reach one: addresses, tokens, certificates, and the check
//! that both sides are the same build. Not here: what a caller may ask for (`gate`), where executors may write (`allow`).

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::version;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{
    Certificate, Channel, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig,
};
use tonic::{Code, Request, Status};
use url::Url;

use crate::error::{Error, ErrorKind, Result};
use crate::job::build;
use crate::limits::{CLUSTER_MESSAGE_BYTES, CLUSTER_SECRET_BYTES};
use crate::secret;

/// The port of a scheduler, as Ballista's.
pub(crate) const PORT: u16 = 50050;

/// The metadata key of the caller's build.
const BUILD_KEY: &str = "hfauto-pipe-build";

/// The longest time to connect, and for a call.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// A peer that does not answer a ping is gone: a cut network gives no other sign.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// The address of a scheduler: `df://host:50050`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    host: String,
    port: u16,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let expected = || format!("expected df://HOST:PORT, such as df://localhost:{PORT}");
        let url = Url::parse(text).map_err(|_| expected())?;
        let has_more = !matches!(url.path(), "" | "/")
            || url.query().is_some()
            || url.fragment().is_some()
            || !url.username().is_empty()
            || url.password().is_some();
        match url.host_str().filter(|host| !host.is_empty()) {
            Some(host) if url.scheme() == "df" && !has_more => {
                Ok(Self { host: host.to_owned(), port: url.port().unwrap_or(PORT) })
            }
            _ => Err(expected()),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "df://{}:{}", self.host, self.port)
    }
}

impl Address {
    /// The address of a listener.
    pub(crate) fn of(socket: SocketAddr) -> Self {
        let host = match socket.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Self { host, port: socket.port() }
    }

    /// Whether only processes of this machine can reach the address.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

/// The files from which [`Credentials`] are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct CredentialFiles {
    /// The shared token.
    pub(crate) token: Option<PathBuf>,
    /// The certificate of this process, PEM.
    pub(crate) cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub(crate) key: Option<PathBuf>,
    /// The certificates that sign those of the other side, PEM.
    pub(crate) ca: Option<PathBuf>,
}

/// What a process shows to the other side of a connection, and expects from it.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    token: Option<String>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    ca: Option<Vec<u8>>,
}

impl Credentials {
    /// Reads the files. Messages never show the token.
    ///
    /// # Errors
    /// `Usage` if a file cannot be read, is empty or holds something else, or if a certificate comes without its key.
    pub(crate) fn read(files: &CredentialFiles) -> Result<Self> {
        let token = files.token.as_deref().map(read_token).transpose()?;
        let pem = |flag: &str, path: &Option<PathBuf>| {
            path.as_deref().map(|path| read_pem(flag, path)).transpose()
        };
        let cert = pem("--tls-cert", &files.cert)?;
        let key = pem("--tls-key", &files.key)?;
        let ca = pem("--tls-ca", &files.ca)?;
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => {
                let message = "`--tls-cert` and `--tls-key` require each other";
                return Err(Error::new(ErrorKind::Usage, message));
            }
        };
        Ok(Self { token, identity, ca })
    }

    /// Refuses to listen where other machines can connect without TLS and a token.
    ///
    /// # Errors
    /// `Usage`.
    pub(crate) fn check_listener(&self, address: &Address, is_insecure: bool) -> Result<()> {
        if self.ca.is_some() && self.identity.is_none() {
            let message = "`--tls-ca` requires `--tls-cert` and `--tls-key`";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        let is_safe = self.token.is_some() && self.identity.is_some();
        if is_safe || is_insecure || address.is_loopback() {
            return Ok(());
        }
        let message =
            format!("`{address}` can be reached by other machines without TLS and a token");
        Err(Error::new(ErrorKind::Usage, message).hint(
            "add `--token-file`, `--tls-cert` and `--tls-key`, or `--insecure` on a network where everyone may run pipelines",
        ))
    }

    /// Refuses to send a token or a job to another machine without TLS.
    ///
    /// # Errors
    /// `Usage`.
    pub(crate) fn check_target(&self, address: &Address, is_insecure: bool) -> Result<()> {
        if self.identity.is_some() && self.ca.is_none() {
            let message = "`--tls-cert` requires `--tls-ca`, which says whom to trust";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        let is_safe = self.token.is_some() && self.ca.is_some();
        if is_safe || is_insecure || address.is_loopback() {
            return Ok(());
        }
        let message =
            format!("`{address}` is another machine, and the connection has no TLS and token");
        Err(Error::new(ErrorKind::Usage, message).hint(
            "add `--token-file` and `--tls-ca`, or `--insecure` on a network where everyone may run pipelines",
        ))
    }

    /// The TLS settings of a listener; `None` without a certificate. With `--tls-ca`, callers need a certificate.
    pub(super) fn server_tls(&self) -> Option<ServerTlsConfig> {
        let (cert, key) = self.identity.as_ref()?;
        // Object stores bring a second provider, and rustls then has no default.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(cert, key));
        Some(match &self.ca {
            Some(ca) => tls.client_ca_root(Certificate::from_pem(ca)),
            None => tls,
        })
    }

    /// The check of every call to a listener.
    pub(super) fn check(&self) -> Check {
        Check { token: self.token.as_deref().map(hash) }
    }

    /// A client of the scheduler at `address`; connects at the first call, and again after a failure.
    ///
    /// # Errors
    /// `Usage` if a certificate is damaged.
    pub(super) fn client(&self, address: &Address) -> Result<Client> {
        self.client_of(address, build())
    }

    /// As [`Self::client`], with the name of any build.
    pub(super) fn client_of(&self, address: &Address, build: &str) -> Result<Client> {
        let wrong = |e: tonic::transport::Error| {
            Error::new(ErrorKind::Usage, format!("cannot set up a connection to `{address}`"))
                .source(e)
        };
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        let uri = format!("{scheme}://{}:{}", address.host, address.port);
        let mut endpoint = Endpoint::from_shared(uri)
            .map_err(wrong)?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL)
            .keep_alive_while_idle(true);
        if let Some(ca) = &self.ca {
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
            if let Some((cert, key)) = &self.identity {
                tls = tls.identity(Identity::from_pem(cert, key));
            }
            endpoint = endpoint.tls_config(tls).map_err(wrong)?;
        }
        let attach = Attach { token: self.authorization()?, build: header(build)? };
        Ok(InterceptedService::new(endpoint.connect_lazy(), attach))
    }

    fn authorization(&self) -> Result<Option<MetadataValue<Ascii>>> {
        self.token.as_deref().map(|token| header(&format!("Bearer {token}"))).transpose()
    }
}

/// A connection that proves who we are in every call.
pub(super) type Client = InterceptedService<Channel, Attach>;

/// The scheduler's calls over a connection.
pub(super) fn scheduler(client: &Client) -> SchedulerGrpcClient<Client> {
    SchedulerGrpcClient::new(client.clone())
        .max_decoding_message_size(CLUSTER_MESSAGE_BYTES)
        .max_encoding_message_size(CLUSTER_MESSAGE_BYTES)
}

/// Adds the token and the build to every call.
#[derive(Clone)]
pub(super) struct Attach {
    token: Option<MetadataValue<Ascii>>,
    build: MetadataValue<Ascii>,
}

impl Interceptor for Attach {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        version::insert_version_header(metadata);
        metadata.insert(BUILD_KEY, self.build.clone());
        if let Some(token) = &self.token {
            metadata.insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// Refuses callers without the token, and those of another build.
#[derive(Clone)]
pub(super) struct Check {
    token: Option<blake3::Hash>,
}

impl Interceptor for Check {
    fn call(&mut self, request: Request<()>) -> std::result::Result<Request<()>, Status> {
        let of = |key: &str| request.metadata().get(key).and_then(|value| value.to_str().ok());
        if let Some(expected) = &self.token {
            let given = of("authorization").and_then(|value| value.strip_prefix("Bearer "));
            let Some(given) = given else {
                return Err(Status::unauthenticated("the scheduler requires a token"));
            };
            // Comparing hashes takes the same time for every wrong token.
            if hash(given) != *expected {
                return Err(Status::unauthenticated("the token is wrong"));
            }
        }
        match of(BUILD_KEY) {
            Some(theirs) if theirs == build() => Ok(request),
            other => Err(Status::failed_precondition(format!(
                "the scheduler is hfauto-pipe {}, the caller {}",
                build(),
                other.map_or("another program".to_owned(), |build| format!("hfauto-pipe {build}"))
            ))),
        }
    }
}

/// The error of a call that no later attempt can repair; `None` if the scheduler may be back soon.
pub(super) fn refused(status: &Status, address: &Address) -> Option<Error> {
    let error = |kind, hint: &str| {
        let message = format!("`{address}` refused the call: {}", status.message());
        Some(Error::new(kind, message).hint(hint))
    };
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => {
            error(ErrorKind::Usage, "`--token-file` must hold the token of the scheduler")
        }
        Code::FailedPrecondition => error(
            ErrorKind::Config,
            "scheduler, executors and clients must be the same build of hfauto-pipe",
        ),
        Code::Unimplemented | Code::InvalidArgument | Code::OutOfRange => {
            error(ErrorKind::Config, "the address must be that of `hfauto-pipe cluster scheduler`")
        }
        _ if is_about_certificates(status) => Some(
            Error::new(ErrorKind::Usage, format!("`{address}` and this process do not trust each other"))
                .source(status.clone())
                .hint("check `--tls-ca`, and with `--tls-ca` on the scheduler, `--tls-cert` and `--tls-key`"),
        ),
        _ => None,
    }
}

/// The error of a scheduler that does not answer.
pub(super) fn unreachable(status: &Status, address: &Address) -> Error {
    Error::new(ErrorKind::Resources, format!("the scheduler `{address}` does not answer"))
        .source(status.clone())
        .hint("start it, check the address, and use TLS on both sides or on none")
}

/// Whether TLS failed because of a certificate, which the chain of causes tells as text only.
/// Whether a call found no scheduler, or lost it: the same call may succeed later.
pub(super) fn is_lost(status: &Status) -> bool {
    let code = status.code();
    let lost = [Code::Unavailable, Code::Cancelled, Code::DeadlineExceeded];
    // A connection that breaks during a call has no code of its own.
    let broke = || {
        std::error::Error::source(status).is_some_and(|cause| {
            cause.is::<tonic::transport::Error>() || cause.is::<std::io::Error>()
        })
    };
    !is_about_certificates(status) && (lost.contains(&code) || code == Code::Unknown && broke())
}

fn is_about_certificates(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.to_string().to_ascii_lowercase().contains("certificate") {
            return true;
        }
        cause = error.source();
    }
    false
}

fn hash(token: &str) -> blake3::Hash {
    blake3::hash(token.as_bytes())
}

fn header(text: &str) -> Result<MetadataValue<Ascii>> {
    text.parse().map_err(|_| {
        Error::new(ErrorKind::Usage, "`--token-file` may hold visible ASCII characters only")
    })
}

fn read_token(path: &Path) -> Result<String> {
    let text = read_file("--token-file", path)?;
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let is_token = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_token {
        let message = format!(
            "`--token-file {}` must hold one line of visible ASCII characters",
            path.display()
        );
        return Err(
            Error::new(ErrorKind::Usage, message).hint("make one with `openssl rand -hex 32`")
        );
    }
    secret::remember("token", &text);
    Ok(text)
}

fn read_pem(flag: &str, path: &Path) -> Result<Vec<u8>> {
    let text = read_file(flag, path)?;
    if text.windows(11).any(|window| window == b"-----BEGIN ") {
        return Ok(text);
    }
    let message = format!("`{flag} {}` is not a PEM file", path.display());
    Err(Error::new(ErrorKind::Usage, message))
}

fn read_file(flag: &str, path: &Path) -> Result<Vec<u8>> {
    let cannot = |e: std::io::Error| {
        Error::new(ErrorKind::Usage, format!("cannot read `{flag} {}`", path.display())).source(e)
    };
    // Follows links: Kubernetes mounts secrets as such.
    let file = std::fs::File::open(path).map_err(cannot)?;
    let size = file.metadata().map_err(cannot)?;
    if !size.is_file() || size.len() > CLUSTER_SECRET_BYTES {
        let message = format!(
            "`{flag} {}` is not a file of at most {CLUSTER_SECRET_BYTES} bytes",
            path.display()
        );
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let mut content = Vec::new();
    file.take(CLUSTER_SECRET_BYTES).read_to_end(&mut content).map_err(cannot)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn addresses() {
        assert_eq!(address("df://host:1").to_string(), "df://host:1");
        assert_eq!(address("df://host").to_string(), "df://host:50050");
        assert_eq!(address("df://[::1]:7").to_string(), "df://[::1]:7");
        for text in
            ["host:50050", "http://host:1", "df://", "df://h:1/x", "df://u:p@h", "df://h:99999"]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        for text in ["df://127.0.0.1", "df://localhost:1", "df://[::1]:1", "df://127.8.8.8"] {
            assert!(address(text).is_loopback(), "{text}");
        }
        for text in [
            "df://0.0.0.0",
            "df://example.com",
            "df://10.0.0.1",
            "df://[::]",
            "df://localhost.evil",
        ] {
            assert!(!address(text).is_loopback(), "{text}");
        }
    }

    #[test]
    fn another_machine_needs_tls_and_a_token() {
        let pem = || b"-----BEGIN X-----".to_vec();
        let all = Credentials {
            token: Some("t".to_owned()),
            identity: Some((pem(), pem())),
            ca: Some(pem()),
        };
        let remote = address("df://10.0.0.1");
        let without_token = Credentials { token: None, ..all.clone() };
        let without_tls = Credentials { identity: None, ca: None, ..all.clone() };
        for credentials in [Credentials::default(), without_token, without_tls] {
            assert_eq!(
                credentials.check_listener(&remote, false).unwrap_err().kind(),
                ErrorKind::Usage
            );
            assert_eq!(
                credentials.check_target(&remote, false).unwrap_err().kind(),
                ErrorKind::Usage
            );
            credentials.check_listener(&remote, true).unwrap();
            credentials.check_target(&address("df://127.0.0.1"), false).unwrap();
        }
        all.check_listener(&remote, false).unwrap();
        all.check_target(&remote, false).unwrap();
    }

    #[test]
    fn tokens_are_checked_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let read = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            Credentials::read(&CredentialFiles {
                token: Some(path.clone()),
                ..CredentialFiles::default()
            })
        };
        assert_eq!(read(b" abc123\n").unwrap().token.as_deref(), Some("abc123"));
        let long = vec![b'x'; 70_000];
        for content in [&b""[..], b"\n", b"two words", b"a\nb", "schlüssel".as_bytes(), &long] {
            assert_eq!(read(content).err().map(|error| error.kind()), Some(ErrorKind::Usage));
        }
        let mut check =
            Credentials { token: Some("right".to_owned()), ..Credentials::default() }.check();
        let mut call = |token: Option<&str>, build: Option<&str>| {
            let mut request = Request::new(());
            if let Some(token) = token {
                request.metadata_mut().insert("authorization", token.parse().unwrap());
            }
            if let Some(build) = build {
                request.metadata_mut().insert(BUILD_KEY, build.parse().unwrap());
            }
            check.call(request).map(drop).map_err(|status| status.code())
        };
        assert_eq!(call(Some("Bearer right"), Some(build())), Ok(()));
        for token in [None, Some("Bearer wrong"), Some("right"), Some("Bearer ")] {
            assert_eq!(call(token, Some(build())), Err(Code::Unauthenticated));
        }
        for build in [None, Some("0.0.1")] {
            assert_eq!(call(Some("Bearer right"), build), Err(Code::FailedPrecondition));
        }
    }
}
