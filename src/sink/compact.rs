//! Rewrites small parts of an output as larger ones, without computing anything: the same rows in the same order. Rows of
//! several units then share a part, and the manifest of each unit says which of its rows are the unit's. If some of these
//! units are computed again later, their rows are removed from the part. Published like any output (`commit`). Not here:
//! manifests of units (`records`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::reader::FileReader;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression as ParquetCompression;
use serde_json::Value;

use super::commit::{self, Run, STAGED, staged_name};
use super::disk::LocalDisk;
use super::manifest::{Manifest, Rewritten};
use super::records::{Kept, Record, SHARED_VERSION, for_each_record, manifest_of, records};
use super::storage::{Hold, Storage, storage_of};
use super::target::Target;
use super::{ROWS_PER_SLICE, Sink, SinkOptions, Staging, WrittenPart};
use crate::config::pipeline::{Compression, FileFormat, SinkSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::guarded;
use crate::hub_store;

/// What [`compact`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// The parts of the output before.
    pub before: usize,
    /// Its parts now.
    pub after: usize,
    /// Its rows.
    pub rows: u64,
    /// The bytes of its parts now.
    pub bytes: u64,
}

/// Rewrites the small parts of the output at a path or URL as parts of about `target_bytes`. Blocks.
///
/// # Errors
/// - `NoInput`: there is no output.
/// - `Sink`: it is not complete, its parts are text, or they cannot be read or written.
/// - `Resources`: a run holds it.
pub fn compact(output: &Path, target_bytes: u64) -> Result<Compacted> {
    let shown = output.display();
    if hub_store::is_hub(&output.to_string_lossy()) {
        let message = format!("`{shown}`: the parts of a dataset are not compacted");
        return Err(Error::new(ErrorKind::NoInput, message)
            .hint("write larger files: set `sink.target_file_size`, and run with `--fresh`"));
    }
    let storage = storage_of(output)?;
    if !storage.exists()? || !commit::is_committed(storage.as_ref())? {
        let message = format!("there is no complete output at `{shown}`");
        return Err(Error::new(ErrorKind::NoInput, message)
            .hint("name the folder of `sink.path`, once `run` has published it"));
    }
    let run = Run::start(&storage, Hold::Alone)?;
    let compacted = compact_held(&run, &storage, output, target_bytes);
    if !matches!(&compacted, Ok((_, true))) {
        run.discard();
    }
    compacted.map(|(compacted, _)| compacted)
}

/// Also returns whether the output was published again.
fn compact_held(
    run: &Run,
    storage: &Arc<dyn Storage>,
    output: &Path,
    target_bytes: u64,
) -> Result<(Compacted, bool)> {
    // Read under the lock, after a pending commit was completed.
    let manifest = commit::manifest(storage.as_ref())?.unwrap_or_default();
    commit::known_files(storage.as_ref())?;
    records(storage.as_ref(), true)?;
    if !commit::is_marked(storage.as_ref())? || !storage.files(STAGED)?.is_empty() {
        let message = format!("a run of `{}` has not ended", output.display());
        return Err(Error::new(ErrorKind::Sink, message)
            .hint("run its pipeline to the end first: it then publishes its units"));
    }
    let Manifest { mut head, files } = manifest;
    let groups = groups(&files, target_bytes);
    let counted = |parts: &[WrittenPart], before: usize| Compacted {
        before,
        after: parts.len(),
        rows: parts.iter().map(|part| part.rows).sum(),
        bytes: parts.iter().map(|part| part.bytes).sum(),
    };
    let before = files.len();
    if groups.is_empty() {
        return Ok((counted(&files, before), false));
    }
    let output = Output::of(storage, output, &head)?;
    let mut moved = Moved::default();
    let mut parts: Vec<WrittenPart> = Vec::new();
    let mut next = 0;
    for group in groups {
        parts.extend_from_slice(&files[next..group.start]);
        next = group.end;
        let pieces: Vec<Piece<'_>> = files[group].iter().map(Piece::whole).collect();
        // Parts whose columns differ, for example because of an older version, do not share a part.
        for pieces in output.alike(storage.as_ref(), &pieces)? {
            if let [piece] = pieces {
                parts.push(piece.part.clone());
                continue;
            }
            let sink = output.sink(pieces)?;
            let part = rewrite(run, storage.as_ref(), sink, pieces)?;
            moved.add(&part, pieces);
            parts.push(part);
        }
    }
    parts.extend_from_slice(&files[next..]);
    let compacted = counted(&parts, before);
    if moved.0.is_empty() {
        return Ok((compacted, false));
    }
    head.insert("bytes".to_owned(), Value::from(compacted.bytes));
    let records = moved.records(storage.as_ref())?;
    let replaced = files.into_iter().map(|part| part.name).collect();
    run.commit_staged(Manifest { head, files: parts }, replaced, Vec::new(), records)?;
    Ok((compacted, true))
}

/// The consecutive parts of one folder that are written as one: at least two, each smaller than half of the target.
fn groups(files: &[WrittenPart], target_bytes: u64) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let (mut begin, mut bytes) = (0, 0_u64);
    for (index, part) in files.iter().enumerate() {
        let is_small = part.bytes < target_bytes / 2;
        let is_near = index > begin && folder(&part.name) == folder(&files[begin].name);
        if !is_small || !is_near || bytes.saturating_add(part.bytes) > target_bytes {
            groups.push(begin..index);
            (begin, bytes) = (index, 0);
        }
        bytes += part.bytes;
        if !is_small {
            groups.push(begin..index + 1);
            (begin, bytes) = (index + 1, 0);
        }
    }
    groups.push(begin..files.len());
    groups.retain(|group| group.len() > 1);
    groups
}

fn folder(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Rows of a part.
#[derive(Clone, Debug)]
struct Piece<'p> {
    part: &'p WrittenPart,
    rows: Vec<Range<u64>>,
}

impl<'p> Piece<'p> {
    fn whole(part: &'p WrittenPart) -> Self {
        Self { part, rows: std::iter::once(0..part.rows).collect() }
    }

    /// The rows in these ranges, which are in order.
    fn of(part: &'p WrittenPart, rows: Vec<Range<u64>>) -> Self {
        Self { part, rows }
    }
}

/// Where the rows of parts are now.
#[derive(Debug, Default)]
struct Moved(BTreeMap<String, Vec<(Range<u64>, WrittenPart, u64)>>);

impl Moved {
    /// The rows of `pieces` are now those of `part`.
    fn add(&mut self, part: &WrittenPart, pieces: &[Piece<'_>]) {
        let mut offset = 0;
        for piece in pieces {
            for rows in &piece.rows {
                let moved = (rows.clone(), part.clone(), offset);
                self.0.entry(piece.part.name.clone()).or_default().push(moved);
                offset += rows.end - rows.start;
            }
        }
    }

    /// The place of a unit's rows now; `None` if they have not moved.
    fn place(&self, old: &WrittenPart) -> Option<WrittenPart> {
        let (start, end) = old.within.unwrap_or((0, old.rows));
        let moved = self.0.get(&old.name)?;
        let is_inside = |rows: &Range<u64>| rows.start <= start && end <= rows.end;
        let (rows, part, offset) = moved.iter().find(|(rows, ..)| is_inside(rows))?;
        let start_now = offset + start - rows.start;
        Some(WrittenPart { within: Some((start_now, start_now + (end - start))), ..part.clone() })
    }

    /// The manifest of a unit, with the places of its rows now; `None` if no rows have moved.
    fn record(&self, record: &Record) -> Option<Record> {
        let mut record = record.clone();
        let mut has_moved = false;
        for file in &mut record.files {
            if let Some(now) = self.place(file) {
                *file = now;
                has_moved = true;
            }
        }
        record.version = SHARED_VERSION;
        has_moved.then_some(record)
    }

    /// The manifests of all units whose rows have moved.
    fn records(&self, storage: &dyn Storage) -> Result<Vec<Rewritten>> {
        let mut moved = Vec::new();
        for_each_record(storage, &mut |_, record| {
            let record = record.and_then(|record| self.record(&record));
            moved.extend(record.as_ref().map(rewritten).transpose()?);
            Ok(())
        })?;
        Ok(moved)
    }
}

/// The manifest of a unit for the plan of a publication.
fn rewritten(record: &Record) -> Result<Rewritten> {
    let manifest = serde_json::to_value(record).map_err(|error| {
        Error::new(ErrorKind::Internal, "cannot write the manifest of a unit").source(error)
    })?;
    Ok(Rewritten { unit: record.unit.clone(), manifest })
}

/// The format of an output, from its manifest.
struct Output {
    spec: SinkSpec,
    options: SinkOptions,
    storage: Arc<dyn Storage>,
}

impl Output {
    fn of(
        storage: &Arc<dyn Storage>,
        path: &Path,
        head: &serde_json::Map<String, Value>,
    ) -> Result<Self> {
        let name = head.get("format").and_then(Value::as_str).unwrap_or_default();
        let format =
            [FileFormat::Parquet, FileFormat::Arrow].into_iter().find(|f| f.name() == name);
        let format = format.ok_or_else(|| {
            let message = format!("`{}` has parts of the format {name}", path.display());
            Error::new(ErrorKind::Sink, message).hint("only Parquet and Arrow can be compacted")
        })?;
        let lineage = head.get("lineage").and_then(Value::as_object);
        let lineage: Vec<(String, String)> = lineage
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect();
        let steps = lineage.iter().find(|(key, _)| key == "hfauto.steps");
        let steps = steps.and_then(|(_, steps)| serde_json::from_str::<Vec<Value>>(steps).ok());
        let steps = steps.unwrap_or_default();
        let model_columns = steps.iter().filter_map(|step| step["output"].as_str());
        let model_columns = model_columns.map(str::to_owned).collect();
        let spec = SinkSpec {
            path: path.join(""),
            delta: None,
            format,
            compression: None,
            partition_by: Vec::new(),
            target_file_size_bytes: u64::MAX,
            location: "compact".to_owned(),
        };
        let options = SinkOptions { lineage, model_columns, overwrite: false };
        Ok(Self { spec, options, storage: Arc::clone(storage) })
    }

    /// Consecutive pieces with the same columns.
    fn alike<'a, 'p>(
        &self,
        storage: &dyn Storage,
        pieces: &'a [Piece<'p>],
    ) -> Result<Vec<&'a [Piece<'p>]>> {
        let mut schemas = Vec::with_capacity(pieces.len());
        for piece in pieces {
            schemas.push(open_part(storage, piece.part, self.spec.format)?.schema());
        }
        let (mut runs, mut begin) = (Vec::new(), 0);
        for end in 1..=pieces.len() {
            if end == pieces.len() || schemas[end] != schemas[begin] {
                runs.push(&pieces[begin..end]);
                begin = end;
            }
        }
        Ok(runs)
    }

    /// A sink for a part like the first of `pieces`.
    fn sink(&self, pieces: &[Piece<'_>]) -> Result<Sink> {
        let Some(first) = pieces.first() else {
            return Err(Error::new(ErrorKind::Internal, "no parts to compact"));
        };
        let part = open_part(self.storage.as_ref(), first.part, self.spec.format)?;
        let (schema, mut options) = (part.schema(), self.options.clone());
        let vectors = schema.fields().iter();
        let vectors = vectors.filter(|f| matches!(f.data_type(), DataType::FixedSizeList(..)));
        options.model_columns.extend(vectors.map(|field| field.name().clone()));
        let spec = SinkSpec { compression: part.compression(), ..self.spec.clone() };
        Sink::unstaged(Target::of(&spec)?, &spec, schema, options, Box::new(LocalDisk))
    }
}

/// Writes the rows of `pieces` to one part of a folder and stages it.
fn rewrite(
    run: &Run,
    storage: &dyn Storage,
    mut sink: Sink,
    pieces: &[Piece<'_>],
) -> Result<WrittenPart> {
    let Some(first) = pieces.first() else {
        return Err(Error::new(ErrorKind::Internal, "no parts to rewrite"));
    };
    let mut hasher = blake3::Hasher::new();
    for Piece { part, rows } in pieces {
        hasher.update(format!("{} {} {rows:?}\n", part.name, part.blake3).as_bytes());
    }
    let hash = hasher.finalize().to_hex();
    let folder = folder(&first.part.name).to_owned();
    let file = first.part.name.rsplit('/').next().unwrap_or_default();
    let stem = file.strip_prefix("part-").unwrap_or(file).split('.').next().unwrap_or_default();
    // It sorts where its first part did. A part that was rewritten before has a hash, which is replaced.
    let stem = stem.split("-x").next().unwrap_or(stem);
    let stem = format!("{stem}-x{}", &hash[..8]);
    let dir =
        run.unit(&stem).map_err(|error| super::disk::write_error(&storage.shown(""), error))?;
    sink.staging = Some(Staging::Unit { dir: dir.clone() });
    sink.stem = Some(stem);
    sink.target_file_size_bytes = u64::MAX;
    sink.part(&folder)?;
    let format = sink.target.format;
    for Piece { part, rows } in pieces {
        open_part(storage, part, format)?.each_batch(&mut |batch, first_row| {
            let end = first_row + batch.num_rows() as u64;
            for rows in rows {
                let from = rows.start.clamp(first_row, end) - first_row;
                let to = rows.end.clamp(first_row, end) - first_row;
                let kept = batch.slice(from as usize, (to - from) as usize);
                let kept = sink.encoding.prepare(&kept)?;
                for start in (0..kept.num_rows()).step_by(ROWS_PER_SLICE) {
                    let length = ROWS_PER_SLICE.min(kept.num_rows() - start);
                    sink.write_slice(&folder, &kept.slice(start, length))?;
                }
            }
            Ok(())
        })?;
    }
    sink.close_all()?;
    let expected: u64 = pieces.iter().flat_map(|piece| &piece.rows).map(|r| r.end - r.start).sum();
    let part = match (sink.closed.pop(), sink.closed.is_empty()) {
        (Some(part), true) if part.rows == expected => part,
        _ => {
            let message =
                format!("the rows of `{}` are not those of its manifest", first.part.name);
            return Err(Error::new(ErrorKind::Sink, message)
                .hint("compute the output again with `--fresh`"));
        }
    };
    storage.keep(&[(dir.join(&part.name), format!("{STAGED}/{}", staged_name(&part)))])?;
    Ok(part)
}

/// An opened part, as a whole in memory.
enum OpenPart {
    Parquet(ParquetRecordBatchReaderBuilder<Bytes>),
    Arrow(FileReader<Cursor<Bytes>>),
}

fn open_part(storage: &dyn Storage, part: &WrittenPart, format: FileFormat) -> Result<OpenPart> {
    let shown = storage.shown(&part.name);
    let broken = || {
        Error::new(ErrorKind::Sink, format!("`{}` is damaged or missing", shown.display()))
            .hint("compute the output again with `--fresh`")
    };
    let content = storage.read(&part.name)?.ok_or_else(broken)?;
    if blake3::hash(&content).to_hex().as_str() != part.blake3 {
        return Err(broken());
    }
    let content = Bytes::from(content);
    guarded(ErrorKind::Sink, "a part of the output", || match format {
        FileFormat::Arrow => FileReader::try_new(Cursor::new(content), None)
            .map(OpenPart::Arrow)
            .map_err(|error| broken().source(error)),
        _ => ParquetRecordBatchReaderBuilder::try_new(content)
            .map(OpenPart::Parquet)
            .map_err(|error| broken().source(error)),
    })
}

impl OpenPart {
    fn schema(&self) -> SchemaRef {
        let schema = match self {
            Self::Parquet(builder) => Arc::clone(builder.schema()),
            Self::Arrow(reader) => reader.schema(),
        };
        // The lineage is in the manifest, too.
        Arc::new(arrow::datatypes::Schema::new(schema.fields().clone()))
    }

    /// The compression that its format names; `None` for the default.
    fn compression(&self) -> Option<Compression> {
        let Self::Parquet(builder) = self else { return None };
        let group = builder.metadata().row_groups().first()?;
        Some(match group.columns().first()?.compression() {
            ParquetCompression::SNAPPY => Compression::Snappy,
            ParquetCompression::GZIP(_) => Compression::Gzip,
            ParquetCompression::LZ4 | ParquetCompression::LZ4_RAW => Compression::Lz4,
            ParquetCompression::UNCOMPRESSED => Compression::Uncompressed,
            _ => Compression::Zstd,
        })
    }

    /// Visits its batches, and the number of the first row of each.
    fn each_batch(self, give: &mut dyn FnMut(&RecordBatch, u64) -> Result<()>) -> Result<()> {
        let broken = |error: arrow::error::ArrowError| {
            Error::new(ErrorKind::Sink, "cannot read a part of the output").source(error)
        };
        let mut batches: Box<dyn Iterator<Item = std::result::Result<RecordBatch, _>>> = match self
        {
            Self::Parquet(builder) => Box::new(builder.build().map_err(|error| {
                Error::new(ErrorKind::Sink, "cannot read a part of the output").source(error)
            })?),
            Self::Arrow(reader) => Box::new(reader),
        };
        let mut first_row = 0;
        loop {
            let batch = guarded(ErrorKind::Sink, "a part of the output", || Ok(batches.next()))?;
            let Some(batch) = batch.transpose().map_err(broken)? else { return Ok(()) };
            give(&batch, first_row)?;
            first_row += batch.num_rows() as u64;
        }
    }
}

/// Rewrites the parts that units of `keeps` share with obsolete ones, without the rows of these. Returns the manifests of
/// the units whose rows are in other parts now.
pub(super) fn unshare(
    run: &Run,
    storage: &dyn Storage,
    sink: &dyn Fn() -> Result<Sink>,
    keeps: &mut [(Box<str>, Kept)],
    drops: &[(Box<str>, Kept)],
) -> Result<Vec<Rewritten>> {
    let dropped = drops.iter().flat_map(|(_, unit)| &unit.files);
    let dropped: BTreeSet<&str> =
        dropped.filter(|part| part.within.is_some()).map(|part| part.name.as_str()).collect();
    if dropped.is_empty() {
        return Ok(Vec::new());
    }
    let mut moved = Moved::default();
    for (name, (part, rows)) in sharers(keeps.iter().map(|(_, unit)| &*unit.files)) {
        if dropped.contains(name) {
            let rows = rows.into_iter().map(|(start, end)| start..end).collect();
            let pieces = [Piece::of(part, rows)];
            let part = rewrite(run, storage, sink()?, &pieces)?;
            moved.add(&part, &pieces);
        }
    }
    let mut records = Vec::new();
    for (id, unit) in keeps {
        if !unit.files.iter().any(|file| moved.place(file).is_some()) {
            continue;
        }
        let record = manifest_of(storage, id)?.and_then(|record| moved.record(&record));
        let record = record.ok_or_else(|| {
            Error::new(ErrorKind::Sink, format!("the manifest of the unit `{id}` is damaged"))
                .hint("run the same command again")
        })?;
        records.push(rewritten(&record)?);
        unit.files = record.files.into();
    }
    Ok(records)
}

/// Parts by their names, with the rows of each unit in them.
type SharedParts<'r> = BTreeMap<&'r str, (&'r WrittenPart, BTreeSet<(u64, u64)>)>;

/// The units that share a part with others, with their rows in it.
fn sharers<'r>(records: impl Iterator<Item = &'r [WrittenPart]>) -> SharedParts<'r> {
    let mut shared = SharedParts::new();
    for part in records.flatten() {
        if let Some(within) = part.within {
            shared.entry(&part.name).or_insert((part, BTreeSet::new())).1.insert(within);
        }
    }
    shared
}
