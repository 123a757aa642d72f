//! The files of an output's manifest and of a run's plan to publish one. Both are streamed, one entry at a time: memory
//! does not grow with the output. Not here: the protocol that uses them (`commit`).
//!
//! ```text
//! {
//!   "version": 1,
//!   "rows": 1000,
//!   "files": [
//!     {"path":"part-00000.parquet","rows":1000,"bytes":20000,"blake3":"…"}
//!   ]
//! }
//! ```

use std::fmt;
use std::io::{self, BufReader, Write};
use std::path::{Component, Path};

use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::WrittenPart;
use super::storage::Storage;
use crate::error::{Error, ErrorKind, Result};

/// The contents of an output.
#[derive(Clone, Debug, Default)]
pub(super) struct Manifest {
    /// Everything except the files.
    pub(super) head: Map<String, Value>,
    pub(super) files: Vec<WrittenPart>,
}

/// The decision to publish.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Plan {
    /// The files that the output had before.
    #[serde(default)]
    pub(super) replaced: Vec<String>,
    /// The handling of unit manifests, for an output in units.
    #[serde(default)]
    pub(super) units: Option<PlannedUnits>,
    #[serde(default)]
    pub(super) manifest: Manifest,
}

/// The handling of unit manifests when an output is published.
#[derive(Debug, Default, Deserialize, serde::Serialize)]
pub(super) struct PlannedUnits {
    /// The units whose files are not in the output.
    #[serde(default)]
    pub(super) obsolete: Vec<String>,
    /// Whether the other manifests are kept for a later run. Earlier versions planned not to.
    #[serde(default)]
    pub(super) keep: bool,
    /// Manifests of units whose rows are in other parts now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) records: Vec<Rewritten>,
}

/// The manifest of a unit, with other parts.
#[derive(Debug, Deserialize, serde::Serialize)]
pub(super) struct Rewritten {
    pub(super) unit: String,
    pub(super) manifest: Value,
}

impl Manifest {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(b"{\n")?;
        for (key, value) in &self.head {
            writeln!(out, "  {}: {value},", Value::from(key.as_str()))?;
        }
        out.write_all(b"  \"files\": [")?;
        for (number, file) in self.files.iter().enumerate() {
            out.write_all(if number == 0 { b"\n    " } else { b",\n    " })?;
            serde_json::to_writer(&mut *out, file)?;
        }
        out.write_all(if self.files.is_empty() { b"]\n}" } else { b"\n  ]\n}" })
    }

    /// Puts it there.
    pub(super) fn put(&self, storage: &dyn Storage, name: &str) -> Result<()> {
        storage.write_with(name, &mut |out| {
            self.write(out)?;
            out.write_all(b"\n")
        })
    }
}

impl Plan {
    /// Puts it there.
    pub(super) fn put(&self, storage: &dyn Storage, name: &str) -> Result<()> {
        storage.write_with(name, &mut |out| {
            out.write_all(b"{\"version\": 1,\n\"replaced\": ")?;
            serde_json::to_writer(&mut *out, &self.replaced)?;
            if let Some(units) = &self.units {
                out.write_all(b",\n\"units\": ")?;
                serde_json::to_writer(&mut *out, units)?;
            }
            out.write_all(b",\n\"manifest\": ")?;
            self.manifest.write(out)?;
            out.write_all(b"}\n")
        })
    }

    /// Reads a plan; `None` if it does not exist.
    ///
    /// # Errors
    /// `Sink` if it is damaged, or names a file outside the output.
    pub(super) fn read(storage: &dyn Storage, name: &str) -> Result<Option<Self>> {
        let Some(plan) = read::<Self>(storage, name)? else { return Ok(None) };
        let obsolete = plan.units.iter().flat_map(|units| &units.obsolete);
        let records = plan.units.iter().flat_map(|units| &units.records);
        let units = records.map(|record| &record.unit);
        let names = plan.manifest.files.iter().map(|file| &file.name).chain(units);
        check_names(storage, names.chain(&plan.replaced).chain(obsolete), name)?;
        Ok(Some(plan))
    }
}

impl<'de> Deserialize<'de> for Manifest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Parts;

        impl<'de> Visitor<'de> for Parts {
            type Value = Manifest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a manifest")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Manifest, A::Error> {
                let mut manifest = Manifest::default();
                while let Some(key) = map.next_key::<String>()? {
                    if key == "files" {
                        manifest.files = map.next_value()?;
                    } else {
                        manifest.head.insert(key, map.next_value()?);
                    }
                }
                Ok(manifest)
            }
        }

        deserializer.deserialize_map(Parts)
    }
}

/// The totals of a manifest, without its files.
#[derive(Debug, Deserialize)]
pub(super) struct Summary {
    /// The job in units that published the output.
    #[serde(default)]
    pub(super) job: Option<String>,
    #[serde(default)]
    pub(super) rows: u64,
}

/// Whether a plan belongs to an output in units.
#[derive(Debug, Deserialize)]
pub(super) struct PlanSummary {
    #[serde(default)]
    pub(super) units: Option<IgnoredAny>,
}

/// The names of the files of a manifest.
#[derive(Debug, Default, Deserialize)]
struct Names {
    #[serde(default)]
    files: Vec<Named>,
}

#[derive(Debug, Deserialize)]
struct Named {
    path: String,
}

#[derive(Debug, Default, Deserialize)]
struct PlanNames {
    #[serde(default)]
    replaced: Vec<String>,
    #[serde(default)]
    manifest: Names,
}

/// The files of a manifest.
pub(super) fn files_of_manifest(storage: &dyn Storage, name: &str) -> Result<Vec<String>> {
    let names: Names = read(storage, name)?.unwrap_or_default();
    checked(storage, names.files.into_iter().map(|file| file.path).collect(), name)
}

/// The files of a plan, before and after.
pub(super) fn files_of_plan(storage: &dyn Storage, name: &str) -> Result<Vec<String>> {
    let PlanNames { replaced, manifest } = read(storage, name)?.unwrap_or_default();
    let files = manifest.files.into_iter().map(|file| file.path).chain(replaced);
    checked(storage, files.collect(), name)
}

fn checked(storage: &dyn Storage, names: Vec<String>, name: &str) -> Result<Vec<String>> {
    check_names(storage, names.iter(), name)?;
    Ok(names)
}

/// Refuses names that are not relative paths inside the folder: the file is then not our manifest.
fn check_names<'n>(
    storage: &dyn Storage,
    mut names: impl Iterator<Item = &'n String>,
    name: &str,
) -> Result<()> {
    if names.all(|name| stays_inside(name)) {
        return Ok(());
    }
    let shown = storage.shown(name);
    Err(Error::new(ErrorKind::Sink, format!("`{}` is not a manifest", shown.display()))
        .hint("move the folder away or choose another `sink.path`"))
}

pub(super) fn stays_inside(name: &str) -> bool {
    let mut parts = Path::new(name).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// Reads a JSON file as a stream; `None` if it does not exist.
pub(super) fn read<T: DeserializeOwned>(storage: &dyn Storage, name: &str) -> Result<Option<T>> {
    let Some(reader) = storage.reader(name)? else { return Ok(None) };
    serde_json::from_reader(BufReader::with_capacity(1 << 16, reader)).map(Some).map_err(|error| {
        Error::new(ErrorKind::Sink, format!("cannot read `{}`", storage.shown(name).display()))
            .source(error)
            .hint("move the folder away or choose another `sink.path`")
    })
}

/// Writes a small JSON file.
pub(super) fn put(
    storage: &dyn Storage,
    name: &str,
    content: &impl serde::Serialize,
) -> Result<()> {
    storage.write(name, &text(content)?)
}

/// Like [`put`], unless the file exists. Returns whether this call wrote it.
pub(super) fn create(
    storage: &dyn Storage,
    name: &str,
    content: &impl serde::Serialize,
) -> Result<bool> {
    storage.create(name, &text(content)?)
}

fn text(content: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(content).map_err(|error| {
        Error::new(ErrorKind::Internal, "cannot write the manifest").source(error)
    })?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::storage::LocalStorage;
    use super::*;

    #[test]
    fn a_manifest_is_what_was_put_there() {
        let folder = tempfile::tempdir().unwrap();
        let storage = LocalStorage::new(folder.path());
        let part = |number: u64| WrittenPart {
            name: format!("a=\"b\"/part-{number}"),
            rows: number,
            bytes: 7,
            blake3: "00".to_owned(),
            within: None,
        };
        for count in [0, 1, 3] {
            let files: Vec<_> = (0..count).map(part).collect();
            let head = serde_json::json!({"version": 1, "rows": 6, "schema": [{"name": "\n\"x"}]});
            let head = head.as_object().unwrap().clone();
            let manifest = Manifest { head, files };
            manifest.put(&storage, "m.json").unwrap();
            let text = fs::read_to_string(folder.path().join("m.json")).unwrap();
            assert_eq!(text.lines().filter(|line| line.contains("blake3")).count(), count as usize);
            let read: Manifest = read(&storage, "m.json").unwrap().unwrap();
            assert_eq!(read.head, manifest.head);
            assert_eq!(format!("{:?}", read.files), format!("{:?}", manifest.files));
            let whole: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(whole["files"].as_array().unwrap().len(), count as usize);

            let units = Some(PlannedUnits {
                obsolete: vec!["x".to_owned()],
                keep: true,
                records: Vec::new(),
            });
            let plan = Plan { replaced: vec!["old".to_owned()], units, manifest };
            plan.put(&storage, "p.json").unwrap();
            let plan = Plan::read(&storage, "p.json").unwrap().unwrap();
            assert_eq!(
                (plan.replaced, plan.manifest.files.len()),
                (vec!["old".to_owned()], count as usize)
            );
            assert!(plan.units.is_some_and(|units| units.keep && units.obsolete == ["x"]));
        }
    }

    /// Manifests in the layout of earlier versions.
    #[test]
    fn earlier_manifests_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let storage = LocalStorage::new(folder.path());
        let text = "{\n  \"version\": 1,\n  \"rows\": 2,\n  \"files\": [\n    {\n      \"path\": \"a\",\n      \
                    \"rows\": 2,\n      \"bytes\": 3,\n      \"blake3\": \"00\"\n    }\n  ],\n  \"job\": \"j\"\n}\n";
        fs::write(folder.path().join("m.json"), text).unwrap();
        let summary: Summary = read(&storage, "m.json").unwrap().unwrap();
        assert_eq!((summary.job.as_deref(), summary.rows), (Some("j"), 2));
        assert_eq!(files_of_manifest(&storage, "m.json").unwrap(), ["a"]);
    }

    #[test]
    fn a_manifest_cannot_point_outside() {
        let folder = tempfile::tempdir().unwrap();
        let storage = LocalStorage::new(folder.path());
        for name in ["../x", "/etc/passwd", "a/../../x", ""] {
            let files = serde_json::json!([{"path": name}]);
            let plan = serde_json::json!({"manifest": {"files": files}});
            put(&storage, "m.json", &serde_json::json!({"files": files})).unwrap();
            put(&storage, "p.json", &plan).unwrap();
            put(&storage, "r.json", &serde_json::json!({"replaced": [name]})).unwrap();
            files_of_manifest(&storage, "m.json").unwrap_err();
            for plan in ["p.json", "r.json"] {
                files_of_plan(&storage, plan).unwrap_err();
                Plan::read(&storage, plan).unwrap_err();
            }
        }
        put(&storage, "m.json", &serde_json::json!({"files": [{"path": "a=b/c"}]})).unwrap();
        assert_eq!(files_of_manifest(&storage, "m.json").unwrap(), ["a=b/c"]);
    }
}
