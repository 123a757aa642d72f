"""Static embeddings beside model2vec: a million short rows from Parquet to Parquet. Alternating rounds, each as a program of
its own; times are without those to load the model. `tokenizers` is what tokenizing alone takes on all cores. See run.sh."""

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WIDTH = 256


def model(folder, tokenizer):
    """A model2vec directory with random vectors for the words of a tokenizer."""
    from model2vec import StaticModel
    from tokenizers import Tokenizer

    if not folder.exists():
        words = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
        words.no_padding()
        words.no_truncation()
        rng = np.random.default_rng(1)
        vectors = rng.standard_normal((words.get_vocab_size(), WIDTH), dtype=np.float32)
        StaticModel(vectors, words, config={"normalize": True}, normalize=True).save_pretrained(str(folder))


def rows(path, text, count):
    """Pieces of sentences of 4 to 24 words."""
    if path.exists():
        return
    rng = random.Random(2)
    with open(text, encoding="utf-8", newline="") as file:
        words = " ".join(row["text"] for row in csv.DictReader(file)).split()
    made = []
    for _ in range(count):
        start = rng.randrange(len(words) - 24)
        made.append(" ".join(words[start : start + rng.randrange(4, 25)]))
    pq.write_table(pa.table({"id": range(count), "text": made}), path)


def model2vec(args):
    from model2vec import StaticModel

    found = StaticModel.from_pretrained(str(args.model))
    start = time.perf_counter()
    table = pq.read_table(args.rows)
    vectors = found.encode(table["text"].to_pylist(), use_multiprocessing=True, multiprocessing_threshold=10_000)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(table.append_column("embedding", column), args.out, compression="zstd")
    return time.perf_counter() - start


def tokenizers(args):
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    texts = pq.read_table(args.rows)["text"].to_pylist()
    start = time.perf_counter()
    for first in range(0, len(texts), 10_000):
        found.encode_batch_fast(texts[first : first + 10_000], add_special_tokens=False)
    return time.perf_counter() - start


def ours(args, work):
    out, report = work / "out", work / "report.json"
    step = {"feature-extraction": {"model": str(args.model), "input": "text", "output": "embedding"}}
    pipeline = {"version": 1, "source": {"path": str(args.rows)}, "steps": [step]}
    pipeline["sink"] = {"path": str(out), "format": "parquet"}
    (work / "pipeline.json").write_text(json.dumps(pipeline))
    command = [args.program, "run", str(work / "pipeline.json"), "--fresh", "--progress", "none"]
    subprocess.run([*command, "--report", str(report)], check=True, capture_output=True)
    run = json.loads(report.read_text())["run"]
    return run["wall_seconds"] - run["load_seconds"], run["peak_memory_bytes"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="a directory with tokenizer.json")
    parser.add_argument("--text", type=Path, help="a CSV file with a column `text`")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", choices=["model2vec", "tokenizers"])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.peer:
        print(json.dumps({"model2vec": model2vec, "tokenizers": tokenizers}[args.peer](args)))
        return
    work = args.cache / "static"
    work.mkdir(parents=True, exist_ok=True)
    args.model, args.rows, args.out = work / "model", work / f"{args.count} rows.parquet", work / "model2vec.parquet"
    model(args.model, args.tokenizer)
    rows(args.rows, args.text, args.count)
    seconds, memory = {"hfauto-pipe": [], "model2vec": [], "tokenizers": []}, 0
    for _ in range(args.rounds):
        mine, memory = ours(args, work)
        seconds["hfauto-pipe"].append(mine)
        for peer in ["model2vec", "tokenizers"]:
            command = [sys.executable, __file__, "--peer", peer, "--model", args.model, "--rows", args.rows, "--out", args.out]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds[peer].append(json.loads(ran.stdout.splitlines()[-1]))
    print(f"{args.count} rows, {os.cpu_count()} cores, {args.rounds} rounds; hfauto-pipe's memory {memory / 2**20:.0f} MiB")
    for name, all in seconds.items():
        print(f"{name}: {args.count / statistics.median(all):,.0f} rows/s")
    for peer in ["model2vec", "tokenizers"]:
        ratios = sorted(b / a for a, b in zip(seconds["hfauto-pipe"], seconds[peer]))
        print(f"over {peer}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    ours_table, theirs = pq.read_table(work / "out"), pq.read_table(args.out)
    flat = [np.asarray(t["embedding"].combine_chunks().flatten()[: 1000 * WIDTH]) for t in (ours_table, theirs)]
    print(f"largest difference in 1,000 rows: {np.abs(flat[0] - flat[1]).max():.1e}")


if __name__ == "__main__":
    main()
