"""Alternating rounds of hfauto-pipe and its peers over the same rows, so that noise affects all alike; ratios of
each round, their medians and spread. See run.sh."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

import prepare

PEERS = {
    "sentence-transformers": ["sentence_transformers"],
    "onnxruntime f32": ["onnxruntime", "f32"],
    "onnxruntime int8": ["onnxruntime", "int8"],
}
OURS = {"hfauto-pipe f32": "f32", "hfauto-pipe int8": "int8"}
# Timed as a whole program, including start and load; only once per run, because it is slow.
DAFT = "daft"
# The pairs to compare: the same dtype, and the library that users come from.
RATIOS = [
    ("hfauto-pipe f32", "onnxruntime f32"),
    ("hfauto-pipe f32", "sentence-transformers"),
    ("hfauto-pipe int8", "onnxruntime int8"),
    ("hfauto-pipe int8", "sentence-transformers"),
]


def peer(name, work):
    kind, *dtype = PEERS[name]
    out = work["dir"] / f"{kind}-{'-'.join(dtype)}.npy"
    command = [sys.executable, str(Path(__file__).with_name("peer.py")), kind, "--model", str(work["model"])]
    command += ["--rows", str(work["rows"]), "--out", str(out), "--max-length", "512"]
    if dtype:
        command += ["--onnx", str(work["onnx"][dtype[0]])]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout)["seconds"], np.load(out), None


def run(name, work, program, dtype, step):
    """A step over rows from Parquet to Parquet: its seconds, without those to load the model, as it is with the peers;
    its column; and of the step, the share of padding, and what the whole program took."""
    out, report = work["dir"] / name, work["dir"] / f"{name}.json"
    pipeline = work["dir"] / f"{name}.yaml"
    pipeline.write_text(
        json.dumps(
            {
                "version": 1,
                "models": {"m": {"repo": str(work["model"]), **({"dtype": dtype} if dtype else {})}},
                "source": {"path": str(work["rows"])},
                "steps": [step],
                "sink": {"path": f"{out}/"},
            }
        )
    )
    command = [program, "run", str(pipeline), "--fresh", "--progress", "none", "--report", str(report)]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    program_seconds = time.perf_counter() - start
    run = json.loads(report.read_text())["run"]
    tables = [pq.read_table(file, columns=["e"]) for file in sorted(out.glob("*.parquet"))]
    extra = {"padding": run["steps"][0]["padding_share"], "program": program_seconds}
    return run["wall_seconds"] - run["load_seconds"], pa.concat_tables(tables)["e"].combine_chunks(), extra


def ours(name, work, program):
    dtype = OURS[name]
    step = {"feature-extraction": {"model": "m", "input": "text", "output": "e", "max_length": 512}}
    seconds, column, extra = run(f"ours-{dtype}", work, program, dtype, step)
    return seconds, np.asarray(column.flatten(), np.float32).reshape(len(column), -1), extra


def daft(work):
    """Rows are truncated to the model's own `max_seq_length`, which for long rows is half of the others' length."""
    out = work["dir"] / "daft"
    script = Path(__file__).with_name("daft_program.py")
    command = [sys.executable, str(script), str(work["rows"]), str(work["model"]), str(out)]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    tables = [pq.read_table(file, columns=["e"]) for file in sorted(out.glob("*.parquet"))]
    column = pa.concat_tables(tables)["e"].combine_chunks()
    return seconds, np.asarray(column.flatten(), np.float32).reshape(len(column), -1)


def measured_peak(args, cores):
    """The current f32 GFLOP/s of all cores, which varies on a shared machine."""
    command = [args.kernels, "--peak"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(cores)]
    return sum(float(process.communicate()[0].split()[-1]) for process in running)


def growth(model, sentences, args):
    """The cost of ten times the rows, and of rows with four times the tokens, relative to the growth of the products."""
    folder = args.cache / "work" / "growth"
    folder.mkdir(parents=True, exist_ok=True)
    words = " ".join(sentences).split()
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    step = {"feature-extraction": {"model": "m", "input": "text", "output": "e", "max_length": 512}}

    def of_tokens(tokens):
        tokenizer.enable_truncation(tokens)
        step["feature-extraction"]["max_length"] = tokens
        rows = min(160, len(words) // tokens)
        return [" ".join(words[start : start + tokens]) for start in range(0, rows * tokens, tokens)]

    def seconds(rows, dtype):
        pq.write_table(pa.table({"text": rows}), folder / "rows.parquet")
        work = {"dir": folder, "model": model, "rows": folder / "rows.parquet"}
        own, _, _ = run("growth", work, args.program, dtype, step)
        lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(rows)]
        return own, flops(model, lengths)

    print("\n## minilm, growth\n")
    for dtype in OURS.values():
        tokenizer.enable_truncation(512)
        step["feature-extraction"]["max_length"] = 512
        # The same lengths among few rows and many.
        all_rows = sorted(sentences[:4000], key=len)
        many, longer = [], []
        for _ in range(args.rounds):
            (one, cost), (ten, costs) = seconds(all_rows[5::10], dtype), seconds(all_rows, dtype)
            many.append(ten / one / (costs / cost))
        for _ in range(args.rounds):
            (short, cost), (long, costs) = seconds(of_tokens(128), dtype), seconds(of_tokens(512), dtype)
            longer.append(long / short / (costs / cost))
        print(f"- {dtype}: ten times the rows, time over what products grow by: {spread(many)}")
        print(f"- {dtype}: 512 tokens instead of 128, the same: {spread(longer)}", flush=True)


def few_rows(model, sets, args):
    """Jobs of a fraction of a second; ours include reading and writing the files."""
    folder = args.cache / "work" / "few"
    folder.mkdir(parents=True, exist_ok=True)
    graphs = prepare.onnx_graphs("minilm", model, args.cache)
    work = {"dir": folder, "model": model, "onnx": graphs, "rows": folder / "rows.parquet"}
    print("\n## minilm, few rows: milliseconds\n")
    print(f"| rows | {' | '.join([*PEERS, *OURS])} |")
    print("|---" * (1 + len(PEERS) + len(OURS)) + "|")
    ratios = []
    for set_name, count in [("long", 1), ("long", 2), ("long", 3), ("short", 1), ("short", 60)]:
        pq.write_table(pa.table({"text": sets[set_name][:count]}), work["rows"])
        seconds = {}
        for _ in range(2 * args.rounds):
            for name in [*PEERS, *OURS]:
                run = peer(name, work) if name in PEERS else ours(name, work, args.program)
                seconds.setdefault(name, []).append(run[0])
        times = " | ".join(f"{1e3 * statistics.median(times):.0f}" for times in seconds.values())
        print(f"| {count}, {set_name} | {times} |", flush=True)
        for name, other in RATIOS:
            ratio = [theirs / own for own, theirs in zip(seconds[name], seconds[other])]
            ratios.append(f"- {count}, {set_name}: {name} over {other}: {spread(ratio)}")
    print()
    print(*ratios, sep="\n", flush=True)


def generation(sentences, args):
    """GPT-2 small's shape, greedy, against `generate` of transformers with its fastest batch size."""
    new_tokens = 64
    folder = args.cache / "work" / "gpt2"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [" ".join(text.split()[:24]) for text in sentences if len(text.split()) >= 12][: 32 if args.quick else 128]
    work = {"dir": folder, "model": prepare.gpt2(sentences, args.cache), "rows": folder / "rows.parquet"}
    pq.write_table(pa.table({"text": rows}), work["rows"])
    limits = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
    step = {"text-generation": {"model": "m", "input": "text", "output": "e", "return_full_text": False, **limits}}
    print(f"\n## gpt2, decoding: {len(rows)} rows, {new_tokens} new tokens each\n")

    def theirs(batch_size):
        out = folder / "transformers.npy"
        command = [sys.executable, str(Path(__file__).with_name("peer.py")), "transformers"]
        command += ["--model", str(work["model"]), "--rows", str(work["rows"]), "--out", str(out)]
        command += ["--max-length", "512", "--batch-size", str(batch_size), "--new-tokens", str(new_tokens)]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(result.stdout)["seconds"], np.load(out)

    fastest = min((16, 32, 64), key=lambda batch_size: theirs(batch_size)[0])
    ratios, rates = [], []
    for _ in range(args.rounds):
        own, column, extra = run("ours", work, args.program, "f32", step)
        other, expected = theirs(fastest)
        ratios.append(other / own)
        rates.append((len(rows) * new_tokens / own, len(rows) * new_tokens / other))
    same = sum(a["text"] == b for a, b in zip(column.to_pylist(), expected.tolist())) / len(rows)
    own, other = (statistics.median(rate) for rate in zip(*rates))
    print(f"- hfauto-pipe {own:.0f} tokens/s, transformers {other:.0f} (batches of {fastest}); ratio {spread(ratios)}")
    print(f"- the same text: {same:.1%} of rows; the whole program: {extra['program']:.2f} s", flush=True)


def flops(model, lengths):
    """The operations in products: with weights, of queries with keys, and of probabilities with values."""
    config = json.loads((model / "config.json").read_text())
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    weights = layers * (4 * hidden**2 + 2 * hidden * config["intermediate_size"])
    return sum(n * (2 * weights + layers * 4 * n * hidden) for n in lengths)


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--program", required=True)
    parser.add_argument("--kernels", required=True, help="the bench of kernels, which measures the peak of a core")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="model/set, as minilm/short, minilm/few, minilm/growth or gpt2/decoding")
    parser.add_argument("--quick", action="store_true", help="a quarter of the rows")
    args = parser.parse_args()

    minilm = (args.model or prepare.default_model(args.cache)).resolve()
    sentences = prepare.texts(args.text, args.cache)
    sets = prepare.row_sets(sentences, args.quick)
    base = prepare.bert_base(minilm, args.cache)
    cores = len(os.sched_getaffinity(0))
    print(f"{time.strftime('%Y-%m-%d')}, {platform.processor() or platform.machine()}, {cores} cores")
    for model_name, model, share in [("minilm", minilm, 1), ("bert-base-random", base, 8)]:
        graphs = None
        for set_name, rows in sets.items():
            if args.only and f"{model_name}/{set_name}" not in args.only:
                continue
            rows = rows[: len(rows) // share]
            graphs = graphs or prepare.onnx_graphs(model_name, model, args.cache)
            folder = args.cache / "work" / model_name / set_name
            folder.mkdir(parents=True, exist_ok=True)
            work = {"dir": folder, "model": model, "onnx": graphs, "rows": folder / "rows.parquet"}
            pq.write_table(pa.table({"text": rows}), work["rows"])
            tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
            tokenizer.no_padding()
            tokenizer.enable_truncation(512)
            lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(rows)]
            one(model_name, set_name, work, lengths, flops(model, lengths), cores, args)
    if not args.only or "minilm/few" in args.only:
        few_rows(minilm, sets, args)
    if not args.only or "minilm/growth" in args.only:
        growth(minilm, sentences, args)
    if not args.only or "gpt2/decoding" in args.only:
        generation(sentences, args)


def one(model_name, set_name, work, lengths, operations, cores, args):
    tokens = sum(lengths)
    print(f"\n## {model_name}, {set_name}: {len(lengths)} rows of {tokens / len(lengths):.0f} tokens on average\n")
    seconds, embeddings, extras, peaks, programs = {}, {}, {}, [], {}
    for number in range(args.rounds):
        peaks.append(measured_peak(args, cores))
        names = [*PEERS, *OURS]
        # The order rotates, so that none always comes first.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            run = peer(name, work) if name in PEERS else ours(name, work, args.program)
            seconds.setdefault(name, []).append(run[0])
            embeddings[name], extras[name] = run[1], run[2]
            if name in OURS:
                programs.setdefault(name, []).append(run[2]["program"])
    peak = statistics.median(peaks)
    print(f"measured peak, all cores at once: {spread(peaks)} GFLOP/s in f32, four times that in int8\n")
    print("| | rows/s | tokens/s | share of peak | padding | cosine to sentence-transformers, mean (least) |")
    print("|---|---|---|---|---|---|")
    reference = embeddings["sentence-transformers"]
    for name, times in seconds.items():
        median = statistics.median(times)
        share = operations / median / 1e9 / (peak * (4 if name.endswith("int8") else 1))
        padding = f"{extras[name]['padding']:.1%}" if extras[name] else ""
        cosine = (embeddings[name] * reference).sum(1)
        print(
            f"| {name} | {len(lengths) / median:.0f} | {tokens / median:.0f} | {share:.0%} | {padding} "
            f"| {cosine.mean():.5f} ({cosine.min():.5f}) |"
        )
    print()
    for name, other in RATIOS:
        ratios = [theirs / own for own, theirs in zip(seconds[name], seconds[other])]
        print(f"- {name} over {other}: {spread(ratios)}")
    theirs, column = daft(work)
    cosine = (column / np.linalg.norm(column, axis=1, keepdims=True) * reference).sum(1)
    print(f"- {DAFT}, the whole program, once: {theirs:.2f} s; least cosine {cosine.min():.5f}")
    for name, times in programs.items():
        own = statistics.median(times)
        print(f"- {name}, the whole program, start and load included: {own:.2f} s; {theirs / own:.1f} times {DAFT}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
