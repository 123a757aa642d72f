"""Shared by the cases of `tasks/`: models of several cases, writing a case, and checking its stability."""
import os
import zlib
from dataclasses import dataclass, field

import sentence_transformers
import tokenizers
import torch
import transformers

from texts import HERE
from tools import CASES, make, remove, write_golden

TASKS = os.path.join(HERE, "tasks")
MAX_LENGTH = 32      # tokens, special ones included, of the models that read
SHAPE = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
NUDGE = 3e-5         # see `stable`
NUDGED = 1e-2


# ------------------------------------------------------------------------------ models
def model(name):
    """Registers `def f(folder)` as the model directory `tasks/NAME`."""
    def register(function):
        CASES[f"tasks/{name}"] = function
        return function
    return register


def model_folder(name):
    """The directory of a model, made if it is missing."""
    if not os.path.isdir(os.path.join(TASKS, name)):
        make(f"tasks/{name}")
    return os.path.join(TASKS, name)


def weights(net, name, head=3.0):
    """Random weights, large enough that rows differ; the head's are scaled by `head` to spread the scores."""
    rng = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    heads = ("classifier", "score", "qa_outputs", "seq_relationship", "cls.predictions.bias")
    with torch.no_grad():
        for key, p in sorted(net.named_parameters()):
            noise = torch.randn(p.shape, generator=rng)
            norm = p.ndim == 1 and key.endswith("weight")
            if norm:
                p.copy_(1 + 0.2 * noise)
            elif "relative_attention_bias" in key:
                p.copy_(0.8 * noise)
            elif any(part in key for part in ("embed", "wte", "wpe", "shared")):
                p.copy_(0.5 * noise)
            elif p.ndim == 1:
                p.copy_(0.1 * noise)
            else:
                p.copy_(0.3 * noise)
            if not norm and any(part in key for part in heads):
                p.mul_(head)
    net.tie_weights()
    return net.eval()


def centre(net, bias, tokenizer, texts):
    """Shifts a classifier's bias so that no label always wins."""
    with torch.no_grad():
        logits = [net(**tokenizer(text, return_tensors="pt", truncation=True)).logits.flatten(0, -2) for text in texts]
        bias -= torch.cat(logits).mean(0)
    return net


def save(folder, net, tokenizer=None):
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    net.save_pretrained(folder)
    for name in ("spiece.model", "sentencepiece.bpe.model"):     # tokenizer.json says the same
        if os.path.exists(os.path.join(folder, name)):
            remove(folder, name)
    size = sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))
    assert size < 100_000, (folder, size)


def labels(*names):
    """The settings of a configuration with these labels."""
    return dict(id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})


def nudge(net):
    """Multiplies every weight by its own factor near 1."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, p in sorted(net.named_parameters()):
            p.mul_(1 + NUDGE * torch.randn(p.shape, generator=rng))
    return net


# ------------------------------------------------------------------------------ cases
@dataclass
class Case:
    """A file of `tasks/TASK/`: `options` and `input` as a pipeline file has them."""
    name: str
    model: str
    rows: list
    input: object = "text"
    options: dict = field(default_factory=dict)
    notes: str = ""
    # additions to the model's generation_config.json; a replacement of its preprocessor_config.json
    generation_config: dict | None = None
    preprocessor_config: dict | None = None


def text_rows(*texts):
    return [{"text": text} for text in texts]


def task(name, reference, cases):
    """Registers the folder `tasks/NAME`.

    `reference(folder, case, change)` returns the function from a row to its value, or to (value, more), where
    `more` is stored beside `expected`. It calls `change` with the model after loading it.
    """
    assert len({case.name for case in cases}) == len(cases), name

    def write(folder):
        for case in cases:
            write_case(folder, name, case, reference)

    CASES[f"tasks/{name}"] = write


def write_case(folder, task_name, case, reference):
    path = model_folder(case.model)
    call = reference(path, case, lambda net: net)
    rows, expected, more, errors = evaluate(case, call)
    nudged = evaluate(case, reference(path, case, nudge))
    for row, a, b in zip(rows + errors, expected + errors, nudged[1] + nudged[3], strict=True):
        assert stable(a, b), f"{task_name}/{case.name}: near a tie, take another seed: {row}\n{a}\n{b}"
    value = {"model": f"../{case.model}", "task": task_name, "input": case.input, "options": case.options}
    for key in ("generation_config", "preprocessor_config"):
        if getattr(case, key) is not None:
            value[key] = getattr(case, key)
    value |= getattr(call, "header", {})        # what holds for every row
    value |= {"rows": rows, "expected": expected, **more}
    if errors:
        value["errors"] = errors
    write_golden(folder, {**value, "notes": case.notes, "library versions": library_versions()}, f"{case.name}.json")


def evaluate(case, call):
    """Rows with a value, their values, additional results, and the rows that the library refuses."""
    rows, expected, more, errors = [], [], {}, []
    for row in case.rows:
        if any(value is None for value in row.values()):
            value, beside = None, {}
        else:
            try:
                value = call(row)
            except Exception as error:       # a golden of the error: which rows the library refuses, and how
                text = str(error).strip() or type(error).__name__
                errors.append({"row": row, "error": f"{type(error).__name__}: {text.splitlines()[0]}"})
                continue
            value, beside = value if isinstance(value, tuple) else (value, {})
        for key in beside:
            more.setdefault(key, [None] * len(rows))
        rows.append(row)
        expected.append(short(value))
        for key, values in more.items():
            values.append(short(beside.get(key)))
    assert rows, (case.name, errors)
    return rows, expected, more, errors


def short(value):
    """Floats with nine digits, which preserve every bit of an f32."""
    if isinstance(value, dict):
        return {key: short(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [short(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    return float(f"{value:.9g}") if isinstance(value, float) else value


def stable(a, b):
    """Whether a model whose weights differ by some 1e-5 gives the same labels, spans and ids, and nearly the same numbers.

    A golden that fails this is close to a tie, which another order of summation may flip.
    """
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= NUDGED * max(1, abs(a))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(stable(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(stable, a, b))
    return a == b


def library_versions():
    return {"torch": torch.__version__, "transformers": transformers.__version__, "tokenizers": tokenizers.__version__,
            "sentence-transformers": sentence_transformers.__version__}
