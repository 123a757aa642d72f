"""Rotary embeddings alone: cosines and sines of every rope type in both spellings of the configuration, and turned queries.

`rotary/golden.json` has `cases`: `config` as in config.json, `layer_type` where a family has one rotary embedding for each,
`rows` with their `positions` and `attention_factor`. `rotary/golden.safetensors` has, for row `j` of case `i`:
`inv_freq.{i}.{j}`, the frequencies; `cos.{i}.{j}` and `sin.{i}.{j}`, (positions, frequencies), times the attention factor;
`turned.{i}.{j}`, (positions, 2 * head_dim), the first of `queries.{head_dim}`, two heads a token, turned.
"""
import copy

import torch
import transformers
from transformers import AutoConfig
from transformers.models.llama import modeling_llama
from transformers.models.phi3 import modeling_phi3

from cases_modern import FULL, LLAMA3, LONG, LONG_6, SLIDING, rope
from modern import LIBRARY
from tools import CASES, skip, versions, write_golden, write_tensors

HEADS, MOST = 2, 48
FAR = [0, 1, 4095, 4096, 8191, 8192, 32767, 131071]


def shape(head_dim, **more):
    return {"hidden_size": 4 * head_dim, "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 64, **more}


def llama(head_dim=8, **more):
    return {"model_type": "llama", "head_dim": head_dim, **shape(head_dim, **more)}


YARN = dict(factor=4.0, beta_fast=2.0, beta_slow=0.5, original_max_position_embeddings=16)
LONG_ROPE = dict(original_max_position_embeddings=10, **LONG)
G3 = {"model_type": "gemma3_text", "head_dim": 12, "layer_types": [FULL, SLIDING], **shape(12)}
MB = {"model_type": "modernbert", "layer_types": [FULL, SLIDING], **shape(12)}
SHORT = [1, 7, 40]
TABLE = [  # config.json, layer type, lengths of rows (positions 0, 1, …) or single positions of a row of that length
    (llama(), None, SHORT),
    (llama(rope_theta=500000.0, rope_scaling=None), None, SHORT),
    (llama(64, rope_theta=500000), None, [40, FAR]),
    (llama(128, rope_parameters=rope(rope_theta=1000000.0)), None, [40, FAR]),
    (llama(256, rope_parameters={"rope_type": "default"}), None, [40]),
    (llama(rope_scaling={"type": "linear", "factor": 2.5}), None, SHORT),
    (llama(rope_theta=100.0, rope_parameters=rope("linear", factor=3, rope_theta=50.0)), None, SHORT),
    (llama(rope_theta=100.0, max_position_embeddings=12, rope_scaling={"type": "dynamic", "factor": 2.0}), None, [1, 12, 13, 24, 40, [30]]),
    (llama(64, max_position_embeddings=16, rope_parameters=rope("dynamic", rope_theta=10000.0, factor=4.0)), None, [16, 17, 48]),
    (llama(16, rope_parameters=rope("yarn", rope_theta=50.0, **YARN)), None, SHORT),
    (llama(16, rope_theta=50.0, rope_scaling=rope("yarn", **YARN, truncate=False, mscale=1.3, mscale_all_dim=0.6)), None, SHORT),
    (llama(16, rope_theta=50.0, rope_scaling=rope("yarn", **YARN, attention_factor=0.8, mscale=0.7)), None, SHORT),
    (llama(16, rope_parameters=rope("yarn", rope_theta=50.0, **YARN | {"factor": None})), None, SHORT),
    (llama(16, rope_theta=50.0, original_max_position_embeddings=24, rope_scaling=rope("yarn", **YARN, mscale=0.5, mscale_all_dim=0)),
     None, SHORT),
    (llama(128, max_position_embeddings=131072, rope_theta=1000000.0,
           rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}), None, [40, FAR]),
    (llama(64, rope_parameters=rope("yarn", rope_theta=10000.0, factor=2.0)), None, [40]),
    (llama(rope_parameters=rope("longrope", rope_theta=100.0, factor=4.0, **LONG_ROPE)), None, [1, 10, 11, 40, [30]]),
    (llama(rope_theta=100.0, rope_scaling={"type": "longrope", "attention_factor": 1.19, **LONG_ROPE}), None, [10, 11]),
    (llama(rope_theta=100.0, rope_scaling={"rope_type": "longrope", **LONG_ROPE}), None, [10, 11]),
    (llama(rope_theta=16.0, rope_scaling={"rope_type": "llama3", **LLAMA3}), None, SHORT),
    (llama(64, max_position_embeddings=131072, rope_parameters=rope(
        "llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)),
     None, [40, FAR]),
    ({"model_type": "smollm3", **shape(8)}, None, SHORT),
    ({"model_type": "nomic_bert", **shape(8)}, None, SHORT),
    ({"model_type": "gte", **shape(8)}, None, SHORT),
    ({"model_type": "eurobert", **shape(8), "rope_theta": 250000.0}, None, SHORT),
    ({"model_type": "phi3", **shape(12), "rope_theta": 1000.0, "partial_rotary_factor": 0.5}, None, SHORT),
    ({"model_type": "phi3", **shape(12), "rope_parameters": rope(rope_theta=1000.0, partial_rotary_factor=0.75)}, None, SHORT),
    ({"model_type": "phi3", **shape(8), "original_max_position_embeddings": 10, "rope_scaling": {"type": "longrope", **LONG}}, None, [10, 11, 40]),
    ({"model_type": "phi3", **shape(16), "original_max_position_embeddings": 12, "partial_rotary_factor": 0.75, "rope_scaling": {
        "type": "su", "original_max_position_embeddings": 20, **LONG_6}}, None, [12, 13]),
    ({"model_type": "phi3", **shape(8), "original_max_position_embeddings": 12, "rope_scaling": {
        "type": "yarn", "original_max_position_embeddings": 12, "factor": 2.0, **LONG}}, None, [12, 13]),
    *(({**G3, **config}, layer_type, [40]) for layer_type in (FULL, SLIDING) for config in (
        {}, {"rope_theta": 5000.0, "rope_local_base_freq": 100.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        # The old key `type` does not replace the type of the default.
        {"rope_scaling": {"type": "linear", "factor": 8.0}}, {"rope_parameters": rope("linear", rope_theta=50.0, factor=2.0)},
        {"rope_parameters": {FULL: rope("linear", rope_theta=1000.0, factor=4.0), SLIDING: rope(rope_theta=100.0)}},
        {"rope_parameters": {FULL: rope("yarn", rope_theta=50.0, truncate=False, **YARN), SLIDING: None}})),
    *(({**MB, **config}, layer_type, [40]) for layer_type in (FULL, SLIDING) for config in (
        {}, {"global_rope_theta": 5000.0, "local_rope_theta": 100.0}, {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": {FULL: rope("dynamic", rope_theta=1000.0, factor=4.0), SLIDING: rope("linear", rope_theta=100.0, factor=2.0)}})),
]


def rotary(config):
    """The rotary embedding of the model that this configuration makes."""
    own = copy.deepcopy(config)
    settings = AutoConfig.for_model(own.pop("model_type"), vocab_size=8, intermediate_size=8, pad_token_id=0, bos_token_id=1,
                                    eos_token_id=2, **own)
    model = transformers.AutoModel.from_config(settings)
    return model.rotary_emb


def write(folder):
    if transformers.__version__ != LIBRARY:
        skip(f"rotary is made with transformers {LIBRARY}")
    rng = torch.Generator().manual_seed(0)
    cases, out = [], {}
    for i, (config, layer_type, lengths) in enumerate(TABLE):
        rows = []
        for j, length in enumerate(lengths):
            single = length if isinstance(length, list) else None
            positions = single or list(range(length))
            # A model of its own for each row: an embedding that scales by length remembers the longest so far.
            embedding, ids = rotary(config), torch.tensor([positions])
            with torch.inference_mode():
                cos, sin = embedding(torch.zeros(1), ids, *([] if layer_type is None else [layer_type]))
            half = cos.shape[-1] // 2
            prefix = "" if layer_type is None else f"{layer_type}_"
            out[f"inv_freq.{i}.{j}"] = getattr(embedding, f"{prefix}inv_freq")
            out[f"cos.{i}.{j}"], out[f"sin.{i}.{j}"] = cos[0, :, :half], sin[0, :, :half]
            head_dim = config["hidden_size"] // config["num_attention_heads"]
            queries = f"queries.{head_dim}"
            if queries not in out:
                out[queries] = torch.randn(MOST, HEADS * head_dim, generator=rng)
            q = out[queries][:len(positions)].view(1, len(positions), HEADS, head_dim).transpose(1, 2)
            turn = (modeling_phi3 if config["model_type"] == "phi3" else modeling_llama).apply_rotary_pos_emb
            out[f"turned.{i}.{j}"] = turn(q, q, cos, sin)[0][0].transpose(0, 1).reshape(len(positions), -1)
            rows.append({"attention_factor": getattr(embedding, f"{prefix}attention_scaling"), "positions": positions})
        cases.append({"config": config, "layer_type": layer_type, "head_dim": head_dim, "rows": rows})
    write_tensors(folder, out)
    write_golden(folder, {"library versions": versions(), "cases": cases})


CASES["rotary"] = write
