//! The names of files and folders as datasets of OpenLineage, by its rules for file systems and object stores, so that the
//! output of one pipeline is the input of another. Not here: events.

use arrow::datatypes::{DataType, Field, Fields};
use serde_json::{Value, json};
use url::Url;

use crate::secret;
use crate::store;

/// The namespace of local files.
const FILE: &str = "file";

/// A dataset: a folder or a file. Names hide secrets, as in reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dataset {
    /// [`FILE`], or the URL of a bucket.
    pub(super) namespace: String,
    /// The absolute path, or the key without a leading `/`.
    pub(super) name: String,
}

impl Dataset {
    /// The dataset of a source's path. A glob stands for the folder before its first wildcard.
    pub(super) fn of_source(path: &str) -> Self {
        // In an HTTP URL, `?` begins the query.
        if path.starts_with("http") {
            return Self::of_path(path);
        }
        let mut literal = Vec::new();
        for name in path.split('/') {
            match without_wildcards(name) {
                Some(name) => literal.push(name),
                None => break,
            }
        }
        Self::of_path(&literal.join("/"))
    }

    /// The dataset of a local path or a URL.
    pub(super) fn of_path(path: &str) -> Self {
        let (namespace, name) = match path.split_once("://").filter(|_| store::is_url(path)) {
            Some((scheme, rest)) => {
                let (authority, key) = rest.split_once('/').unwrap_or((rest, ""));
                let key = match scheme {
                    "http" | "https" => key.split(['?', '#']).next().unwrap_or_default(),
                    _ => key,
                };
                (hidden(&bucket(scheme, authority)), key)
            }
            None => (FILE.to_owned(), path),
        };
        let name = name.trim_end_matches('/');
        Self { namespace, name: if name.is_empty() { "/".to_owned() } else { hidden(name) } }
    }

    /// Its address, if that is a URI.
    pub(super) fn uri(&self) -> Option<String> {
        let url = if self.namespace == FILE {
            Url::from_file_path(&self.name).ok()?
        } else {
            Url::parse(&format!("{}/{}", self.namespace, self.name.trim_start_matches('/'))).ok()?
        };
        Some(url.into())
    }
}

/// The name that a part of a glob matches; `None` if it matches several. Wildcards in brackets (`[*]`) are literal.
fn without_wildcards(glob: &str) -> Option<String> {
    let mut name = String::new();
    let mut rest = glob;
    while let Some(first) = rest.chars().next() {
        let escaped = ["[*]", "[?]", "[[]", "[]]"].iter().find(|form| rest.starts_with(**form));
        if let Some(form) = escaped {
            name.push_str(&form[1..2]);
            rest = &rest[form.len()..];
        } else if "*?[".contains(first) {
            return None;
        } else {
            name.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    Some(name)
}

/// The namespace of a bucket, container or host.
fn bucket(scheme: &str, authority: &str) -> String {
    match scheme {
        "s3" | "s3a" => format!("s3://{authority}"),
        "gs" => format!("gs://{authority}"),
        "http" | "https" => {
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}")
        }
        // Azure. The account may be in the environment only.
        _ if authority.contains('@') => format!("abfss://{authority}"),
        _ => match std::env::var("AZURE_STORAGE_ACCOUNT_NAME") {
            Ok(account) if !account.is_empty() => {
                format!("abfss://{authority}@{account}.dfs.core.windows.net")
            }
            _ => format!("az://{authority}"),
        },
    }
}

/// The columns of a dataset, for the facet `schema`. Types have their Arrow names.
pub(super) fn fields(columns: &Fields) -> Value {
    columns.iter().map(|field| described(field.name(), field.data_type())).collect()
}

fn described(name: &str, data_type: &DataType) -> Value {
    let mut field = json!({"name": hidden(name), "type": hidden(&data_type.to_string())});
    if let Some(parts) = parts(data_type) {
        field["fields"] = parts;
    }
    field
}

/// The fields of a struct, or of the structs in a list, whose items are called `_element`.
fn parts(data_type: &DataType) -> Option<Value> {
    let element = |item: &Field| json!([described("_element", item.data_type())]);
    match data_type {
        DataType::Struct(parts) => Some(fields(parts)),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)
            if item.data_type().is_nested() =>
        {
            Some(element(item))
        }
        _ => None,
    }
}

/// A text without secrets.
pub(super) fn hidden(text: &str) -> String {
    secret::hide(text).into_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn files_and_objects_have_the_names_of_the_specification() {
        let check = |path: &str, namespace: &str, name: &str, uri: &str| {
            let dataset = Dataset::of_source(path);
            assert_eq!((dataset.namespace.as_str(), dataset.name.as_str()), (namespace, name));
            assert_eq!(dataset.uri().as_deref(), Some(uri));
        };
        check("/data/in.csv", "file", "/data/in.csv", "file:///data/in.csv");
        check("/data/out/", "file", "/data/out", "file:///data/out");
        check("/data/a b/*.csv", "file", "/data/a b", "file:///data/a%20b");
        check("/data/lang=*/x/*.csv", "file", "/data", "file:///data");
        check("/*.csv", "file", "/", "file:///");
        check("/data/[[]1[]]/*.csv", "file", "/data/[1]", "file:///data/[1]");
        check("/data/é/[ab].csv", "file", "/data/é", "file:///data/%C3%A9");
        check("s3://b/in/a.parquet", "s3://b", "in/a.parquet", "s3://b/in/a.parquet");
        check("s3a://b/in/**/*.csv", "s3://b", "in", "s3://b/in");
        check("s3://b/*.csv", "s3://b", "/", "s3://b/");
        check("gs://b/x/", "gs://b", "x", "gs://b/x");
        check(
            "abfss://c@a.dfs.core.windows.net/x/",
            "abfss://c@a.dfs.core.windows.net",
            "x",
            "abfss://c@a.dfs.core.windows.net/x",
        );
        check("https://u:pw@h:1/x.csv?sig=1", "https://h:1", "x.csv", "https://h:1/x.csv");
    }

    #[test]
    fn the_parts_of_a_column_are_fields() {
        let label = Field::new("label", DataType::Utf8, true);
        let labels = DataType::Struct(vec![label].into());
        let item = |data_type| Arc::new(Field::new("item", data_type, true));
        let columns = Fields::from(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("vector", DataType::FixedSizeList(item(DataType::Float32), 3), true),
            Field::new("labels", DataType::List(item(labels.clone())), true),
        ]);
        let described = fields(&columns);
        let (vector, list) =
            (columns[1].data_type().to_string(), columns[2].data_type().to_string());
        let expected = json!([
            {"name": "id", "type": "Int64"},
            {"name": "vector", "type": vector},
            {"name": "labels", "type": list, "fields": [{
                "name": "_element",
                "type": labels.to_string(),
                "fields": [{"name": "label", "type": "Utf8"}],
            }]},
        ]);
        assert_eq!(described, expected);
    }
}
