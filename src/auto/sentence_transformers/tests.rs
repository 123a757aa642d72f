use std::fs;
use std::path::Path;

use serde_json::json;

use super::*;

/// A directory of JSON files; the model has 8 features.
fn directory(files: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let bert = json!({"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2});
    for (path, value) in [("config.json", bert)].iter().chain(files) {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value.to_string()).unwrap();
    }
    dir
}

fn read(dir: &Path) -> Result<SentenceTransformer> {
    SentenceTransformer::from_snapshot(&Snapshot::local(dir).unwrap(), &Map::new())
}

fn modules(types: &[&str]) -> Value {
    let module = |(index, kind): (usize, &&str)| {
        let last = kind.rsplit('.').next().unwrap();
        let path = if index == 0 { String::new() } else { format!("{index}_{last}") };
        json!({"idx": index, "name": index.to_string(), "path": path, "type": kind})
    };
    Value::Array(types.iter().enumerate().map(module).collect())
}

fn with_pooling_file(pooling: Value) -> Result<Vec<PoolingMode>> {
    let types =
        ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling"];
    let dir = directory(&[("modules.json", modules(&types)), ("1_Pooling/config.json", pooling)]);
    let description = read(dir.path())?;
    let [Module::Pooling(pooling)] = &description.modules[..] else { panic!("one module") };
    assert_eq!(description.embedding_dimension(), 8 * pooling.modes().len());
    Ok(pooling.modes().to_vec())
}

#[test]
fn without_modules_json_it_is_mean_pooling() {
    let dir = directory(&[]);
    let description = read(dir.path()).unwrap();
    let mean = Module::Pooling(Pooling::new([PoolingMode::Mean], true));
    assert_eq!(description.modules, [mean]);
    assert_eq!(description.embedding_dimension(), 8);
    assert_eq!(description.max_seq_length, None);
    assert_eq!(description.prompt(None).unwrap(), None);
}

#[test]
fn both_generations_of_the_pooling_file_are_read() {
    use PoolingMode::{Cls, LastToken, Max, Mean, MeanSqrtLenTokens};
    let cases = [
        (json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}), vec![Cls]),
        (
            json!({"pooling_mode_mean_sqrt_len_tokens": true, "pooling_mode_mean_tokens": true,
                "pooling_mode_max_tokens": true}),
            vec![Max, Mean, MeanSqrtLenTokens],
        ),
        (json!({"word_embedding_dimension": 8}), vec![Mean]),
        (json!({"embedding_dimension": 8, "pooling_mode": "lasttoken"}), vec![LastToken]),
        (json!({"pooling_mode": ["mean", "cls"]}), vec![Mean, Cls]),
        (json!({"pooling_mode": "max", "pooling_mode_cls_token": true}), vec![Max]),
    ];
    for (file, expected) in cases {
        assert_eq!(with_pooling_file(file.clone()).unwrap(), expected, "{file}");
    }
    for file in [
        json!({"pooling_mode": "median"}),
        json!({"pooling_mode": []}),
        json!({"pooling_mode": [7]}),
        json!({"pooling_mode_attention": true}),
        json!({"pooling_mode_cls_token": "yes"}),
        json!({"pooling_mode": "mean", "include_prompt": "no"}),
    ] {
        assert!(with_pooling_file(file.clone()).is_err(), "{file}");
    }
}

#[test]
fn modules_go_by_the_last_part_of_their_path_and_unknown_ones_are_refused() {
    let types = [
        "sentence_transformers.base.modules.transformer.Transformer",
        "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
        "sentence_transformers.base.modules.dense.Dense",
        "sentence_transformers.sentence_transformer.modules.normalize.Normalize",
    ];
    let dense = json!({"in_features": 8, "out_features": 3, "bias": false,
        "activation_function": "torch.nn.modules.linear.Identity"});
    let dir = directory(&[
        ("modules.json", modules(&types)),
        ("1_Pooling/config.json", json!({"pooling_mode": "cls", "include_prompt": false})),
        ("2_Dense/config.json", dense),
    ]);
    let description = read(dir.path()).unwrap();
    assert_eq!(description.embedding_dimension(), 3);
    assert!(!description.include_prompt());
    assert_eq!(description.modules.last(), Some(&Module::Normalize));

    // Two concatenated modes do not fit the Dense layer.
    let error =
        description.clone().with_pooling([PoolingMode::Mean, PoolingMode::Max]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let mean = description.with_pooling([PoolingMode::Mean]).unwrap().with_normalize(false);
    assert!(!mean.include_prompt(), "an explicit mode keeps the prompt's treatment");
    assert!(matches!(&mean.modules[..], [Module::Pooling(_), Module::Dense(_)]));

    let types = ["sentence_transformers.models.Transformer", "sentence_transformers.models.LSTM"];
    let dir = directory(&[("modules.json", modules(&types))]);
    let error = read(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("`sentence_transformers.models.LSTM`"), "{error}");
}

#[test]
fn a_dense_layer_of_another_width_is_refused() {
    let types = ["m.Transformer", "m.Pooling", "m.Dense"];
    for (dense, kind, text) in [
        (json!({"in_features": 9, "out_features": 3}), ErrorKind::Model, "gives 8"),
        (json!({"in_features": 8}), ErrorKind::Model, "`out_features`"),
        (
            json!({"in_features": 8, "out_features": 3, "use_residual": true}),
            ErrorKind::Unsupported,
            "use_residual",
        ),
        (
            json!({"in_features": 8, "out_features": 3, "activation_function": "my.Act"}),
            ErrorKind::Unsupported,
            "`my.Act`",
        ),
    ] {
        let dir = directory(&[
            ("modules.json", modules(&types)),
            ("1_Pooling/config.json", json!({"pooling_mode": "mean"})),
            ("2_Dense/config.json", dense),
        ]);
        let error = read(dir.path()).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn prompts_lengths_and_the_transformer_s_own_folder() {
    let list = json!([{"path": "0_Transformer", "type": "m.Transformer"},
        {"path": "1_Pooling", "type": "m.Pooling"}]);
    let bert = json!({"model_type": "bert", "hidden_size": 16, "num_attention_heads": 2});
    let dir = directory(&[
        ("modules.json", list),
        ("0_Transformer/config.json", bert),
        (
            "0_Transformer/sentence_bert_config.json",
            json!({"max_seq_length": 24, "do_lower_case": true}),
        ),
        ("1_Pooling/config.json", json!({"pooling_mode": "mean"})),
        (
            "config_sentence_transformers.json",
            json!({"prompts": {"query": "query: ", "passage": "p: "},
                "default_prompt_name": "passage", "similarity_fn_name": "cosine"}),
        ),
    ]);
    let description = read(dir.path()).unwrap();
    assert_eq!(description.embedding_dimension(), 16);
    assert_eq!(description.max_seq_length, Some(24));
    assert!(description.do_lower_case);
    assert_eq!(description.similarity_fn_name.as_deref(), Some("cosine"));
    assert_eq!(description.prompt(None).unwrap(), Some("p: "));
    assert_eq!(description.prompt(Some("query")).unwrap(), Some("query: "));
    let error = description.prompt(Some("document")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(error.remedy(), Some("its prompts are: query, passage"));
}
