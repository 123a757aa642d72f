//! `generate` for texts: tokenizes prompts, generates, and decodes.

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::generation::{
    GeneratedText, Prompt, PromptRoom, TextGenerator, TextOf, check_settings, generation_settings,
};
use super::reasoning::ends_in_reasoning;
use crate::auto::{
    AutoModelFor, AutoModelForCausalLM, AutoModelForSeq2SeqLM, ChatOptions, EncodeOptions,
    HeadClass, TextInput,
};
use crate::batch::shares;
use crate::error::{Error, ErrorKind, Result};
use crate::generation::{GenerationConfig, PrefixCache};
use crate::memory::batch_tokens;
use crate::sentence_transformers::workers;

/// Options of [`AutoModelForCausalLM::generate_chat`].
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateChatOptions {
    /// The name of one of the tokenizer's chat templates, or a Jinja template. Default: the tokenizer's.
    pub chat_template: Option<String>,
    /// Additional variables of the template, for example `enable_thinking`.
    pub chat_template_kwargs: Map<String, Value>,
    /// Whether the text includes the model's reasoning, from `<think>` to `</think>`. Without it, the text is the answer:
    /// empty when the text ends inside the reasoning. Default: true.
    pub include_reasoning: bool,
}

impl Default for GenerateChatOptions {
    fn default() -> Self {
        Self { chat_template: None, chat_template_kwargs: Map::new(), include_reasoning: true }
    }
}

impl<C: HeadClass> AutoModelFor<C> {
    /// The settings of the checkpoint's `generation_config.json`, or else those in its `config.json`, with
    /// transformers' defaults.
    ///
    /// # Errors
    /// `Unsupported` for a setting that is not implemented, `Model` for an invalid one.
    pub fn generation_config(&self) -> Result<GenerationConfig> {
        let none = Map::new();
        generation_settings(self.snapshot(), self.config(), &none, &none, &none)
    }

    fn input(&self, max_length: usize) -> Result<TextInput<'_>> {
        Ok(TextInput {
            name: self.name(),
            config: self.config(),
            tokenizer: self.tokenizer()?,
            max_length,
            truncation: false,
        })
    }

    /// Generates for tokenized prompts, on all threads of the current rayon pool, or on the GPU.
    fn generate_for(
        &self,
        prompts: &[Prompt<'_>],
        config: &GenerationConfig,
        text_of: TextOf,
        include_reasoning: bool,
    ) -> Result<Vec<GeneratedText>> {
        // Marks these settings as the caller's, for error messages.
        let given = json!({"max_new_tokens": 0, "max_length": 0, "num_beams": 0});
        check_settings(config, self.config(), given.as_object().unwrap_or(&Map::new()))?;
        let prefixes = PrefixCache::default();
        let generator = TextGenerator {
            model: self,
            tokenizer: self.tokenizer()?,
            config,
            text_of,
            include_reasoning,
            prefixes: &prefixes,
        };
        let (dimensions, device) = (self.config().dimensions(), self.device());
        let budget = batch_tokens(Some(dimensions), std::slice::from_ref(device), true);
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.input_ids.len()).collect();
        let shares = shares(&lengths, workers(device));
        let generated: Vec<Result<Vec<GeneratedText>>> = shares
            .par_iter()
            .map(|share| {
                let prompts: Vec<Prompt<'_>> = share.iter().map(|&row| prompts[row]).collect();
                generator.generate(&prompts, budget)
            })
            .collect();
        let mut texts: Vec<Option<GeneratedText>> = prompts.iter().map(|_| None).collect();
        for (share, generated) in shares.iter().zip(generated) {
            for (&row, text) in share.iter().zip(generated?) {
                texts[row] = Some(text);
            }
        }
        let missing = || Error::new(ErrorKind::Internal, "a prompt was not generated for");
        texts.into_iter().map(|text| text.ok_or_else(missing)).collect()
    }
}

impl AutoModelForCausalLM {
    /// Continues each of `prompts`, in their order. The returned texts exclude the prompts.
    ///
    /// A row's result does not depend on the others: with `do_sample`, its random numbers come from `seed` and its own
    /// prompt. An empty prompt starts with `bos_token_id`. [`generation_config`](AutoModelFor::generation_config)
    /// returns the checkpoint's settings.
    ///
    /// # Errors
    /// `Data` for a prompt that leaves no room to generate, or has a token that the model has no embedding for;
    /// `Config` for settings that the model does not support; `Unsupported` for an encoder; `Model` when the
    /// tokenizer's files are unusable or the model computes NaN or infinity; `Internal` when a tensor operation fails.
    ///
    /// # Example
    /// ```
    /// use hfauto::auto::AutoModelForCausalLM;
    /// use hfauto::generation::GenerationConfig;
    ///
    /// # fn main() -> hfauto::Result<()> {
    /// // Or a hub id, as "openai-community/gpt2".
    /// let id = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tasks/gpt2");
    /// let model = AutoModelForCausalLM::from_pretrained(id)?;
    /// let config = GenerationConfig { max_new_tokens: Some(4), ..model.generation_config()? };
    /// let generated = model.generate(&["Harbour", "The film is slow"], &config)?;
    /// assert_eq!(generated.len(), 2);
    /// assert!(generated.iter().all(|row| row.token_ids.len() <= 4));
    /// # Ok(())
    /// # }
    /// ```
    pub fn generate<T: AsRef<str> + Sync>(
        &self,
        prompts: &[T],
        config: &GenerationConfig,
    ) -> Result<Vec<GeneratedText>> {
        let prompts = self.encode_prompts(prompts, config, true)?;
        let prompt = |ids| Prompt { input_ids: ids, in_reasoning: false };
        let prompts: Vec<_> = prompts.iter().map(Vec::as_slice).map(prompt).collect();
        self.generate_for(&prompts, config, TextOf::Continuation, true)
    }

    /// Replies to each of `conversations`, lists of messages `{"role": …, "content": …}` that the tokenizer's chat
    /// template renders. A conversation that ends with an assistant message is continued.
    ///
    /// # Errors
    /// As [`generate`](Self::generate); `Config` when the tokenizer has no chat template; `Data` for a conversation
    /// that the template rejects.
    ///
    /// # Example
    /// ```
    /// use hfauto::auto::AutoModelForCausalLM;
    /// use hfauto::generation::GenerationConfig;
    /// use hfauto::pipelines::GenerateChatOptions;
    /// use serde_json::json;
    ///
    /// # fn main() -> hfauto::Result<()> {
    /// // Or a hub id, as "Qwen/Qwen3-0.6B".
    /// let id = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tasks/gpt2");
    /// let model = AutoModelForCausalLM::from_pretrained(id)?;
    /// let config = GenerationConfig { max_new_tokens: Some(4), ..model.generation_config()? };
    /// let mut options = GenerateChatOptions::default();
    /// options.chat_template_kwargs.insert("enable_thinking".to_owned(), false.into());
    /// let conversation = vec![json!({"role": "user", "content": "The film is slow"})];
    /// let replies = model.generate_chat(&[conversation], &options, &config)?;
    /// assert!(replies[0].token_ids.len() <= 4);
    /// # Ok(())
    /// # }
    /// ```
    pub fn generate_chat<T: AsRef<[Value]>>(
        &self,
        conversations: &[T],
        options: &GenerateChatOptions,
        config: &GenerationConfig,
    ) -> Result<Vec<GeneratedText>> {
        let kwargs = &options.chat_template_kwargs;
        let tools = kwargs.get("tools").is_some_and(|tools| !tools.is_null());
        let template = self.tokenizer()?.chat_template(options.chat_template.as_deref(), tools)?;
        let texts = conversations.iter().enumerate().map(|(number, messages)| {
            let messages = messages.as_ref();
            let chat = ChatOptions { extra: kwargs.clone(), ..ChatOptions::for_answer(messages) };
            let text = template.render(messages, &chat);
            let text = text.map_err(|e| e.at(format!("conversation {number}")))?;
            let in_reasoning = ends_in_reasoning(&text, Some((messages, &chat)));
            Ok((text, in_reasoning))
        });
        let (texts, in_reasoning): (Vec<_>, Vec<_>) =
            texts.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let prompts = self.encode_prompts(&texts, config, false)?;
        let prompt = |(ids, in_reasoning)| Prompt { input_ids: ids, in_reasoning };
        let prompts: Vec<_> =
            prompts.iter().map(Vec::as_slice).zip(in_reasoning).map(prompt).collect();
        self.generate_for(&prompts, config, TextOf::Continuation, options.include_reasoning)
    }

    /// The tokens of prompts, which leave room to generate.
    fn encode_prompts<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        config: &GenerationConfig,
        add_special_tokens: bool,
    ) -> Result<Vec<Vec<u32>>> {
        let tokenizer = self.tokenizer()?;
        let stated = tokenizer.model_max_length();
        let total = TextInput::max_tokens(self.config(), tokenizer, None, stated, false)?;
        let input = self.input(total)?;
        let room = PromptRoom { max_length: None, total, truncation: false };
        let options = EncodeOptions { add_special_tokens, ..EncodeOptions::default() };
        let encode = |(number, text): (usize, &T)| {
            let encoding = tokenizer.encode(text.as_ref(), &options);
            let ids = encoding.and_then(|encoding| {
                let (ids, _) = room.fit(encoding.input_ids, config)?;
                input.check_tokens(&ids, &[])?;
                Ok(ids)
            });
            ids.map_err(|e| e.at(format!("prompt {number}")))
        };
        let prompts: Vec<Result<_>> = texts.par_iter().enumerate().map(encode).collect();
        prompts.into_iter().collect()
    }
}

impl AutoModelForSeq2SeqLM {
    /// Generates a text for each of `texts`, in their order. Texts are used verbatim: include a prefix, for example
    /// `translate English to German: `.
    ///
    /// A row's result does not depend on the others. [`generation_config`](AutoModelFor::generation_config) gives the
    /// checkpoint's settings.
    ///
    /// # Errors
    /// As [`AutoModelForCausalLM::generate`].
    ///
    /// # Example
    /// ```
    /// use hfauto::auto::AutoModelForSeq2SeqLM;
    /// use hfauto::generation::GenerationConfig;
    ///
    /// # fn main() -> hfauto::Result<()> {
    /// // Or a hub id, as "google-t5/t5-small".
    /// let id = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tasks/t5");
    /// let model = AutoModelForSeq2SeqLM::from_pretrained(id)?;
    /// let config = GenerationConfig { max_new_tokens: Some(4), ..model.generation_config()? };
    /// let generated = model.generate(&["summarize: The film is slow."], &config)?;
    /// assert!(generated[0].token_ids.len() <= 4);
    /// # Ok(())
    /// # }
    /// ```
    pub fn generate<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        config: &GenerationConfig,
    ) -> Result<Vec<GeneratedText>> {
        let positions = self.config().dimensions().max_position_embeddings;
        let input = self.input(positions.unwrap_or(usize::MAX))?;
        let encode = |(number, text): (usize, &T)| {
            let encoding = input.tokenizer.encode(text.as_ref(), &input.options());
            let ids = encoding.and_then(|encoding| {
                input.fits(encoding.input_ids.len())?;
                input.check_tokens(&encoding.input_ids, &[])?;
                Ok(encoding.input_ids)
            });
            ids.map_err(|e| e.at(format!("text {number}")))
        };
        let texts: Vec<Result<_>> = texts.par_iter().enumerate().map(encode).collect();
        let texts = texts.into_iter().collect::<Result<Vec<Vec<u32>>>>()?;
        let prompt = |ids| Prompt { input_ids: ids, in_reasoning: false };
        let prompts: Vec<_> = texts.iter().map(Vec::as_slice).map(prompt).collect();
        self.generate_for(&prompts, config, TextOf::Generated, true)
    }
}
