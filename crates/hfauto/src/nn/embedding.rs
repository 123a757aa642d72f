//! Embedding tables: one vector per id.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::cpu::{self, CpuView};
use super::linear::{Linear, Weight};
use super::precision::{InputNorm, Precision};
use super::var_builder::VarBuilder;

/// An embedding table, as `torch.nn.Embedding`.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Weight,
    /// Whether a head over the vocabulary shares the table.
    is_tied: bool,
    dtype: DType,
    device: Device,
}

impl Embedding {
    /// Loads `weight` of `(num_embeddings, hidden_size)` as a tensor.
    ///
    /// # Errors
    /// When the checkpoint lacks the table or has another shape.
    pub fn load(vb: VarBuilder<'_>, num_embeddings: usize, hidden_size: usize) -> Result<Self> {
        Ok(Self::from_tensor(vb.get((num_embeddings, hidden_size), "weight")?))
    }

    /// The rows of a tensor.
    pub fn from_tensor(weight: Tensor) -> Self {
        let (dtype, device) = (weight.dtype(), weight.device().clone());
        Self { weight: Weight::Dense(weight), is_tied: false, dtype, device }
    }

    /// Like [`Embedding::load`], for word embeddings: a tied head ([`VarBuilder::with_tied_head`]) and the table are one
    /// weight, in the form that the head computes in. Vectors are read from it; int8 is dequantized. Without a tied head,
    /// the table is a tensor, or bf16 where linear layers are, or in the blocks of a GGUF file. `norm` produces the input of
    /// the head.
    ///
    /// # Errors
    /// As [`Embedding::load`].
    pub fn load_words(
        vb: &VarBuilder<'_>,
        num_embeddings: usize,
        hidden_size: usize,
        norm: Option<&dyn InputNorm>,
    ) -> Result<Self> {
        let shape = (num_embeddings, hidden_size);
        let (dtype, device) = (vb.dtype(), vb.device().clone());
        if let Some(table) = vb.tied_table(shape, "weight")? {
            let weight = Weight::load(&table.vb, shape, &table.name, norm)?;
            return Ok(Self { weight, is_tied: true, dtype, device });
        }
        if vb.precision() == Precision::Bf16 {
            let weight = Weight::load(vb, shape, "weight", None)?;
            return Ok(Self { weight, is_tied: false, dtype, device });
        }
        if vb.are_blocks(shape, "weight")? {
            let weight = Weight::load(&vb.unquantized(), shape, "weight", None)?;
            return Ok(Self { weight, is_tied: false, dtype, device });
        }
        Self::load(vb.clone(), num_embeddings, hidden_size)
    }

    /// The table as a tensor, `(num_embeddings, hidden_size)`.
    ///
    /// # Errors
    /// When it is not one ([`Embedding::load_words`]).
    pub fn weight(&self) -> Result<&Tensor> {
        match &self.weight {
            Weight::Dense(weight) => Ok(weight),
            packed => bail!("bug: the table is {packed:?}"),
        }
    }

    /// The device of the table.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// `(num_embeddings, hidden_size)`.
    ///
    /// # Errors
    /// When the table is no matrix.
    pub fn shape(&self) -> Result<(usize, usize)> {
        self.weight.shape()
    }

    /// The head that shares the table, without a bias; `None` if there is none.
    pub fn tied_head(&self) -> Option<Linear> {
        self.is_tied.then(|| Linear::with_weight(self.weight.clone(), None))
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
            return Tensor::zeros((0, self.shape()?.1), self.dtype, ids.device());
        }
        let Weight::Dense(weight) = &self.weight else { return self.lookup(ids, None) };
        #[cfg(feature = "cuda")]
        if super::cuda::applies(weight) {
            return super::cuda::lookup(weight, ids, None);
        }
        if cpu::applies(weight) {
            return self.lookup(ids, None);
        }
        weight.index_select(ids, 0)
    }

    /// Adds the vectors of `ids` to `sum`.
    ///
    /// # Shapes
    /// `sum`: `(tokens, hidden_size)`, not shared with another tensor: on a GPU, it is overwritten.
    ///
    /// # Errors
    /// As [`Embedding::forward`].
    pub fn add_to(&self, sum: Tensor, ids: &Tensor) -> Result<Tensor> {
        let is_on_cpu = match &self.weight {
            #[cfg(feature = "cuda")]
            Weight::Dense(weight) if super::cuda::applies(weight) => {
                return super::cuda::lookup(weight, ids, Some(sum));
            }
            Weight::Dense(weight) => cpu::applies(weight),
            Weight::Packed(_) | Weight::Int8(_) | Weight::Blocks(_) => true,
        };
        if is_on_cpu && cpu::applies(&sum) {
            return self.lookup(ids, Some(&sum));
        }
        sum + self.forward(ids)?
    }

    /// Looks up the vectors of `ids` in host memory and adds them to `sum`. candle's addition would wake threads that
    /// other workers' batches occupy.
    fn lookup(&self, ids: &Tensor, sum: Option<&Tensor>) -> Result<Tensor> {
        let (num_embeddings, hidden_size) = self.shape()?;
        let ids = ids.to_vec1::<u32>()?;
        let shape = (ids.len(), hidden_size);
        if let Some(sum) = sum
            && sum.dims2()? != shape
        {
            bail!("vectors of shape {shape:?} cannot be added to a sum of {:?}", sum.dims());
        }
        let dense = match &self.weight {
            Weight::Dense(weight) => Some(weight.contiguous()?),
            Weight::Packed(_) | Weight::Int8(_) | Weight::Blocks(_) => None,
        };
        let view = dense.as_ref().map(CpuView::new);
        let vectors = view.as_ref().map(CpuView::slice).transpose()?;
        let mut out = Vec::with_capacity(ids.len() * hidden_size);
        for id in ids {
            let id = id as usize;
            if id >= num_embeddings {
                bail!("id {id} is outside the table of {num_embeddings} vectors");
            }
            match vectors {
                Some(vectors) => out.extend_from_slice(&vectors[id * hidden_size..][..hidden_size]),
                None => {
                    self.weight.append_row(id, &mut out);
                }
            }
        }
        if let Some(sum) = sum {
            let sum = sum.contiguous()?;
            let view = CpuView::new(&sum);
            for (number, sum) in out.iter_mut().zip(view.slice()?) {
                *number += sum;
            }
        }
        Tensor::from_vec(out, shape, &self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::random::randn;

    #[test]
    fn looks_up_and_adds_as_candle_does() -> Result<()> {
        let weight = randn(0f32, 1.0, (3, 5), &Device::Cpu)?;
        // The table and the ids are views.
        let weight = Tensor::cat(&[&weight, &weight], 1)?.narrow(1, 2, 5)?;
        let table = Embedding::from_tensor(weight.clone());
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
        let table = Embedding::from_tensor(Tensor::zeros((3, 5), DType::F32, &Device::Cpu)?);
        let ids = Tensor::new(&[3u32], &Device::Cpu)?;
        let error = table.forward(&ids).unwrap_err().to_string();
        assert!(error.contains("id 3 is outside the table of 3 vectors"), "{error}");
        let sum = Tensor::zeros((2, 5), DType::F32, &Device::Cpu)?;
        assert!(table.add_to(sum, &Tensor::new(&[1u32], &Device::Cpu)?).is_err());
        Ok(())
    }
}
