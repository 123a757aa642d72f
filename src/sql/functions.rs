//! The SQL functions, one per task, as its definition declares it. Not here: what DataFusion needs to know
//! about them (`marker`), models by name (`catalog`).

use arrow::datatypes::DataType;
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::DocSection;
use serde_json::{Value, json};

use crate::tasks::SqlFunction;

/// The section of [`Documentation`] for the functions.
pub(super) const SECTION: DocSection = DocSection {
    include: true,
    label: "Model Functions",
    description: Some("Hugging Face models over columns"),
};

impl SqlFunction {
    /// The `input` of the step, from the types of the arguments before the model, and the fields of the
    /// struct if one argument is a struct.
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

    /// A call in SQL syntax.
    pub fn syntax(&self, name: &str) -> String {
        format!("{name}({}, model [, options => '{{…}}'])", self.parameters.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use crate::tasks::TASKS;

    #[test]
    fn names_are_unique_and_examples_call_their_function() {
        for (index, task) in TASKS.iter().enumerate() {
            let function = &task.function;
            assert!(function.example.contains(&format!("{}(", function.name)), "{}", task.id);
            let others = TASKS[..index].iter();
            assert!(
                others.clone().all(|other| other.function.name != function.name),
                "{}",
                task.id
            );
            assert!(others.clone().all(|other| other.id != task.id), "{}", task.id);
        }
    }
}
