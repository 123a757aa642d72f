//! Reads the labels of a head: `id2label` and `num_labels` of `config.json`, as transformers resolves them.
//!
//! # Source
//! `PreTrainedConfig.__post_init__` in `src/transformers/configuration_utils.py` at v5.24.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// The number of labels when neither `id2label` nor `num_labels` is given.
const DEFAULT_NUM_LABELS: u64 = 2;

/// Reads `id2label`; without it, the labels are `LABEL_0`, `LABEL_1`, …, `num_labels` of them.
///
/// # Errors
/// `Model` for an id that is not an integer, a label that is not a string, or an invalid `num_labels`.
pub(super) fn read(json: &Map<String, Value>) -> Result<BTreeMap<i64, String>> {
    let wrong = |message: String| Error::new(ErrorKind::Model, message);
    let labels = match json.get("id2label") {
        None | Some(Value::Null) => {
            let count = match json.get("num_labels") {
                None | Some(Value::Null) => DEFAULT_NUM_LABELS,
                Some(value) => value
                    .as_u64()
                    .filter(|count| *count <= limits::MODEL_LABELS as u64)
                    .ok_or_else(|| {
                        wrong(format!(
                            "`num_labels` in config.json is `{value}`, not a number of labels"
                        ))
                    })?,
            };
            return Ok((0..count as i64).map(|id| (id, format!("LABEL_{id}"))).collect());
        }
        Some(Value::Object(labels)) => labels,
        Some(value) => {
            return Err(wrong(format!(
                "`id2label` in config.json is `{value}`, not a map from ids to labels"
            )));
        }
    };
    labels
        .iter()
        .map(|(id, label)| {
            let id = id.trim().parse().map_err(|_| {
                wrong(format!("`id2label` in config.json has the id `{id}`, which is not a number"))
            })?;
            // Labels that are numbers are formatted as Python formats them.
            let label = match label {
                Value::String(label) => label.clone(),
                Value::Number(label) => label.to_string(),
                Value::Bool(true) => "True".to_owned(),
                Value::Bool(false) => "False".to_owned(),
                label => {
                    return Err(wrong(format!(
                        "`id2label` in config.json has the label `{label}` for {id}, expected a text"
                    )));
                }
            };
            Ok((id, label))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auto::AutoConfig;

    fn config(labels: Value) -> Result<AutoConfig> {
        let mut json = json!({"model_type": "bert"});
        json.as_object_mut().unwrap().extend(labels.as_object().unwrap().clone());
        AutoConfig::from_json(json.as_object().unwrap().clone(), &Map::new())
    }

    #[test]
    fn the_label_of_a_row_is_that_of_its_id() {
        let gap = config(json!({"id2label": {"0": "a", "10": "b", "2": "c"}})).unwrap();
        assert_eq!(gap.num_labels(), 3);
        assert_eq!((gap.label(0).unwrap(), gap.label(2).unwrap()), ("a", "c"));
        let error = gap.label(1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model);
        assert!(
            error.to_string().contains("no label for 1") && error.to_string().contains("0, 2, 10")
        );
        assert!(gap.labels().is_err());
        let from_one = config(json!({"id2label": {"1": "a", "2": "b"}})).unwrap();
        assert_eq!(from_one.label(1).unwrap(), "a");
        assert!(from_one.label(0).is_err());
    }

    #[test]
    fn labels_may_be_numbers_and_ids_must_be() {
        let numbers = config(json!({"id2label": {"0": 1, " 1": 2.5, "2": true}})).unwrap();
        assert_eq!(numbers.labels().unwrap(), ["1", "2.5", "True"]);
        for (labels, text) in [
            (json!({"id2label": {"a": "b"}}), "the id `a`"),
            (json!({"id2label": {"0": null}}), "the label `null` for 0"),
            (json!({"id2label": ["a", "b"]}), "not a map"),
            (json!({"num_labels": -3}), "`num_labels`"),
            (json!({"num_labels": 1e12}), "`num_labels`"),
            (json!({"num_labels": 1_000_000_000_000u64}), "`num_labels`"),
        ] {
            let error = config(labels.clone()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Model, "{labels}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn id2label_comes_before_num_labels() {
        // transformers warns and keeps the map.
        let both = config(json!({"id2label": {"0": "a", "1": "b", "2": "c"}, "num_labels": 5}));
        assert_eq!(both.unwrap().labels().unwrap(), ["a", "b", "c"]);
        let number = config(json!({"num_labels": 3, "id2label": null})).unwrap();
        assert_eq!(number.labels().unwrap(), ["LABEL_0", "LABEL_1", "LABEL_2"]);
        assert_eq!(config(json!({})).unwrap().num_labels(), 2);
        let old = config(json!({"id2label": {"0": "a"}, "num_labels": 3})).unwrap();
        assert_eq!(old.with_labels_of(3).labels().unwrap(), ["a", "LABEL_1", "LABEL_2"]);
    }

    #[test]
    fn label2id_is_read_in_the_order_of_the_file() {
        let config =
            config(json!({"id2label": {"0": "a", "1": "b"}, "label2id": {"b": 1, "a": 0}}));
        assert_eq!(config.unwrap().label2id().unwrap(), [("b".to_owned(), 1), ("a".to_owned(), 0)]);
    }
}
