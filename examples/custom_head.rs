//! A custom head on a backbone: the mean of the token vectors through a linear layer.
//!
//! ```sh
//! cargo run --release --example custom_head [MODEL]
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it shows")]

use candle_core::{Device, Tensor};
use candle_nn::{Linear, Module};
use hfauto_pipe::auto::{AutoModel, AutoTokenizer, EncodeOptions};
use hfauto_pipe::models::Want;
use hfauto_pipe::nn::{Pooling, PoolingMode};

/// A small BERT in this repository. A hub id works as well.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/mini-embedder");

/// Any architecture, with three outputs per text.
struct MyClassifier {
    backbone: AutoModel,
    pooling: Pooling,
    head: Linear,
}

impl MyClassifier {
    fn new(name: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let backbone = AutoModel::from_pretrained(name)?;
        // Trained weights would be loaded here.
        let weight = Tensor::full(0.01f32, (3, backbone.hidden_size()), &Device::Cpu)?;
        let bias = Tensor::new(&[0.1f32, 0.2, 0.3], &Device::Cpu)?;
        let pooling = Pooling::new([PoolingMode::Mean], true);
        Ok(Self { backbone, pooling, head: Linear::new(weight, Some(bias)) })
    }

    /// `(texts, 3)`.
    fn forward(&self, rows: &[(&[u32], &[u32])]) -> Result<Tensor, Box<dyn std::error::Error>> {
        let inputs = self.backbone.inputs(rows.iter().copied())?;
        let outputs = self.backbone.forward(&inputs, &Want::default())?;
        let pooled = self.pooling.forward(&outputs.last_hidden_state, 0)?; // (texts, hidden_size)
        Ok(self.head.forward(&pooled)?)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(std::env::args().nth(1).as_deref().unwrap_or(MODEL)).map(drop)
}

/// Runs the classifier over two texts; the tests call this with the repository's model.
pub(crate) fn run(name: &str) -> Result<Vec<Vec<f32>>, Box<dyn std::error::Error>> {
    let tokenizer = AutoTokenizer::from_pretrained(name)?;
    let model = MyClassifier::new(name)?;
    let texts = ["The room was quiet.", "A film that is too long by an hour."];
    let encodings = tokenizer.encode_batch(&texts, &EncodeOptions::default())?;
    let rows: Vec<_> =
        encodings.iter().map(|e| (&e.input_ids[..], &e.token_type_ids[..])).collect();
    let logits = model.forward(&rows)?;
    let logits = (0..texts.len()).map(|row| logits.get(row)?.to_vec1());
    let logits: Vec<Vec<f32>> = logits.collect::<candle_core::Result<_>>()?;
    println!("{logits:?}");
    Ok(logits)
}
