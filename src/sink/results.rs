//! The results of model steps beside an output, by row: a later run reuses them for rows that have not changed, whatever
//! file they are in. Each unit keeps the results of its rows when it is committed. Not here: the key of a row
//! (`crate::exec`), and which results a run reuses (`crate::job`).
//!
//! ```text
//! out/_hfauto/results/<step>/<unit>-<n>.arrow   one column: the values, each row once
//! out/_hfauto/results/<step>/<unit>-<n>.keys    the BLAKE3 hash of that file, then the key of each value; written last
//! ```
//!
//! `<step>` is a hash of everything that a value depends on besides the row. Values are found by their keys alone: files that
//! a killed run leaves are as good as others. Publishing removes those of units that are no longer in the output.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::io::{BufWriter, Cursor, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat, interleave, take};
use arrow::datatypes::{Field, FieldRef, Schema};
use arrow::ipc::CompressionType;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};

use super::disk::{LocalDisk, OutFile, write_error};
use super::storage::{META, Storage, nonce, storage_of};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::guarded;

/// The key of a row: a hash of its inputs.
pub(crate) type RowKey = [u8; 16];

const RESULTS: &str = "_hfauto/results";

/// What a file of keys begins with, before the hash of the values.
const MAGIC: &[u8; 8] = b"HFKEYS1\n";

const HASH_BYTES: usize = 32;

/// A file of values ends at this many rows, or bytes in memory: it is read as a whole.
const FILE_ROWS: usize = 16_384;
const FILE_BYTES: usize = 64 << 20;

/// The files of values that a step keeps in memory.
const CACHED_FILES: usize = 4;

/// The folder of an output, as a place of results.
#[derive(Clone, Debug)]
pub(crate) struct ResultFolder {
    storage: Arc<dyn Storage>,
}

impl ResultFolder {
    /// The results of the output at a path or URL.
    ///
    /// # Errors
    /// `Config` if the URL names no store.
    pub(crate) fn of(output: &Path) -> Result<Self> {
        Ok(Self { storage: storage_of(output)? })
    }

    /// Whether the output exists.
    ///
    /// # Errors
    /// `Sink` if it cannot be read, or is not a folder.
    pub(crate) fn exists(&self) -> Result<bool> {
        self.storage.exists()
    }

    /// The steps that results are kept for.
    ///
    /// # Errors
    /// `Sink` if the folder cannot be read.
    pub(crate) fn steps(&self) -> Result<Vec<String>> {
        self.storage.folders(RESULTS)
    }

    /// The results of a step, whose column is `field`. Reads the keys of all rows.
    ///
    /// # Errors
    /// `Sink` if the folder cannot be read, or its files are damaged.
    pub(crate) fn open(&self, step: &str, field: &FieldRef) -> Result<Kept> {
        let folder = format!("{RESULTS}/{step}");
        let (mut files, mut places) = (Vec::new(), Vec::new());
        for name in self.storage.files(&folder)?.into_keys() {
            let Some(stem) = name.strip_suffix(".keys") else { continue };
            let content = self.storage.read(&format!("{folder}/{name}"))?.unwrap_or_default();
            let keys = content.strip_prefix(MAGIC).filter(|rest| rest.len() >= HASH_BYTES);
            let keys = keys
                .map(|rest| rest.split_at(HASH_BYTES))
                .filter(|(_, keys)| keys.len().is_multiple_of(size_of::<RowKey>()));
            let Some((hash, keys)) = keys else {
                return Err(damaged(self.storage.as_ref(), &format!("{folder}/{name}")));
            };
            let file = u32::try_from(files.len()).unwrap_or(u32::MAX);
            let keys = keys.chunks_exact(size_of::<RowKey>()).zip(0..);
            places.extend(
                keys.filter_map(|(key, row)| {
                    Some((RowKey::try_from(key).ok()?, Place { file, row }))
                }),
            );
            files.push((format!("{folder}/{stem}.arrow"), <[u8; HASH_BYTES]>::try_from(hash).ok()));
        }
        // Equal keys have equal values: any of them does.
        places.sort_unstable();
        places.dedup_by_key(|(key, _)| *key);
        let (storage, field) = (Arc::clone(&self.storage), Arc::clone(field));
        Ok(Kept { storage, field, files, places, cache: Mutex::default() })
    }

    /// A writer of the results of a step for the rows of a unit.
    pub(crate) fn writer(&self, step: &str, unit: &str, field: &FieldRef) -> KeptWriter {
        KeptWriter {
            storage: Arc::clone(&self.storage),
            spool: format!("{META}/tmp/run-0-{}", &nonce()[..16]),
            stem: format!("{RESULTS}/{step}/{unit}"),
            schema: Arc::new(Schema::new(vec![value_field(field)])),
            seen: HashSet::new(),
            keys: Vec::new(),
            rows: Vec::new(),
            bytes: 0,
            written: Vec::new(),
        }
    }

    /// Removes the results of all units but `units`: ids, or prefixes of eight characters.
    ///
    /// # Errors
    /// `Sink` if the folder cannot be written.
    pub(crate) fn retain(&self, units: &BTreeSet<String>) -> Result<()> {
        retain(self.storage.as_ref(), units)
    }
}

/// As [`ResultFolder::retain`].
pub(super) fn retain(storage: &dyn Storage, units: &BTreeSet<String>) -> Result<()> {
    let mut gone = Vec::new();
    for step in storage.folders(RESULTS)? {
        let folder = format!("{RESULTS}/{step}");
        let is_gone = |name: &String| !name.get(..8).is_some_and(|unit| units.contains(unit));
        let names = storage.files(&folder)?.into_keys().filter(is_gone);
        gone.extend(names.map(|name| format!("{folder}/{name}")));
    }
    if gone.is_empty() { Ok(()) } else { storage.remove_all(&gone) }
}

fn value_field(field: &FieldRef) -> Field {
    Field::new("value", field.data_type().clone(), true)
}

fn damaged(storage: &dyn Storage, name: &str) -> Error {
    Error::new(ErrorKind::Sink, format!("`{}` is damaged", storage.shown(name).display())).hint(
        format!("remove the folder `{RESULTS}` of the output: its rows are then computed again"),
    )
}

/// A value among the files of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    file: u32,
    row: u32,
}

/// The results that are kept of one step.
#[derive(Debug)]
pub(crate) struct Kept {
    storage: Arc<dyn Storage>,
    field: FieldRef,
    /// The files of values with their hashes.
    files: Vec<(String, Option<[u8; HASH_BYTES]>)>,
    /// The keys in ascending order.
    places: Vec<(RowKey, Place)>,
    /// The files that were read last.
    cache: Mutex<VecDeque<(u32, ArrayRef)>>,
}

impl Kept {
    /// The number of rows.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The place of a row's value, if it is kept.
    pub(crate) fn find(&self, key: &RowKey) -> Option<Place> {
        let found = self.places.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
        self.places.get(found).map(|(_, place)| *place)
    }

    /// The values at some places, in the same order. Blocks.
    ///
    /// # Errors
    /// `Sink` if a file cannot be read or is damaged.
    pub(crate) fn values(&self, places: &[Place]) -> Result<ArrayRef> {
        let files: BTreeSet<u32> = places.iter().map(|place| place.file).collect();
        let files: Vec<u32> = files.into_iter().collect();
        let mut parts = Vec::with_capacity(files.len());
        for file in &files {
            // Only the rows that are needed stay in memory.
            let rows = places.iter().filter(|place| place.file == *file).map(|place| place.row);
            let (values, rows) = (self.file(*file)?, rows.collect::<UInt32Array>());
            let name = || self.files[*file as usize].0.as_str();
            let is_inside = rows.values().iter().all(|row| (*row as usize) < values.len());
            let part = if is_inside { take(&values, &rows, None).ok() } else { None };
            parts.push(part.ok_or_else(|| damaged(self.storage.as_ref(), name()))?);
        }
        let mut next = vec![0; files.len()];
        let order: Vec<(usize, usize)> = places
            .iter()
            .map(|place| {
                let part = files.partition_point(|file| *file < place.file);
                next[part] += 1;
                (part, next[part] - 1)
            })
            .collect();
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        interleave(&parts, &order).map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot put kept results together").source(error)
        })
    }

    fn file(&self, file: u32) -> Result<ArrayRef> {
        let cache = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, values)) = cache().iter().find(|(known, _)| *known == file) {
            return Ok(Arc::clone(values));
        }
        let values = self.read(file)?;
        let mut cache = cache();
        cache.push_front((file, Arc::clone(&values)));
        cache.truncate(CACHED_FILES);
        Ok(values)
    }

    fn read(&self, file: u32) -> Result<ArrayRef> {
        let (name, hash) = &self.files[file as usize];
        let storage = self.storage.as_ref();
        let content = storage.read(name)?.ok_or_else(|| damaged(storage, name))?;
        if Some(*blake3::hash(&content).as_bytes()) != *hash {
            return Err(damaged(storage, name));
        }
        let read = || {
            let reader = FileReader::try_new(Cursor::new(content), None)?;
            let batches = reader.collect::<std::result::Result<Vec<_>, _>>()?;
            let columns: Vec<&dyn Array> = batches
                .iter()
                .filter_map(|batch| batch.columns().first())
                .map(AsRef::as_ref)
                .collect();
            concat(&columns)
        };
        let values = guarded(ErrorKind::Sink, "a file of results", || {
            read().map_err(|error| damaged(storage, name).source(error))
        })?;
        if values.data_type() != self.field.data_type() {
            return Err(damaged(storage, name));
        }
        Ok(values)
    }
}

/// Writes the results of a step for the rows of a unit. Nothing is kept before [`KeptWriter::finish`].
#[derive(Debug)]
pub(crate) struct KeptWriter {
    storage: Arc<dyn Storage>,
    /// The folder of files until they are complete.
    spool: String,
    stem: String,
    schema: Arc<Schema>,
    seen: HashSet<RowKey>,
    /// The keys of the rows that are not written yet, and the rows.
    keys: Vec<RowKey>,
    rows: Vec<ArrayRef>,
    bytes: usize,
    /// The complete files, and their names.
    written: Vec<(PathBuf, String)>,
}

impl KeptWriter {
    /// Adds the values of rows. Values of keys that were added before are left out.
    ///
    /// # Errors
    /// `Sink` if the disk is full or fails.
    pub(crate) fn add(
        &mut self,
        keys: &[RowKey],
        values: &ArrayRef,
        is_kept: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let mut rows = Vec::new();
        for (row, key) in keys.iter().enumerate() {
            if is_kept(row) && self.seen.insert(*key) {
                rows.push(u32::try_from(row).unwrap_or(u32::MAX));
                self.keys.push(*key);
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let values =
            take(values, &UInt32Array::from(rows), None).map_err(|error| self.failed(error))?;
        self.bytes += values.get_array_memory_size();
        self.rows.push(values);
        if self.keys.len() >= FILE_ROWS || self.bytes >= FILE_BYTES {
            self.write()?;
        }
        Ok(())
    }

    /// Makes the results durable.
    ///
    /// # Errors
    /// `Sink` if the disk is full or fails.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.write()?;
        let written = mem::take(&mut self.written);
        // A file of keys comes after its values.
        written.iter().try_for_each(|part| self.storage.keep(std::slice::from_ref(part)))
    }

    fn write(&mut self) -> Result<()> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let (keys, rows) = (mem::take(&mut self.keys), mem::take(&mut self.rows));
        self.bytes = 0;
        let stem = format!("{}-{}", self.stem, self.written.len() / 2);
        let place = |name: &str| {
            let file = name.rsplit('/').next().unwrap_or_default();
            let step = name.rsplit('/').nth(1).unwrap_or_default();
            self.storage.spool(&format!("{}/{step}-{file}", self.spool))
        };
        let (values_name, keys_name) = (format!("{stem}.arrow"), format!("{stem}.keys"));
        let disk = |error| write_error(&self.storage.shown(&values_name), error);
        let values_path = place(&values_name).map_err(disk)?;
        let keys_path = place(&keys_name).map_err(disk)?;
        let create = |path: &Path| OutFile::create(&LocalDisk, path).map(|(file, _)| file);
        let file = create(&values_path).map_err(disk)?;
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD));
        let write = || {
            let out = BufWriter::with_capacity(1 << 18, file);
            let mut out = FileWriter::try_new_with_options(out, &self.schema, options?)?;
            for values in rows {
                out.write(&RecordBatch::try_new(Arc::clone(&self.schema), vec![values])?)?;
            }
            out.into_inner()
        };
        let file = write().map_err(|error| self.failed(error))?;
        let file = file.into_inner().map_err(|error| disk(error.into_error()))?;
        let hash = blake3::Hash::from_hex(file.close().map_err(disk)?)
            .map_err(|error| Error::new(ErrorKind::Internal, "a hash is not one").source(error))?;
        let mut file = create(&keys_path).map_err(disk)?;
        let content = [&MAGIC[..], hash.as_bytes(), keys.as_flattened()].concat();
        file.write_all(&content).map_err(disk)?;
        file.close().map_err(disk)?;
        self.written.extend([(values_path, values_name), (keys_path, keys_name)]);
        Ok(())
    }

    fn failed(&self, error: arrow::error::ArrowError) -> Error {
        let path = self.storage.shown(&self.stem);
        match error {
            arrow::error::ArrowError::IoError(_, error) => write_error(&path, error),
            error => Error::new(
                ErrorKind::Internal,
                format!("cannot keep results in `{}`", path.display()),
            )
            .source(error),
        }
    }
}

impl Drop for KeptWriter {
    fn drop(&mut self) {
        let _ = self.storage.remove_folder(&self.spool);
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, StringArray};
    use arrow::datatypes::DataType;

    use super::*;

    fn key(number: u8) -> RowKey {
        [number; 16]
    }

    fn field() -> FieldRef {
        Arc::new(Field::new("label", DataType::Utf8, true))
    }

    fn keep(folder: &ResultFolder, unit: &str, rows: &[(u8, &str)]) {
        let mut writer = folder.writer("step", unit, &field());
        let keys: Vec<RowKey> = rows.iter().map(|(number, _)| key(*number)).collect();
        let values: StringArray = rows.iter().map(|(_, text)| Some(*text)).collect();
        writer.add(&keys, &(Arc::new(values) as ArrayRef), |_| true).unwrap();
        writer.finish().unwrap();
    }

    fn texts(kept: &Kept, numbers: &[u8]) -> Vec<String> {
        let places: Vec<Place> = numbers.iter().map(|n| kept.find(&key(*n)).unwrap()).collect();
        let values = kept.values(&places).unwrap();
        values.as_string::<i32>().iter().map(|text| text.unwrap().to_owned()).collect()
    }

    #[test]
    fn results_are_found_by_their_keys_in_any_unit() {
        let out = tempfile::tempdir().unwrap();
        let folder = ResultFolder::of(out.path()).unwrap();
        assert!(folder.steps().unwrap().is_empty());
        keep(&folder, "aaaaaaaa01", &[(1, "one"), (2, "two"), (1, "one")]);
        keep(&folder, "bbbbbbbb01", &[(3, "three"), (2, "two")]);
        assert_eq!(folder.steps().unwrap(), ["step"]);
        let kept = folder.open("step", &field()).unwrap();
        assert_eq!(texts(&kept, &[3, 1, 2, 3]), ["three", "one", "two", "three"]);
        assert!(kept.find(&key(4)).is_none());
        assert!(folder.open("other", &field()).unwrap().len() == 0);

        folder.retain(&BTreeSet::from(["bbbbbbbb".to_owned()])).unwrap();
        let kept = folder.open("step", &field()).unwrap();
        assert_eq!(texts(&kept, &[2, 3]), ["two", "three"]);
        assert!(kept.find(&key(1)).is_none());
        assert!(
            !out.path().join("_hfauto/tmp").exists()
                || std::fs::read_dir(out.path().join("_hfauto/tmp")).unwrap().next().is_none()
        );
    }

    #[test]
    fn damaged_results_are_refused_by_name() {
        let out = tempfile::tempdir().unwrap();
        let folder = ResultFolder::of(out.path()).unwrap();
        keep(&folder, "aaaaaaaa01", &[(1, "one")]);
        let path = out.path().join("_hfauto/results/step/aaaaaaaa01-0.arrow");
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let kept = folder.open("step", &field()).unwrap();
        let error = kept.values(&[kept.find(&key(1)).unwrap()]).unwrap_err();
        assert!(error.message().contains("aaaaaaaa01-0.arrow"), "{error}");
        std::fs::write(path.with_extension("keys"), "HFKEYS1\n").unwrap();
        let error = folder.open("step", &field()).unwrap_err();
        assert!(error.message().contains("aaaaaaaa01-0.keys"), "{error}");
    }
}
