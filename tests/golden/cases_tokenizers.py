"""Tokenizers with contradictory files: tokenizer.json against tokenizer_config.json, old files against new ones.

Every variant is the tokenizer of another case with some files changed, so only the changes are stored here.
"""
import json
import os
import shutil
import tempfile

from transformers import AutoTokenizer

import tiny_tokenizers as tiny
from texts import HERE, NASTY
from tools import case, remove, versions, write_golden, write_json

FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
         "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model"]
TEXTS = [
    "", "   ", "Harbour", "The little INN was Quiet, né à Kraków: 房间干净。", "e\u0301te\u0301 \u0130\u0131 ß ﬁ ½", "  two  spaces \t and a tab  ",
    "a <mask>  b  <mask>", "x[MASK]  y [UNK] [unk] [MASK]", "<s> x </s> <pad>  <unk> <s>NOTUSED</s>NOTUSED", "Blue Sky blue sky [e1]  x <q>  y<q>y <new>new <new>",
    "ŝ" * 101 + " after", "🙂 👍🏽 ▁under", "Hello <extra_id_0>. the<extra_id_1> inn <extra_id_99>  </s> was <q>  y </s>",
]
PAIRS = [["Harbour", "The little inn was quiet."], ["", "x"], ["a b c d e f g h i j k", "the bread was warm"], ["the bread", "a b c d e f g h i j k"]]
MAX_LENGTHS, PAIR_MAX_LENGTHS = [2, 5, 12], [4, 7, 10, 13]


def added(content, **flags):
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False, "special": False, **flags}


def typed(content, **flags):
    return {"__type": "AddedToken", **added(content, **flags)}


def untyped(content, **flags):
    flags = added(content, **flags)
    del flags["special"]
    return flags


BARE = {"tokenizer_config.json": None, "special_tokens_map.json": None}
OWN = [{"id": 990, **added("Blue Sky")}, {"id": 991, **added("[e1]", special=True, normalized=False)}]
BERT_PATCH = {"truncation": {"direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
              "padding": {"strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}}
ONE_SPACE = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}]}


def configured(**config):
    return {**BARE, "tokenizer_config.json": config}


# name, the case that it modifies, files written (None: removed), keys of tokenizer.json replaced
VARIANTS = [
    # --- tokenizer.json, and overrides
    ("json-bare", "bert", BARE, {}),
    ("json-own-truncation-and-padding", "bert", BARE, BERT_PATCH),
    ("json-cased", "bert", configured(do_lower_case=False), {}),
    ("json-cased-over-added-tokens", "bert", configured(do_lower_case=False), {"added_tokens": OWN}),
    ("json-added-tokens-made-special", "bert", configured(do_lower_case=False, additional_special_tokens=["Blue Sky"]), {"added_tokens": OWN}),
    ("json-accents", "bert", configured(strip_accents=False, tokenize_chinese_chars=False), {}),
    ("json-generic-class", "bert", configured(tokenizer_class="PreTrainedTokenizerFast", do_lower_case=False, unk_token="[UNK]"), {}),
    ("json-truncation-side", "bert", configured(truncation_side="left"), {}),
    ("json-no-post-processor", "bert", BARE, {"post_processor": None}),
    ("json-bert-processing", "bert", BARE, {"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}}),
    ("json-split-special-tokens", "roberta", configured(split_special_tokens=True), {}),
    ("json-prefix-space-dropped", "roberta", BARE, {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}}),
    ("json-prefix-space", "roberta", configured(add_prefix_space=True), {}),
    ("json-mpnet-cased", "mpnet", configured(do_lower_case=False, tokenize_chinese_chars=False), {}),
    ("json-mask-by-class", "xlm-roberta", configured(model_max_length=512), {"added_tokens": [{"id": 0, **added("<mask>", special=True, normalized=False)}]}),
    ("json-whitespace-split", "xlm-roberta", BARE, {"pre_tokenizer": ONE_SPACE}),
    ("json-added-tokens-decoder", "xlm-roberta", configured(added_tokens_decoder={"3": added("<unk>", lstrip=True, special=True), "999": added("<new>", single_word=True)},
                                                            extra_special_tokens={"query_token": "<q>"}), {}),
    ("json-camembert-bare", "camembert", BARE, {}),
    ("json-padding-side", "roberta", configured(padding_side="left", extra_special_tokens={"image_token": "<image>", "video_token": "<q>"}), {}),
    ("json-gpt2-bare", "gpt2", BARE, {}),
    ("json-gpt2-prefix-space", "gpt2", configured(add_prefix_space=True, add_bos_token=True, clean_up_tokenization_spaces=True), {}),
    ("json-gpt2-pad-token", "gpt2", configured(pad_token="<|endoftext|>", truncation_side="left", padding_side="left", additional_special_tokens=["<q>"]), {}),
    ("json-t5-bare", "t5", BARE, {}),
    ("json-t5-other-class", "t5", configured(tokenizer_class="MT5Tokenizer", extra_ids=10, eos_token="<q>", legacy=False), {}),
    ("json-t5-from-spiece", "t5", configured(add_prefix_space=True, additional_special_tokens=["<q>"], extra_ids=3), {}),
    ("json-t5-no-prefix-space", "t5", configured(add_prefix_space=False, extra_ids=10, legacy=False), {"added_tokens": [{"id": 990, **added("Blue Sky")}]}),
    # --- vocabulary files alone
    ("vocab-bare", "bert-cased-vocab", BARE, {}),
    ("vocab-accents", "bert-cased-vocab", configured(strip_accents=False, tokenize_chinese_chars=False, truncation_side="left"), {}),
    ("vocab-no-basic-tokenizer", "bert-cased-vocab", configured(do_basic_tokenize=False, do_lower_case=False), {}),
    ("vocab-added-tokens", "bert-cased-vocab", {**BARE, "added_tokens.json": {"[e1]": 990, "Blue Sky": 991},
     "special_tokens_map.json": {"additional_special_tokens": ["[e1]", untyped("<q>", rstrip=True, normalized=False)], "mask_token": untyped("[MASK]", lstrip=True, normalized=False)}}, {}),
    ("vocab-distilbert-bare", "distilbert-vocab", BARE, {}),
    ("vocab-mpnet-bare", "mpnet-vocab", BARE, {}),
    ("vocab-mpnet-no-basic-tokenizer", "mpnet-vocab", configured(do_basic_tokenize=False, unk_token=typed("[UNK]")), {}),
    ("merges-bare", "roberta-vocab-merges", BARE, {}),
    ("merges-prefix-space", "roberta-vocab-merges", configured(add_prefix_space=True), {}),
    ("merges-special-tokens", "roberta-vocab-merges", configured(cls_token=typed("<s>", rstrip=True), pad_token=None, additional_special_tokens=[typed("<q>", rstrip=True)]), {}),
    ("merges-added-tokens", "roberta-vocab-merges", {**BARE, "added_tokens.json": {"<new>": 990, "<q>": 991}, "special_tokens_map.json": {"additional_special_tokens": ["<q>"]}}, {}),
    ("merges-gpt2-bare", "gpt2-vocab-merges", BARE, {}),
    ("merges-gpt2-bos", "gpt2-vocab-merges", configured(add_bos_token=True, add_prefix_space=True), {}),
    ("merges-gpt2-pad-token", "gpt2-vocab-merges", configured(tokenizer_class="GPT2Tokenizer", pad_token="<pad>", mask_token="<mask>", bos_token="<s>"), {}),
    ("spm-bare", "xlm-roberta-spm", BARE, {}),
    ("spm-normalized-mask", "xlm-roberta-spm", {**BARE, "special_tokens_map.json": {"mask_token": untyped("<mask>", lstrip=True)}, "added_tokens.json": {"<new>": 990}}, {}),
    ("spm-added-tokens-decoder", "xlm-roberta-spm", configured(added_tokens_decoder={"0": added("<s>", special=True), "990": added("Blue Sky", lstrip=True)}, mask_token="<mask>"), {}),
    ("spm-camembert-bare", "camembert-spm", BARE, {}),
    ("spiece-legacy", "t5-spiece", configured(legacy=True, unk_token=None), {}),
    ("spiece-not-legacy", "t5-spiece", configured(legacy=False, extra_ids=0, additional_special_tokens=None), {}),
    ("spiece-no-prefix-space", "t5-spiece", configured(add_prefix_space=False, pad_token=typed("<q>", rstrip=True)), {}),
    ("spiece-additional", "t5-spiece", {**configured(extra_ids=2), "special_tokens_map.json": {"additional_special_tokens": ["<extra_id_0>", untyped("<extra_id_1>", lstrip=True), "<q>"]}}, {}),
    ("spiece-added-tokens", "t5-spiece", {**BARE, "added_tokens.json": {"<new>": 990, "<q>": 991}, "special_tokens_map.json": {"additional_special_tokens": ["<q>"]}}, {}),
    ("spiece-added-tokens-decoder", "t5-spiece", configured(extra_ids=5, added_tokens_decoder={"1": added("</s>", rstrip=True, special=True), "990": added("Blue Sky", lstrip=True)}), {}),
    ("spiece-mt5", "t5-spiece", {**BARE, "config.json": {"model_type": "mt5"}}, {}),
    ("spm-camembert-additional", "camembert-spm", {**BARE, "special_tokens_map.json": {"additional_special_tokens": ["<s>NOTUSED"]}}, {}),
]


def token_lists(tokenizer, ids):
    """The tokens of a text one by one, its first three, the whole text, and a text with special tokens."""
    tokens = tokenizer.convert_ids_to_tokens(ids[3])
    return [[token] for token in tokens] + [tokens[:3], tokens, tokenizer.convert_ids_to_tokens(ids[7])]


def encoded(base, files, patch):
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            source = os.path.join(HERE, base, name)
            if os.path.exists(source) and files.get(name, True):
                shutil.copy(source, folder)
        for name, value in files.items():
            if value is not None:
                write_json(os.path.join(folder, name), value)
        if patch:
            path = os.path.join(folder, "tokenizer.json")
            with open(path, encoding="utf-8") as f:
                value = json.load(f)
            write_json(path, {**value, **patch})
        t = AutoTokenizer.from_pretrained(folder)
    fits = [n for n in PAIR_MAX_LENGTHS if n >= t.num_special_tokens_to_add(pair=True)]
    pairs = [t(a, b, return_token_type_ids=True) for a, b in PAIRS]
    ids = [t(text)["input_ids"] for text in TEXTS]
    return {
        "class": type(t).__name__, "len": len(t), "special_ids": {k: getattr(t, k + "_token_id") for k in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")},
        "input_ids": ids,
        "truncated": {n: [t(text, truncation=True, max_length=n)["input_ids"] for text in TEXTS] for n in MAX_LENGTHS},
        "offset_mapping": [t(text, return_offsets_mapping=True)["offset_mapping"] for text in TEXTS],
        "decoded": [t.decode(i, skip_special_tokens=True) for i in ids],
        "decoded_whole": [t.decode(i, clean_up_tokenization_spaces=True) for i in ids], "decoded_untidied": [t.decode(i, skip_special_tokens=True, clean_up_tokenization_spaces=False) for i in ids],
        "tokens": t.convert_ids_to_tokens(ids[3]), "tokens_without_special": t.convert_ids_to_tokens(ids[7], skip_special_tokens=True),
        "strings": [t.convert_tokens_to_string(tokens) for tokens in token_lists(t, ids)],
        "special_tokens_map": t.special_tokens_map, "all_special_ids": t.all_special_ids, "padding_side": t.padding_side, "truncation_side": t.truncation_side,
        "continuing_subword_prefix": getattr(t._tokenizer.model, "continuing_subword_prefix", None) or None,
        "pairs": [p["input_ids"] for p in pairs], "pair_token_type_ids": [p["token_type_ids"] for p in pairs],
        "pairs_truncated": {n: [t(a, b, truncation=True, max_length=n)["input_ids"] for a, b in PAIRS] for n in fits},
    }


def directory(folder, model_type, made, *removed):
    """A tokenizer without a model, with the ids of many strings."""
    made.save_pretrained(folder)
    remove(folder, *removed)
    write_json(os.path.join(folder, "config.json"), {"model_type": model_type})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    write_golden(folder, {"texts": NASTY, "input_ids": [tokenizer(text)["input_ids"] for text in NASTY]}, "tokens.json")


@case
def gpt2(folder):
    directory(folder, "gpt2", tiny.gpt2(max_length=64))


@case
def gpt2_vocab_merges(folder):
    directory(folder, "gpt2", tiny.gpt2(max_length=64), "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@case
def t5(folder):
    directory(folder, "t5", tiny.t5(max_length=64, size=400))


@case
def t5_spiece(folder):
    directory(folder, "t5", tiny.t5(max_length=64, size=400), "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@case
def tokenizers(folder):
    variants = [{"name": name, "base": base, "files": files, "patch": patch, **encoded(base, files, patch)} for name, base, files, patch in VARIANTS]
    write_golden(folder, {"library versions": versions(), "notes": "variants of the tokenizers of other cases; `files` are written over those of `base` "
                          "(null: removed), `patch` replaces keys of its tokenizer.json", "texts": TEXTS, "pairs": PAIRS, "variants": variants})
