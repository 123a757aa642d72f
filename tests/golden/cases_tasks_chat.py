"""Chat templates: texts that transformers renders from templates in the style of known families, and errors."""
from tools import CASES, write_golden
from tools_tasks import library_versions
from transformers import GPT2TokenizerFast

import tiny_tokenizers_tasks as tiny

CHATML = """{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}
<|im_start|>system
You help.<|im_end|>
{% endif %}
<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"""

LLAMA_2 = """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}
{%- else %}{% set rest = messages %}{% set system = false %}{% endif %}
{%- for message in rest %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{%- if loop.index0 == 0 and system != false %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}
{%- else %}{% set content = message['content'] %}{% endif %}
{%- if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}
{%- endfor %}"""

LLAMA_3 = """{{- bos_token }}
{%- if strftime_now is defined %}{% set year = strftime_now('%Y') | length %}{% else %}{% set year = 0 %}{% endif %}
{%- if messages[0].role == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{{- 'Digits of the year: ' ~ year ~ '\\n' }}
{%- if tools is not none and tools %}
    {%- for tool in tools %}
{{- tool | tojson(indent=4) }}{{ '\\n\\n' }}
    {%- endfor %}
{%- endif %}
{{- system_message }}{{ '<|eot_id|>' }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}
            {{- raise_exception('This model only supports single tool-calls at once!') }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + tool_call.name + '", "parameters": ' }}
{{- tool_call.arguments | tojson }}{{ '}<|eot_id|>' }}
    {%- else %}
{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
        {%- if message.content is mapping or (message.content is iterable and message.content is not string) %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
{{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{% generation %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endgeneration %}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}"""

MISTRAL = """{%- set system = (messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join('\\n')) %}
{%- set turns = messages | rejectattr('role', 'equalto', 'system') | list %}
{%- set ns = namespace(index=0, users=turns | selectattr('role', 'equalto', 'user') | list | length) %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message.role not in ['user', 'assistant'] %}{{ raise_exception('Only user and assistant roles are supported, got ' + message.role) }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {%- set ns.index = ns.index + 1 %}
        {%- if ns.index == ns.users and system %}
{{- '[INST] ' + system + '\\n\\n' + message.content + '[/INST]' }}
        {%- else %}
{{- '[INST] ' + message.content + '[/INST]' }}
        {%- endif %}
    {%- else %}
{{- ' ' + message.content | trim + eos_token }}
    {%- endif %}
{%- endfor %}"""

# One feature each, with the messages unchanged.
SMALL = {
    "blocks": "{% for m in messages %}\n    {% if true %}\n  {{ m.role }}\n    {% endif %}\n{% endfor %}\nend\n",
    "filters": "{% for m in messages %}{{ m.role | upper }}|{{ m.content | string | title | replace('e', 'E') }}|{{ m['role'] | capitalize }}|{{ m.missing | default('-') }};{% endfor %}",
    "loop": "{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ loop.revindex }} {{ loop.previtem.role if loop.previtem is defined }} {{ loop.nextitem.role if not loop.last }} {{ loop.cycle('a', 'b') }}\n{% else %}none{% endfor %}",
    "methods": "{% for m in messages %}{{ m.role.startswith('u') }} {{ m['role'].split('s') }} {{ m.get('name', 'nobody') }} {{ m.role.upper().lower().strip('u') }} {{ m.keys() | list }} {{ m.items() | list | length }}\n{% endfor %}",
    "slices": "{{ messages[-1].role }} {{ messages[:1] | length }} {{ messages[::-1][0].role }} {{ (messages | first).role }} {{ (messages | last)['role'] }} {{ messages[0].role[1:3] }}",
    "json": "{{ messages | tojson }}\n{{ messages[0] | tojson(indent=2) }}",
    "break": "{% for m in messages %}{% if m.role == 'assistant' %}{% continue %}{% endif %}{{ m.role }}{% if loop.index == 3 %}{% break %}{% endif %},{% endfor %}",
    "macro": "{% macro turn(m, mark='#') %}{{ mark }}{{ m.role }}{% endmacro %}{% for m in messages %}{{ turn(m) }}{{ turn(m, mark='+') }}{% endfor %}",
    "tests": "{{ messages is defined }} {{ nothing is defined }} {{ nothing is none }} {{ none is none }} {{ messages[0] is mapping }} {{ messages is iterable }} {{ 3 is odd }} {{ 'a' in 'cat' }} {{ messages[0].content is string }}",
    "dictionary": "{% for key, value in messages[0].items() %}{{ key }}={{ value }};{% endfor %}{% for key in messages[0] %}{{ key }},{% endfor %}{{ {'b': 1, 'a': [1.5, none, true]} }}",
    "numbers": "{{ 7 // 2 }} {{ 7 / 2 }} {{ 2 ** 3 }} {{ 7 % 3 }} {{ '%s-%d' | format('x', 4) }} {{ range(3) | list }} {{ [3, 1, 2] | sort | join(',') }} {{ 1.0 }}",
    "undefined": "[{{ nothing }}]{% if nothing %}yes{% else %}no{% endif %}{{ messages[0].nothing }}",
    "undefined-attribute": "{{ nothing.attribute }}",
    "raise": "{{ raise_exception('no: \"' + messages[0].role + '\"') }}",
    "syntax": "{% for m in messages %}{{ m.role }",
    "escapes": "{{ '<b>&\"' }}{{ messages[0].content }}{{ bos_token | e }}",
    "comment": "{# nothing #}\n{{- bos_token -}}   \n  {% set x = 1 %}\n  {%+ if x %} kept{% endif %}\n",
    "set-block": "{% set text %}{% for m in messages %}{{ m.role }} {% endfor %}{% endset %}[{{ text | trim }}]",
    "scope": "{% set n = 0 %}{% for m in messages %}{% set n = n + 1 %}{% endfor %}{{ n }}",
    "map": "{{ messages | map(attribute='role') | unique | join('+') }} {{ messages | map(attribute='content') | map('length') | list if messages[0].content is string }} {{ messages | groupby('role') | length }}",
}

CONVERSATIONS = {
    "question": [{"role": "user", "content": "Is the inn quiet?"}],
    "system": [{"role": "system", "content": "  Be brief.\n"}, {"role": "user", "content": " 房间 🙂 & <b>\"quoted\"</b> 'x' "},
               {"role": "assistant", "content": "Cafe\u0301\nyes "}, {"role": "user", "content": "Why?\n"}],
    "ends-with-assistant": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
    "two-users": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": " See: "}, {"type": "image"}]}],
    "tool": [{"role": "user", "content": "Weather?"},
             {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {
                 "name": "weather", "arguments": {"place": "Kraków", "days": 2, "metric": True, "more": None}}}]},
             {"role": "tool", "content": {"temperature": 21.5, "sky": "<clear> & 'blue'"}}],
    "empty-content": [{"role": "user", "content": ""}],
    "number": [{"role": "user", "content": 3}],
    "none": [],
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Tells the weather", "parameters": {
    "type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}}}]


def chat(folder):
    tokenizer = GPT2TokenizerFast(tokenizer_object=tiny.gpt2().backend_tokenizer, bos_token="<s>", eos_token="</s>")
    templates = {"chatml": CHATML, "llama-2": LLAMA_2, "llama-3": LLAMA_3, "zephyr": ZEPHYR, "gemma": GEMMA, "mistral": MISTRAL}
    cases = []
    for name, template in (templates | SMALL).items():
        for conversation, messages in CONVERSATIONS.items():
            if name in SMALL and conversation not in ("question", "system"):
                continue
            for prompt in ((True, False) if name in templates else (False,)):
                for tools in ((None, TOOLS) if name == "llama-3" and conversation == "tool" else (None,)):
                    case = {"template": name, "messages": messages, "add_generation_prompt": prompt}
                    if tools:
                        case["tools"] = tools
                    try:
                        text = tokenizer.apply_chat_template(messages, tools=tools, chat_template=template, tokenize=False,
                                                             add_generation_prompt=prompt)
                        cases.append({**case, "expected": text})
                    except Exception as error:      # which conversations a template refuses, and how
                        cases.append({**case, "error": f"{type(error).__name__}: {str(error).splitlines()[0]}"})
    write_golden(folder, {"task": "text-generation", "templates": templates | SMALL, "bos_token": "<s>", "eos_token": "</s>",
                          "cases": cases, "notes": "what apply_chat_template(tokenize=False) gives, or its error",
                          "library versions": library_versions()}, "chat.json")


CASES["tasks/chat"] = chat
