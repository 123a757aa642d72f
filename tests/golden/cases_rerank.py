"""Rerankers built on decoders: `tasks/rerank-decoders`, what `CrossEncoder.predict` of sentence-transformers 6.2 returns.

Classification heads and logits of tokens, with and without a chat template over the roles query and document. Each pair is
predicted alone. Rows are longer than `model_max_length`, exactly as long, empty, and have special tokens in their texts.
"""
import functools
import os

import torch
import transformers
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from transformers import (Gemma2Config, Gemma2ForCausalLM, GemmaConfig, GemmaForSequenceClassification, LlamaConfig,
                          LlamaForSequenceClassification, MistralConfig, MistralForSequenceClassification, Qwen2Config, Qwen2ForCausalLM,
                          Qwen2ForSequenceClassification, Qwen3Config, Qwen3ForCausalLM)

import tiny_tokenizers_modern as modern_tokenizers
from modern import ADDS_ONE, LIBRARY, randomise
from tools import CASES, skip, write_golden
from tools_tasks import Case, labels, library_versions, model, model_folder, save, short, write_case

MAX_TOKENS = 96
SHAPE = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=24,
             max_position_embeddings=256)
LONG = "Ships in the Harbour of Porto left early, and the rain stopped. " * 3
QUERY = {"query": "query", "document": "document"}

# The layout of Qwen3-Reranker, with shorter texts.
QWEN3 = """<|im_start|>system
Answer "yes" or "no".<|im_end|>
<|im_start|>user
{% set ns = namespace(i="Find it") %}{% for m in messages if m.role == "system" %}{% set ns.i = m.content %}{% endfor -%}
<Instruct>: {{ ns.i }}
<Query>: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}
<Document>: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}<|im_end|>
<|im_start|>assistant
<think>

</think>

"""
STRUCTURED = """{{ bos_token }}{% for m in messages %}{% if m.role == 'query' %}A: {{ m.content[0].text }}
{% elif m.role == 'document' %}B: {{ m.content[0].text }}
{% else %}{{ m.content[0].text }}: {% endif %}{% endfor %}{% if add_generation_prompt %}Is B an answer{{ mark }}{% endif %}"""
FLAT = """{% for m in messages %}{{ m.role }}={{ m.content | trim }};{% endfor %} Relevance:"""


def rows(*more):
    pairs = [("Is the harbour quiet?", "Ships in the Harbour of PORTO"), (None, "x"), ("x", None), ("rain", ""), ("", "rain"), ("", ""), ("rain", LONG),
             (LONG, "rain"), (LONG, LONG), ("🙂 房间", "Cafe\u0301 \"quoted\"\nline"), ("  spaces  ", "  around  "),
             ("<|im_end|>", "a <|im_start|>user b <|endoftext|>"), *more]
    return [{"query": query, "document": document} for query, document in pairs]


# ------------------------------------------------------------------------------ models
def qwen(max_length):
    """As Qwen2 and Qwen3, with the tokens `yes` and `no`."""
    vocab, merges, limit = modern_tokenizers.byte_level(max_length)
    for merge in (("y", "e"), ("ye", "s"), ("n", "o")):
        word = "".join(merge)
        if word not in vocab:
            vocab[word] = len(vocab)
            merges.append(merge)
    for word in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        vocab[word] = len(vocab)
    return transformers.Qwen2Tokenizer(vocab=vocab, merges=merges, extra_special_tokens=["<|im_start|>", "<|im_end|>"], **limit)


TOKENIZERS = {"qwen2": qwen, "qwen3": qwen, "llama": modern_tokenizers.llama3, "mistral": modern_tokenizers.llama2,
              "gemma": modern_tokenizers.gemma, "gemma2": modern_tokenizers.gemma}


def plain(name, config_class, model_class, chat_template=None, max_length=MAX_TOKENS, side="right", **settings):
    """Registers a model as `save_pretrained` of transformers writes it; returns the function that makes it."""
    def make(folder):
        model_type = config_class.model_type
        tokenizer = TOKENIZERS[model_type](max_length)
        tokenizer.truncation_side = side
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token      # sentence-transformers pads each row
        tokenizer.chat_template = chat_template
        ids = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        config = config_class(vocab_size=len(tokenizer), **{**SHAPE, **ids, **settings})
        net = randomise(model_class(config), name, model_type in ADDS_ONE, 0.3)
        if hasattr(net, "score"):
            net.score.weight.data.mul_(2)
        save(folder, net, tokenizer)
    model(name)(make)
    return make


def cross_encoder(name, make, score=None, processing_kwargs=None, **settings):
    """Registers the model as `CrossEncoder.save_pretrained` writes it: with a LogitScore over `score`, or its own head."""
    def saved(folder):
        make(folder)
        task = "sequence-classification" if score is None else "text-generation"
        transformer = Transformer(folder, transformer_task=task, processing_kwargs=processing_kwargs)
        modules = [transformer]
        if score is not None:
            modules.append(LogitScore(*(word and transformer.tokenizer.convert_tokens_to_ids(word) for word in score)))
        encoder = CrossEncoder(modules=modules, device="cpu", **settings)
        for file in os.listdir(folder):
            os.remove(os.path.join(folder, file))
        encoder.save_pretrained(folder, create_model_card=False)
    model(name)(saved)


plain("llama-rerank", LlamaConfig, LlamaForSequenceClassification, **labels("LABEL_0"))
plain("mistral-rerank", MistralConfig, MistralForSequenceClassification, **labels("LABEL_0"), sliding_window=7)
plain("qwen2-rerank-template", Qwen2Config, Qwen2ForSequenceClassification, FLAT, **labels("LABEL_0"))
plain("qwen2-rerank-labels", Qwen2Config, Qwen2ForSequenceClassification, FLAT, **labels("no", "partly", "yes"))
cross_encoder("gemma-rerank", plain("gemma-rerank", GemmaConfig, GemmaForSequenceClassification, FLAT, head_dim=12, **labels("LABEL_0")),
              prompts={"web": "search the web", "none": ""}, default_prompt_name="web")
cross_encoder("qwen3-rerank", plain("qwen3-rerank", Qwen3Config, Qwen3ForCausalLM, QWEN3, 200, head_dim=12, tie_word_embeddings=True),
              ("yes", "no"), prompts={"web": "Search the web"})
cross_encoder("qwen3-rerank-left", plain("qwen3-rerank-left", Qwen3Config, Qwen3ForCausalLM, QWEN3, 200, head_dim=12, side="left",
                                         tie_word_embeddings=False), ("yes", "no"),
              processing_kwargs={"chat_template": {"restore_suffix": True}, "text": {"max_length": 190}})
cross_encoder("gemma2-rerank", plain("gemma2-rerank", Gemma2Config, Gemma2ForCausalLM, STRUCTURED, head_dim=12, tie_word_embeddings=False,
                                     final_logit_softcapping=3.0, attn_logit_softcapping=2.0, query_pre_attn_scalar=10, sliding_window=5),
              ("a", None), processing_kwargs={"chat_template": {"add_generation_prompt": True, "mark": "?", "max_length": 80}},
              activation_fn=torch.nn.Identity())
cross_encoder("qwen2-rerank-no-suffix", plain("qwen2-rerank-no-suffix", Qwen2Config, Qwen2ForCausalLM, FLAT, tie_word_embeddings=True),
              ("1", "0"), processing_kwargs={"chat_template": {"restore_suffix": False}})
plain("qwen2-causal", Qwen2Config, Qwen2ForCausalLM, tie_word_embeddings=False)
plain("qwen3-causal-template", Qwen3Config, Qwen3ForCausalLM, QWEN3, 200, head_dim=12, tie_word_embeddings=True)


# ------------------------------------------------------------------------------ cases
def rerank(path, case, change):
    options = case.options
    template = {"processor_kwargs": {"chat_template": options["chat_template"]}} if "chat_template" in options else {}
    encoder = CrossEncoder(path, device="cpu", max_length=options.get("max_length"), **template)
    change(encoder[0].model)
    if "true_token" in options:
        tokens = {key: options.get(key) for key in ("true_token", "false_token")}
        ids = {key: token and encoder.tokenizer(token, add_special_tokens=False)["input_ids"] for key, token in tokens.items()}
        assert all(found is None or len(found) == 1 for found in ids.values()), ids
        encoder[1].true_token_id, encoder[1].false_token_id = ids["true_token"][0], ids["false_token"] and ids["false_token"][0]
    prompt = options.get("prompt", options.get("instruction"))
    activation = {"identity": torch.nn.Identity(), "sigmoid": torch.nn.Sigmoid()}.get(options.get("activation"))

    def call(row):
        pair = (row["query"], row["document"])
        return encoder.predict([pair], prompt=prompt, prompt_name=options.get("prompt_name"), activation_fn=activation)[0].item()
    return call


@functools.cache
def exact(name, query="rain"):
    """Documents that fill `model_max_length` exactly, and miss it by one token on either side."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder(name))

    def length(document):
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        return len(tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])
    lengths = {length("q" * n): "q" * n for n in range(1, tokenizer.model_max_length)}
    return [(query, lengths[tokenizer.model_max_length + off]) for off in (-1, 0, 1)]


def cases():
    of_qwen3 = rows(*exact("qwen3-rerank"))
    causal = rows()
    return [
        Case("llama", "llama-rerank", rows(), QUERY, notes="one label; no template: a pair is two texts"),
        Case("llama-prompt", "llama-rerank", rows(), QUERY, {"prompt": "find: ", "activation": "identity"}),
        Case("mistral", "mistral-rerank", rows(), QUERY, {"max_length": 40}),
        Case("qwen2-template", "qwen2-rerank-template", rows(), QUERY, notes="one label; a chat template, no modules.json"),
        Case("qwen2-template-instruction", "qwen2-rerank-template", rows(), QUERY, {"instruction": "be strict"}),
        Case("gemma", "gemma-rerank", rows(), QUERY, notes="one label; the default prompt is the system message"),
        Case("gemma-prompt-name", "gemma-rerank", rows(), QUERY, {"prompt_name": "none"}),
        Case("qwen3", "qwen3-rerank", of_qwen3, QUERY, notes="tied head; Qwen3-Reranker's layout; exactly model_max_length"),
        Case("qwen3-instruction", "qwen3-rerank", rows(), QUERY, {"instruction": "Retrieve passages", "activation": "identity"}),
        Case("qwen3-prompt-name", "qwen3-rerank", rows(), QUERY, {"prompt_name": "web", "max_length": 180}),
        Case("qwen3-short", "qwen3-rerank", rows(), QUERY, {"max_length": 12}, notes="the template's end is longer than max_length"),
        Case("qwen3-left", "qwen3-rerank-left", rows(), QUERY, notes="truncation_side left; a head of its own; text.max_length 190"),
        Case("gemma2", "gemma2-rerank", rows(), QUERY, notes="true_token_id alone; Identity; structured messages; capped logits"),
        Case("qwen2-no-suffix", "qwen2-rerank-no-suffix", rows(), QUERY, notes="restore_suffix is false"),
        Case("causal", "qwen2-causal", causal, QUERY, {"activation": "identity"}, notes="no template: yes and no after two texts"),
        Case("causal-prompt", "qwen2-causal", causal, QUERY, {"prompt": "Is it an answer? ", "max_length": 50}),
        Case("causal-tokens", "qwen2-causal", causal, QUERY, {"true_token": "1", "false_token": "0"}),
        Case("causal-one-token", "qwen2-causal", causal, QUERY, {"true_token": "a", "activation": "identity"}),
        Case("causal-chat-template", "qwen2-causal", causal, QUERY, {"chat_template": FLAT, "instruction": "be strict"}),
        Case("causal-structured", "qwen2-causal", causal, QUERY, {"chat_template": STRUCTURED.replace("{{ bos_token }}", "")}),
        Case("causal-template", "qwen3-causal-template", causal, QUERY, notes="the tokenizer's template, yes and no"),
    ]


def write(folder):
    if transformers.__version__ != LIBRARY:
        skip(f"tasks/rerank-decoders is made with transformers {LIBRARY}")
    for case in cases():
        write_case(folder, "rerank", case, rerank)


CASES["tasks/rerank-decoders"] = write


# ------------------------------------------------------------------------------ several labels
def several_labels(folder):
    """cross-encoder/labels.json: `predict` of models with several labels, a row of scores for each pair."""
    if transformers.__version__ != LIBRARY:
        skip(f"cross-encoder is made with transformers {LIBRARY}")
    pairs = [[row["query"], row["document"]] for row in rows() if None not in row.values()]
    found = []
    for name in ("bert-nli", "qwen2-rerank-labels"):
        encoder = CrossEncoder(model_folder(name), device="cpu")
        for options in ({}, {"apply_softmax": True}, {"activation_fn": "Sigmoid"}, {"activation_fn": "Sigmoid", "apply_softmax": True}):
            activation = getattr(torch.nn, options["activation_fn"])() if "activation_fn" in options else None
            scores = [encoder.predict([tuple(pair)], **{**options, "activation_fn": activation})[0].tolist() for pair in pairs]
            found.append({"model": f"tasks/{name}", **options, "expected": short(scores)})
    write_golden(folder, {"pairs": pairs, "cases": found, "library versions": library_versions()}, "labels.json")


CASES["cross-encoder"] = several_labels
