//! The AutoModel tutorial: a tokenizer and a model by name, hidden states out.
//!
//! ```sh
//! cargo run --release --example auto_model [MODEL]
//! ```
//!
//! In Python:
//!
//! ```python
//! tokenizer = AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")
//! model = AutoModel.from_pretrained("google-bert/bert-base-uncased")
//! inputs = tokenizer("Hello, world! This is a test for BERT.", return_tensors="pt")
//! outputs = model(**inputs)
//! outputs.last_hidden_state.shape    # torch.Size([1, seq_len, hidden_size])
//! outputs.last_hidden_state[:, 0]    # the [CLS] row
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it shows")]

use hfauto_pipe::auto::{AutoModel, AutoTokenizer, EncodeOptions};
use hfauto_pipe::models::Want;
use hfauto_pipe::sentence_transformers::SentenceTransformer;

/// A small BERT in this repository, so that the example runs offline. A hub id works as well.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/mini-embedder");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(std::env::args().nth(1).as_deref().unwrap_or(MODEL))
}

/// Runs the tutorial with one model; the tests call this with the repository's.
pub(crate) fn run(name: &str) -> Result<(), Box<dyn std::error::Error>> {
    let tokenizer = AutoTokenizer::from_pretrained(name)?;
    let model = AutoModel::from_pretrained(name)?;

    let text = "Hello, world! This is a test for BERT.";
    let encoding = tokenizer.encode(text, &EncodeOptions::default())?;
    let tokens: Vec<String> =
        encoding.input_ids.iter().filter_map(|&id| tokenizer.id_to_token(id)).collect();
    println!("{tokens:?}");

    // Rows are concatenated without padding; `to_padded` converts to transformers' layout.
    let inputs = model.inputs([(&encoding.input_ids[..], &encoding.token_type_ids[..])])?;
    let outputs = model.forward(&inputs, &Want::default())?;
    let last_hidden_state = outputs.last_hidden_state.to_padded()?;
    println!("last_hidden_state {:?}", last_hidden_state.shape());
    assert_eq!(last_hidden_state.dims(), [1, tokens.len(), model.hidden_size()]);

    let cls = outputs.last_hidden_state.row(0)?.get(0)?; // (hidden_size)
    let first: Vec<f32> = cls.narrow(0, 0, 4)?.to_vec1()?;
    println!("[CLS] starts with {first:?}");

    // One vector for the whole text in one call, pooled as the model's files specify.
    let embeddings = SentenceTransformer::from_pretrained(name)?.encode(&[text])?;
    println!("the text's vector starts with {:?}", &embeddings[0][..4]);
    Ok(())
}
