"""Conversations with variables of the chat template, and models that think before they answer (`tasks/thinking`)."""
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, StoppingCriteriaList, StopStringCriteria, pipeline
from transformers.pipelines.text_generation import Chat

from cases_tasks import loaded
from cases_tasks_generation import ending
from models_tasks_generation import GPT2_LENGTH, lively
from tools import CASES
from tools_tasks import Case, model, model_folder, save, weights, write_case

START, END = "<think>", "</think>"
# In the style of Qwen3: thinking is closed when it is off, and opened by the template when it is "open".
TEMPLATE = """{% for message in messages %}{{ '[' + message.role + ']' + message.content + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '[assistant]' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}
{%- elif enable_thinking == 'open' %}{{ '<think>\\n' }}{% endif %}{% endif %}"""
VARIABLES = """{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}{{ [language, level + 1, strict] }}
{%- for word in words %} {{ loop.index }}:{{ word | upper }}{% endfor %}{{ options.style }}"""
OPEN, OFF = {"enable_thinking": "open"}, {"enable_thinking": False}
MESSAGES = {"messages": "messages"}
CHATS = [{"messages": messages} for messages in [
    None,
    [{"role": "user", "content": "The inn"}],
    [{"role": "user", "content": "Close <think>"}],
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": "So?"}],
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>\nWell"}],
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>\nA\n</think>\nB"}],
]]
NEW = 14


def prompt_ids(tokenizer, messages, **variables):
    last = messages[-1]["role"] == "assistant"
    return tokenizer.apply_chat_template(messages, add_generation_prompt=not last, continue_final_message=last, return_dict=True,
                                         return_tensors="pt", **variables)["input_ids"]


def swap(net, a, b):
    """Makes the model generate token `b` where it generated `a`."""
    with torch.no_grad():
        wte = net.transformer.wte.weight
        wte[[a, b]] = wte[[b, a]]


def thinking(name, special):
    @model(name)
    def make(folder):
        tokenizer = AutoTokenizer.from_pretrained(model_folder("gpt2"))
        tokenizer.add_tokens([START, END], special_tokens=special)
        tokenizer.chat_template = TEMPLATE
        end = tokenizer.eos_token_id
        config = GPT2Config(vocab_size=len(tokenizer), n_positions=GPT2_LENGTH, n_embd=16, n_layer=2, n_head=2, bos_token_id=end,
                            eos_token_id=end)
        net = weights(GPT2LMHeadModel(config), "gpt2-thinking")
        with torch.no_grad():
            net.transformer.wte.weight *= 0.4
            net.transformer.wpe.weight *= 2
        lively(net, net.transformer.ln_f, 4)
        net.generation_config.pad_token_id = end

        def answer(messages, **variables):
            ids = prompt_ids(tokenizer, messages, **variables)
            return net.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)[0, ids.shape[1]:].tolist()

        # the first question begins with <think>, and thinking ends after a few tokens
        start, finish = tokenizer.convert_tokens_to_ids([START, END])
        swap(net, answer(CHATS[1]["messages"])[0], start)
        swap(net, next(id for id in answer(CHATS[1]["messages"])[3:] if id not in (start, end)), finish)
        save(folder, net, tokenizer)


thinking("gpt2-thinking", False)
thinking("gpt2-thinking-special", True)


def text_generation(path, case, change):
    net, tokenizer = loaded(AutoModelForCausalLM, path, change)
    if "chat_template" in case.options:
        tokenizer.chat_template = case.options["chat_template"]
    variables = case.options.get("chat_template_kwargs", {})
    values = {"do_sample": False, "max_new_tokens": case.options["max_new_tokens"]}
    if "stop" in case.options:
        values |= {"stopping_criteria": StoppingCriteriaList([StopStringCriteria(tokenizer, case.options["stop"])])}
    pipe = pipeline("text-generation", model=net, tokenizer=tokenizer, device="cpu")
    start, finish = tokenizer.convert_tokens_to_ids([START, END])

    def call(row):
        messages = row["messages"]
        prompt = pipe.preprocess(Chat(messages), tokenizer_encode_kwargs=variables)["input_ids"]
        seen = net.generate(prompt, attention_mask=torch.ones_like(prompt), **values)
        new = seen[0, prompt.shape[1]:].tolist()
        (out,) = pipe(messages, return_full_text=False, tokenizer_encode_kwargs=variables, **values)
        text = out["generated_text"]
        reason, new = ending(new, case, net.generation_config, tokenizer.decode(new))
        if case.options.get("include_reasoning") is False:
            # what model cards do: decode what comes after </think>
            last = messages[-1]
            begun = last["content"].rfind(START) > last["content"].rfind(END) if last["role"] == "assistant" else \
                variables.get("enable_thinking") == "open" or new[0] == start
            if begun:
                answer = new[new.index(finish) + 1:] if finish in new else []
                text = tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=True).lstrip()
        return {"text": text, "finish_reason": reason, "prompt_tokens": prompt.shape[1], "generated_tokens": len(new)}, {"generated_ids": new}
    return call


def case(name, model_name="gpt2-thinking", notes="", **options):
    return Case(name, model_name, CHATS, MESSAGES, {"do_sample": False, "max_new_tokens": NEW, **options}, notes)


CASES_OF_THINKING = [
    case("kept"),
    case("answer", include_reasoning=False, notes="the model may begin with <think>"),
    case("kept-open", chat_template_kwargs=OPEN, notes="the prompt ends with <think>"),
    case("answer-open", chat_template_kwargs=OPEN, include_reasoning=False, notes="the prompt ends with <think>; text without </think> has no answer"),
    case("answer-open-short", chat_template_kwargs=OPEN, include_reasoning=False, max_new_tokens=2),
    case("answer-off", chat_template_kwargs=OFF, include_reasoning=False, notes="the prompt ends with closed thinking"),
    case("kept-special", "gpt2-thinking-special", chat_template_kwargs=OPEN, notes="the tags are special tokens: the text does not show them"),
    case("answer-special", "gpt2-thinking-special", include_reasoning=False),
    case("answer-open-special", "gpt2-thinking-special", chat_template_kwargs=OPEN, include_reasoning=False),
    case("variables", chat_template=VARIABLES, chat_template_kwargs={
        "language": "de", "level": 2, "strict": True, "words": ["a", "é"], "options": {"style": "brief"}, "bos_token": "<B>"},
        notes="a string, a number, a boolean, a list, a map, and a special token that is replaced"),
]


def cases(folder):
    for one in CASES_OF_THINKING:
        write_case(folder, "text-generation", one, text_generation)
    # a stop string inside the thinking: the text of the third token
    net, tokenizer = loaded(AutoModelForCausalLM, f"{folder}/../gpt2-thinking", lambda net: net)
    ids = prompt_ids(tokenizer, CHATS[1]["messages"], **OPEN)
    new = net.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)[0, ids.shape[1]:].tolist()
    stop = next(text for text in map(tokenizer.decode, new[1:]) if "\ufffd" not in text and "<" not in text)
    write_case(folder, "text-generation", case("answer-open-stop", chat_template_kwargs=OPEN, include_reasoning=False, stop=[stop],
                                               notes="a stop string inside the thinking ends the text"), text_generation)


CASES["tasks/thinking"] = cases
