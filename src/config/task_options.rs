//! The model steps as used: a task with its options, its columns and its model. Not here: how they are
//! written (`raw_tasks`), where defaults are the model's own (`crate::tasks`).

use super::pipeline::{ModelOutputName, ModelSpec, Pooling, Precision};

/// A step that runs a model.
#[derive(Clone, Debug)]
pub struct TaskStep {
    /// The task and its own options.
    pub options: TaskOptions,
    /// The model.
    pub model: ModelSpec,
    /// Its name as written: alias, hub id or directory.
    pub model_name: String,
    /// The new column.
    pub output: String,
    /// Tokens a row may have, special tokens included; `None` means the model's maximum.
    pub max_length: Option<usize>,
    /// Cut longer rows (and count them); with `false` a longer row is an error; `None` means the task's
    /// default.
    pub truncation: Option<bool>,
    /// The Auto class to load the model with; `None` means the task's.
    pub auto_class: Option<String>,
    /// Fill a head that the checkpoint lacks with random weights.
    pub allow_new_head: bool,
    /// Store a classifier's logits beside its labels (`outputs: [logits]`).
    pub logits: bool,
}

/// Declares the tasks, and what they read.
macro_rules! tasks {
    ($($(#[$doc:meta])* $name:ident($options:ident),)*) => {
        /// A task with its options.
        #[derive(Clone, Debug)]
        pub enum TaskOptions {
            $($(#[$doc])* $name($options),)*
        }

        impl TaskOptions {
            /// The columns that the task reads, in order.
            pub fn inputs(&self) -> Vec<&str> {
                match self {
                    $(Self::$name(options) => options.inputs(),)*
                }
            }
        }
    };
}

tasks! {
    /// A text column to embeddings or hidden states.
    FeatureExtraction(FeatureExtraction),
    /// A text or a pair to labels.
    TextClassification(TextClassification),
    /// A text to labels that the pipeline names.
    ZeroShotClassification(ZeroShotClassification),
    /// How well a document answers a query.
    Rerank(Rerank),
    /// A text to labelled spans.
    TokenClassification(TokenClassification),
    /// A question and a context to the span that answers.
    QuestionAnswering(QuestionAnswering),
    /// The best tokens for a mask.
    FillMask(FillMask),
    /// A text to a sparse vector over the vocabulary.
    SparseEncoding(SparseEncoding),
    /// A prompt to its continuation.
    TextGeneration(TextGeneration),
    /// How likely a model finds a text.
    Loglikelihood(Loglikelihood),
    /// Text to text with an encoder and a decoder; also `summarization` and `translation`.
    Text2TextGeneration(Text2TextGeneration),
    /// The best of several choices.
    MultipleChoice(MultipleChoice),
    /// Whether one text follows another.
    NextSentencePrediction(NextSentencePrediction),
    /// Images to labels.
    ImageClassification(ImageClassification),
    /// How many tokens a text has.
    TokenCount(TokenCount),
}

/// `feature-extraction`.
#[derive(Clone, Debug)]
pub struct FeatureExtraction {
    /// The text column.
    pub input: String,
    /// How token vectors become one; `None` means by `modules.json`, else mean.
    pub pooling: Option<Pooling>,
    /// Scale embeddings to unit length; `None` means by `modules.json`, else no.
    pub normalize: Option<bool>,
    /// Text put before every row.
    pub prompt: Option<String>,
    /// The name of a prompt in `config_sentence_transformers.json`.
    pub prompt_name: Option<String>,
    /// Keep the first dimensions (Matryoshka), as sentence-transformers' `truncate_dim`.
    pub dimensions: Option<usize>,
    /// What embeddings are stored as.
    pub precision: Precision,
    /// Model outputs to store instead of a pooled embedding; empty means the embedding.
    pub outputs: Vec<ModelOutputName>,
}

/// How many results are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopK {
    /// The best one, by itself and not in a list.
    One,
    /// A list of the best so many.
    Number(usize),
    /// A list of all.
    All,
}

impl TopK {
    /// The length of the list at most; `None` for one result by itself.
    pub fn list(self) -> Option<usize> {
        match self {
            Self::One => None,
            Self::Number(number) => Some(number),
            Self::All => Some(usize::MAX),
        }
    }

    /// As in pipeline files.
    pub fn shown(self) -> serde_json::Value {
        match self {
            Self::One => 1.into(),
            Self::Number(number) => number.into(),
            Self::All => "all".into(),
        }
    }
}

/// What makes scores of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionToApply {
    /// Each label by itself.
    Sigmoid,
    /// All labels together.
    Softmax,
    /// The logits as they are.
    None,
}

/// `text-classification`.
#[derive(Clone, Debug)]
pub struct TextClassification {
    /// The column of the text.
    pub text: String,
    /// The column of the text that it is paired with.
    pub text_pair: Option<String>,
    /// How many labels, best first.
    pub top_k: TopK,
    /// What makes scores of logits; `None` means by the model's configuration.
    pub function_to_apply: Option<FunctionToApply>,
}

/// `zero-shot-classification`.
#[derive(Clone, Debug)]
pub struct ZeroShotClassification {
    /// The text column.
    pub input: String,
    /// The labels.
    pub candidate_labels: Vec<String>,
    /// The sentence that a label is put into, at `{}`.
    pub hypothesis_template: String,
    /// Whether several labels may hold at once.
    pub multi_label: bool,
}

/// What makes a score of a logit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// A number from 0 to 1.
    Sigmoid,
    /// The logit as it is.
    Identity,
}

/// `rerank`.
#[derive(Clone, Debug)]
pub struct Rerank {
    /// The column of the query.
    pub query: String,
    /// The column of the document.
    pub document: String,
    /// What makes a score of the logit; `None` means by the model's configuration.
    pub activation: Option<Activation>,
    /// The text prepended to every query.
    pub prompt: Option<String>,
    /// The name of a prompt in `config_sentence_transformers.json`.
    pub prompt_name: Option<String>,
}

/// How tokens are joined to spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregationStrategy {
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

impl AggregationStrategy {
    /// The name in transformers.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Simple => "simple",
            Self::First => "first",
            Self::Average => "average",
            Self::Max => "max",
        }
    }
}

/// `token-classification`.
#[derive(Clone, Debug)]
pub struct TokenClassification {
    /// The text column.
    pub input: String,
    /// How tokens are joined to spans.
    pub aggregation_strategy: AggregationStrategy,
    /// Labels to leave out.
    pub ignore_labels: Vec<String>,
    /// Tokens that the windows of a long text share; `None` cuts the text.
    pub stride: Option<usize>,
}

/// `question-answering`.
#[derive(Clone, Debug)]
pub struct QuestionAnswering {
    /// The column of the question.
    pub question: String,
    /// The column of the context.
    pub context: String,
    /// How many answers, best first.
    pub top_k: TopK,
    /// Tokens that the windows of a long context share; `None` means half a window, 128 at most.
    pub doc_stride: Option<usize>,
    /// Tokens of a window; `None` means 384, or the model's maximum if that is less.
    pub max_seq_len: Option<usize>,
    /// Tokens of the question.
    pub max_question_len: usize,
    /// Tokens of an answer.
    pub max_answer_len: usize,
    /// Whether no answer is an answer.
    pub handle_impossible_answer: bool,
}

/// `fill-mask`.
#[derive(Clone, Debug)]
pub struct FillMask {
    /// The text column.
    pub input: String,
    /// How many tokens, best first.
    pub top_k: usize,
    /// Only these words.
    pub targets: Option<Vec<String>>,
    /// Whether a text may hold several masks.
    pub multiple_masks: bool,
}

/// How the sparse vectors of tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SparsePooling {
    /// Their maximum.
    Max,
    /// Their sum.
    Sum,
}

/// `sparse-encoding`.
#[derive(Clone, Debug)]
pub struct SparseEncoding {
    /// The text column.
    pub input: String,
    /// How the vectors of the tokens become one; `None` means by `modules.json`, else max.
    pub pooling: Option<SparsePooling>,
    /// The number of greatest weights to keep; `None` leaves it to the model.
    pub top_k: Option<usize>,
    /// The text prepended to every row.
    pub prompt: Option<String>,
    /// The name of a prompt in `config_sentence_transformers.json`.
    pub prompt_name: Option<String>,
}

/// When a beam search ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyStopping {
    /// As soon as there are as many finished beams as beams.
    True,
    /// When no better one is likely.
    False,
    /// When there can be no better one.
    Never,
}

/// Options of every task that generates. `None` means by the model's `generation_config.json`.
#[derive(Clone, Debug, Default)]
pub struct Generation {
    /// Tokens to generate at most.
    pub max_new_tokens: Option<usize>,
    /// Tokens to generate at least.
    pub min_new_tokens: Option<usize>,
    /// Whether tokens are drawn at random.
    pub do_sample: Option<bool>,
    /// How random: below 1 less, above 1 more.
    pub temperature: Option<f64>,
    /// Draw from the so many best tokens; 0 is no bound.
    pub top_k: Option<usize>,
    /// Draw from the best tokens that have this probability together.
    pub top_p: Option<f64>,
    /// Draw from the tokens that have this share of the best one's probability.
    pub min_p: Option<f64>,
    /// Above 1, tokens that were there before become less likely.
    pub repetition_penalty: Option<f64>,
    /// No run of so many tokens comes twice.
    pub no_repeat_ngram_size: Option<usize>,
    /// Beams of the search; 1 is none.
    pub num_beams: Option<usize>,
    /// Above 0, longer beams are better; below 0, shorter ones.
    pub length_penalty: Option<f64>,
    /// When a beam search ends.
    pub early_stopping: Option<EarlyStopping>,
    /// Tokens that end a generation.
    pub eos_token_id: Option<Vec<u32>>,
    /// Strings that end a generation.
    pub stop: Vec<String>,
    /// Where random numbers start from.
    pub seed: u64,
}

/// What a prompt is.
#[derive(Clone, Debug)]
pub enum PromptColumn {
    /// A text column.
    Text(String),
    /// A column of lists of `{role, content}`.
    Messages(String),
}

/// `text-generation`.
#[derive(Clone, Debug)]
pub struct TextGeneration {
    /// The column of the prompt.
    pub prompt: PromptColumn,
    /// How it is generated.
    pub generation: Generation,
    /// Whether the result begins with the prompt.
    pub return_full_text: bool,
    /// A chat template in the place of the model's.
    pub chat_template: Option<String>,
}

/// `loglikelihood`.
#[derive(Clone, Debug)]
pub struct Loglikelihood {
    /// The column of what precedes the text and is not counted.
    pub context: Option<String>,
    /// The column of the text.
    pub text: String,
    /// Tokens that the windows of a long text move by; `None` cuts the text.
    pub stride: Option<usize>,
}

/// Which of its names `text2text-generation` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text2TextKind {
    /// `text2text-generation`.
    Text2Text,
    /// `summarization`.
    Summarization,
    /// `translation`.
    Translation,
}

impl Text2TextKind {
    /// The task id.
    pub fn task_id(self) -> &'static str {
        match self {
            Self::Text2Text => "text2text-generation",
            Self::Summarization => "summarization",
            Self::Translation => "translation",
        }
    }
}

/// `text2text-generation`, `summarization`, `translation`.
#[derive(Clone, Debug)]
pub struct Text2TextGeneration {
    /// Which of them.
    pub kind: Text2TextKind,
    /// The text column.
    pub input: String,
    /// Text put before every row; `None` means by the model's `task_specific_params`.
    pub prefix: Option<String>,
    /// The language of the input.
    pub src_lang: Option<String>,
    /// The language of the output.
    pub tgt_lang: Option<String>,
    /// How it is generated.
    pub generation: Generation,
}

/// `multiple-choice`.
#[derive(Clone, Debug)]
pub struct MultipleChoice {
    /// The column of the prompt.
    pub prompt: String,
    /// The columns of the choices, or one column of lists.
    pub choices: Vec<String>,
}

/// `next-sentence-prediction`.
#[derive(Clone, Debug)]
pub struct NextSentencePrediction {
    /// The column of the first text.
    pub text: String,
    /// The column of the second text.
    pub text_pair: String,
}

/// `image-classification`.
#[derive(Clone, Debug)]
pub struct ImageClassification {
    /// The column of paths or bytes.
    pub input: String,
    /// How many labels, best first; a list in any case.
    pub top_k: usize,
    /// The folder that relative paths start from.
    pub dir: std::path::PathBuf,
    /// The restrictions on images.
    pub images: super::pipeline::ImagesSpec,
}

/// `token-count`.
#[derive(Clone, Debug)]
pub struct TokenCount {
    /// The text column.
    pub input: String,
}

/// Declares which columns each task reads.
macro_rules! inputs {
    ($($name:ident: $own:ident => $columns:expr;)*) => {$(
        impl $name {
            /// The columns that the task reads, in order.
            fn inputs(&self) -> Vec<&str> {
                let $own = self;
                $columns
            }
        }
    )*};
}

inputs! {
    FeatureExtraction: own => vec![&own.input];
    TextClassification: own => [Some(&own.text), own.text_pair.as_ref()].into_iter().flatten().map(String::as_str).collect();
    ZeroShotClassification: own => vec![&own.input];
    Rerank: own => vec![&own.query, &own.document];
    TokenClassification: own => vec![&own.input];
    QuestionAnswering: own => vec![&own.question, &own.context];
    FillMask: own => vec![&own.input];
    SparseEncoding: own => vec![&own.input];
    TextGeneration: own => match &own.prompt {
        PromptColumn::Text(column) | PromptColumn::Messages(column) => vec![column],
    };
    Loglikelihood: own => own.context.iter().chain([&own.text]).map(String::as_str).collect();
    Text2TextGeneration: own => vec![&own.input];
    MultipleChoice: own => std::iter::once(&own.prompt).chain(&own.choices).map(String::as_str).collect();
    NextSentencePrediction: own => vec![&own.text, &own.text_pair];
    ImageClassification: own => vec![&own.input];
    TokenCount: own => vec![&own.input];
}

impl TaskOptions {
    /// The task's Hugging Face id.
    pub fn task_id(&self) -> &'static str {
        match self {
            Self::FeatureExtraction(_) => "feature-extraction",
            Self::TextClassification(_) => "text-classification",
            Self::ZeroShotClassification(_) => "zero-shot-classification",
            Self::Rerank(_) => "rerank",
            Self::TokenClassification(_) => "token-classification",
            Self::QuestionAnswering(_) => "question-answering",
            Self::FillMask(_) => "fill-mask",
            Self::SparseEncoding(_) => "sparse-encoding",
            Self::TextGeneration(_) => "text-generation",
            Self::Loglikelihood(_) => "loglikelihood",
            Self::Text2TextGeneration(options) => options.kind.task_id(),
            Self::MultipleChoice(_) => "multiple-choice",
            Self::NextSentencePrediction(_) => "next-sentence-prediction",
            Self::ImageClassification(_) => "image-classification",
            Self::TokenCount(_) => "token-count",
        }
    }
}
