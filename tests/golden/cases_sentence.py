"""The sentence-transformers directories: every kind of pooling, Dense, Normalize, prompts, lengths."""
import os
import tempfile

import numpy as np
import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer, models
from sentence_transformers.quantization import quantize_embeddings
from tokenizers import normalizers
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, MPNetConfig, MPNetModel, RobertaConfig, RobertaModel

import tiny_tokenizers as tiny
from texts import golden_texts
from tools import (MAX_LENGTH, POSITIONS_FROM_2, SHAPE, case, randomise, rewrite, save, skip, versions, write_golden, write_tensors)

NEWER = tuple(int(n) for n in sentence_transformers.__version__.split(".")[:2]) >= (5, 4)
ONE_LAYER = {**SHAPE, "num_hidden_layers": 1}
WORDS = 250          # vocabulary of the tokenizers here
PROMPTS = {"query": "query: ", "document": "the book: "}


def bert_folder(folder, name, lower=True):
    tokenizer = tiny.bert(lower=lower, max_length=MAX_LENGTH, size=WORDS)
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=MAX_LENGTH, **ONE_LAYER)
    save(folder, randomise(BertModel(config), name), tokenizer)


def build(folder, name, *modules, make=bert_folder, max_seq_length=None, do_lower_case=False, safe_serialization=True, newer=False,
          **options):
    """Saves a SentenceTransformer with the plain model that `make` writes, and with `modules`."""
    if newer != NEWER:
        skip(f"{name} is saved by sentence-transformers {'>= 5.4' if newer else '< 5.4'}")
    with tempfile.TemporaryDirectory() as plain:
        make(plain, name)
        first = models.Transformer(plain, max_seq_length=max_seq_length, do_lower_case=do_lower_case)
        rng = torch.Generator().manual_seed(len(name))
        for module in modules:
            for p in module.parameters():
                p.data.copy_(0.3 * torch.randn(p.shape, generator=rng))
        SentenceTransformer(modules=[first, *modules], device="cpu", **options).save_pretrained(
            folder, create_model_card=False, safe_serialization=safe_serialization)


def load(folder):
    return SentenceTransformer(folder, device="cpu", model_kwargs={"attn_implementation": "eager", "dtype": torch.float32}).eval()


def encode(model, texts, **options):
    """One text at a time, without padding."""
    return np.stack([model.encode(text, show_progress_bar=False, **options) for text in texts])


def golden(folder, texts=None, extra=None, variants=None, notes=""):
    """Writes golden.json and golden.safetensors.

    `variants` names further calls: name -> options of `encode`. `extra(model, texts)` adds tensors.
    """
    texts, model, variants = texts or golden_texts("bert"), load(folder), variants or {}
    tensors = {"sentence_embedding": encode(model, texts)}
    tensors.update((name, encode(model, texts, **options)) for name, options in variants.items())
    tensors.update(extra(model, texts) if extra else {})
    prompt = model.prompts.get(model.default_prompt_name) or ""
    tokenize = model.preprocess if NEWER else model.tokenize
    write_tensors(folder, tensors)
    write_golden(folder, {"library versions": versions(), "max_length": model.max_seq_length, "notes": notes, "variants": variants,
                          "texts": texts, "input_ids": [tokenize([prompt + text])["input_ids"][0].tolist() for text in texts]})


# ------------------------------------------------------------------------------ pooling
@case
def st_mean_normalize(folder):
    build(folder, "st-mean-normalize", models.Pooling(32, "mean"), models.Normalize())

    def extra(model, texts):
        all_rows = encode(model, texts)
        quantized = {p: quantize_embeddings(all_rows, p, calibration_embeddings=all_rows) for p in ("int8", "uint8")}
        quantized.update({p: quantize_embeddings(all_rows, p) for p in ("binary", "ubinary")})
        tokens = {f"token_embeddings.{i}": model.encode(text, output_value="token_embeddings") for i, text in enumerate(texts)}
        return {**quantized, "int8_ranges": np.stack([all_rows.min(0), all_rows.max(0)]), **tokens}

    golden(folder, extra=extra,
           variants={"truncate_8": dict(truncate_dim=8), "truncate_8_normalized": dict(truncate_dim=8, normalize_embeddings=True)},
           notes="int8 and uint8 are calibrated on these ten rows (int8_ranges: their minima and maxima); a value on the edge of a "
                 "bucket may fall to the other side, so compare them within 1")


@case
def st_cls(folder):
    build(folder, "st-cls", models.Pooling(32, "cls"))
    rewrite(folder, "tokenizer.json", lambda t: {
        **t, "truncation": {"direction": "Right", "max_length": 12, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 24}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
                    "pad_token": "[PAD]"}})
    golden(folder, notes="tokenizer.json carries a truncation to 12 and a padding to 24 of its own, which the library does not follow")


@case
def st_multi_pooling(folder):
    pooling = models.Pooling(32, pooling_mode_cls_token=True, pooling_mode_max_tokens=True, pooling_mode_mean_tokens=True,
                             pooling_mode_mean_sqrt_len_tokens=True) if not NEWER else None
    build(folder, "st-multi-pooling", pooling)
    golden(folder, notes="concatenated in this order: cls, max, mean, mean_sqrt_len_tokens")


@case
def st_weightedmean(folder):
    build(folder, "st-weightedmean", models.Pooling(32, "weightedmean"))
    golden(folder)


@case
def st_lasttoken(folder):
    build(folder, "st-lasttoken", models.Pooling(32, "lasttoken"))
    golden(folder)


@case
def st_new_pooling(folder):
    build(folder, "st-new-pooling", models.Pooling(32, pooling_mode="mean"), models.Normalize(), newer=True)
    golden(folder, notes="files of sentence-transformers 5.7: embedding_dimension and pooling_mode, other module paths")


@case
def st_new_multi_pooling(folder):
    modules = [models.Pooling(32, pooling_mode=("mean", "max", "lasttoken", "cls")), models.Dense(128, 16)] if NEWER else []
    build(folder, "st-new-multi-pooling", *modules, newer=True)
    golden(folder, notes="files of sentence-transformers 5.7: concatenated in the order of the list")


# ------------------------------------------------------------------------------ Dense
@case
def st_dense(folder):
    build(folder, "st-dense", models.Pooling(32, "mean"), models.Dense(32, 16, activation_function=torch.nn.Tanh()), models.Normalize())
    golden(folder)


@case
def st_dense_identity(folder):
    build(folder, "st-dense-identity", models.Pooling(32, "max"),
          models.Dense(32, 24, bias=False, activation_function=torch.nn.Identity()), safe_serialization=False)
    golden(folder, notes="weights of both modules in pytorch_model.bin")


# ------------------------------------------------------------------------------ prompts
PROMPT_VARIANTS = {"query": dict(prompt_name="query"), "explicit": dict(prompt="a film: "), "none": dict(prompt="")}


@case
def st_prompts(folder):
    build(folder, "st-prompts", models.Pooling(32, "mean"), prompts=PROMPTS, default_prompt_name="document")
    golden(folder, variants=PROMPT_VARIANTS,
           notes="sentence_embedding: the default prompt (document); `none`: an empty prompt switches the default off; "
                 "input_ids hold the default prompt")


@case
def st_prompts_exclude(folder):
    build(folder, "st-prompts-exclude", models.Pooling(32, "mean", include_prompt=False), prompts=PROMPTS)
    golden(folder, variants={k: v for k, v in PROMPT_VARIANTS.items() if k != "none"},
           notes="include_prompt false and no default prompt: [CLS] and the prompt's tokens are computed and left out of the mean")


# ------------------------------------------------------------------------------ lengths and letters
@case
def st_max_seq_length(folder):
    build(folder, "st-max-seq-length", models.Pooling(32, "mean"), max_seq_length=16)
    rewrite(folder, "tokenizer_config.json", lambda t: {**t, "model_max_length": MAX_LENGTH})
    golden(folder, notes="16 in sentence_bert_config.json, 24 in tokenizer_config.json: 16 counts")


@case
def st_do_lower_case(folder):
    build(folder, "st-do-lower-case", models.Pooling(32, "mean"), do_lower_case=True,
          make=lambda plain, name: bert_folder(plain, name, lower=False))

    def normalizer(_, texts):
        model = load(folder)
        backend, model[0].do_lower_case = model.tokenizer.backend_tokenizer, False
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), backend.normalizer])
        return {"normalizer": encode(model, texts)}

    golden(folder, extra=normalizer,
           notes="a cased vocabulary below do_lower_case true in sentence_bert_config.json. sentence-transformers below 5.4 lower-cases "
                 "the whole text first, so that [MASK] in it is no special token any more; from 5.4 it puts a Lowercase in front of the "
                 "tokenizer's normalizer (`normalizer`), which leaves special tokens alone. Accents stay")


# ------------------------------------------------------------------------------ other families
@case
def st_distilbert(folder):
    def make(plain, name):
        tokenizer = tiny.distilbert(max_length=MAX_LENGTH, size=WORDS)
        config = DistilBertConfig(vocab_size=len(tokenizer), max_position_embeddings=MAX_LENGTH, dim=32, hidden_dim=64, n_layers=1, n_heads=4)
        save(plain, randomise(DistilBertModel(config), name), tokenizer)

    build(folder, "st-distilbert", models.Pooling(32, "mean"), make=make)
    golden(folder)


@case
def st_mpnet(folder):
    def make(plain, name):
        tokenizer = tiny.mpnet(max_length=MAX_LENGTH, size=WORDS)
        config = MPNetConfig(vocab_size=len(tokenizer), max_position_embeddings=POSITIONS_FROM_2, layer_norm_eps=1e-5, pad_token_id=1,
                             bos_token_id=0, eos_token_id=2, **ONE_LAYER)
        save(plain, randomise(MPNetModel(config), name), tokenizer)

    build(folder, "st-mpnet", models.Pooling(32, "mean"), models.Normalize(), make=make, max_seq_length=20)
    golden(folder, golden_texts("roberta"))


@case
def st_roberta(folder):
    def make(plain, name):
        tokenizer = tiny.roberta(max_length=MAX_LENGTH)
        config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=POSITIONS_FROM_2, type_vocab_size=1,
                               layer_norm_eps=1e-5, **ONE_LAYER)
        save(plain, randomise(RobertaModel(config), name), tokenizer)

    def unstripped(model, texts):
        rows = []
        for text in texts:
            features = model.tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
            with torch.inference_mode():
                rows.append(model(dict(features))["sentence_embedding"][0])
        return {"unstripped": torch.stack(rows)}

    build(folder, "st-roberta", models.Pooling(32, "mean"), make=make)
    rewrite(folder, "sentence_bert_config.json", lambda c: {**c, "max_seq_length": None})
    golden(folder, golden_texts("roberta"), extra=unstripped,
           notes="26 positions, of which 24 can be used; max_seq_length null: the tokenizer's 24 counts. sentence-transformers below "
                 "5.4 strips white space around each text, from 5.4 it does not (`unstripped`); byte-level BPE sees the difference")
