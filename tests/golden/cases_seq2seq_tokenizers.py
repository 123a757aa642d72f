"""`seq2seq-tokenizers`: the tokenizer classes of translation and summarisation, by transformers 5.24.

Each folder has the files of one tokenizer, with or without tokenizer.json, and tokens.json: ids of texts, texts of ids, and
what the translation pipeline gives to the model for pairs of languages.
"""
import json
import os
import shutil

import transformers
from transformers import AutoTokenizer

import tiny_tokenizers_seq2seq as tiny
from texts import NASTY
from tools import CASES, remove, rewrite, skip, versions, write_golden, write_json

TEXTS = ["Harbour", "The film is slow at first, and then you cannot look away.", " leading", "two  spaces ", "a</s>b </s> c", "x<unk>y", "<mask>", "the <mask> one",
         "a\nb\tc", "房间 🙂", "▁under ▁", ">>fra<< The inn", ">>xyz<<x", ">>fra The inn", "The >>fra<< inn", ">>fra<<", "</s>>>fra<< x", ">>a</s>b<< c", "__fr__ x", "x en_XX y",
         "<pad>", "é e\u0301 ﬁ ½ Ａ…", *NASTY[:22], *NASTY[25:30]]
# Of several combining marks on one letter, sentencepiece composes the first, the tokenizers library none.
TEXTS = [text for text in TEXTS if "\u0308\u0323" not in text]
FILES = {"sentencepiece.bpe.model", "spiece.model", "source.spm", "target.spm", "vocab.json", "target_vocab.json"}


def tokenizer_case(name, make, model_type, pairs=(), saved=None, config=None, add=()):
    """`saved`: whether tokenizer.json stays; None for a class without one. `config`: additions to tokenizer_config.json."""
    def build(folder):
        if transformers.__version__ != "5.24.0":
            skip(f"{name} is made with transformers 5.24")
        made = make()
        made.save_pretrained(folder)
        for file in FILES:          # the vocabulary files that `save_pretrained` leaves out
            source = os.path.join(made.name_or_path, file)
            if os.path.exists(source) and saved is not True:
                shutil.copy(source, os.path.join(folder, file))
        if saved is False:
            remove(folder, "tokenizer.json")
            write_json(os.path.join(folder, "tokenizer_config.json"), {"tokenizer_class": type(made).__name__})
        if config:
            rewrite(folder, "tokenizer_config.json", lambda value: {**value, **config})
        write_json(os.path.join(folder, "config.json"), {"model_type": model_type})
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert type(tokenizer) is type(made), (type(tokenizer), type(made))
        ids = [tokenizer(text)["input_ids"] for text in TEXTS]
        # A target with a vocabulary of its own has other ids.
        targets = [tokenizer(text_target=text)["input_ids"] for text in TEXTS] if getattr(tokenizer, "separate_vocabs", False) else ids
        write_golden(folder, {
            "library versions": versions(), "class": type(tokenizer).__name__, "texts": TEXTS, "input_ids": ids,
            "decoded_ids": targets, "decoded": [tokenizer.decode(row, skip_special_tokens=True) for row in targets],
            "decoded_with_special_tokens": [tokenizer.decode(row) for row in targets],
            "all_special_ids": sorted(tokenizer.all_special_ids),
            "pairs": [translation(tokenizer, *pair) for pair in pairs]}, "tokens.json")
        for file in os.listdir(folder):
            if file.endswith(".json") and file != "tokens.json":
                with open(os.path.join(folder, file), encoding="utf-8") as f:
                    value = json.load(f)
                with open(os.path.join(folder, file), "w", encoding="utf-8") as f:
                    json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
    CASES[f"seq2seq-tokenizers/{name}"] = build


def translation(tokenizer, src_lang, tgt_lang):
    found = tokenizer._build_translation_inputs("The film is slow", return_tensors=None, src_lang=src_lang, tgt_lang=tgt_lang)
    return {"src_lang": src_lang, "tgt_lang": tgt_lang, "input_ids": found["input_ids"], "forced_bos_token_id": found["forced_bos_token_id"]}


FAIRSEQ = [("en_XX", "ro_RO"), ("fr_XX", "en_XX")]
tokenizer_case("bart", tiny.bart, "bart", saved=True)
tokenizer_case("mbart", tiny.mbart, "mbart", FAIRSEQ, saved=True)
tokenizer_case("mbart-spm", tiny.mbart, "mbart", FAIRSEQ, saved=False)
tokenizer_case("mbart-src-lang", tiny.mbart, "mbart", FAIRSEQ, saved=True, config={"src_lang": "de_DE", "tgt_lang": "fr_XX"})
tokenizer_case("mbart50", tiny.mbart50, "mbart", [*FAIRSEQ, ("sl_SI", "uk_UA")], saved=True)
tokenizer_case("mbart50-spm", tiny.mbart50, "mbart", FAIRSEQ, saved=False)
NLLB = ["eng_Latn", "fra_Latn", "zho_Hans", "deu_Latn"]
nllb = lambda: tiny.fairseq(tiny.NllbTokenizer, None, 300, "few", {"extra_special_tokens": NLLB}, model_type="bpe")  # noqa: E731
tokenizer_case("nllb", nllb, "m2m_100", [("eng_Latn", "fra_Latn"), ("deu_Latn", "zho_Hans")], saved=True)
tokenizer_case("nllb-legacy", nllb, "m2m_100", [("eng_Latn", "fra_Latn")], saved=True, config={"legacy_behaviour": True})
tokenizer_case("nllb-spm", nllb, "m2m_100", [("eng_Latn", "fra_Latn")], saved=False, config={"additional_special_tokens": NLLB})
tokenizer_case("pegasus", tiny.pegasus, "pegasus", saved=True)
tokenizer_case("pegasus-spm", lambda: tiny.pegasus(rule="nmt_nfkc"), "pegasus", saved=False)
tokenizer_case("marian", tiny.marian, "marian")
tokenizer_case("marian-nfkc", lambda: tiny.marian(rule="nmt_nfkc"), "marian")
tokenizer_case("marian-separate", lambda: tiny.marian(separate=True), "marian")
tokenizer_case("m2m_100", tiny.m2m_100, "m2m_100", [("en", "fr"), ("zh", "ast")])
