//! The reasoning of models that think before they answer: the text from `<think>` to `</think>`, as Qwen3, SmolLM3 and
//! DeepSeek-R1 write it.
//!
//! Not here: the template's variables that turn reasoning on and off (`chat_template_kwargs`), and decoding (`generation`).

use serde_json::Value;

use crate::auto::{AutoTokenizer, ChatOptions, DecodeOptions};
use crate::error::Result;

const START: &str = "<think>";
const END: &str = "</think>";

/// Whether a prompt ends inside the model's reasoning, so that the generated text begins in it: some templates end the
/// prompt with `<think>`.
///
/// The text of other messages does not count. `chat` has the messages that were rendered; `None` for a plain prompt.
pub fn ends_in_reasoning(prompt: &str, chat: Option<(&[Value], &ChatOptions)>) -> bool {
    if prompt.trim_end().ends_with(START) {
        return true;
    }
    let continued = chat.filter(|(_, options)| options.continue_final_message);
    let last = continued.and_then(|(messages, _)| messages.last());
    last.and_then(|message| match &message["content"] {
        Value::Array(blocks) => blocks.iter().rev().find_map(|block| block["text"].as_str()),
        content => content.as_str(),
    })
    .is_some_and(|text| text.rfind(START) > text.rfind(END))
}

/// The place of an answer in generated tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// All of the text: it has no reasoning.
    Whole,
    /// The tokens from this index on.
    From(usize),
    /// The text after the first `</think>`, which is not a token of its own.
    AfterTag,
    /// No answer: the text ends inside the reasoning.
    Missing,
}

impl Answer {
    /// Finds the answer in generated `ids`, whose prompt ends inside the reasoning or not.
    ///
    /// # Errors
    /// As [`AutoTokenizer::decode_with`].
    pub(super) fn find(tokenizer: &AutoTokenizer, ids: &[u32], in_reasoning: bool) -> Result<Self> {
        // The tags may be special tokens.
        let options =
            DecodeOptions { skip_special_tokens: false, clean_up_tokenization_spaces: Some(false) };
        let text = tokenizer.decode_with(ids, &options)?;
        if !in_reasoning && !text.trim_start().starts_with(START) {
            return Ok(Self::Whole);
        }
        let end = tokenizer.token_to_id(END);
        if let Some(place) = ids.iter().position(|id| Some(*id) == end) {
            return Ok(Self::From(place + 1));
        }
        Ok(if text.contains(END) { Self::AfterTag } else { Self::Missing })
    }

    /// The part of `text` after `</think>`, for [`Answer::AfterTag`].
    pub(super) fn after_tag(text: &str) -> &str {
        text.split_once(END).map_or("", |(_, answer)| answer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_prompt_may_end_inside_the_reasoning() {
        assert!(ends_in_reasoning("<|im_start|>assistant\n<think>\n", None));
        assert!(!ends_in_reasoning("<|im_start|>assistant\n<think>\n\n</think>\n\n", None));
        // What a user writes does not count.
        assert!(!ends_in_reasoning("What does <think> do?\nassistant\n", None));

        let rendered = "assistant\n<think>\nI was";
        let continued = |content: Value| {
            let messages =
                [json!({"role": "user"}), json!({"role": "assistant", "content": content})];
            let options = ChatOptions::for_answer(&messages);
            ends_in_reasoning(rendered, Some((&messages, &options)))
        };
        assert!(continued(json!("<think>\nI was")));
        assert!(continued(json!([{"type": "text", "text": "<think>"}, {"type": "image"}])));
        assert!(!continued(json!("<think>\nI was.\n</think>\nSo")));
        assert!(!continued(json!("So")));
        assert!(!continued(json!(null)));
        let asked = [json!({"role": "user", "content": "Close <think>"})];
        let options = ChatOptions::for_answer(&asked);
        assert!(!ends_in_reasoning("user\nClose <think>\nassistant\n", Some((&asked, &options))));
    }
}
