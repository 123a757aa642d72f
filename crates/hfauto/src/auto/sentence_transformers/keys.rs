//! Every key of the files of sentence-transformers and how it is handled: one table, with a test for each row.
//!
//! # Source
//! `config_keys` of the modules and `_parse_model_config` of the models of sentence-transformers at v6.2, with the
//! names of older releases.

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};

/// A file of sentence-transformers, or a map within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    /// An entry of `modules.json`.
    Modules,
    /// `config_sentence_transformers.json`.
    Model,
    /// `sentence_transformers` of `config.json`, where cross-encoders before 5.4 keep their activation.
    ConfigJson,
    /// `sentence_bert_config.json`, and its names for other families in old models.
    Transformer,
    /// `model_kwargs` of it, `model_args` before 5.4.
    ModelKwargs,
    /// `processor_kwargs` of it, `tokenizer_args` before 5.4.
    ProcessorKwargs,
    /// `config_kwargs` of it, `config_args` before 5.4. Its other keys are settings of the family.
    ConfigKwargs,
    /// `processing_kwargs` of it.
    Processing,
    /// `processing_kwargs.text` and `processing_kwargs.common` of it.
    ProcessingText,
    /// `processing_kwargs.chat_template` of it. Its other keys are variables of the chat template.
    ChatTemplate,
    Pooling,
    Dense,
    Normalize,
    LayerNorm,
    Dropout,
    SpladePooling,
    SparseStaticEmbedding,
    LogitScore,
    MultiVectorMask,
}

/// How a key is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It affects the computation.
    Counts,
    /// It has no effect here.
    Harmless,
    /// It is not implemented; these values, as JSON, turn it off, and so does `null`.
    Refused(&'static [&'static str]),
}
use Effect::{Counts, Harmless, Refused};

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub(super) file: File,
    pub(super) key: &'static str,
    pub(super) effect: Effect,
    /// A value, as JSON, for the tests of the row.
    #[cfg_attr(not(test), expect(dead_code, reason = "read by the tests of the table"))]
    pub(super) example: &'static str,
}

const fn row(file: File, key: &'static str, effect: Effect, example: &'static str) -> Key {
    Key { file, key, effect, example }
}

/// The table.
pub(super) const KEYS: &[Key] = &[
    row(File::Modules, "idx", Harmless, "7"),
    row(File::Modules, "name", Harmless, r#""x""#),
    row(File::Modules, "path", Counts, r#""1_Other""#),
    row(File::Modules, "type", Counts, r#""sentence_transformers.models.Normalize""#),
    // Options of `encode` for the modules: no built-in module changes its result by them.
    row(File::Modules, "kwargs", Harmless, r#"["task"]"#),
    row(File::Model, "__version__", Harmless, r#"{"sentence_transformers": "6.2.0"}"#),
    // Settings of PyLate.
    row(File::Model, "attend_to_expansion_tokens", Counts, "true"),
    row(File::Model, "attend_to_mask_tokens", Counts, "true"),
    row(File::Model, "do_query_expansion", Counts, "true"),
    row(File::Model, "document_length", Counts, "9"),
    row(File::Model, "document_prefix", Counts, r#""[D] ""#),
    row(File::Model, "query_expansion", Counts, "null"),
    row(File::Model, "query_length", Counts, "9"),
    row(File::Model, "query_prefix", Counts, r#""[Q] ""#),
    row(File::Model, "skiplist_words", Counts, r#"["."]"#),
    row(File::Model, "activation_fn", Counts, r#""torch.nn.modules.linear.Identity""#),
    row(File::Model, "default_prompt_name", Counts, r#""b""#),
    row(File::Model, "keep_in_fp32_modules", Counts, r#"["0.model.classifier"]"#),
    row(File::Model, "max_active_dims", Counts, "3"),
    row(File::Model, "model_type", Counts, r#""SparseEncoder""#),
    row(File::Model, "prompts", Counts, r#"{"a": "", "b": "x"}"#),
    // Versions of Python packages.
    row(File::Model, "requirements", Harmless, r#"{"transformers": ">=5"}"#),
    // The metric for comparing vectors, which `models` prints.
    row(File::Model, "similarity_fn_name", Harmless, r#""dot""#),
    row(File::Model, "truncate_dim", Counts, "3"),
    row(File::ConfigJson, "activation_fn", Counts, r#""torch.nn.modules.linear.Identity""#),
    row(File::ConfigJson, "version", Harmless, r#""5.1.0""#),
    row(File::Transformer, "config_args", Counts, r#"{"hidden_act": "relu"}"#),
    row(File::Transformer, "config_kwargs", Counts, r#"{"hidden_act": "relu"}"#),
    row(File::Transformer, "do_lower_case", Counts, "true"),
    // A bi-encoder uses it in `encode_query` and `encode_document` only.
    row(File::Transformer, "document_length", Harmless, "9"),
    row(File::Transformer, "max_seq_length", Counts, "9"),
    row(
        File::Transformer,
        "modality_config",
        Counts,
        r#"{"text": {"method": "get_text_features", "method_output_name": null}}"#,
    ),
    row(File::Transformer, "model_args", Counts, r#"{"gguf_file": "x.gguf"}"#),
    row(File::Transformer, "model_kwargs", Counts, r#"{"gguf_file": "x.gguf"}"#),
    row(File::Transformer, "module_output_name", Counts, r#""other""#),
    row(File::Transformer, "processing_kwargs", Counts, r#"{"text": {"max_length": 9}}"#),
    row(File::Transformer, "processor_kwargs", Counts, r#"{"strip_accents": true}"#),
    row(File::Transformer, "query_expansion", Counts, r#"{"strategy": "min", "length": 8}"#),
    row(File::Transformer, "query_length", Harmless, "9"),
    row(File::Transformer, "tokenizer_args", Counts, r#"{"strip_accents": true}"#),
    row(File::Transformer, "tokenizer_name_or_path", Refused(&[]), r#""other/model""#),
    row(File::Transformer, "transformer_task", Counts, r#""text-generation""#),
    // Padding is never applied here.
    row(File::Transformer, "unpad_inputs", Harmless, "true"),
    row(File::ModelKwargs, "add_pooling_layer", Harmless, "false"),
    row(File::ModelKwargs, "attn_implementation", Harmless, r#""sdpa""#),
    row(File::ModelKwargs, "cache_dir", Harmless, r#""x""#),
    row(File::ModelKwargs, "code_revision", Harmless, r#""main""#),
    // The adapter that a checkpoint of Jina Embeddings v3 merges.
    row(File::ModelKwargs, "default_task", Counts, r#""separation""#),
    row(File::ModelKwargs, "device_map", Harmless, r#""auto""#),
    // The pipeline sets the dtype: f32 on a CPU.
    row(File::ModelKwargs, "dtype", Harmless, r#""float16""#),
    row(File::ModelKwargs, "export", Harmless, "true"),
    row(File::ModelKwargs, "file_name", Harmless, r#""x.onnx""#),
    row(File::ModelKwargs, "force_download", Harmless, "true"),
    row(File::ModelKwargs, "gguf_file", Refused(&[]), r#""x.gguf""#),
    row(File::ModelKwargs, "ignore_mismatched_sizes", Refused(&["false"]), "true"),
    row(File::ModelKwargs, "load_in_4bit", Refused(&["false"]), "true"),
    row(File::ModelKwargs, "load_in_8bit", Refused(&["false"]), "true"),
    row(File::ModelKwargs, "local_files_only", Harmless, "true"),
    row(File::ModelKwargs, "low_cpu_mem_usage", Harmless, "true"),
    row(File::ModelKwargs, "max_memory", Harmless, "{}"),
    row(File::ModelKwargs, "offload_folder", Harmless, r#""x""#),
    row(File::ModelKwargs, "provider", Harmless, r#""CPUExecutionProvider""#),
    row(File::ModelKwargs, "quantization_config", Refused(&[]), "{}"),
    row(File::ModelKwargs, "reference_compile", Harmless, "false"),
    // sentence-transformers replaces these by its own.
    row(File::ModelKwargs, "revision", Harmless, r#""main""#),
    row(File::ModelKwargs, "subfolder", Harmless, r#""x""#),
    row(File::ModelKwargs, "token", Harmless, "true"),
    row(File::ModelKwargs, "torch_dtype", Harmless, r#""float16""#),
    row(File::ModelKwargs, "trust_remote_code", Harmless, "true"),
    row(File::ModelKwargs, "use_auth_token", Harmless, "true"),
    row(File::ModelKwargs, "use_safetensors", Harmless, "true"),
    row(File::ModelKwargs, "variant", Refused(&[]), r#""fp16""#),
    row(File::ProcessorKwargs, "add_prefix_space", Counts, "true"),
    row(File::ProcessorKwargs, "cache_dir", Harmless, r#""x""#),
    // Affects decoding only.
    row(File::ProcessorKwargs, "clean_up_tokenization_spaces", Harmless, "true"),
    row(File::ProcessorKwargs, "do_lower_case", Counts, "false"),
    row(File::ProcessorKwargs, "force_download", Harmless, "true"),
    row(File::ProcessorKwargs, "local_files_only", Harmless, "true"),
    row(File::ProcessorKwargs, "model_input_names", Counts, r#"["input_ids", "attention_mask"]"#),
    row(File::ProcessorKwargs, "model_max_length", Counts, "9"),
    // Padding is never applied here.
    row(File::ProcessorKwargs, "padding_side", Harmless, r#""left""#),
    row(File::ProcessorKwargs, "pad_token", Harmless, r#""[PAD]""#),
    row(File::ProcessorKwargs, "revision", Harmless, r#""main""#),
    row(File::ProcessorKwargs, "strip_accents", Counts, "true"),
    row(File::ProcessorKwargs, "subfolder", Harmless, r#""x""#),
    row(File::ProcessorKwargs, "token", Harmless, "true"),
    row(File::ProcessorKwargs, "tokenize_chinese_chars", Counts, "false"),
    row(File::ProcessorKwargs, "truncation_side", Counts, r#""left""#),
    row(File::ProcessorKwargs, "trust_remote_code", Harmless, "true"),
    row(File::ProcessorKwargs, "use_auth_token", Harmless, "true"),
    row(File::ProcessorKwargs, "use_fast", Harmless, "true"),
    row(File::ConfigKwargs, "attn_implementation", Harmless, r#""sdpa""#),
    row(File::ConfigKwargs, "cache_dir", Harmless, r#""x""#),
    row(File::ConfigKwargs, "code_revision", Harmless, r#""main""#),
    row(File::ConfigKwargs, "dtype", Harmless, r#""float16""#),
    row(File::ConfigKwargs, "local_files_only", Harmless, "true"),
    row(File::ConfigKwargs, "revision", Harmless, r#""main""#),
    row(File::ConfigKwargs, "subfolder", Harmless, r#""x""#),
    row(File::ConfigKwargs, "token", Harmless, "true"),
    row(File::ConfigKwargs, "torch_dtype", Harmless, r#""float16""#),
    row(File::ConfigKwargs, "trust_remote_code", Harmless, "true"),
    row(File::ConfigKwargs, "use_auth_token", Harmless, "true"),
    row(File::ConfigKwargs, "use_cache", Harmless, "true"),
    row(File::Processing, "audio", Harmless, "{}"),
    // Only cross-encoders render texts as messages.
    row(File::Processing, "chat_template", Counts, r#"{"add_generation_prompt": true}"#),
    row(File::Processing, "common", Counts, r#"{"max_length": 9}"#),
    row(File::Processing, "image", Harmless, "{}"),
    row(File::Processing, "text", Counts, r#"{"max_length": 9}"#),
    row(File::Processing, "video", Harmless, "{}"),
    row(File::ProcessingText, "add_special_tokens", Refused(&["true"]), "false"),
    row(File::ProcessingText, "logits_to_keep", Harmless, "1"),
    row(File::ProcessingText, "max_length", Counts, "9"),
    row(File::ProcessingText, "pad_to_multiple_of", Harmless, "8"),
    row(File::ProcessingText, "padding", Harmless, r#""max_length""#),
    row(File::ProcessingText, "padding_side", Harmless, r#""left""#),
    row(File::ProcessingText, "return_tensors", Harmless, r#""pt""#),
    row(
        File::ProcessingText,
        "truncation",
        Refused(&["true", r#""longest_first""#]),
        r#""only_second""#,
    ),
    row(File::ChatTemplate, "add_generation_prompt", Counts, "true"),
    row(File::ChatTemplate, "chat_template", Counts, r#""name""#),
    row(File::ChatTemplate, "continue_final_message", Refused(&["false"]), "true"),
    // Arguments that sentence-transformers sets itself.
    row(File::ChatTemplate, "conversation", Refused(&[]), "[]"),
    row(File::ChatTemplate, "max_length", Counts, "9"),
    row(File::ChatTemplate, "messages", Refused(&[]), "[]"),
    row(File::ChatTemplate, "padding", Harmless, r#""max_length""#),
    row(File::ChatTemplate, "restore_suffix", Counts, "false"),
    row(File::ChatTemplate, "return_dict", Refused(&[]), "true"),
    row(File::ChatTemplate, "return_tensors", Harmless, r#""pt""#),
    row(File::ChatTemplate, "tokenize", Refused(&[]), "true"),
    row(
        File::ChatTemplate,
        "truncation",
        Refused(&["true", r#""longest_first""#]),
        r#""only_second""#,
    ),
    // The width comes from the model.
    row(File::Pooling, "embedding_dimension", Harmless, "8"),
    row(File::Pooling, "include_prompt", Counts, "false"),
    row(File::Pooling, "pooling_mode", Counts, r#""cls""#),
    row(File::Pooling, "pooling_mode_cls_token", Counts, "true"),
    row(File::Pooling, "pooling_mode_lasttoken", Counts, "true"),
    row(File::Pooling, "pooling_mode_max_tokens", Counts, "false"),
    row(File::Pooling, "pooling_mode_mean_sqrt_len_tokens", Counts, "true"),
    row(File::Pooling, "pooling_mode_mean_tokens", Counts, "true"),
    row(File::Pooling, "pooling_mode_weightedmean_tokens", Counts, "true"),
    row(File::Pooling, "word_embedding_dimension", Harmless, "8"),
    row(File::Dense, "activation_function", Counts, r#""torch.nn.modules.activation.ReLU""#),
    row(File::Dense, "bias", Counts, "false"),
    row(File::Dense, "in_features", Counts, "9"),
    row(File::Dense, "module_input_name", Counts, r#""token_embeddings""#),
    row(File::Dense, "module_output_name", Counts, r#""scores""#),
    row(File::Dense, "out_features", Counts, "3"),
    row(File::Dense, "use_residual", Counts, "true"),
    row(File::Normalize, "module_input_name", Counts, r#""token_embeddings""#),
    row(File::Normalize, "module_output_name", Counts, r#""other""#),
    row(File::LayerNorm, "dimension", Counts, "9"),
    // Training only.
    row(File::Dropout, "dropout", Harmless, "0.5"),
    row(File::SpladePooling, "activation_function", Counts, r#""log1p_relu""#),
    row(File::SpladePooling, "chunk_size", Harmless, "4"),
    row(File::SpladePooling, "embedding_dimension", Harmless, "8"),
    row(File::SpladePooling, "pooling_strategy", Counts, r#""sum""#),
    row(File::SpladePooling, "word_embedding_dimension", Harmless, "8"),
    // Training only.
    row(File::SparseStaticEmbedding, "frozen", Harmless, "true"),
    row(File::SparseStaticEmbedding, "path", Counts, r#""idf.json""#),
    row(File::LogitScore, "false_token_id", Counts, "2"),
    row(File::LogitScore, "module_input_name", Counts, r#""scores""#),
    row(File::LogitScore, "true_token_id", Counts, "3"),
    row(File::MultiVectorMask, "keep_only_token_ids", Counts, "[3]"),
    row(File::MultiVectorMask, "skiplist_tasks", Counts, r#"["query"]"#),
    row(File::MultiVectorMask, "skiplist_words", Counts, r#"["."]"#),
];

/// Checks that every key of `json`, found at `place`, is in the table and not refused.
///
/// # Errors
/// `Unsupported` with the key.
pub(super) fn check(file: File, json: &Map<String, Value>, place: &str) -> Result<()> {
    for (key, value) in json {
        let effect =
            KEYS.iter().find(|row| row.file == file && row.key == key).map(|row| row.effect);
        let refused = match effect {
            Some(Counts | Harmless) => false,
            Some(Refused(off)) => {
                let written = value.to_string();
                !value.is_null() && !off.contains(&written.as_str())
            }
            // Other keys are settings of the family, which its configuration checks, or variables of the template.
            None => !matches!(file, File::ConfigKwargs | File::ChatTemplate),
        };
        if refused {
            return Err(not_implemented(key, value, place).hint(match effect {
                Some(_) => "models with this setting are not implemented".to_owned(),
                None => format!("known keys are: {}", known(file)),
            }));
        }
    }
    Ok(())
}

/// Whether `key` has no effect.
pub(super) fn is_harmless(file: File, key: &str) -> bool {
    KEYS.iter().any(|row| row.file == file && row.key == key && row.effect == Harmless)
}

/// The error for a value of a key that is not implemented.
pub(super) fn not_implemented(key: &str, value: &Value, place: &str) -> Error {
    let mut written: String = value.to_string().chars().take(120).collect();
    if written.len() < value.to_string().len() {
        written.push('…');
    }
    Error::new(ErrorKind::Unsupported, format!("`{key}: {written}` in {place} is not implemented"))
}

fn known(file: File) -> String {
    let keys = KEYS.iter().filter(|row| row.file == file).map(|row| row.key);
    keys.collect::<Vec<_>>().join(", ")
}
