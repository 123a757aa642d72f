"""The results of generating models: text, ids, beam scores, processed probabilities; and log-likelihoods."""
import math

import numpy as np
import torch
from transformers import (AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig, LogitsProcessorList,
                          StoppingCriteriaList, StopStringCriteria, pipeline)
from transformers.pipelines.text_generation import Chat

import models_tasks_generation  # noqa: F401 (registers the models)
from cases_tasks import LONG, loaded
from tools import CASES, write_golden
from tools_tasks import Case, library_versions, model_folder, short, task, text_rows

PROMPTS = text_rows(None, "", "H", "The film is slow", "I bought one for my sister", "🙂房间", "Cafe\u0301 nai\u0308ve",
                    "\"I can't,\" she said,\n'not ", "  leading and trailing  ", "Harbour")
FEW = text_rows("The film is slow", "I bought one for my sister", "🙂房间", "Harbour")
GREEDY = {"do_sample": False, "max_new_tokens": 12}
# options that are not arguments of generate()
OURS = {"stop", "outputs", "seed", "return_full_text", "chat_template", "truncation", "prefix", "src_lang", "tgt_lang"}


def arguments(case, tokenizer):
    """The arguments of generate() for a case's options and its additions to the model's generation_config.json."""
    values = {key: value for key, value in case.options.items() if key not in OURS}
    if "stop" in case.options:
        # the criteria built from stop_strings; passing those needs `tokenizer`, which 4.57 forwards to forward(), and T5 rejects
        values["stopping_criteria"] = StoppingCriteriaList([StopStringCriteria(tokenizer, case.options["stop"])])
    return values | (case.generation_config or {})


def ending(ids, case, config, text):
    """The finish reason, and the ids without padding."""
    ends = (case.generation_config or {}).get("eos_token_id", config.eos_token_id)
    ends = ends if isinstance(ends, list) else [ends]
    for i, token in enumerate(ids):
        if token in ends:
            return "stop", ids[:i + 1]
    if any(stop in text for stop in case.options.get("stop", [])):
        return "stop", ids
    return "length", ids


def beside(ids, scores):
    return {"generated_ids": ids, **({} if scores is None else {"sequences_scores": scores})}


# ------------------------------------------------------------------------ text-generation
def text_generation(path, case, change):
    net, tokenizer = loaded(AutoModelForCausalLM, path, change)
    if "chat_template" in case.options:
        tokenizer.chat_template = case.options["chat_template"]
    values = arguments(case, tokenizer)
    pipe = pipeline("text-generation", model=net, tokenizer=tokenizer, device="cpu")
    hole = {"handle_long_generation": "hole"} if case.options.get("truncation") else {}

    def call(row):
        (out,) = pipe(row["messages"] if "messages" in row else row["text"],
                      return_full_text=case.options.get("return_full_text", False), **hole, **values)
        prompt = pipe.preprocess(Chat(row["messages"]) if "messages" in row else row["text"], **hole, **values)
        ids = prompt["input_ids"][0].tolist()
        seen = net.generate(input_ids=prompt["input_ids"] if ids else None,
                            attention_mask=prompt["attention_mask"] if ids else None,
                            return_dict_in_generate=True, output_scores=True, **pipe._prepare_generate_kwargs(values))
        begin = len(ids) or 1               # an empty prompt begins with <|endoftext|>
        reason, new = ending(seen.sequences[0].tolist()[begin:], case, net.generation_config, out["generated_text"])
        scores = None if values.get("num_beams", 1) == 1 else seen.sequences_scores[0].item()
        return {"text": out["generated_text"], "finish_reason": reason, "prompt_tokens": len(ids),
                "generated_tokens": len(new)}, beside(new, scores)
    return call


MESSAGES = {"messages": "messages"}
CHATS = [{"messages": messages} for messages in [
    None,
    [{"role": "user", "content": "The film is slow"}],
    [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "🙂 \"Why\"\nso?"}],
    [{"role": "user", "content": "🙂 房间?"}, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": LONG}],
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The inn"}],
]]
ENDS = [336, 354]
LONG_PROMPTS = text_rows(LONG, LONG[:130], "The film is slow", "🙂房间" * 20)


def several(name, model, rows, options, generation_config=None, notes=""):
    return Case(name, model, rows, options=options, generation_config=generation_config, notes=notes)


BEAMS = "`sequences_scores`: the sum of log-probabilities over the number of tokens to the power of length_penalty"
task("text-generation", text_generation, [
    several("greedy", "gpt2", PROMPTS, GREEDY,
            notes="an empty prompt begins with <|endoftext|> (prompt_tokens 0); generated_tokens and generated_ids hold the end token"),
    several("one-token", "gpt2", PROMPTS, {**GREEDY, "max_new_tokens": 1}),
    several("several-eos", "gpt2-several-eos", PROMPTS, {**GREEDY, "max_new_tokens": 24},
            notes="generation_config.json: three eos_token_id; scale_attn_by_inverse_layer_idx"),
    several("min-new-tokens", "gpt2-several-eos", PROMPTS, {**GREEDY, "max_new_tokens": 24}, {"min_new_tokens": 10}),
    several("eos-374", "gpt2", [row for row in PROMPTS if row["text"] != ""], {**GREEDY, "max_new_tokens": 24},
            {"eos_token_id": 374},
            notes="without the empty prompt: its <|endoftext|> is the padding here, which the library would mask"),
    several("full-text", "gpt2", PROMPTS, {**GREEDY, "return_full_text": True}),
    several("stop", "gpt2", PROMPTS, {**GREEDY, "max_new_tokens": 24, "stop": ["N", ">é", "ween"]}, notes="the stop string stays in `text`"),
    several("stop-one", "gpt2", PROMPTS, {**GREEDY, "max_new_tokens": 24, "stop": ["。"]}),
    several("repetition-penalty", "gpt2", PROMPTS, {**GREEDY, "max_new_tokens": 20, "repetition_penalty": 1.5}),
    several("no-repeat-ngram", "gpt2", PROMPTS, {**GREEDY, "max_new_tokens": 40}, {"no_repeat_ngram_size": 2}),
    several("no-repeat-ngram-1", "gpt2", PROMPTS, {**GREEDY, "max_new_tokens": 20}, {"no_repeat_ngram_size": 1}),
    several("sampled-top-k-1", "gpt2", PROMPTS, {"do_sample": True, "temperature": 0.7, "top_k": 1, "max_new_tokens": 12, "seed": 7},
            notes="one token to draw from: the greedy one"),
    several("sampled-top-p-0", "gpt2", PROMPTS, {"do_sample": True, "top_p": 0.0001, "max_new_tokens": 12},
            notes="one token to draw from: the greedy one"),
    several("long-prompt", "gpt2", LONG_PROMPTS, {**GREEDY, "max_new_tokens": 8, "truncation": True},
            notes="handle_long_generation `hole`: the end of the prompt, as many tokens as leave room for max_new_tokens"),
    several("long-prompt-full-text", "gpt2", LONG_PROMPTS, {**GREEDY, "max_new_tokens": 8, "truncation": True, "return_full_text": True},
            notes="the whole prompt, also what was cut"),
    several("long-prompt-beams", "gpt2", LONG_PROMPTS, {**GREEDY, "max_new_tokens": 8, "truncation": True, "num_beams": 3}),
    Case("chat", "gpt2", CHATS, MESSAGES, GREEDY,
         notes="the model's chat_template; a conversation that ends with the assistant is continued, else add_generation_prompt"),
    Case("chat-template", "gpt2", CHATS, MESSAGES, {**GREEDY, "chat_template": "{% for m in messages %}[{{ m.role | upper }}] "
                                                  "{{ m.content }}\n{% endfor %}"}),
    Case("chat-several-eos", "gpt2-several-eos", CHATS, MESSAGES, {**GREEDY, "num_beams": 2}),
    *(several(f"beams-{beams}", model, PROMPTS, {**GREEDY, "num_beams": beams}, notes=BEAMS)
      for model, beams in [("gpt2", 2), ("gpt2", 4)]),
    *(several(f"beams-4-{stopping}-{penalty}".lower(), "gpt2-several-eos", PROMPTS, {**GREEDY, "max_new_tokens": 16, "num_beams": 4},
              {"early_stopping": stopping, "length_penalty": penalty}, BEAMS)
      for stopping in (False, True, "never") for penalty in (0.6, 1.0, 2.0, -1.0)),
    several("beams-2-several-eos", "gpt2-several-eos", PROMPTS, {**GREEDY, "max_new_tokens": 16, "num_beams": 2}),
    several("beams-2-no-repeat-ngram", "gpt2", PROMPTS, {**GREEDY, "num_beams": 2, "max_new_tokens": 24}, {"no_repeat_ngram_size": 2}),
    several("beams-4-no-repeat-ngram", "gpt2-several-eos", FEW, {**GREEDY, "num_beams": 4, "max_new_tokens": 24},
            {"no_repeat_ngram_size": 2, "min_new_tokens": 12}),
    several("beams-3-repetition-penalty", "gpt2", FEW, {**GREEDY, "num_beams": 3, "repetition_penalty": 1.3}),
    several("beams-2-stop", "gpt2", FEW, {**GREEDY, "num_beams": 2, "max_new_tokens": 24, "stop": ["N", "ween"]}),
    *(several(f"spaces-{model}{full}", model, text_rows(models_tasks_generation.SPOKEN), {**GREEDY, "max_new_tokens": 40, "return_full_text": bool(full)},
              notes="what is generated is decoded alone; spaces before punctuation stay, unless the tokenizer is of WordPiece")
      for model in ("gpt2-speaking", "gpt2-speaking-metaspace", "gpt2-speaking-wordpiece") for full in ("", "-full-text")),
    several("beams-12", "gpt2-several-eos", FEW, {**GREEDY, "num_beams": 12, "max_new_tokens": 6}),
])


# ------------------------------------------------------------ text2text, summarization, translation
def text2text(path, case, change):
    net, tokenizer = loaded(AutoModelForSeq2SeqLM, path, change)
    name = case.task_id
    if "src_lang" in case.options:
        name = f"translation_{case.options['src_lang']}_to_{case.options['tgt_lang']}"
    values = arguments(case, tokenizer)
    pipe = pipeline(name, model=net, tokenizer=tokenizer, device="cpu")
    if "prefix" in case.options:
        pipe.prefix = case.options["prefix"]
    cut = {"truncation": True} if case.options.get("truncation") else {}

    def call(row):
        (out,) = pipe(row["text"], **cut, **values)
        (text,) = out.values()
        prompt = pipe.preprocess(row["text"], **cut)
        seen = net.generate(**prompt, generation_config=pipe.generation_config, return_dict_in_generate=True, output_scores=True,
                            **values)
        reason, new = ending(seen.sequences[0].tolist()[1:], case, net.generation_config, text)
        return {"text": text, "finish_reason": reason, "prompt_tokens": prompt["input_ids"].shape[1],
                "generated_tokens": len(new)}, beside(new, None if seen.get("sequences_scores") is None
                                                      else seen.sequences_scores[0].item())
    return call


class Text2Text(Case):
    task_id = "text2text-generation"


class Summarization(Case):
    task_id = "summarization"


class Translation(Case):
    task_id = "translation"


TEXTS = PROMPTS + text_rows(LONG)
STEADY = {"do_sample": False, "max_new_tokens": 16}
ONE_BEAM = {**STEADY, "num_beams": 1}
PREFIXED = "prefix and settings by task_specific_params"
NO_CUT = "nothing is cut: positions are relative"
task("text2text-generation", text2text, [
    *(Text2Text(f"{name}-greedy", name, TEXTS, options=ONE_BEAM, notes=NO_CUT) for name in ("t5", "mt5")),
    *(Text2Text(f"{name}-beams-4", name, TEXTS, options={**STEADY, "num_beams": 4}, notes=BEAMS) for name in ("t5", "mt5")),
    Text2Text("t5-truncated", "t5", TEXTS, options={**ONE_BEAM, "truncation": True}, notes="32 tokens"),
    Text2Text("t5-prefix", "t5", TEXTS, options={**ONE_BEAM, "prefix": "rephrase: "}),
    Text2Text("t5-min-length", "t5", TEXTS, options=ONE_BEAM, generation_config={"min_length": 12},
              notes="min_length counts the decoder's start token"),
    Text2Text("t5-min-new-tokens", "t5", TEXTS, options=ONE_BEAM, generation_config={"min_new_tokens": 12}),
    Text2Text("t5-forced-eos", "t5", TEXTS, options=ONE_BEAM, generation_config={"forced_eos_token_id": 1}),
    Text2Text("t5-forced-bos", "t5", TEXTS, options=ONE_BEAM, generation_config={"forced_bos_token_id": 42}),
    Text2Text("t5-start", "t5", TEXTS, options=ONE_BEAM, generation_config={"decoder_start_token_id": 5}),
    Text2Text("t5-stop", "t5", TEXTS, options={**ONE_BEAM, "stop": ["times", "V"]}),
    Text2Text("t5-repetition-penalty", "t5", TEXTS, options={**ONE_BEAM, "repetition_penalty": 1.4},
              notes="of what the decoder said, not of the input"),
    Text2Text("t5-beams-4-forced-eos", "t5", TEXTS, options={**STEADY, "num_beams": 4}, generation_config={"forced_eos_token_id": 1}),
    Text2Text("t5-beams-4-no-repeat", "t5", TEXTS, options={**STEADY, "num_beams": 4}, generation_config={"no_repeat_ngram_size": 2}),
    *(Text2Text(f"mt5-beams-3-{stopping}-{penalty}".lower(), "mt5", TEXTS, options={**STEADY, "num_beams": 3},
                generation_config={"early_stopping": stopping, "length_penalty": penalty, "no_repeat_ngram_size": 3})
      for stopping, penalty in [(False, 0.6), (True, 1.0), ("never", 2.0)]),
])
task("summarization", text2text, [
    Summarization("t5", "t5", TEXTS, options=STEADY, notes=PREFIXED),
    Summarization("t5-greedy", "t5", TEXTS, options=ONE_BEAM, notes=PREFIXED),
    Summarization("t5-prefix", "t5", TEXTS, options={**STEADY, "prefix": "tl;dr: "}, notes="another prefix, the other settings of the model"),
    Summarization("mt5", "mt5", TEXTS, options=STEADY, notes="no task_specific_params: no prefix, four beams (the pipeline's own default)"),
    Summarization("t5-no-limit", "t5", text_rows("I bought one for my sister"), options={"do_sample": False},
                  notes="max_new_tokens 256, the pipeline's default, comes before max_length 24 of task_specific_params"),
])
task("translation", text2text, [
    Translation("t5", "t5", TEXTS, options=STEADY, notes="no languages: the first `translation…` of task_specific_params, en_to_de"),
    Translation("t5-en-de", "t5", TEXTS, options={**STEADY, "src_lang": "en", "tgt_lang": "de"},
                notes=PREFIXED + ": what transformers calls the task translation_en_to_de"),
    Translation("t5-en-fr", "t5", TEXTS, options={**STEADY, "src_lang": "en", "tgt_lang": "fr"}, notes=PREFIXED),
    Translation("t5-en-ro", "t5", TEXTS, options={**STEADY, "src_lang": "en", "tgt_lang": "ro"},
                notes="not in task_specific_params: no prefix, four beams"),
    Translation("mt5", "mt5", TEXTS, options={**STEADY, "num_beams": 2}),
])


# ------------------------------------------------------------------------------ loglikelihood
def log_probabilities(net, ids):
    """The log-probability of every token after the first."""
    with torch.inference_mode():
        logits = net(torch.tensor([ids])).logits[0, :-1].double()
    return logits.log_softmax(-1)[range(len(ids) - 1), ids[1:]].tolist()


def loglikelihood(path, case, change):
    net, tokenizer = loaded(AutoModelForCausalLM, path, change)
    most = net.config.n_positions
    end = tokenizer.eos_token_id

    def value(scores, **more):
        total = math.fsum(scores)
        return {"loglikelihood": total, "tokens": len(scores), "perplexity": math.exp(-total / len(scores)) if scores else None}, more

    def windows(ids):
        scores, losses, done = [], [], 0
        for begin in range(0, len(ids), case.options["stride"]):
            stop = min(begin + most, len(ids))
            new, window = stop - done, torch.tensor([ids[begin:stop]])
            here = log_probabilities(net, ids[begin:stop])
            scores += here[-new:] if begin else here
            labels = window.clone()
            labels[:, :-new] = -100
            counted = int((labels != -100).sum()) - 1
            with torch.inference_mode():
                losses.append((net(window, labels=labels).loss.item() * counted, counted))
            done = stop
            if stop == len(ids):
                break
        counted = sum(n for _, n in losses)
        return value(scores, hf_page_perplexity=math.exp(sum(x for x, _ in losses) / counted) if counted else None)

    def call(row):
        if "continuation" in row:
            context, continuation = row["context"], row["continuation"]
            bare = context.rstrip()
            continuation, context = context[len(bare):] + continuation, bare
            before = tokenizer(context)["input_ids"] if context else [end]
            after = tokenizer(context + continuation)["input_ids"][len(before) if context else 0:]
            ids = (before + after)[-(most + 1):]
            with torch.inference_mode():
                scores = net(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)[range(len(ids) - 1), ids[1:]].tolist()
            return value(scores[-len(after):])
        ids = tokenizer(row["text"], truncation=bool(case.options.get("truncation")))["input_ids"]
        if not ids:
            raise ValueError("no token")
        return windows(ids) if "stride" in case.options else value(log_probabilities(net, ids))
    return call


PLAIN = "the sum over the tokens after the first, which `tokens` counts; perplexity exp(-loglikelihood / tokens), null without tokens"
STRIDES = ("each token after the first once, with what its window holds before it. `hf_page_perplexity` is the sum as the page "
           "`Perplexity of fixed-length models` makes it, which weighs every window with one token too few")
SPANS = [{"context": a, "continuation": b} for a, b in [
    (None, "x"), ("x", None), ("The film is", " slow at first"), ("The film is ", "slow at first"), ("The film", "s are slow"),
    ("", "Harbour"), ("🙂", " 房间"), ("\"Why\"\n", "so?"), ("Cafe\u0301", " nai\u0308ve  "), (LONG, " It was quiet."), ("short", " a")]]
task("loglikelihood", loglikelihood, [
    Case("gpt2", "gpt2", PROMPTS, notes=PLAIN),
    Case("gpt2-several-eos", "gpt2-several-eos", PROMPTS, notes=PLAIN),
    Case("gpt2-truncated", "gpt2", TEXTS, options={"truncation": True}, notes=PLAIN + "; the first 64 tokens"),
    *(Case(f"gpt2-stride-{stride}", "gpt2", TEXTS + text_rows(LONG * 2), options={"stride": stride}, notes=STRIDES)
      for stride in (16, 63, 64)),
    Case("gpt2-continuation", "gpt2", SPANS, {"context": "context", "continuation": "continuation"},
         notes="as lm-evaluation-harness: spaces at the end of the context go to the continuation; its tokens are those of both "
               "together after as many as the context alone has; an empty context is <|endoftext|>; the start of what is too long is cut"),
])


# ------------------------------------------------------------------------------ warpers
WARPERS = [
    {}, {"temperature": 0.5}, {"temperature": 1.7}, {"top_k": 1}, {"top_k": 5}, {"top_k": 1000}, {"top_p": 0.5}, {"top_p": 0.9},
    {"top_p": 0.0001}, {"min_p": 0.05}, {"min_p": 0.5}, {"repetition_penalty": 1.3}, {"repetition_penalty": 0.8},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8}, {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.2},
    {"temperature": 1.3, "top_p": 0.95, "repetition_penalty": 2.0}, {"temperature": 2.0, "min_p": 0.2}, {"top_k": 3, "top_p": 0.3},
]


def warpers(folder):
    """Log-probabilities for sampling: the output of the processors that generate() builds, in its order."""
    net = AutoModelForCausalLM.from_pretrained(model_folder("gpt2"))
    rng = np.random.default_rng(7)
    rows = []
    for name, size, scale in [("spread", 24, 2.0), ("flat", 24, 0.2), ("sharp", 24, 6.0), ("wide", 60, 1.5)]:
        logits = (rng.standard_normal(size) * scale).astype(np.float32)
        for ids in ([], [3, 5, 3, size - 1]):
            for options in WARPERS:
                if not ids and "repetition_penalty" in options:
                    continue
                config = GenerationConfig(**{"do_sample": True, "top_k": 0, **options})
                net._prepare_special_tokens(config, device="cpu")
                processors = net._get_logits_processor(config, input_ids_seq_length=len(ids), logits_processor=LogitsProcessorList(),
                                                       device="cpu")
                scores = processors(torch.tensor([ids], dtype=torch.long), torch.tensor(logits)[None].clone())[0]
                probabilities = scores.double().log_softmax(-1).tolist()
                rows.append({"name": name, "logits": short(logits.tolist()), "input_ids": ids, "options": options,
                             "log_probabilities": short([None if math.isinf(p) else p for p in probabilities])})
    write_golden(folder, {"task": "text-generation", "cases": rows,
                          "notes": "do_sample is true and top_k is 0 where not given (transformers' own default is 50); null is "
                                   "minus infinity; repetition_penalty goes by input_ids", "library versions": library_versions()},
                 "warpers.json")


CASES["tasks/warpers"] = warpers
