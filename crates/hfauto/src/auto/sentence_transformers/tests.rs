use std::fs;
use std::path::Path;

use serde_json::json;

use super::keys::{Effect, KEYS, Key};
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

fn read(dir: &Path) -> Result<SentenceTransformerConfig> {
    SentenceTransformerConfig::from_snapshot(&Snapshot::local(dir).unwrap(), &Map::new())
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
fn without_modules_json_pooling_is_mean() {
    let dir = directory(&[]);
    let description = read(dir.path()).unwrap();
    let mean = Module::Pooling(Pooling::new([PoolingMode::Mean], true));
    assert_eq!(description.modules, [mean]);
    assert_eq!(description.embedding_dimension(), 8);
    assert!(description.processor_kwargs.is_empty());
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
fn modules_are_identified_by_the_last_part_of_their_path_and_unknown_ones_are_refused() {
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
    let types = [
        "sentence_transformers.models.Transformer",
        "sentence_transformers.models.Pooling",
        "sentence_transformers.models.Dense",
    ];
    for (dense, kind, text) in [
        (json!({"in_features": 9, "out_features": 3}), ErrorKind::Model, "outputs 8"),
        (json!({"in_features": 8}), ErrorKind::Model, "`out_features`"),
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
    let list = json!([{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]);
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
    assert_eq!(description.processor_kwargs["model_max_length"], 24);
    assert!(description.do_lower_case);
    assert_eq!(description.similarity_fn_name.as_deref(), Some("cosine"));
    assert_eq!(description.prompt(None).unwrap(), Some("p: "));
    assert_eq!(description.prompt(Some("query")).unwrap(), Some("query: "));
    let error = description.prompt(Some("document")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(error.remedy(), Some("its prompts are: query, passage"));
}

/// A bi-encoder with every module and one key of a file set; a sparse encoder for the keys of SpladePooling, a
/// cross-encoder for those of LogitScore and of chat templates.
fn with_key(file: File, key: Option<(&str, Value)>) -> Result<SentenceTransformerConfig> {
    let sparse = file == File::SpladePooling;
    let (multi, table) = (file == File::MultiVectorMask, file == File::SparseStaticEmbedding);
    let cross = matches!(file, File::LogitScore | File::ChatTemplate | File::Processing);
    let types: &[&str] = if sparse {
        &["sentence_transformers.models.Transformer", "sentence_transformers.models.SpladePooling"]
    } else if table {
        &["sentence_transformers.sparse_encoder.modules.SparseStaticEmbedding"]
    } else if multi {
        &[
            "sentence_transformers.base.modules.transformer.Transformer",
            "sentence_transformers.multi_vector_encoder.modules.MultiVectorMask",
        ]
    } else if cross {
        &[
            "sentence_transformers.base.modules.transformer.Transformer",
            "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
        ]
    } else {
        &[
            "sentence_transformers.models.Transformer",
            "sentence_transformers.models.Pooling",
            "sentence_transformers.models.Dense",
            "sentence_transformers.models.LayerNorm",
            "sentence_transformers.models.Dropout",
            "sentence_transformers.models.Normalize",
        ]
    };
    let mut listed = modules(types);
    let mut model = json!({"prompts": {"a": "A", "b": "B"}, "default_prompt_name": "a"});
    if cross {
        model["model_type"] = json!("CrossEncoder");
    } else if multi {
        model["model_type"] = json!("MultiVectorEncoder");
    }
    let task = match (sparse, cross) {
        (true, _) => "fill-mask",
        (_, true) => "text-generation",
        _ => "feature-extraction",
    };
    let mut transformer = json!({"transformer_task": task});
    let mut config = json!({"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2});
    if table {
        config = json!({});
    }
    let mut mask = json!({});
    let mut pooling = json!({"pooling_mode_max_tokens": true});
    let mut dense = json!({"in_features": 8, "out_features": 8});
    let (mut normalize, mut dropout, mut splade) = (json!({}), json!({}), json!({}));
    let mut layer_norm = json!({"dimension": 8});
    let mut logit_score = json!({"true_token_id": 7, "false_token_id": null});
    if let Some((key, value)) = key {
        let place = match file {
            File::Modules => &mut listed[2],
            File::Model => &mut model,
            File::ConfigJson => &mut config["sentence_transformers"],
            File::Transformer => &mut transformer,
            File::ModelKwargs => &mut transformer["model_kwargs"],
            File::ProcessorKwargs => &mut transformer["processor_kwargs"],
            File::ConfigKwargs => &mut transformer["config_kwargs"],
            File::Processing => &mut transformer["processing_kwargs"],
            File::ProcessingText => &mut transformer["processing_kwargs"]["text"],
            File::ChatTemplate => &mut transformer["processing_kwargs"]["chat_template"],
            File::Pooling => &mut pooling,
            File::Dense => &mut dense,
            File::Normalize => &mut normalize,
            File::LayerNorm => &mut layer_norm,
            File::Dropout => &mut dropout,
            File::SpladePooling => &mut splade,
            File::SparseStaticEmbedding => &mut config,
            File::LogitScore => &mut logit_score,
            File::MultiVectorMask => &mut mask,
        };
        place[key] = value;
    }
    let dir = directory(&[
        ("config.json", config),
        ("modules.json", listed),
        ("config_sentence_transformers.json", model),
        ("sentence_bert_config.json", transformer),
        ("1_Pooling/config.json", pooling),
        ("1_SpladePooling/config.json", splade),
        ("1_LogitScore/config.json", logit_score),
        ("1_MultiVectorMask/config.json", mask),
        ("2_Dense/config.json", dense),
        ("3_LayerNorm/config.json", layer_norm),
        ("4_Dropout/config.json", dropout),
        ("5_Normalize/config.json", normalize),
    ]);
    let mut description = read(dir.path())?;
    // The folder differs on each call, and is only printed.
    description.transformer = Snapshot::local(Path::new(".")).unwrap();
    description.similarity_fn_name = None;
    Ok(description)
}

#[test]
fn every_key_of_the_table_does_what_its_row_says() {
    let shown = |description: &SentenceTransformerConfig| {
        let activation = description.activation().map_err(|e| e.to_string());
        let mut description = description.clone();
        // Only `activation` uses it, and that is compared separately.
        let json = description.config.json().clone();
        // A table has no settings of its own.
        if !description.is_table() {
            description.config = AutoConfig::from_json(
                json.into_iter().filter(|(key, _)| key != "sentence_transformers").collect(),
                &Map::new(),
            )
            .unwrap();
        }
        format!("{description:?} {activation:?}")
    };
    for Key { file, key, effect, example } in KEYS {
        let what = format!("{file:?} {key}: {example}");
        let without = with_key(*file, None).unwrap();
        let with = with_key(*file, Some((*key, serde_json::from_str(example).unwrap())));
        match effect {
            Effect::Harmless => assert_eq!(shown(&with.unwrap()), shown(&without), "{what}"),
            Effect::Counts => {
                let same = with.is_ok_and(|with| shown(&with) == shown(&without));
                assert!(!same, "{what}");
            }
            Effect::Refused(off) => {
                let error = with.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{what}");
                assert!(error.message().contains(&format!("`{key}: ")), "{error}");
                for off in off.iter().chain(&["null"]) {
                    let value = serde_json::from_str(off).unwrap();
                    let mut with = with_key(*file, Some((*key, value))).unwrap();
                    with.pair_messages.variables.shift_remove(*key);
                    assert_eq!(shown(&with), shown(&without), "{what}: {off}");
                }
            }
        }
    }
}

#[test]
fn unknown_keys_are_refused_by_name_in_every_file() {
    let files: std::collections::BTreeSet<String> =
        KEYS.iter().map(|row| format!("{:?}", row.file)).collect();
    assert_eq!(files.len(), 19, "{files:?}");
    // Its other keys are variables of the template.
    let mut seen = vec![File::ChatTemplate];
    for Key { file, .. } in KEYS {
        if seen.contains(file) {
            continue;
        }
        seen.push(*file);
        let error = with_key(*file, Some(("frobnicate", json!(7))))
            .and_then(|description| description.activation().map(drop));
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{file:?}: {error}");
        assert!(error.message().contains("`frobnicate"), "{file:?}: {error}");
    }
}

#[test]
fn an_adapter_is_not_ignored() {
    let dir = directory(&[("adapter_config.json", json!({"peft_type": "LORA"}))]);
    let error = read(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("adapter_config.json"), "{error}");
}

#[test]
fn code_of_other_packages_is_not_run() {
    let types = ["custom_st.Transformer", "sentence_transformers.models.Pooling"];
    let dir = directory(&[("modules.json", modules(&types)), ("1_Pooling/config.json", json!({}))]);
    let error = read(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("`custom_st.Transformer`"), "{error}");
}

#[test]
fn the_files_of_older_models_are_read_under_their_names() {
    let types =
        ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling"];
    for family in ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"] {
        let file = format!("sentence_{family}_config.json");
        let dir = directory(&[
            ("modules.json", modules(&types)),
            ("1_Pooling/config.json", json!({})),
            (file.as_str(), json!({"max_seq_length": 77, "do_lower_case": true})),
        ]);
        let description = read(dir.path()).unwrap();
        assert_eq!(description.processor_kwargs["model_max_length"], 77, "{family}");
        assert!(description.do_lower_case, "{family}");
    }
    // Without modules.json, sentence-transformers reads none of them.
    let dir = directory(&[("sentence_bert_config.json", json!({"max_seq_length": 77}))]);
    assert!(read(dir.path()).unwrap().processor_kwargs.is_empty());
}

#[test]
fn a_language_model_without_modules_is_pooled_by_its_last_token() {
    let of = |config: Value| {
        let dir = directory(&[("config.json", config)]);
        let description = read(dir.path()).unwrap();
        let [Module::Pooling(pooling)] = &description.modules[..] else { panic!("one module") };
        pooling.modes().to_vec()
    };
    let bert = |architecture: &str, more: Value| {
        let mut json = json!({"model_type": "roberta", "hidden_size": 8, "num_attention_heads": 2,
            "architectures": [architecture]});
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        of(json)
    };
    assert_eq!(bert("RobertaForCausalLM", json!({})), [PoolingMode::LastToken]);
    assert_eq!(bert("RobertaForCausalLM", json!({"is_causal": false})), [PoolingMode::Mean]);
    assert_eq!(bert("RobertaForMaskedLM", json!({})), [PoolingMode::Mean]);
}

#[test]
fn a_cross_encoder_is_one_transformer_and_embeds_without_its_prompts() {
    let types = ["sentence_transformers.base.modules.transformer.Transformer"];
    let task = json!({"transformer_task": "sequence-classification",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
        "module_output_name": null});
    let saved = json!({"model_type": "CrossEncoder", "prompts": {"q": "query: "},
        "default_prompt_name": "q", "activation_fn": "torch.nn.modules.linear.Identity"});
    let dir = directory(&[
        ("modules.json", modules(&types)),
        ("sentence_bert_config.json", task.clone()),
        ("config_sentence_transformers.json", saved.clone()),
    ]);
    let description = read(dir.path()).unwrap();
    assert_eq!(description.pair_score().unwrap(), PairScore::Labels);
    assert_eq!(description.pair_messages.used, Some(false));
    assert_eq!(description.activation().unwrap(), Some(TorchActivation::IDENTITY));
    assert_eq!(description.prompt(None).unwrap(), Some("query: "));
    let embedder = description.bi_encoder().unwrap();
    assert_eq!(embedder.embedding_dimension(), 8);
    assert_eq!(embedder.prompt(None).unwrap(), None);
    // Messages of an unknown form, and logits over the vocabulary without a LogitScore.
    let mut messages = task.clone();
    messages["modality_config"]["message"] = json!({"method": "forward"});
    let mut form = task.clone();
    form["modality_config"]["message"] =
        json!({"method": "forward", "method_output_name": "logits", "format": "nested"});
    let mut words = task;
    words["transformer_task"] = json!("text-generation");
    for (file, text) in
        [(messages, "modality_config"), (form, "modality_config"), (words, "transformer_task")]
    {
        let dir = directory(&[
            ("modules.json", modules(&types)),
            ("sentence_bert_config.json", file),
            ("config_sentence_transformers.json", saved.clone()),
        ]);
        let error = read(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains(text), "{error}");
    }
}

/// A cross-encoder of these modules over a model with 30 tokens, with a LogitScore at `1_LogitScore` if it has a file.
fn reranker(kinds: &[&str], logit_score: Option<Value>) -> tempfile::TempDir {
    let types = kinds.iter().map(|kind| format!("sentence_transformers.{kind}"));
    let types: Vec<String> = types.collect();
    let types: Vec<&str> = types.iter().map(String::as_str).collect();
    let config =
        json!({"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 30});
    let mut files = vec![
        ("config.json", config),
        ("modules.json", modules(&types)),
        ("sentence_bert_config.json", json!({"transformer_task": "text-generation"})),
        ("config_sentence_transformers.json", json!({"model_type": "CrossEncoder"})),
        ("1_Dense/config.json", json!({"in_features": 8, "out_features": 8})),
    ];
    files.extend(logit_score.map(|file| ("1_LogitScore/config.json", file)));
    directory(&files)
}

#[test]
fn a_reranker_scores_by_the_logits_of_its_tokens() {
    for (file, false_token_id) in [
        (json!({"true_token_id": 29, "false_token_id": 0}), Some(0)),
        (json!({"true_token_id": 29, "false_token_id": null}), None),
        (json!({"true_token_id": 29, "module_input_name": "causal_logits"}), None),
    ] {
        let dir = reranker(&["Transformer", "LogitScore"], Some(file));
        let score = read(dir.path()).unwrap().pair_score().unwrap();
        let expected = LogitScore { true_token_id: 29, false_token_id };
        assert_eq!(score, PairScore::Logits(Some(expected)));
    }
    assert!((LogitScore::score(&[3.0, 5.0]) + 2.0).abs() < f32::EPSILON);
    assert!((LogitScore::score(&[3.0]) - 3.0).abs() < f32::EPSILON);
}

#[test]
fn hostile_rerankers_are_refused_by_name() {
    let two = &["Transformer", "LogitScore"][..];
    for (kinds, file, kind, text) in [
        (two, None, ErrorKind::Model, "no `1_LogitScore/config.json`"),
        (two, Some(json!({})), ErrorKind::Model, "no `true_token_id`"),
        (two, Some(json!({"true_token_id": null})), ErrorKind::Model, "no `true_token_id`"),
        (two, Some(json!({"true_token_id": 30})), ErrorKind::Model, "`true_token_id` in `1_Log"),
        (two, Some(json!({"true_token_id": -1})), ErrorKind::Model, "config.json` is `-1`"),
        (two, Some(json!({"true_token_id": "yes"})), ErrorKind::Model, "is `\"yes\"`"),
        (two, Some(json!({"true_token_id": 1.5})), ErrorKind::Model, "is `1.5`"),
        (
            two,
            Some(json!({"true_token_id": 1, "false_token_id": 4_294_967_297_u64})),
            ErrorKind::Model,
            "`false_token_id` in `1_LogitScore/config.json` is `4294967297`",
        ),
        (
            two,
            Some(json!({"true_token_id": 1, "module_input_name": "scores"})),
            ErrorKind::Unsupported,
            "`module_input_name: \"scores\"`",
        ),
        (
            &["Transformer", "Dense", "LogitScore"],
            None,
            ErrorKind::Unsupported,
            "module 2 of modules.json is a LogitScore",
        ),
        (
            &["Transformer", "LogitScore", "Dense"],
            Some(json!({"true_token_id": 1})),
            ErrorKind::Unsupported,
            "module 1 of modules.json is a LogitScore",
        ),
        (&["Transformer"], None, ErrorKind::Unsupported, "`transformer_task: \"text-generation\"`"),
    ] {
        let dir = reranker(kinds, file.clone());
        let error = read(dir.path()).unwrap_err();
        assert_eq!(error.kind(), kind, "{kinds:?} {file:?}: {error}");
        assert!(error.to_string().contains(text), "{kinds:?} {file:?}: {error}");
    }
    // A bi-encoder has no pair to score.
    let dir = reranker(two, Some(json!({"true_token_id": 1})));
    fs::write(dir.path().join("config_sentence_transformers.json"), "{}").unwrap();
    let error = read(dir.path()).unwrap_err();
    assert!(error.to_string().contains("a SentenceTransformer cannot have"), "{error}");
}

#[test]
fn the_form_of_messages_follows_the_settings_or_the_template() {
    let message = |format: Value| {
        let forward = json!({"method": "forward", "method_output_name": "logits"});
        let mut message = forward.clone();
        message["format"] = format;
        let dir = reranker(&["Transformer", "LogitScore"], Some(json!({"true_token_id": 1})));
        let settings = json!({"transformer_task": "text-generation",
            "module_output_name": "causal_logits",
            "modality_config": {"text": forward, "message": message},
            "processing_kwargs": {"chat_template": {
                "add_generation_prompt": true, "restore_suffix": false, "max_length": 9, "think": 1}}});
        fs::write(dir.path().join("sentence_bert_config.json"), settings.to_string()).unwrap();
        read(dir.path()).unwrap().pair_messages
    };
    let flat = message(json!("flat"));
    assert_eq!(flat.format, Some(MessageFormat::Flat));
    assert_eq!((flat.used, flat.max_length), (Some(true), Some(9)));
    assert!(flat.add_generation_prompt && !flat.restore_suffix);
    assert_eq!(Value::Object(flat.variables), json!({"think": 1}));
    assert_eq!(message(json!("structured")).format, Some(MessageFormat::Structured));
    assert_eq!(message(json!("auto")).format, None);
    for (template, expected) in [
        (Some("{{ messages[0].content }}"), MessageFormat::Flat),
        (Some("{{ messages[0].content[0].text }}"), MessageFormat::Structured),
        (Some("{% if part['type'] == 'text' %}"), MessageFormat::Structured),
        (Some(""), MessageFormat::Structured),
        (None, MessageFormat::Structured),
    ] {
        assert_eq!(MessageFormat::of_template(template), expected, "{template:?}");
    }
}
