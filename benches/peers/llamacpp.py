"""Batch generation from GGUF files beside llama.cpp (the wheel xllamacpp): 32 rows as parallel sequences, greedy, in alternating
rounds, each as a program of its own; times are without those to load the model. See run.sh."""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from bench import run
from modern import generated, rounds, work_of

ROWS, PROMPT_WORDS, NEW_TOKENS = 32, 36, 64
# A shape of Qwen2.5-0.5B under a tokenizer with fewer words; unused ones fill the vocabulary.
QWEN = dict(vocab=151936, width=896, inner=4864, layers=24, heads=14, kv_heads=2)


def quantized(weights, kind):
    """The blocks of a matrix, or its values where the type does not fit."""
    import gguf

    if weights.ndim == 1 or kind == "F32":
        return weights.astype(np.float32), gguf.GGMLQuantizationType.F32
    kind = gguf.GGMLQuantizationType[kind]
    return gguf.quants.quantize(weights.astype(np.float32), kind), kind


def copied(writer, source, skip):
    for name, field in source.fields.items():
        if name.startswith("GGUF.") or name in {"general.architecture", "general.file_type"} or any(map(name.startswith, skip)):
            continue
        writer.add_key_value(name, field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None)


def smollm2(path, source, kind):
    """SmolLM2-135M with its weights in blocks of another type."""
    import gguf

    if path.exists():
        return
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    copied(writer, reader, ())
    for tensor in reader.tensors:
        values, stored = quantized(gguf.quants.dequantize(tensor.data, tensor.tensor_type), kind)
        writer.add_tensor(tensor.name, values, raw_dtype=stored)
    finish(writer)


def qwen(path, source, kind):
    """The shape of Qwen2.5-0.5B with random weights."""
    import gguf

    if path.exists():
        return
    reader, rng = gguf.GGUFReader(source), np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "qwen2")
    copied(writer, reader, ("llama.", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "general.", "tokenizer.chat_template"))
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    more = QWEN["vocab"] - len(tokens)
    writer.add_token_list([*tokens, *(f"<unused{i}>" for i in range(more))])
    writer.add_token_types([*kinds, *[5] * more])
    writer.add_block_count(QWEN["layers"])
    writer.add_context_length(32768)
    writer.add_embedding_length(QWEN["width"])
    writer.add_feed_forward_length(QWEN["inner"])
    writer.add_head_count(QWEN["heads"])
    writer.add_head_count_kv(QWEN["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    head = QWEN["width"] // QWEN["heads"]

    def add(name, *shape):
        values = rng.standard_normal(shape, dtype=np.float32) * 0.02 if name.endswith("weight") and len(shape) > 1 else np.ones(shape, np.float32)
        blocks, stored = quantized(values * (0.01 if name.endswith("bias") else 1), kind)
        writer.add_tensor(name, blocks, raw_dtype=stored)

    width, inner = QWEN["width"], QWEN["inner"]
    add("token_embd.weight", QWEN["vocab"], width)
    add("output_norm.weight", width)
    for layer in range(QWEN["layers"]):
        block = f"blk.{layer}"
        for name, rows in (("q", width), ("k", head * QWEN["kv_heads"]), ("v", head * QWEN["kv_heads"])):
            add(f"{block}.attn_{name}.weight", rows, width)
            add(f"{block}.attn_{name}.bias", rows)
        add(f"{block}.attn_output.weight", width, width)
        add(f"{block}.attn_norm.weight", width)
        add(f"{block}.ffn_norm.weight", width)
        add(f"{block}.ffn_gate.weight", inner, width)
        add(f"{block}.ffn_up.weight", inner, width)
        add(f"{block}.ffn_down.weight", width, inner)
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def texts(path):
    rng = random.Random(3)
    with open(path, encoding="utf-8", newline="") as file:
        words = " ".join(row["text"] for row in csv.DictReader(file)).split()
    starts = (rng.randrange(len(words) - PROMPT_WORDS) for _ in range(ROWS))
    return [" ".join(words[start : start + PROMPT_WORDS]) for start in starts]


def llama_cpp(args):
    """All rows at once, each a sequence of its own."""
    import xllamacpp

    rows = pq.read_table(args.rows)["text"].to_pylist()
    params = xllamacpp.CommonParams()
    params.model.path, params.n_parallel, params.n_ctx, params.n_batch = args.model, len(rows), len(rows) * 256, 2048
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    params.warmup, params.cache_prompt, params.cache_ram_mib, params.verbosity = True, False, 0, 0
    server = xllamacpp.Server(params)

    def complete(prompt):
        made = server.handle_completions({"prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0, "top_k": 1, "ignore_eos": True, "cache_prompt": False})
        return made["choices"][0]["text"] if isinstance(made, dict) else json.loads(made)["choices"][0]["text"]

    with ThreadPoolExecutor(len(rows)) as threads:
        list(threads.map(complete, rows[:2]))
        start = time.perf_counter()
        made = list(threads.map(complete, rows))
        seconds = time.perf_counter() - start
    np.save(args.out, np.array(made))
    print("\n" + json.dumps({"seconds": seconds}), flush=True)
    os._exit(0)


def peer(work, model):
    out = work["dir"] / "llama.cpp.npy"
    command = [sys.executable, __file__, "--peer", "--model", str(model), "--rows", str(work["rows"]), "--out", str(out)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1])["seconds"], np.load(out)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--program")
    parser.add_argument("--source", type=Path, help="a GGUF file of SmolLM2-135M")
    parser.add_argument("--text", type=Path, help="a CSV file with a column `text`")
    parser.add_argument("--rounds", type=int, default=3)
    # As the peer.
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--model")
    parser.add_argument("--rows")
    parser.add_argument("--out")
    args = parser.parse_args()
    if args.peer:
        return llama_cpp(args)
    folder = args.cache / "llamacpp"
    folder.mkdir(parents=True, exist_ok=True)
    rows, limits = texts(args.text), {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    step = {"text-generation": {"model": "m", "input": "text", "output": "e", "return_full_text": False, **limits}}
    for shape, make in (("smollm2-135m", smollm2), ("qwen2.5-0.5b", qwen)):
        for kind in ("Q8_0", "Q4_0"):
            model = folder / f"{shape}-{kind}.gguf"
            make(model, args.source, kind)
            work = work_of(folder / f"{shape}-{kind}", model, rows)

            def ours(dtype=None, work=work):
                seconds, column, _ = run(f"ours-{dtype}", work, args.program, dtype, step)
                return seconds, np.array([row["text"] for row in column.to_pylist()])

            runs = {"hfauto-pipe, blocks": ours, "hfauto-pipe, int8": lambda ours=ours: ours("int8"),
                    "llama.cpp": lambda work=work, model=model: peer(work, model)}
            seconds, results = rounds(args, runs)
            generated(f"{shape} {kind}: {ROWS} prompts of about 48 tokens, {NEW_TOKENS} new ones, greedy", ROWS * NEW_TOKENS, seconds, results,
                      [("hfauto-pipe, blocks", "llama.cpp"), ("hfauto-pipe, blocks", "hfauto-pipe, int8"), ("hfauto-pipe, int8", "llama.cpp")], "llama.cpp")


if __name__ == "__main__":
    main()
