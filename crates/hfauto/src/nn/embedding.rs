//! Embedding tables: one vector per id.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::cpu::{self, CpuView};

/// An embedding table, as `torch.nn.Embedding`.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Tensor,
}

impl Embedding {
    /// Loads `weight` of `(num_embeddings, hidden_size)`.
    ///
    /// # Errors
    /// When the checkpoint lacks the table or has another shape.
    pub fn load(vb: VarBuilder<'_>, num_embeddings: usize, hidden_size: usize) -> Result<Self> {
        Ok(Self { weight: vb.get((num_embeddings, hidden_size), "weight")? })
    }

    /// The table, `(num_embeddings, hidden_size)`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Looks up `ids`.
    ///
    /// # Shapes
    /// `ids`: `(tokens)`, u32; returns `(tokens, hidden_size)`.
    ///
    /// # Errors
    /// When an id is outside the table. On a GPU, its vector is NaN instead, because checking would synchronize the
    /// stream.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        if ids.elem_count() == 0 {
            return Tensor::zeros((0, self.weight.dim(1)?), self.weight.dtype(), ids.device());
        }
        #[cfg(feature = "cuda")]
        if super::cuda::applies(&self.weight) {
            return super::cuda::lookup(&self.weight, ids, None);
        }
        if cpu::applies(&self.weight) {
            return lookup(&self.weight, ids, None);
        }
        self.weight.index_select(ids, 0)
    }

    /// Adds the vectors of `ids` to `sum`.
    ///
    /// # Shapes
    /// `sum`: `(tokens, hidden_size)`, not shared with another tensor: on a GPU, it is overwritten.
    ///
    /// # Errors
    /// As [`Embedding::forward`].
    pub fn add_to(&self, sum: Tensor, ids: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if super::cuda::applies(&self.weight) {
            return super::cuda::lookup(&self.weight, ids, Some(sum));
        }
        if cpu::applies(&self.weight) && cpu::applies(&sum) {
            return lookup(&self.weight, ids, Some(&sum));
        }
        sum + self.forward(ids)?
    }
}

/// Looks up the vectors of `ids` in host memory and adds them to `sum`. candle's addition would wake threads that other
/// workers' batches occupy.
fn lookup(table: &Tensor, ids: &Tensor, sum: Option<&Tensor>) -> Result<Tensor> {
    let (num_embeddings, hidden_size) = table.dims2()?;
    let ids = ids.to_vec1::<u32>()?;
    let shape = (ids.len(), hidden_size);
    if let Some(sum) = sum
        && sum.dims2()? != shape
    {
        bail!("vectors of shape {shape:?} cannot be added to a sum of {:?}", sum.dims());
    }
    let (table, sum) = (table.contiguous()?, sum.map(Tensor::contiguous).transpose()?);
    let (view, sum_view) = (CpuView::new(&table), sum.as_ref().map(CpuView::new));
    let (vectors, sums) = (view.slice()?, sum_view.as_ref().map(CpuView::slice).transpose()?);
    let mut out = Vec::with_capacity(ids.len() * hidden_size);
    for id in ids {
        let id = id as usize;
        if id >= num_embeddings {
            bail!("id {id} is outside the table of {num_embeddings} vectors");
        }
        let vector = &vectors[id * hidden_size..][..hidden_size];
        match sums {
            Some(sums) => {
                let sum = &sums[out.len()..][..hidden_size];
                out.extend(sum.iter().zip(vector).map(|(sum, number)| sum + number));
            }
            None => out.extend_from_slice(vector),
        }
    }
    Tensor::from_vec(out, shape, table.device())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn looks_up_and_adds_as_candle_does() -> Result<()> {
        let weight = Tensor::randn(0f32, 1.0, (3, 5), &Device::Cpu)?;
        // The table and the ids are views.
        let weight = Tensor::cat(&[&weight, &weight], 1)?.narrow(1, 2, 5)?;
        let table = Embedding { weight: weight.clone() };
        let ids = Tensor::new(&[9u32, 2, 0, 2, 1], &Device::Cpu)?.narrow(0, 1, 4)?;
        let numbers = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
        let expected = weight.contiguous()?.index_select(&ids, 0)?;
        let found = table.forward(&ids)?;
        assert_eq!(numbers(&found)?, numbers(&expected)?);
        let sum = table.add_to(found, &ids)?;
        assert_eq!(numbers(&sum)?, numbers(&(&expected + &expected)?)?);
        Ok(())
    }

    #[test]
    fn an_id_outside_of_the_table_and_a_sum_of_another_shape_are_errors() -> Result<()> {
        let table = Embedding { weight: Tensor::zeros((3, 5), DType::F32, &Device::Cpu)? };
        let ids = Tensor::new(&[3u32], &Device::Cpu)?;
        let error = table.forward(&ids).unwrap_err().to_string();
        assert!(error.contains("id 3 is outside the table of 3 vectors"), "{error}");
        let sum = Tensor::zeros((2, 5), DType::F32, &Device::Cpu)?;
        assert!(table.add_to(sum, &Tensor::new(&[1u32], &Device::Cpu)?).is_err());
        Ok(())
    }
}
