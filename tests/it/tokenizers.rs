//! Token ids against those of transformers.
use std::path::Path;

use hfauto_pipe::auto::{AutoTokenizer, EncodeOptions};
use serde_json::Value;

#[test]
fn scratch() {
    let Ok(root) = std::env::var("SCRATCH") else { return };
    let opts = |m: Option<usize>, s: bool, o: bool| EncodeOptions { max_length: m, add_special_tokens: s, return_offsets_mapping: o };
    let ids = |v: &Value| -> Vec<u32> { serde_json::from_value(v.clone()).unwrap() };
    let mut dirs: Vec<_> = std::fs::read_dir(&root).unwrap().map(|d| d.unwrap().path()).filter(|p| p.join("expect.json").exists()).collect();
    dirs.sort();
    let mut bad = 0;
    for dir in dirs {
        let name = dir.file_name().unwrap().to_string_lossy().to_string();
        let e: Value = serde_json::from_slice(&std::fs::read(dir.join("expect.json")).unwrap()).unwrap();
        let t = match AutoTokenizer::from_pretrained(dir.to_str().unwrap()) { Ok(t) => t, Err(err) => { println!("LOAD {name}: {err}"); continue } };
        let _ = Path::new("");
        let mut fails = vec![];
        let mut n = 0;
        let mut cmp = |what: String, got: String, want: String| { n += 1; if got != want { fails.push(format!("  {what}\n   got  {got}\n   want {want}")); } };
        for c in e["cases"].as_array().unwrap() {
            let text = c["text"].as_str().unwrap();
            cmp(format!("ids {text:?}"), format!("{:?}", t.encode(text, &opts(None, true, false)).unwrap().input_ids), format!("{:?}", ids(&c["ids"])));
            cmp(format!("plain {text:?}"), format!("{:?}", t.encode(text, &opts(None, false, false)).unwrap().input_ids), format!("{:?}", ids(&c["plain"])));
            let o = t.encode(text, &opts(None, true, true)).unwrap();
            let wo: Vec<(usize, usize)> = serde_json::from_value(c["offsets"].clone()).unwrap();
            cmp(format!("offsets {text:?}"), format!("{:?}", o.offset_mapping.unwrap()), format!("{wo:?}"));
            for (m, w) in c["trunc"].as_object().unwrap() {
                let m: usize = m.parse().unwrap();
                for off in [false, true] {
                    let g = t.encode(text, &opts(Some(m), true, off)).unwrap();
                    cmp(format!("trunc {m} {text:?}"), format!("{:?} {}", g.input_ids, g.truncated), format!("{:?} {}", ids(w), ids(&c["ids"]).len() > m));
                }
            }
            cmp(format!("decode {text:?}"), format!("{:?}", t.decode(&ids(&c["ids"]), true).unwrap()), format!("{:?}", c["decode"].as_str().unwrap()));
            cmp(format!("decode_all {text:?}"), format!("{:?}", t.decode(&ids(&c["ids"]), false).unwrap()), format!("{:?}", c["decode_all"].as_str().unwrap()));
        }
        for p in e["pairs"].as_array().unwrap() {
            let (a, b) = (p["a"].as_str().unwrap(), p["b"].as_str().unwrap());
            let g = t.encode_pair(a, b, &opts(None, true, false)).unwrap();
            cmp(format!("pair {a:?} {b:?}"), format!("{:?} {:?}", g.input_ids, g.token_type_ids), format!("{:?} {:?}", ids(&p["ids"]), ids(&p["types"])));
            for (m, w) in p["trunc"].as_object().unwrap() {
                let g = t.encode_pair(a, b, &opts(Some(m.parse().unwrap()), true, false)).unwrap();
                cmp(format!("pair trunc {m} {a:?} {b:?}"), format!("{:?}", g.input_ids), format!("{:?}", ids(w)));
            }
        }
        let s = &e["specials"];
        for (k, g) in [("bos_token", t.bos_token_id()), ("eos_token", t.eos_token_id()), ("unk_token", t.unk_token_id()), ("sep_token", t.sep_token_id()), ("pad_token", t.pad_token_id()), ("cls_token", t.cls_token_id()), ("mask_token", t.mask_token_id())] {
            cmp(k.into(), format!("{g:?}"), format!("{:?}", s[k].as_u64().map(|x| x as u32)));
        }
        cmp("class".into(), t.class_name().into(), e["class"].as_str().unwrap().into());
        cmp("sizes".into(), format!("{} {} {:?}", t.vocab_size(), t.total_vocab_size(), t.model_max_length()), format!("{} {} {:?}", e["vocab_size"], e["len"], e["model_max_length"].as_u64().map(|x| x as usize)));
        bad += fails.len();
        println!("{} {name}: {n} checks, {} wrong", if fails.is_empty() { "OK  " } else { "FAIL" }, fails.len());
        for f in fails.iter().take(6) { println!("{f}"); }
    }
    assert_eq!(bad, 0);
}
