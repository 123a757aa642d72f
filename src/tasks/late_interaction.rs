//! The model of a multi-vector encoder (ColBERT) with its projection, for the tasks that use one. Not here: which tokens a
//! query or a document has ([`RoleEncoder`]).

use std::sync::Arc;

use candle_core::Device;
use hfauto::sentence_transformers::{RoleEncoder, RoleRow, TokenVectors, token_vectors};

use super::models::ResolvedModel;
use super::{Sequence, WeightSize};
use crate::auto::{AutoModel, Head, Module};
use crate::error::Result;

/// A loaded multi-vector encoder.
pub(super) struct LateInteraction {
    model: Arc<AutoModel>,
    head: Head,
}

impl LateInteraction {
    /// Loads the model to one of its devices; `normalize` scales vectors to unit length, as the last step.
    ///
    /// # Errors
    /// As [`ResolvedModel::load`].
    pub(super) fn load(model: &ResolvedModel, device: &Device, normalize: bool) -> Result<Self> {
        let mut modules = model.sentence_transformer().clone();
        if normalize && modules.modules.last() != Some(&Module::NormalizeTokens) {
            modules.modules.push(Module::NormalizeTokens);
        }
        Ok(Self { model: model.load(device)?, head: model.load_head(&modules, device)? })
    }

    /// The sequence of a row: [`Sequence::start`] is the number of leading tokens that others attend to.
    pub(super) fn sequence(row: RoleRow) -> Sequence {
        let RoleRow { encoding, attended } = row;
        Sequence { start: attended, ..Sequence::new(encoding.input_ids, encoding.token_type_ids) }
    }

    /// The vectors of sequences, each with its role.
    ///
    /// # Errors
    /// As [`token_vectors`].
    pub(super) fn vectors<'a>(
        &self,
        sequences: impl Iterator<Item = (&'a Sequence, &'a RoleEncoder)>,
    ) -> Result<Vec<TokenVectors>> {
        let rows = sequences.map(|(sequence, role)| {
            let row = (&sequence.input_ids[..], &sequence.token_type_ids[..]);
            (row, sequence.start, role)
        });
        Ok(token_vectors(&self.model, &self.head, &rows.collect::<Vec<_>>())?)
    }

    /// The size of the loaded weights.
    pub(super) fn weights(&self) -> WeightSize {
        let report = self.model.report();
        WeightSize { parameters: report.parameters as usize, bytes: report.bytes as usize }
    }
}
