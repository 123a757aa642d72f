"""Chat templates of every style, rendered by transformers: the texts, and the errors that templates raise.

The templates were written for this repository, each in the style of a family of models.
"""
import json
import os
import shutil
import tempfile

from transformers import AutoTokenizer

from texts import HERE
from tools import case, versions, write_json

USER = [{"role": "user", "content": "  What's \"new\" in 房间 🙂?\n"}]
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <b>&</b>"},
         {"role": "assistant", "content": "<think>\nhm, é\n</think>\n\nHello!  "}, {"role": "user", "content": "Why?"}]
OPEN = TURNS[:2] + [{"role": "assistant", "content": "Because the inn "}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "a cat\t"}]}]
OPEN_PARTS = PARTS + [{"role": "assistant", "content": [{"type": "text", "text": "A grey"}, {"type": "image"}]}]
CALLS = [{"role": "user", "content": "12 + 30?"},
         {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"b": 30.0, "a": 1e20, "ok": True, "why": None, "s": "it's \"é\"\n"}}}]},
         {"role": "tool", "name": "add", "content": "{\"sum\": 42}"}]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds <two> numbers.", "parameters": {"type": "object", "properties": {"b": {"type": "number"}, "a": {"type": "number", "enum": [1, 2.5]}}, "required": []}}}]
CONVERSATIONS = {"user": USER, "turns": TURNS, "open": OPEN, "parts": PARTS, "open-parts": OPEN_PARTS, "calls": CALLS, "twice": USER + USER,
                 "odd": [{"role": "user", "content": None, "n": -3, "f": 0.1, "l": [True, ["it's", "a'\"b"]], "name": "don't stop-now (ok)"}]}

TEMPLATES = {
    "turns": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "blocks": """{{ bos_token }}
{#- a comment -#}
{% if messages[0].role == 'system' %}
    {% set system = messages[0].content | trim %}
    {% set rest = messages[1:] %}
{% else %}
    {% set system = '' %}
    {%- set rest = messages -%}
{% endif %}
{% if system %}
  [SYS] {{ system }} [/SYS]
{% endif %}
{% for m in rest %}
  {% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
    {{ raise_exception('roles must alternate, not ' ~ m.role ~ '/' ~ loop.index) }}
  {% endif %}
  {%- if loop.last and not add_generation_prompt %} last{% endif +%}
  {{ loop.index }}. {{ m.content }}{{ eos_token if m.role == 'assistant' else '' }}

{% endfor %}
""",
    "methods": """{%- set ns = namespace(last=-1, text='') -%}
{%- for m in messages[::-1] -%}
  {%- set index = (messages | length - 1) - loop.index0 -%}
  {%- if ns.last == -1 and m.role == 'user' and m.content is string and not (m.content.startswith('<') and m.content.endswith('>')) -%}{%- set ns.last = index -%}{%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
  {%- set content = m.content if m.content is string else '' -%}
  {%- if m.role == 'assistant' and '</think>' in content -%}
    {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
    {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
    {{- '(' + thought.strip() + ')' if loop.index0 > ns.last else '' -}}
  {%- endif -%}
  {{- m.role.upper() ~ '|' ~ m['role'].title() ~ '|' ~ content.replace('H', 'J') ~ '|' ~ m.get('name', 'nobody') ~ '|' ~ m.keys() | list | length -}}
  {%- for key, value in m.items() if key != 'content' -%}[{{ key }}={{ value }}]{%- endfor -%}
{%- endfor -%}
{{- ns.last -}}""",
    "json": "{% for m in messages %}{{ m | tojson }}\n{{ m | tojson(indent=4) }}\n{{ m | tojson(ensure_ascii=true, sort_keys=True) }}\n{{ m | tojson(separators=(',', ':')) }}{{ m.content | tojson | safe }}\n{% endfor %}{{ tools | tojson }}",
    "printed": "{% for m in messages %}{{ m }} {{ m.content }} {{ m | string }} {{ m.f }} {{ m.l }} {{ m.name | title }} {{ [m.role, 1.0, none, true, {'a': m.n}] }}{{ '\\n' }}{% endfor %}{{ 7 / 2 }} {{ 7 // 2 }} {{ -7 % 3 }} {{ 2 ** 3 }} {{ 1e3 }} {{ nothing }}|{{ none }}|{{ true }}",
    "lists": "{{ messages[1:] }}{{ messages[:-1] | tojson }}{{ messages + [{'a': none}] }}{{ (messages + ['b']) | tojson(indent=2) }}{{ messages | map(attribute='role') | list | tojson }}{{ 'x' ~ messages ~ messages[0] ~ messages[0].l }}{{ [messages[0].role] * 2 }}"
             "{{ messages == messages[:] }}{{ messages[0] in messages }}{{ messages is sequence }}{{ messages[0] is mapping }}{{ messages[0] | length }}{{ messages | first | items | list | length }}{{ messages[-1] == messages | last }}{{ messages[0].keys() | list }}"
             "{% for k in messages[0] %}{{ k }}{% endfor %}{{ 'role' in messages[0] }}{{ messages[0] | dictsort | length }}{{ 'none' if not messages[9:] }}{{ messages | length }}{{ messages | reverse | map(attribute='role') | join('-') }}{{ messages[0].values() | list | length }}",
    "tools": """{%- if tools is not none and tools %}
# Tools
{%- for tool in tools %}
{{ tool.function.name }}: {{ tool | tojson }}
{%- for name, p in tool.function.parameters.properties.items() %}
  {{ loop.index }} {{ name }} {{ p.type }}{% if p.enum is defined %} of {{ p.enum | join(', ') }}{% endif %}
{%- endfor %}
{%- endfor %}
{%- endif %}
{%- for m in messages %}
{%- if m.tool_calls %}
{%- for call in m.tool_calls %}{% set f = call.function if call.function is defined else call %}
<call>{{ f.name }}({% for k, v in f.arguments.items() %}{{ k }}={{ v | tojson if v is not string else v }}{{ ', ' if not loop.last }}{% endfor %})</call>
{%- endfor %}
{%- else %}
{{ m.role }}: {{ m.content }}
{%- endif %}
{%- endfor %}""",
    "parts": """{% macro show(content, mark='*') %}{% if content is string %}{{ mark }}{{ content | trim }}{% elif content is iterable %}{% for part in content %}{% if part.type == 'text' %}{{ part['text'] }}{% elif part.type == 'image' %}<image>{% else %}{% continue %}{% endif %}{% endfor %}{% endif %}{% endmacro %}
{% for m in messages %}
{% if m.role == 'system' %}{% continue %}{% endif %}
<{{ m.role }}>{{ show(m.content) }}{{ show(m.content, mark='') | upper }}</{{ m.role }}>
{% if loop.index == 3 %}{% break %}{% endif %}
{% endfor %}
{{ messages | map(attribute='role') | join(',') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('content', 'none') | map(attribute='role') | list }} {{ (messages | last).role }} {{ messages | groupby('role') | length }}""",
    "generation": """{% for m in messages %}
{% if m.role == 'assistant' %}
{%- generation -%}
    {% set said = m.content %}
 A: {{ said }}{{ eos_token }}
{% endgeneration %}
{% else %}
{{ m.role }}: {{ m.content }}
{% endif %}
[{{ said is defined }}]
{% endfor %}
{%- if add_generation_prompt -%} A:{% endif %}
""",
    "variables": "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}|{{ sep_token is defined }}|{{ mask_token }}|{{ additional_special_tokens }}|{{ image_token }}|{{ tools }}|{{ documents }}|{{ enable_thinking is defined and enable_thinking is false }}|{{ language | default('en') }}|{{ add_generation_prompt }}|{{ messages | length }}|{{ strftime_now('%%') }}|{{ strftime_now('%Y') | int > 2000 }}",
    "line-ends": "a\r\n{% if true %}\r\nb {{ 'c\r\nd' }}\r{% endif %}\n\n",
    "fails-attribute": "{% for m in messages %}\n\n{{ m.nothing.more }}\n{% endfor %}",
    "fails-call": "a\n{{ nothing() }}",
    "fails-add": "{{ 'a' + 1 }}",
    "fails-syntax": "a\nb {% if %}",
    "fails-block": "{% for m in messages %}{{ m.role }}",
    "fails-assignment": "{% set _ = messages.append(1) %}",
}
# options of each call in addition to the template and the conversation
OPTIONS = [{}, {"add_generation_prompt": True}, {"continue_final_message": True}]
EXTRA = {"tools": TOOLS, "enable_thinking": False, "language": "de", "bos_token": "<B>"}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<|endoftext|>", "additional_special_tokens": ["<a>", "<b'>"], "extra_special_tokens": {"image_token": "<image>"}}
# the places of templates: tokenizer_config.json and chat_template.jinja, and the requested template
PLACES = [
    ({"chat_template": "config {{ messages[0].role }}"}, None, None), ({"chat_template": "config"}, "file {{ messages[0].role }}\r\n\n", None),
    ({"chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]}, None, None),
    ({"chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]}, None, "tool_use"),
    ({"chat_template": [{"name": "rag", "template": "R"}, {"name": "tool_use", "template": "T"}]}, None, None),
    ({"chat_template": [{"name": "rag", "template": "R"}]}, None, "rag"), ({"chat_template": [{"name": "rag", "template": "R"}]}, None, "own {{ messages[0].role }}"),
    ({"chat_template": {"default": "D", "rag": "R"}}, None, "rag"), ({"chat_template": "one"}, None, "own"), ({}, None, None), ({}, None, "own"),
]


def directory(folder, config, jinja):
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(os.path.join(HERE, "gpt2", name), folder)
    write_json(os.path.join(folder, "tokenizer_config.json"), {"tokenizer_class": "GPT2TokenizerFast", **SPECIAL, **config})
    if jinja is not None:
        with open(os.path.join(folder, "chat_template.jinja"), "w", encoding="utf-8", newline="") as f:
            f.write(jinja)


def load(config, jinja=None):
    with tempfile.TemporaryDirectory() as folder:
        directory(folder, config, jinja)
        return AutoTokenizer.from_pretrained(folder)


def attempt(tokenizer, messages, **options):
    try:
        return tokenizer.apply_chat_template(json.loads(json.dumps(messages)), tokenize=False, **options), None
    except Exception as e:
        return None, f"{type(e).__name__}: {e}"


def outcome(tokenizer, messages, **options):
    text, error = attempt(tokenizer, messages, **options)
    return {"error": error} if error else {"text": text}


@case
def chat(folder):
    tokenizer = load({})
    rows = []
    for name, template in TEMPLATES.items():
        for conversation, messages in CONVERSATIONS.items():
            for options in OPTIONS:
                rows.append({"template": name, "conversation": conversation, "options": options, "extra": {},
                             **outcome(tokenizer, messages, chat_template=template, **options)})
        rows.append({"template": name, "conversation": "calls", "options": {}, "extra": EXTRA, **outcome(tokenizer, CALLS, chat_template=template, **EXTRA)})
    places = []
    for config, jinja, wanted in PLACES:
        for tools in (None, TOOLS):
            places.append({"config": config, "jinja": jinja, "chat_template": wanted, "tools": tools is not None,
                           **outcome(load(config, jinja), USER, chat_template=wanted, tools=tools)})
    with open(os.path.join(folder, "chat.json"), "w", encoding="utf-8") as f:
        value = {"library versions": versions(), "special": SPECIAL, "templates": TEMPLATES, "conversations": CONVERSATIONS, "rows": rows, "places": places}
        lines = [f" {json.dumps(k)}: {listed(v)}" for k, v in value.items()]
        f.write("{\n" + ",\n".join(lines) + "\n}\n")


def listed(value):
    if isinstance(value, list):
        return "[\n" + ",\n".join("  " + json.dumps(v, ensure_ascii=False) for v in value) + "\n ]"
    if isinstance(value, dict) and len(value) > 5:
        return "{\n" + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in value.items()) + "\n }"
    return json.dumps(value, ensure_ascii=False)
