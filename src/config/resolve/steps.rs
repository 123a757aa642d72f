//! `steps`: tasks, their options, and the columns they read and make.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use super::tasks::{self, Common};
use super::{Cursor, Resolver};
use crate::config::diagnostics::Diagnostic;
use crate::config::pipeline::{
    ModelOutputName, ModelSpec, Pooling, Precision, Step, StepKind, TaskOptions, TaskStep,
};
use crate::config::raw::{RawFeatureExtraction, RawModelOutput, RawPooling, RawPrecision, RawStep};

/// What is known of the columns that a step sees, without reading anything.
struct Columns {
    /// Whether `list` has all of them.
    complete: bool,
    list: Vec<Column>,
}

/// An input column of a step and where it is written.
pub(super) struct Input<'a> {
    pub(super) name: String,
    pub(super) at: Cursor<'a>,
    /// The key that names it.
    pub(super) key: &'static str,
}

/// A column's name, and how it is written: with `${VAR}`, not the variable's value.
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
            let (here, kind) = match (raw, tasks::common(raw)) {
                (RawStep::Sql(query), _) => {
                    let here = at.item(index).key("sql");
                    self.not_empty(query, here, "sql");
                    columns = Columns { complete: false, list: Vec::new() };
                    (here, StepKind::Sql(query.clone()))
                }
                (_, Some(common)) => {
                    let here = at.item(index).key(common.task_id);
                    let Some((options, inputs)) = self.task_options(raw, here) else { continue };
                    self.inputs_and_output(&inputs, common.output, here, &mut columns);
                    (here, StepKind::Task(self.task_step(&common, options, here, models)))
                }
                (_, None) => continue,
            };
            steps.push(Step { kind, location: self.report.location(here.key) });
        }
        steps
    }

    pub(super) fn task_step(
        &mut self,
        common: &Common<'_>,
        options: TaskOptions,
        at: Cursor<'_>,
        models: &BTreeMap<String, ModelSpec>,
    ) -> TaskStep {
        if let Some(name) = common.auto_class {
            self.auto_class(name, common.task_id, at.key("auto_class"));
        }
        if common.allow_new_head == Some(true)
            && matches!(common.task_id, "feature-extraction" | "token-count")
        {
            let message = format!("`{}` needs no head", common.task_id);
            self.report
                .push(Diagnostic::new(at.key("allow_new_head").key, message).hint("remove it"));
        }
        if let Some(outputs) = common.outputs {
            self.task_outputs(outputs, common.task_id, at.key("outputs"));
        }
        let count = |number: NonZeroU64| usize::try_from(number.get()).unwrap_or(usize::MAX);
        TaskStep {
            options,
            model: self.model(common.model, at.key("model"), models),
            model_name: common.model.to_owned(),
            output: common.output.to_owned(),
            max_length: common.max_length.map(count),
            truncation: common.truncation,
            auto_class: common.auto_class.map(str::to_owned),
            allow_new_head: common.allow_new_head.unwrap_or(false),
            logits: common.outputs.is_some_and(|outputs| outputs.contains(&RawModelOutput::Logits)),
        }
    }

    fn inputs_and_output(
        &mut self,
        inputs: &[Input<'_>],
        output: &str,
        at: Cursor<'_>,
        columns: &mut Columns,
    ) {
        for input in inputs {
            if self.not_empty(&input.name, input.at, input.key) && columns.complete {
                self.known_column(&input.name, &columns.list, input.at);
            }
        }
        let here = at.key("output");
        if !self.not_empty(output, here, "output") {
            return;
        }
        if columns.list.iter().any(|column| column.name == output) {
            let message = format!("there is a column `{}` already", here.shown(output));
            self.report.push(Diagnostic::new(here.value, message).hint("choose another `output`"));
        } else {
            columns.list.push(Column::new(output, here));
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

    /// Reports options that contradict each other.
    pub(super) fn combinations(&mut self, raw: &RawFeatureExtraction, at: Cursor<'_>) {
        self.one_prompt(raw.prompt.as_ref(), raw.prompt_name.as_ref(), at);
        let mut clash = |key: &str, message: &str, other: &str, label, hint: &str| {
            self.report.push(
                Diagnostic::new(at.key(key).key, message)
                    .related(at.key(other).key, label)
                    .hint(hint),
            );
        };
        let quantized =
            !matches!(raw.precision, None | Some(RawPrecision::F32 | RawPrecision::F16));
        if raw.outputs.is_some() {
            let embedding_only = [
                ("pooling", raw.pooling.is_some()),
                ("normalize", raw.normalize == Some(true)),
                ("dimensions", raw.dimensions.is_some()),
                ("precision", !matches!(raw.precision, None | Some(RawPrecision::F32))),
            ];
            for (key, _) in embedding_only.into_iter().filter(|(_, given)| *given) {
                let message = format!("`{key}` shapes the embedding, but `outputs` replaces it");
                let hint = format!("remove `{key}`, or make the embedding in a step of its own");
                clash(key, &message, "outputs", "replaces the embedding", &hint);
            }
        } else if raw.pooling == Some(RawPooling::None) {
            let one_vector = [("dimensions", raw.dimensions.is_some()), ("precision", quantized)];
            for (key, _) in one_vector.into_iter().filter(|(_, given)| *given) {
                let message =
                    format!("`{key}` needs one vector a row, but `pooling: none` keeps all");
                let hint = format!("remove `{key}`, or choose another `pooling`");
                clash(key, &message, "pooling", "one vector a token", &hint);
            }
        }
    }

    /// Reports a prompt given both as text and by name.
    pub(super) fn one_prompt(
        &mut self,
        prompt: Option<&String>,
        name: Option<&String>,
        at: Cursor<'_>,
    ) {
        if prompt.is_some() && name.is_some() {
            let message = "`prompt` and `prompt_name` exclude each other";
            self.report.push(
                Diagnostic::new(at.key("prompt_name").key, message)
                    .related(at.key("prompt").key, "the other")
                    .hint("keep one of them"),
            );
        }
    }

    pub(super) fn outputs(&mut self, outputs: &[RawModelOutput], at: Cursor<'_>) {
        if outputs.is_empty() {
            let problem = Diagnostic::new(at.value, "`outputs` names no output");
            self.report.push(problem.hint("remove it, or name some"));
        }
        for (index, output) in outputs.iter().enumerate() {
            if let Some(first) = outputs[..index].iter().position(|other| other == output) {
                self.report.push(
                    Diagnostic::new(at.item(index).value, "an output is named twice")
                        .related(at.item(first).value, "first named here"),
                );
            }
        }
    }
}

pub(super) fn pooling(raw: RawPooling) -> Pooling {
    match raw {
        RawPooling::Cls => Pooling::Cls,
        RawPooling::Mean => Pooling::Mean,
        RawPooling::Max => Pooling::Max,
        RawPooling::MeanSqrtLenTokens => Pooling::MeanSqrtLenTokens,
        RawPooling::WeightedMean => Pooling::WeightedMean,
        RawPooling::LastToken => Pooling::LastToken,
        RawPooling::None => Pooling::None,
    }
}

pub(super) fn precision(raw: RawPrecision) -> Precision {
    match raw {
        RawPrecision::F32 => Precision::F32,
        RawPrecision::F16 => Precision::F16,
        RawPrecision::Int8 => Precision::Int8,
        RawPrecision::Uint8 => Precision::Uint8,
        RawPrecision::Binary => Precision::Binary,
        RawPrecision::Ubinary => Precision::Ubinary,
    }
}

/// The outputs of `feature-extraction`; the others are refused.
pub(super) fn output_name(raw: RawModelOutput) -> Option<ModelOutputName> {
    match raw {
        RawModelOutput::LastHiddenState => Some(ModelOutputName::LastHiddenState),
        RawModelOutput::PoolerOutput => Some(ModelOutputName::PoolerOutput),
        RawModelOutput::HiddenStates => Some(ModelOutputName::HiddenStates),
        RawModelOutput::Attentions => Some(ModelOutputName::Attentions),
        RawModelOutput::Logits => None,
    }
}
