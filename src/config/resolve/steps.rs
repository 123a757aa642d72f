//! `steps`: the keys that every step has, and the columns that steps read and make. Not here: the options of a task
//! (`crate::tasks`).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Cursor, Resolver};
use crate::auto::AutoClass;
use crate::config::pipeline::{ModelSpec, Step, StepKind, TaskStep};
use crate::config::raw::RawStep;
use crate::document::{Diagnostic, nearest};
use crate::tasks::{InputColumn, ModelOutputName, RawTaskStep, TaskDefinition, count};

/// The columns that a step sees, as far as the file alone shows them.
struct Columns {
    /// Whether `list` is complete.
    complete: bool,
    list: Vec<Column>,
}

/// A column's name, and its name as written: with `${VAR}` instead of the variable's value.
struct Column {
    name: String,
    shown: String,
}

impl Column {
    fn new(name: &str, at: Cursor<'_>) -> Self {
        Self { name: name.to_owned(), shown: at.shown(name).to_owned() }
    }
}

impl Resolver<'_> {
    pub(super) fn steps(
        &mut self,
        raw: &[RawStep],
        at: Cursor<'_>,
        models: &BTreeMap<String, ModelSpec>,
        select: Option<(&[String], Cursor<'_>)>,
    ) -> Vec<Step> {
        let mut columns = Columns { complete: select.is_some(), list: Vec::new() };
        if let Some((names, at)) = select {
            let named = names.iter().enumerate();
            columns.list.extend(named.map(|(index, name)| Column::new(name, at.item(index))));
        }
        let mut steps = Vec::new();
        for (index, raw) in raw.iter().enumerate() {
            let (here, kind) = match raw {
                RawStep::Sql(query) => {
                    let here = at.item(index).key("sql");
                    self.not_empty(query, here, "sql");
                    columns = Columns { complete: false, list: Vec::new() };
                    (here, StepKind::Sql(query.clone()))
                }
                RawStep::Task(raw) => {
                    let here = at.item(index).key(raw.task.id);
                    let step = self.task_step(raw, here, models);
                    self.inputs_and_output(raw, here, &mut columns);
                    (here, StepKind::Task(step))
                }
            };
            steps.push(Step { kind, location: self.report.location(here.key) });
        }
        steps
    }

    /// The step as used, with its options checked.
    pub(super) fn task_step(
        &mut self,
        raw: &RawTaskStep,
        at: Cursor<'_>,
        models: &BTreeMap<String, ModelSpec>,
    ) -> TaskStep {
        let RawTaskStep { task, keys, generation, options } = raw;
        options.check(raw, at, self.report);
        generation.check(at, self.report);
        if let Some(name) = &keys.auto_class {
            self.auto_class(name, task, at.key("auto_class"));
        }
        if keys.allow_new_head == Some(true) && task.auto_class == AutoClass::Model {
            let message = format!("`{}` needs no head", task.id);
            self.report
                .push(Diagnostic::new(at.key("allow_new_head").key, message).hint("remove it"));
        }
        if let Some(outputs) = &keys.outputs {
            self.outputs(outputs, task, at.key("outputs"));
        }
        TaskStep {
            task,
            options: Arc::clone(options),
            generation: generation.clone(),
            model: self.model(&keys.model, at.key("model"), models),
            model_name: keys.model.clone(),
            output: keys.output.clone(),
            max_length: keys.max_length.map(count),
            truncation: keys.truncation,
            auto_class: keys.auto_class.clone(),
            allow_new_head: keys.allow_new_head.unwrap_or(false),
            outputs: keys.outputs.clone().unwrap_or_default(),
            dir: self.dir.clone(),
            images: self.images.clone(),
        }
    }

    fn inputs_and_output(&mut self, raw: &RawTaskStep, at: Cursor<'_>, columns: &mut Columns) {
        let inputs = raw.options.inputs();
        for InputColumn { name, key, part, item } in inputs.iter().copied() {
            let (here, key) = match part {
                None => (at.key(key), key),
                Some(part) => (at.key(key).key(part).item(item), part),
            };
            if self.not_empty(name, here, key) && columns.complete {
                self.known_column(name, &columns.list, here);
            }
        }
        let (here, output) = (at.key("output"), &raw.keys.output);
        if !self.not_empty(output, here, "output") {
            return;
        }
        // Rows that are made of one row do not repeat its input.
        let items = raw.options.items();
        if items.is_some() {
            columns.list.retain(|column| inputs.iter().all(|input| input.name != column.name));
        }
        for suffix in items.unwrap_or(&[""]) {
            let name = format!("{output}{suffix}");
            let shown = format!("{}{suffix}", here.shown(output));
            if inputs.iter().any(|input| input.name == name)
                || columns.list.iter().any(|column| column.name == name)
            {
                let message = format!("there already is a column `{shown}`");
                self.report
                    .push(Diagnostic::new(here.value, message).hint("choose another `output`"));
            } else {
                columns.list.push(Column { name, shown });
            }
        }
    }

    /// Reports a column that is not among `known`.
    fn known_column(&mut self, name: &str, known: &[Column], at: Cursor<'_>) {
        if known.iter().any(|column| column.name == name) {
            return;
        }
        let written: Vec<String> = known
            .iter()
            .filter(|column| column.name == column.shown)
            .map(|column| column.name.clone())
            .collect();
        let near = at.nearest(name, &written);
        let message = format!("there is no column `{}` here", at.shown(name));
        self.report.push(
            Diagnostic::new(at.value, message)
                .nearest(near.as_deref())
                .choices("columns", known.iter().map(|column| column.shown.as_str())),
        );
    }

    /// Checks `auto_class` against the task's own.
    fn auto_class(&mut self, name: &str, task: &TaskDefinition, at: Cursor<'_>) {
        let (task_id, class) = (task.id, task.auto_class);
        let accepted = name == class.name()
            || name == "AutoModelForT5" && class == AutoClass::Seq2SeqLM
            || name == "AutoModelWithLMHead"
                && matches!(
                    class,
                    AutoClass::CausalLM | AutoClass::MaskedLM | AutoClass::Seq2SeqLM
                );
        if accepted {
            return;
        }
        let names = AutoClass::ALL.map(AutoClass::name);
        let others = ["AutoModelForT5", "AutoModelWithLMHead"];
        let known = names.contains(&name) || others.contains(&name);
        let message = if known {
            format!("`{task_id}` does not load a model with `{name}`")
        } else {
            format!("there is no Auto class `{}`", at.shown(name))
        };
        let near = if known { None } else { nearest(name, names.into_iter().chain(others)) };
        self.report.push(
            Diagnostic::new(at.value, message)
                .nearest(near)
                .hint(format!("`{task_id}` loads a model with `{class}`")),
        );
    }

    /// Checks that a task can store `outputs`.
    fn outputs(&mut self, outputs: &[ModelOutputName], task: &TaskDefinition, at: Cursor<'_>) {
        if outputs.is_empty() {
            let problem = Diagnostic::new(at.value, "`outputs` names no output");
            self.report.push(problem.hint("remove it, or name an output"));
        }
        for (index, output) in outputs.iter().enumerate() {
            if let Some(first) = outputs[..index].iter().position(|other| other == output) {
                self.report.push(
                    Diagnostic::new(at.item(index).value, "an output is named twice")
                        .related(at.item(first).value, "first named here"),
                );
            }
        }
        for (index, output) in outputs.iter().enumerate() {
            if task.outputs.contains(output) {
                continue;
            }
            let message = format!("`{}` has no output `{}`", task.id, output.name());
            let problem = Diagnostic::new(at.item(index).value, message);
            self.report.push(if task.outputs.is_empty() {
                problem.hint("remove `outputs`")
            } else {
                problem.choices("outputs", task.outputs.iter().map(|output| output.name()))
            });
        }
    }
}
