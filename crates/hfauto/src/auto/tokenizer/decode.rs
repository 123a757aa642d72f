//! Token ids back to tokens and texts.

use std::collections::BTreeSet;

use tokenizers::ModelWrapper;

use super::AutoTokenizer;
use super::bounded::failed;
use crate::error::{ErrorKind, Result};
use crate::guard::guarded;

/// How token ids become a text, in the words of transformers' `tokenizer.decode(…)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Whether to leave out special tokens.
    pub skip_special_tokens: bool,
    /// Whether to tidy the spaces before punctuation; `None` for what the tokenizer's files say. The
    /// pipelines of transformers have answers of their own: text-generation tidies, summarization and
    /// its kin do not, fill-mask leaves it to the files.
    pub clean_up_tokenization_spaces: Option<bool>,
}

impl AutoTokenizer {
    /// The text of token ids; ids that the tokenizer does not know are left out.
    ///
    /// # Errors
    /// `Model` when the tokenizer fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.decode_with(ids, &DecodeOptions { skip_special_tokens, ..DecodeOptions::default() })
    }

    /// The text of token ids; ids that the tokenizer does not know are left out.
    ///
    /// # Errors
    /// `Model` when the tokenizer fails.
    pub fn decode_with(&self, ids: &[u32], options: &DecodeOptions) -> Result<String> {
        let added = self.tokenizer.get_added_vocabulary();
        let tokens = ids
            .iter()
            .filter_map(|id| self.id_to_token(*id))
            .filter(|token| !(options.skip_special_tokens && added.is_special_token(token)));
        let text = self.convert_tokens_to_string(tokens.collect())?;
        let tidy = options.clean_up_tokenization_spaces;
        Ok(if tidy.unwrap_or(self.clean_up_tokenization_spaces) { clean_up(&text) } else { text })
    }

    /// The tokens of ids; `None` for an id that the tokenizer does not know. Skipped are the tokens in
    /// [`all_special_ids`](Self::all_special_ids), as in transformers.
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

    /// The text of tokens, by the tokenizer's decoder: byte-level letters become text again, `##` and `▁`
    /// go.
    ///
    /// # Errors
    /// `Model` when the tokenizer fails.
    pub fn convert_tokens_to_string(&self, tokens: Vec<String>) -> Result<String> {
        if self.tokenizer.get_decoder().is_none() {
            return Ok(tokens.join(" "));
        }
        guarded(ErrorKind::Data, "the tokens", || {
            self.bounded.decode(tokens).map_err(failed("decode tokens"))
        })
    }

    /// What the tokens inside of a word begin with (`##`); `None` for tokenizers that do not mark them, by
    /// which transformers tells the word-aware ones from the others.
    pub fn continuing_subword_prefix(&self) -> Option<&str> {
        let prefix = match self.tokenizer.get_model() {
            ModelWrapper::WordPiece(model) => Some(model.continuing_subword_prefix.as_str()),
            ModelWrapper::BPE(model) => model.continuing_subword_prefix.as_deref(),
            ModelWrapper::WordLevel(_) | ModelWrapper::Unigram(_) => None,
        };
        prefix.filter(|prefix| !prefix.is_empty())
    }
}

/// Tidies the spaces that English tokenization leaves (`clean_up_tokenization` of transformers).
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
