//! `token-classification`: a text to labelled spans, as transformers' pipeline gives them. A text of
//! several windows is several sequences.
//!
//! # Source
//! `src/transformers/pipelines/token_classification.py` at v4.57.

mod aggregate;
mod column;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field};
use candle_core::Device;

use super::characters::Characters;
use super::classifier::Classifier;
use super::labels::softmax;
use super::models::Models;
use super::text_input::TextInput;
use super::token_logits::{TokenLogits, TokenLogitsModel, token_logits_type};
use super::{EncodedRow, Results, Sequence, Task, TaskBase, TaskModel, text_column};
use crate::auto::{AutoClass, AutoTokenizer, EncodeOptions, WindowOptions};
use crate::config::pipeline::{TaskStep, TokenClassification};
use crate::error::{Error, ErrorKind, Result};
use aggregate::{Aggregation, TokenScores, merge_windows};
use column::{ColumnBuilder, Columns};

/// The task with its model resolved, without weights.
#[derive(Debug)]
pub struct TokenClassificationTask {
    classifier: Classifier,
    input: TextInput,
    base: TaskBase,
    columns: Columns,
    options: TokenClassification,
}

/// What is kept of the windows of a row.
struct RowTokens(Vec<WindowTokens>);

/// The tokens of one sequence.
struct WindowTokens {
    /// How many there are.
    count: usize,
    /// Those that are not special.
    tokens: Vec<Token>,
}

/// A token of the text.
struct Token {
    id: u32,
    index: u32,
    start: u32,
    end: u32,
}

impl WindowTokens {
    fn new(ids: &[u32], offsets: &[(usize, usize)], special: &[bool]) -> Self {
        let tokens = ids.iter().zip(offsets).zip(special).enumerate();
        let tokens = tokens.filter(|(_, (_, special))| !**special);
        let tokens = tokens.map(|(index, ((&id, &(start, end)), _))| Token {
            id,
            index: index as u32,
            start: start as u32,
            end: end as u32,
        });
        Self { count: ids.len(), tokens: tokens.collect() }
    }
}

impl TokenClassificationTask {
    /// Resolves the step's model and options.
    ///
    /// # Errors
    /// As [`Models::resolve`]; `Unsupported` when the model has no such head; `Config` for options that do
    /// not go together.
    pub fn resolve(
        step: &TaskStep,
        options: &TokenClassification,
        models: &Models,
    ) -> Result<Self> {
        let classifier = Classifier::resolve(step, AutoClass::TokenClassification, models)?;
        let input = TextInput::new(
            Arc::clone(&classifier.model),
            [options.input.as_str()],
            step.max_length,
            step.truncation.unwrap_or(true),
        )?;
        if let Some(stride) = options.stride {
            input.check_stride("stride", stride)?;
            if step.logits {
                return Err(Error::new(
                    ErrorKind::Config,
                    "`outputs: [logits]` with `stride`: a token of several windows has several logits",
                )
                .hint("remove one of them"));
            }
        }
        let summary = classifier.summary(
            "token-classification",
            step,
            serde_json::json!({
                "max_length": input.max_length,
                "aggregation_strategy": options.aggregation_strategy.name(),
                "ignore_labels": options.ignore_labels,
                "stride": options.stride,
            }),
        );
        let columns = Columns::new(options.aggregation_strategy, step.logits);
        let base = TaskBase {
            columns: input.columns.clone(),
            field: Arc::new(Field::new(&step.output, columns.data_type(), true)),
            model: Arc::clone(&classifier.model),
            summary,
        };
        Ok(Self { base, options: options.clone(), classifier, input, columns })
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
        if let Some(stride) = self.options.stride {
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

    /// A token's text, and whether it goes on with the word before it.
    fn word(&self, token: &Token, text: &Characters<'_>) -> (String, bool) {
        let (start, end) = (token.start as usize, token.end as usize);
        if Some(token.id) == self.tokenizer().unk_token_id() {
            return (text.slice(start..end).to_owned(), false);
        }
        let word = self.tokenizer().id_to_token(token.id).unwrap_or_default();
        let is_subword = if self.tokenizer().continuing_subword_prefix().is_some() {
            // The token is longer than its text by the prefix.
            word.chars().count() != text.slice(start..end).chars().count()
        } else {
            start > 0 && !text.slice(start - 1..start + 1).contains(' ')
        };
        (word, is_subword)
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
        // Logits, what is kept of each token, and an entity for some.
        tokens * (size_of::<f32>() * self.num_labels() + size_of::<Token>() + 16)
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
        let to_text = |tokens| Ok(self.tokenizer().convert_tokens_to_string(tokens)?);
        let aggregation = Aggregation {
            strategy: self.options.aggregation_strategy,
            config: self.classifier.model.config(),
            ignore_labels: &self.options.ignore_labels,
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
                let scores: Vec<f32> = logits.chunks_exact(labels).flat_map(softmax).collect();
                let tokens = window.tokens.iter().map(|token| {
                    let (word, is_subword) = self.word(token, &text);
                    let Token { index, start, end, .. } = *token;
                    let first = index as usize * labels;
                    let scores = scores.get(first..first + labels).ok_or_else(lost)?;
                    Ok(TokenScores { word, scores, start, end, index, is_subword })
                });
                entities.extend(aggregation.entities(tokens.collect::<Result<_>>()?)?);
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
