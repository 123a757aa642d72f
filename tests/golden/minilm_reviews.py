#!/usr/bin/env python3
"""Embed a table of texts with sentence-transformers, as the reference for hfauto-pipe over the same rows.

    python minilm_reviews.py MODEL_DIRECTORY ROWS.csv|ROWS.parquet REFERENCE.parquet [--id id] [--text text]

Writes a Parquet file with `id` (as text) and `embedding` (fixed-size list of float32), in the
order of the rows; compare.py compares it with another one. Only texts of the same number of tokens
share a batch, so that padding does not affect the results. A null text (Parquet only) has a null embedding. Neither the model nor third-party rows belong in the repository.

Needs: sentence-transformers and pyarrow (requirements.txt).
"""
import argparse
import csv
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sentence_transformers import SentenceTransformer


def encode_alone(model, texts):
    """(rows, dimensions) f32, one text at a time."""
    return np.stack([model.encode(text, show_progress_bar=False) for text in texts])


def encode(model, texts):
    """(rows, dimensions) f32; equal texts are computed once, and texts of equal length together."""
    by_length = {}
    for text in dict.fromkeys(texts):
        by_length.setdefault(model.tokenize([text])["input_ids"].shape[1], []).append(text)
    rows = {}
    for length, group in sorted(by_length.items()):
        rows.update(zip(group, model.encode(group, batch_size=32, show_progress_bar=False)))
        print(f"{len(rows)} texts, {length} tokens", file=sys.stderr, flush=True)
    return np.stack([rows[text] for text in texts])


def load(folder):
    """f32 whatever the dtype of the files, eager attention, CPU."""
    return SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": torch.float32, "attn_implementation": "eager"}).eval()


def read(path):
    """-> rows as dicts."""
    if path.endswith(".parquet"):
        return pq.read_table(path).to_pylist()
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("rows")
    parser.add_argument("output")
    parser.add_argument("--id", default="id")
    parser.add_argument("--text", default="text")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = read(args.rows)
    texts = [row[args.text] for row in rows]
    model, start = load(args.model), time.perf_counter()
    embeddings = encode(model, [text or "" for text in texts])
    nulls = pa.array([text is None for text in texts])
    column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1], mask=nulls)
    pq.write_table(pa.table({"id": pa.array([str(row[args.id]) for row in rows]), "embedding": column}), args.output)
    print(f"{len(rows)} rows, {embeddings.shape[1]} dimensions, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
