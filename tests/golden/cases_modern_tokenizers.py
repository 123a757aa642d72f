"""`modern-tokenizers`: the tokenizer classes of decoders, by transformers 5.24, with and without a tokenizer.json.

A class with steps of its own takes only vocabulary, merges, added tokens and template from tokenizer.json; without that
file it reads a sentencepiece model. Other classes take all of tokenizer.json, or the settings of the sentencepiece model.
"""
import json
import os
import shutil
import tempfile

import sentencepiece
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import AutoTokenizer

import tiny_tokenizers_modern as tiny
from modern import LIBRARY
from texts import NASTY, corpus
from tools import case, skip, versions, write_golden, write_json

TEXTS = [
    "Harbour", " leading space", "two  spaces, three   spaces ", "a<s>b</s> c <unk>d", "<sep>x <sep> y<sep><sep>", "n\u00e9 \u2603 \u623f\u95f4 \U0001f642", "", " ",
    "\ttab\nnewline \r\n x", "12345 rows, 3.14", "\u2581under \u2581", "it 's done .", "<new> and<new>Blue Sky", "\uff21\ufb01\u00bd e\u0301", "<|im_start|>user\nHi<|im_end|>", "<0x41>",
    *NASTY[:12],
]
PAIRS = [["Harbour", "The little inn"], ["", " x"]]
BPE_MODEL = dict(model_type="bpe", vocab_size=420, byte_fallback=True, character_coverage=0.98, split_digits=True,
                 normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True)
MODELS = {
    "llama.model": BPE_MODEL,
    "user-defined.model": {**BPE_MODEL, "vocab_size": 380, "user_defined_symbols": ["<sep>", "in", "\u2581the"], "control_symbols": ["<ctl>"]},
    "nmt.model": dict(model_type="bpe", vocab_size=160, character_coverage=0.98, unk_piece="<UNK>", bos_id=-1),
    "no-prefix.model": dict(model_type="bpe", normalization_rule_name="identity", vocab_size=150, character_coverage=0.98, add_dummy_prefix=False, eos_piece="<end>"),
    "unigram.model": dict(model_type="unigram", vocab_size=320, byte_fallback=True, character_coverage=0.98),
}


def added(content, **flags):
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False, "special": False, **flags}


def saved(vocab, merges, normalizer=None, pre_tokenizer=None, decoder=None, template=None, specials=(), **options):
    """A tokenizer.json."""
    tok = Tokenizer(BPE(vocab=vocab, merges=merges, **options))
    tok.normalizer, tok.pre_tokenizer = normalizer, pre_tokenizer
    if decoder is not None:
        tok.decoder = decoder
    tok.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in specials])
    if template:
        tok.post_processor = processors.TemplateProcessing(single=template[0], pair=template[1], special_tokens=[(word, vocab[word]) for word in specials])
    return json.loads(tok.to_str())


def llama2(unk="<unk>"):
    """As the files of Llama 2 and TinyLlama: the space is put before each stretch of text by a normalizer."""
    specials = ["<unk>", "<s>", "</s>"]
    vocab, merges = tiny.byte_fallback(specials, 12)
    del vocab["<0xE6>"]     # an unknown character
    vocab = {word: i for i, word in enumerate(vocab)}
    return saved(vocab, merges, normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]), None,
                 decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]),
                 ("<s> $A", "<s> $A <s> $B"), specials, unk_token=unk, fuse_unk=True, byte_fallback=True)


def byte_level(digits):
    """As the files of Llama 3 and SmolLM2, with digits one by one."""
    vocab, merges, _ = tiny.byte_level(64, last=["<|im_start|>", "<|im_end|>"], merges=60)
    steps = [pre_tokenizers.Digits(individual_digits=True)] * digits + [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return saved(vocab, merges, normalizers.Lowercase() if digits else None, pre_tokenizers.Sequence(steps), decoders.ByteLevel(), None, ["<|im_start|>", "<|im_end|>"])


def variants():
    llama, old, bytes_, digits = {"tokenizer_class": "LlamaTokenizer"}, llama2(), byte_level(False), byte_level(True)
    tokens = {"3": added("<new>"), "500": added("Blue Sky", lstrip=True)}
    for name in MODELS:
        stem = name.removesuffix(".model")
        for label, model_type, config in [
            ("llama", "llama", llama),
            ("llama-legacy", "llama", {**llama, "legacy": True, "add_bos_token": True, "add_eos_token": False}),
            ("llama-no-prefix", "llama", {**llama, "legacy": False, "add_prefix_space": False, "add_eos_token": True}),
            ("llama-added", "llama", {**llama, "added_tokens_decoder": tokens, "add_bos_token": True, "add_eos_token": True}),
            ("gemma", "gemma", {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True}),
            ("backend", "mistral", {**llama, "add_bos_token": True}),
            ("backend-not-legacy", "phi3", {**llama, "legacy": False, "add_eos_token": True, "eos_token": "</s>"}),
            ("backend-added", "mistral", {**llama, "added_tokens_decoder": tokens, "pad_token": "<pad>"}),
            ("bare", "llama", None),
        ]:
            if (stem == "unigram" and label.startswith(("llama", "gemma"))) or (stem, label) == ("nmt", "gemma"):
                continue        # no merges; no <unk>
            files = {"config.json": {"model_type": model_type}, "tokenizer.model": name}
            yield f"{stem}-{label}", files if config is None else {**files, "tokenizer_config.json": config}
    for label, model_type, config in [
        ("llama", "llama", llama), ("llama-legacy", "llama", {**llama, "legacy": True, "add_bos_token": False}),
        ("llama-no-prefix", "llama", {**llama, "add_prefix_space": False, "add_eos_token": True}), ("mistral", "mistral", llama),
        ("general", "llama", {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False}), ("gemma", "gemma", {"tokenizer_class": "GemmaTokenizer"}),
        ("qwen3", "qwen3", {"tokenizer_class": "LlamaTokenizer", "legacy": True}), ("bare", "llama", {}),
    ]:
        yield f"json-{label}", {"config.json": {"model_type": model_type}, "tokenizer_config.json": config, "tokenizer.json": old}
    for label, model_type, config in [
        ("llama", "llama", llama), ("gpt2", "llama", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}), ("gpt2-bare", "llama", {"tokenizer_class": "GPT2Tokenizer"}),
        ("qwen2", "qwen2", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}), ("qwen3", "qwen3", {"tokenizer_class": "Qwen2Tokenizer", "pad_token": "<|im_end|>"}),
        ("general", "qwen3", {"tokenizer_class": "PreTrainedTokenizerFast"}),
    ]:
        for kind, file in [("bytes", bytes_), ("digits", digits)]:
            yield f"{kind}-{label}", {"config.json": {"model_type": model_type}, "tokenizer_config.json": config, "tokenizer.json": file}


def encoded(folder, files, texts=TEXTS):
    with tempfile.TemporaryDirectory() as place:
        for name, content in files.items():
            path = os.path.join(place, name)
            if isinstance(content, str):
                shutil.copy(os.path.join(folder, content), path)
            else:
                write_json(path, content)
        t = AutoTokenizer.from_pretrained(place)
    ids = [t(text)["input_ids"] for text in texts]
    return {
        "class": type(t).__name__, "len": len(t), "special_ids": {k: getattr(t, k + "_token_id") for k in ("bos", "eos", "unk", "pad")}, "input_ids": ids,
        "pairs": [t(a, b)["input_ids"] for a, b in PAIRS], "decoded": [t.decode(i, skip_special_tokens=True) for i in ids],
    }


@case
def modern_tokenizers(folder):
    if transformers.__version__ != LIBRARY:
        skip(f"modern-tokenizers is made with transformers {LIBRARY}")
    texts = corpus(tiny.LANGUAGES)
    for name, options in MODELS.items():
        path = os.path.join(folder, name.removesuffix(".model"))
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_prefix=path, minloglevel=2, hard_vocab_limit=False, **options)
        os.remove(path + ".vocab")
    made = [{"name": name, "files": files, **encoded(folder, files)} for name, files in variants()]
    write_golden(folder, {"library versions": versions(), "notes": "`files`: JSON, or the name of a file in this folder",
                          "texts": TEXTS, "pairs": PAIRS, "variants": made})
