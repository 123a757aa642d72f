"""What the step `chunk` costs before an embedder: documents that are chunked and embedded in one pipeline, beside the same
chunks from a file. Alternating rounds; times are without those to load the model.

    python3 benches/chunk.py PROGRAM --model DIR --text FILE.csv [--documents N] [--rounds N]
"""

import argparse
import csv
import json
import random
import statistics
import subprocess
import tempfile
import time
from pathlib import Path


def documents(path, text, count, size):
    """Sentences of a column `text`, about `size` characters a document."""
    with open(text, encoding="utf-8", newline="") as file:
        sentences = [row["text"].replace("\n", " ") for row in csv.DictReader(file)]
    rng = random.Random(5)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        for number in range(count):
            document = ""
            while len(document) < size:
                document += rng.choice(sentences)[: size - len(document)] + " "
            writer.writerow([number, document])


def run(program, folder, name, model, source, steps):
    report = folder / f"{name}.json"
    pipeline = {"version": 1, "models": {"m": {"repo": str(model)}}, "source": {"path": str(source)}, "steps": steps, "sink": {"path": f"{folder}/{name}/"}}
    (folder / f"{name}.yaml").write_text(json.dumps(pipeline))
    command = [program, "run", str(folder / f"{name}.yaml"), "--fresh", "--progress", "none", "--report", str(report)]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads(report.read_text())["run"]
    return found["wall_seconds"] - found["load_seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    embed = {"feature-extraction": {"model": "m", "input": "chunk", "output": "embedding"}}
    for by in ("tokens", "sentences", "markdown"):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            documents(folder / "documents.csv", args.text, args.documents, 2048)
            chunk = {"chunk": {"model": "m", "input": "text", "output": "chunk", "max_tokens": 200, "overlap": 20, "by": by}}
            run(args.program, folder, "chunks", args.model, folder / "documents.csv", [chunk])
            ratios = []
            for _ in range(args.rounds):
                alone = run(args.program, folder, "alone", args.model, folder / "chunks/*.parquet", [embed])
                both = run(args.program, folder, "both", args.model, folder / "documents.csv", [chunk, embed])
                ratios.append(both / alone)
            print(f"by {by}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) of the time for the same chunks from a file", flush=True)


if __name__ == "__main__":
    main()
