//! The places to which an executor may write for pipelines, and from which it may read for queries, whoever submits the
//! job. Not here: who may submit one (`security`).

use std::path::{Component, Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::store;

/// The allowed places: URLs and folders, each with everything below it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allow {
    places: Option<Vec<String>>,
}

impl Allow {
    /// Every place that this process may read or write.
    pub(crate) fn everything() -> Self {
        Self { places: None }
    }

    /// These places only.
    pub(crate) fn only(places: Vec<String>) -> Self {
        Self { places: Some(places) }
    }

    /// Refuses an output that is not below one of the places. Follows links of folders.
    ///
    /// # Errors
    /// `Config`.
    pub(crate) fn check(&self, output: &str) -> Result<()> {
        self.check_place(output, "write to")
    }

    /// Refuses an input that is not below one of the places. Follows links of folders and files.
    ///
    /// # Errors
    /// `Config`.
    pub(super) fn check_read(&self, input: &str) -> Result<()> {
        self.check_place(input, "read")
    }

    /// Refuses paths of images in rows unless all are below one of the places. `root` is the folder that they lie in.
    ///
    /// # Errors
    /// `Config`.
    pub(super) fn check_images(&self, root: Option<&Path>) -> Result<()> {
        match root {
            Some(root) => self.check_read(&root.to_string_lossy()),
            None => self.check_read("/"),
        }
    }

    fn check_place(&self, path: &str, what: &str) -> Result<()> {
        let Some(places) = &self.places else { return Ok(()) };
        if !has_parent(path) && places.iter().any(|place| is_below(path, place)) {
            return Ok(());
        }
        let message = format!("this executor may not {what} `{path}`");
        Err(Error::new(ErrorKind::Config, message).hint(format!(
            "allowed are {}; start executors with `--allow` for another place",
            places.iter().map(|place| format!("`{place}`")).collect::<Vec<_>>().join(", ")
        )))
    }
}

/// Whether a path or URL has a component `..`, or one of its spellings.
fn has_parent(path: &str) -> bool {
    path.split(['/', '\\']).any(|part| part == ".." || part.eq_ignore_ascii_case("%2e%2e"))
}

fn is_below(output: &str, place: &str) -> bool {
    match (store::is_url(output), store::is_url(place)) {
        (true, true) => {
            let (output, place) = (normal_url(output), normal_url(place));
            output == place || output.strip_prefix(&place).is_some_and(|rest| rest.starts_with('/'))
        }
        (false, false) => resolved(Path::new(output)).starts_with(resolved(Path::new(place))),
        _ => false,
    }
}

/// `s3a` is another name of `s3`; a slash at the end is the same folder.
fn normal_url(url: &str) -> String {
    let url = url.trim_end_matches('/');
    match url.strip_prefix("s3a://") {
        Some(rest) => format!("s3://{rest}"),
        None => url.to_owned(),
    }
}

/// The path with the links of its existing folders followed.
fn resolved(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    let mut folder = path.to_owned();
    loop {
        if let Ok(found) = folder.canonicalize() {
            return missing.into_iter().rev().fold(found, |path, name| path.join(name));
        }
        match folder.components().next_back() {
            Some(Component::Normal(name)) => {
                missing.push(name.to_owned());
                folder.pop();
            }
            _ => return path.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_below_a_place() {
        let allow =
            |places: &[&str]| Allow::only(places.iter().map(|&place| place.to_owned()).collect());
        let stores = allow(&["s3://bucket/", "gs://b/out"]);
        for output in ["s3://bucket/a", "s3a://bucket", "gs://b/out", "gs://b/out/x/y"] {
            stores.check(output).unwrap();
        }
        for output in [
            "s3://bucket2/a",
            "gs://b/outer",
            "gs://b",
            "gs://b/out/../x",
            "gs://b/out/%2E%2e/x",
            "/s3://bucket/a",
            "/tmp/x",
        ] {
            assert_eq!(stores.check(output).unwrap_err().kind(), ErrorKind::Config, "{output}");
        }
        Allow::everything().check("/anywhere").unwrap();
        allow(&[]).check("/anywhere").unwrap_err();
    }

    #[test]
    fn links_do_not_lead_out() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        let allow = Allow::only(vec![inside.display().to_string()]);
        allow.check(&inside.join("new/folder").display().to_string()).unwrap();
        allow.check(&inside.display().to_string()).unwrap();
        allow.check(&inside.join("link/x").display().to_string()).unwrap_err();
        allow.check(&folder.path().join("inner").display().to_string()).unwrap_err();
        let secret = outside.join("secret");
        std::fs::write(&secret, "").unwrap();
        std::os::unix::fs::symlink(&secret, inside.join("file")).unwrap();
        allow.check_read(&inside.join("file").display().to_string()).unwrap_err();
        allow.check_images(Some(&inside)).unwrap();
        allow.check_images(None).unwrap_err();
    }
}
