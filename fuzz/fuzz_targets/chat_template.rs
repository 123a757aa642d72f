//! Any text as a chat template. Rendering or refusing it takes bounded time and memory.
#![no_main]

use std::sync::OnceLock;

use hfauto_pipe::auto::{AutoTokenizer, ChatOptions};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fn tokenizer() -> &'static AutoTokenizer {
    static TOKENIZER: OnceLock<AutoTokenizer> = OnceLock::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/gpt2");
    TOKENIZER.get_or_init(|| AutoTokenizer::from_pretrained(folder).unwrap())
}

fuzz_target!(|source: &str| {
    // Templates are leaked until the process ends, so the fuzzer skips long ones.
    if source.len() > 4096 {
        return;
    }
    let Ok(template) = tokenizer().chat_template(Some(source), false) else { return };
    let messages: Vec<Value> = vec![
        json!({"role": "system", "content": "Be short."}),
        json!({"role": "user", "content": [{"type": "text", "text": "Boats & the sea"}]}),
    ];
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"a": 1}}}]);
    let extra = [("tools".to_owned(), tools)].into_iter().collect();
    let options = ChatOptions { add_generation_prompt: true, extra, ..ChatOptions::default() };
    let _ = template.render(&messages, &options);
});
