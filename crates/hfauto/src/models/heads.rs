//! Heads: layers that turn a backbone's states into logits. Families differ in the names and the order of a few
//! layers, so a head is data ([`HeadLayout`], a row of the table in `crate::auto`): the states that it reads (of every
//! token, the first, the last that is not padding, the last end token) and its layers. Every layer is written once,
//! here. A head over the vocabulary is applied to the requested states only, never to a whole batch of tokens. Not
//! here: what logits mean (the tasks of hfauto-pipe). The entry is [`Head`].

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{Fields, ModelOutput};
use crate::error;
use crate::nn::{Activation, LayerNorm, Linear, ModelInputs};

/// Which states a head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Every token's: logits are `(total_tokens, n)`.
    Tokens,
    /// The first token's of each row: logits are `(rows, n)`, as with all that follow.
    First,
    /// The first two tokens' of each row, side by side: the layers get `(rows, 2 * hidden_size)` (DeiT).
    FirstTwo,
    /// The last token's that is not `pad_token_id` (GPT-2).
    LastNotPad,
    /// The token's where the last `eos_token_id` stands (T5).
    LastEos,
}

/// One layer of a head. Names are paths in the checkpoint.
#[derive(Clone, Copy, Debug)]
pub enum Layer {
    /// `hidden_size → hidden_size`, with bias.
    Dense(&'static str),
    /// An activation that is the same for every checkpoint.
    Activation(Activation),
    /// The activation that `config.json` names under this key.
    ConfigActivation(&'static str),
    /// Layer normalisation with the epsilon under the key, or this one.
    LayerNorm(&'static str, Epsilon),
    /// `hidden_size → num_labels`, with bias.
    Labels(&'static str),
    /// `hidden_size → num_labels`, without bias.
    LabelsNoBias(&'static str),
    /// The mean of two `hidden_size → num_labels`, with bias, each over its own of two states side by
    /// side.
    LabelsMean([&'static str; 2]),
    /// `hidden_size → n`, with bias.
    Outputs(&'static str, usize),
    /// `hidden_size → vocab_size`. The weight is that of the word embeddings unless
    /// `tie_word_embeddings` is false; the bias, if there are names for it, is the first one found.
    Vocabulary(&'static str, &'static [&'static str]),
    /// Divides by the square root of `hidden_size` when the word embeddings are tied (T5).
    ScaleIfTied,
}

/// The epsilon of a head's layer normalisation.
#[derive(Clone, Copy, Debug)]
pub enum Epsilon {
    /// Under this key of `config.json`, by default this number.
    Config(&'static str, f64),
    /// This number.
    Is(f64),
}

/// A head as data.
#[derive(Clone, Copy, Debug)]
pub struct HeadLayout {
    /// The states it reads.
    pub reads: Reads,
    /// Its layers in order.
    pub layers: &'static [Layer],
}

impl HeadLayout {
    /// The tensor whose rows are the labels.
    pub fn label_weight(&self) -> Option<String> {
        self.layers.iter().find_map(|layer| match layer {
            Layer::Labels(name) | Layer::LabelsNoBias(name) | Layer::LabelsMean([name, _]) => {
                Some(format!("{name}.weight"))
            }
            _ => None,
        })
    }
}

/// The sizes that a head takes from its configuration and its backbone.
#[derive(Clone, Copy, Debug)]
pub struct HeadSizes<'a> {
    /// Features of a hidden state.
    pub hidden_size: usize,
    /// Labels.
    pub num_labels: usize,
    /// `(vocab_size, hidden_size)`, of the backbone, where it has tokens.
    pub word_embeddings: Option<&'a Tensor>,
    /// Whether a layer over the vocabulary has their weight when config.json does not say it.
    pub tied_by_default: bool,
}

enum Loaded {
    Linear(Linear),
    Activation(Activation),
    LayerNorm(LayerNorm),
    Scale(f64),
    Mean([Linear; 2]),
}

/// A loaded head.
pub struct Head {
    reads: Reads,
    pad_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    layers: Vec<Loaded>,
}

impl Head {
    /// Loads the layers of `layout`.
    ///
    /// # Errors
    /// `Model` when the checkpoint does not have a tensor in its shape; `Unsupported` for an activation
    /// that is not implemented.
    pub fn load(
        layout: &HeadLayout,
        fields: &Fields<'_>,
        vb: &VarBuilder<'_>,
        sizes: HeadSizes<'_>,
    ) -> error::Result<Self> {
        let tied = fields.flag("tie_word_embeddings", sizes.tied_by_default)?;
        let layers = layout
            .layers
            .iter()
            .map(|layer| load_layer(*layer, fields, vb, sizes, tied))
            .filter_map(error::Result::transpose)
            .collect::<error::Result<_>>()?;
        Ok(Self {
            reads: layout.reads,
            pad_token_id: fields.optional_token_id("pad_token_id")?,
            eos_token_id: fields.optional_token_id("eos_token_id")?,
            layers,
        })
    }

    /// The states it reads.
    pub fn reads(&self) -> Reads {
        self.reads
    }

    /// Every linear layer.
    pub fn linear_layers(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.layers.iter_mut().flat_map(|layer| match layer {
            Loaded::Linear(linear) => vec![linear],
            Loaded::Mean(both) => both.iter_mut().collect(),
            Loaded::Activation(_) | Loaded::LayerNorm(_) | Loaded::Scale(_) => Vec::new(),
        })
    }

    /// Logits of a forward pass.
    ///
    /// # Shapes
    /// `(total_tokens, n)` for a head that reads tokens, else `(rows, n)`; a row without tokens gets the
    /// logits of a state of zeros.
    ///
    /// # Errors
    /// When a row lacks the token that the head reads, or candle cannot allocate.
    pub fn forward(&self, inputs: &ModelInputs, output: &ModelOutput) -> Result<Tensor> {
        let states = &output.last_hidden_state.values;
        match self.reads {
            Reads::Tokens => self.project(states),
            Reads::First => self.project(&inputs.select(states, |_, _| Ok(0))?),
            Reads::FirstTwo => {
                let first = inputs.select(states, |_, _| Ok(0))?;
                let second = inputs.select(states, |row, len| {
                    if len < 2 {
                        bail!("row {row} has one token, but the head reads two");
                    }
                    Ok(1)
                })?;
                self.project(&Tensor::cat(&[first, second], 1)?)
            }
            Reads::LastNotPad => {
                let pad = self.pad_token_id;
                self.project(&inputs.select(states, |row, len| {
                    let Some(pad) = pad else { return Ok(len - 1) };
                    // As transformers' argmax: a row of nothing but padding gives its first token.
                    Ok(inputs.row_ids(row).iter().rposition(|&id| id != pad).unwrap_or(0))
                })?)
            }
            Reads::LastEos => {
                let eos = self.eos_token_id;
                self.project(&inputs.select(states, |row, _| {
                    match inputs.row_ids(row).iter().rposition(|&id| Some(id) == eos) {
                        Some(place) => Ok(place),
                        None => {
                            bail!("row {row} has no `eos_token_id`, whose state the head reads")
                        }
                    }
                })?)
            }
        }
    }

    /// The layers alone, over any states.
    ///
    /// # Shapes
    /// `states`: `(n, hidden_size)`.
    ///
    /// # Errors
    /// When the shapes do not fit or candle cannot allocate.
    pub fn project(&self, states: &Tensor) -> Result<Tensor> {
        let mut x = states.clone();
        for layer in &self.layers {
            x = match layer {
                Loaded::Linear(linear) => linear.forward(&x)?,
                Loaded::Activation(activation) => activation.forward(&x)?,
                Loaded::LayerNorm(norm) => norm.forward(&x)?,
                Loaded::Scale(factor) => (x * *factor)?,
                Loaded::Mean([first, second]) => {
                    let hidden_size = x.dim(1)? / 2;
                    let half = |start| x.narrow(1, start, hidden_size)?.contiguous();
                    let sum = first.forward(&half(0)?)? + second.forward(&half(hidden_size)?)?;
                    (sum? / 2.0)?
                }
            };
        }
        Ok(x)
    }
}

fn load_layer(
    layer: Layer,
    fields: &Fields<'_>,
    vb: &VarBuilder<'_>,
    sizes: HeadSizes<'_>,
    tied: bool,
) -> error::Result<Option<Loaded>> {
    let hidden = sizes.hidden_size;
    let linear = |name: &str, outputs, bias| {
        Linear::load(vb.pp(name), hidden, outputs, bias).map(Loaded::Linear).map_err(cannot_load)
    };
    Ok(Some(match layer {
        Layer::Dense(name) => linear(name, hidden, true)?,
        Layer::Activation(activation) => Loaded::Activation(activation),
        Layer::ConfigActivation(key) => Loaded::Activation(fields.activation(key, "gelu")?),
        Layer::LayerNorm(name, epsilon) => {
            let eps = match epsilon {
                Epsilon::Config(key, default) => fields.epsilon(key, default)?,
                Epsilon::Is(eps) => eps,
            };
            Loaded::LayerNorm(LayerNorm::load(vb.pp(name), hidden, eps).map_err(cannot_load)?)
        }
        Layer::Labels(name) => linear(name, sizes.num_labels, true)?,
        Layer::LabelsNoBias(name) => linear(name, sizes.num_labels, false)?,
        Layer::LabelsMean(names) => {
            let [first, second] = names
                .map(|name| Linear::load(vb.pp(name), hidden, sizes.num_labels, true))
                .map(|linear| linear.map_err(cannot_load));
            Loaded::Mean([first?, second?])
        }
        Layer::Outputs(name, outputs) => linear(name, outputs, true)?,
        Layer::Vocabulary(name, biases) => {
            let Some(embeddings) = sizes.word_embeddings else {
                return Err(error::Error::new(
                    error::ErrorKind::Internal,
                    "a head over the vocabulary is on a backbone without one",
                ));
            };
            let vocab_size = embeddings.dim(0).map_err(cannot_load)?;
            let weight = if tied {
                embeddings.clone()
            } else {
                vb.get((vocab_size, hidden), &format!("{name}.weight")).map_err(cannot_load)?
            };
            let bias = match biases.iter().find(|name| vb.contains_tensor(name)).or(biases.first())
            {
                Some(name) => Some(vb.get(vocab_size, name).map_err(cannot_load)?),
                None => None,
            };
            Loaded::Linear(Linear::new(weight, bias))
        }
        Layer::ScaleIfTied if tied => Loaded::Scale(1.0 / (hidden as f64).sqrt()),
        Layer::ScaleIfTied => return Ok(None),
    }))
}

fn cannot_load(error: candle_core::Error) -> error::Error {
    error::Error::new(error::ErrorKind::Model, "cannot load weights").source(error)
}
