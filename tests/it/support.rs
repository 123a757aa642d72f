//! Shared by end-to-end tests: a folder of files in which the real program runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// The model that comes with the repository.
pub(crate) fn mini_embedder() -> PathBuf {
    repository().join("examples/models/mini-embedder")
}

/// The sample rows.
pub(crate) fn sample_rows() -> PathBuf {
    repository().join("examples/data/reviews.parquet")
}

pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Reports that this test is skipped, and why. `tests/skipped.rs` repeats it at the end of the run, because captured
/// output is not shown.
pub(crate) fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("SKIPPED {test}: {why}");
    let list = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
    let mut list = std::fs::OpenOptions::new().create(true).append(true).open(list).unwrap();
    // In one write, because other tests run concurrently.
    std::io::Write::write_all(&mut list, format!("{why}\t{test}\n").as_bytes()).unwrap();
}

/// A temporary folder with files, in which the program runs.
pub(crate) struct Fixture {
    dir: tempfile::TempDir,
}

/// The result of running the program.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file and creates its folders.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// Writes `embed.yaml`, which embeds the column `text` of `source` into `out`.
    pub(crate) fn embed_yaml(&self, source: &str) -> &Self {
        self.file("embed.yaml", embed_pipeline(&mini_embedder(), source, "out", ""))
    }

    /// Copies the embedded model to `model`, so that a test can damage it.
    pub(crate) fn copy_model(&self) -> &Self {
        let model = mini_embedder();
        for entry in walk(&model) {
            let name = entry.strip_prefix(&model).unwrap().to_str().unwrap().to_owned();
            self.file(&format!("model/{name}"), std::fs::read(&entry).unwrap());
        }
        self
    }

    /// The program with these arguments, in the folder, without the user's hub settings.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hfauto-pipe"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("HF_HOME", self.path("hf-home"))
            .env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"))
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("HF_TOKEN")
            .env_remove("HF_HUB_CACHE")
            .env_remove("TRANSFORMERS_CACHE")
            .env_remove("RUST_LOG")
            // Enables a test's `HFAUTO_FAILPOINT`.
            .env("HFAUTO_FAILPOINT_KEY", failpoint_key())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.ran(self.command(args).output().unwrap())
    }

    /// Runs a command of [`Self::command`].
    pub(crate) fn ran(&self, output: Output) -> Ran {
        Ran::from(output, self.dir.path())
    }

    /// Like [`Fixture::run`], with environment variables.
    pub(crate) fn run_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Ran {
        let output = self.command(args).envs(variables.iter().copied()).output().unwrap();
        Ran::from(output, self.dir.path())
    }

    /// What a terminal of `columns` columns shows while the program runs with these arguments, without colours. Each text
    /// of `typed` is typed, and Enter, when there is a prompt. `None` without the program `script`, which makes the
    /// terminal.
    pub(crate) fn terminal(&self, args: &[&str], columns: usize, typed: &[&str]) -> Option<String> {
        if Command::new("script").arg("--version").output().is_err() {
            skip("`script` (util-linux), which makes a terminal, is not on the PATH");
            return None;
        }
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
        let program = quoted(env!("CARGO_BIN_EXE_hfauto-pipe"));
        let args: Vec<String> = args.iter().map(|arg| quoted(arg)).collect();
        let line = format!("stty cols {columns} rows 40; {program} {}", args.join(" "));
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).current_dir(self.dir.path());
        for (name, value) in self.command(&[]).get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("TERM", "xterm-256color").env("XDG_STATE_HOME", self.path("state"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut keyboard = child.stdin.take().unwrap();
        let mut screen = child.stdout.take().unwrap();
        let (ended, end) = mpsc::channel::<()>();
        let pid = child.id().to_string();
        let watch = std::thread::spawn(move || {
            let late = end.recv_timeout(Duration::from_mins(2)) == Err(RecvTimeoutError::Timeout);
            late && Command::new("kill").arg(pid).status().is_ok()
        });
        let mut typed = typed.iter();
        let (mut shown, mut chunk) = (Vec::new(), [0; 4096]);
        // Where the answer to the last line begins.
        let mut answer = 0;
        // Ends with the program, which closes the terminal.
        while let Ok(read @ 1..) = std::io::Read::read(&mut screen, &mut chunk) {
            shown.extend_from_slice(&chunk[..read]);
            let plain = without_escapes(&shown);
            // A line that is not yet entered is drawn again and again, with its prompt.
            let is_asked = plain
                .get(answer..)
                .is_some_and(|new| new.ends_with("> ") && (answer == 0 || new.contains('\n')));
            if is_asked && let Some(text) = typed.next() {
                answer = plain.len();
                std::io::Write::write_all(&mut keyboard, format!("{text}\r").as_bytes()).unwrap();
            }
        }
        child.wait().unwrap();
        drop(ended);
        let shown = without_escapes(&shown);
        assert!(!watch.join().unwrap(), "the program does not end:\n{shown}");
        assert_eq!(typed.next(), None, "{shown}");
        Some(shown)
    }

    /// The files below a folder, relative and sorted; empty when it does not exist. Omits the output's last report,
    /// which contains times.
    pub(crate) fn files(&self, folder: &str) -> Vec<String> {
        let folder = self.path(folder);
        walk(&folder)
            .iter()
            .map(|path| path.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned())
            .filter(|name| name != "_hfauto/report.json")
            .collect()
    }

    /// All rows of a Parquet file.
    pub(crate) fn parquet(&self, name: &str) -> RecordBatch {
        read_parquet(&self.path(name))
    }
}

/// The text without escape sequences and carriage returns.
fn without_escapes(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            // CSI: parameters, then a letter.
            '\u{1b}' if rest.clone().next() == Some('[') => {
                rest.next();
                rest.find(|c| ('@'..='~').contains(c));
            }
            '\u{1b}' => drop(rest.next()),
            '\r' => {}
            character => plain.push(character),
        }
    }
    plain
}

/// The key that enables failpoints of the program.
pub(crate) fn failpoint_key() -> String {
    hfauto_pipe::failpoint::key(Path::new(env!("CARGO_BIN_EXE_hfauto-pipe"))).unwrap()
}

impl Ran {
    fn from(output: Output, dir: &Path) -> Self {
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            text.replace(dir.to_str().unwrap(), "[DIR]")
                .replace(repository().to_str().unwrap(), "[REPO]")
        };
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Asserts the exit code, and that stderr contains all of `texts`.
    #[track_caller]
    pub(crate) fn fails(&self, code: u8, texts: &[&str]) {
        assert_eq!(self.code, i32::from(code), "stderr:\n{}", self.stderr);
        for text in texts {
            assert!(self.stderr.contains(text), "no `{text}` in stderr:\n{}", self.stderr);
        }
    }

    #[track_caller]
    pub(crate) fn succeeds(&self) -> &Self {
        assert_eq!(self.code, 0, "stderr:\n{}", self.stderr);
        self
    }
}

/// A pipeline that embeds `text`; `more` is inserted below the other keys.
pub(crate) fn embed_pipeline(model: &Path, source: &str, sink: &str, more: &str) -> String {
    format!(
        "version: 1\n\
         source: {{path: '{source}'}}\n\
         steps:\n\
         - feature-extraction: {{model: '{}', input: text, output: embedding}}\n\
         sink: {{path: '{sink}'}}\n\
         {more}\n",
        model.display()
    )
}

pub(crate) fn read_parquet(path: &Path) -> RecordBatch {
    let file = std::fs::File::open(path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let schema = Arc::clone(reader.schema());
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}
