//! Reads CSV and JSONL files as UTF-8 text: opens, decompresses, decodes. Not here: rows (`csv`, `jsonl`, `reader`).
//!
//! A byte order mark is not part of the text: that of UTF-8 is skipped, and one of UTF-16 overrides the expected
//! encoding. Gzip files may have several members and trailing zeros, as tapes and block devices leave them.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;

use datafusion::common::parsers::CompressionTypeVariant as Codec;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_16BE, UTF_16LE};
use flate2::bufread::GzDecoder;

use super::inspect::{open, read_error};
use super::listing::ListedFile;
use crate::config::pipeline::TextEncoding;
use crate::error::{Error, ErrorKind, Result};

/// The buffer size of reads, in bytes.
const BUFFER_BYTES: usize = 1 << 18;

/// The text of a file.
pub(super) struct Text {
    pub(super) reader: Box<dyn Read + Send>,
    /// The offset of the text for [`text_of`]: after a byte order mark, except in a transcoded text.
    pub(super) begin: u64,
    /// The encoding of the file.
    pub(super) encoding: TextEncoding,
    /// Whether the text is still in that encoding, one byte per character.
    pub(super) is_raw: bool,
}

/// The decoding of a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decode {
    All,
    /// Keeps text of a single-byte encoding that contains ASCII as it is: its offsets are offsets in the file.
    KeepSingleBytes,
}

/// Whether a text in this encoding must be transcoded from its start. UTF-8 and encodings of one byte per character can
/// be read from the start of any row.
fn is_transcoded(encoding: TextEncoding) -> bool {
    encoding != TextEncoding::Utf8 && !is_single_byte(encoding)
}

fn is_single_byte(encoding: TextEncoding) -> bool {
    match encoding {
        TextEncoding::Utf8 => false,
        TextEncoding::Latin1 => true,
        TextEncoding::Other(encoding) => {
            encoding.is_single_byte() && encoding.is_ascii_compatible()
        }
    }
}

/// Whether a reader can start in the middle of a file with this compression and encoding.
pub(super) fn is_sought(codec: Codec, encoding: TextEncoding) -> bool {
    codec == Codec::UNCOMPRESSED && !is_transcoded(encoding)
}

/// The text of a file, or a part of it. Offsets count the bytes of the file, decompressed; those of a transcoded file
/// count its text in UTF-8. Reads and drops the text before the part, unless [`is_sought`].
pub(super) fn text_of(
    file: &ListedFile,
    bytes: Option<Range<u64>>,
    encoding: TextEncoding,
    decode: Decode,
) -> Result<Text> {
    let mut opened: Box<dyn ReadSeek> = match &file.remote {
        Some(remote) => Box::new(remote.reader()),
        None => Box::new(open(&file.path)?),
    };
    if let Some(bytes) = bytes.clone().filter(|_| is_sought(file.form.codec, encoding)) {
        opened.seek(SeekFrom::Start(bytes.start)).map_err(|error| read_error(error, 0))?;
        let reader = opened.take(bytes.end - bytes.start);
        let reader = BufReader::with_capacity(BUFFER_BYTES, reader);
        if bytes.start > 0 {
            return Ok(in_utf8(reader, encoding, 0, decode));
        }
        return decoded(reader, encoding, decode);
    }
    let opened = BufReader::with_capacity(BUFFER_BYTES, opened);
    let mut reader: Box<dyn BufRead + Send> = match file.form.codec {
        Codec::UNCOMPRESSED => Box::new(opened),
        Codec::GZIP => {
            let members = GzipMembers { decoder: Some(GzDecoder::new(opened)) };
            Box::new(BufReader::with_capacity(BUFFER_BYTES, members))
        }
        codec => {
            let reader = FileCompressionType::from(codec)
                .convert_read(opened)
                .map_err(|error| Error::new(ErrorKind::Data, "cannot decompress").source(error))?;
            Box::new(BufReader::with_capacity(BUFFER_BYTES, reader))
        }
    };
    let Some(Range { start, end }) = bytes else { return decoded(reader, encoding, decode) };
    let length = end.saturating_sub(start);
    if is_transcoded(encoding) {
        let mut text = decoded(reader, encoding, decode)?;
        skip(&mut text.reader, start).map_err(|error| read_error(error, 0))?;
        return Ok(Text { reader: Box::new(text.reader.take(length)), ..text });
    }
    if start == 0 {
        return decoded(reader.take(length), encoding, decode);
    }
    skip(&mut reader, start).map_err(|error| read_error(error, 0))?;
    Ok(in_utf8(reader.take(length), encoding, 0, decode))
}

/// Reads and drops `bytes` bytes, or all if there are fewer.
fn skip(reader: &mut impl Read, bytes: u64) -> io::Result<()> {
    io::copy(&mut reader.take(bytes), &mut io::sink()).map(drop)
}

trait ReadSeek: Read + Seek + Send {}

impl<T: Read + Seek + Send> ReadSeek for T {}

/// Decodes text from `encoding`, or from the encoding of a byte order mark.
fn decoded(
    mut reader: impl BufRead + Send + 'static,
    encoding: TextEncoding,
    decode: Decode,
) -> Result<Text> {
    let mut start = [0; 4];
    let mut length = 0;
    while length < start.len() {
        match reader.read(&mut start[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(read_error(error, 0)),
        }
    }
    let start = &start[..length];
    let by_mark = match start {
        [0xff, 0xfe, 0, 0] | [0, 0, 0xfe, 0xff] => {
            return Err(Error::new(ErrorKind::Data, "the text is UTF-32, which is not supported")
                .hint("convert the file, for example with `iconv -f utf-32 -t utf-8`"));
        }
        [0xff, 0xfe, ..] => Some(TextEncoding::Other(UTF_16LE)),
        [0xfe, 0xff, ..] => Some(TextEncoding::Other(UTF_16BE)),
        [0xef, 0xbb, 0xbf, ..] => Some(TextEncoding::Utf8),
        _ => None,
    };
    let mark = match by_mark {
        Some(TextEncoding::Utf8) => 3,
        Some(_) => 2,
        None => 0,
    };
    if let (None, TextEncoding::Utf8, [first, second, ..]) = (by_mark, encoding, start)
        && (*first == 0) != (*second == 0)
    {
        let name = if *first == 0 { "utf-16be" } else { "utf-16le" };
        return Err(Error::new(
            ErrorKind::Data,
            "the text seems to be UTF-16 without a byte order mark: every other byte is zero",
        )
        .hint(format!(
            "set `source.csv.encoding` to {name} for a CSV file, or convert the file, for example with \
             `iconv -f {name} -t utf-8`"
        )));
    }
    let reader = io::Cursor::new(start[mark..].to_vec()).chain(reader);
    let encoding = by_mark.unwrap_or(encoding);
    Ok(in_utf8(reader, encoding, mark as u64, decode))
}

/// The text after a byte order mark of a given length.
fn in_utf8(
    reader: impl Read + Send + 'static,
    encoding: TextEncoding,
    begin: u64,
    decode: Decode,
) -> Text {
    let is_raw = is_single_byte(encoding) && decode == Decode::KeepSingleBytes;
    let reader: Box<dyn Read + Send> = match encoding {
        TextEncoding::Utf8 => Box::new(reader),
        _ if is_raw => Box::new(reader),
        TextEncoding::Latin1 => Box::new(Latin1::new(reader)),
        TextEncoding::Other(encoding) => Box::new(Transcoder::new(reader, encoding, begin)),
    };
    let begin = if is_transcoded(encoding) { 0 } else { begin };
    Text { reader, begin, encoding, is_raw }
}

/// A value of raw text, as UTF-8; `None` if it is invalid in its encoding.
pub(super) fn value_in_utf8(value: &[u8], encoding: TextEncoding) -> Option<Cow<'_, str>> {
    match encoding {
        TextEncoding::Utf8 => std::str::from_utf8(value).ok().map(Cow::Borrowed),
        TextEncoding::Latin1 => Some(encoding_rs::mem::decode_latin1(value)),
        TextEncoding::Other(encoding) => {
            encoding.decode_without_bom_handling_and_without_replacement(value)
        }
    }
}

/// Reads the members of a gzip file one after the other, as `gzip -d` does.
struct GzipMembers<R> {
    decoder: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(decoder) = &mut self.decoder else { return Ok(0) };
            let read = decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let Some(mut rest) = self.decoder.take().map(GzDecoder::into_inner) else {
                return Ok(0);
            };
            // Trailing zeros are padding.
            loop {
                let ready = rest.fill_buf()?;
                if ready.is_empty() {
                    return Ok(0);
                }
                let zeros = ready.iter().take_while(|byte| **byte == 0).count();
                let is_member = zeros < ready.len();
                rest.consume(zeros);
                if is_member {
                    break;
                }
            }
            self.decoder = Some(GzDecoder::new(rest));
        }
    }
}

/// Decoded text that has not been read yet.
#[derive(Default)]
struct Ready {
    text: Vec<u8>,
    taken: usize,
}

impl Ready {
    fn give(&mut self, buffer: &mut [u8]) -> usize {
        let ready = &self.text[self.taken..];
        let read = ready.len().min(buffer.len());
        buffer[..read].copy_from_slice(&ready[..read]);
        self.taken += read;
        read
    }

    fn is_empty(&self) -> bool {
        self.taken == self.text.len()
    }
}

/// Transcodes ISO 8859-1 to UTF-8.
struct Latin1<R> {
    inner: R,
    raw: Vec<u8>,
    ready: Ready,
}

impl<R> Latin1<R> {
    fn new(inner: R) -> Self {
        Self { inner, raw: vec![0; 1 << 16], ready: Ready::default() }
    }
}

impl<R: Read> Read for Latin1<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ready.is_empty() {
            let read = self.inner.read(&mut self.raw)?;
            let Ready { text, taken } = &mut self.ready;
            text.resize(read * 2, 0);
            let written = encoding_rs::mem::convert_latin1_to_utf8(&self.raw[..read], text);
            text.truncate(written);
            *taken = 0;
        }
        Ok(self.ready.give(buffer))
    }
}

/// Transcodes an encoding to UTF-8; invalid bytes are an error.
struct Transcoder<R> {
    inner: R,
    decoder: Decoder,
    encoding: &'static Encoding,
    raw: Vec<u8>,
    /// The offset of `raw` in the stored text.
    offset: u64,
    ready: Ready,
    ended: bool,
}

impl<R> Transcoder<R> {
    fn new(inner: R, encoding: &'static Encoding, offset: u64) -> Self {
        let decoder = encoding.new_decoder_without_bom_handling();
        let (raw, ready) = (vec![0; 1 << 16], Ready::default());
        Self { inner, decoder, encoding, raw, offset, ready, ended: false }
    }
}

impl<R: Read> Read for Transcoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.ready.is_empty() && !self.ended {
            let read = self.inner.read(&mut self.raw)?;
            self.ended = read == 0;
            let Ready { text, taken } = &mut self.ready;
            // No encoding grows by more than a factor of three.
            text.resize(read * 3 + 16, 0);
            let (result, consumed, written) = self.decoder.decode_to_utf8_without_replacement(
                &self.raw[..read],
                text,
                self.ended,
            );
            match result {
                DecoderResult::InputEmpty => {}
                DecoderResult::OutputFull => return Err(io::Error::other("a decoder stopped")),
                DecoderResult::Malformed(length, after) => {
                    let end = self.offset + consumed as u64;
                    let byte = end.saturating_sub(u64::from(length) + u64::from(after)) + 1;
                    let message = format!(
                        "the text is not {}: it breaks at byte {byte}",
                        self.encoding.name()
                    );
                    let error = Error::new(ErrorKind::Data, message)
                        .hint("check `source.csv.encoding`; the file may be cut off or damaged");
                    return Err(io::Error::other(error));
                }
            }
            text.truncate(written);
            *taken = 0;
            self.offset += read as u64;
        }
        Ok(self.ready.give(buffer))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn text(bytes: &[u8], encoding: TextEncoding) -> std::result::Result<String, String> {
        let text = decoded(io::Cursor::new(bytes.to_vec()), encoding, Decode::All);
        let mut text = text.map_err(|error| error.message().to_owned())?;
        let mut string = String::new();
        match text.reader.read_to_string(&mut string) {
            Ok(_) => Ok(string),
            Err(error) => Err(read_error(error, 0).message().to_owned()),
        }
    }

    fn utf16(text: &str, mark: bool) -> Vec<u8> {
        let mark = mark.then_some(0xfeff);
        mark.into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn a_byte_order_mark_says_the_encoding() {
        let long = "id,text\n1,é😀\n".repeat(20_000);
        let named = |label| TextEncoding::of_label(label).unwrap();
        for bytes in [long.as_bytes().to_vec(), format!("\u{feff}{long}").into_bytes()] {
            assert_eq!(text(&bytes, TextEncoding::Utf8).unwrap(), long);
        }
        assert_eq!(text(&utf16(&long, true), TextEncoding::Utf8).unwrap(), long);
        assert_eq!(text(&utf16(&long, true), TextEncoding::Latin1).unwrap(), long);
        assert_eq!(text(&utf16(&long, true), named("utf-16")).unwrap(), long);
        assert_eq!(text(&utf16(&long, false), named("utf-16")).unwrap(), long);
        let swapped: Vec<u8> = utf16(&long, true).chunks(2).flat_map(|b| [b[1], b[0]]).collect();
        assert_eq!(text(&swapped, TextEncoding::Utf8).unwrap(), long);
        let unmarked = text(&utf16("id,text\n", false), TextEncoding::Utf8).unwrap_err();
        assert!(unmarked.contains("UTF-16 without a byte order mark"), "{unmarked}");
        assert!(text(b"\xff\xfe\0\0i\0\0\0", TextEncoding::Utf8).unwrap_err().contains("UTF-32"));
        for short in ["", "a", "ab"] {
            assert_eq!(text(short.as_bytes(), TextEncoding::Utf8).unwrap(), short);
        }
    }

    #[test]
    fn bytes_are_what_the_encoding_says() {
        let named = |label| TextEncoding::of_label(label).unwrap();
        assert_eq!(text(b"caf\xe9 \x80", TextEncoding::Latin1).unwrap(), "café \u{80}");
        assert_eq!(text(b"caf\xe9 \x80", named("cp1252")).unwrap(), "café €");
        assert_eq!(text(b"\x83\x8c", named("shift_jis")).unwrap(), "レ");
        let cut = text(&utf16("abc", true)[..7], TextEncoding::Utf8).unwrap_err();
        assert_eq!(cut, "the text is not UTF-16LE: it breaks at byte 7");
        let broken = text(b"ab\x83", named("shift_jis")).unwrap_err();
        assert_eq!(broken, "the text is not Shift_JIS: it breaks at byte 3");
    }

    #[test]
    fn gzip_may_have_members_and_padding() {
        let member = |text: &str| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        let read = |bytes: &[u8]| {
            let decoder = Some(GzDecoder::new(bytes));
            let mut text = String::new();
            GzipMembers { decoder }.read_to_string(&mut text).map(|_| text)
        };
        let (a, b) = (member("one\n"), member("two\n"));
        assert_eq!(read(&[a.clone(), b.clone()].concat()).unwrap(), "one\ntwo\n");
        assert_eq!(
            read(&[a.clone(), vec![0; 3000], b, vec![0; 512]].concat()).unwrap(),
            "one\ntwo\n"
        );
        read(&[a.clone(), b"rest".to_vec()].concat()).unwrap_err();
        read(&a[..a.len() - 3]).unwrap_err();
    }
}
