//! The options of each task: defaults filled in, values checked that a type does not bound.

use std::num::NonZeroU64;

use super::steps::Input;
use super::{Cursor, Resolver};
use crate::auto::AutoClass;
use crate::config::diagnostics::{Diagnostic, nearest};
use crate::config::pipeline::{
    Activation, AggregationStrategy, EarlyStopping, FeatureExtraction, FillMask, FunctionToApply,
    Generation, ImageClassification, Loglikelihood, ModelOutputName, MultipleChoice,
    NextSentencePrediction, Precision, PromptColumn, QuestionAnswering, Rerank, SparseEncoding,
    SparsePooling, TaskOptions, Text2TextGeneration, Text2TextKind, TextClassification,
    TextGeneration, TokenClassification, TokenCount, TopK, ZeroShotClassification,
};
use crate::config::raw::{
    self, ColumnOr, RawActivation, RawAggregationStrategy, RawEarlyStopping, RawFunctionToApply,
    RawGeneration, RawModelOutput, RawSparsePooling, RawStep, RawText2TextGeneration, StringOrList,
};
use crate::config::template;

/// The keys that every task has, of one step.
pub(super) struct Common<'a> {
    pub(super) task_id: &'static str,
    pub(super) model: &'a str,
    pub(super) output: &'a str,
    pub(super) max_length: Option<NonZeroU64>,
    pub(super) truncation: Option<bool>,
    pub(super) auto_class: Option<&'a str>,
    pub(super) allow_new_head: Option<bool>,
    pub(super) outputs: Option<&'a [RawModelOutput]>,
}

/// Calls a macro's worth of the same code for the one raw task of a step.
macro_rules! common {
    ($raw:expr, $($variant:ident $id:literal),* $(,)?) => {
        match $raw {
            RawStep::Sql(_) => None,
            $(RawStep::$variant(raw) => Some(Common {
                task_id: $id,
                model: &raw.model,
                output: &raw.output,
                max_length: raw.max_length,
                truncation: raw.truncation,
                auto_class: raw.auto_class.as_deref(),
                allow_new_head: raw.allow_new_head,
                outputs: raw.outputs.as_deref(),
            }),)*
        }
    };
}

/// The keys that every task has; `None` for `sql`.
pub(super) fn common(raw: &RawStep) -> Option<Common<'_>> {
    common!(
        raw,
        FeatureExtraction "feature-extraction",
        TextClassification "text-classification",
        ZeroShotClassification "zero-shot-classification",
        Rerank "rerank",
        TokenClassification "token-classification",
        QuestionAnswering "question-answering",
        FillMask "fill-mask",
        SparseEncoding "sparse-encoding",
        TextGeneration "text-generation",
        Loglikelihood "loglikelihood",
        Text2TextGeneration "text2text-generation",
        Summarization "summarization",
        Translation "translation",
        MultipleChoice "multiple-choice",
        NextSentencePrediction "next-sentence-prediction",
        ImageClassification "image-classification",
        TokenCount "token-count",
    )
}

/// The Auto class of a task.
fn task_class(task_id: &str) -> AutoClass {
    match task_id {
        "text-classification" | "zero-shot-classification" | "rerank" => {
            AutoClass::SequenceClassification
        }
        "token-classification" => AutoClass::TokenClassification,
        "question-answering" => AutoClass::QuestionAnswering,
        "fill-mask" | "sparse-encoding" => AutoClass::MaskedLM,
        "text-generation" | "loglikelihood" => AutoClass::CausalLM,
        "text2text-generation" | "summarization" | "translation" => AutoClass::Seq2SeqLM,
        "multiple-choice" => AutoClass::MultipleChoice,
        "next-sentence-prediction" => AutoClass::NextSentencePrediction,
        "image-classification" => AutoClass::ImageClassification,
        _ => AutoClass::Model,
    }
}

fn count(number: NonZeroU64) -> usize {
    usize::try_from(number.get()).unwrap_or(usize::MAX)
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn list(strings: &StringOrList) -> Vec<String> {
    match strings {
        StringOrList::One(one) => vec![one.clone()],
        StringOrList::Many(many) => many.clone(),
    }
}

fn top_k(raw: raw::TopK) -> TopK {
    match raw {
        raw::TopK::All => TopK::All,
        raw::TopK::Number(number) if number.get() == 1 => TopK::One,
        raw::TopK::Number(number) => TopK::Number(count(number)),
    }
}

impl Resolver<'_> {
    /// The options of a step's task, and where its input columns are written; `None` for `sql`.
    pub(super) fn task_options<'c>(
        &mut self,
        raw: &RawStep,
        at: Cursor<'c>,
    ) -> Option<(TaskOptions, Vec<Input<'c>>)> {
        let input = at.key("input");
        let mut inputs = vec![(input, "input")];
        let options = match raw {
            RawStep::Sql(_) => return None,
            RawStep::FeatureExtraction(raw) => {
                self.combinations(raw, at);
                TaskOptions::FeatureExtraction(FeatureExtraction {
                    input: raw.input.clone(),
                    pooling: raw.pooling.map(super::steps::pooling),
                    normalize: raw.normalize,
                    prompt: raw.prompt.clone(),
                    prompt_name: raw.prompt_name.clone(),
                    dimensions: raw.dimensions.map(count),
                    precision: raw.precision.map_or(Precision::F32, super::steps::precision),
                    outputs: raw
                        .outputs
                        .iter()
                        .flatten()
                        .filter_map(|output| super::steps::output_name(*output))
                        .collect(),
                })
            }
            RawStep::TextClassification(raw) => {
                let (text, text_pair) = match &raw.input {
                    ColumnOr::Column(text) => (text.clone(), None),
                    ColumnOr::Columns(pair) => {
                        inputs = vec![
                            (input.key("text"), "text"),
                            (input.key("text_pair"), "text_pair"),
                        ];
                        (pair.text.clone(), Some(pair.text_pair.clone()))
                    }
                };
                TaskOptions::TextClassification(TextClassification {
                    text,
                    text_pair,
                    top_k: raw.top_k.map_or(TopK::One, top_k),
                    function_to_apply: raw.function_to_apply.map(|function| match function {
                        RawFunctionToApply::Sigmoid => FunctionToApply::Sigmoid,
                        RawFunctionToApply::Softmax => FunctionToApply::Softmax,
                        RawFunctionToApply::None => FunctionToApply::None,
                    }),
                })
            }
            RawStep::ZeroShotClassification(raw) => {
                TaskOptions::ZeroShotClassification(ZeroShotClassification {
                    input: raw.input.clone(),
                    candidate_labels: self
                        .candidate_labels(&raw.candidate_labels, at.key("candidate_labels")),
                    hypothesis_template: self.hypothesis_template(
                        raw.hypothesis_template.as_deref(),
                        at.key("hypothesis_template"),
                    ),
                    multi_label: raw.multi_label.unwrap_or(false),
                })
            }
            RawStep::Rerank(raw) => {
                inputs = vec![(input.key("query"), "query"), (input.key("document"), "document")];
                self.one_prompt(raw.prompt.as_ref(), raw.prompt_name.as_ref(), at);
                TaskOptions::Rerank(Rerank {
                    query: raw.input.query.clone(),
                    document: raw.input.document.clone(),
                    activation: raw.activation.map(|activation| match activation {
                        RawActivation::Sigmoid => Activation::Sigmoid,
                        RawActivation::Identity => Activation::Identity,
                    }),
                    prompt: raw.prompt.clone(),
                    prompt_name: raw.prompt_name.clone(),
                })
            }
            RawStep::TokenClassification(raw) => {
                let strategy = raw.aggregation_strategy.unwrap_or(RawAggregationStrategy::None);
                if raw.stride.is_some() && strategy == RawAggregationStrategy::None {
                    self.report.push(
                        Diagnostic::new(at.key("stride").key, "`stride` joins spans of windows")
                            .hint("choose an `aggregation_strategy` other than none"),
                    );
                }
                TaskOptions::TokenClassification(TokenClassification {
                    input: raw.input.clone(),
                    aggregation_strategy: match strategy {
                        RawAggregationStrategy::None => AggregationStrategy::None,
                        RawAggregationStrategy::Simple => AggregationStrategy::Simple,
                        RawAggregationStrategy::First => AggregationStrategy::First,
                        RawAggregationStrategy::Average => AggregationStrategy::Average,
                        RawAggregationStrategy::Max => AggregationStrategy::Max,
                    },
                    ignore_labels: raw
                        .ignore_labels
                        .clone()
                        .unwrap_or_else(|| vec!["O".to_owned()]),
                    stride: raw.stride.map(size),
                })
            }
            RawStep::QuestionAnswering(raw) => {
                inputs =
                    vec![(input.key("question"), "question"), (input.key("context"), "context")];
                if let (Some(stride), Some(window)) = (raw.doc_stride, raw.max_seq_len)
                    && stride >= window.get()
                {
                    let message = format!("`doc_stride: {stride}` is not less than a window");
                    self.report.push(
                        Diagnostic::new(at.key("doc_stride").value, message)
                            .related(at.key("max_seq_len").value, "tokens of a window"),
                    );
                }
                TaskOptions::QuestionAnswering(QuestionAnswering {
                    question: raw.input.question.clone(),
                    context: raw.input.context.clone(),
                    top_k: raw.top_k.map_or(TopK::One, |number| top_k(raw::TopK::Number(number))),
                    doc_stride: raw.doc_stride.map(size),
                    max_seq_len: raw.max_seq_len.map(count),
                    max_question_len: raw.max_question_len.map_or(64, count),
                    max_answer_len: raw.max_answer_len.map_or(15, count),
                    handle_impossible_answer: raw.handle_impossible_answer.unwrap_or(false),
                })
            }
            RawStep::FillMask(raw) => TaskOptions::FillMask(FillMask {
                input: raw.input.clone(),
                top_k: raw.top_k.map_or(5, count),
                targets: raw.targets.as_ref().map(list),
                multiple_masks: raw.multiple_masks.unwrap_or(false),
            }),
            RawStep::SparseEncoding(raw) => {
                self.one_prompt(raw.prompt.as_ref(), raw.prompt_name.as_ref(), at);
                TaskOptions::SparseEncoding(SparseEncoding {
                    input: raw.input.clone(),
                    pooling: raw.pooling.map(|pooling| match pooling {
                        RawSparsePooling::Max => SparsePooling::Max,
                        RawSparsePooling::Sum => SparsePooling::Sum,
                    }),
                    top_k: raw.top_k.map(count),
                    prompt: raw.prompt.clone(),
                    prompt_name: raw.prompt_name.clone(),
                })
            }
            RawStep::TextGeneration(raw) => {
                let prompt = match &raw.input {
                    ColumnOr::Column(column) => PromptColumn::Text(column.clone()),
                    ColumnOr::Columns(messages) => {
                        inputs = vec![(input.key("messages"), "messages")];
                        PromptColumn::Messages(messages.messages.clone())
                    }
                };
                if raw.chat_template.is_some() && matches!(prompt, PromptColumn::Text(_)) {
                    self.report.push(
                        Diagnostic::new(
                            at.key("chat_template").key,
                            "`chat_template` is for conversations, but `input` is a text column",
                        )
                        .hint("write `input: {messages: COLUMN}`"),
                    );
                }
                TaskOptions::TextGeneration(TextGeneration {
                    prompt,
                    generation: self.generation(&raw.generation(), at),
                    return_full_text: raw.return_full_text.unwrap_or(false),
                    chat_template: raw.chat_template.clone(),
                })
            }
            RawStep::Loglikelihood(raw) => {
                let (context, text) = match &raw.input {
                    ColumnOr::Column(text) => (None, text.clone()),
                    ColumnOr::Columns(columns) => {
                        inputs = vec![
                            (input.key("context"), "context"),
                            (input.key("continuation"), "continuation"),
                        ];
                        (Some(columns.context.clone()), columns.continuation.clone())
                    }
                };
                if raw.stride.is_some() && context.is_some() {
                    self.report.push(
                        Diagnostic::new(
                            at.key("stride").key,
                            "`stride` is for a text by itself, not for a continuation",
                        )
                        .related(input.value, "a context and its continuation"),
                    );
                }
                TaskOptions::Loglikelihood(Loglikelihood {
                    context,
                    text,
                    stride: raw.stride.map(count),
                })
            }
            RawStep::Text2TextGeneration(raw) => self.text2text(raw, Text2TextKind::Text2Text, at),
            RawStep::Summarization(raw) => self.text2text(raw, Text2TextKind::Summarization, at),
            RawStep::Translation(raw) => self.text2text(raw, Text2TextKind::Translation, at),
            RawStep::MultipleChoice(raw) => {
                inputs = vec![(input.key("prompt"), "prompt")];
                let choices = list(&raw.input.choices);
                let here = input.key("choices");
                inputs.extend((0..choices.len()).map(|index| (here.item(index), "choices")));
                TaskOptions::MultipleChoice(MultipleChoice {
                    prompt: raw.input.prompt.clone(),
                    choices,
                })
            }
            RawStep::NextSentencePrediction(raw) => {
                inputs = vec![(input.key("text"), "text"), (input.key("text_pair"), "text_pair")];
                TaskOptions::NextSentencePrediction(NextSentencePrediction {
                    text: raw.input.text.clone(),
                    text_pair: raw.input.text_pair.clone(),
                })
            }
            RawStep::ImageClassification(raw) => {
                TaskOptions::ImageClassification(ImageClassification {
                    input: raw.input.clone(),
                    top_k: match raw.top_k {
                        None => 5,
                        Some(raw::TopK::All) => usize::MAX,
                        Some(raw::TopK::Number(number)) => count(number),
                    },
                    dir: self.dir.clone(),
                    images: self.images.clone(),
                })
            }
            RawStep::TokenCount(raw) => {
                TaskOptions::TokenCount(TokenCount { input: raw.input.clone() })
            }
        };
        let names = options.inputs().into_iter().map(str::to_owned);
        let inputs = names.zip(inputs).map(|(name, (at, key))| Input { name, at, key }).collect();
        Some((options, inputs))
    }

    fn text2text(
        &mut self,
        raw: &RawText2TextGeneration,
        kind: Text2TextKind,
        at: Cursor<'_>,
    ) -> TaskOptions {
        for (key, given) in
            [("src_lang", raw.src_lang.is_some()), ("tgt_lang", raw.tgt_lang.is_some())]
        {
            if given && kind != Text2TextKind::Translation {
                let message = format!("`{key}` is for `translation`, not for `{}`", kind.task_id());
                self.report.push(Diagnostic::new(at.key(key).key, message));
            }
        }
        if raw.src_lang.is_some() != raw.tgt_lang.is_some() {
            let given = if raw.src_lang.is_some() { "src_lang" } else { "tgt_lang" };
            self.report.push(
                Diagnostic::new(at.key(given).key, "`src_lang` and `tgt_lang` belong together")
                    .hint("give both or neither"),
            );
        }
        TaskOptions::Text2TextGeneration(Text2TextGeneration {
            kind,
            input: raw.input.clone(),
            prefix: raw.prefix.clone(),
            src_lang: raw.src_lang.clone(),
            tgt_lang: raw.tgt_lang.clone(),
            generation: self.generation(&raw.generation(), at),
        })
    }

    fn generation(&mut self, raw: &RawGeneration<'_>, at: Cursor<'_>) -> Generation {
        if raw.do_sample == Some(true) && raw.num_beams.is_some_and(|beams| beams.get() > 1) {
            self.report.push(
                Diagnostic::new(at.key("num_beams").key, "a beam search draws no tokens at random")
                    .related(at.key("do_sample").key, "asks for random tokens")
                    .hint("remove `do_sample` or `num_beams`"),
            );
        }
        if let (Some(min), Some(max)) = (raw.min_new_tokens, raw.max_new_tokens)
            && min > max.get()
        {
            let message = format!("`min_new_tokens: {min}` is more than `max_new_tokens: {max}`");
            self.report.push(
                Diagnostic::new(at.key("min_new_tokens").value, message)
                    .related(at.key("max_new_tokens").value, "at most so many"),
            );
        }
        for (key, value) in
            [("temperature", raw.temperature), ("repetition_penalty", raw.repetition_penalty)]
        {
            if value.is_some_and(|value| value <= 0.0) {
                let message = format!("`{key}` is not more than 0");
                let problem = Diagnostic::new(at.key(key).value, message);
                self.report.push(if key == "temperature" {
                    problem.hint("write `do_sample: false` for the best token each time")
                } else {
                    problem
                });
            }
        }
        let only_sampling = [
            ("temperature", raw.temperature.is_some()),
            ("top_k", raw.top_k.is_some()),
            ("top_p", raw.top_p.is_some()),
            ("min_p", raw.min_p.is_some()),
            ("seed", raw.seed.is_some()),
        ];
        for (key, _) in only_sampling.into_iter().filter(|(_, given)| *given) {
            if raw.do_sample == Some(false) {
                let message = format!("`{key}` is for random tokens, but `do_sample` is false");
                self.report.push(
                    Diagnostic::new(at.key(key).key, message)
                        .related(at.key("do_sample").value, "no random tokens"),
                );
            }
        }
        let stop = raw.stop.map(list).unwrap_or_default();
        for (index, text) in stop.iter().enumerate() {
            if text.is_empty() {
                let here = at.key("stop").item(index);
                self.report.push(Diagnostic::new(here.value, "a stop string is empty"));
            }
        }
        Generation {
            max_new_tokens: raw.max_new_tokens.map(count),
            min_new_tokens: raw.min_new_tokens.map(size),
            do_sample: raw.do_sample,
            temperature: raw.temperature,
            top_k: raw.top_k.map(size),
            top_p: raw.top_p,
            min_p: raw.min_p,
            repetition_penalty: raw.repetition_penalty,
            no_repeat_ngram_size: raw.no_repeat_ngram_size.map(size),
            num_beams: raw.num_beams.map(count),
            length_penalty: raw.length_penalty,
            early_stopping: raw.early_stopping.map(|early| match early {
                RawEarlyStopping::True => EarlyStopping::True,
                RawEarlyStopping::False => EarlyStopping::False,
                RawEarlyStopping::Never => EarlyStopping::Never,
            }),
            eos_token_id: raw.eos_token_id.map(|ids| ids.0.clone()),
            stop,
            seed: raw.seed.unwrap_or(0),
        }
    }

    /// The labels; as in transformers, one text holds several between commas.
    fn candidate_labels(&mut self, raw: &StringOrList, at: Cursor<'_>) -> Vec<String> {
        let labels: Vec<String> = match raw {
            StringOrList::One(labels) => labels
                .split(',')
                .map(str::trim)
                .filter(|label| !label.is_empty())
                .map(str::to_owned)
                .collect(),
            StringOrList::Many(labels) => labels.clone(),
        };
        if labels.is_empty() {
            self.report.push(Diagnostic::new(at.value, "`candidate_labels` names no label"));
        }
        labels
    }

    fn hypothesis_template(&mut self, raw: Option<&str>, at: Cursor<'_>) -> String {
        let template = raw.unwrap_or("This example is {}.");
        if let Err(mut reason) = template::format(template, "label") {
            if !at.shown("").is_empty() {
                // The message must not show a variable's value.
                "no place that a label can be put into".clone_into(&mut reason);
            }
            self.report.push(
                Diagnostic::new(at.value, format!("`hypothesis_template` has {reason}"))
                    .hint("write `{}` where the label goes"),
            );
        }
        template.to_owned()
    }

    /// Checks `auto_class` against the task's own.
    pub(super) fn auto_class(&mut self, name: &str, task_id: &str, at: Cursor<'_>) {
        let class = task_class(task_id);
        let accepted = name == class.name()
            || name == "AutoModelForT5" && class == AutoClass::Seq2SeqLM
            || name == "AutoModelWithLMHead"
                && matches!(
                    class,
                    AutoClass::CausalLM | AutoClass::MaskedLM | AutoClass::Seq2SeqLM
                );
        if accepted {
            return;
        }
        let names = AutoClass::ALL.map(AutoClass::name);
        let others = ["AutoModelForT5", "AutoModelWithLMHead"];
        let known = names.contains(&name) || others.contains(&name);
        let message = if known {
            format!("`{task_id}` does not load a model with `{name}`")
        } else {
            format!("there is no Auto class `{}`", at.shown(name))
        };
        let near = if known { None } else { nearest(name, names.into_iter().chain(others)) };
        self.report.push(
            Diagnostic::new(at.value, message)
                .nearest(near)
                .hint(format!("`{task_id}` loads a model with `{class}`")),
        );
    }

    /// Checks that a task can store `outputs`.
    pub(super) fn task_outputs(
        &mut self,
        outputs: &[RawModelOutput],
        task_id: &str,
        at: Cursor<'_>,
    ) {
        self.outputs(outputs, at);
        let allowed: &[RawModelOutput] = match task_id {
            "feature-extraction" => &[
                RawModelOutput::LastHiddenState,
                RawModelOutput::PoolerOutput,
                RawModelOutput::HiddenStates,
                RawModelOutput::Attentions,
            ],
            "text-classification"
            | "token-classification"
            | "image-classification"
            | "multiple-choice"
            | "next-sentence-prediction" => &[RawModelOutput::Logits],
            _ => &[],
        };
        let name = |output: &RawModelOutput| {
            super::steps::output_name(*output).map_or("logits", ModelOutputName::name)
        };
        for (index, output) in outputs.iter().enumerate() {
            if !allowed.contains(output) {
                let message = format!("`{task_id}` has no output `{}`", name(output));
                let problem = Diagnostic::new(at.item(index).value, message);
                self.report.push(if allowed.is_empty() {
                    problem.hint("remove `outputs`")
                } else {
                    problem.choices("outputs", allowed.iter().map(name))
                });
            }
        }
    }
}
