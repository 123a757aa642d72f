"""The plain model directories: one per architecture and per variant of its files."""
import os

import torch
from transformers import (AutoModel, AutoTokenizer, BertConfig, BertForMaskedLM, BertForPreTraining,
                          BertForSequenceClassification, BertModel, CamembertConfig, CamembertForMaskedLM, CamembertModel,
                          DistilBertConfig, DistilBertForMaskedLM, DistilBertModel, MPNetConfig, MPNetForMaskedLM, MPNetModel,
                          RobertaConfig, RobertaForSequenceClassification, RobertaModel, XLMRobertaConfig, XLMRobertaModel)

import tiny_tokenizers as tiny
from texts import NASTY, golden_texts
from tools import (MAX_LENGTH, POSITIONS_FROM_2, SHAPE, case, randomise, remove, save, versions, write_golden, write_tensors)

ROBERTA = dict(max_position_embeddings=POSITIONS_FROM_2, type_vocab_size=1)
# Attention weights are large: only these cases, one per architecture, store them for every text.
ALL_ATTENTIONS = {"bert", "roberta", "distilbert", "mpnet"}
FEW_TOKENS = 8       # the others keep them for texts of at most this many tokens


def model_golden(name, folder, family, max_length=MAX_LENGTH, pooler=True, notes=""):
    """Writes golden.json, golden.safetensors and tokens.json for the directory."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, info = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    missing = [key for key in info["missing_keys"] if pooler or not key.startswith("pooler.")]
    assert not missing and not info["mismatched_keys"], (name, info)
    model.eval()
    texts, out, ids, types, pooled = golden_texts(family), {}, [], [], []
    for i, text in enumerate(texts):
        encoded = tokenizer(text, truncation=True, max_length=max_length)
        ids.append(encoded["input_ids"])
        types.append(encoded.get("token_type_ids"))
        with torch.inference_mode():
            y = model(**{k: torch.tensor([v]) for k, v in encoded.items()}, output_hidden_states=True, output_attentions=True)
        out[f"last_hidden_state.{i}"] = y.last_hidden_state[0]
        out[f"hidden_states.{i}"] = torch.stack([h[0] for h in y.hidden_states])
        if name in ALL_ATTENTIONS or len(ids[-1]) <= FEW_TOKENS:
            out[f"attentions.{i}"] = torch.stack([a[0] for a in y.attentions])
        if pooler:
            pooled.append(y.pooler_output[0])
    if pooler:
        out["pooler_output"] = torch.stack(pooled)
    assert max(map(len, ids)) == max_length, name
    write_tensors(folder, out)
    write_golden(folder, {"library versions": versions(), "max_length": max_length, "notes": notes, "texts": texts,
                          "input_ids": ids, "token_type_ids": None if types[0] is None else types})
    write_golden(folder, {"texts": NASTY, "input_ids": [tokenizer(text)["input_ids"] for text in NASTY]}, "tokens.json")


# ------------------------------------------------------------------------------ BERT
def bert_config(tokenizer, **changes):
    return BertConfig(vocab_size=len(tokenizer), **{**SHAPE, "max_position_embeddings": MAX_LENGTH, **changes})


@case
def bert(folder):
    tokenizer = tiny.bert(max_length=MAX_LENGTH)
    save(folder, randomise(BertModel(bert_config(tokenizer)), "bert"), tokenizer)
    model_golden("bert", folder, "bert")


@case
def bert_gelu_new(folder):
    """Saved with a classification head, so the keys start with `bert.`."""
    tokenizer = tiny.bert(max_length=MAX_LENGTH)
    config = bert_config(tokenizer, hidden_act="gelu_new", layer_norm_eps=1e-3, num_hidden_layers=3, num_attention_heads=2,
                         intermediate_size=48)
    save(folder, randomise(BertForSequenceClassification(config), "bert-gelu-new"), tokenizer)
    model_golden("bert-gelu-new", folder, "bert", notes="tanh GELU, layer_norm_eps 1e-3, 2 heads; saved with a classifier")


@case
def bert_cased_vocab(folder):
    tokenizer = tiny.bert(lower=False, max_length=MAX_LENGTH)
    save(folder, randomise(BertModel(bert_config(tokenizer)), "bert-cased-vocab"), tokenizer)
    remove(folder, "tokenizer.json")
    model_golden("bert-cased-vocab", folder, "bert", notes="vocab.txt only, do_lower_case false in tokenizer_config.json")


@case
def bert_legacy_bin(folder):
    """Like the checkpoints of 2018: torch's first file format, LayerNorm.gamma and .beta, heads, and only vocab.txt.

    That format orders tensors by their addresses in memory: the one file here that comes out
    differently each time, with the same values.
    """
    tokenizer = tiny.bert()
    save(folder, randomise(BertForPreTraining(bert_config(tokenizer)), "bert-legacy-bin"), tokenizer, safe_serialization=False)
    remove(folder, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    path = os.path.join(folder, "pytorch_model.bin")
    weights = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
               for k, v in torch.load(path).items()}
    weights["bert.embeddings.position_ids"] = torch.arange(MAX_LENGTH)[None]
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    model_golden("bert-legacy-bin", folder, "bert",
                 notes="legacy torch format; no tokenizer_config.json (lower-casing is the default, no model_max_length); "
                       "cls.predictions.decoder.weight shares its storage with the word embeddings")


@case
def bert_f16(folder):
    tokenizer = tiny.bert(max_length=MAX_LENGTH)
    save(folder, randomise(BertModel(bert_config(tokenizer)), "bert-f16").half(), tokenizer)
    model_golden("bert-f16", folder, "bert", notes="f16 weights, widened to f32")


@case
def bert_bf16(folder):
    tokenizer = tiny.bert(max_length=MAX_LENGTH)
    save(folder, randomise(BertModel(bert_config(tokenizer)), "bert-bf16").bfloat16(), tokenizer)
    model_golden("bert-bf16", folder, "bert", notes="bf16 weights, widened to f32")


@case
def bert_sharded(folder):
    tokenizer = tiny.bert(max_length=MAX_LENGTH)
    save(folder, randomise(BertModel(bert_config(tokenizer)), "bert-sharded"), tokenizer, max_shard_size="53KB")
    shards = [n for n in os.listdir(folder) if n.startswith("model-")]
    assert len(shards) == 3, shards
    model_golden("bert-sharded", folder, "bert", notes="model.safetensors.index.json and three shards")


@case
def bert_zip_bin(folder):
    tokenizer = tiny.bert(max_length=MAX_LENGTH)
    save(folder, randomise(BertForMaskedLM(bert_config(tokenizer)), "bert-zip-bin"), tokenizer, safe_serialization=False)
    model_golden("bert-zip-bin", folder, "bert", pooler=False,
                 notes="torch's zip format, keys with `bert.`; a masked language model has no pooler, so there is no pooler_output")


# ---------------------------------------------------------------- RoBERTa and relatives
@case
def roberta(folder):
    tokenizer = tiny.roberta(max_length=MAX_LENGTH)
    config = RobertaConfig(vocab_size=len(tokenizer), layer_norm_eps=1e-5, **SHAPE, **ROBERTA)
    save(folder, randomise(RobertaForSequenceClassification(config), "roberta"), tokenizer)
    model_golden("roberta", folder, "roberta", pooler=False, notes="saved with a classifier: keys with `roberta.`, no pooler")


@case
def roberta_vocab_merges(folder):
    tokenizer = tiny.roberta()
    config = RobertaConfig(vocab_size=len(tokenizer), layer_norm_eps=1e-5, **SHAPE, **ROBERTA)
    save(folder, randomise(RobertaModel(config), "roberta-vocab-merges"), tokenizer, safe_serialization=False)
    remove(folder, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    model_golden("roberta-vocab-merges", folder, "roberta",
                 notes="vocab.json and merges.txt only; no model_max_length: 26 positions, counted from 2, hold 24 tokens")


@case
def xlm_roberta(folder):
    tokenizer = tiny.xlm_roberta(max_length=MAX_LENGTH, rule="few")
    config = XLMRobertaConfig(vocab_size=len(tokenizer), layer_norm_eps=1e-5, **SHAPE, **ROBERTA)
    save(folder, randomise(XLMRobertaModel(config), "xlm-roberta"), tokenizer)
    remove(folder, "sentencepiece.bpe.model")
    model_golden("xlm-roberta", folder, "roberta")


@case
def xlm_roberta_spm(folder):
    tokenizer = tiny.xlm_roberta(max_length=MAX_LENGTH)
    config = XLMRobertaConfig(vocab_size=len(tokenizer), layer_norm_eps=1e-5, **SHAPE, **ROBERTA)
    save(folder, randomise(XLMRobertaModel(config), "xlm-roberta-spm"), tokenizer)
    remove(folder, "tokenizer.json")
    model_golden("xlm-roberta-spm", folder, "roberta", notes="sentencepiece.bpe.model only (nmt_nfkc normalisation)")


def camembert_config(tokenizer):
    return CamembertConfig(vocab_size=len(tokenizer), layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=5, eos_token_id=6,
                           **SHAPE, **ROBERTA)


@case
def camembert(folder):
    tokenizer = tiny.camembert(max_length=MAX_LENGTH)
    save(folder, randomise(CamembertForMaskedLM(camembert_config(tokenizer)), "camembert"), tokenizer)
    remove(folder, "sentencepiece.bpe.model")
    model_golden("camembert", folder, "roberta", pooler=False,
                 notes="keys with `roberta.`, no pooler; a small normalisation of its own; <s> is 5, </s> is 6, <pad> is 1")


@case
def camembert_spm(folder):
    tokenizer = tiny.camembert(rule="identity")
    save(folder, randomise(CamembertModel(camembert_config(tokenizer)), "camembert-spm"), tokenizer)
    remove(folder, "tokenizer.json")
    model_golden("camembert-spm", folder, "roberta",
                 notes="sentencepiece.bpe.model only, without normalisation (empty precompiled_charsmap)")


# --------------------------------------------------------------------- DistilBERT, MPNet
def distilbert_config(tokenizer, **changes):
    return DistilBertConfig(vocab_size=len(tokenizer), max_position_embeddings=MAX_LENGTH, dim=32, hidden_dim=64, n_layers=2,
                            n_heads=4, **changes)


@case
def distilbert(folder):
    tokenizer = tiny.distilbert(max_length=MAX_LENGTH)
    save(folder, randomise(DistilBertForMaskedLM(distilbert_config(tokenizer)), "distilbert"), tokenizer)
    model_golden("distilbert", folder, "bert", pooler=False, notes="keys with `distilbert.`")


@case
def distilbert_vocab(folder):
    tokenizer = tiny.distilbert(max_length=MAX_LENGTH)
    config = distilbert_config(tokenizer, activation="relu", sinusoidal_pos_embds=True)
    save(folder, randomise(DistilBertModel(config), "distilbert-vocab"), tokenizer)
    remove(folder, "tokenizer.json")
    model_golden("distilbert-vocab", folder, "bert", pooler=False,
                 notes="vocab.txt only; relu; sinusoidal_pos_embds is true, yet the stored position embeddings count")


def mpnet_config(tokenizer):
    # 32 buckets at any size: the library uses 32 whatever the config says.
    return MPNetConfig(vocab_size=len(tokenizer), max_position_embeddings=POSITIONS_FROM_2, layer_norm_eps=1e-5,
                       pad_token_id=1, bos_token_id=0, eos_token_id=2, **SHAPE)


@case
def mpnet(folder):
    tokenizer = tiny.mpnet(max_length=MAX_LENGTH)
    save(folder, randomise(MPNetModel(mpnet_config(tokenizer)), "mpnet"), tokenizer)
    model_golden("mpnet", folder, "roberta")


@case
def mpnet_vocab(folder):
    tokenizer = tiny.mpnet()
    save(folder, randomise(MPNetForMaskedLM(mpnet_config(tokenizer)), "mpnet-vocab"), tokenizer)
    remove(folder, "tokenizer.json")
    model_golden("mpnet-vocab", folder, "roberta", pooler=False, notes="vocab.txt only; keys with `mpnet.`, no pooler")
