//! From a checkpoint's tensors to an architecture's: names are mapped, everything that does not fit is
//! found in one pass, and what was loaded is reported.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;

use super::dtype::ModelDtype;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::Weights;

/// How many misfits an error lists by name.
const LISTED: usize = 20;
/// A configuration that asks for more tensors than the checkpoint has is not followed further than this.
const MAX_MISFITS: usize = 10_000;

/// Parts of checkpoints that an architecture without a head leaves aside: buffers and heads.
const HEADS: [&str; 14] = [
    "classification_head.",
    "classifier.",
    "cls.",
    "cls_classifier.",
    "distillation_classifier.",
    "lm_head.",
    "pooler.",
    "pre_classifier.",
    "qa_outputs.",
    "score.",
    "seq_relationship.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "vocab_transform.",
];

/// What an architecture leaves aside because another of its kind has it, or because it has the same numbers
/// under another name: T5's decoder beside its encoder, and the embeddings that both share.
const ELSEWHERE: [&str; 3] = ["decoder.", "encoder.embed_tokens.", "shared."];

/// What was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadReport {
    /// Numbers in the tensors that the architecture uses.
    pub parameters: u64,
    /// Their size in memory.
    pub bytes: u64,
    /// What the model computes in.
    pub dtype: ModelDtype,
    /// Tensors of the checkpoint that the architecture does not use, sorted; heads and buffers, which
    /// it is bound to leave aside, are not among them.
    pub unused: Vec<String>,
    /// Tensors that the checkpoint lacks and that were made of random numbers, sorted: those of a new
    /// head.
    pub new: Vec<String>,
}

impl LoadReport {
    /// Notes what the model computes in, and how many of its numbers, loaded as f32, are in 8 bits now.
    pub(super) fn computes_in(&mut self, dtype: ModelDtype, in_int8: u64) {
        self.dtype = dtype;
        self.bytes -= in_int8 * (DType::F32.size_in_bytes() as u64 - 1);
    }
}

/// How an error begins when a checkpoint fits save for its head, which it does not have.
pub(super) const NO_HEAD: &str = "the checkpoint has no head of this kind";

/// A head of random weights, for a checkpoint that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewHead {
    /// Where the random numbers start from; the same seed gives the same head.
    pub seed: u64,
}

/// `initializer_range`, the standard deviation of new weights, in transformers' configurations.
const INITIALIZER_RANGE: f64 = 0.02;

impl NewHead {
    /// A new tensor as transformers' `_init_weights` makes it: weights from a normal distribution, norms
    /// of 1, biases of 0. The numbers are not transformers' own.
    fn tensor(
        self,
        name: &str,
        shape: &Shape,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        if name.ends_with("bias") {
            return Tensor::zeros(shape, dtype, device);
        }
        if shape.rank() < 2 {
            return Tensor::ones(shape, dtype, device);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(name.as_bytes());
        let mut random = hasher.finalize_xof();
        let mut uniform = || {
            let mut bytes = [0; 8];
            random.fill(&mut bytes);
            // 53 bits, moved off 0, whose logarithm is infinite.
            ((u64::from_le_bytes(bytes) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        };
        // Box and Muller's way from uniform to normal numbers.
        let normal = (0..shape.elem_count()).map(|_| {
            let (radius, angle) =
                ((-2.0 * uniform().ln()).sqrt(), std::f64::consts::TAU * uniform());
            (INITIALIZER_RANGE * radius * angle.cos()) as f32
        });
        Tensor::from_vec(normal.collect(), shape, device)?.to_dtype(dtype)
    }
}

/// Builds an architecture from `weights`.
///
/// `base_model_prefix` (`bert`) may precede the names in the checkpoint or not; `gamma` and `beta` are
/// accepted for a norm's `weight` and `bias`. Tensors of heads that are missing are made when `new_head`
/// says so.
///
/// # Errors
/// `Model` with every tensor that is missing or has another shape, and what `build` returns.
pub(super) fn load<T>(
    weights: &Weights,
    base_model_prefix: &str,
    dtype: DType,
    device: &Device,
    new_head: Option<NewHead>,
    build: impl FnOnce(VarBuilder<'_>) -> Result<T>,
) -> Result<(T, LoadReport)> {
    let checkpoint = Checkpoint::new(weights, base_model_prefix, new_head);
    let backend = Box::new(Backend(&checkpoint));
    let built = build(VarBuilder::from_backend(backend, dtype, device.clone()));
    let ledger = checkpoint.ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !ledger.misfits.is_empty() {
        return Err(ledger.error(base_model_prefix));
    }
    let model = built?;
    let report = ledger.report(weights, base_model_prefix, dtype);
    Ok((model, report))
}

/// The tensors of a checkpoint under the names of an architecture.
struct Checkpoint<'a> {
    weights: &'a Weights,
    /// `bert.`, with the point.
    prefix: String,
    /// Whether names of the checkpoint begin with it; for messages.
    prefixed: bool,
    new_head: Option<NewHead>,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    /// By the name in the checkpoint, the numbers in the tensor.
    used: BTreeMap<String, u64>,
    /// Tensors of a new head, by name, with their numbers.
    new: BTreeMap<String, u64>,
    misfits: BTreeMap<String, Misfit>,
}

enum Misfit {
    Missing { expected: Vec<usize> },
    Shape { expected: Vec<usize>, found: Vec<usize> },
    NotFloat { expected: Vec<usize>, found: Option<DType> },
}

impl<'a> Checkpoint<'a> {
    fn new(weights: &'a Weights, base_model_prefix: &str, new_head: Option<NewHead>) -> Self {
        let prefix = format!("{base_model_prefix}.");
        let prefixed = weights.names().any(|name| name.starts_with(&prefix));
        Self { weights, prefix, prefixed, new_head, ledger: Mutex::default() }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name that `name` has in the checkpoint.
    fn find(&self, name: &str) -> Option<String> {
        let old_name = match name.rsplit_once('.') {
            Some((path, "weight")) => Some(format!("{path}.gamma")),
            Some((path, "bias")) => Some(format!("{path}.beta")),
            _ => None,
        };
        let names = [Some(name.to_owned()), old_name];
        let candidates = names.iter().flatten();
        let prefixed = candidates.clone().map(|name| format!("{}{name}", self.prefix));
        prefixed.chain(candidates.cloned()).find(|name| self.weights.shape(name).is_some())
    }

    /// Notes a misfit and stands in for the tensor, so that the rest is checked too. The stand-in takes
    /// no memory, whatever shape the configuration claims.
    fn misfit(
        &self,
        name: &str,
        misfit: Misfit,
        shape: &Shape,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let mut ledger = self.ledger();
        if ledger.misfits.len() >= MAX_MISFITS {
            candle_core::bail!("too many tensors do not fit");
        }
        let name = if self.prefixed { format!("{}{name}", self.prefix) } else { name.to_owned() };
        ledger.misfits.insert(name, misfit);
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }
}

struct Backend<'a>(&'a Checkpoint<'a>);

impl SimpleBackend for Backend<'_> {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let Self(checkpoint) = self;
        let expected = shape.dims().to_vec();
        let misfit = |misfit| checkpoint.misfit(name, misfit, &shape, dtype, device);
        let Some(found_name) = checkpoint.find(name) else {
            return match checkpoint.new_head {
                Some(new_head) if is_head(name, "") => {
                    let tensor = new_head.tensor(name, &shape, dtype, device)?;
                    let count = tensor.elem_count() as u64;
                    checkpoint.ledger().new.insert(name.to_owned(), count);
                    Ok(tensor)
                }
                _ => misfit(Misfit::Missing { expected }),
            };
        };
        let found = checkpoint.weights.shape(&found_name).unwrap_or_default();
        if found != expected {
            return misfit(Misfit::Shape { expected, found: found.to_vec() });
        }
        let stored = checkpoint.weights.dtype(&found_name);
        if !stored.is_some_and(|dtype| dtype.is_float()) {
            return misfit(Misfit::NotFloat { expected, found: stored });
        }
        let tensor = checkpoint
            .weights
            .tensor(&found_name, dtype, device)
            .map_err(candle_core::Error::wrap)?;
        checkpoint.ledger().used.insert(found_name, tensor.elem_count() as u64);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("bug: tensor `{name}` is asked for without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.find(name).is_some()
    }
}

impl Ledger {
    fn error(&self, base_model_prefix: &str) -> Error {
        let count = self.misfits.len();
        let only_head_missing = self.misfits.iter().all(|(name, misfit)| {
            matches!(misfit, Misfit::Missing { .. }) && is_head(name, base_model_prefix)
        });
        let mut message = if only_head_missing {
            format!("{NO_HEAD}:")
        } else if count == 1 {
            "a tensor of the checkpoint does not fit its config.json:".to_owned()
        } else {
            format!("{count} tensors of the checkpoint do not fit its config.json:")
        };
        for (name, misfit) in self.misfits.iter().take(LISTED) {
            let text = match misfit {
                Misfit::Missing { expected } => format!("missing, expected {expected:?}"),
                Misfit::Shape { expected, found } => {
                    format!("expected {expected:?}, found {found:?}")
                }
                Misfit::NotFloat { expected, found } => {
                    let found = found.map_or("another dtype", |dtype| dtype.as_str());
                    format!("expected numbers of {expected:?}, found {found}")
                }
            };
            message.push_str(&format!("\n  `{name}`: {text}"));
        }
        if count > LISTED {
            message.push_str(&format!("\n  and {} more", count - LISTED));
        }
        let error = Error::new(ErrorKind::Model, message);
        if self.used.is_empty() {
            return error.hint("no tensor fits: are these the weights of another architecture?");
        }
        error
    }

    fn report(self, weights: &Weights, base_model_prefix: &str, dtype: DType) -> LoadReport {
        let parameters = self.used.values().chain(self.new.values()).sum::<u64>();
        let used: BTreeSet<&str> = self.used.keys().map(String::as_str).collect();
        let (aside, unused): (Vec<&str>, Vec<&str>) = weights
            .names()
            .filter(|name| !used.contains(name))
            .partition(|name| is_head_or_buffer(name, base_model_prefix));
        if !aside.is_empty() {
            tracing::debug!(tensors = ?aside, "heads and buffers of the checkpoint are not used");
        }
        if !unused.is_empty() {
            tracing::warn!(tensors = ?unused, "the checkpoint has tensors that are not used");
        }
        LoadReport {
            parameters,
            bytes: parameters * dtype.size_in_bytes() as u64,
            dtype: dtype.into(),
            unused: unused.into_iter().map(str::to_owned).collect(),
            new: self.new.into_keys().collect(),
        }
    }
}

fn bare<'a>(name: &'a str, base_model_prefix: &str) -> &'a str {
    let rest = name.strip_prefix(base_model_prefix).and_then(|rest| rest.strip_prefix('.'));
    rest.unwrap_or(name)
}

fn is_head(name: &str, base_model_prefix: &str) -> bool {
    let bare = bare(name, base_model_prefix);
    HEADS.iter().any(|head| bare.starts_with(head))
}

fn is_head_or_buffer(name: &str, base_model_prefix: &str) -> bool {
    let bare = bare(name, base_model_prefix);
    is_head(name, base_model_prefix)
        || ELSEWHERE.iter().any(|part| bare.starts_with(part))
        || name.ends_with(".position_ids")
        || name.ends_with(".token_type_ids")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::auto::families::cannot_load;
    use crate::nn::{LayerNorm, Linear};

    fn weights(tensors: &[(&str, &[usize], DType)]) -> (tempfile::TempDir, Weights) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.safetensors");
        let tensors: HashMap<String, Tensor> = tensors
            .iter()
            .map(|(name, shape, dtype)| {
                ((*name).to_owned(), Tensor::ones(*shape, *dtype, &Device::Cpu).unwrap())
            })
            .collect();
        candle_core::safetensors::save(&tensors, &file).unwrap();
        let weights = Weights::open(&[file]).unwrap();
        (dir, weights)
    }

    fn build(vb: VarBuilder<'_>) -> Result<Linear> {
        let linear = |name, out| Linear::load(vb.pp(name), 3, out, true);
        LayerNorm::load(vb.pp("LayerNorm"), 3, 1e-5).map_err(cannot_load)?;
        let fused = Linear::fuse(&[
            linear("q", 3).map_err(cannot_load)?,
            linear("k", 3).map_err(cannot_load)?,
        ]);
        fused.map_err(cannot_load)
    }

    fn run(tensors: &[(&str, &[usize], DType)]) -> Result<(Linear, LoadReport)> {
        let (_dir, weights) = weights(tensors);
        load(&weights, "bert", DType::F32, &Device::Cpu, None, build)
    }

    #[test]
    fn every_misfit_is_in_one_error() {
        let error = run(&[
            ("bert.q.weight", &[3, 4], DType::F32),
            ("bert.q.bias", &[3], DType::I64),
            ("bert.k.weight", &[3, 3], DType::F32),
            ("bert.LayerNorm.gamma", &[3], DType::F32),
        ])
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model);
        assert_eq!(
            error.to_string(),
            "4 tensors of the checkpoint do not fit its config.json:\n  \
             `bert.LayerNorm.bias`: missing, expected [3]\n  \
             `bert.k.bias`: missing, expected [3]\n  \
             `bert.q.bias`: expected numbers of [3], found i64\n  \
             `bert.q.weight`: expected [3, 3], found [3, 4]"
        );
    }

    #[test]
    fn absurd_shapes_cost_nothing_and_long_lists_are_cut() {
        let (_dir, weights) = weights(&[("other", &[1], DType::F32)]);
        let error = load(&weights, "bert", DType::F32, &Device::Cpu, None, |vb| {
            let huge = (u32::MAX as usize, u32::MAX as usize);
            for i in 0..25 {
                vb.get(huge, &format!("layer.{i}.weight")).map_err(cannot_load)?;
            }
            Ok(())
        })
        .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("and 5 more") && text.contains("another architecture"), "{text}");
    }

    #[test]
    fn old_names_half_precision_and_heads_are_taken_as_they_are() {
        let (_, report) = run(&[
            ("q.weight", &[3, 3], DType::F16),
            ("q.bias", &[3], DType::BF16),
            ("k.weight", &[3, 3], DType::F32),
            ("k.bias", &[3], DType::F32),
            ("LayerNorm.gamma", &[3], DType::F32),
            ("LayerNorm.beta", &[3], DType::F32),
            ("embeddings.position_ids", &[1, 4], DType::I64),
            ("cls.predictions.bias", &[4], DType::F32),
            ("stray.weight", &[4], DType::F32),
        ])
        .unwrap();
        assert_eq!((report.parameters, report.bytes), (30, 120));
        assert_eq!(report.unused, ["stray.weight"]);
    }
}
