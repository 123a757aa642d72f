//! Loads a checkpoint's tensors into an architecture: maps names, finds every mismatch in one pass, and
//! reports what was loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};

use super::dtype::ModelDtype;
use super::family::Family;
use crate::blocks::BlockFormat;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::Weights;
use crate::nn::{Rows, TensorRows, TensorSource, VarBuilder};

/// The maximum number of mismatches that an error lists.
const LISTED: usize = 20;
/// The maximum number of missing tensors before loading stops; a configuration may require any number of
/// them.
const MAX_MISFITS: usize = 10_000;

/// The result of loading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadReport {
    /// The number of parameters that the architecture uses.
    pub parameters: u64,
    /// Their size in memory, each in the form that it has there.
    pub bytes: u64,
    /// The dtype of the computation.
    pub dtype: ModelDtype,
    /// Sorted names of unused tensors in the checkpoint, except the heads and buffers that the
    /// architecture ignores.
    pub unused: Vec<String>,
    /// Sorted names of tensors of a new head: the checkpoint lacks them, and they have random weights.
    pub new: Vec<String>,
}

/// The start of the error message for a checkpoint that only lacks the head.
pub(super) const NO_HEAD: &str = "the checkpoint has no head of this kind";

/// A head with random weights, for a checkpoint without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewHead {
    /// The seed of the random weights; the same seed gives the same head.
    pub seed: u64,
}

/// `initializer_range`, the standard deviation of new weights, in transformers' configurations.
const INITIALIZER_RANGE: f64 = 0.02;

impl NewHead {
    /// A new tensor with transformers' `_init_weights`: weights from a normal distribution, norms of 1,
    /// biases of 0. The random numbers differ from those of transformers.
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
            // 53 bits, shifted off 0, whose logarithm is infinite.
            ((u64::from_le_bytes(bytes) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        };
        // The Box–Muller transform of uniform to normal numbers.
        let normal = (0..shape.elem_count()).map(|_| {
            let (radius, angle) =
                ((-2.0 * uniform().ln()).sqrt(), std::f64::consts::TAU * uniform());
            (INITIALIZER_RANGE * radius * angle.cos()) as f32
        });
        Tensor::from_vec(normal.collect(), shape, device)?.to_dtype(dtype)
    }
}

/// Suffixes of buffers in old checkpoints.
const BUFFERS: [&str; 3] = [".position_ids", ".token_type_ids", ".rotary_emb.inv_freq"];

/// The owner of a checkpoint's tensors.
#[derive(Clone, Copy)]
pub(super) enum Owner {
    /// An architecture, with or without a head.
    Family(&'static Family),
    /// A module of sentence-transformers, with an optional name prefix.
    Module(&'static str),
}

impl Owner {
    /// The optional prefixes of names.
    fn prefixes(self) -> Vec<&'static str> {
        match self {
            Self::Family(family) => family.base_model_prefixes().collect(),
            Self::Module(prefix) => vec![prefix],
        }
    }

    /// The name without the prefix.
    fn bare(self, name: &str) -> &str {
        let prefixes = self.prefixes();
        let bare = |prefix: &&str| name.strip_prefix(*prefix)?.strip_prefix('.');
        prefixes.iter().find_map(bare).unwrap_or(name)
    }

    fn is_of_head(self, name: &str) -> bool {
        matches!(self, Self::Family(family) if family.is_of_head(self.bare(name)))
    }

    /// Whether a checkpoint may have the tensor without its being loaded: heads and buffers.
    fn leaves_aside(self, name: &str) -> bool {
        matches!(self, Self::Family(family) if family.leaves_aside(self.bare(name)))
            || BUFFERS.iter().any(|buffer| name.ends_with(buffer))
    }
}

/// A checkpoint to load, and the form that its weights get.
#[derive(Clone, Copy)]
pub(super) struct Load<'a> {
    pub(super) weights: &'a Weights,
    pub(super) owner: Owner,
    pub(super) dtype: ModelDtype,
    pub(super) device: &'a Device,
    /// With it, missing tensors of heads are initialized.
    pub(super) new_head: Option<NewHead>,
    /// Only checks shapes and counts sizes: tensors take no memory, and the model cannot compute.
    pub(super) only_sizes: bool,
}

impl Load<'_> {
    /// Builds an architecture from the weights. Linear layers are built in their final form, by blocks of rows: no other
    /// copy of them is in memory.
    ///
    /// Names in the checkpoint may have the prefix of the owner (`bert`) or not. `gamma` and `beta` are accepted for a
    /// norm's `weight` and `bias`.
    ///
    /// # Errors
    /// `Model` with every tensor that is missing or has another shape; the error of `build`.
    pub(super) fn run<T>(
        self,
        build: impl FnOnce(VarBuilder<'_>) -> Result<T>,
    ) -> Result<(T, LoadReport)> {
        let Self { weights, owner, dtype, device, .. } = self;
        let checkpoint = Checkpoint::new(self);
        let precision = dtype.precision(device);
        let vb = VarBuilder::new(Backend(&checkpoint), dtype.tensors(device), device, precision);
        let built = build(vb);
        let ledger = checkpoint.ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !ledger.misfits.is_empty() {
            return Err(ledger.error(owner));
        }
        let model = built?;
        let report = ledger.report(weights, owner, dtype);
        Ok((model, report))
    }
}

/// A checkpoint's tensors under the architecture's names.
struct Checkpoint<'a> {
    weights: &'a Weights,
    owner: Owner,
    only_sizes: bool,
    /// `bert.`, with the dot.
    prefixes: Vec<String>,
    /// The one that the checkpoint's names have, or an empty string; for messages.
    prefix: String,
    new_head: Option<NewHead>,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    /// The number of elements by tensor name in the checkpoint.
    used: BTreeMap<String, u64>,
    /// The number of elements of a new head's tensors, by name.
    new: BTreeMap<String, u64>,
    misfits: BTreeMap<String, Misfit>,
    /// The size of everything loaded.
    bytes: u64,
}

enum Misfit {
    Missing { expected: Vec<usize> },
    Shape { expected: Vec<usize>, found: Vec<usize> },
    NotFloat { expected: Vec<usize>, found: Option<DType> },
}

impl<'a> Checkpoint<'a> {
    fn new(load: Load<'a>) -> Self {
        let Load { weights, owner, new_head, only_sizes, .. } = load;
        let prefixes: Vec<_> = owner.prefixes().iter().map(|name| format!("{name}.")).collect();
        let used = |prefix: &&String| weights.names().any(|name| name.starts_with(*prefix));
        let prefix = prefixes.iter().find(used).cloned().unwrap_or_default();
        let ledger = Mutex::default();
        Self { weights, owner, only_sizes, prefixes, prefix, new_head, ledger }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of `name` in the checkpoint.
    fn find(&self, name: &str) -> Option<String> {
        let old_name = match name.rsplit_once('.') {
            Some((path, "weight")) => Some(format!("{path}.gamma")),
            Some((path, "bias")) => Some(format!("{path}.beta")),
            _ => None,
        };
        let names = [Some(name.to_owned()), old_name];
        let candidates = names.iter().flatten();
        let prefixed = self
            .prefixes
            .iter()
            .flat_map(|prefix| candidates.clone().map(move |name| format!("{prefix}{name}")));
        prefixed.chain(candidates.clone().cloned()).find(|name| self.weights.shape(name).is_some())
    }

    /// Records a mismatch. Loading goes on with a placeholder, so that the remaining tensors are checked too.
    fn misfit(&self, name: &str, misfit: Misfit) -> candle_core::Result<()> {
        let mut ledger = self.ledger();
        if ledger.misfits.len() >= MAX_MISFITS {
            candle_core::bail!("too many tensors do not fit");
        }
        ledger.misfits.insert(format!("{}{name}", self.prefix), misfit);
        Ok(())
    }

    /// The tensor `name`, which is to have `shape`; `None` if it does not fit, which is recorded.
    fn locate(&self, shape: &Shape, name: &str) -> candle_core::Result<Option<Located>> {
        let expected = shape.dims().to_vec();
        let misfit = |misfit| self.misfit(name, misfit).map(|()| None);
        let Some(found_name) = self.find(name) else {
            return match self.new_head {
                Some(new_head) if self.owner.is_of_head(name) => Ok(Some(Located::New(new_head))),
                _ => misfit(Misfit::Missing { expected }),
            };
        };
        let found = self.weights.shape(&found_name).unwrap_or_default();
        if found != expected {
            return misfit(Misfit::Shape { expected, found: found.to_vec() });
        }
        if !self.weights.is_float(&found_name) {
            let found = self.weights.dtype(&found_name);
            return misfit(Misfit::NotFloat { expected, found });
        }
        Ok(Some(Located::Stored(found_name)))
    }

    /// Records that the architecture uses this number of elements of a tensor.
    fn record(&self, elements: usize, name: &str, located: &Located) {
        let (mut ledger, count) = (self.ledger(), elements as u64);
        match located {
            Located::Stored(found_name) => ledger.used.insert(found_name.clone(), count),
            Located::New(_) => ledger.new.insert(name.to_owned(), count),
        };
    }
}

/// Where a tensor comes from.
enum Located {
    /// The checkpoint, under this name.
    Stored(String),
    New(NewHead),
}

struct Backend<'a>(&'a Checkpoint<'a>);

impl TensorSource for Backend<'_> {
    fn get(
        &self,
        shape: &Shape,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let Self(checkpoint) = self;
        let located = checkpoint.locate(shape, name)?;
        if let Some(located) = &located {
            checkpoint.record(shape.elem_count(), name, located);
        }
        match located {
            Some(_) if checkpoint.only_sizes => {}
            Some(Located::Stored(name)) => {
                let tensor = checkpoint.weights.tensor(&name, dtype, device);
                return tensor.map_err(candle_core::Error::wrap);
            }
            Some(Located::New(head)) => return head.tensor(name, shape, dtype, device),
            None => {}
        }
        // It takes no memory, whatever shape the configuration claims.
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn contains(&self, name: &str) -> bool {
        self.0.find(name).is_some()
    }

    fn rows(&self, shape: &Shape, name: &str) -> candle_core::Result<Option<Box<dyn Rows + '_>>> {
        let Self(checkpoint) = self;
        let weights = checkpoint.weights;
        Ok(match checkpoint.locate(shape, name)? {
            Some(Located::Stored(name)) => match weights.rows(&name) {
                Some(shape) => {
                    let is_transposed = weights.is_transposed(&name);
                    Some(Box::new(StoredRows { weights, name, shape, is_transposed }))
                }
                // Only small tensors are stored as strided views: this one is read whole.
                None if checkpoint.only_sizes => None,
                None => {
                    let tensor = weights.tensor(&name, DType::F32, &Device::Cpu);
                    let tensor = tensor.map_err(candle_core::Error::wrap)?;
                    Some(Box::new(TensorRows::new(&tensor)?))
                }
            },
            Some(Located::New(_)) if checkpoint.only_sizes => None,
            Some(Located::New(head)) => {
                let tensor = head.tensor(name, shape, DType::F32, &Device::Cpu)?;
                Some(Box::new(TensorRows::new(&tensor)?))
            }
            None => None,
        })
    }

    fn mark_used(&self, shape: &Shape, name: &str, elements: usize) {
        if let Ok(Some(located)) = self.0.locate(shape, name) {
            self.0.record(elements, name, &located);
        }
    }

    fn count_bytes(&self, bytes: u64) {
        let mut ledger = self.0.ledger();
        ledger.bytes = ledger.bytes.saturating_add(bytes);
    }

    fn only_sizes(&self) -> bool {
        self.0.only_sizes
    }
}

/// The rows of a tensor in a file.
#[derive(Clone)]
struct StoredRows<'a> {
    weights: &'a Weights,
    name: String,
    /// That of the file.
    shape: (usize, usize),
    /// Whether they are the columns of the tensor.
    is_transposed: bool,
}

impl Rows for StoredRows<'_> {
    fn shape(&self) -> (usize, usize) {
        let (rows, columns) = self.shape;
        if self.is_transposed { (columns, rows) } else { (rows, columns) }
    }

    fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> candle_core::Result<()> {
        if self.is_transposed {
            let tensor = self.weights.tensor(&self.name, DType::F32, &Device::Cpu);
            return TensorRows::new(&tensor.map_err(candle_core::Error::wrap)?)?.read(rows, out);
        }
        self.weights.read_rows(&self.name, rows, out).map_err(candle_core::Error::wrap)
    }

    fn format(&self) -> Option<BlockFormat> {
        self.weights.format(&self.name).filter(|_| !self.is_transposed)
    }

    fn read_blocks(&self, rows: Range<usize>, out: &mut Vec<u8>) -> candle_core::Result<()> {
        self.weights.read_blocks(&self.name, rows, out).map_err(candle_core::Error::wrap)
    }

    fn transposed(&self) -> Option<Box<dyn Rows + '_>> {
        self.is_transposed
            .then(|| Box::new(Self { is_transposed: false, ..self.clone() }) as Box<dyn Rows>)
    }
}

impl Ledger {
    fn error(&self, owner: Owner) -> Error {
        let count = self.misfits.len();
        let only_head_missing = self.misfits.iter().all(|(name, misfit)| {
            matches!(misfit, Misfit::Missing { .. }) && owner.is_of_head(name)
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

    fn report(self, weights: &Weights, owner: Owner, dtype: ModelDtype) -> LoadReport {
        let parameters = self.used.values().chain(self.new.values()).sum::<u64>();
        let used: BTreeSet<&str> = self.used.keys().map(String::as_str).collect();
        let (aside, unused): (Vec<&str>, Vec<&str>) = weights
            .names()
            .filter(|name| !used.contains(name))
            .partition(|name| owner.leaves_aside(name));
        if !aside.is_empty() {
            tracing::debug!(tensors = ?aside, "ignoring heads and buffers of the checkpoint");
        }
        if !unused.is_empty() {
            tracing::warn!(tensors = ?unused, "the checkpoint has unused tensors");
        }
        LoadReport {
            parameters,
            bytes: self.bytes,
            dtype,
            unused: unused.into_iter().map(str::to_owned).collect(),
            new: self.new.into_keys().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::error::cannot_load;
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

    fn family(model_type: &str) -> Owner {
        Owner::Family(Family::find(model_type).unwrap())
    }

    fn build(vb: VarBuilder<'_>) -> Result<Linear> {
        LayerNorm::load(vb.pp("LayerNorm"), 3, 1e-5).map_err(cannot_load)?;
        let parts = ["q", "k"].map(|name| (vb.pp(name), 3));
        Linear::load_fused(&parts, 3, true, None).map_err(cannot_load)
    }

    fn f32(weights: &Weights, owner: Owner) -> Load<'_> {
        Load {
            weights,
            owner,
            dtype: DType::F32.into(),
            device: &Device::Cpu,
            new_head: None,
            only_sizes: false,
        }
    }

    fn run(tensors: &[(&str, &[usize], DType)]) -> Result<(Linear, LoadReport)> {
        let (_dir, weights) = weights(tensors);
        f32(&weights, family("bert")).run(build)
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
        let error = f32(&weights, family("bert"))
            .run(|vb| {
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

    #[test]
    fn what_is_left_aside_depends_on_the_family() {
        let names = [
            "classification_head.dense.weight",
            "cls.predictions.bias",
            "cls_classifier.weight",
            "decoder.block.0.weight",
            "lm_head.weight",
            "multiple_choice_head.summary.weight",
            "shared.weight",
            "vocab_projector.bias",
        ];
        let (_dir, weights) = weights(&names.map(|name| (name, &[1][..], DType::F32)));
        for (model_type, aside) in [
            ("bert", &["cls.predictions.bias"][..]),
            ("roberta", &["lm_head.weight"]),
            ("distilbert", &["vocab_projector.bias"]),
            ("gpt2", &["lm_head.weight", "multiple_choice_head.summary.weight"]),
            ("deit", &["cls_classifier.weight"]),
            ("vit", &[]),
            (
                "t5",
                &[
                    "classification_head.dense.weight",
                    "decoder.block.0.weight",
                    "lm_head.weight",
                    "shared.weight",
                ],
            ),
        ] {
            let loaded = f32(&weights, family(model_type)).run(|_| Ok(()));
            let unused = loaded.unwrap().1.unused;
            let expected: Vec<&str> =
                names.into_iter().filter(|name| !aside.contains(name)).collect();
            assert_eq!(unused, expected, "{model_type}");
        }
    }

    #[test]
    fn only_tensors_of_the_familys_own_heads_are_made_new() {
        let (_dir, weights) = weights(&[("other", &[1], DType::F32)]);
        for (model_type, name, is_made) in [
            ("bert", "cls.predictions.transform.dense.weight", true),
            ("bert", "classifier.weight", true),
            ("bert", "lm_head.dense.weight", false),
            ("roberta", "lm_head.dense.weight", true),
            ("t5", "lm_head.weight", true),
            ("t5", "decoder.final_layer_norm.weight", false),
            ("gpt2", "multiple_choice_head.summary.weight", false),
        ] {
            let new_head = Some(NewHead { seed: 1 });
            let load = Load { new_head, ..f32(&weights, family(model_type)) };
            let loaded = load.run(|vb| vb.get((2, 2), name).map_err(cannot_load));
            let new = loaded.map(|(_, report)| report.new);
            assert_eq!(new.is_ok_and(|new| new == [name]), is_made, "{model_type}: {name}");
        }
    }
}
