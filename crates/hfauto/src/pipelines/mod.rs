//! transformers' calls over texts, on plain Rust types: [`TextClassificationPipeline`], [`TokenClassificationPipeline`],
//! [`QuestionAnsweringPipeline`], [`FillMaskPipeline`], [`AutoModelForCausalLM::generate`] and [`AutoModelForSeq2SeqLM::generate`];
//! and texts divided for a model: [`Chunker`].
//!
//! Of images: [`ImageFeatures`] and [`ImageLabels`].
//!
//! Results are in input order and do not depend on the other texts. Not here: the decoding loop
//! ([`crate::generation`]), and columns of tables.
//!
//! [`AutoModelForCausalLM::generate`]: crate::auto::AutoModelForCausalLM
//! [`AutoModelForSeq2SeqLM::generate`]: crate::auto::AutoModelForSeq2SeqLM

mod aggregate;
mod characters;
mod chunk_text;
mod fill_mask;
mod generate;
mod generation;
mod image_features;
mod image_labels;
mod loaded;
mod question_answering;
mod reasoning;
mod scores;
mod split_text;
mod text_classification;
mod token_classification;

pub use aggregate::{Aggregation, AggregationStrategy, Entity, ToText, TokenScores, merge_windows};
pub use characters::Characters;
pub use chunk_text::{ChunkBy, ChunkOptions, Chunker, TextChunk};
pub use fill_mask::{FillMaskOptions, FillMaskPipeline, MaskChoice, MaskFill, target_ids};
pub use generate::GenerateChatOptions;
pub use generation::{
    GeneratedText, Prompt, PromptRoom, TextGenerator, TextOf, generation_settings,
    task_specific_params,
};
pub use image_features::{ImageFeatures, ImagePooling};
pub use image_labels::ImageLabels;
pub use loaded::{PipelineBuilder, TextModel, TextPipeline};
pub use question_answering::{
    Answer, AnswerSpan, Answers, DOC_STRIDE, Limits, MAX_SEQ_LEN, QuestionAnsweringOptions,
    QuestionAnsweringPipeline, QuestionWindows, START_AND_END, Span, WindowSpans, WindowTokens,
    answers, best_spans,
};
pub use reasoning::ends_in_reasoning;
pub use scores::{LabelScore, ScoreFunction, best, softmax};
pub use split_text::{TextPart, split_text};
pub use text_classification::{TextClassificationOptions, TextClassificationPipeline};
pub use token_classification::{
    EntitySpan, TextToken, TokenClassificationOptions, TokenClassificationPipeline, token_scores,
};
