"""How the goldens of `modern/` are made: the decoders and encoders with rotary embeddings, by transformers 5.24.

As heads.py, whose texts and outputs these are; what differs is the weights (norms around 1, or around 0 where the
library adds 1; products that keep numbers of order 1), longer rows over the vocabulary, and `generate.json`.
"""
import copy
import os
import re
import zlib

import torch
import transformers
from transformers import AutoConfig

import tiny_tokenizers_modern as tiny
from heads import FEW_TOKENS, TEXT_HEADS, check, choose, collect, compact, edit_weights, inputs, load, rows, spread_head, tensors
from texts import NASTY
from tools import CASES, MAX_LENGTH, rewrite, save, skip, versions, write_golden, write_tensors
from tools_tasks import nudge, short

LIBRARY = "5.24.0"
MASKED_LM_MAX_LENGTH = 16       # logits over the vocabulary are large
ADDS_ONE = {"gemma", "gemma2", "gemma3_text"}       # RMSNorm multiplies with 1 + weight
QUERIES_AND_KEYS = re.compile(r"[qk]_proj|qkv|query|key|in_proj")
LAST_NORM = re.compile(r"^(model|transformer|gpt_neox)\.(decoder\.)?(norm|ln_f|final_layernorm|final_layer_norm)\.weight$")
OUTPUTS = re.compile(r"(o_proj|down_proj|Wo)\.weight$")
NEW_TOKENS = 12
ATTEMPTS = 12       # random weights that are tried until the outputs spread and their digits hold


# ------------------------------------------------------------------------------ weights
def randomise(model, name, adds_one, embeddings):
    """Random weights everywhere. Products keep the order of their inputs; queries and keys are larger, for uneven attention.

    In a causal language model the last norm has weights of either sign: a tied head would repeat the token it reads.
    """
    centre, lively = 0 if adds_one else 1, hasattr(model, "lm_head") and hasattr(model, "generate")
    rng = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    with torch.no_grad():
        for key, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=rng)
            if key.endswith("bias"):
                p.copy_(0.2 * noise)
            elif LAST_NORM.search(key) and lively:
                p.copy_(noise + (centre - 1))
            elif p.ndim == 1:
                p.copy_(centre + 0.2 * noise)
            elif id(p) in tables:
                p.copy_(embeddings * noise)
            else:
                gain = 1.5 if QUERIES_AND_KEYS.search(key) else 0.6 if OUTPUTS.search(key) else 1.1
                inputs = p.shape[1] * p.shape[2] if key.endswith("conv.weight") else p.shape[-1]      # experts are stacked
                p.copy_(gain * inputs ** -0.5 * noise)
    return model.eval()


# ------------------------------------------------------------------------------ goldens
def golden(folder, model_type, auto_class, kind, notes, tokenizer, attention):
    value = {"auto_class": auto_class, "architectures": AutoConfig.from_pretrained(folder).architectures}
    model = load(folder, auto_class, attention)
    max_length = MASKED_LM_MAX_LENGTH if auto_class == "AutoModelForMaskedLM" else MAX_LENGTH
    given, out, ids, types = inputs(kind, model_type, tokenizer), {}, [], []

    def encode(row):
        return tokenizer(*row, truncation=True, max_length=max_length)

    encoded = [[encode(choice) for choice in row] if isinstance(row, list) else encode(row) for row in rows(given)]
    lengths = [max(len(e["input_ids"]) for e in (row if isinstance(row, list) else [row])) for row in encoded]
    assert max(lengths) == max_length, (folder, lengths)
    shown = {1, lengths.index(max_length)}
    for i, row in enumerate(encoded):
        choices = row if isinstance(row, list) else None
        ids.append([e["input_ids"] for e in choices] if choices else row["input_ids"])
        types.append(row.get("token_type_ids") if choices is None else [e.get("token_type_ids") for e in choices])
        if choices:
            choose(out, model, tokenizer, choices, i, i in shown)
        elif lengths[i]:        # the library fails on no tokens
            # A rotary embedding that scales by length remembers the longest row so far, so each row has a model of its own.
            one = copy.deepcopy(model)
            collect(out, one, lambda: one(**tensors(row), output_hidden_states=True, output_attentions=attention == "eager"), i,
                    attention == "eager" and lengths[i] <= FEW_TOKENS, i in shown)
    check(folder, out)
    exact(folder, auto_class, encoded, out, attention)
    write_tensors(folder, out)
    write_golden(folder, {
        **value, "model_class": type(model).__name__, "library versions": versions(), "max_length": max_length, "notes": notes, **given,
        "input_ids": ids, "token_type_ids": None if types[0] is None or types[0] == [None] * len(types[0]) else types})


def exact(folder, auto_class, encoded, out, attention):
    """The same in f64, as far as the library does not convert to f32 itself: no number hangs on the order of a sum."""
    # Two kernels that are each this close differ by at most 5e-6.
    most = 2.5e-6 if os.path.basename(folder) == "model" else 5e-6
    model = load(folder, auto_class, attention)
    if getattr(model.config, "num_experts_per_tok", None):
        model.set_experts_implementation("eager")      # the others do not compute in f64
    model = model.double()
    for i, row in enumerate(encoded):
        if isinstance(row, list) or not row["input_ids"]:
            continue
        with torch.inference_mode():
            y = copy.deepcopy(model)(**tensors(row), output_hidden_states=True)
        for name, ours in (("hidden_states", [h[0] for h in y.hidden_states]), ("logits", getattr(y, "logits", None))):
            if f"{name}.{i}" in out and ours is not None:
                ours = torch.stack(ours) if isinstance(ours, list) else ours[0]
                off = (out[f"{name}.{i}"] - ours).abs().max().item()
                assert off < most, (folder, name, i, off)


# ----------------------------------------------------------------------------- generation
def generated(folder, prompt, options, change, attention="eager"):
    """What `generate` gives for one prompt, by a model of its own: see `golden`."""
    model = change(load(folder, "AutoModelForCausalLM", attention))
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **options}
    model.generation_config.eos_token_id = settings.pop("eos_token_id")
    ids = torch.tensor([prompt])
    y = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, output_logits=True, output_scores=True,
                       return_dict_in_generate=True, **settings)
    tokens = y.sequences[0, len(prompt):].tolist()
    ends = [tokens.index(end) + 1 for end in options["eos_token_id"] or [] if end in tokens]
    row = {"prompt": prompt, "tokens": tokens[:min(ends, default=None)], "first_logits": short(y.logits[0][0][:8].tolist())}
    return row if options.get("num_beams", 1) == 1 else {**row, "sequences_score": short(y.sequences_scores[0].item())}


def prompts(vocab_size, seed):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randint(5, vocab_size, (length,), generator=rng).tolist() for length in (1, 4, 9, 15)]


def generate(folder, attention):
    """generate.json: greedy and with beams, each prompt alone; prompts are taken that are not next to a tie."""
    vocab_size = AutoConfig.from_pretrained(folder).vocab_size
    cases, seed = [], 0

    def steady(options):
        nonlocal seed
        for seed in range(seed, seed + 40):
            found = [generated(folder, prompt, options, lambda model: model, attention) for prompt in prompts(vocab_size, seed)]
            other = [generated(folder, row["prompt"], options, nudge, attention) for row in found]
            if [row["tokens"] for row in found] == [row["tokens"] for row in other]:
                cases.append({**options, "rows": found})
                return found
        raise AssertionError(f"{folder}: every prompt is next to a tie")

    found = steady({"eos_token_id": None})
    assert len({token for row in found for token in row["tokens"]}) > 8, (folder, found)
    ends = sorted({found[1]["tokens"][5], found[3]["tokens"][2]})
    steady({"eos_token_id": ends})
    steady({"eos_token_id": None, "num_beams": 3})
    steady({"eos_token_id": ends, "num_beams": 4, "length_penalty": 0.5})
    write_golden(folder, {"library versions": versions(), "max_new_tokens": NEW_TOKENS, "cases": cases,
                          "notes": "each prompt alone; `sequences_score` of the best beam; `first_logits`: the first eight of the "
                                   "token after the prompt"}, "generate.json")


# ---------------------------------------------------------------------------------- cells
TOKENIZERS = {"llama": tiny.llama3, "mistral": tiny.llama2, "qwen2": tiny.qwen2, "qwen3": tiny.qwen2, "smollm3": tiny.smollm3,
              "phi3": tiny.llama2, "gemma": tiny.gemma, "gemma2": tiny.gemma, "gemma3_text": tiny.gemma, "modernbert": tiny.modernbert,
              "nomic_bert": tiny.bert, "gte": tiny.xlm_roberta, "eurobert": tiny.eurobert,
              "deberta": tiny.deberta, "deberta-v2": tiny.deberta_v2, "electra": tiny.bert, "albert": tiny.albert,
              "xlm-roberta-xl": tiny.xlm_roberta, "phi": tiny.gpt2, "gptj": tiny.gpt2, "gpt_neo": tiny.gpt2, "starcoder2": tiny.gpt2,
              "gpt_neox": tiny.gpt_neox, "opt": tiny.opt, "olmo2": tiny.smollm3, "granite": tiny.smollm3, "stablelm": tiny.smollm3,
              "falcon": tiny.smollm3, "bloom": tiny.smollm3, "mixtral": tiny.llama2, "qwen3_moe": tiny.qwen2,
              "jina_bert_v2": tiny.bert, "jina_embeddings_v3": tiny.xlm_roberta, "embedding_gemma2": tiny.gemma,
              "embedding_gemma2_text": tiny.gemma}
OUTER = ("image_token_id", "audio_token_id", "video_token_id")      # settings beside `text_config`


def token_ids(tokenizer, model_type):
    """The ids of special tokens, as the family's configuration names them."""
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    if model_type == "modernbert":
        cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        ids |= {"bos_token_id": cls, "eos_token_id": sep, "cls_token_id": cls, "sep_token_id": sep}
    elif model_type == "eurobert":
        ids["mask_token_id"] = tokenizer.mask_token_id
    return ids


def configuration(model_type, options):
    """The configuration; that of EmbeddingGemma 2 is around the one of its text model."""
    if model_type == "jina_bert_v2":
        import jina_bert  # noqa: F401 (downloads its classes and registers them)
    if model_type == "embedding_gemma2":
        outer = {key: options.pop(key) for key in OUTER if key in options}
        return AutoConfig.for_model(model_type, text_config=options, vision_config=None, audio_config=None, **outer)
    return AutoConfig.for_model(model_type, **options)


def modern_cell(path, shape, *, notes="", labels=None, kind=None, config_json=None, edit=None, saved_as=None, after=None, embeddings=None, spread=1,
                attention="eager", **changes):
    """Registers a cell. `path` is model_type/head[-variant]; `shape` and `changes` go into the configuration.

    `config_json(config)` rewrites config.json and `edit(weights)` the weights before they are read for the golden, `after(folder)` the directory once the
    golden is made; `saved_as`: the Auto class whose checkpoint this is, where that is another one. Tokenizer files and, for
    decoders, generate.json go into the cells without a variant (`generate.json` into every for-causal-lm).
    """
    model_type, folder_name = path.split("/")
    # The hidden states of a model are compared between kernels: where they are small, norms amplify their rounding.
    embeddings = embeddings or (1 if folder_name == "model" else 0.3)
    head = max((h for h in TEXT_HEADS if folder_name == h or folder_name.startswith(h + "-")), key=len)
    auto_class, default_kind = TEXT_HEADS[head]
    name = f"modern/{path}"

    def build(folder):
        if transformers.__version__ != LIBRARY:
            skip(f"{name} is made with transformers {LIBRARY}")
        tokenizer = TOKENIZERS[model_type](MAX_LENGTH)
        options = {**shape, **token_ids(tokenizer, model_type), **changes}
        if labels is not None:
            options |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        config = configuration(model_type, {"vocab_size": len(tokenizer), **options})
        model = getattr(transformers, saved_as or auto_class).from_config(config)
        for attempt in range(ATTEMPTS):
            randomise(model, f"{name} {attempt}", model_type in ADDS_ONE, embeddings)
            save(folder, spread_head(model, spread), tokenizer)
            compact(folder)
            if config_json:
                rewrite(folder, "config.json", config_json)
            if edit:
                edit_weights(folder, edit)
            try:
                golden(folder, model_type, auto_class, kind or default_kind, notes, tokenizer, attention)
                if auto_class == "AutoModelForCausalLM":
                    generate(folder, attention)
                break
            except AssertionError:
                if attempt + 1 == ATTEMPTS:
                    raise
        if after:
            after(folder)
        if folder_name == "model":
            write_golden(folder, {"texts": NASTY, "input_ids": [tokenizer(text)["input_ids"] for text in NASTY]}, "tokens.json")
        if folder_name != head:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                os.remove(os.path.join(folder, file))

    CASES[name] = build


def written_by_4(**old):
    """config.json as transformers 4 writes it: no `rope_parameters`, but the keys given here; None takes a key away."""
    def change(config):
        config = {key: value for key, value in config.items() if key != "rope_parameters"} | old
        config["torch_dtype"] = config.pop("dtype", "float32")
        return {key: value for key, value in config.items() if value is not None or key not in old} | {
            "transformers_version": "4.57.6"}
    return change
