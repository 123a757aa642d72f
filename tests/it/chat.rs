//! Chat templates against transformers, text by text (`tests/golden/chat`).

use std::fs;
use std::path::{Path, PathBuf};

use hfauto::ErrorKind;
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

/// Additional cases beside those of the tasks: templates of known models, some with tools.
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

/// Templates that loop, recurse or grow in different ways. None may end the process or take long.
#[test]
#[expect(clippy::too_many_lines, reason = "a list of cases")]
fn templates_that_run_away_are_refused() {
    const DEEP: &str = "{% set ns = namespace(x=[]) %}{% for a in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}";
    const TREE: &str = "{% set ns = namespace(x=['a','b']) %}{% for a in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    const LIST: &str = "{% set ns = namespace(x=[1]) %}{% for a in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}";
    const BIG: &str = "{% set big = 'abcdefgh' * 1000000 %}";
    let doubled = "{% set ns = namespace(x='xxxxxxxx') %}{% for a in range(60) %}{% set ns.x = OP %}{% endfor %}{{ ns.x }}";
    let endless = [
        format!("{DEEP}{{{{ ns.x }}}}"),
        format!("{DEEP}{{{{ ns.x|tojson }}}}"),
        format!("{DEEP}hi"),
        DEEP.replace("[ns.x]", "{'a': ns.x}"),
        DEEP.replace("[ns.x]", "(ns.x, 1)"),
        DEEP.replace("[ns.x]", "dict(a=ns.x)"),
        DEEP.replace("[ns.x]", "[ns.x]|list"),
        DEEP.replace("[ns.x]", "[ns.x]|batch(1)|list"),
        DEEP.replace("[ns.x]", "[ns.x][0:]"),
        DEEP.replace("[ns.x]", "ns.x|chain([1])"),
        DEEP.replace("[ns.x]", "{'a': ns.x}.items()"),
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns|tojson }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.x = {'a': ns} %}{{ ns.x == ns.x }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.x = namespace(y=ns) %}".to_owned(),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ b() }}".to_owned(),
        "{% macro m() %}{{ caller() }}{% endmacro %}{% macro n() %}{% call m() %}{{ n() }}{% endcall %}{% endmacro %}{{ n() }}".to_owned(),
        "{% macro m(n) %}{{ m(n ~ 'x') }}{% endmacro %}{{ m('') }}".to_owned(),
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
        doubled.replace("OP", "ns.x ~ ns.x"),
        doubled.replace("OP", "ns.x + ns.x"),
        doubled.replace("OP", "ns.x * 2"),
        doubled.replace("OP", "[ns.x, ns.x]|join"),
        doubled.replace("OP", "ns.x.join([ns.x, ns.x])"),
        doubled.replace("OP", "ns.x|replace('x', 'xx')"),
        doubled.replace("OP", "ns.x.replace('', 'x')"),
        doubled.replace("OP", "'{0}{0}'.format(ns.x)"),
        doubled.replace("OP", "'%s%s'|format(ns.x, ns.x)"),
        doubled.replace("OP", "[ns.x, ns.x]|string"),
        doubled.replace("OP", "[ns.x, ns.x]|tojson"),
        "{% set ns = namespace(x='xxxxxxxx') %}{% for a in range(60) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}".to_owned(),
        format!("{TREE}{{{{ ns.x }}}}"),
        format!("{TREE}{{{{ ns.x|tojson }}}}"),
        format!("{TREE}{{{{ ns.x|pprint }}}}"),
        format!("{TREE}{{{{ ns.x ~ '' }}}}"),
        TREE.to_owned() + "{% set other = namespace(x=['a','b']) %}{% for a in range(60) %}{% set other.x = [other.x, other.x] %}{% endfor %}{{ ns.x == other.x }}",
        TREE.to_owned() + "{% set other = namespace(x=['a','b']) %}{% for a in range(60) %}{% set other.x = [other.x, other.x] %}{% endfor %}{{ ns.x in [other.x] }}",
        TREE.to_owned() + "{{ [ns.x, [1]]|sort }}",
        TREE.to_owned() + "{{ [ns.x, [1]]|unique|list }}",
        TREE.to_owned() + "{{ {ns.x: 1} }}",
        format!("{LIST}{{{{ ns.x|length }}}}"),
        format!("{LIST}{{{{ ns.x|join }}}}"),
        format!("{LIST}{{{{ ns.x|sum }}}}"),
        "{{ messages | tojson(indent=100000000000) }}".to_owned(),
        "{{ messages|tojson(separators=('x' * 90000000, 'y')) }}".to_owned(),
        "{{ 'a\\nb'|indent(100000000000) }}".to_owned(),
        "{{ 'a\\nb'|indent(width=100000000000) }}".to_owned(),
        "{{ '%1000000000000d'|format(1) }}".to_owned(),
        "{{ '%*d'|format(1000000000000, 1) }}".to_owned(),
        "{{ '%.1000000000f'|format(1.5) }}".to_owned(),
        "{{ '{:>1000000000000}'.format(1) }}".to_owned(),
        "{{ '{:{}}'.format('a', 1000000000000) }}".to_owned(),
        "{{ [1,2]|slice(9000000000000000000)|list }}".to_owned(),
        "{{ [1,2]|batch(9000000000000000000)|list }}".to_owned(),
        "{{ [1,2]|batch(1000000000, 'x')|list }}".to_owned(),
        "{{ ([1]*9223372036854775807)|list }}".to_owned(),
        "{{ ([1]*900000000)|length }}".to_owned(),
        "{{ 9223372036854775807*[1] }}".to_owned(),
        "{{ 'x' * 9223372036854775807 }}".to_owned(),
        "{% for a in range(100) %}{% set x = 'x' * 90000000 %}{% endfor %}".to_owned(),
        "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}{% endfor %}{% endfor %}{% endfor %}x".to_owned(),
        "{% for a in range(100000) %}{% for b in range(100000) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}".to_owned(),
        "{% for a in range(99999) %}{{ range(99999)|list|length }}{% endfor %}".to_owned(),
        format!("{BIG}{{% for a in range(100000) %}}{{{{ big|length }}}}{{% endfor %}}"),
        format!("{BIG}{{% for a in range(100000) %}}{{{{ 'zz' in big }}}}{{% endfor %}}"),
        format!("{BIG}{{% for a in range(100000) %}}{{{{ big.find('zz') }}}}{{% endfor %}}"),
        format!("{BIG}{{% for a in range(100000) %}}{{{{ big[7999999] }}}}{{% endfor %}}"),
        format!("{BIG}{{% for a in range(100000) %}}{{{{ big[:-1]|first }}}}{{% endfor %}}"),
        format!("{BIG}{{% for a in range(100000) %}}{{{{ big.upper()|first }}}}{{% endfor %}}"),
        format!("{BIG}{{% for a in range(100000) %}}{{{{ big|list|first }}}}{{% endfor %}}"),
        format!("{BIG}{{% for a in range(100000) %}}{{{{ big.split('a')|first }}}}{{% endfor %}}"),
        format!("{BIG}{{% for a in range(100000) %}}{{% for c in big %}}{{% break %}}{{% endfor %}}{{% endfor %}}"),
        format!("{BIG}{{% for a in range(100000) %}}{{{{ loop.changed(big) }}}}{{% endfor %}}"),
        format!("{BIG}{{{{ big.strip(big) }}}}"),
        format!("{BIG}{{% set other = 'abcdefgh' * 1000000 %}}{{% for a in range(100000) %}}{{{{ big == other }}}}{{% endfor %}}"),
        format!("{BIG}{{% set other = 'abcdefgh' * 1000000 %}}{{{{ range(100000)|map('default', big)|select('eq', other)|list }}}}"),
        "{{ range(100000)|map('string')|map('center', 1000000000)|list }}".to_owned(),
        "{{ range(100000)|map('indent', 100000)|list|length }}".to_owned(),
        format!("{{{{ {}1 }}}}", "1+".repeat(200_000)),
        format!("{{{{ {}1 }}}}", "1-".repeat(200_000)),
        format!("{{{{ {}1 }}}}", "1 == ".repeat(200_000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(200_000)),
        format!("{{{{ {}1 }}}}", "- ".repeat(200_000)),
        format!("{{{{ 1{} }}}}", "|abs".repeat(200_000)),
        format!("{{{{ a{} }}}}", ".b".repeat(200_000)),
        format!("{{{{ a{} }}}}", "[0]".repeat(200_000)),
        format!("{{{{ a{} }}}}", "()".repeat(200_000)),
        format!("{{{{ 1{} }}}}", " is defined".repeat(200_000)),
        format!("{{{{ {}1{} }}}}", "(".repeat(200_000), ")".repeat(200_000)),
        format!("{{{{ {}1{} }}}}", "[".repeat(200_000), "]".repeat(200_000)),
        format!("{{{{ {}1 }}}}", "1 if 1 else ".repeat(100_000)),
        format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(80_000)),
        format!("{}{}", "{% if 1 %}".repeat(50_000), "{% endif %}".repeat(50_000)),
        format!("{}{}", "{% for a in [1] %}".repeat(140), "{% endfor %}".repeat(140))
            .replace("[1]", "range(9)"),
        "x".repeat(2_000_000),
        "{% include 'chat_template' %}".to_owned(),
        "{% import 'chat_template' as t %}".to_owned(),
        "{% extends 'chat_template' %}".to_owned(),
        "{{ debug() }}".to_owned(),
        "{{ range(-9223372036854775807, 9223372036854775807) }}".to_owned(),
        "{{ range(0, 9223372036854775807, 1) }}".to_owned(),
    ];
    let tokenizer = tokenizer(&json!({}), &json!({}), None);
    let messages = [json!({"role": "user", "content": "hello"})];
    for source in endless {
        let started = std::time::Instant::now();
        let result = tokenizer
            .chat_template(Some(&source), false)
            .and_then(|template| template.render(&messages, &ChatOptions::default()));
        let start: String = source.chars().take(200).collect();
        let error = result.expect_err(&start);
        let kinds = [ErrorKind::Config, ErrorKind::Data, ErrorKind::Unsupported];
        assert!(kinds.contains(&error.kind()), "{start}: {error}");
        assert!(started.elapsed().as_secs() < 10, "{start}: {:?}", started.elapsed());
    }
}

/// Legitimate templates that resemble the above.
#[test]
fn templates_that_end_are_rendered() {
    let tokenizer = tokenizer(&json!({}), &json!({}), None);
    let content = "a line\n".repeat(20_000);
    let messages: Vec<Value> =
        (0..200).map(|i| json!({"role": "user", "content": format!("{i} {content}")})).collect();
    let render = |source: &str, messages: &[Value]| {
        let template = tokenizer.chat_template(Some(source), false).unwrap();
        template.render(messages, &ChatOptions::default()).unwrap()
    };
    let long = "{% for m in messages %}{% if m == messages[-1] or m['content'] == '' %}{{ m.content|trim|replace('\n', '') }}{% else %}{{ '<' + m['role'] ~ '>' }}{% if 'zzz' in m.content %}{{ m.content.split('zzz')[-1] }}{% endif %}{% endif %}{% endfor %}";
    assert!(render(long, &messages).len() > 100_000);
    let few = &messages[..2];
    for (source, expected) in [
        ("{{ 'aaa'.count('') }} {{ 'aaa'.count('a') }}", "4 3"),
        ("{{ [][::-1] }}{{ []|reverse|list }}{{ []|batch(2)|list }}", "[][][]"),
        ("{{ [1, 2][::-1] }} {{ 'abc'[1:] }} {{ messages[1:]|length }}", "[2, 1] bc 1"),
        ("{{ ['a'] ~ 'b' }} {{ {'a': 'it\\'s'} ~ '' }}", "['a']b {'a': \"it's\"}"),
        ("{{ [1] + [2] }} {{ (1, 2) * 2 }} {{ 2 * 'ab' }}", "[1, 2] [1, 2, 1, 2] abab"),
        (
            "{{ 1 + 2 }} {{ 1 + 2.5 }} {{ 0.1 + 0.2 }} {{ 3 * 4 }} {{ True + 1 }}",
            "3 3.5 0.30000000000000004 12 2",
        ),
        ("{{ range(3)|list }} {{ range(1, 7, 2)|join('-') }}", "[0, 1, 2] 1-3-5"),
        ("{% set ns = namespace(a=1, b=[]) %}{% set ns.b = ns.b + [ns.a] %}{{ ns.b }}", "[1]"),
        ("{% macro m(x, d=2) %}{{ x }}{{ d }}{% endmacro %}{{ m(1) }}{{ m(1, d='a') }}", "121a"),
        ("{{ messages|map(attribute='role')|list }}", "['user', 'user']"),
        ("{{ messages|selectattr('role', 'equalto', 'user')|list|length }}", "2"),
        (
            "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{{ loop.last }}{% endfor %}",
            "a1Falseb2True",
        ),
        (
            "{{ {'a': 1}|items|list }} {{ {'b': 1, 'a': 2}|dictsort }}",
            "[['a', 1]] [['a', 2], ['b', 1]]",
        ),
        ("{{ {1: 'x', 'y': [none]} }} {{ {1: 'x'}[1] }}", "{1: 'x', 'y': [None]} x"),
        ("{{ '%05.1f|%s'|format(2.5, 'a') }} {{ '{:>4}'.format('a') }}", "002.5|a    a"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x ~ x }}", "a1a1"),
        ("<{% autoescape true %}<{{ '<' }}{% endautoescape %}", "<<&lt;"),
        ("{{ 'a' in ['a'] and 'b' not in 'a' and 1 < 2 <= 2 }}", "True"),
    ] {
        assert_eq!(render(source, few), expected, "{source}");
    }
}
