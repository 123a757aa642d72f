//! `rerank` with a multi-vector encoder (ColBERT): the MaxSim score of the vectors of a query and of a document. A row is
//! two sequences, so that a query with many documents is computed once.
//!
//! # Source
//! `MultiVectorEncoder.similarity_pairwise` of sentence-transformers at v6.2.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float32Array, Float32Builder, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Float32Type};
use candle_core::Device;
use hfauto::sentence_transformers::{RoleEncoder, max_sim};
use serde_json::json;

use super::classifier::summary;
use super::definition::TaskStep;
use super::late_interaction::LateInteraction;
use super::models::ResolvedModel;
use super::text_input::encode_rows;
use super::{EncodedRow, Results, Sequence, Task, TaskBase, TaskModel, WeightSize};
use crate::auto::{AutoClass, TextRole};
use crate::error::{Error, ErrorKind, Result};

/// The task with its model resolved, without weights.
#[derive(Debug)]
pub(super) struct LateRerankTask {
    base: TaskBase,
    query: RoleEncoder,
    document: RoleEncoder,
    truncation: bool,
    /// The width of a vector.
    width: usize,
    is_mean: bool,
}

impl LateRerankTask {
    /// Resolves a multi-vector encoder for the `columns` of the query and the document. `given` are the names of the step's
    /// options for cross-encoders.
    ///
    /// # Errors
    /// `Config` for an option of cross-encoders; as [`RoleEncoder::new`].
    pub(super) fn resolve(
        step: &TaskStep,
        columns: [&str; 2],
        given: &[&str],
        model: Arc<ResolvedModel>,
    ) -> Result<Self> {
        let general =
            [("max_length", step.max_length.is_some()), ("auto_class", step.auto_class.is_some())];
        let general = general.into_iter().filter_map(|(key, given)| given.then_some(key));
        if let Some(key) = given.iter().copied().chain(general).next() {
            let message =
                format!("`{key}`: model `{}` scores by the vectors of tokens", step.model_name);
            return Err(Error::new(ErrorKind::Config, message).hint(format!(
                "leave `{key}` out: the model's files have its prompts and lengths"
            )));
        }
        let config = model.sentence_transformer();
        let role = |role| RoleEncoder::new(config, model.tokenizer(), role, None);
        let (query, document) = (role(TextRole::Query)?, role(TextRole::Document)?);
        let is_mean = config.multi_vector.as_ref().is_some_and(|settings| settings.is_mean);
        let (width, truncation) = (config.embedding_dimension(), step.truncation.unwrap_or(true));
        let shown = json!({
            "query_length": query.max_length(),
            "document_length": document.max_length(),
            "truncation": truncation,
            "similarity": if is_mean { "meanmaxsim" } else { "maxsim" },
        });
        let summary = summary(step.task.id, step, &model, shown);
        let field = Arc::new(Field::new(&step.output, DataType::Float32, true));
        let columns = columns.map(str::to_owned).to_vec();
        let base = TaskBase { columns, field, model, summary };
        Ok(Self { base, query, document, truncation, width, is_mean })
    }
}

impl Task for LateRerankTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        let model = &*self.base.model;
        encode_rows(Some(model), &self.base.columns, columns, first_row, |texts| {
            let encode = |role: &RoleEncoder, text: &str| {
                let input = model.text_input(role.max_length(), self.truncation);
                role.encode(&input, text)
            };
            let query = encode(&self.query, texts[0])?;
            let document = encode(&self.document, texts[1])?;
            let truncated = query.encoding.truncated || document.encoding.truncated;
            let document = Sequence { start: 0, ..LateInteraction::sequence(document) };
            let sequences = vec![LateInteraction::sequence(query), document];
            Ok(EncodedRow { sequences, truncated, ..EncodedRow::default() })
        })
    }

    fn output_bytes(&self, tokens: usize) -> usize {
        tokens * self.width * size_of::<f32>()
    }

    fn sequence_type(&self) -> DataType {
        DataType::new_list(DataType::Float32, false)
    }

    fn is_row_by_row(&self) -> bool {
        false
    }

    fn finish(&self, _columns: &[ArrayRef], results: &Results<'_>) -> Result<ArrayRef> {
        let vectors = results.values.as_list::<i32>();
        let of = |sequence: usize| {
            let values = vectors.value(sequence);
            values.as_primitive::<Float32Type>().values().clone()
        };
        let mut scores = Float32Builder::with_capacity(results.rows.len());
        for row in results.rows {
            scores.append_option(
                row.as_ref().map(|row| {
                    max_sim(&of(row.start), &of(row.start + 1), self.width, self.is_mean)
                }),
            );
        }
        Ok(Arc::new(scores.finish()))
    }

    fn auto_class(&self) -> AutoClass {
        AutoClass::Model
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        Ok(Box::new(LateRerankModel {
            model: LateInteraction::load(&self.base.model, device, false)?,
            query: self.query.clone(),
            document: self.document.clone(),
        }))
    }
}

/// The task with its weights.
struct LateRerankModel {
    model: LateInteraction,
    query: RoleEncoder,
    document: RoleEncoder,
}

impl TaskModel for LateRerankModel {
    /// The vectors of each sequence, flat.
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        // The tokens of a document are all attended to; a query has at least one that is.
        let all: Vec<Sequence> = sequences
            .iter()
            .map(|sequence| match sequence.start {
                0 => Sequence { start: sequence.tokens(), ..(*sequence).clone() },
                _ => (*sequence).clone(),
            })
            .collect();
        let roles = sequences.iter().map(|sequence| match sequence.start {
            0 => &self.document,
            _ => &self.query,
        });
        let rows = self.model.vectors(all.iter().zip(roles))?;
        let offsets = OffsetBuffer::from_lengths(rows.iter().map(|row| row.values.len()));
        let values: Vec<f32> = rows.into_iter().flat_map(|row| row.values).collect();
        let field = Arc::new(Field::new_list_field(DataType::Float32, false));
        let values = Arc::new(Float32Array::from(values));
        Ok(Arc::new(ListArray::new(field, offsets, values, None)))
    }

    fn weights(&self) -> WeightSize {
        self.model.weights()
    }
}
