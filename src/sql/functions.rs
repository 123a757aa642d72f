//! The functions: one row of [`FUNCTIONS`] for each task, and what DataFusion has to know of a function
//! before it plans. They are markers: a call is lifted into a model node (`lift`) before anything is
//! evaluated. Not here: models by name (`catalog`).

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_err, plan_datafusion_err, plan_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{
    ColumnarValue, DocSection, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use serde_json::{Value, json};

use super::catalog::ModelCatalog;
use crate::engine::{RowErrors, output_type};
use crate::tasks::Task;

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
    fn input(&self, types: &[&DataType]) -> Result<(Value, Option<Vec<String>>)> {
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

    /// A call as a user writes it.
    pub fn syntax(&self, name: &str) -> String {
        format!("{name}({}, model [, options => '{{…}}'])", self.parameters.join(", "))
    }
}

/// A function in a session: a row of [`FUNCTIONS`] over a catalog of models.
#[derive(Debug)]
pub(super) struct ModelFunction {
    pub(super) function: &'static Function,
    /// Whether it is the `try_` twin.
    pub(super) row_errors: RowErrors,
    pub(super) catalog: Arc<ModelCatalog>,
    name: String,
    signature: Signature,
    documentation: Documentation,
}

/// A call that was resolved.
pub(super) struct Resolved {
    pub(super) task: Arc<dyn Task>,
    /// The parts of the struct that the first argument is, if it is one.
    pub(super) parts: Option<Vec<String>>,
}

impl ModelFunction {
    pub(super) fn try_new(
        function: &'static Function,
        row_errors: RowErrors,
        catalog: Arc<ModelCatalog>,
    ) -> Result<Self> {
        let (name, description) = match row_errors {
            RowErrors::Fail => (function.name.to_owned(), function.description.to_owned()),
            RowErrors::Keep => {
                let name = function.name;
                let description = format!(
                    "{name} that keeps the error of a row beside its value: Struct<value, error>. {}",
                    function.description
                );
                (format!("try_{name}"), description)
            }
        };
        let count = function.parameters.len();
        let names = function.parameters.iter().chain(&["model", "options"]).copied();
        // `Any` takes every type, so that a wrong one is told by the name of the argument; the exact
        // one is what `SHOW FUNCTIONS` shows.
        let signature = Signature::one_of(
            vec![
                TypeSignature::Any(count + 1),
                TypeSignature::Any(count + 2),
                TypeSignature::Exact(vec![DataType::Utf8; count + 2]),
            ],
            // Nothing is folded or repeated: calls are lifted before the optimizer sees them.
            Volatility::Immutable,
        )
        .with_parameter_names(names.collect::<Vec<_>>())?;
        let mut documentation =
            Documentation::builder(SECTION, description, function.syntax(&name)).with_sql_example(
                format!("```sql\n{}\n```", function.example.replace(function.name, &name)),
            );
        for parameter in function.parameters {
            documentation = documentation.with_argument(*parameter, "What the model reads.");
        }
        let documentation = documentation
            .with_argument(
                "model",
                "A literal: an alias (`CREATE MODEL`, or `models` of a pipeline), a hub id or a directory.",
            )
            .with_argument(
                "options",
                format!("A JSON object of the options of the task `{}`.", function.task_id),
            )
            .build();
        Ok(Self { function, row_errors, catalog, name, signature, documentation })
    }

    /// Finds the task of a call. The literals are `None` where an argument is none.
    pub(super) fn resolve(
        &self,
        types: &[&DataType],
        literals: &[Option<&ScalarValue>],
    ) -> Result<Resolved> {
        let (name, count) = (&self.name, self.function.parameters.len());
        let Some((&Some(model), options)) =
            literals.get(count..).and_then(|rest| rest.split_first())
        else {
            return plan_err!(
                "`{name}`: the model must be a literal, such as `{name}({}, 'minilm')`",
                self.function.parameters.join(", ")
            );
        };
        let Some(Some(model)) = model.try_as_str() else {
            return plan_err!("`{name}`: the model must be a text, found {}", model.data_type());
        };
        let options = match options.first() {
            None => None,
            Some(Some(options)) => match options.try_as_str() {
                Some(options) => options,
                None => {
                    return plan_err!(
                        "`{name}`: `options` must be a JSON object as text, found {}",
                        options.data_type()
                    );
                }
            },
            Some(None) => return plan_err!("`{name}`: `options` must be a literal"),
        };
        let (input, parts) = self.function.input(&types[..count])?;
        let task = self.catalog.task(self.function, name, &input, model, options)?;
        let read: Vec<DataType> = match (&parts, types) {
            (Some(_), [DataType::Struct(fields), ..]) => {
                fields.iter().map(|field| field.data_type().clone()).collect()
            }
            _ => types[..count].iter().map(|data_type| (*data_type).clone()).collect(),
        };
        // A null is a null text.
        let text = |found: DataType| if found.is_null() { DataType::Utf8 } else { found };
        let read: Vec<DataType> = read.into_iter().map(text).collect();
        let order =
            parts.clone().unwrap_or_else(|| task.inputs().into_iter().map(str::to_owned).collect());
        let in_order = task.inputs().into_iter().map(|input| {
            let index = order.iter().position(|name| name == input);
            index.and_then(|index| read.get(index)).ok_or_else(|| {
                plan_datafusion_err!("`{name}`: the task reads `{input}`, which no argument is")
            })
        });
        let in_order: Vec<&DataType> = in_order.collect::<Result<_>>()?;
        task.check_inputs(&in_order)
            .map_err(|error| DataFusionError::External(Box::new(as_argument(error, name))))?;
        Ok(Resolved { task, parts })
    }

    /// [`ModelFunction::resolve`] for a call in an expression.
    pub(super) fn resolve_call(&self, args: &[Expr], types: &[DataType]) -> Result<Resolved> {
        let literals: Vec<Option<&ScalarValue>> = args.iter().map(literal).collect();
        self.resolve(&types.iter().collect::<Vec<_>>(), &literals)
    }
}

/// The type errors of tasks speak of columns and `sql` steps; here they are arguments.
fn as_argument(error: crate::Error, function: &str) -> crate::Error {
    let message = error.message().replacen("column", "argument", 1);
    crate::Error::new(error.kind(), format!("`{function}`: {message}"))
        .hint("cast it: CAST(… AS STRING)")
}

/// The literal that an expression is.
pub(super) fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value),
        Expr::Alias(alias) => literal(&alias.expr),
        Expr::Cast(cast) => literal(&cast.expr),
        _ => None,
    }
}

impl PartialEq for ModelFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.catalog, &other.catalog)
    }
}

impl Eq for ModelFunction {}

impl Hash for ModelFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for ModelFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        exec_err!("the type of `{}` depends on its model", self.name)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<&DataType> = args.arg_fields.iter().map(|field| field.data_type()).collect();
        let resolved = self.resolve(&types, args.scalar_arguments)?;
        let data_type = output_type(resolved.task.field(), self.row_errors);
        Ok(Arc::new(Field::new(&self.name, data_type, true)))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!(
            "`{}` runs as a step of a query, not as part of an expression: this place cannot have it",
            self.name
        )
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&self.documentation)
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
