//! The calls by which executors hand results of queries to the scheduler and clients fetch them: one message type over
//! the scheduler's port, a JSON head and bytes. Ballista has no call for it, and its own transport of results opens a
//! port on every executor. Not here: keeping the results (`results`).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::StdError;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};

use super::super::security::{Address, Client, refused, unreachable};
use crate::error::{Error, ErrorKind, Result};

/// The call.
pub(super) const PATH: &str = "/hfauto.Results/Call";

/// The bytes of a result in one message; tonic refuses messages of 4 MiB.
pub(super) const CHUNK_BYTES: usize = 2 << 20;

/// What a client or an executor asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// A client starts a query, or returns to it.
    Open { query: String, units: usize },
    /// The state of each unit.
    States { query: String },
    /// The bytes of a unit from an offset on. Waits a moment if it is not done.
    Read { query: String, unit: usize, offset: u64 },
    /// The client needs no more results.
    Close { query: String },
    /// An executor begins a unit.
    Begin { query: String, unit: usize },
    /// The next bytes of a unit.
    Append { query: String, unit: usize, attempt: u64, offset: u64 },
    /// All bytes of a unit are there.
    Commit { query: String, unit: usize, attempt: u64, bytes: u64 },
    /// An attempt has ended with an error.
    Fail { query: String, unit: usize, attempt: u64 },
}

/// An answer; some come with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Answer {
    Ok,
    /// One [`UnitState`] per byte.
    States,
    /// A part of the `total` bytes of a unit.
    Part {
        attempt: u64,
        total: u64,
    },
    /// The unit is not done.
    NotYet,
    /// The unit is to be computed.
    Begun {
        attempt: u64,
    },
    /// The unit is done.
    WasDone,
    /// Earlier attempts at the unit have ended with their processes.
    Deadly,
}

/// The state of a unit, as a byte.
pub(super) mod unit_state {
    pub(in super::super) const OPEN: u8 = 0;
    pub(in super::super) const DONE: u8 = 1;
    pub(in super::super) const DEADLY: u8 = 2;
}

/// A head and bytes as one message.
pub(super) fn message(head: &impl Serialize, bytes: &[u8]) -> Result<Bytes, Status> {
    let head = serde_json::to_vec(head).map_err(|e| Status::internal(e.to_string()))?;
    let length = u32::try_from(head.len()).map_err(|e| Status::internal(e.to_string()))?;
    let mut message = BytesMut::with_capacity(4 + head.len() + bytes.len());
    message.put_u32_le(length);
    message.put_slice(&head);
    message.put_slice(bytes);
    Ok(message.freeze())
}

/// The head and the bytes of a message.
pub(super) fn parts<T: DeserializeOwned>(mut message: Bytes) -> Result<(T, Bytes), Status> {
    let damaged = || Status::invalid_argument("the message is damaged");
    if message.len() < 4 {
        return Err(damaged());
    }
    let length = message.get_u32_le() as usize;
    if message.len() < length {
        return Err(damaged());
    }
    let head = message.split_to(length);
    Ok((serde_json::from_slice(&head).map_err(|_| damaged())?, message))
}

/// Messages as they are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// The results that a scheduler keeps, seen by a client or an executor.
#[derive(Clone)]
pub(crate) struct ResultsClient {
    client: Client,
    address: Address,
}

impl ResultsClient {
    /// Results over a connection to the scheduler at `address`.
    pub(in super::super) fn new(client: Client, address: Address) -> Self {
        Self { client, address }
    }

    /// Makes one call.
    ///
    /// # Errors
    /// `NotFound` if the scheduler does not know the query: it was started again, or the client has gone.
    pub(super) async fn ask(&self, ask: &Ask, bytes: &[u8]) -> Result<(Answer, Bytes), Status> {
        let mut grpc = tonic::client::Grpc::new(self.client.clone());
        grpc.ready().await.map_err(|e| Status::from_error(StdError::from(e)))?;
        let request = Request::new(message(ask, bytes)?);
        let path = PathAndQuery::from_static(PATH);
        let answer = grpc.unary(request, path, RawCodec).await?;
        parts(answer.into_inner())
    }

    /// The error of a failed call.
    pub(super) fn error(&self, status: &Status) -> Error {
        if status.code() == Code::NotFound {
            let message = format!("`{}` does not keep results of the query", self.address);
            return Error::new(ErrorKind::Resources, message)
                .hint("the scheduler was started again, or the client has ended");
        }
        if status.code() == Code::ResourceExhausted {
            let message = format!("`{}` cannot keep results of the query", self.address);
            return Error::new(ErrorKind::Resources, message)
                .source(status.clone())
                .hint("free space in the scheduler's folder of temporary files, `TMPDIR`");
        }
        refused(status, &self.address).unwrap_or_else(|| unreachable(status, &self.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_and_damaged_ones_are_refused() {
        let ask = Ask::Append { query: "q".to_owned(), unit: 3, attempt: 7, offset: 9 };
        let sent = message(&ask, b"\0bytes\xff").unwrap();
        let (Ask::Append { unit, attempt, offset, .. }, bytes) = parts(sent.clone()).unwrap()
        else {
            panic!("another call");
        };
        assert_eq!((unit, attempt, offset, &bytes[..]), (3, 7, 9, &b"\0bytes\xff"[..]));
        for length in [0, 3, 4, 10] {
            assert!(parts::<Ask>(sent.slice(..length)).is_err(), "{length}");
        }
        assert!(parts::<Answer>(sent).is_err());
    }
}
