"""SQL beside DuckDB, over Parquet files that hfauto-pipe wrote: nearest vectors, top pairs, a group-by. Alternating rounds,
each as a program of its own that runs the query once; DuckDB's time is that of the query, ours that of the whole program.
See run.sh."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WIDTH = 160
# As hfauto-pipe writes embeddings.
VECTOR = pa.list_(pa.field("item", pa.float32(), nullable=False), WIDTH)
DUCKDB = """
import json, sys, time, duckdb
duckdb.execute("SET enable_progress_bar = false")
duckdb.execute("SET threads = " + sys.argv[1])
start = time.perf_counter()
rows = duckdb.execute(sys.argv[2]).fetchall()
print(json.dumps([time.perf_counter() - start, [str(row[0]) for row in rows]]))
"""


def vectors(path, rows, seed):
    """Random vectors of unit length, with a label of 1,000 and a number."""
    if path.exists():
        return
    rng, schema, writer = np.random.default_rng(seed), None, None
    for start in range(0, rows, 50_000):
        count = min(50_000, rows - start)
        values = rng.standard_normal((count, WIDTH), dtype=np.float32)
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        columns = {
            "id": pa.array(range(start, start + count)),
            "label": pa.array([f"label {i}" for i in rng.integers(0, 1000, count)]),
            "amount": pa.array(rng.random(count)),
            "v": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=VECTOR),
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def rewrite(program, path, out):
    """The same rows in a file that hfauto-pipe wrote."""
    if not out.exists():
        subprocess.run([program, "sql", "-q", "-o", str(out), f"SELECT * FROM '{path}'"], check=True)


def queries(million, thousands):
    query = ", ".join("0.1" if i % 3 else "-0.2" for i in range(WIDTH))
    ours, theirs = "cosine_similarity", "array_cosine_similarity"
    float32 = f"FLOAT[{WIDTH}]"
    return {
        f"nearest 5 of {million.stem}": (
            f"SELECT id FROM '{million}' ORDER BY {ours}(v, [{query}]) DESC LIMIT 5",
            f"SELECT id FROM '{million}' ORDER BY {theirs}(v::{float32}, [{query}]::{float32}) DESC LIMIT 5",
        ),
        f"top pairs of {thousands[0].stem} and {thousands[1].stem}": (
            f"SELECT a.id * 100000 + b.id FROM '{thousands[0]}' a CROSS JOIN '{thousands[1]}' b "
            f"ORDER BY {ours}(a.v, b.v) DESC LIMIT 10",
            f"SELECT a.id * 100000 + b.id FROM '{thousands[0]}' a CROSS JOIN '{thousands[1]}' b "
            f"ORDER BY {theirs}(a.v::{float32}, b.v::{float32}) DESC LIMIT 10",
        ),
        "group by over a million rows": (
            f"SELECT label, count(*), avg(amount) FROM '{million}' GROUP BY label ORDER BY label LIMIT 5",
        )
        * 2,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    folder = args.cache / "sql"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for rows, seed in [(args.rows, 1), (1_000, 2), (10_000, 3)]:
        vectors(folder / f"made-{rows}.parquet", rows, seed)
        files.append(folder / f"{rows} vectors.parquet")
        rewrite(args.program, folder / f"made-{rows}.parquet", files[-1])
    print(f"{os.cpu_count()} cores, {args.rounds} rounds; seconds are medians, the ratio is DuckDB's time over ours\n")
    print("| query | hfauto-pipe | DuckDB | ratio |\n|---|---|---|---|")
    for name, (mine, other) in queries(files[0], files[1:]).items():
        ours, theirs = [], []
        for _ in range(args.rounds):
            start = time.perf_counter()
            command = [args.program, "sql", "-q", "--format", "csv", mine]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            ours.append(time.perf_counter() - start)
            command = [sys.executable, "-c", DUCKDB, str(os.cpu_count()), other]
            seconds, ids = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            theirs.append(seconds)
            mine_ids = [line.split(",")[0] for line in ran.stdout.splitlines()[1:]]
            if mine_ids != ids:
                print(f"{name}: {mine_ids} instead of {ids}", file=sys.stderr)
        ratios = sorted(b / a for a, b in zip(ours, theirs))
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {name} | {statistics.median(ours):.2f} | {statistics.median(theirs):.2f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
