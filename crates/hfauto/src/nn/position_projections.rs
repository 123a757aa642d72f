//! The vectors of relative positions that a layer of disentangled attention holds: projected once, at load. The entry is
//! [`Disentangled::load`].

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::cpu::PackedWeight;
use super::disentangled::{Disentangled, RelativePositions, Table};
use super::linear::Linear;
use super::matrix_rows::{Rows, TensorRows};
use super::var_builder::VarBuilder;

/// A projection of the vectors: its path, and whether it has a bias.
pub type PositionProjection = (&'static str, bool);

/// What disentangled attention of a layer is made from.
#[derive(Clone, Debug)]
pub struct DisentangledConfig {
    /// The vectors of relative positions, `(2 * span, hidden_size)`, in the order of the checkpoint.
    pub embeddings: Tensor,
    /// Their order.
    pub positions: Arc<RelativePositions>,
    /// The projection whose results queries are multiplied with (`c2p`).
    pub keys: Option<PositionProjection>,
    /// The projection whose results keys are multiplied with (`p2c`).
    pub queries: Option<PositionProjection>,
}

impl Disentangled {
    /// Projects the vectors of `config` for `num_heads` heads of queries and keys. Projections are not quantized to 8 bits.
    ///
    /// # Errors
    /// If the checkpoint lacks a projection or has it in another shape.
    pub fn load(
        vb: &VarBuilder<'_>,
        config: &DisentangledConfig,
        num_heads: usize,
    ) -> Result<Self> {
        let load = |projection: Option<PositionProjection>| {
            let table = projection.map(|name| project(vb, config, name, num_heads));
            table.transpose().map(Option::flatten)
        };
        Ok(Self {
            positions: Arc::clone(&config.positions),
            keys: load(config.keys)?,
            queries: load(config.queries)?,
        })
    }
}

/// Projects the vectors; `None` where the checkpoint lacks a tensor, or only sizes count.
fn project(
    vb: &VarBuilder<'_>,
    config: &DisentangledConfig,
    (name, bias): PositionProjection,
    num_heads: usize,
) -> Result<Option<Table>> {
    let (vectors, hidden_size) = config.embeddings.dims2()?;
    vb.count(&[vectors, hidden_size], vb.dtype().size_in_bytes());
    let vb = vb.pp(name);
    let projection = Linear::load_on_host(&vb, hidden_size, hidden_size, bias)?;
    let Some(projection) = projection.filter(|_| config.embeddings.is_contiguous()) else {
        return Ok(None);
    };
    let embeddings = config.embeddings.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
    let last_first: Vec<u32> = (0..vectors as u32).rev().collect();
    let embeddings = embeddings.index_select(&Tensor::new(last_first, &Device::Cpu)?, 0)?;
    let head_dim = hidden_size / num_heads;
    let projected = projection.forward(&embeddings)?.reshape((vectors, num_heads, head_dim))?;
    if vb.device().is_cpu() && vb.dtype() == DType::F32 {
        let heads = (0..num_heads).map(|head| {
            let rows = projected.narrow(1, head, 1)?.squeeze(1)?;
            let rows: Vec<Box<dyn Rows>> = vec![Box::new(TensorRows::new(&rows)?)];
            PackedWeight::f32((vectors, head_dim), &rows)
        });
        return heads.collect::<Result<_>>().map(|heads| Some(Table::Packed(heads)));
    }
    let dense = projected.permute((1, 2, 0))?.contiguous()?;
    Ok(Some(Table::Dense(dense.to_dtype(vb.dtype())?.to_device(vb.device())?)))
}
