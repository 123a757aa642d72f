"""Shared by all cases: the registry of cases, random weights, and writing goldens."""
import json
import os
import re
import shutil
import sys
import zlib

import numpy as np
import sentence_transformers
import sentencepiece
import tokenizers
import torch
import transformers
from safetensors.torch import save_file

from texts import HERE

MAX_LENGTH = 24      # tokens, special ones included
SHAPE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
# RoBERTa and MPNet count positions from pad_token_id + 1 = 2, so 26 positions fit 24 tokens.
POSITIONS_FROM_2 = MAX_LENGTH + 2
NORM_WEIGHT = re.compile(r"(LayerNorm|layer_norm|layernorm_embedding|layernorm|layernorm_before|layernorm_after|ln_1|ln_2|ln_f)\.weight$")

CASES = {}


def case(function):
    """Registers `def bert_gelu_new(folder)` as the case `bert-gelu-new`."""
    CASES[function.__name__.replace("_", "-")] = function
    return function


# ------------------------------------------------------------------------------ weights
def randomise(model, name):
    """Random weights and biases everywhere, including norms, so that none stays at 0 or 1."""
    rng = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    with torch.no_grad():
        for key, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=rng)
            if NORM_WEIGHT.search(key):
                p.copy_(1 + 0.2 * noise)
            elif key.endswith(("shared.weight", "embed_tokens.weight")):    # T5 embeds with numbers of order 1
                p.copy_(noise)
            elif "relative_attention_bias" in key or "distance_embedding" in key:
                p.copy_(0.8 * noise)
            elif ("embeddings" in key and p.ndim in (2, 3)) or key.endswith(("wte.weight", "wpe.weight")):
                p.copy_(0.3 * noise)
            else:
                p.copy_((0.18 if p.ndim == 2 else 0.1) * noise)
        for module in model.modules():      # the row of <pad> too: tokenizers make it from the text "<pad>"
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0.3 * torch.randn(module.weight.shape[1], generator=rng)
    return model.eval()


def save(folder, model, tokenizer, **options):
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder, **options)


def remove(folder, *names):
    for name in names:
        os.remove(os.path.join(folder, name))


def rewrite(folder, name, change):
    """Edits a JSON file in place; `change` gets the parsed value and returns the new one."""
    path = os.path.join(folder, name)
    with open(path, encoding="utf-8") as f:
        value = change(json.load(f))
    write_json(path, value)


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=1)
        f.write("\n")


def make(name):
    """Makes one case in a scratch folder and replaces the old one."""
    scratch, folder = os.path.join(HERE, name + ".new"), os.path.join(HERE, name)
    shutil.rmtree(scratch, ignore_errors=True)
    os.makedirs(scratch)
    try:
        CASES[name](scratch)
    except Skip as reason:
        print(f"skipped: {reason}", flush=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(scratch, folder)
        print(name, flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


# ------------------------------------------------------------------------------ goldens
def versions():
    return {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__, "sentence-transformers": sentence_transformers.__version__,
            "sentencepiece": sentencepiece.__version__, "numpy": np.__version__}


class Skip(Exception):
    """This case cannot be made with the installed libraries; the existing one stays."""


def skip(reason):
    raise Skip(reason)


def write_golden(folder, value, name="golden.json"):
    """JSON with one line per text, for readable diffs of goldens."""
    lines = []
    for key, v in value.items():
        if isinstance(v, list) and not all(isinstance(x, int) for x in v):
            v = "[\n" + ",\n".join("  " + json.dumps(x, ensure_ascii=False) for x in v) + "\n ]"
        else:
            v = json.dumps(v, ensure_ascii=False)
        lines.append(f" {json.dumps(key)}: {v}")
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        f.write("{\n" + ",\n".join(lines) + "\n}\n")


def write_tensors(folder, tensors):
    tensors = {k: torch.as_tensor(v).contiguous().clone() for k, v in tensors.items()}
    assert all(bool(v.isfinite().all()) for v in tensors.values()), folder
    save_file(tensors, os.path.join(folder, "golden.safetensors"))
