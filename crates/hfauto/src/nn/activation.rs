//! Activation functions by the names of transformers and of torch.

use candle_core::{Result, Tensor};

use super::cpu;
use crate::error;

/// An activation function, exactly as transformers computes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x`.
    Identity,
    /// `x · Φ(x)` with the error function.
    Gelu,
    /// The tanh approximation of GELU, as in the original BERT and GPT-2 code.
    GeluTanh,
    /// `x · σ(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `σ(x)`.
    Sigmoid,
    /// `x · σ(x)`.
    Silu,
    /// `tanh(x)`.
    Tanh,
}

/// The names in `config.json` (`ACT2FN` of transformers). Several names share one formula.
///
/// # Source
/// `src/transformers/activations.py` at v4.57.
const ACT2FN: [(&str, Activation); 14] = [
    ("gelu", Activation::Gelu),
    ("gelu_accurate", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_python", Activation::Gelu),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("linear", Activation::Identity),
    ("quick_gelu", Activation::QuickGelu),
    ("relu", Activation::Relu),
    ("sigmoid", Activation::Sigmoid),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("tanh", Activation::Tanh),
];

/// Class names of `torch.nn`, as used by the Dense module of sentence-transformers.
const TORCH_CLASSES: [(&str, Activation); 6] = [
    ("GELU", Activation::Gelu),
    ("Identity", Activation::Identity),
    ("ReLU", Activation::Relu),
    ("SiLU", Activation::Silu),
    ("Sigmoid", Activation::Sigmoid),
    ("Tanh", Activation::Tanh),
];

impl Activation {
    /// Looks up the name in `hidden_act` or `activation` of a `config.json`.
    ///
    /// # Errors
    /// `Unsupported` when the name is not in the list.
    pub fn from_name(name: &str) -> error::Result<Self> {
        lookup(&ACT2FN, name, name)
    }

    /// Looks up a dotted torch path, for example `torch.nn.modules.activation.Tanh`.
    ///
    /// # Errors
    /// `Unsupported` when the class is not in the list.
    pub fn from_torch_path(path: &str) -> error::Result<Self> {
        lookup(&TORCH_CLASSES, path.rsplit('.').next().unwrap_or(path), path)
    }

    /// Applies the function to every element.
    ///
    /// # Errors
    /// When candle cannot compute or allocate.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        if cpu::applies(x) {
            let mut values = x.flatten_all()?.to_vec1::<f32>()?;
            self.apply(&mut values);
            return Tensor::from_vec(values, x.shape(), x.device());
        }
        #[cfg(feature = "cuda")]
        if super::cuda::applies(x) {
            // The kernel works in place, but `x` may be shared.
            return self.forward_in_place(x.copy()?.contiguous()?);
        }
        match self {
            Self::Identity => Ok(x.clone()),
            Self::Gelu => x.gelu_erf(),
            Self::GeluTanh => x.gelu(),
            Self::QuickGelu => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
            Self::Relu => x.relu(),
            Self::Sigmoid => candle_nn::ops::sigmoid(x),
            Self::Silu => x.silu(),
            Self::Tanh => x.tanh(),
        }
    }

    /// Applies the function in place to a tensor on a GPU that is not shared.
    ///
    /// # Errors
    /// When the dtype has no kernel.
    #[cfg(feature = "cuda")]
    pub(super) fn forward_in_place(self, x: Tensor) -> Result<Tensor> {
        // The number of the function in `cuda/elementwise.cu`.
        let number = match self {
            Self::Identity => return Ok(x),
            Self::Gelu => 1,
            Self::GeluTanh => 2,
            Self::QuickGelu => 3,
            Self::Relu => 4,
            Self::Sigmoid => 5,
            Self::Silu => 6,
            Self::Tanh => 7,
        };
        super::cuda::activate(x, number)
    }

    /// Applies the function in place.
    pub(super) fn apply(self, values: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Gelu => cpu::map::<cpu::Gelu>(values),
            Self::GeluTanh => cpu::map::<cpu::GeluTanh>(values),
            Self::QuickGelu => cpu::map::<cpu::QuickGelu>(values),
            Self::Relu => cpu::map::<cpu::Relu>(values),
            Self::Sigmoid => cpu::map::<cpu::Sigmoid>(values),
            Self::Silu => cpu::map::<cpu::Silu>(values),
            Self::Tanh => cpu::map::<cpu::Tanh>(values),
        }
    }

    /// Like [`Activation::apply`], before quantization to 8 bits: only as accurate as that needs.
    pub(super) fn apply_before_quantization(self, values: &mut [f32]) {
        match self {
            Self::Gelu => cpu::map::<cpu::CoarseGelu>(values),
            _ => self.apply(values),
        }
    }
}

fn lookup(table: &[(&str, Activation)], name: &str, written: &str) -> error::Result<Activation> {
    if let Some((_, activation)) = table.iter().find(|(known, _)| *known == name) {
        return Ok(*activation);
    }
    let names: Vec<&str> = table.iter().map(|(known, _)| *known).collect();
    Err(error::Error::new(
        error::ErrorKind::Unsupported,
        format!("activation `{written}` is not implemented"),
    )
    .hint(format!("valid values: {}", names.join(", "))))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// Values published in the documentation of torch or computed by hand from the definition.
    #[test]
    fn agrees_with_published_values() {
        let cases = [
            ("gelu", 1.0, 0.841_344_7),
            ("gelu", -1.0, -0.158_655_26),
            ("gelu", 3.0, 2.995_950_3),
            ("gelu_new", 1.0, 0.841_192),
            ("gelu_new", -2.0, -0.045_402_3),
            ("gelu_pytorch_tanh", -0.5, -0.154_286),
            ("quick_gelu", 1.0, 0.845_795_8),
            ("silu", 1.0, 0.731_058_6),
            ("swish", -2.0, -0.238_405_84),
            ("sigmoid", 0.5, 0.622_459_3),
            ("tanh", 0.5, 0.462_117_16),
            ("relu", -0.5, 0.0),
            ("relu", 0.5, 0.5),
            ("linear", -7.0, -7.0),
        ];
        for (name, x, expected) in cases {
            let mut values = [x];
            Activation::from_name(name).unwrap().apply(&mut values);
            assert!((values[0] - expected).abs() < 1e-6, "{name}({x}) = {}", values[0]);
        }
    }

    #[test]
    fn host_kernels_agree_with_the_device_formulas() -> Result<()> {
        let x = Tensor::arange(-800f32, 800., &Device::Cpu)?.affine(0.01, 0.0)?;
        for (name, activation) in ACT2FN {
            // f64 uses candle's formulas, f32 the kernels in `nn/cpu`.
            let exact = activation.forward(&x.to_dtype(DType::F64)?)?;
            let ours = activation.forward(&x)?.to_dtype(DType::F64)?;
            let worst = (exact - ours)?.abs()?.max(0)?.to_scalar::<f64>()?;
            assert!(worst < 1e-6, "{name} is off by {worst:e}");
        }
        Ok(())
    }

    #[test]
    fn nan_stays_nan() {
        for (name, activation) in ACT2FN {
            let mut values = [f32::NAN];
            activation.apply(&mut values);
            assert!(values[0].is_nan(), "{name}");
        }
    }

    #[test]
    fn unknown_names_are_refused_by_name() {
        let error = Activation::from_name("gleu").unwrap_err();
        assert_eq!(error.kind(), error::ErrorKind::Unsupported);
        assert_eq!(error.message(), "activation `gleu` is not implemented");
        assert!(error.remedy().unwrap().contains("gelu_new"));
        assert_eq!(
            Activation::from_torch_path("torch.nn.modules.activation.Tanh").unwrap(),
            Activation::Tanh
        );
        assert!(Activation::from_torch_path("torch.nn.modules.activation.Hardswish").is_err());
    }
}
