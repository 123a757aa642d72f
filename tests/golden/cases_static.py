"""Static embeddings: `static`, the vectors that model2vec and StaticEmbedding of sentence-transformers 6.2 give.

Needs model2vec 0.10, which makes the directories of its own layout; both libraries compute each text alone.
"""
import os

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

import tiny_tokenizers_modern as modern
from texts import golden_texts
from tools import CASES, skip, versions, write_golden, write_json
from tools_tasks import short

try:
    import model2vec
    from model2vec import StaticModel
except ImportError:
    model2vec = None

DIMENSIONS = 16
LONG = "Ships in the Harbour of Porto left early, 🙂 and the rain stopped. "


def texts(family):
    return [*golden_texts(family), LONG * 3, LONG * 60, "x" * 2000, "🙂" * 40 + " the harbour", "the the the", "the"]


def table(rows, seed, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((rows, DIMENSIONS)).astype(dtype)


def raw(tokenizer):
    return Tokenizer.from_str(tokenizer._tokenizer.to_str())


# ------------------------------------------------------------------------------ directories
def model2vec_folder(tokenizer, seed, embeddings=None, **settings):
    def make(folder):
        vectors = table(tokenizer.get_vocab_size(), seed) if embeddings is None else embeddings
        config = {"model_type": "model2vec", "architectures": ["StaticModel"], "tokenizer_name": "tiny", "apply_pca": DIMENSIONS,
                  "apply_zipf": True, "hidden_dim": DIMENSIONS, "seq_length": 1000000}
        StaticModel(vectors, tokenizer, config=config, **settings).save_pretrained(folder)
        os.remove(os.path.join(folder, "README.md"))
    return make


def sentence_transformer(tokenizer, embeddings, path, *, normalize=False, tensor="embedding.weight", more=None, **config):
    """As `SentenceTransformer.save_pretrained` writes it; `path` is the module's folder."""
    def make(folder):
        home = os.path.join(folder, path)
        os.makedirs(home, exist_ok=True)
        tokenizer.save(os.path.join(home, "tokenizer.json"), pretty=False)
        save_file({tensor: embeddings, **(more or {})}, os.path.join(home, "model.safetensors"))
        modules = [{"idx": 0, "name": "0", "path": path, "type": "sentence_transformers.models.StaticEmbedding"}]
        if normalize:
            modules.append({"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"})
        write_json(os.path.join(folder, "modules.json"), modules)
        write_json(os.path.join(folder, "config_sentence_transformers.json"), {"model_type": "SentenceTransformer", **config})
    return make


# ------------------------------------------------------------------------------ vectors
def encode_model2vec(folder, options, text):
    model = StaticModel.from_pretrained(folder)
    known = {key: options[key] for key in ("max_length", "normalize") if key in options}
    return model.encode([options.get("prompt", "") + text], **known)[0].astype(np.float32)


def encode_sentence_transformer(folder, options, text):
    from sentence_transformers import SentenceTransformer
    model = SentenceTransformer(folder, device="cpu")
    vector = model.encode([text], prompt_name=options.get("prompt_name"), prompt=options.get("prompt"),
                          truncate_dim=options.get("dimensions"), normalize_embeddings=options.get("normalize", False))[0]
    return np.asarray(vector, dtype=np.float32)


def golden(name, family, make, encode, *options, notes=""):
    def write(folder):
        if model2vec is None:
            skip("static embeddings are made with model2vec")
        make(folder)
        rows = texts(family)
        cases = [{"options": case, "vectors": [short(encode(folder, case, text).tolist()) for text in rows]} for case in ({}, *options)]
        known = {**versions(), "model2vec": model2vec.__version__}
        write_golden(folder, {"library versions": known, "notes": notes, "texts": rows, "cases": cases})
    CASES[f"static/{name}"] = write


def cases():
    bert, gpt2, unigram = raw(modern.bert(None)), raw(modern.gpt2(None)), raw(modern.xlm_roberta(None))
    golden("model2vec", "bert", model2vec_folder(bert, 1, normalize=True), encode_model2vec,
           {"normalize": False}, {"max_length": 5}, {"prompt": "query: "},
           notes="[UNK] is left out; a text is cut to 512 times the median length of a token")
    rng = np.random.default_rng(2)
    mapping, weights = rng.integers(0, 40, bert.get_vocab_size()), rng.random(bert.get_vocab_size()).astype(np.float32)
    golden("model2vec-quantized", "bert",
           model2vec_folder(bert, 2, rng.integers(-127, 128, (40, DIMENSIONS)).astype(np.int8), token_mapping=mapping,
                            weights=weights, max_length=9),
           encode_model2vec, {"normalize": True}, {"max_length": None}, notes="int8, a mapping and weights; max_length 9")
    golden("model2vec-f16", "roberta", model2vec_folder(unigram, 3, table(unigram.get_vocab_size(), 3, np.float16), max_length=None),
           encode_model2vec, {"normalize": True}, notes="Unigram, whose unknown token has an id alone; results are float16")
    golden("model2vec-bpe", "roberta", model2vec_folder(gpt2, 4), encode_model2vec, notes="no unknown token")
    cut = raw(modern.bert(None))
    cut.enable_truncation(7, direction="left")
    cut.enable_padding(length=12)
    golden("sentence-transformers", "bert",
           sentence_transformer(bert, table(bert.get_vocab_size(), 5), "0_StaticEmbedding", normalize=True,
                                prompts={"query": "find: ", "document": ""}, default_prompt_name=None),
           encode_sentence_transformer, {"prompt_name": "query"}, {"prompt": "a: "}, {"dimensions": 5},
           {"dimensions": 5, "normalize": True}, notes="[UNK] counts; nothing is cut")
    golden("sentence-transformers-f16", "bert",
           sentence_transformer(cut, table(bert.get_vocab_size(), 6, np.float16), ""), encode_sentence_transformer,
           notes="the module at the root; tokenizer.json cuts on the left after 7 tokens, and pads")
    golden("sentence-transformers-mapping", "bert",
           sentence_transformer(bert, table(40, 7), "", tensor="embeddings", more={"mapping": mapping, "weights": weights}),
           encode_sentence_transformer, notes="tensors of model2vec without its config.json")


cases()
