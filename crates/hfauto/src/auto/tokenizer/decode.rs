//! Decodes token ids to tokens and texts.

use std::collections::BTreeSet;

use tokenizers::ModelWrapper;

use super::AutoTokenizer;
use super::bounded::failed;
use crate::error::{ErrorKind, Result};
use crate::guard::guarded;

/// How token ids are decoded, with the names of transformers' `tokenizer.decode(…)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Whether to drop special tokens.
    pub skip_special_tokens: bool,
    /// Whether to remove spaces before punctuation; `None` for the setting in the tokenizer's files. Models of BPE ignore it, as in
    /// transformers 5, unless the files have `clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output`. The
    /// pipelines of transformers differ: summarization and translation keep spaces, the others follow the files.
    pub clean_up_tokenization_spaces: Option<bool>,
}

impl AutoTokenizer {
    /// Decodes token ids to a text; unknown ids are dropped.
    ///
    /// # Errors
    /// `Model` when the tokenizer fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.decode_with(ids, &DecodeOptions { skip_special_tokens, ..DecodeOptions::default() })
    }

    /// Like [`decode`](Self::decode), with options.
    ///
    /// # Errors
    /// `Model` when the tokenizer fails.
    pub fn decode_with(&self, ids: &[u32], options: &DecodeOptions) -> Result<String> {
        let skips = options.skip_special_tokens;
        let added = self.tokenizer.get_added_vocabulary();
        let tokens: Vec<String> = if self.pieces.is_some() {
            // The classes of transformers that work on pieces skip ids: an id without a piece stays as the unknown token.
            self.convert_ids_to_tokens(ids, skips).into_iter().flatten().collect()
        } else {
            let tokens = ids.iter().filter_map(|id| self.id_to_token(*id));
            tokens.filter(|token| !(skips && added.is_special_token(token))).collect()
        };
        let text = self.convert_tokens_to_string(tokens)?;
        let cleans_up = options.clean_up_tokenization_spaces;
        let cleans_up = cleans_up.unwrap_or(self.clean_up_tokenization_spaces);
        let is_bpe = matches!(self.tokenizer.get_model(), ModelWrapper::BPE(_));
        let cleans_up = cleans_up && (!is_bpe || self.clean_up_of_bpe);
        Ok(if cleans_up { clean_up(&text) } else { text })
    }

    /// The tokens of ids; `None` for an unknown id. As in transformers, `skip_special_tokens` skips
    /// [`all_special_ids`](Self::all_special_ids).
    pub fn convert_ids_to_tokens(
        &self,
        ids: &[u32],
        skip_special_tokens: bool,
    ) -> Vec<Option<String>> {
        let special: BTreeSet<u32> =
            if skip_special_tokens { self.all_special_ids() } else { Vec::new() }
                .into_iter()
                .collect();
        let kept = ids.iter().filter(|id| !special.contains(id));
        kept.map(|id| self.id_to_token(*id)).collect()
    }

    /// Joins tokens to a text with the tokenizer's decoder: byte-level characters become text again, and `##` and `▁`
    /// disappear.
    ///
    /// # Errors
    /// `Model` when the tokenizer fails.
    pub fn convert_tokens_to_string(&self, tokens: Vec<String>) -> Result<String> {
        if let Some(pieces) = &self.pieces {
            let added = self.tokenizer.get_added_vocabulary();
            return Ok(pieces.decode(&tokens, |token| added.is_special_token(token)));
        }
        if self.tokenizer.get_decoder().is_none() {
            return Ok(tokens.join(" "));
        }
        guarded(ErrorKind::Data, "the tokens", || {
            self.bounded.decode(tokens).map_err(failed("decode tokens"))
        })
    }

    /// The prefix of tokens inside a word (`##`); `None` for tokenizers without one. By it, transformers recognizes
    /// word-aware tokenizers.
    pub fn continuing_subword_prefix(&self) -> Option<&str> {
        let prefix = match self.tokenizer.get_model() {
            ModelWrapper::WordPiece(model) => Some(model.continuing_subword_prefix.as_str()),
            ModelWrapper::BPE(model) => model.continuing_subword_prefix.as_deref(),
            ModelWrapper::WordLevel(_) | ModelWrapper::Unigram(_) => None,
        };
        prefix.filter(|prefix| !prefix.is_empty())
    }
}

/// Removes the spaces of English tokenization (`clean_up_tokenization` of transformers).
fn clean_up(text: &str) -> String {
    const TIDY: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    TIDY.iter().fold(text.to_string(), |text, (from, to)| text.replace(from, to))
}
