//! Token ids back to texts.

use tokenizers::Decoder;

use super::AutoTokenizer;
use super::encode::failed;
use crate::error::Result;

impl AutoTokenizer {
    /// The text of token ids; ids that the tokenizer does not know are left out.
    ///
    /// # Errors
    /// `Model` when the tokenizer fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let added = self.tokenizer.get_added_vocabulary();
        let tokens = ids
            .iter()
            .filter_map(|id| self.id_to_token(*id))
            .filter(|token| !(skip_special_tokens && added.is_special_token(token)))
            .collect::<Vec<_>>();
        let text = match self.tokenizer.get_decoder() {
            Some(decoder) => decoder.decode(tokens).map_err(failed("decode token ids"))?,
            None => tokens.join(" "),
        };
        Ok(if self.clean_up_tokenization_spaces { clean_up(&text) } else { text })
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
