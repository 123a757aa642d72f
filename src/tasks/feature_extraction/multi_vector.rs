//! `feature-extraction` of a multi-vector encoder (ColBERT): one vector per token that counts, for a query or a document.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field};
use candle_core::Device;
use hfauto::sentence_transformers::RoleEncoder;
use serde_json::json;

use super::{FeatureExtraction, Precision, column};
use crate::auto::{Module, TextRole};
use crate::error::{Error, ErrorKind, Result};
use crate::tasks::classifier::summary;
use crate::tasks::definition::TaskStep;
use crate::tasks::late_interaction::LateInteraction;
use crate::tasks::models::ResolvedModel;
use crate::tasks::text_input::encode_rows;
use crate::tasks::{EncodedRow, Sequence, Task, TaskBase, TaskModel, WeightSize};

/// The task with its model resolved, without weights.
#[derive(Debug)]
pub(super) struct MultiVectorTask {
    base: TaskBase,
    role: RoleEncoder,
    truncation: bool,
    normalize: bool,
    dimensions: usize,
    precision: Precision,
}

impl MultiVectorTask {
    /// Resolves the options for a multi-vector encoder.
    ///
    /// # Errors
    /// `Config` without a `prompt_name`, and for an option that needs one vector per text; as [`RoleEncoder::new`].
    pub(super) fn resolve(
        step: &TaskStep,
        options: &FeatureExtraction,
        model: Arc<ResolvedModel>,
    ) -> Result<Self> {
        let Some(role) = options.prompt_name.as_deref().and_then(TextRole::from_name) else {
            let message =
                format!("model `{}` encodes queries and documents differently", step.model_name);
            return Err(Error::new(ErrorKind::Config, message)
                .hint("set `prompt_name` to `query` or `document`"));
        };
        let precision = options.precision();
        if options.dimensions.is_some() || !matches!(precision, Precision::F32 | Precision::F16) {
            let key = if options.dimensions.is_some() { "dimensions" } else { "precision" };
            let message =
                format!("`{key}` needs one vector per row, but the model computes several");
            return Err(Error::new(ErrorKind::Config, message)
                .hint(format!("leave `{key}` out; `precision: f16` halves the size")));
        }
        let config = model.sentence_transformer();
        let role = RoleEncoder::new(config, model.tokenizer(), role, step.max_length)?;
        let own = config.modules.last() == Some(&Module::NormalizeTokens);
        let normalize = options.normalize.unwrap_or(own);
        if own && !normalize {
            let message = "`normalize: false`: the model has a Normalize module for its tokens";
            return Err(Error::new(ErrorKind::Config, message).hint("leave `normalize` out"));
        }
        let (dimensions, truncation) =
            (config.embedding_dimension(), step.truncation.unwrap_or(true));
        let shown = json!({
            "max_length": role.max_length(),
            "truncation": truncation,
            "prompt_name": role.role().name(),
            "prompt": role.prompt(),
            "normalize": normalize,
            "dimensions": dimensions,
            "precision": precision.name(),
        });
        let summary = summary(step.task.id, step, &model, shown);
        let vector = column::embedding_type(dimensions, precision);
        let data_type = DataType::List(Arc::new(Field::new_list_field(vector, false)));
        let field = Arc::new(Field::new(&step.output, data_type, true));
        let base = TaskBase { columns: vec![options.input.clone()], field, model, summary };
        Ok(Self { base, role, truncation, normalize, dimensions, precision })
    }
}

impl Task for MultiVectorTask {
    fn base(&self) -> &TaskBase {
        &self.base
    }

    fn encode(&self, columns: &[ArrayRef], first_row: u64) -> Result<Vec<Option<EncodedRow>>> {
        let model = &*self.base.model;
        let input = model.text_input(self.role.max_length(), self.truncation);
        encode_rows(Some(model), &self.base.columns, columns, first_row, |texts| {
            let row = self.role.encode(&input, texts[0])?;
            let truncated = row.encoding.truncated;
            Ok(EncodedRow { truncated, ..LateInteraction::sequence(row).into() })
        })
    }

    fn output_bytes(&self, tokens: usize) -> usize {
        tokens * self.dimensions * size_of::<f32>()
    }

    fn load(&self, device: &Device) -> Result<Box<dyn TaskModel>> {
        Ok(Box::new(MultiVectorModel {
            model: LateInteraction::load(&self.base.model, device, self.normalize)?,
            role: self.role.clone(),
            dimensions: self.dimensions,
            precision: self.precision,
        }))
    }
}

/// The task with its weights.
struct MultiVectorModel {
    model: LateInteraction,
    role: RoleEncoder,
    dimensions: usize,
    precision: Precision,
}

impl TaskModel for MultiVectorModel {
    fn forward(&self, sequences: &[&Sequence], _max_batch_tokens: usize) -> Result<ArrayRef> {
        let rows = self.model.vectors(sequences.iter().map(|sequence| (*sequence, &self.role)))?;
        let rows = rows.iter().map(|row| row.values.as_slice());
        column::vector_lists(rows, self.dimensions, self.precision)
    }

    fn weights(&self) -> WeightSize {
        self.model.weights()
    }
}
