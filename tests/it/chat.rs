//! Chat templates against transformers, text by text (`tests/golden/chat`).

use std::fs;
use std::path::{Path, PathBuf};

use hfauto_pipe::ErrorKind;
use hfauto_pipe::auto::{AutoTokenizer, ChatOptions};
use serde_json::{Map, Value, json};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn chats() -> Value {
    serde_json::from_str(&fs::read_to_string(golden().join("chat/chat.json")).unwrap()).unwrap()
}

/// The tokenizer of `gpt2` with another configuration.
fn tokenizer(special: &Value, config: &Value, jinja: Option<&str>) -> AutoTokenizer {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(golden().join("gpt2").join(name), folder.path().join(name)).unwrap();
    }
    let mut all = special.as_object().unwrap().clone();
    all.extend(config.as_object().unwrap().clone());
    fs::write(folder.path().join("tokenizer_config.json"), Value::Object(all).to_string()).unwrap();
    if let Some(jinja) = jinja {
        fs::write(folder.path().join("chat_template.jinja"), jinja).unwrap();
    }
    AutoTokenizer::from_pretrained(folder.path().to_str().unwrap()).unwrap()
}

#[test]
fn chats_are_those_of_transformers() {
    let golden = chats();
    let tokenizer = tokenizer(&golden["special"], &json!({}), None);
    let (mut same, mut refused, mut wrong) = (0, 0, Vec::new());
    for row in golden["rows"].as_array().unwrap() {
        let name = row["template"].as_str().unwrap();
        let source = golden["templates"][name].as_str().unwrap();
        let conversation = row["conversation"].as_str().unwrap();
        let messages = golden["conversations"][conversation].as_array().unwrap();
        let flag = |key: &str| row["options"][key] == true;
        let options = ChatOptions {
            add_generation_prompt: flag("add_generation_prompt"),
            continue_final_message: flag("continue_final_message"),
            extra: row["extra"].as_object().unwrap().clone(),
        };
        let got = tokenizer
            .chat_template(Some(source), false)
            .and_then(|template| template.render(messages, &options));
        let at = format!("{name}, {conversation}, {}", row["options"]);
        match (row["text"].as_str(), got) {
            (Some(expected), Ok(text)) if expected == text => same += 1,
            (None, Err(_)) => refused += 1,
            (Some(expected), Ok(text)) => {
                wrong.push(format!("{at}:\n  got      {text:?}\n  expected {expected:?}"));
            }
            (Some(_), Err(e)) => wrong.push(format!("{at}: {e} {:?}", e.places())),
            (None, Ok(text)) => wrong.push(format!("{at}: {} but got {text:?}", row["error"])),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), same + refused, wrong.join("\n"));
    assert!(same > 200 && refused > 100, "{same} {refused}");
}

/// The cases that stand beside those of the tasks: templates of known models, tools among them.
#[test]
fn chats_of_the_tasks_are_those_of_transformers() {
    let text = fs::read_to_string(golden().join("tasks/chat/chat.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let special = json!({"bos_token": golden["bos_token"], "eos_token": golden["eos_token"]});
    let tokenizer = tokenizer(&special, &json!({}), None);
    let (mut same, mut refused) = (0, 0);
    for case in golden["cases"].as_array().unwrap() {
        let source = golden["templates"][case["template"].as_str().unwrap()].as_str().unwrap();
        let tools = case.get("tools").map(|tools| ("tools".to_owned(), tools.clone()));
        let options = ChatOptions {
            add_generation_prompt: case["add_generation_prompt"] == true,
            continue_final_message: false,
            extra: tools.into_iter().collect(),
        };
        let got = tokenizer
            .chat_template(Some(source), false)
            .and_then(|template| template.render(case["messages"].as_array().unwrap(), &options));
        if let Some(expected) = case["expected"].as_str() {
            assert_eq!(got.unwrap(), expected, "{case}");
            same += 1;
        } else {
            assert!(got.is_err(), "{case}");
            refused += 1;
        }
    }
    assert!(same > 100 && refused > 40, "{same} {refused}");
}

#[test]
fn templates_are_found_where_transformers_finds_them() {
    let golden = chats();
    let messages = golden["conversations"]["user"].as_array().unwrap();
    for place in golden["places"].as_array().unwrap() {
        let tokenizer = tokenizer(&golden["special"], &place["config"], place["jinja"].as_str());
        let got = tokenizer
            .chat_template(place["chat_template"].as_str(), place["tools"] == true)
            .and_then(|template| template.render(messages, &ChatOptions::default()));
        match place["text"].as_str() {
            Some(expected) => assert_eq!(got.unwrap(), expected, "{place}"),
            None => assert_eq!(got.unwrap_err().kind(), ErrorKind::Config, "{place}"),
        }
    }
}

#[test]
fn errors_name_the_template_and_the_line() {
    let golden = chats();
    let messages = golden["conversations"]["twice"].as_array().unwrap();
    let error = |config: Value, jinja: Option<&str>, wanted: Option<&str>| {
        tokenizer(&golden["special"], &config, jinja)
            .chat_template(wanted, false)
            .and_then(|template| template.render(messages, &ChatOptions::default()))
            .unwrap_err()
    };
    let told = error(json!({}), Some("a\n\n{{ raise_exception('roles must alternate') }}"), None);
    assert_eq!(told.kind(), ErrorKind::Data);
    assert_eq!(told.message(), "the chat template says: roles must alternate");
    assert_eq!(told.places(), ["chat_template.jinja: line 3"]);

    let several = json!({"chat_template": [{"name": "rag", "template": "{{ 1 | nothing }}"}]});
    let unknown = error(several.clone(), None, Some("rag"));
    assert_eq!(unknown.kind(), ErrorKind::Unsupported);
    assert_eq!(unknown.places(), ["tokenizer_config.json: `chat_template` `rag`: line 1"]);
    let unnamed = error(several, None, None);
    assert_eq!(unnamed.message(), "the model has several chat templates and no default: `rag`");

    let broken = error(json!({"chat_template": "a\n{% if %}"}), None, None);
    assert_eq!(broken.kind(), ErrorKind::Model);
    assert_eq!(broken.places(), ["tokenizer_config.json: `chat_template`: line 2"]);
    let broken = error(json!({}), None, Some("{% if %}"));
    assert_eq!(broken.kind(), ErrorKind::Config);
    assert_eq!(broken.places(), ["the option `chat_template`: line 1"]);
    let rounded = error(json!({}), None, Some("{{ 2.5 | round }}"));
    assert_eq!(rounded.kind(), ErrorKind::Unsupported);

    let none = error(json!({}), None, None);
    assert_eq!(
        (none.kind(), none.message()),
        (ErrorKind::Config, "the model has no chat template")
    );
    assert!(none.remedy().unwrap().contains("`chat_template`"));
}

#[test]
fn conversations_without_messages_and_contradicting_options_are_refused() {
    let tokenizer = tokenizer(&json!({"eos_token": "</s>"}), &json!({"chat_template": "x"}), None);
    assert!(tokenizer.has_chat_template());
    let render = |messages: &[Value], options: &ChatOptions| {
        tokenizer.apply_chat_template(messages, options).unwrap_err()
    };
    let plain = ChatOptions::default();
    assert_eq!(render(&[], &plain).kind(), ErrorKind::Data);
    assert_eq!(render(&["text".into()], &plain).kind(), ErrorKind::Data);
    let both = ChatOptions {
        add_generation_prompt: true,
        continue_final_message: true,
        ..ChatOptions::default()
    };
    let message = [json!({"role": "user", "content": "a"})];
    assert_eq!(render(&message, &both).kind(), ErrorKind::Config);
    let extra = Map::from_iter([("messages".to_string(), Value::Null)]);
    assert_eq!(render(&message, &ChatOptions { extra, ..plain }).kind(), ErrorKind::Config);
}
