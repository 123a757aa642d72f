//! Layers that architectures share: ragged inputs, attention, normalization, activations, pooling. Not here: whole
//! architectures (`crate::models`), Arrow, DataFusion. The entry is [`ModelInputs`]. All layers work on `(total_tokens,
//! hidden_size)`; only [`attention`] and pooling distinguish rows.

mod inputs;
mod cpu;
mod disentangled;
#[cfg(feature = "cuda")]
pub mod cuda;
mod host;
mod activation;
mod alibi;
mod attention;
mod attention_mask;
mod attention_options;
mod best_outputs;
mod kv_cache;
mod lengths;
mod embedding;
mod embedding_bag;
mod gate;
mod layer_norm;
mod linear;
mod log_softmax;
mod lora;
mod matrix_rows;
mod mlp;
mod norm;
mod pooling;
mod position_projections;
mod precision;
#[cfg(test)]
mod random;
mod relative_position;
mod rms_norm;
mod rotary;
mod sinusoids;
mod sparse_moe;
mod torch_activation;
mod var_builder;

pub use activation::Activation;
pub use alibi::{Alibi, AlibiForm};
pub use attention::{AttentionOutput, attention, attention_cached, attention_over};
pub use attention_mask::AttentionMask;
pub use attention_options::{AttentionOptions, AttnImplementation, DistanceEmbedding};
#[cfg(test)]
pub(crate) use cpu::has_bf16;
pub use cpu::{BestOutputs, SpareThreads};
pub use disentangled::{Disentangled, DistanceBuckets, RelativePositions};
pub use embedding::Embedding;
pub use embedding_bag::{EmbeddingBag, TableNumbers, normalize_in_place};
pub use gate::GateHalf;
pub use host::{add, cast, logits_to_host, mul, not_finite, scale, select_rows, to_host};
pub use inputs::{ModelInputs, Padding, PositionIds, Ragged};
pub use kv_cache::KvCache;
pub use layer_norm::LayerNorm;
pub use lengths::Lengths;
pub use linear::{Linear, SelectedRows};
pub use log_softmax::{log_softmax, log_sum_exp};
pub use lora::{LoraAdapter, with_lora};
pub use matrix_rows::{Rows, TensorRows};
pub use mlp::{FeedForward, GatedMlp};
pub use norm::{Norm, NormKind};
pub use pooling::{Pooling, PoolingMode, normalize};
pub use position_projections::{DisentangledConfig, PositionProjection};
pub use precision::{InputNorm, Precision};
pub use relative_position::{RelativeAttentionBias, RelativePositionBuckets};
pub use rms_norm::RmsNorm;
pub use rotary::{RotaryConfig, RotaryEmbedding, RotaryLayout, Rotation};
pub use sinusoids::{SinusoidalForm, Sinusoids};
pub use sparse_moe::SparseMoe;
pub use torch_activation::TorchActivation;
pub use var_builder::{TensorSource, VarBuilder};
