//! The memory that `plan` states, against the peak of the run.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::support::{Fixture, embed_pipeline, mini_embedder, repository, sample_rows};

const MIB: f64 = (1 << 20) as f64;

/// The peak that `plan` states and that of the run, in bytes.
fn peaks(fixture: &Fixture, pipeline: &str) -> (f64, f64) {
    let ran = fixture.run(&["plan", pipeline]);
    let line = ran.succeeds().stdout.lines().find(|line| line.starts_with("memory"));
    let line = line.unwrap_or_else(|| panic!("no memory in:\n{}", ran.stdout));
    let mut words = line.split_whitespace().skip_while(|word| *word != "about").skip(1);
    let number: f64 = words.next().unwrap().parse().unwrap();
    let unit = match words.next().unwrap() {
        "MiB" => MIB,
        "GiB" => 1024.0 * MIB,
        other => panic!("{other} in {line}"),
    };
    fixture.run(&["run", pipeline, "--report", "report.json"]).succeeds();
    let report = fs::read_to_string(fixture.path("report.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    (number * unit, report["run"]["peak_memory_bytes"].as_f64().unwrap())
}

fn assert_close(planned: f64, peak: f64, of: &str) {
    let (planned, peak) = (planned / MIB, peak / MIB);
    let off = (planned - peak).abs() / peak;
    assert!(off < 0.2, "{of}: {planned:.0} MiB are planned, {peak:.0} MiB were taken");
}

/// Writes a Llama of 36 million parameters, all of them 0, with the tokenizer of a golden.
fn write_llama(dir: &Path, tied: bool) {
    const HIDDEN: usize = 512;
    const INNER: usize = 1536;
    const VOCABULARY: usize = 16_000;
    const LAYERS: usize = 8;
    let from = repository().join("tests/golden/modern/llama/for-causal-lm");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(from.join(file), dir.join(file)).unwrap();
    }
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 8,
        "num_key_value_heads": 4, "vocab_size": VOCABULARY, "tie_word_embeddings": tied,
        "eos_token_id": 2, "bos_token_id": 1, "max_position_embeddings": 512,
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    if !tied {
        shapes.push(("lm_head.weight".to_owned(), vec![VOCABULARY, HIDDEN]));
    }
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![HIDDEN / 2, HIDDEN]),
            ("self_attn.v_proj", vec![HIDDEN / 2, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("mlp.gate_proj", vec![INNER, HIDDEN]),
            ("mlp.up_proj", vec![INNER, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INNER]),
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let mut end = 0;
    let header: serde_json::Map<String, Value> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let start = end;
            end += 4 * shape.iter().product::<usize>();
            (name, json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}))
        })
        .collect();
    let header = Value::from(header).to_string();
    let mut file = File::create(dir.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let data = file.seek(SeekFrom::End(0)).unwrap();
    file.set_len(data + end as u64).unwrap();
}

#[test]
fn the_plan_states_the_peak_of_an_embedder() {
    let fixture = Fixture::new();
    let rows = sample_rows();
    let pipeline = embed_pipeline(&mini_embedder(), rows.to_str().unwrap(), "out", "");
    fixture.file("embed.yaml", pipeline);
    let (planned, peak) = peaks(&fixture, "embed.yaml");
    assert_close(planned, peak, "mini-embedder");
}

#[test]
fn the_plan_states_the_peak_of_a_decoder_in_each_dtype() {
    let fixture = Fixture::new();
    let mut prompts = String::from("text\n");
    for row in 0..24 {
        prompts += &format!("inn {row}\n");
    }
    fixture.file("prompts.csv", prompts);
    for tied in [true, false] {
        let folder = if tied { "tied" } else { "untied" };
        fs::create_dir(fixture.path(folder)).unwrap();
        write_llama(&fixture.path(folder), tied);
        for dtype in ["f32", "bf16", "int8"] {
            let name = format!("{folder}-{dtype}.yaml");
            fixture.file(
                &name,
                format!(
                    "version: 1
models: {{m: {{repo: ./{folder}, dtype: {dtype}}}}}
source: {{path: prompts.csv}}
steps:
  - text-generation: {{model: m, input: text, output: o, max_new_tokens: 4, do_sample: false}}
sink: {{path: out-{folder}-{dtype}/}}
"
                ),
            );
            let (planned, peak) = peaks(&fixture, &name);
            assert_close(planned, peak, &name);
        }
    }
}
