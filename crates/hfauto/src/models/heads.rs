//! Heads: layers that turn a backbone's hidden states into logits. Families differ only in the names and the order of
//! a few layers. A head is therefore data: the states that it reads and its layers ([`HeadLayout`], a row of the
//! table in `crate::auto`). The code for each kind of layer is here, once. A head over the vocabulary is applied only
//! to the requested states, never to all tokens of a batch. Not here: the meaning of logits (the tasks of
//! hfauto-pipe). The entry is [`Head`].

use candle_core::{Result, Tensor, bail};

use super::patches::mean_of_patches;
use super::{Fields, ModelOutput};
use crate::error::{self, cannot_load};
use crate::nn::{
    Activation, BestOutputs, Embedding, LayerNorm, Linear, ModelInputs, Pooling, PoolingMode,
    Precision, Ragged, VarBuilder, cast, normalize,
};

/// The states that a head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Those of all tokens: logits are `(total_tokens, n)`.
    Tokens,
    /// That of the first token of each row: logits are `(rows, n)`, as for all the following variants.
    First,
    /// Those of the first two tokens of each row, concatenated: the layers get `(rows, 2 * hidden_size)` (DeiT).
    FirstTwo,
    /// That of the last token of each row.
    Last,
    /// That of the last token other than `pad_token_id` (GPT-2).
    LastNotPad,
    /// That of the last `eos_token_id` (T5).
    LastEos,
    /// The mean of those of all tokens of each row.
    Mean,
    /// The mean of those of all tokens of an image but the first (CLIP).
    MeanOfPatches,
    /// That of the first token of an image, and the mean of the others, concatenated: the layers get `(rows, 2 * hidden_size)`
    /// (DINOv2).
    FirstAndMeanOfPatches,
    /// The pooled vector (`pooler_output`).
    Pooled,
    /// Those of all tokens; the logits of a row are the mean of its tokens' logits (`late` of `EuroBERT`).
    MeanOfLogits,
    /// The setting of `config.json` under the first key that it has. The first value is the default.
    Configured(&'static [&'static str], &'static [(&'static str, Self)]),
}

impl Reads {
    /// Looks up a setting of `config.json`.
    fn resolve(self, fields: &Fields<'_>) -> error::Result<Self> {
        let Self::Configured(keys, values) = self else { return Ok(self) };
        let Some(key) = keys.iter().find(|key| fields.contains(key)) else {
            return Ok(values[0].1);
        };
        let name = fields.text(key, values[0].0)?;
        let value = values.iter().find(|(value, _)| *value == name);
        value.map(|(_, reads)| *reads).ok_or_else(|| {
            let names: Vec<&str> = values.iter().map(|(value, _)| *value).collect();
            error::Error::new(
                error::ErrorKind::Unsupported,
                format!("`{key}: {name}` in config.json is not implemented"),
            )
            .hint(format!("implemented values: {}", names.join(", ")))
        })
    }
}

/// One layer of a head, over `width` features: the output of the previous layer, at first the hidden state. Names are
/// paths in the checkpoint.
#[derive(Clone, Copy, Debug)]
pub enum Layer {
    /// `width → width`, with bias.
    Dense(&'static str),
    /// `width → embedding_size` of the word embeddings, with bias.
    DenseToEmbeddings(&'static str),
    /// `width → width`, without bias.
    DenseNoBias(&'static str),
    /// An activation fixed by the architecture.
    Activation(Activation),
    /// Scales to unit length.
    Normalize,
    /// The activation that `config.json` names under this key, with this default.
    ConfigActivation(&'static str, &'static str),
    /// The activation of a gate or of a gated unit that `config.json` names under this key, with this default.
    GateActivation(&'static str, &'static str),
    /// Layer normalization with the given epsilon.
    LayerNorm(&'static str, Epsilon),
    /// Layer normalization without bias.
    LayerNormNoBias(&'static str, Epsilon),
    /// `width → num_labels`, with bias.
    Labels(&'static str),
    /// `width → num_labels`, without bias.
    LabelsNoBias(&'static str),
    /// The mean of two `width / 2 → num_labels` with bias, one for each of two concatenated states.
    LabelsMean([&'static str; 2]),
    /// `width → n`, with bias.
    Outputs(&'static str, usize),
    /// `width → vocab_size`. Shares the weight of the word embeddings if the backbone tied them
    /// ([`VarBuilder::with_tied_head`]). The bias, if names are given, is the first one found: a bias of the layer itself
    /// counts before the one that a tied layer shares, because transformers does not tie two that differ.
    Vocabulary(&'static str, &'static [&'static str]),
    /// As [`Layer::Vocabulary`], with a bias of shape `(1, vocab_size)` under the second name; zeros if the checkpoint has
    /// none (BART's `final_logits_bias`).
    BiasedVocabulary(&'static str, &'static str),
    /// Divides by the square root of `hidden_size` unless config.json has `scale_decoder_outputs: false`, or without that
    /// setting, `tie_word_embeddings: false` (T5). The setting ties nothing.
    ScaleUnlessUntied,
    /// Divides by the number under the key, by default this one (Granite).
    Divide(&'static str, f64),
    /// The first layer if the flag under this key of `config.json`, with this default, is true; else the second.
    Choice(&'static str, bool, &'static Self, &'static Self),
    /// `c · tanh(x / c)` with the bound under the key, by default this one; nothing if it is null (Gemma 2).
    Softcap(&'static str, Option<f64>),
}

impl Layer {
    /// The paths of its tensors in a checkpoint.
    fn names(&self) -> Vec<&'static str> {
        match *self {
            Self::Dense(name)
            | Self::DenseToEmbeddings(name)
            | Self::DenseNoBias(name)
            | Self::LayerNorm(name, _)
            | Self::LayerNormNoBias(name, _)
            | Self::Labels(name)
            | Self::LabelsNoBias(name)
            | Self::Outputs(name, _)
            | Self::Vocabulary(name, _) => vec![name],
            Self::LabelsMean(names) => names.to_vec(),
            Self::BiasedVocabulary(name, bias) => vec![name, bias],
            Self::Choice(_, _, first, second) => [first.names(), second.names()].concat(),
            Self::Activation(_)
            | Self::Normalize
            | Self::ConfigActivation(..)
            | Self::GateActivation(..)
            | Self::ScaleUnlessUntied
            | Self::Divide(..)
            | Self::Softcap(..) => Vec::new(),
        }
    }
}

/// The epsilon of a head's layer normalization.
#[derive(Clone, Copy, Debug)]
pub enum Epsilon {
    /// From this key of `config.json`, with this default.
    Config(&'static str, f64),
    /// A fixed value.
    Is(f64),
}

/// A head as data.
#[derive(Clone, Copy, Debug)]
pub struct HeadLayout {
    /// The states that it reads.
    pub reads: Reads,
    /// Its layers in order.
    pub layers: &'static [Layer],
}

impl HeadLayout {
    /// The paths of its layers in a checkpoint.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.layers.iter().flat_map(Layer::names)
    }

    /// The path of the layer over the vocabulary, if there is one.
    pub fn vocabulary(&self) -> Option<&'static str> {
        fn path(layer: &Layer) -> Option<&'static str> {
            match layer {
                Layer::Vocabulary(name, _) | Layer::BiasedVocabulary(name, _) => Some(name),
                Layer::Choice(_, _, layer, _) => path(layer),
                _ => None,
            }
        }
        self.layers.iter().find_map(path)
    }

    /// The weight whose rows correspond to labels.
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
    /// The size of a hidden state.
    pub hidden_size: usize,
    /// The number of labels.
    pub num_labels: usize,
    /// The backbone's word embeddings, if it reads tokens.
    pub word_embeddings: Option<&'a Embedding>,
    /// The precision of a layer over the vocabulary. The other layers are not quantized.
    pub vocabulary_precision: Precision,
    /// `pad_token_id` where config.json has none.
    pub pad_token_id: Option<u32>,
    /// `eos_token_id` where config.json has none.
    pub eos_token_id: Option<u32>,
    /// The tokens whose logits a head over the vocabulary computes, each below `vocab_size`, for the last token of each
    /// row; `None`: all, for every token.
    pub vocabulary_rows: Option<&'a [u32]>,
}

enum Loaded {
    Linear(Linear),
    Activation(Activation),
    Normalize,
    LayerNorm(LayerNorm),
    Scale(f64),
    Divide(f64),
    Softcap(f64),
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
    /// `Model` if the checkpoint lacks a tensor or has it in another shape; `Unsupported` for an activation that is
    /// not implemented.
    pub fn load(
        layout: &HeadLayout,
        fields: &Fields<'_>,
        vb: &VarBuilder<'_>,
        sizes: HeadSizes<'_>,
    ) -> error::Result<Self> {
        let states = match layout.reads {
            Reads::FirstTwo | Reads::FirstAndMeanOfPatches => 2,
            _ => 1,
        };
        let mut loader = Loader { fields, vb, sizes, width: sizes.hidden_size * states };
        let layers = layout.layers.iter().filter_map(|layer| loader.load(*layer).transpose());
        let layers = layers.collect::<error::Result<_>>()?;
        let token = |key, default: Option<u32>| match default {
            Some(id) if !fields.contains(key) => Ok(Some(id)),
            _ => fields.optional_token_id(key),
        };
        Ok(Self {
            reads: match sizes.vocabulary_rows {
                Some(_) => Reads::Last,
                None => layout.reads.resolve(fields)?,
            },
            pad_token_id: token("pad_token_id", sizes.pad_token_id)?,
            eos_token_id: token("eos_token_id", sizes.eos_token_id)?,
            layers,
        })
    }

    /// The states that it reads.
    pub fn reads(&self) -> Reads {
        self.reads
    }

    /// The logits of a forward pass.
    ///
    /// # Shapes
    /// `(total_tokens, n)` for a head that reads all tokens, otherwise `(rows, n)`. A row without tokens gets the
    /// logits of a zero state.
    ///
    /// # Errors
    /// If a row lacks the token that the head reads, or candle cannot allocate.
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
            Reads::Mean => self.project(&mean(inputs, states)?),
            Reads::MeanOfPatches => self.project(&mean_of_patches(inputs, states)?),
            Reads::FirstAndMeanOfPatches => {
                let first = inputs.select(states, |_, _| Ok(0))?;
                self.project(&Tensor::cat(&[first, mean_of_patches(inputs, states)?], 1)?)
            }
            Reads::Pooled => match &output.pooler_output {
                Some(pooled) => self.project(pooled),
                None => bail!("bug: the head reads `pooler_output`, which was not computed"),
            },
            Reads::MeanOfLogits => mean(inputs, &self.project(states)?),
            Reads::Last => self.project(&inputs.select(states, |_, len| Ok(len - 1))?),
            Reads::Configured(keys, _) => bail!("bug: `{keys:?}` of a loaded head"),
            Reads::LastNotPad => {
                let pad = self.pad_token_id;
                self.project(&inputs.select(states, |row, len| {
                    let Some(pad) = pad else { return Ok(len - 1) };
                    // As with transformers' argmax, a row that is all padding gives its first token.
                    Ok(inputs.row_ids(row).iter().rposition(|&id| id != pad).unwrap_or(0))
                })?)
            }
            Reads::LastEos => {
                let eos = self.eos_token_id;
                self.project(&inputs.select(states, |row, _| {
                    match inputs.row_ids(row).iter().rposition(|&id| Some(id) == eos) {
                        Some(place) => Ok(place),
                        None => {
                            bail!("row {row} has no `eos_token_id`, which the head needs")
                        }
                    }
                })?)
            }
        }
    }

    /// Applies only the layers, to any states.
    ///
    /// # Shapes
    /// `states`: `(n, hidden_size)`.
    ///
    /// # Errors
    /// If the shapes do not match or candle cannot allocate.
    pub fn project(&self, states: &Tensor) -> Result<Tensor> {
        apply(&self.layers, states)
    }

    /// The `count` largest logits of each of the states, and with `with_sum` their log-probabilities; `None` for a head that
    /// does not end with a layer whose outputs can be looked through without keeping them, see [`Linear::best`].
    ///
    /// # Shapes
    /// As [`Head::project`].
    ///
    /// # Errors
    /// As [`Head::project`].
    pub fn best(
        &self,
        states: &Tensor,
        count: usize,
        with_sum: bool,
    ) -> Result<Option<Vec<BestOutputs>>> {
        match self.layers.split_last() {
            Some((Loaded::Linear(last), layers)) => {
                last.best(&apply(layers, states)?, count, with_sum)
            }
            _ => Ok(None),
        }
    }
}

fn apply(layers: &[Loaded], states: &Tensor) -> Result<Tensor> {
    let mut x = states.clone();
    for layer in layers {
        x = match layer {
            Loaded::Linear(linear) => linear.forward(&x)?,
            Loaded::Activation(activation) => activation.forward(&x)?,
            Loaded::Normalize => cast(&normalize(&x)?, x.dtype())?,
            Loaded::LayerNorm(norm) => norm.forward(&x)?,
            Loaded::Scale(factor) => (x * *factor)?,
            Loaded::Divide(divisor) => (x / *divisor)?,
            Loaded::Softcap(cap) => (Activation::Tanh.forward(&(x / *cap)?)? * *cap)?,
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

/// Loads the layers in order.
struct Loader<'a> {
    fields: &'a Fields<'a>,
    vb: &'a VarBuilder<'a>,
    sizes: HeadSizes<'a>,
    /// The output size of the previous layer.
    width: usize,
}

impl<'a> Loader<'a> {
    fn linear(&mut self, name: &str, outputs: usize, bias: bool) -> error::Result<Loaded> {
        let linear = Linear::load(self.vb.pp(name).unquantized(), self.width, outputs, bias);
        self.width = outputs;
        linear.map(Loaded::Linear).map_err(cannot_load)
    }

    fn load(&mut self, layer: Layer) -> error::Result<Option<Loaded>> {
        let num_labels = self.sizes.num_labels;
        Ok(Some(match layer {
            Layer::Dense(name) => self.linear(name, self.width, true)?,
            Layer::DenseToEmbeddings(name) => {
                let size = self.embeddings()?.shape().map_err(cannot_load)?.1;
                self.linear(name, size, true)?
            }
            Layer::DenseNoBias(name) => self.linear(name, self.width, false)?,
            Layer::Activation(activation) => Loaded::Activation(activation),
            Layer::Normalize => Loaded::Normalize,
            Layer::ConfigActivation(key, default) => {
                Loaded::Activation(self.fields.activation(key, default)?)
            }
            Layer::GateActivation(key, default) => {
                Loaded::Activation(self.fields.gate_activation(key, default)?)
            }
            Layer::LayerNorm(name, epsilon) => self.layer_norm(name, epsilon, LayerNorm::load)?,
            Layer::LayerNormNoBias(name, epsilon) => {
                self.layer_norm(name, epsilon, LayerNorm::load_without_bias)?
            }
            Layer::Choice(key, default, first, second) => {
                let chosen = if self.fields.flag(key, default)? { first } else { second };
                return self.load(*chosen);
            }
            Layer::Labels(name) => self.linear(name, num_labels, true)?,
            Layer::LabelsNoBias(name) => self.linear(name, num_labels, false)?,
            Layer::LabelsMean(names) => {
                let half = self.width / 2;
                let [first, second] = names
                    .map(|name| self.vb.pp(name).unquantized())
                    .map(|vb| Linear::load(vb, half, num_labels, true))
                    .map(|linear| linear.map_err(cannot_load));
                self.width = num_labels;
                Loaded::Mean([first?, second?])
            }
            Layer::Outputs(name, outputs) => self.linear(name, outputs, true)?,
            Layer::Vocabulary(name, biases) => {
                let bias = biases.iter().find(|name| self.vb.contains_tensor(name));
                self.vocabulary(name, bias.or(biases.last()).map(|name| (*name, false)))?
            }
            Layer::BiasedVocabulary(name, bias) => {
                let bias = self.vb.contains_tensor(bias).then_some((bias, true));
                self.vocabulary(name, bias)?
            }
            Layer::ScaleUnlessUntied => {
                // transformers 5 writes the first setting, and always `true` for the second.
                let tied = self.fields.flag("tie_word_embeddings", true)?;
                if !self.fields.flag("scale_decoder_outputs", tied)? {
                    return Ok(None);
                }
                Loaded::Scale(1.0 / (self.sizes.hidden_size as f64).sqrt())
            }
            Layer::Divide(key, default) => Loaded::Divide(self.fields.epsilon(key, default)?),
            Layer::Softcap(key, default) => {
                return Ok(self.fields.optional_number(key, default)?.map(Loaded::Softcap));
            }
        }))
    }

    fn layer_norm(
        &self,
        name: &str,
        epsilon: Epsilon,
        load: fn(VarBuilder<'_>, usize, f64) -> Result<LayerNorm>,
    ) -> error::Result<Loaded> {
        let eps = match epsilon {
            Epsilon::Config(key, default) => self.fields.epsilon(key, default)?,
            Epsilon::Is(eps) => eps,
        };
        load(self.vb.pp(name), self.width, eps).map(Loaded::LayerNorm).map_err(cannot_load)
    }

    fn embeddings(&self) -> error::Result<&'a Embedding> {
        self.sizes.word_embeddings.ok_or_else(|| {
            error::Error::new(
                error::ErrorKind::Internal,
                "the head needs a vocabulary, but the backbone has none",
            )
        })
    }

    /// `bias` is its name, and whether it has a leading dimension of 1.
    fn vocabulary(&mut self, name: &str, bias: Option<(&str, bool)>) -> error::Result<Loaded> {
        let embeddings = self.embeddings()?;
        let (vb, vocab_size) = (self.vb, embeddings.shape().map_err(cannot_load)?.0);
        let bias = bias.map(|(name, is_row)| {
            if is_row {
                vb.get((1, vocab_size), name)?.squeeze(0)
            } else {
                vb.get(vocab_size, name)
            }
        });
        let bias = bias.transpose().map_err(cannot_load)?;
        if let Some(rows) = self.sizes.vocabulary_rows {
            return self.vocabulary_rows(name, embeddings, bias, rows).map_err(cannot_load);
        }
        let vb = vb.pp(name).set_precision(self.sizes.vocabulary_precision);
        let load = || Linear::load(vb, self.width, vocab_size, false);
        let linear = embeddings.tied_head().map_or_else(load, Ok).map_err(cannot_load)?;
        self.width = vocab_size;
        Ok(Loaded::Linear(linear.with_bias(bias)))
    }

    /// Of the layer over the vocabulary, only these rows.
    fn vocabulary_rows(
        &mut self,
        name: &str,
        embeddings: &Embedding,
        bias: Option<Tensor>,
        rows: &[u32],
    ) -> Result<Loaded> {
        let (vocab_size, ids) = (embeddings.shape()?.0, Tensor::new(rows, embeddings.device())?);
        let weight = if embeddings.tied_head().is_some() {
            embeddings.forward(&ids)?
        } else {
            self.vb.pp(name).select_rows((vocab_size, self.width), "weight", rows)?
        };
        let bias = bias.map(|bias| bias.index_select(&ids, 0)).transpose()?;
        self.width = rows.len();
        Ok(Loaded::Linear(Linear::new(weight, bias)))
    }
}

/// The mean of the tokens of each row; zeros for a row without tokens.
fn mean(inputs: &ModelInputs, values: &Tensor) -> Result<Tensor> {
    let tokens = Ragged { values: values.clone(), lengths: inputs.lengths.clone() };
    cast(&Pooling::new([PoolingMode::Mean], true).forward(&tokens, 0)?, values.dtype())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device};
    use serde_json::{Map, json};

    use super::*;

    #[test]
    fn a_layer_takes_the_width_that_the_one_before_gives() {
        let layout = HeadLayout {
            reads: Reads::First,
            layers: &[
                Layer::Outputs("narrow", 3),
                Layer::Dense("dense"),
                Layer::LayerNorm("norm", Epsilon::Is(1e-5)),
                Layer::Labels("labels"),
            ],
        };
        let shapes: [(&str, &[usize]); 8] = [
            ("narrow.weight", &[3, 8]),
            ("narrow.bias", &[3]),
            ("dense.weight", &[3, 3]),
            ("dense.bias", &[3]),
            ("norm.weight", &[3]),
            ("norm.bias", &[3]),
            ("labels.weight", &[2, 3]),
            ("labels.bias", &[2]),
        ];
        let tensors: HashMap<String, Tensor> = shapes
            .into_iter()
            .map(|(name, shape)| {
                (name.to_owned(), Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap())
            })
            .collect();
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let (empty, word_embeddings) = (Map::new(), None);
        let sizes = HeadSizes {
            hidden_size: 8,
            num_labels: 2,
            word_embeddings,
            vocabulary_precision: Precision::Full,
            pad_token_id: None,
            eos_token_id: None,
            vocabulary_rows: None,
        };
        let head = Head::load(&layout, &Fields::new(&empty), &vb, sizes).unwrap();
        let states = Tensor::ones((5, 8), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(head.project(&states).unwrap().dims(), [5, 2]);
    }

    #[test]
    fn the_first_key_that_is_there_chooses_the_states() {
        const VALUES: &[(&str, Reads)] = &[("late", Reads::MeanOfLogits), ("bos", Reads::First)];
        let reads = Reads::Configured(&["pooling", "old_pooling"], VALUES);
        let resolve = |json: serde_json::Value| {
            reads.resolve(&Fields::new(json.as_object().unwrap())).map_err(|e| e.to_string())
        };
        for (json, expected) in [
            (json!({}), Reads::MeanOfLogits),
            (json!({"pooling": null}), Reads::MeanOfLogits),
            (json!({"old_pooling": "bos"}), Reads::First),
            (json!({"pooling": "late", "old_pooling": "bos"}), Reads::MeanOfLogits),
        ] {
            assert_eq!(resolve(json).unwrap(), expected);
        }
        let error = resolve(json!({"old_pooling": "max"})).unwrap_err();
        assert!(error.contains("`old_pooling: max`") && error.contains("late, bos"), "{error}");
    }
}
