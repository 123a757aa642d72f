//! The functions: one row of [`FUNCTIONS`] for each task. Not here: what DataFusion has to know of them
//! (`marker`), models by name (`catalog`).

use arrow::datatypes::{DataType, Field};
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::DocSection;
use serde_json::{Value, json};

/// A function over a task.
#[derive(Debug)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// The task that it runs.
    pub task_id: &'static str,
    /// Its parameters before the model, named as the task names its inputs.
    pub parameters: &'static [&'static str],
    /// The keys of a struct, or of the list (`messages`), that may stand in the place of one column.
    pub parts: &'static [&'static str],
    /// What it does.
    pub description: &'static str,
    /// A call.
    pub example: &'static str,
}

/// Every function, in the order of the tasks.
pub const FUNCTIONS: &[Function] = &[
    Function {
        name: "embed",
        task_id: "feature-extraction",
        parameters: &["text"],
        parts: &[],
        description: "The embedding of a text, as SentenceTransformer.encode computes it: FixedSizeList<Float32>.",
        example: "SELECT id, embed(text, 'sentence-transformers/all-MiniLM-L6-v2') FROM reviews",
    },
    Function {
        name: "classify",
        task_id: "text-classification",
        parameters: &["text"],
        parts: &["text", "text_pair"],
        description: "The best label of a text, or of a pair {text: …, text_pair: …}: Struct<label, score>; with top_k a list.",
        example: "SELECT classify(text, 'sentiment')['label'] FROM reviews",
    },
    Function {
        name: "zero_shot",
        task_id: "zero-shot-classification",
        parameters: &["text"],
        parts: &[],
        description: "How well each of candidate_labels, an option, fits a text, best first: List<Struct<label, score>>.",
        example: r#"SELECT zero_shot(text, 'nli', options => '{"candidate_labels": ["price", "quality"]}') FROM reviews"#,
    },
    Function {
        name: "rerank",
        task_id: "rerank",
        parameters: &["query", "document"],
        parts: &[],
        description: "How well a document answers a query, as CrossEncoder.predict computes it: Float32.",
        example: "SELECT id FROM documents ORDER BY rerank('warm coat', text, 'reranker') DESC LIMIT 10",
    },
    Function {
        name: "token_classify",
        task_id: "token-classification",
        parameters: &["text"],
        parts: &[],
        description: "The labelled tokens or spans of a text: List<Struct<label, score, word, start, end>>.",
        example: r#"SELECT token_classify(text, 'ner', options => '{"aggregation_strategy": "simple"}') FROM news"#,
    },
    Function {
        name: "answer",
        task_id: "question-answering",
        parameters: &["question", "context"],
        parts: &[],
        description: "The span of the context that answers the question: Struct<answer, score, start, end>.",
        example: "SELECT answer('Who wrote it?', text, 'qa')['answer'] FROM pages",
    },
    Function {
        name: "fill_mask",
        task_id: "fill-mask",
        parameters: &["text"],
        parts: &[],
        description: "The best tokens for the mask of a text: List<Struct<token_str, token, score, sequence>>.",
        example: "SELECT fill_mask('Paris is the [MASK] of France.', 'bert')",
    },
    Function {
        name: "sparse_encode",
        task_id: "sparse-encoding",
        parameters: &["text"],
        parts: &[],
        description: "The sparse vector of a text over the vocabulary (SPLADE): List<Struct<token, index, weight>>.",
        example: "SELECT sparse_encode(text, 'splade') FROM documents",
    },
    Function {
        name: "generate",
        task_id: "text-generation",
        parameters: &["prompt"],
        parts: &["messages"],
        description: "How a prompt goes on, or the answer to a list of messages {role, content}: Struct<text, finish_reason, prompt_tokens, generated_tokens>.",
        example: r#"SELECT generate(prompt, 'gpt2', options => '{"max_new_tokens": 20}')['text'] FROM prompts"#,
    },
    Function {
        name: "loglikelihood",
        task_id: "loglikelihood",
        parameters: &["text"],
        parts: &["context", "continuation"],
        description: "How likely a model finds a text, or the continuation of {context: …, continuation: …}: Struct<loglikelihood, tokens, perplexity>.",
        example: "SELECT loglikelihood(text, 'gpt2')['perplexity'] FROM reviews",
    },
    Function {
        name: "text2text",
        task_id: "text2text-generation",
        parameters: &["text"],
        parts: &[],
        description: "What an encoder and a decoder make of a text: Struct<text, finish_reason, prompt_tokens, generated_tokens>.",
        example: "SELECT text2text('question: Who? context: Ann.', 't5')['text']",
    },
    Function {
        name: "summarize",
        task_id: "summarization",
        parameters: &["text"],
        parts: &[],
        description: "The summary of a text: as text2text.",
        example: "SELECT summarize(text, 't5')['text'] FROM pages",
    },
    Function {
        name: "translate",
        task_id: "translation",
        parameters: &["text"],
        parts: &[],
        description: "A text in another language: as text2text, with the options src_lang and tgt_lang.",
        example: r#"SELECT translate(text, 't5', options => '{"src_lang": "en", "tgt_lang": "de"}')['text'] FROM pages"#,
    },
    Function {
        name: "choose",
        task_id: "multiple-choice",
        parameters: &["prompt", "choices"],
        parts: &[],
        description: "The best of a list of choices: Struct<choice, scores>.",
        example: "SELECT choose(prompt, [a, b, c], 'swag')['choice'] FROM quiz",
    },
    Function {
        name: "is_next",
        task_id: "next-sentence-prediction",
        parameters: &["text", "text_pair"],
        parts: &[],
        description: "Whether the second text follows the first: Struct<is_next, score>.",
        example: "SELECT is_next(a, b, 'bert')['is_next'] FROM pairs",
    },
    Function {
        name: "classify_image",
        task_id: "image-classification",
        parameters: &["image"],
        parts: &[],
        description: "The best labels of an image, a path or its bytes: List<Struct<label, score>>.",
        example: "SELECT classify_image(path, 'vit') FROM images",
    },
    Function {
        name: "token_count",
        task_id: "token-count",
        parameters: &["text"],
        parts: &[],
        description: "How many tokens a text has, special tokens included: Int32.",
        example: "SELECT sum(token_count(text, 'minilm')) FROM reviews",
    },
];

/// What is the section of [`Documentation`].
pub(super) const SECTION: DocSection = DocSection {
    include: true,
    label: "Model Functions",
    description: Some("Hugging Face models over columns"),
};

impl Function {
    /// What the arguments are to the task, by the types of the arguments before the model: the step's
    /// `input`, and the parts of a struct that one argument stands for.
    pub(super) fn input(&self, types: &[&DataType]) -> Result<(Value, Option<Vec<String>>)> {
        let name = self.name;
        if let [parameter] = self.parameters {
            return match types {
                [DataType::Struct(fields)] if !self.parts.is_empty() => {
                    let keys: Vec<String> =
                        fields.iter().map(|field| field.name().clone()).collect();
                    let same = keys.len() == self.parts.len()
                        && self.parts.iter().all(|part| keys.iter().any(|key| key == part));
                    if !same {
                        let parts = self.parts.join("`, `");
                        let found = keys.join("`, `");
                        return plan_err!(
                            "`{name}` takes a struct of `{parts}`, found one of `{found}`"
                        );
                    }
                    let input = keys.iter().map(|key| (key.clone(), json!(key))).collect();
                    Ok((Value::Object(input), Some(keys)))
                }
                [DataType::List(_) | DataType::LargeList(_)] if self.parts == ["messages"] => {
                    Ok((json!({"messages": "messages"}), None))
                }
                _ => Ok((json!(parameter), None)),
            };
        }
        let input = self.parameters.iter().map(|name| ((*name).to_owned(), json!(name))).collect();
        Ok((Value::Object(input), None))
    }

    /// The type of its column with default options, for listings: the real one depends on the model.
    pub(super) fn usual_type(&self) -> DataType {
        use DataType::{Boolean, Float32, Float64, Int32, Int64, UInt32, Utf8};
        let fields = |fields: &[(&str, DataType)]| {
            let field =
                |(name, data_type): &(&str, DataType)| Field::new(*name, data_type.clone(), true);
            DataType::Struct(fields.iter().map(field).collect())
        };
        let list = |item: DataType| DataType::new_list(item, true);
        match self.task_id {
            "feature-extraction" => list(Float32),
            "rerank" => Float32,
            "token-count" => Int32,
            "text-classification" => fields(&[("label", Utf8), ("score", Float32)]),
            "zero-shot-classification" | "image-classification" => {
                list(fields(&[("label", Utf8), ("score", Float32)]))
            }
            "token-classification" => list(fields(&[
                ("label", Utf8),
                ("score", Float32),
                ("word", Utf8),
                ("start", Int32),
                ("end", Int32),
            ])),
            "question-answering" => {
                fields(&[("answer", Utf8), ("score", Float32), ("start", Int32), ("end", Int32)])
            }
            "fill-mask" => list(fields(&[
                ("token_str", Utf8),
                ("token", Int64),
                ("score", Float32),
                ("sequence", Utf8),
            ])),
            "sparse-encoding" => {
                list(fields(&[("token", Utf8), ("index", UInt32), ("weight", Float32)]))
            }
            "loglikelihood" => {
                fields(&[("loglikelihood", Float64), ("tokens", Int32), ("perplexity", Float64)])
            }
            "multiple-choice" => fields(&[("choice", Int32), ("scores", list(Float32))]),
            "next-sentence-prediction" => fields(&[("is_next", Boolean), ("score", Float32)]),
            // Those that generate.
            _ => fields(&[
                ("text", Utf8),
                ("finish_reason", Utf8),
                ("prompt_tokens", Int32),
                ("generated_tokens", Int32),
            ]),
        }
    }

    /// A call as a user writes it.
    pub fn syntax(&self, name: &str) -> String {
        format!("{name}({}, model [, options => '{{…}}'])", self.parameters.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn every_task_has_a_function() {
        let schema = config::schema();
        let steps = schema["$defs"]["RawStep"]["oneOf"].as_array().unwrap();
        for step in steps {
            let task = step["required"][0].as_str().unwrap();
            let functions = FUNCTIONS.iter().filter(|function| function.task_id == task).count();
            assert_eq!(functions, usize::from(task != "sql"), "{task}");
        }
    }

    #[test]
    fn examples_call_their_function() {
        for function in FUNCTIONS {
            assert!(function.example.contains(&format!("{}(", function.name)), "{}", function.name);
        }
    }
}
