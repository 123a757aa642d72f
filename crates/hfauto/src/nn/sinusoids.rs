//! Position embeddings that are sines and cosines of the position, not learned. Not here: rotary embeddings (`rotary`).
//! The entry is [`Sinusoids::covering`].

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor, bail};

use super::embedding::Embedding;

/// The quotient of the longest and the shortest wavelength.
const BASE: f64 = 10_000.0;

/// The formula of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinusoidalForm {
    /// The feature `j` of `position / 10000^(2⌊j/2⌋ / dim)`: sines of the even `j`, then cosines of the odd ones, for
    /// positions below the given number. In f64, as `MarianSinusoidalPositionalEmbedding` of transformers.
    UpTo(usize),
    /// Sines of frequencies from 1 to 1/10000, then cosines, for any position; zeros for that of the padding token. In f32,
    /// as `M2M100SinusoidalPositionalEmbedding` of transformers.
    AfterPadding {
        /// `pad_token_id` of the config.
        padding_idx: u32,
    },
}

/// A table of sines and cosines that grows with the rows.
pub struct Sinusoids {
    form: SinusoidalForm,
    dim: usize,
    dtype: DType,
    device: Device,
    /// The table up to the largest position so far. Only larger ones rebuild it.
    table: Mutex<Option<Embedding>>,
}

impl Sinusoids {
    /// A table of vectors with `dim` features, at least 4 for [`SinusoidalForm::AfterPadding`].
    pub fn new(form: SinusoidalForm, dim: usize, dtype: DType, device: &Device) -> Self {
        Self { form, dim, dtype, device: device.clone(), table: Mutex::default() }
    }

    /// The table, with at least the vectors of all positions up to `position`.
    ///
    /// # Errors
    /// If the table has no such position, or candle cannot allocate.
    pub fn covering(&self, position: u32) -> Result<Embedding> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = &*table
            && table.shape()?.0 > position as usize
        {
            return Ok(table.clone());
        }
        // Doubling amortizes the growth during decoding.
        let mut positions = (position as usize + 1).next_power_of_two().max(1024);
        if let SinusoidalForm::UpTo(most) = self.form {
            if position as usize >= most {
                bail!("position {position} is outside the table of {most} vectors");
            }
            positions = positions.min(most);
        }
        let numbers = match self.form {
            SinusoidalForm::UpTo(_) => paired(positions, self.dim),
            SinusoidalForm::AfterPadding { padding_idx } => {
                by_frequency(positions, self.dim, padding_idx as usize)
            }
        };
        let grown = Tensor::from_vec(numbers, (positions, self.dim), &self.device)?;
        let grown = Embedding::from_tensor(grown.to_dtype(self.dtype)?);
        *table = Some(grown.clone());
        Ok(grown)
    }
}

fn paired(positions: usize, dim: usize) -> Vec<f32> {
    let sines = dim.div_ceil(2);
    let wavelengths: Vec<f64> =
        (0..sines).map(|pair| BASE.powf((2 * pair) as f64 / dim as f64)).collect();
    let vectors = (0..positions).flat_map(|position| {
        let angle = move |wavelength: &f64| position as f64 / wavelength;
        let sines = wavelengths.iter().map(move |wavelength| angle(wavelength).sin() as f32);
        let cosines = wavelengths.iter().map(move |wavelength| angle(wavelength).cos() as f32);
        sines.chain(cosines.take(dim / 2))
    });
    vectors.collect()
}

fn by_frequency(positions: usize, dim: usize, padding_idx: usize) -> Vec<f32> {
    let half = dim / 2;
    let step = (BASE.ln() / (half as f64 - 1.0)) as f32;
    let frequencies: Vec<f32> = (0..half).map(|k| (k as f32 * -step).exp()).collect();
    let mut numbers = Vec::with_capacity(positions * dim);
    for position in 0..positions {
        if position != padding_idx {
            let angles = frequencies.iter().map(|frequency| position as f32 * frequency);
            numbers.extend(angles.clone().map(f32::sin));
            numbers.extend(angles.map(f32::cos));
        }
        numbers.resize((position + 1) * dim, 0.0);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sinusoids(form: SinusoidalForm, dim: usize) -> Sinusoids {
        Sinusoids::new(form, dim, DType::F32, &Device::Cpu)
    }

    #[test]
    fn pairs_of_features_share_a_wavelength_and_the_table_ends() -> Result<()> {
        let sinusoids = sinusoids(SinusoidalForm::UpTo(3), 5);
        let table = sinusoids.covering(2)?.weight()?.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(table[..5], [0.0, 0.0, 0.0, 1.0, 1.0]);
        let angle = |pair: i32| 2.0 / 10_000f64.powf(2.0 * f64::from(pair) / 5.0);
        let expected =
            [angle(0).sin(), angle(1).sin(), angle(2).sin(), angle(0).cos(), angle(1).cos()];
        assert_eq!(table[10..], expected.map(|number| number as f32));
        let error = sinusoids.covering(3).unwrap_err().to_string();
        assert!(error.contains("position 3 is outside the table of 3 vectors"), "{error}");
        Ok(())
    }

    #[test]
    fn a_table_that_grows_keeps_its_vectors_and_the_zeros_of_padding() -> Result<()> {
        let sinusoids = sinusoids(SinusoidalForm::AfterPadding { padding_idx: 1 }, 7);
        let ids = Tensor::new(&[0u32, 1, 2, 1000], &Device::Cpu)?;
        let vectors = |table: &Embedding| table.forward(&ids)?.flatten_all()?.to_vec1::<f32>();
        let before = vectors(&sinusoids.covering(3)?)?;
        let after = sinusoids.covering(5000)?;
        assert!(after.shape()?.0 > 5000);
        assert_eq!(vectors(&after)?, before);
        assert_eq!(before[7..14], [0.0; 7]);
        // Three frequencies, and a zero where the size is odd.
        assert_eq!(before[..7], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]);
        assert!((before[14] - 2f32.sin()).abs() < 1e-9);
        assert!((before[16] - 2e-4f32.sin()).abs() < 1e-9);
        Ok(())
    }
}
