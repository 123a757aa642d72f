//! The forms that weights have on a CPU: what is computed with them, and the memory that they take.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};

use super::*;
use crate::auto::{HeadRequest, LoadReport};
use crate::models::Decoder;
use crate::nn::has_bf16;

const BF16: ModelDtype = ModelDtype::Float(DType::BF16);
const F32: ModelDtype = ModelDtype::Float(DType::F32);

fn golden(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(folder)
}

/// A checkpoint of each architecture that is not in `modern/`, with the Auto class to load.
const OTHERS: [(&str, AutoClass); 12] = [
    ("bert", AutoClass::Model),
    ("heads/bert/for-masked-lm", AutoClass::MaskedLM),
    ("heads/bert/for-causal-lm", AutoClass::CausalLM),
    ("distilbert", AutoClass::Model),
    ("mpnet", AutoClass::Model),
    ("heads/gpt2/model", AutoClass::Model),
    ("heads/gpt2/for-causal-lm", AutoClass::CausalLM),
    ("heads/t5/model", AutoClass::Model),
    ("heads/t5/for-seq2seq-lm", AutoClass::Seq2SeqLM),
    ("heads/t5/for-seq2seq-lm-gated-gelu", AutoClass::Seq2SeqLM),
    ("heads/mt5/for-seq2seq-lm", AutoClass::Seq2SeqLM),
    ("heads/gpt2/for-sequence-classification", AutoClass::SequenceClassification),
];

fn load(dir: &Path, class: AutoClass, dtype: ModelDtype) -> Model {
    let snapshot = Snapshot::local(dir).unwrap();
    let config = AutoConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
    let (dtype, device) = (Some(dtype), &Device::Cpu);
    if class == AutoClass::Model {
        return Model::Base(AutoModel::load_snapshot(&snapshot, config, dtype, device).unwrap());
    }
    let model = ModelWithHead::load_snapshot(class, &snapshot, config, dtype, device, None);
    Model::Head(model.unwrap_or_else(|error| panic!("{}: {error}", dir.display())))
}

fn report(model: &Model) -> &LoadReport {
    match model {
        Model::Base(model) => model.report(),
        Model::Head(model) => model.report(),
    }
}

/// Every checkpoint of the tests, with its Auto class.
fn checkpoints() -> Vec<(PathBuf, AutoClass)> {
    let others = OTHERS.iter().map(|(folder, class)| (golden(folder), *class));
    let modern = Golden::all().into_iter().map(|golden| {
        let class = AutoClass::find(golden.json["auto_class"].as_str().unwrap()).unwrap();
        (golden.dir, class)
    });
    others.chain(modern).collect()
}

const ROWS: [&[u32]; 3] = [&[5, 6, 7, 8, 9, 10, 11, 12, 5, 30], &[9], &[40, 3, 17, 2]];

/// The last hidden states and the logits of some rows.
fn states(model: &Model) -> Vec<f32> {
    let (output, logits) = model.run(&plain(&ROWS), &Want::default());
    let mut all = Vec::new();
    for tensor in [Some(output.last_hidden_state.values), logits].into_iter().flatten() {
        all.extend(tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    }
    all
}

/// The same directory with weights that are rounded to bf16, stored in f32.
fn rounded(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = copy.path().join("model.safetensors");
    let weights = Weights::open(&[dir.join("model.safetensors")]).unwrap();
    let tensors = weights.names().map(|name| {
        let tensor = weights.tensor(name, DType::BF16, &Device::Cpu).unwrap();
        (name.to_owned(), tensor.to_dtype(DType::F32).unwrap())
    });
    let tensors: HashMap<String, Tensor> = tensors.collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
    copy
}

/// Where products in bf16 have no instructions.
#[test]
fn bf16_that_is_widened_computes_what_f32_computes_with_rounded_weights() {
    if has_bf16() {
        return eprintln!("SKIPPED: this processor multiplies in bf16 (see the next test)");
    }
    for (dir, class) in checkpoints() {
        let bf16 = states(&load(&dir, class, BF16));
        let rounded = rounded(&dir);
        let f32 = states(&load(rounded.path(), class, F32));
        assert!(bf16.len() > 100 && bf16 == f32, "{}", dir.display());
    }
}

#[test]
fn bf16_is_no_further_from_f32_than_transformers_in_bf16() {
    let json = std::fs::read_to_string(golden("bf16/golden.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    let (root, mut ratios) = (golden(""), Vec::new());
    for golden in Golden::all() {
        let folder = golden.dir.strip_prefix(&root).unwrap().to_str().unwrap();
        let Some(theirs) = json["relative_errors"].get(folder) else { continue };
        let class = AutoClass::find(golden.json["auto_class"].as_str().unwrap()).unwrap();
        let outputs = |dtype| {
            let (output, logits) =
                load(&golden.dir, class, dtype).run(&plain(&ROWS), &Want::default());
            let numbers = logits.unwrap_or(output.last_hidden_state.values);
            numbers.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let f32 = outputs(F32);
        // The error of a few logits is chance.
        if f32.len() < 100 {
            continue;
        }
        let (ours, theirs) = (error(&outputs(BF16), &f32), theirs.as_f64().unwrap());
        println!("{:.2} {ours:.5} {theirs:.5} {}", ours / theirs, golden.name);
        // Rounded weights are most of the error of some, and the rest is chance.
        assert!(ours <= 1.1 * theirs, "{ours} > {theirs}: {}", golden.name);
        ratios.push(ours / theirs);
    }
    assert!(ratios.len() > 80, "{}", ratios.len());
    ratios.sort_by(f64::total_cmp);
    let (median, larger) =
        (ratios[ratios.len() / 2], ratios.iter().filter(|ratio| **ratio > 1.0).count());
    assert!(median < 0.8 && larger < 5, "{median}, {larger} larger");
}

/// The relative error, in the root mean square.
fn error(ours: &[f32], exact: &[f32]) -> f64 {
    let squares = |numbers: &mut dyn Iterator<Item = f32>| -> f64 {
        numbers.map(|x| f64::from(x) * f64::from(x)).sum()
    };
    let off = squares(&mut ours.iter().zip(exact).map(|(a, b)| a - b));
    (off / squares(&mut exact.iter().copied())).sqrt()
}

#[test]
fn int8_is_close_to_f32() {
    let mut errors = Vec::new();
    for (dir, class) in checkpoints() {
        let (int8, f32) = (load(&dir, class, ModelDtype::Int8), load(&dir, class, F32));
        let off = error(&states(&int8), &states(&f32));
        println!("{off:.4} {}", dir.display());
        // A few features of random weights.
        assert!(off > 0.0 && off < 0.3, "{off}: {}", dir.display());
        errors.push(off);
    }
    errors.sort_by(f64::total_cmp);
    assert!(errors[errors.len() / 2] < 0.05, "{errors:?}");
}

#[test]
fn a_row_of_a_narrow_dtype_does_not_depend_on_its_neighbours() {
    for ((dir, class), dtype) in
        checkpoints().into_iter().flat_map(|of| [(of.clone(), BF16), (of, ModelDtype::Int8)])
    {
        let model = load(&dir, class, dtype);
        let all = model.run(&plain(&ROWS), &Want::default()).0.last_hidden_state;
        for (row, ids) in ROWS.iter().enumerate() {
            let alone = model.run(&plain(&[ids]), &Want::default()).0.last_hidden_state;
            let off = worst(&alone.row(0).unwrap(), &all.row(row).unwrap());
            assert!(off == 0.0, "{off}: {} in {}", dir.display(), dtype.as_str());
        }
    }
}

#[test]
fn every_dtype_generates_the_same_tokens_alone_and_together() {
    let json = Map::from_iter([("max_new_tokens".to_owned(), 8.into())]);
    let config = GenerationConfig::new(&Map::new(), &json).unwrap();
    let folders = ["heads/gpt2/for-causal-lm", "modern/llama/for-causal-lm-tied"];
    let folders = folders.map(|folder| (folder, AutoClass::CausalLM));
    for (folder, class) in
        folders.into_iter().chain([("heads/t5/for-seq2seq-lm", AutoClass::Seq2SeqLM)])
    {
        for dtype in [F32, BF16, ModelDtype::Int8] {
            let Model::Head(model) = load(&golden(folder), class, dtype) else { unreachable!() };
            let decoder: Box<dyn Decoder> = model.decoder().unwrap();
            let start: Option<&[u32]> = decoder.is_encoder_decoder().then_some(&[0]);
            let run = |prompts: &[&[u32]]| {
                let generated = match start {
                    None => generate(&*decoder, prompts, &config, 1000, None).unwrap(),
                    Some(start) => {
                        let (mut state, mut logits) = decoder.prefill(prompts, start).unwrap();
                        let mut rows = vec![Vec::new(); prompts.len()];
                        for _ in 0..8 {
                            let tokens = logits.argmax(1).unwrap().to_vec1::<u32>().unwrap();
                            rows.iter_mut().zip(&tokens).for_each(|(row, id)| row.push(*id));
                            logits = decoder.decode(&tokens, &mut state).unwrap();
                        }
                        return rows;
                    }
                };
                generated.into_iter().map(|row| row.token_ids).collect::<Vec<_>>()
            };
            let alone: Vec<_> = ROWS.iter().flat_map(|row| run(&[row])).collect();
            assert_eq!(run(&ROWS), alone, "{folder} in {}", dtype.as_str());
        }
    }
}

#[test]
fn sizes_from_headers_are_those_of_the_loaded_model() {
    for (dir, class) in checkpoints() {
        let mut sizes = Vec::new();
        for dtype in [F32, BF16, ModelDtype::Int8] {
            let model = load(&dir, class, dtype);
            let snapshot = Snapshot::local(&dir).unwrap();
            let config = AutoConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
            let (wish, device) = (Some(dtype), &Device::Cpu);
            let sized = match class {
                AutoClass::Model => AutoModel::weight_report(&snapshot, &config, wish, device),
                class => {
                    let head = HeadRequest { new_head: None, ..HeadRequest::of(class) };
                    ModelWithHead::weight_report(head, &snapshot, config, wish, device)
                }
            };
            let loaded = report(&model);
            assert_eq!(&sized.unwrap(), loaded, "{} in {}", dir.display(), dtype.as_str());
            sizes.push(loaded.bytes);
        }
        // A pooler that a head has as well is held twice.
        let once = 4 * report(&load(&dir, class, F32)).parameters;
        // A layer of DeBERTa holds projected positions instead of the projections.
        let is_close = once <= sizes[0] && 10 * sizes[0] <= 11 * once;
        let has_tables = dir.to_string_lossy().contains("deberta");
        assert!(is_close || has_tables, "{sizes:?}: {}", dir.display());
        assert!(sizes[2] < sizes[0] && sizes[1] < sizes[0], "{sizes:?}: {}", dir.display());
    }
}

/// Writes a decoder of 36 million parameters with random weights, tensor by tensor.
fn write_large(dir: &Path) {
    const HIDDEN: usize = 512;
    const INNER: usize = 1536;
    const VOCABULARY: usize = 16_000;
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": 8, "num_attention_heads": 8,
        "vocab_size": VOCABULARY, "tie_word_embeddings": true,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..8 {
        let mut add = |name: &str, shape: &[usize]| {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        for name in ["q", "k", "v", "o"] {
            add(&format!("self_attn.{name}_proj"), &[HIDDEN, HIDDEN]);
        }
        add("mlp.gate_proj", &[INNER, HIDDEN]);
        add("mlp.up_proj", &[INNER, HIDDEN]);
        add("mlp.down_proj", &[HIDDEN, INNER]);
        add("input_layernorm", &[HIDDEN]);
        add("post_attention_layernorm", &[HIDDEN]);
    }
    let mut header = String::from("{");
    let mut end = 0;
    for (name, shape) in &shapes {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        let comma = if start == 0 { "" } else { "," };
        let offsets = format!("\"data_offsets\":[{start},{end}]");
        write!(header, "{comma}\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape:?},{offsets}}}")
            .unwrap();
    }
    header.push('}');
    let file = std::fs::File::create(dir.join("model.safetensors")).unwrap();
    let mut file = BufWriter::new(file);
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let mut state = 1u32;
    for _ in 0..end / 4 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let number = (state >> 8) as f32 / (1 << 27) as f32 - 0.06;
        file.write_all(&number.to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
}

/// A line of `/proc/self/status` in bytes.
#[cfg(target_os = "linux")]
fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The variable that makes the test below a child, which loads a model: `directory:dtype`.
#[cfg(target_os = "linux")]
const CHILD: &str = "HFAUTO_TEST_LOAD";

/// Memory is measured in a process of its own, in which nothing else runs. The resident set counts all of it: files are
/// read, not mapped.
#[cfg(target_os = "linux")]
#[test]
fn loading_takes_little_more_than_the_loaded_weights() {
    if let Ok(child) = std::env::var(CHILD) {
        let (dir, dtype) = child.rsplit_once(':').unwrap();
        let dtype = match dtype {
            "f32" => F32,
            "bf16" => BF16,
            _ => ModelDtype::Int8,
        };
        let before = status("VmRSS");
        let model = load(Path::new(dir), AutoClass::CausalLM, dtype);
        let (peak, bytes) = (status("VmHWM") - before, report(&model).bytes);
        println!("{}: {peak} bytes at most for {bytes}", dtype.as_str());
        assert!(peak as f64 <= 1.3 * bytes as f64, "{}: {peak} for {bytes}", dtype.as_str());
        assert!(peak as f64 >= 0.9 * bytes as f64, "{}: {peak} for {bytes}", dtype.as_str());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    write_large(dir.path());
    for dtype in ["f32", "bf16", "int8"] {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1"])
            .arg("models::tests::dtypes::loading_takes_little_more_than_the_loaded_weights")
            .env(CHILD, format!("{}:{dtype}", dir.path().display()))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout).into_owned()
            + &String::from_utf8_lossy(&child.stderr);
        println!("{text}");
        assert!(child.status.success() && text.contains("bytes at most"), "{text}");
    }
}
