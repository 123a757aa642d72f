//! `hfauto-pipe models`: lists the supported models; `models MODEL`: explains one checkpoint.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use candle_core::DType;
use clap::Args;
use hfauto::sentence_transformers::{PairOptions, PairScorer};

use crate::auto::{
    AutoClass, AutoImageProcessor, AutoTokenizer, Encoder, FAMILIES, ModelDtype,
    SentenceTransformerConfig, auto_devices, auto_dtype,
};
use crate::config::pipeline::StepKind;
use crate::config::{self, LoadOptions};
use crate::error::Result;
use crate::hub::{Hub, Need, Snapshot, Weights};
use crate::tasks::{
    self, ModelSpec, Models, TASKS, Task, TaskDefinition, TaskStep, memory, module_names,
};

#[derive(Args, Debug)]
pub(super) struct ModelsArgs {
    /// A hub id, a local directory or a GGUF file to explain.
    model: Option<String>,

    /// Branch, tag or commit.
    #[arg(long, requires = "model")]
    revision: Option<String>,

    /// Use only local files and the cache.
    #[arg(long)]
    offline: bool,
}

impl ModelsArgs {
    pub(super) fn run(self) -> Result<()> {
        let text = match &self.model {
            None => registry(),
            Some(model) => self.explain(model)?,
        };
        super::print(text)
    }

    fn explain(&self, model: &str) -> Result<String> {
        let hub = super::hub(self.offline);
        let revision = self.revision.as_deref();
        let snapshot = hub.snapshot(model, revision, Need::Tokenizer, &|_| ())?;
        let named = |e: hfauto::Error| e.at(format!("model `{model}`"));
        let snapshot = if SentenceTransformerConfig::needs_weights(&snapshot)? {
            hub.snapshot(model, revision, Need::Weights, &|_| ())?
        } else {
            snapshot
        };
        let described =
            SentenceTransformerConfig::from_snapshot(&snapshot, &serde_json::Map::new())?;
        let (config, dimensions) = (&described.config, described.config.dimensions());

        let mut text = String::new();
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "{key:<18} {value}");
        };
        line("model", &snapshot.name());
        let place = if snapshot.is_gguf() { "GGUF file" } else { "local directory" };
        line("commit", &snapshot.commit().unwrap_or(place));
        line("model_type", &config.model_type());
        line("architectures", &config.architectures().join(", "));
        let classes: Vec<&str> = config.family().classes().map(AutoClass::name).collect();
        line("auto classes", &classes.join(", "));
        let runnable = runnable(&snapshot, revision, &hub);
        let ids: Vec<&str> = runnable.iter().map(|(definition, _)| definition.id).collect();
        line("tasks", &ids.join(", "));
        let labels: Vec<&str> = config.id2label().values().map(String::as_str).collect();
        line("labels", &labels.join(", "));
        line("hidden_size", &dimensions.hidden_size);
        line("layers", &dimensions.num_hidden_layers);
        let (heads, kv_heads) = (dimensions.num_attention_heads, dimensions.num_key_value_heads);
        let shared =
            if kv_heads == heads { String::new() } else { format!(", {kv_heads} of keys") };
        line("attention heads", &format!("{heads}{shared}"));
        if let Some(image) = dimensions.image {
            let processor =
                AutoImageProcessor::from_snapshot(&described.transformer).map_err(named)?;
            line("images", &format!("{} by {} pixels", image.height, image.width));
            line("image processor", &processor.class_name());
            line("labels", &config.num_labels());
        }
        if dimensions.image.is_none() || dimensions.reads_text() {
            let tokenizer = described.tokenizer().map_err(named)?;
            line("vocabulary", &format!("{} tokens", tokenizer.vocab_size()));
            let positions = dimensions.max_position_embeddings;
            line("positions", &positions.map_or("unlimited".to_owned(), |n| n.to_string()));
            line("modules", &module_names(&described));
            if described.encoder == Some(Encoder::CrossEncoder) {
                line("pair score", &pair_score(&described, &tokenizer));
            } else {
                line("embedding", &format!("{} dimensions", described.embedding_dimension()));
            }
        }
        let local = super::hub(true).snapshot(model, revision, Need::Weights, &|_| ());
        let local = local.and_then(|snapshot| {
            SentenceTransformerConfig::from_snapshot(&snapshot, &serde_json::Map::new())
        });
        match local.and_then(|model| model.transformer.weight_files()) {
            Ok(files) => {
                let weights = Weights::open(&files).map_err(named)?;
                let stored =
                    |name| weights.shape(name).map(|shape| shape.iter().product::<usize>());
                let stored = || weights.names().filter_map(stored).sum::<usize>();
                let parameters = parameters(&runnable).unwrap_or_else(stored);
                for file in &files {
                    line("weights", &file.display());
                }
                let stored: std::collections::BTreeSet<_> =
                    weights.names().filter_map(|name| weights.stored_as(name)).collect();
                let stored: Vec<_> = stored.into_iter().collect();
                line("stored as", &stored.join(", "));
                line("parameters", &parameters);
                let devices = auto_devices()?;
                let dtype = auto_dtype(&devices);
                let kind = if devices[0].is_cpu() { "cpu" } else { "cuda" };
                let (bytes, form) = if snapshot.is_gguf() && devices[0].is_cpu() {
                    let sizes = files.iter().filter_map(|file| file.metadata().ok());
                    (sizes.map(|file| file.len()).sum::<u64>() as f64, "in the blocks of the file")
                } else {
                    ((parameters * dtype.size_in_bytes()) as f64, "")
                };
                let mib = bytes / f64::from(1 << 20);
                let form = match form {
                    "" => format!("as {}, the compute dtype on {kind}", dtype.as_str()),
                    form => form.to_owned(),
                };
                line("memory", &format!("{mib:.1} MiB {form}"));
                let tokens = memory::batch_tokens(Some(dimensions), &devices, false);
                let batch = memory::activation_bytes(dimensions, tokens);
                let mib = batch as f64 / f64::from(1 << 20);
                line(
                    "activations",
                    &format!("about {mib:.1} MiB per worker for a batch of {tokens} tokens"),
                );
            }
            Err(_) => line("weights", &"not cached: `hfauto-pipe fetch` downloads them"),
        }
        Ok(text)
    }
}

/// A task, resolved with a model.
type Runnable = (&'static TaskDefinition, Arc<dyn Task>);

/// The tasks that a checkpoint runs as it is: its configuration has what the task needs, and its weights, if they are on
/// this machine, the head.
fn runnable(snapshot: &Snapshot, revision: Option<&str>, hub: &Hub) -> Vec<Runnable> {
    let local = || snapshot.dir().canonicalize().unwrap_or_else(|_| snapshot.dir().to_path_buf());
    let repo = match snapshot.commit() {
        Some(_) => snapshot.name().to_owned(),
        None => local().display().to_string(),
    };
    let revision = snapshot.commit().or(revision).map(str::to_owned);
    let spec = ModelSpec { revision, ..ModelSpec::of_repo(repo) };
    let offline = Hub::new(hub.settings().clone().with_offline(true));
    let models = Models::new(Arc::new(offline));
    let resolved = |definition: &'static TaskDefinition| {
        let step = example(definition, &spec)?;
        // What a task warns of concerns those who run it.
        let quiet = tracing::subscriber::NoSubscriber::default();
        let resolve = || tasks::resolve(&step, &models);
        let task = tracing::subscriber::with_default(quiet, resolve).ok()?;
        if !is_trained_for(&task.base().model.config().architectures(), task.auto_class()) {
            return None;
        }
        let has_head = task.base().model.has_head(task.auto_class()).unwrap_or(true);
        has_head.then_some((definition, task))
    };
    TASKS.into_iter().filter_map(resolved).collect()
}

/// Whether a checkpoint with these `architectures` was trained with the head of an Auto class. Heads of several classes may
/// have the same tensors, so that they tell less than a name that ends with one of them.
fn is_trained_for(architectures: &[&str], class: AutoClass) -> bool {
    let names = |class: AutoClass| {
        let suffix = class.name().trim_start_matches("AutoModel");
        architectures.iter().any(|name| name.ends_with(suffix))
    };
    let mut heads = AutoClass::ALL.into_iter().filter(|class| *class != AutoClass::Model);
    class == AutoClass::Model || names(class) || !heads.any(names)
}

/// The step of a task's template, with another model.
fn example(definition: &'static TaskDefinition, model: &ModelSpec) -> Option<TaskStep> {
    let text = super::init::for_users(definition);
    let pipeline = config::parse(&text, Path::new(definition.id), &LoadOptions::default()).ok()?;
    let step = pipeline.steps.into_iter().find_map(|step| match step.kind {
        StepKind::Task(step) if step.task.id == definition.id => Some(step),
        _ => None,
    })?;
    Some(TaskStep { model: model.clone(), max_length: None, ..step })
}

/// The parameters that a run reports: those of the first task with a head of the checkpoint, or of the model without one.
fn parameters(runnable: &[Runnable]) -> Option<usize> {
    let has_head = |(_, task): &&Runnable| task.auto_class() != AutoClass::Model;
    let (_, task) = runnable.iter().find(has_head).or_else(|| runnable.first())?;
    task.weights().map(|size| size.parameters)
}

/// How a cross-encoder scores a pair, or why it cannot.
fn pair_score(directory: &SentenceTransformerConfig, tokenizer: &AutoTokenizer) -> String {
    let dtype = ModelDtype::Float(DType::F32);
    let scorer = match PairScorer::resolve(directory, tokenizer, dtype, &PairOptions::default()) {
        Ok(scorer) => scorer,
        Err(error) => return error.message().to_owned(),
    };
    let token = |id: u32| {
        let token = tokenizer.id_to_token(id).unwrap_or_default();
        format!("`{token}` ({id})")
    };
    let score = match scorer.logit_score() {
        None => "classification head".to_owned(),
        Some(score) => {
            let relevant = token(score.true_token_id);
            let minus = score.false_token_id.map(|id| format!(" minus that of {}", token(id)));
            format!("logit of {relevant}{}", minus.unwrap_or_default())
        }
    };
    let input = if scorer.has_chat_template() { "chat template" } else { "two texts" };
    format!("{score}, {}, {input}", scorer.activation().name())
}

/// The width of the list of architectures: that of a small terminal.
const WIDTH: usize = 80;

/// The model types with their Auto classes.
fn registry() -> String {
    let short = |class: AutoClass| class.name().trim_start_matches("AutoModelFor");
    let width = FAMILIES.iter().map(|family| family.model_type.len()).max().unwrap_or(0) + 2;
    let mut text = "model_type: Auto classes, without `AutoModelFor`\n\n".to_owned();
    for family in &FAMILIES {
        let mut line = format!("{:<width$}", family.model_type);
        let mut classes = AutoClass::ALL.into_iter().filter(|class| family.has(*class)).peekable();
        while let Some(class) = classes.next() {
            let comma = if classes.peek().is_some() { "," } else { "" };
            let word = format!("{}{comma}", short(class));
            if line.len() + word.len() > WIDTH && line.len() > width {
                let _ = writeln!(text, "{}", line.trim_end());
                line = " ".repeat(width);
            }
            line += &word;
            line.push(' ');
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}
