//! Reads the columns of Arrow IPC files and streams, and counts their rows, after it validates their lengths: the `arrow-ipc` crate allocates
//! whatever a file claims. Not here: rows, which DataFusion reads.

use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use arrow::ipc::reader::{FileReader, StreamReader, read_footer_length};
use arrow::ipc::{MessageHeader, root_as_footer, root_as_message};
use datafusion::arrow;

use super::inspect::{Columns, Inspected, Layout, Rows, read_error, without_metadata};
use super::invalid::InvalidText;
use super::text_bytes::TextBytes;
use super::units::Start;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{ARROW_ROWS_WITHOUT_BYTES, DECOMPRESSION_RATIO, DECOMPRESSION_SLACK};

const MAGIC: &[u8] = b"ARROW1";

/// The problem with a file.
type Problem = Box<dyn std::error::Error + Send + Sync>;

/// Reads the schema of a file of `bytes` bytes. Checks the footer; with `messages`, also the header of each message.
/// Object stores skip the messages, because each read is a request.
pub(super) fn inspect(
    path: &Path,
    mut file: impl Read + Seek,
    bytes: u64,
    messages: bool,
) -> Result<Inspected> {
    let broken = |problem: Problem| {
        Error::new(ErrorKind::Data, format!("`{}` is not a whole Arrow IPC file", path.display()))
            .source(problem)
            .hint("it may be cut off or of another format; write or copy it again")
    };
    let mut magic = [0; 6];
    let stream = match file.read_exact(&mut magic) {
        Ok(()) => magic != MAGIC,
        Err(_) => true,
    };
    let mut sound = Sound { file: &mut file, bytes, batches: Vec::new() };
    if stream && messages {
        sound.check_stream().map_err(broken)?;
    } else if !stream {
        sound.check_file(messages).map_err(broken)?;
    }
    let (rows, starts) =
        if messages { counted(&sound.batches) } else { (Rows::Unknown, Vec::new()) };
    file.seek(SeekFrom::Start(0)).map_err(|error| read_error(error, 0))?;
    let file = BufReader::new(file);
    let schema = if stream {
        StreamReader::try_new(file, None).map(|reader| reader.schema())
    } else {
        FileReader::try_new(file, None).map(|reader| reader.schema())
    };
    let schema = schema.map_err(|error| broken(error.into()))?;
    let columns = Columns::Arrow { schema: without_metadata(&schema), stream };
    let (text_bytes, invalid) = (TextBytes::default(), InvalidText::default().into());
    let layout = Layout::default().into();
    Ok(Inspected { columns, rows, text_bytes, starts, invalid, layout })
}

/// The rows of record batches, and the starts of all after the first.
fn counted(batches: &[u64]) -> (Rows, Vec<Start>) {
    let (mut starts, mut row) = (Vec::new(), 0_u64);
    for rows in batches.iter().filter(|rows| **rows > 0) {
        if row > 0 {
            starts.push(Start { row, byte: 0 });
        }
        let Some(end) = row.checked_add(*rows).filter(|end| i64::try_from(*end).is_ok()) else {
            return (Rows::Unknown, Vec::new());
        };
        row = end;
    }
    (Rows::Exactly(row), starts)
}

/// A file under validation.
struct Sound<'f, F> {
    file: &'f mut F,
    bytes: u64,
    /// The rows of the record batches so far.
    batches: Vec<u64>,
}

impl<F: Read + Seek> Sound<'_, F> {
    /// The size of the file.
    fn read(&mut self, start: u64, length: u64) -> Result<Vec<u8>, Problem> {
        self.holds(start, length)?;
        self.file.seek(SeekFrom::Start(start))?;
        let mut bytes = vec![0; usize::try_from(length)?];
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Checks that a byte range lies in the file, and returns its end.
    fn holds(&self, start: u64, length: u64) -> Result<u64, Problem> {
        match start.checked_add(length) {
            Some(end) if end <= self.bytes => Ok(end),
            _ => Err(format!("{length} bytes at {start} lie outside the file").into()),
        }
    }

    /// The file format: the footer lists every block.
    fn check_file(&mut self, messages: bool) -> Result<(), Problem> {
        let end = self.bytes.checked_sub(10).ok_or("it is too short")?;
        let tail = self.read(end, 10)?;
        let tail: [u8; 10] = tail.try_into().map_err(|_| "it is too short")?;
        let length = read_footer_length(tail)? as u64;
        let start = end.checked_sub(length).ok_or("its footer is longer than the file")?;
        let footer = self.read(start, length)?;
        let footer =
            root_as_footer(&footer).map_err(|error| format!("its footer is damaged: {error}"))?;
        if footer.schema().is_none() {
            return Err("its footer has no schema".into());
        }
        let mut sum = 0_u64;
        let (dictionaries, batches) = (footer.dictionaries(), footer.recordBatches());
        for block in dictionaries.iter().flatten().chain(batches.iter().flatten()) {
            let [start, head, body] =
                [block.offset(), i64::from(block.metaDataLength()), block.bodyLength()];
            let (start, head, body) =
                (u64::try_from(start)?, u64::try_from(head)?, u64::try_from(body)?);
            let end = self.holds(start, head).and_then(|begin| self.holds(begin, body))?;
            sum = sum.saturating_add(end - start);
            if messages {
                let message = self.read(start, head)?;
                let skip = if message.starts_with(&[0xff; 4]) { 8 } else { 4 };
                let message = message.get(skip..).ok_or("a message is damaged")?;
                self.check_message(message, start + head, body)?;
            }
        }
        if sum > self.bytes {
            return Err("its blocks overlap".into());
        }
        Ok(())
    }

    /// The stream format: a sequence of messages.
    fn check_stream(&mut self) -> Result<(), Problem> {
        let mut at = 0;
        // As in other readers, the end of the file ends the stream.
        while at + 4 <= self.bytes {
            let mut length = self.read(at, 4)?;
            at += 4;
            if length == [0xff; 4] {
                length = self.read(at, 4)?;
                at += 4;
            }
            let length: [u8; 4] = length.try_into().map_err(|_| "a message is damaged")?;
            let length = u64::try_from(i32::from_le_bytes(length))?;
            if length == 0 {
                break;
            }
            let message = self.read(at, length)?;
            at += length;
            let body = root_as_message(&message)
                .map_err(|error| format!("a message is damaged: {error}"))?
                .bodyLength();
            let body = u64::try_from(body)?;
            let end = self.holds(at, body)?;
            self.check_message(&message, at, body)?;
            at = end;
        }
        Ok(())
    }

    /// Checks the buffers of a record batch or dictionary batch whose body starts at `at`.
    fn check_message(&mut self, message: &[u8], at: u64, body: u64) -> Result<(), Problem> {
        let message =
            root_as_message(message).map_err(|error| format!("a message is damaged: {error}"))?;
        let is_rows = message.header_type() == MessageHeader::RecordBatch;
        let batch = match message.header_type() {
            MessageHeader::RecordBatch => message.header_as_record_batch(),
            MessageHeader::DictionaryBatch => {
                message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data())
            }
            _ => None,
        };
        let Some(batch) = batch else { return Ok(()) };
        let is_compressed = batch.compression().is_some();
        let mut bytes = 0_u64;
        for buffer in batch.buffers().iter().flatten() {
            let (start, length) =
                (u64::try_from(buffer.offset())?, u64::try_from(buffer.length())?);
            if start.checked_add(length).is_none_or(|end| end > body) {
                return Err("a buffer lies outside its message".into());
            }
            let mut becomes = length;
            if is_compressed && length >= 8 {
                let claimed: [u8; 8] =
                    self.read(at + start, 8)?.try_into().map_err(|_| "a buffer is damaged")?;
                // -1 means that the buffer is not compressed.
                becomes = match i64::from_le_bytes(claimed) {
                    -1 => length - 8,
                    claimed => u64::try_from(claimed)?,
                };
                let most = DECOMPRESSION_SLACK + length.saturating_mul(DECOMPRESSION_RATIO);
                if becomes > most {
                    return Err(format!("a buffer of {length} bytes claims to be {becomes}").into());
                }
            }
            bytes = bytes.saturating_add(becomes);
        }
        let rows = u64::try_from(batch.length())?;
        if rows > ARROW_ROWS_WITHOUT_BYTES && rows / 8 > bytes {
            return Err(format!("a batch of {bytes} bytes claims {rows} rows").into());
        }
        if is_rows {
            self.batches.push(rows);
        }
        Ok(())
    }
}
