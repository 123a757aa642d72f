//! The index of sharded weights: which shard holds which tensor. Not here: the shards themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::files::is_plain;
use super::source::read_file;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// The `weight_map` of a `*.index.json`.
#[derive(Debug)]
pub(super) struct ShardIndex {
    /// Tensor → file, relative to the index.
    pub(super) weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// Reads an index file.
    ///
    /// # Errors
    /// `Model` when the file is not an index, or names files outside its folder.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let damaged =
            |what: &str| Error::new(ErrorKind::Model, format!("`{}` {what}", path.display()));
        let bytes = read_file(path, limits::MODEL_JSON_BYTES)?;
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|e| damaged("is not JSON").source(e))?;
        let map = value
            .get("weight_map")
            .and_then(Value::as_object)
            .ok_or_else(|| damaged("has no `weight_map`"))?;
        let mut weight_map = BTreeMap::new();
        for (tensor, file) in map {
            let file = file
                .as_str()
                .filter(|file| is_plain(file))
                .ok_or_else(|| damaged(&format!("names no proper file for tensor `{tensor}`")))?;
            weight_map.insert(tensor.clone(), file.to_owned());
        }
        if weight_map.is_empty() {
            return Err(damaged("has an empty `weight_map`"));
        }
        let index = Self { weight_map };
        let (found, limit) = (index.shards().len(), limits::WEIGHT_SHARDS);
        if found > limit {
            return Err(damaged(&format!("names {found} files, expected at most {limit}")));
        }
        Ok(index)
    }

    /// The files, each once, sorted.
    pub(super) fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}
