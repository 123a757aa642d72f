"""How far transformers in bf16 is from itself in f32: our bf16 must not be further."""
import glob
import json
import os

import torch
import transformers

from texts import HERE
from tools import case, versions, write_golden

# As `ROWS` in crates/hfauto/src/models/tests/dtypes.rs.
ROWS = [[5, 6, 7, 8, 9, 10, 11, 12, 5, 30], [9], [40, 3, 17, 2]]


def outputs(folder, auto_class, dtype):
    """The logits of every row, or the last hidden states of a model without a head, in one vector."""
    model = getattr(transformers, auto_class).from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    with torch.no_grad():
        found = [model(input_ids=torch.tensor([row])) for row in ROWS]
    return torch.cat([(out.logits if "logits" in out else out.last_hidden_state).flatten().double() for out in found])


@case
def bf16(folder):
    errors = {}
    for path in sorted(glob.glob(os.path.join(HERE, "modern/*/*/golden.json"))):
        cell = os.path.dirname(path)
        with open(path) as file:
            auto_class = json.load(file)["auto_class"]
        if not auto_class.endswith(("Model", "ForCausalLM", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")):
            continue
        try:
            exact, rounded = (outputs(cell, auto_class, dtype) for dtype in (torch.float32, torch.bfloat16))
        except Exception as error:      # architectures of the hub, and what torch has no bf16 for
            print("bf16: without", os.path.relpath(cell, HERE), type(error).__name__, str(error)[:80])
            continue
        errors[os.path.relpath(cell, HERE)] = float(f"{((rounded - exact).norm() / exact.norm()).item():.3g}")
    write_golden(folder, {"library versions": versions(), "relative_errors": errors})
