#!/usr/bin/env python3
"""Embed a CSV of texts with sentence-transformers: the reference for a run of ours over the same rows.

    python minilm_reviews.py MODEL_DIRECTORY ROWS.csv REFERENCE.parquet [--id id] [--text text]

Writes a Parquet file with `id` (as text) and `embedding` (fixed-size list of float32), in the
order of the rows; compare.py compares it with another one. Each text is encoded alone, so that no
padding takes part in the numbers. Neither the model nor third-party rows belong in the repository.

Needs: sentence-transformers and pyarrow (requirements.txt).
"""
import argparse
import csv
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sentence_transformers import SentenceTransformer


def encode(model, texts):
    """(rows, dimensions) f32; equal texts are encoded once."""
    rows = {text: model.encode(text, show_progress_bar=False) for text in dict.fromkeys(texts)}
    return np.stack([rows[text] for text in texts]).astype(np.float32)


def load(folder):
    """f32 whatever the files hold, eager attention, CPU."""
    return SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": torch.float32, "attn_implementation": "eager"}).eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("rows")
    parser.add_argument("output")
    parser.add_argument("--id", default="id")
    parser.add_argument("--text", default="text")
    args = parser.parse_args()
    with open(args.rows, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    model, start = load(args.model), time.perf_counter()
    embeddings = encode(model, [row[args.text] for row in rows])
    column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
    pq.write_table(pa.table({"id": pa.array([row[args.id] for row in rows], pa.string()), "embedding": column}), args.output)
    print(f"{len(rows)} rows, {embeddings.shape[1]} dimensions, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
