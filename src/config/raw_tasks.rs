//! The steps of a pipeline file as written: one type per task, with the options of that task under
//! the names of transformers and sentence-transformers. The doc comments are the descriptions of the
//! JSON Schema.

use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::Deserialize;

use super::raw::{ColumnOr, RawEarlyStopping, StringOrList, TokenIds, TopK};

/// A step: one key, a task id of Hugging Face or `sql`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawStep {
    /// A SQL query over the table `input`, the rows of the step before.
    Sql(String),
    /// Text to embeddings or hidden states.
    FeatureExtraction(RawFeatureExtraction),
    /// Text to labels.
    TextClassification(RawTextClassification),
    /// Text to labels that the pipeline names.
    ZeroShotClassification(RawZeroShotClassification),
    /// How well a document answers a query.
    Rerank(RawRerank),
    /// Text to labelled spans.
    TokenClassification(RawTokenClassification),
    /// A question and a context to the span that answers.
    QuestionAnswering(RawQuestionAnswering),
    /// The best tokens for a mask.
    FillMask(RawFillMask),
    /// Text to a sparse vector over the vocabulary (SPLADE).
    SparseEncoding(RawSparseEncoding),
    /// A prompt to its continuation.
    TextGeneration(RawTextGeneration),
    /// How likely a model finds a text.
    Loglikelihood(RawLoglikelihood),
    /// Text to text with an encoder and a decoder.
    #[serde(rename = "text2text-generation")]
    Text2TextGeneration(RawText2TextGeneration),
    /// Text to its summary.
    Summarization(RawText2TextGeneration),
    /// Text to another language.
    Translation(RawText2TextGeneration),
    /// The best of several choices.
    MultipleChoice(RawMultipleChoice),
    /// Whether one text follows another.
    NextSentencePrediction(RawNextSentencePrediction),
    /// Images to labels.
    ImageClassification(RawImageClassification),
    /// How many tokens a text has.
    TokenCount(RawTokenCount),
}

/// Declares a task: the keys that every model task has, then its own.
macro_rules! task {
    (
        $(#[$doc:meta])*
        $name:ident {
            $(#[$input_doc:meta])* input: $input:ty,
            $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// The model: an alias of `models`, a hub id (`org/name`) or a local directory.
            pub model: String,
            $(#[$input_doc])*
            pub input: $input,
            /// The new column.
            pub output: String,
            /// Tokens that a row may have, special tokens included. Default: the model's maximum.
            pub max_length: Option<NonZeroU64>,
            /// Whether longer rows are cut. Default: true where the task reads, false where it
            /// generates; with `false`, a longer row is an error.
            pub truncation: Option<bool>,
            /// The Auto class to load the model with, such as `AutoModelForSeq2SeqLM`. Default: by
            /// the task.
            pub auto_class: Option<String>,
            /// Accept a checkpoint without the head that the task needs, and fill the head with
            /// random weights. Default: false.
            pub allow_new_head: Option<bool>,
            /// Outputs of the model to store.
            pub outputs: Option<Vec<RawModelOutput>>,
            $($(#[$field_doc])* pub $field: $type,)*
        }
    };
}

/// An output of a model, as transformers names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawModelOutput {
    /// The last layer's vector of every token.
    LastHiddenState,
    /// The pooler's vector.
    PoolerOutput,
    /// Every layer's vector of every token, the embeddings first.
    HiddenStates,
    /// Every layer's attention weights.
    Attentions,
    /// A classifier's scores before any function.
    Logits,
}

task! {
    /// `feature-extraction`: text to embeddings or hidden states.
    RawFeatureExtraction {
        /// The text column.
        input: String,
        /// How the vectors of the tokens become one; `none` keeps them all. Default: by the model's
        /// `modules.json`, else `mean`.
        pooling: Option<RawPooling>,
        /// Whether embeddings are scaled to length 1. Default: by the model's `modules.json`, else
        /// false.
        normalize: Option<bool>,
        /// Text put before every row.
        prompt: Option<String>,
        /// The name of a prompt of the model's `config_sentence_transformers.json`.
        prompt_name: Option<String>,
        /// Keep only the first so many dimensions (Matryoshka).
        dimensions: Option<NonZeroU64>,
        /// What embeddings are stored as. Default: `f32`.
        precision: Option<RawPrecision>,
    }
}

/// How the vectors of the tokens become one, as sentence-transformers names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawPooling {
    /// The first token's.
    Cls,
    /// Their mean.
    Mean,
    /// Their maximum.
    Max,
    /// Their sum, divided by the square root of their number.
    MeanSqrtLenTokens,
    /// Their mean, weighted by position.
    #[serde(rename = "weightedmean")]
    WeightedMean,
    /// The last token's.
    #[serde(rename = "lasttoken")]
    LastToken,
    /// All of them.
    None,
}

/// What embeddings are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawPrecision {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// Signed bytes over the range of each dimension.
    Int8,
    /// Unsigned bytes over the range of each dimension.
    Uint8,
    /// One bit a dimension, packed to signed bytes.
    Binary,
    /// One bit a dimension, packed to unsigned bytes.
    Ubinary,
}

/// A text and the text that it is paired with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawTextPair {
    /// The column of the first text.
    pub text: String,
    /// The column of the second text.
    pub text_pair: String,
}

task! {
    /// `text-classification`: text to labels.
    RawTextClassification {
        /// The text column, or `{text, text_pair}`.
        input: ColumnOr<RawTextPair>,
        /// How many labels, best first: a number, or `all`. Default: 1.
        top_k: Option<TopK>,
        /// What makes scores of logits. Default: by the model's configuration.
        function_to_apply: Option<RawFunctionToApply>,
    }
}

/// What makes scores of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawFunctionToApply {
    /// Each label by itself.
    Sigmoid,
    /// All labels together.
    Softmax,
    /// The logits as they are.
    None,
}

task! {
    /// `zero-shot-classification`: text to labels that the pipeline names.
    RawZeroShotClassification {
        /// The text column.
        input: String,
        /// The labels.
        candidate_labels: StringOrList,
        /// The sentence that a label is put into, at `{}`. Default: `This example is {}.`
        hypothesis_template: Option<String>,
        /// Whether several labels may hold at once. Default: false.
        multi_label: Option<bool>,
    }
}

/// A query and a document.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawQueryDocument {
    /// The column of the query.
    pub query: String,
    /// The column of the document.
    pub document: String,
}

task! {
    /// `rerank`: how well a document answers a query.
    RawRerank {
        /// `{query, document}`.
        input: RawQueryDocument,
        /// What makes a score of the logit. Default: by the model's configuration.
        activation: Option<RawActivation>,
        /// Text put before every query. Default: the model's default prompt.
        prompt: Option<String>,
        /// The name of a prompt of the model's `config_sentence_transformers.json`.
        prompt_name: Option<String>,
    }
}

/// What makes a score of a logit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawActivation {
    /// A number from 0 to 1.
    Sigmoid,
    /// The logit as it is.
    Identity,
}

task! {
    /// `token-classification`: text to labelled spans.
    RawTokenClassification {
        /// The text column.
        input: String,
        /// How tokens are joined to spans. Default: `none`.
        aggregation_strategy: Option<RawAggregationStrategy>,
        /// Labels to leave out. Default: `[O]`.
        ignore_labels: Option<Vec<String>>,
        /// Tokens that the windows of a long text share.
        stride: Option<u64>,
    }
}

/// How tokens are joined to spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawAggregationStrategy {
    /// Not at all.
    None,
    /// By label.
    Simple,
    /// By label; a word has the label of its first token.
    First,
    /// By label; a word has the label of the mean scores.
    Average,
    /// By label; a word has the label of its best token.
    Max,
}

/// A question and a context.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawQuestionContext {
    /// The column of the question.
    pub question: String,
    /// The column of the context.
    pub context: String,
}

task! {
    /// `question-answering`: a question and a context to the span that answers.
    RawQuestionAnswering {
        /// `{question, context}`.
        input: RawQuestionContext,
        /// How many answers, best first. Default: 1.
        top_k: Option<NonZeroU64>,
        /// Tokens that the windows of a long context share. Default: 128.
        doc_stride: Option<u64>,
        /// Tokens of a window. Default: 384.
        max_seq_len: Option<NonZeroU64>,
        /// Tokens of the question. Default: 64.
        max_question_len: Option<NonZeroU64>,
        /// Tokens of an answer. Default: 15.
        max_answer_len: Option<NonZeroU64>,
        /// Whether no answer is an answer. Default: false.
        handle_impossible_answer: Option<bool>,
    }
}

task! {
    /// `fill-mask`: the best tokens for a mask.
    RawFillMask {
        /// The text column; each text holds the model's mask token.
        input: String,
        /// How many tokens, best first. Default: 5.
        top_k: Option<NonZeroU64>,
        /// Only these words.
        targets: Option<StringOrList>,
        /// Whether a text may hold several masks. Default: false.
        multiple_masks: Option<bool>,
    }
}

task! {
    /// `sparse-encoding`: text to a sparse vector over the vocabulary (SPLADE).
    RawSparseEncoding {
        /// The text column.
        input: String,
        /// How the vectors of the tokens become one. Default: `max`.
        pooling: Option<RawSparsePooling>,
        /// Keep only the so many greatest weights. Default: the model's `max_active_dims`.
        top_k: Option<NonZeroU64>,
        /// Text put before every row. Default: the model's default prompt.
        prompt: Option<String>,
        /// The name of a prompt of the model's `config_sentence_transformers.json`.
        prompt_name: Option<String>,
    }
}

/// How the sparse vectors of the tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawSparsePooling {
    /// Their maximum.
    Max,
    /// Their sum.
    Sum,
}

/// A conversation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawMessages {
    /// The column of the messages, a list of `{role, content}`.
    pub messages: String,
}

/// Declares a task that generates: the options that all of them have, then its own.
macro_rules! generating_task {
    (
        $(#[$doc:meta])*
        $name:ident {
            $(#[$input_doc:meta])* input: $input:ty,
            $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
        }
    ) => {
        task! {
            $(#[$doc])*
            $name {
                $(#[$input_doc])* input: $input,
                /// Tokens to generate at most. Default: by the model's generation_config.json, else 256.
                max_new_tokens: Option<NonZeroU64>,
                /// Tokens to generate at least.
                min_new_tokens: Option<u64>,
                /// Whether tokens are drawn at random. Default: by the model's
                /// generation_config.json, else false.
                do_sample: Option<bool>,
                /// How random: below 1 less, above 1 more.
                #[schemars(range(min = 0))]
                temperature: Option<f64>,
                /// Draw from the so many best tokens; 0 is no bound.
                top_k: Option<u64>,
                /// Draw from the best tokens that have this probability together.
                #[schemars(range(min = 0, max = 1))]
                top_p: Option<f64>,
                /// Draw from the tokens that have this share of the best one's probability.
                #[schemars(range(min = 0, max = 1))]
                min_p: Option<f64>,
                /// Above 1, tokens that were there before become less likely.
                #[schemars(range(min = 0))]
                repetition_penalty: Option<f64>,
                /// No run of so many tokens comes twice; 0 is no bound.
                no_repeat_ngram_size: Option<u64>,
                /// Beams of the search; 1 is none.
                num_beams: Option<NonZeroU64>,
                /// Above 0, longer beams are better; below 0, shorter ones. Default: 1.
                length_penalty: Option<f64>,
                /// When a beam search ends: `true` as soon as there are enough finished beams, `false`
                /// when no better one is likely, `never` when there can be none.
                early_stopping: Option<RawEarlyStopping>,
                /// Tokens that end a generation: an id or a list of them. Default: by the model's
                /// generation_config.json.
                eos_token_id: Option<TokenIds>,
                /// Strings that end a generation.
                stop: Option<StringOrList>,
                /// Where random numbers start from. A row's numbers depend on this and on its prompt.
                seed: Option<u64>,
                $($(#[$field_doc])* $field: $type,)*
            }
        }

        impl $name {
            /// The options that all generating tasks have.
            pub(crate) fn generation(&self) -> RawGeneration<'_> {
                RawGeneration {
                    max_new_tokens: self.max_new_tokens,
                    min_new_tokens: self.min_new_tokens,
                    do_sample: self.do_sample,
                    temperature: self.temperature,
                    top_k: self.top_k,
                    top_p: self.top_p,
                    min_p: self.min_p,
                    repetition_penalty: self.repetition_penalty,
                    no_repeat_ngram_size: self.no_repeat_ngram_size,
                    num_beams: self.num_beams,
                    length_penalty: self.length_penalty,
                    early_stopping: self.early_stopping,
                    eos_token_id: self.eos_token_id.as_ref(),
                    stop: self.stop.as_ref(),
                    seed: self.seed,
                }
            }
        }
    };
}

/// The options that all generating tasks have, of one step.
pub(crate) struct RawGeneration<'a> {
    pub(crate) max_new_tokens: Option<NonZeroU64>,
    pub(crate) min_new_tokens: Option<u64>,
    pub(crate) do_sample: Option<bool>,
    pub(crate) temperature: Option<f64>,
    pub(crate) top_k: Option<u64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) min_p: Option<f64>,
    pub(crate) repetition_penalty: Option<f64>,
    pub(crate) no_repeat_ngram_size: Option<u64>,
    pub(crate) num_beams: Option<NonZeroU64>,
    pub(crate) length_penalty: Option<f64>,
    pub(crate) early_stopping: Option<RawEarlyStopping>,
    pub(crate) eos_token_id: Option<&'a TokenIds>,
    pub(crate) stop: Option<&'a StringOrList>,
    pub(crate) seed: Option<u64>,
}

generating_task! {
    /// `text-generation`: a prompt to its continuation.
    RawTextGeneration {
        /// The column of the prompt, or `{messages}`.
        input: ColumnOr<RawMessages>,
        /// Whether the result begins with the prompt. Default: false.
        return_full_text: Option<bool>,
        /// A chat template in the place of the model's.
        chat_template: Option<String>,
    }
}

/// A context and its continuation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawContextContinuation {
    /// The column of the context.
    pub context: String,
    /// The column of the continuation, whose likelihood counts.
    pub continuation: String,
}

task! {
    /// `loglikelihood`: how likely a model finds a text.
    RawLoglikelihood {
        /// The text column, or `{context, continuation}`.
        input: ColumnOr<RawContextContinuation>,
        /// Tokens that the windows of a long text move by.
        stride: Option<NonZeroU64>,
    }
}

generating_task! {
    /// `text2text-generation`, `summarization` and `translation`: text to text with an encoder and a
    /// decoder.
    RawText2TextGeneration {
        /// The text column.
        input: String,
        /// Text put before every row, such as `summarize: `.
        prefix: Option<String>,
        /// The language of the input.
        src_lang: Option<String>,
        /// The language of the output.
        tgt_lang: Option<String>,
    }
}

/// A prompt and its choices.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawPromptChoices {
    /// The column of the prompt.
    pub prompt: String,
    /// The columns of the choices, or one column that holds a list.
    pub choices: StringOrList,
}

task! {
    /// `multiple-choice`: the best of several choices.
    RawMultipleChoice {
        /// `{prompt, choices}`.
        input: RawPromptChoices,
    }
}

task! {
    /// `next-sentence-prediction`: whether one text follows another.
    RawNextSentencePrediction {
        /// `{text, text_pair}`.
        input: RawTextPair,
    }
}

task! {
    /// `image-classification`: images to labels.
    RawImageClassification {
        /// The column of the images: paths, relative to this file, or their bytes.
        input: String,
        /// How many labels, best first: a number, or `all`. Default: 5.
        top_k: Option<TopK>,
    }
}

task! {
    /// `token-count`: how many tokens a text has.
    RawTokenCount {
        /// The text column.
        input: String,
    }
}
