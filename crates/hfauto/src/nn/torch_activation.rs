//! Activation classes of `torch.nn`, as named in the files of sentence-transformers: the Dense module's
//! `activation_function` and a cross-encoder's `activation_fn`.
//!
//! They apply to one vector per row, after the model; [`Activation`] is for the model's layers.

use candle_core::{Result, Tensor};

use super::activation::Activation;
use super::host::to_host;
use crate::error::{Error, ErrorKind};

/// An activation class with its default arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TorchActivation {
    name: &'static str,
    function: Function,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    /// An activation that layers use as well, with its own kernel.
    Shared(Activation),
    /// Element-wise.
    Elementwise(Elementwise),
    /// Over all elements of a row.
    Softmax,
    LogSoftmax,
    Softmin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Elementwise {
    Celu,
    Hardshrink,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyRelu,
    LogSigmoid,
    Mish,
    Relu6,
    Rrelu,
    Selu,
    Softplus,
    Softshrink,
    Softsign,
    Tanhshrink,
}

/// Every class that has neither weights nor required arguments, and preserves the width.
const CLASSES: [(&str, Function); 26] = [
    ("CELU", Function::Elementwise(Elementwise::Celu)),
    ("Dropout", Function::Shared(Activation::Identity)),
    // With the default argument, ELU equals CELU.
    ("ELU", Function::Elementwise(Elementwise::Celu)),
    ("GELU", Function::Shared(Activation::Gelu)),
    ("Hardshrink", Function::Elementwise(Elementwise::Hardshrink)),
    ("Hardsigmoid", Function::Elementwise(Elementwise::Hardsigmoid)),
    ("Hardswish", Function::Elementwise(Elementwise::Hardswish)),
    ("Hardtanh", Function::Elementwise(Elementwise::Hardtanh)),
    ("Identity", Function::Shared(Activation::Identity)),
    ("LeakyReLU", Function::Elementwise(Elementwise::LeakyRelu)),
    ("LogSigmoid", Function::Elementwise(Elementwise::LogSigmoid)),
    ("LogSoftmax", Function::LogSoftmax),
    ("Mish", Function::Elementwise(Elementwise::Mish)),
    ("ReLU", Function::Shared(Activation::Relu)),
    ("ReLU6", Function::Elementwise(Elementwise::Relu6)),
    ("RReLU", Function::Elementwise(Elementwise::Rrelu)),
    ("SELU", Function::Elementwise(Elementwise::Selu)),
    ("SiLU", Function::Shared(Activation::Silu)),
    ("Sigmoid", Function::Shared(Activation::Sigmoid)),
    ("Softmax", Function::Softmax),
    ("Softmin", Function::Softmin),
    ("Softplus", Function::Elementwise(Elementwise::Softplus)),
    ("Softshrink", Function::Elementwise(Elementwise::Softshrink)),
    ("Softsign", Function::Elementwise(Elementwise::Softsign)),
    ("Tanh", Function::Shared(Activation::Tanh)),
    ("Tanhshrink", Function::Elementwise(Elementwise::Tanhshrink)),
];

impl TorchActivation {
    /// `torch.nn.Identity`.
    pub const IDENTITY: Self =
        Self { name: "Identity", function: Function::Shared(Activation::Identity) };
    /// `torch.nn.Sigmoid`.
    pub const SIGMOID: Self =
        Self { name: "Sigmoid", function: Function::Shared(Activation::Sigmoid) };
    /// `torch.nn.Softmax`, over a row.
    pub const SOFTMAX: Self = Self { name: "Softmax", function: Function::Softmax };
    /// `torch.nn.Tanh`.
    pub const TANH: Self = Self { name: "Tanh", function: Function::Shared(Activation::Tanh) };

    /// The class with a dotted path, such as `torch.nn.modules.activation.Tanh`.
    ///
    /// # Errors
    /// `Unsupported` for a class that is not in torch, has weights or arguments, or is not in the list.
    pub fn from_path(path: &str) -> crate::error::Result<Self> {
        let class = path.strip_prefix("torch.").and_then(|path| path.rsplit('.').next());
        let found = CLASSES.iter().find(|(name, _)| Some(*name) == class);
        found.map(|(name, function)| Self { name, function: *function }).ok_or_else(|| {
            let names: Vec<&str> = CLASSES.iter().map(|(name, _)| *name).collect();
            Error::new(ErrorKind::Unsupported, format!("activation `{path}` is not implemented"))
                .hint(format!("implemented classes of torch.nn: {}", names.join(", ")))
        })
    }

    /// The name of the class.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The equivalent layer activation, if there is one.
    pub fn shared(self) -> Option<Activation> {
        match self.function {
            Function::Shared(activation) => Some(activation),
            _ => None,
        }
    }

    /// Whether the activation is elementwise.
    pub fn is_elementwise(self) -> bool {
        matches!(self.function, Function::Shared(_) | Function::Elementwise(_))
    }

    /// Applies the activation to `(rows, width)`.
    ///
    /// # Errors
    /// When candle cannot compute or allocate.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        if let Function::Shared(activation) = self.function {
            return activation.forward(x);
        }
        let (_, width) = x.dims2()?;
        let mut values = to_host(x)?;
        self.apply(&mut values, width);
        Tensor::from_vec(values, x.shape(), x.device())
    }

    /// Applies the activation in place to rows of `width` elements.
    pub fn apply(self, values: &mut [f32], width: usize) {
        let rows = values.chunks_exact_mut(width.max(1));
        match self.function {
            Function::Shared(activation) => activation.apply(values),
            Function::Elementwise(function) => {
                values.iter_mut().for_each(|x| *x = function.of(*x));
            }
            Function::LogSoftmax => rows.for_each(super::log_softmax),
            Function::Softmax => rows.for_each(softmax),
            Function::Softmin => rows.for_each(|row| {
                row.iter_mut().for_each(|x| *x = -*x);
                softmax(row);
            }),
        }
    }
}

fn softmax(row: &mut [f32]) {
    super::log_softmax(row);
    row.iter_mut().for_each(|x| *x = x.exp());
}

impl Elementwise {
    /// The function of one element. NaN stays NaN, because every comparison with it is false.
    fn of(self, x: f32) -> f32 {
        const SELU_ALPHA: f32 = 1.673_263_2;
        const SELU_SCALE: f32 = 1.050_701;
        let softplus = |x: f32| if x > 20.0 { x } else { x.exp().ln_1p() };
        match self {
            Self::Celu => {
                if x > 0.0 {
                    x
                } else {
                    x.exp_m1()
                }
            }
            Self::Hardshrink => {
                if (-0.5..=0.5).contains(&x) {
                    0.0
                } else {
                    x
                }
            }
            Self::Hardsigmoid => (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Self::Hardswish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Self::Hardtanh => x.clamp(-1.0, 1.0),
            Self::LeakyRelu => {
                if x > 0.0 {
                    x
                } else {
                    0.01 * x
                }
            }
            Self::LogSigmoid => -softplus(-x),
            Self::Mish => x * softplus(x).tanh(),
            Self::Relu6 => x.clamp(0.0, 6.0),
            // The mean of the bounds between which training samples the slope.
            Self::Rrelu => {
                if x > 0.0 {
                    x
                } else {
                    f32::midpoint(1.0 / 8.0, 1.0 / 3.0) * x
                }
            }
            Self::Selu => SELU_SCALE * if x > 0.0 { x } else { SELU_ALPHA * x.exp_m1() },
            Self::Softplus => softplus(x),
            Self::Softshrink => {
                if x > 0.5 {
                    x - 0.5
                } else if x < -0.5 {
                    x + 0.5
                } else if x.is_nan() {
                    x
                } else {
                    0.0
                }
            }
            Self::Softsign => x / (1.0 + x.abs()),
            Self::Tanhshrink => x - x.tanh(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The results of `torch.nn` 2.9 for −30, −2, −0.4, 0.3, 1.5 and 25, written by `tests/golden/cases_settings.py`.
    #[test]
    fn every_class_is_as_torch_has_it() {
        let golden =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/settings/activations.json");
        let golden: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
        let numbers = |value: &serde_json::Value| -> Vec<f32> {
            value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
        };
        let inputs = numbers(&golden["inputs"]);
        let classes = golden["classes"].as_object().unwrap();
        for (path, expected) in classes {
            let class = TorchActivation::from_path(path).unwrap();
            let mut values = inputs.clone();
            class.apply(&mut values, inputs.len());
            for (ours, theirs) in values.iter().zip(numbers(expected)) {
                let bound = 1e-6 * theirs.abs().max(1.0);
                assert!((ours - theirs).abs() <= bound, "{path}: {values:?} instead of {expected}");
            }
            let mut nan = [f32::NAN];
            class.apply(&mut nan, 1);
            assert!(nan[0].is_nan(), "{path}");
        }
        let missing: Vec<&str> = CLASSES
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| !classes.keys().any(|path| path.ends_with(&format!(".{name}"))))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn other_classes_are_refused_by_name() {
        for path in ["my.Tanh", "Tanh", "torch.nn.PReLU", "torch.nn.GLU", "torch.nn.Threshold"] {
            let error = TorchActivation::from_path(path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.message().contains(&format!("`{path}`")), "{error}");
        }
    }
}
