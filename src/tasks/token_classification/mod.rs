//! `token-classification`: labels the tokens or spans of a text, as transformers' pipeline does. The
//! windows of a long text are separate sequences.
//!
//! # Source
//! `src/transformers/pipelines/token_classification.py` at v4.57.

mod column;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field};
use candle_core::Device;
use hfauto::pipelines::{
    Aggregation, AggregationStrategy, Characters, TextToken, merge_windows, token_scores,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::classifier::Classifier;
use super::definition::{
    InputColumn, ModelOutputName, OptionsType, RawTaskStep, SqlFunction, TaskDefinition,
    TaskOptions, TaskStep, count,
};
use super::models::Models;
use super::text_input::TextInput;
use super::token_logits::{TokenLogits, TokenLogitsModel, token_logits_type};
use super::{EncodedRow, Results, Sequence, Task, TaskBase, TaskModel, text_column};
use crate::auto::{AutoClass, AutoTokenizer, EncodeOptions, WindowOptions};
use crate::document::{Cursor, Diagnostic, Diagnostics};
use crate::error::{Error, ErrorKind, Result};
use column::{ColumnBuilder, Columns};

/// The options of `token-classification`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct TokenClassification {
    /// The text column.
    pub input: String,
    /// How to merge tokens into spans. Default: `none`.
    pub aggregation_strategy: Option<AggregationStrategy>,
    /// Labels to omit from the result. Default: `[O]`.
    pub ignore_labels: Option<Vec<String>>,
    /// The overlap of the windows of a long text, in tokens.
    pub stride: Option<u64>,
}

pub(super) static TOKEN_CLASSIFICATION: TaskDefinition = TaskDefinition {
    id: "token-classification",
    aliases: &["ner"],
    summary: "Labels the tokens or spans of a text.",
    auto_class: AutoClass::TokenClassification,
    outputs: &[ModelOutputName::Logits],
    generates: false,
    options: OptionsType::of::<TokenClassification>(),
    function: SqlFunction {
        name: "token_classify",
        parameters: &["text"],
        parts: &[],
        description: "The labelled tokens or spans of a text: List<Struct<label, score, word, start, end>>.",
        example: r#"SELECT token_classify(text, 'ner', options => '{"aggregation_strategy": "simple"}') FROM news"#,
    },
    usual_type: || Columns::new(AggregationStrategy::Simple, false).data_type(),
    template: include_str!("../../../pipelines/token-classification.yaml"),
};

impl TokenClassification {
    fn strategy(&self) -> AggregationStrategy {
        self.aggregation_strategy.unwrap_or_default()
    }
}

impl TaskOptions for TokenClassification {
    fn inputs(&self) -> Vec<InputColumn<'_>> {
        vec![InputColumn::whole(&self.input)]
    }

    fn check(&self, _step: &RawTaskStep, at: Cursor<'_>, report: &mut Diagnostics) {
        if self.stride.is_some() && self.strategy() == AggregationStrategy::None {
            report.push(
                Diagnostic::new(at.key("stride").key, "`stride` merges the spans of windows")
                    .hint("choose an `aggregation_strategy` other than `none`"),
            );
        }
    }

    fn resolve(&self, step: &TaskStep, models: &Models) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(TokenClassificationTask::resolve(step, self, models)?))
    }
}

/// The task with its model resolved, without weights.
#[derive(Debug)]
struct TokenClassificationTask {
    classifier: Classifier,
    input: TextInput,
    base: TaskBase,
    columns: Columns,
    strategy: AggregationStrategy,
    ignore_labels: Vec<String>,
    stride: Option<usize>,
}

/// The tokens of a row's windows.
struct RowTokens(Vec<WindowTokens>);

/// The tokens of one sequence.
struct WindowTokens {
    /// The number of tokens.
    count: usize,
    /// The tokens that are not special.
    tokens: Vec<TextToken>,
}

impl WindowTokens {
    fn new(ids: &[u32], offsets: &[(usize, usize)], special: &[bool]) -> Self {
        Self { count: ids.len(), tokens: TextToken::of_row(ids, offsets, special) }
    }
}

impl TokenClassificationTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Unsupported` if the model has no token classification head; `Config` for
    /// conflicting options.
    fn resolve(step: &TaskStep, options: &TokenClassification, models: &Models) -> Result<Self> {
        let classifier = Classifier::resolve(step, AutoClass::TokenClassification, models)?;
        let input = TextInput::new(
            Arc::clone(&classifier.model),
            [options.input.as_str()],
            step.max_length,
            step.truncation.unwrap_or(true),
        )?;
        let stride = options.stride.map(count);
        if let Some(stride) = stride {
            input.check_stride("stride", stride)?;
            if step.stores_logits() {
                return Err(Error::new(
                    ErrorKind::Config,
                    "`outputs: [logits]` with `stride`: a token in several windows has several logits",
                )
                .hint("remove one of them"));
            }
        }
        let strategy = options.strategy();
        let ignore_labels = options.ignore_labels.clone().unwrap_or_else(|| vec!["O".to_owned()]);
        let summary = classifier.summary(
            step.task.id,
            step,
            serde_json::json!({
                "max_length": input.max_length,
                "aggregation_strategy": strategy.name(),
                "ignore_labels": ignore_labels,
                "stride": stride,
            }),
        );
        let columns = Columns::new(strategy, step.stores_logits());
        let base = TaskBase {
            columns: input.columns.clone(),
            field: Arc::new(Field::new(&step.output, columns.data_type(), true)),
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self { classifier, input, base, columns, strategy, ignore_labels, stride })
    }

    fn num_labels(&self) -> usize {
        self.classifier.model.config().num_labels()
    }

    fn tokenizer(&self) -> &AutoTokenizer {
        self.classifier.model.tokenizer()
    }

    fn encode_row(&self, text: &str) -> Result<EncodedRow> {
        let mut row = EncodedRow::default();
        let mut windows = Vec::new();
        if let Some(stride) = self.stride {
            let options = WindowOptions {
                max_length: Some(self.input.max_length),
                stride,
                ..WindowOptions::default()
            };
            for window in self.tokenizer().encode_windows(text, None, &options)? {
                let (offsets, special) = (&window.offset_mapping, &window.special_tokens_mask);
                windows.push(WindowTokens::new(&window.input_ids, offsets, special));
                row.sequences.push(Sequence::new(window.input_ids, window.token_type_ids));
            }
        } else {
            let options = EncodeOptions {
                return_offsets_mapping: true,
                return_special_tokens_mask: true,
                ..self.input.options()
            };
            let encoding = self.tokenizer().encode(text, &options)?;
            self.input.fits(encoding.input_ids.len())?;
            row.truncated = encoding.truncated;
            let offsets = encoding.offset_mapping.unwrap_or_default();
            let special = encoding.special_tokens_mask.unwrap_or_default();
            windows.push(WindowTokens::new(&encoding.input_ids, &offsets, &special));
            row.sequences.push(Sequence::new(encoding.input_ids, encoding.token_type_ids));
        }
        row.note = Some(Box::new(RowTokens(windows)));
        Ok(row)
    }
}

impl Task for TokenClassificationTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        self.input.encode_rows(columns, first_row, |texts| self.encode_row(texts[0]))
    }

    fn output_bytes(&self, tokens: usize) -> usize {
        // Counts logits, the kept token data, and an entity for some tokens.
        tokens * (size_of::<f32>() * self.num_labels() + size_of::<TextToken>() + 16)
    }

    fn sequence_type(&self) -> DataType {
        token_logits_type()
    }

    fn is_row_by_row(&self) -> bool {
        false
    }

    fn finish(&self, columns: &[ArrayRef], results: &Results<'_>) -> Result<ArrayRef> {
        let texts = columns.first().map(text_column).transpose()?;
        let lost = || Error::new(ErrorKind::Internal, "a row came back without its tokens");
        let to_text = |tokens| self.tokenizer().convert_tokens_to_string(tokens);
        let aggregation = Aggregation {
            strategy: self.strategy,
            config: self.classifier.model.config(),
            ignore_labels: &self.ignore_labels,
            to_text: &to_text,
        };
        let labels = self.num_labels();
        let values = TokenLogits::new(&results.values);
        let mut builder = ColumnBuilder::new(self.columns);
        for (row, (range, note)) in results.rows.iter().zip(results.notes).enumerate() {
            let Some(range) = range else {
                builder.push_null();
                continue;
            };
            let note = note.as_ref().and_then(|note| note.downcast_ref::<RowTokens>());
            let RowTokens(windows) = note.ok_or_else(lost)?;
            let text = texts.as_ref().filter(|texts| texts.is_valid(row)).ok_or_else(lost)?;
            let text = Characters::new(text.value(row));
            let mut entities = Vec::new();
            let (mut logits, mut count): (&[f32], _) = (&[], 0);
            for (sequence, window) in range.clone().zip(windows) {
                logits = values.sequence(sequence);
                count = window.count;
                let scores = token_scores(logits, labels);
                let tokens = &window.tokens;
                let tokens = TextToken::scored(tokens, self.tokenizer(), &text, &scores, labels)?;
                entities.extend(aggregation.entities(tokens)?);
            }
            if windows.len() > 1 {
                entities = merge_windows(entities);
            }
            builder.push(&entities, logits, count);
        }
        Ok(builder.finish(labels))
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        Ok(Box::new(TokenLogitsModel::load(&self.classifier, device, self.num_labels())?))
    }
}
