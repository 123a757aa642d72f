"""Makes the goldens of `heads/`: tiny checkpoints of every Auto class, and their outputs.

A cell is a line of the table in cases_heads.py or cases_images.py. This module turns it into a
model directory (`Family` knows the configuration and tokenizer of a model_type, `HEADS` the Auto
class and the inputs of a folder's name) and writes its golden.json and golden.safetensors.
"""
import json
import os
import re
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer

import tiny_tokenizers as tiny
import tiny_tokenizers_seq2seq as tiny_seq2seq
from tools import CASES, MAX_LENGTH, randomise, remove, save, skip, versions, write_golden, write_tensors

FEW_TOKENS = 6       # attentions are kept for rows of at most this many tokens
LM_MAX_LENGTH = 10   # logits over the vocabulary are large, so these rows are short
TEXT_HEADS = {       # folder: Auto class, inputs
    "model": ("AutoModel", "texts"),
    "for-causal-lm": ("AutoModelForCausalLM", "lm"),
    "for-masked-lm": ("AutoModelForMaskedLM", "lm"),
    "for-seq2seq-lm": ("AutoModelForSeq2SeqLM", "seq2seq"),
    "for-sequence-classification": ("AutoModelForSequenceClassification", "texts"),
    "for-question-answering": ("AutoModelForQuestionAnswering", "pairs"),
    "for-token-classification": ("AutoModelForTokenClassification", "texts"),
    "for-multiple-choice": ("AutoModelForMultipleChoice", "choices"),
    "for-next-sentence-prediction": ("AutoModelForNextSentencePrediction", "pairs"),
}
# The last matrix of a head, scaled up to spread its logits.
LAST_WEIGHT = re.compile(r"(^|\.)(classifier|cls_classifier|distillation_classifier|out_proj|qa_outputs|score|seq_relationship)\.weight$")

TOKENIZER_FILES = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
                   "sentencepiece.bpe.model", "spiece.model", "source.spm", "target.spm", "target_vocab.json"}
SPREAD = {"for-multiple-choice": 12, "for-next-sentence-prediction": 12, "for-sequence-classification": 6}


# ------------------------------------------------------------------------------- families
def bert_like(shape, **changes):
    hidden, layers, heads, intermediate = shape
    return dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=intermediate, **changes)


def distilbert_like(shape, **changes):
    hidden, layers, heads, intermediate = shape
    return dict(dim=hidden, n_layers=layers, n_heads=heads, hidden_dim=intermediate, **changes)


def gpt2_like(shape, **changes):
    hidden, layers, heads, intermediate = shape
    return dict(n_embd=hidden, n_layer=layers, n_head=heads, n_inner=intermediate, **changes)


def t5_like(shape, **changes):
    hidden, layers, heads, intermediate, d_kv = shape
    return dict(d_model=hidden, num_layers=layers, num_heads=heads, d_ff=intermediate, d_kv=d_kv,
                **{"decoder_start_token_id": 0, **changes})


def bart_like(shape, **changes):
    """The decoder has one layer more than the encoder, and a feed-forward network of its own size."""
    hidden, layers, heads, intermediate = shape
    return dict(d_model=hidden, encoder_layers=layers, encoder_attention_heads=heads,
                encoder_ffn_dim=intermediate,
                **{"decoder_layers": layers + 1, "decoder_attention_heads": heads, "decoder_ffn_dim": intermediate - 6, **POSITIONS, **changes})


LATIN = {"en", "de", "fr"}
POSITIONS, POSITIONS_FROM_2 = {"max_position_embeddings": MAX_LENGTH}, {"max_position_embeddings": MAX_LENGTH + 2}
ROBERTA = {**POSITIONS_FROM_2, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
FAMILIES = {  # model_type: tokenizer of (max_length, size), configuration of (shape, changes), what all its cells have
    "bert": (lambda n, size: tiny.bert(max_length=n, size=size), bert_like, POSITIONS),
    "roberta": (tiny.roberta, bert_like, ROBERTA),
    "xlm-roberta": (lambda n, size: tiny.xlm_roberta(n, rule="few", size=size, languages=LATIN), bert_like, ROBERTA),
    "camembert": (lambda n, size: tiny.camembert(n, size=size, languages={"fr", "en"}), bert_like,
                  {**ROBERTA, "bos_token_id": 5, "eos_token_id": 6}),
    "distilbert": (tiny.distilbert, distilbert_like, POSITIONS),
    "mpnet": (tiny.mpnet, bert_like, {**POSITIONS_FROM_2, "layer_norm_eps": 1e-5}),
    "gpt2": (tiny.gpt2, gpt2_like, {"n_positions": MAX_LENGTH}),
    "t5": (tiny.t5, t5_like, {}),
    "mt5": (lambda n, size: tiny.t5(n, size, extra_ids=0), t5_like, {}),
    "umt5": (lambda n, size: tiny.t5(n, size, extra_ids=0), t5_like, {}),
    "bart": (tiny_seq2seq.bart, bart_like, {}),
    "mbart": (tiny_seq2seq.mbart, bart_like, {"scale_embedding": True}),
    "pegasus": (tiny_seq2seq.pegasus, bart_like, {"scale_embedding": True, "activation_function": "relu"}),
    "marian": (tiny_seq2seq.marian, bart_like, {"scale_embedding": True, "activation_function": "swish"}),
    "m2m_100": (tiny_seq2seq.m2m_100, bart_like, {}),
}
T5_LIKE = ("t5", "mt5", "umt5")
LIBRARY_5 = ("umt5", "bart", "mbart", "pegasus", "marian", "m2m_100")     # model types whose cells are made with transformers 5
SEQ2SEQ = ("t5", "mt5", *LIBRARY_5)


# ---------------------------------------------------------------------------------- texts
LONG = "The little inn by the harbour was quiet, bright and very clean, and the bread was still warm. " * 2
SPECIAL = {**{name: ("[MASK]", "[SEP]") for name in ("bert", "distilbert", "electra", "albert", "deberta", "deberta-v2")},
           "gpt2": ("<|endoftext|>", "<|endoftext|>"),
           **{model_type: ("<extra_id_0>", "</s>") for model_type in T5_LIKE},
           "marian": (">>fra<<", "</s>"), "m2m_100": ("__fr__", "</s>"), "pegasus": ("<mask_2>", "</s>")}
TARGETS = ["", "Bread", 'La «chambre»\nétait 🙂', "The film is slow at first, and then you cannot look away. Look!", None]


def special(model_type):
    """<mask> or a substitute, and the token between sentences."""
    return SPECIAL.get(model_type, ("<mask>", "</s>"))


def one_token(tokenizer):
    """A text of one token."""
    def content(text):
        return [i for i in tokenizer(text)["input_ids"] if i not in tokenizer.all_special_ids]
    return next(text for text in ("good", "the", "a") if len(content(text)) == 1)


def inputs(kind, model_type, tokenizer):
    """The rows of a cell: texts, pairs, or prompts with their choices."""
    word, (mask, end) = one_token(tokenizer), special(model_type)
    if kind in ("lm", "seq2seq"):
        return {"texts": ["", word, f'a {mask} "b"\nà', "🙂 房 Crème", LONG]}
    if kind == "pairs":
        return {"pairs": [["", ""], [word, word], ["Who?", 'She said: "I did"\nand left'], ["Où ça?", "Crème à Kraków 房间 🙂👍🏽"],
                          ["", LONG], [LONG, LONG], [f"a {mask} b", f"c {end} d"], ["Was it quiet?", "The little inn was quiet."]]}
    if kind == "choices":
        return {"prompts": ["", word, "Où ça?\n", LONG],
                "choices": [["", word], ["a", word, 'She said: "I did"'], ["房间 🙂", "à Kraków"], ["yes", "no, never", LONG, ""]]}
    return {"texts": ["", word, 'He said: "It\'s fine"\nand left', "Crème à Kraków 房间 🙂👍🏽", f"a {mask} b {end} c{end}", LONG,
                      "The film is slow at first."]}


def rows(value):
    """The tokenizer's input for each row: (text,) or (text, second text); lists of them for choices."""
    if "pairs" in value:
        return [tuple(pair) for pair in value["pairs"]]
    if "prompts" in value:
        return [[(prompt, choice) for choice in choices] for prompt, choices in zip(value["prompts"], value["choices"])]
    return [(text,) for text in value["texts"]]


# -------------------------------------------------------------------------------- goldens
def tensors(encoded):
    return {k: torch.tensor([v], dtype=torch.long) for k, v in encoded.items() if k in ("input_ids", "token_type_ids", "attention_mask")}


def first(y, *names):
    """The outputs without their batch dimension; layers stacked."""
    out = {}
    for name in names:
        value = getattr(y, name, None)
        if isinstance(value, tuple) and value:
            if len({v.shape for v in value}) == 1:      # the last hidden state may have another size (OPT)
                out[name] = torch.stack([v[0] for v in value])
        elif isinstance(value, torch.Tensor):
            out[name] = value[0]
    return out


def base_outputs(model, call):
    """`call()`, and the output of the model without its head (None for T5 models that contain their stacks directly)."""
    caught, base = [], getattr(model, model.base_model_prefix, None) if hasattr(model, model.base_model_prefix) else None
    hook = None if base is None else base.register_forward_hook(lambda _module, _inputs, y: caught.append(y))
    with torch.inference_mode():
        y = call()
    if hook is not None:
        hook.remove()
    return y, caught[0] if caught else None


def collect(out, model, call, i, few, shown, suffix=""):
    """Stores the outputs of row `i` in `out`: hidden states if `shown`, attentions if it has `few` tokens."""
    y, base = base_outputs(model, call)
    kept = first(y, "logits", "start_logits", "end_logits", "pooler_output")
    if not suffix and "logits" not in kept and "start_logits" not in kept:      # a model without a head
        kept |= first(y, "last_hidden_state", "encoder_last_hidden_state")
    if shown:
        kept |= first(y, "hidden_states", "encoder_hidden_states", "decoder_hidden_states", "encoder_last_hidden_state")
        if "last_hidden_state" not in kept:
            states = y.get("decoder_hidden_states") or y.get("hidden_states")
            kept["last_hidden_state"] = states[-1][0] if base is None else base[0][0]
    if few:
        kept |= first(y, "attentions", "encoder_attentions", "decoder_attentions", "cross_attentions")
    if suffix:
        kept.pop("logits")
    out.update({f"{name}.{i}{suffix}": value for name, value in kept.items()})
    return y


def load(folder, auto_class, attention="eager", **options):
    """The model from `from_pretrained`, with every weight from the files."""
    model, info = getattr(transformers, auto_class).from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention, output_loading_info=True, **options)
    assert not info["missing_keys"] and not info["mismatched_keys"], (folder, info)
    return model.eval()


def text_golden(folder, model_type, auto_class, kind, notes, load_options=None, refused=False):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    value = {"auto_class": auto_class, "architectures": AutoConfig.from_pretrained(folder).architectures}
    if refused:     # what `from_pretrained` says to the directory as it stands; the rest is with `load_options`
        try:
            load(folder, auto_class)
            raise AssertionError(f"{folder} was to be refused")
        except RuntimeError as error:
            value |= {"error": str(error), "from_pretrained": load_options}
    model = load(folder, auto_class, **(load_options or {}))
    max_length = LM_MAX_LENGTH if hasattr(model, "lm_head") or kind == "lm" else MAX_LENGTH
    given, out, ids, types, decoder_ids = inputs(kind, model_type, tokenizer), {}, [], [], []

    def encode(row):
        return tokenizer(*row, truncation=True, max_length=max_length)

    encoded = [[encode(choice) for choice in row] if isinstance(row, list) else encode(row) for row in rows(given)]
    lengths = [max(len(e["input_ids"]) for e in (row if isinstance(row, list) else [row])) for row in encoded]
    assert max(lengths) == max_length, (folder, lengths)
    shown = {1, lengths.index(max_length)}
    for i, row in enumerate(encoded):
        choices = row if isinstance(row, list) else None
        one = choices[0] if choices else row
        ids.append([e["input_ids"] for e in choices] if choices else one["input_ids"])
        types.append([e.get("token_type_ids") for e in choices] if choices else one.get("token_type_ids"))
        if choices:
            choose(out, model, tokenizer, choices, i, i in shown)
            continue
        options = dict(output_hidden_states=True, output_attentions=True)
        length = len(one["input_ids"])
        if model.config.is_encoder_decoder and kind == "seq2seq":
            options["decoder_input_ids"] = decoder_input(model, tokenizer, one, TARGETS[i], max_length)
            decoder_ids.append(options["decoder_input_ids"][0].tolist())
            length = max(length, len(decoder_ids[-1]))
        if length == 0:     # GPT-2 makes no token of an empty text, and the library fails on no tokens
            continue
        collect(out, model, lambda: model(**tensors(one), **options), i, length <= FEW_TOKENS, i in shown)
    check(folder, out)
    write_tensors(folder, out)
    write_golden(folder, {
        **value, "model_class": type(model).__name__, "library versions": versions(), "max_length": max_length, "notes": notes, **given,
        "input_ids": ids, "token_type_ids": None if types[0] is None or types[0] == [None, None] else types,
        **({"targets": TARGETS, "decoder_input_ids": decoder_ids} if decoder_ids else {})})


def decoder_input(model, tokenizer, encoded, target, max_length):
    """The target's tokens shifted right, or the input's if there is no target."""
    labels = encoded["input_ids"] if target is None else tokenizer(target, truncation=True, max_length=max_length)["input_ids"]
    if hasattr(model, "_shift_right"):
        return model._shift_right(torch.tensor([labels]))
    shift, config = sys.modules[type(model).__module__].shift_tokens_right, model.config
    start = () if config.model_type == "mbart" else (config.decoder_start_token_id,)
    return shift(torch.tensor([labels]), config.pad_token_id, *start)


def choose(out, model, tokenizer, choices, i, shown):
    """One logit per choice, computed alone, and checked against one padded batch."""
    logits = []
    for j, encoded in enumerate(choices):
        few = len(encoded["input_ids"]) <= FEW_TOKENS
        one = {k: v[:, None] for k, v in tensors(encoded).items()}
        logits.append(collect(out, model, lambda: model(**one, output_hidden_states=True, output_attentions=True), i,
                              few and j == 0, shown and j == 0, suffix=f".{j}").logits[0, 0])
    out[f"logits.{i}"] = torch.stack(logits)
    padded = tokenizer.pad({k: [e[k] for e in choices] for k in choices[0].keys()}, return_tensors="pt")
    with torch.inference_mode():
        together = model(**{k: v[None] for k, v in padded.items()}).logits[0]
    assert torch.allclose(out[f"logits.{i}"], together, atol=1e-5), (i, out[f"logits.{i}"], together)


def check(folder, out):
    """Logits of order 1 that differ between rows."""
    for name in ("logits", "start_logits", "end_logits"):
        values = [v.flatten() for k, v in out.items() if k.startswith(name + ".")]
        if values:
            spread = torch.cat(values).std().item()
            assert 0.25 < spread < 5, (folder, name, spread)
            if len({v.shape for v in values}) == 1:
                assert torch.stack(values).std(0).max().item() > 0.2, (folder, name, "the rows are too much alike")
            assert len({tuple(v.tolist()) for v in values}) == len(values), (folder, name)


# ---------------------------------------------------------------------------------- cells
def spread_head(model, factor):
    with torch.no_grad():
        for key, p in model.named_parameters():
            if LAST_WEIGHT.search(key):
                p.mul_(factor)
    return model


def edit_weights(folder, change):
    """Rewrites model.safetensors; `change` gets the tensors by name and returns the new ones."""
    path = os.path.join(folder, "model.safetensors")
    save_file({k: v.contiguous().clone() for k, v in change(load_file(path)).items()}, path, {"format": "pt"})


def compact(folder):
    """tokenizer.json without white space, to keep the repository small."""
    path = os.path.join(folder, "tokenizer.json")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            value = json.load(f)
        with open(path, "w", encoding="utf-8") as f:
            json.dump(value, f, ensure_ascii=False, separators=(",", ":"))


def text_cell(path, shape, vocab=200, *, notes="", labels=None, extra_rows=0, without=(), dtype=None, prepare=None, edit=None,
              kind=None, spread=None, save_options=None, load_options=None, refused=False, after=None, **changes):
    """Registers a cell. `path` is model_type/head[-variant]; `changes` go into the configuration.

    `vocab` is the tokenizer's size; `extra_rows` adds embedding rows beyond its tokens; `without`: files
    removed; `prepare(tokenizer, config)` and `edit(folder)` change the saved files; `after(folder)` adds to the golden.
    """
    model_type, folder_name = path.split("/")
    head = max((h for h in TEXT_HEADS if folder_name == h or folder_name.startswith(h + "-")), key=len)
    auto_class, default_kind = TEXT_HEADS[head]
    name = f"heads/{path}"

    def build(folder):
        if (model_type in LIBRARY_5) != (int(transformers.__version__.split(".")[0]) >= 5):
            skip(f"{name} is made with transformers {'5.24' if model_type in LIBRARY_5 else '4.57'}")
        make_tokenizer, configure, common = FAMILIES[model_type]
        tokenizer = make_tokenizer(MAX_LENGTH, vocab)
        options = {**common, **changes}
        if labels is not None:
            options |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer) + extra_rows, **configure(shape, **options))
        if model_type in LIBRARY_5 and model_type not in T5_LIKE:
            config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
            if model_type == "marian":
                config.decoder_start_token_id, config.forced_eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
        if model_type == "gpt2":
            config.bos_token_id = config.eos_token_id = tokenizer.eos_token_id
        if prepare:
            prepare(tokenizer, config)
        model = spread_head(randomise(getattr(transformers, auto_class).from_config(config), name), 
                            spread or SPREAD.get(head, 3))
        save(folder, model if dtype is None else model.to(dtype), tokenizer, **(save_options or {}))
        compact(folder)
        remove(folder, *without)
        if edit:
            edit(folder)
        row_kind = kind or ("seq2seq" if model_type in SEQ2SEQ and head == "model" else default_kind)
        text_golden(folder, model_type, auto_class, row_kind, notes, load_options=load_options, refused=refused)
        if after:
            after(folder)
        if model_type in LIBRARY_5 and folder_name != "model":      # one tokenizer is enough
            remove(folder, *(set(os.listdir(folder)) & TOKENIZER_FILES))

    CASES[name] = build
