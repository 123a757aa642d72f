"""Multi-vector (ColBERT) encoders: `multi-vector`, the vectors and scores of sentence-transformers 6.2.

Three layouts: sentence-transformers' own, PyLate's (its files as PyLate 1.6 writes them) and Stanford's. Every text is encoded
alone, and every query is scored with every document. Weights are the same in all models of one architecture.
"""
import json
import os

import numpy as np
import sentence_transformers
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, BertTokenizer, DistilBertConfig, DistilBertModel, DistilBertTokenizer, ModernBertConfig, ModernBertModel

import tiny_tokenizers as tiny
from tools import CASES, skip, versions, write_golden, write_json
from tools_tasks import SHAPE, short, weights

LIBRARY = "6.2"
WIDTH = 8
POSITIONS = 40
DOCUMENT = "The little inn by the harbour was quiet, bright and very clean; and the bread was still warm. "
QUERIES = ["Is the harbour quiet?", "", "rain", "Where (really) was the bread: still warm, or not warm at all, in the little inn by the sea?",
           "🙂 房间 [MASK] [Q] [unused0]"]
DOCUMENTS = ["Ships in the Harbour of Porto.", "", DOCUMENT * 3, "...", "No! Yes? (No.) 100%", "The [SEP] film [PAD] [D] [unused1] 🙂", "harbour"]


# ------------------------------------------------------------------------------ models
def tokenizer(cls=BertTokenizer):
    words = [*tiny.BERT_SPECIALS, "[unused0]", "[unused1]", *tiny.wordpiece_vocab(True, 210)]
    return cls(vocab={word: i for i, word in enumerate(words)}, do_lower_case=True, model_max_length=POSITIONS)


def bert(*added):
    words = tokenizer()
    words.add_tokens(list(added))
    config = BertConfig(vocab_size=len(words), max_position_embeddings=POSITIONS, **SHAPE)
    return weights(BertModel(config, add_pooling_layer=False), "multi-vector-bert"), words


def distilbert():
    words = tokenizer(DistilBertTokenizer)
    config = DistilBertConfig(vocab_size=len(words), max_position_embeddings=POSITIONS, dim=16, hidden_dim=32, n_layers=2, n_heads=2)
    return weights(DistilBertModel(config), "multi-vector-distilbert"), words


def modernbert():
    words = tokenizer()
    config = ModernBertConfig(vocab_size=len(words), hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
                              max_position_embeddings=64, local_attention=40, global_attn_every_n_layers=3, pad_token_id=0,
                              bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3)
    return weights(ModernBertModel(config), "multi-vector-modernbert"), words


def projection(seed, rows=WIDTH):
    return torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed)) * 0.4


def backbone(folder, made):
    net, words = made
    words.save_pretrained(folder)
    net.save_pretrained(folder)


# ------------------------------------------------------------------------------ layouts
def native(made, mask, *, dense=({},), normalize=True, **settings):
    """As `MultiVectorEncoder.save_pretrained` writes it."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from sentence_transformers.sentence_transformer.modules import Normalize

    def make(folder):
        backbone(folder, made())
        own = {key: settings[key] for key in ("query_length", "document_length", "query_expansion") if key in settings}
        transformer = Transformer(folder, **own)
        modules, width = [transformer], 16
        for number, more in enumerate(dense):
            layer = {"in_features": width, "out_features": WIDTH, "bias": False, "activation_function": torch.nn.Identity(),
                     "module_input_name": "token_embeddings", **more}
            modules.append(Dense(**layer))
            width = layer["out_features"]
            rng = torch.Generator().manual_seed(number)
            for p in modules[-1].parameters():
                p.data.copy_(0.4 * torch.randn(p.shape, generator=rng))
        if mask is not None:
            modules.append(MultiVectorMask(**mask))
        if normalize:
            modules.append(Normalize(module_input_name="token_embeddings"))
        more = {key: settings[key] for key in ("prompts", "similarity_fn_name") if key in settings}
        encoder = MultiVectorEncoder(modules=modules, device="cpu", **more)
        for file in os.listdir(folder):
            os.remove(os.path.join(folder, file))
        encoder.save_pretrained(folder, create_model_card=False)
    return make


def pylate(made, **settings):
    """As `ColBERT.save` of PyLate writes it; settings of `None` are left out."""
    def make(folder):
        backbone(folder, made())
        write_json(os.path.join(folder, "modules.json"), [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"}])
        write_json(os.path.join(folder, "sentence_bert_config.json"), {"max_seq_length": POSITIONS - 1, "do_lower_case": False})
        os.makedirs(os.path.join(folder, "1_Dense"))
        write_json(os.path.join(folder, "1_Dense", "config.json"), {
            "in_features": 16, "out_features": WIDTH, "bias": False, "activation_function": "torch.nn.modules.linear.Identity",
            "use_residual": False})
        save_file({"linear.weight": projection(3)}, os.path.join(folder, "1_Dense", "model.safetensors"))
        known = {"__version__": {"sentence_transformers": "5.3.0"}, "prompts": {}, "default_prompt_name": None,
                 "similarity_fn_name": "MaxSim", "model_type": "ColBERT", "query_prefix": "[Q] ", "document_prefix": "[D] ",
                 "query_length": 12, "document_length": 20, "attend_to_expansion_tokens": False, "skiplist_words": list(".,;:!?"),
                 "do_query_expansion": True, **settings}
        write_json(os.path.join(folder, "config_sentence_transformers.json"), {k: v for k, v in known.items() if v != "absent"})
    return make


def stanford(made, **metadata):
    """The tensors of the model with a prefix, and the projection beside them."""
    def make(folder):
        backbone(folder, made())
        path = os.path.join(folder, "model.safetensors")
        tensors = {f"bert.{key}": value for key, value in load_file(path).items()}
        save_file({**tensors, "linear.weight": projection(4)}, path, metadata={"format": "pt"})
        config = os.path.join(folder, "config.json")
        with open(config, encoding="utf-8") as f:
            value = json.load(f)
        write_json(config, {**value, "architectures": ["HF_ColBERT"]})
        write_json(os.path.join(folder, "artifact.metadata"), metadata)
    return make


# ------------------------------------------------------------------------------ goldens
def golden(name, make, notes=""):
    def write(folder):
        if not sentence_transformers.__version__.startswith(LIBRARY):
            skip(f"multi-vector encoders are made with sentence-transformers {LIBRARY}")
        make(folder)
        from sentence_transformers import MultiVectorEncoder
        model = MultiVectorEncoder(folder, device="cpu", model_kwargs={"attn_implementation": "eager"})

        def vectors(encode, texts):
            return [encode([text])[0] for text in texts]
        with torch.no_grad():
            queries, documents = vectors(model.encode_query, QUERIES), vectors(model.encode_document, DOCUMENTS)
            scores = [[model.similarity([query], [document])[0, 0].item() for document in documents] for query in queries]
        assert all(np.isfinite(x.numpy()).all() for x in queries + documents), name
        lists = {"queries": [short(x.tolist()) for x in queries], "documents": [short(x.tolist()) for x in documents]}
        write_golden(folder, {"library versions": versions(), "notes": notes, "query texts": QUERIES, "document texts": DOCUMENTS, **lists,
                              "scores": short(scores)})
    CASES[f"multi-vector/{name}"] = write


FIXED = {"strategy": "fixed", "attend": False, "length": 14}
PROMPTS = {"query": "[unused0] ", "document": "[unused1] "}
golden("sentence-transformers", native(bert, {"skiplist_words": list(".,;:!?")}, query_expansion=FIXED, document_length=24, prompts=PROMPTS),
       "queries are expanded with [MASK], which no other token attends to")
golden("sentence-transformers-min", native(
    distilbert, {"skiplist_words": ["the", ".", "no-such-word"], "skiplist_tasks": ["query", "document"]}, normalize=False,
    dense=({"out_features": 12, "bias": True, "activation_function": torch.nn.Tanh()}, {}), similarity_fn_name="meanmaxsim",
    query_expansion={"strategy": "min", "attend": True, "length": 9, "token": "[SEP]"}, query_length=16),
    "long queries stay; [SEP] expands short ones and is attended to; the score is a mean; two layers, no Normalize")
golden("sentence-transformers-plain", native(bert, {"keep_only_token_ids": [2, 3, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100]},
                                             dense=(), query_length=8), "no expansion; documents keep some tokens only; no Dense")
golden("modernbert", native(modernbert, {}, query_expansion={"strategy": "fixed", "attend": False, "length": 18}),
       "local attention beside the tokens that are not attended to")
golden("pylate", pylate(lambda: bert("[Q] ", "[D] ")), "no MultiVectorMask and no Normalize are listed; the markers are added tokens")
golden("pylate-defaults", pylate(bert, skiplist_words=None, query_length=None, document_length=None, attend_to_expansion_tokens=True,
                                 query_prefix="[unused0]", document_prefix="[unused1] ", prompts={"query": "find: ", "document": "[unused1] x "}),
       "punctuation is skipped; 32 tokens a query; prefixes before prompts")
golden("pylate-no-expansion", pylate(lambda: bert("[Q] ", "[D] "), do_query_expansion=False, model_type="absent", query_prefix=None),
       "the first releases wrote no model_type; [Q] in a text is the marker of queries")
golden("stanford", stanford(bert, query_maxlen=13, doc_maxlen=22, dim=WIDTH, query_token_id="[unused0]", doc_token_id="[unused1]",
                            attend_to_mask_tokens=False), "bert. before every tensor; linear.weight beside them")
golden("stanford-attends", stanford(bert, query_maxlen=10, mask_punctuation=False, attend_to_mask_tokens=True), "no punctuation is skipped")
