"""Two real models over two hundred of the sample rows: the one in examples/models, and all-MiniLM-L6-v2.

The models are not copied. all-MiniLM-L6-v2 is not in this repository: its case is made when
HFAUTO_MINILM names its directory.
"""
import hashlib
import os
import random

import pyarrow.parquet as pq

from minilm_reviews import encode_alone, load
from texts import HERE
from tools import case, skip, versions, write_golden, write_tensors

EXAMPLES = os.path.join(HERE, "..", "..", "examples")


def two_hundred_rows():
    """-> [(id, text)] in table order: the longest text, the blank ones, and random others."""
    table = pq.read_table(os.path.join(EXAMPLES, "data", "reviews.parquet"), columns=["id", "text"])
    rows = [(row["id"], row["text"]) for row in table.to_pylist() if row["text"] is not None]
    chosen = {max(rows, key=lambda row: len(row[1])), *(row for row in rows if not row[1].strip())}
    others = [row for row in rows if row not in chosen]
    return sorted(chosen | set(random.Random(7).sample(others, 200 - len(chosen))))


def golden(folder, directory, repo):
    model, rows = load(directory), two_hundred_rows()
    with open(os.path.join(directory, "model.safetensors"), "rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    write_tensors(folder, {"sentence_embedding": encode_alone(model, [text for _, text in rows])})
    write_golden(folder, {"library versions": versions(), "model": repo, "model.safetensors sha256": digest,
                          "max_length": model.max_seq_length, "notes": "rows of examples/data/reviews.parquet, computed in f32",
                          "ids": [row_id for row_id, _ in rows], "texts": [text for _, text in rows]})


@case
def mini_embedder(folder):
    golden(folder, os.path.join(EXAMPLES, "models", "mini-embedder"), "examples/models/mini-embedder")


@case
def minilm(folder):
    directory = os.environ.get("HFAUTO_MINILM")
    if not directory:
        skip("minilm needs HFAUTO_MINILM, the directory of sentence-transformers/all-MiniLM-L6-v2")
    golden(folder, directory, "sentence-transformers/all-MiniLM-L6-v2")
