"""hfauto-pipe on a GPU, compared with sentence-transformers and transformers on the same GPU: rows from Parquet to Parquet
against `encode` in memory, GPT-2 against `generate`. Models have the shapes of well-known ones and random weights; rows
are made of the words of the reviews in examples/data, no two alike. Needs torch with CUDA, sentence-transformers and
pyarrow; see run.sh."""

import argparse
import csv
import json
import random
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from transformers import AutoModelForCausalLM, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[2]
# hidden size, layers, heads, rows of each set in thousands
SHAPES = {
    "minilm": (384, 6, 12, {"short": 200, "mixed": 120, "long": 12}),
    "bert-base": (768, 12, 12, {"short": 60, "mixed": 40, "long": 4}),
    "bert-large": (1024, 24, 16, {"short": 20, "mixed": 16, "long": 2}),
}
WORDS = {"short": (8, 14), "mixed": (4, 42), "long": (900, 1000)}  # words of a row; long ones are cut to 512 tokens
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16}


def words():
    with open(ROOT / "examples/data/reviews.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [word for row in rows for word in row["text"].split()]


def row_set(name, count, vocabulary, seed):
    chosen = random.Random(f"{name} {seed}")
    low, high = WORDS[name]
    return [" ".join(chosen.choices(vocabulary, k=chosen.randint(low, high))) for _ in range(count)]


def bert_tokenizer(vocabulary):
    tokenizer = Tokenizer(tokenizer_models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(vocabulary, trainers.WordPieceTrainer(vocab_size=8000, special_tokens=special))
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=512, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def encoder(name, folder, vocabulary):
    hidden, layers, heads, _ = SHAPES[name]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * hidden,
    )
    model = folder / name
    BertModel(config).save_pretrained(model)
    bert_tokenizer(vocabulary).save_pretrained(model)
    # As written by sentence-transformers, in a form that all its versions read.
    kinds = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize")]
    listed = [
        {"idx": int(idx), "name": idx, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for idx, path, kind in kinds
    ]
    (model / "1_Pooling").mkdir(exist_ok=True)
    (model / "2_Normalize").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True}
    (model / "modules.json").write_text(json.dumps(listed))
    (model / "1_Pooling/config.json").write_text(json.dumps(pooling))
    (model / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512, "do_lower_case": False}))
    return model


def run(program, pipeline, out, report, *options):
    command = [program, "run", str(pipeline), "--fresh", "--progress", "none", "--report", str(report), *options]
    start = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if result.returncode:
        raise SystemExit(f"hfauto-pipe failed: {result.stderr}")
    return json.loads(report.read_text())["run"], seconds


def write_pipeline(folder, name, model, dtype, rows, step):
    path, out = folder / f"{name}.yaml", folder / f"{name}-out"
    path.write_text(
        json.dumps(
            {
                "version": 1,
                "models": {"m": {"repo": str(model), "dtype": dtype, "device": "cuda"}},
                "source": {"path": str(rows)},
                "steps": [step],
                "sink": {"path": f"{out}/"},
            }
        )
    )
    return path, out


def peak():
    """TFLOP/s of a large bf16 product."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(20):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        a @ b
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return 2 * 8192**3 / (statistics.median(times[5:]) / 1e3) / 1e12


def flops(name, lengths):
    hidden, layers, *_ = SHAPES[name]
    weights = layers * 12 * hidden**2
    return sum(n * (2 * weights + layers * 4 * n * hidden) for n in lengths)


def best_encode(model, rows):
    """The fastest batch size of sentence-transformers, measured on an eighth of the rows."""
    sample = rows[: max(256, len(rows) // 8)]
    seconds = {}
    for batch_size in (64, 256, 1024):
        model.encode(sample[:256], batch_size=batch_size)
        start = time.perf_counter()
        model.encode(sample, batch_size=batch_size)
        seconds[batch_size] = time.perf_counter() - start
    return min(seconds, key=seconds.get)


def encoders(args, folder, vocabulary, measured_peak):
    print(f"{'model':10} {'rows':6} {'dtype':5} {'ours tok/s':>11} {'ST tok/s':>11} {'ratio':>6} {'peak':>6} "
          f"{'padding':>7} {'cosine':>7}  stages in seconds: wall input tokenize queue model output")
    for name in args.models:
        model_folder = encoder(name, folder, vocabulary)
        tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
        tokenizer.enable_truncation(512)
        for dtype in args.dtypes:
            peer = SentenceTransformer(str(model_folder), device="cuda", model_kwargs={"dtype": DTYPES[dtype]})
            for set_name in args.sets:
                count = int(SHAPES[name][3][set_name] * 1000 * args.scale)
                rows = row_set(set_name, count, vocabulary, name)
                parquet = folder / f"{name}-{set_name}.parquet"
                pq.write_table(pa.table({"text": rows}), parquet)
                tokens = [len(encoding.ids) for encoding in tokenizer.encode_batch(rows)]
                batch_size = best_encode(peer, rows)
                step = {"feature-extraction": {"model": "m", "input": "text", "output": "e"}}
                pipeline, out = write_pipeline(folder, f"{name}-{set_name}-{dtype}", model_folder, dtype, parquet, step)
                # The driver caches compiled kernels after the first run.
                run(args.program, pipeline, out, folder / "report.json", "--limit", "64")
                ours, theirs = [], []
                for _ in range(args.rounds):
                    report, _ = run(args.program, pipeline, out, folder / "report.json")
                    ours.append((report["wall_seconds"] - report["load_seconds"], report))
                    start = time.perf_counter()
                    expected = peer.encode(rows, batch_size=batch_size)
                    theirs.append(time.perf_counter() - start)
                tables = [pq.read_table(file, columns=["e"]) for file in sorted(out.glob("*.parquet"))]
                column = pa.concat_tables(tables)["e"].combine_chunks()
                found = np.asarray(column.flatten(), np.float32).reshape(len(column), -1)
                cosine = float((found * np.asarray(expected, np.float32)).sum(1).min())
                ours.sort(key=lambda pair: pair[0])
                seconds, report = ours[len(ours) // 2]
                counts = report["steps"][0]["counts"]
                total = sum(tokens)
                share = flops(name, tokens) / seconds / 1e12 / measured_peak
                stages = [counts[f"{stage}_seconds"] for stage in ("input", "tokenize", "queue", "model", "output")]
                print(f"{name:10} {set_name:6} {dtype:5} {total / seconds:11.0f} {total / statistics.median(theirs):11.0f} "
                      f"{statistics.median(theirs) / seconds:6.2f} {share:6.1%} "
                      f"{report['steps'][0]['padding_share']:7.1%} {cosine:7.4f}  "
                      f"{seconds:.2f} {' '.join(f'{stage:.2f}' for stage in stages)}  (ST batch {batch_size})", flush=True)
            del peer
            torch.cuda.empty_cache()


def gpt2(args, folder, vocabulary):
    torch.manual_seed(0)
    model_folder = folder / "gpt2"
    GPT2LMHeadModel(GPT2Config()).save_pretrained(model_folder)
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(vocabulary, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=1024, bos_token=special[0], eos_token=special[0],
        pad_token=special[0], padding_side="left",
    )
    fast.save_pretrained(model_folder)
    rows = row_set("mixed", int(1024 * args.scale), vocabulary, "gpt2")
    parquet = folder / "gpt2.parquet"
    pq.write_table(pa.table({"text": rows}), parquet)
    new_tokens = 64
    for dtype in args.dtypes:
        step = {
            "text-generation": {
                "model": "m", "input": "text", "output": "g", "max_new_tokens": new_tokens,
                "min_new_tokens": new_tokens, "do_sample": False, "return_full_text": False,
            }
        }
        pipeline, out = write_pipeline(folder, f"gpt2-{dtype}", model_folder, dtype, parquet, step)
        model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=DTYPES[dtype]).to("cuda")
        best = None
        for batch_size in (128, 512):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for first in range(0, len(rows), batch_size):
                inputs = fast(rows[first : first + batch_size], return_tensors="pt", padding=True).to("cuda")
                ids = model.generate(**inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)
                fast.batch_decode(ids)
            torch.cuda.synchronize()
            best = min(best or 1e9, time.perf_counter() - start)
        run(args.program, pipeline, out, folder / "report.json", "--limit", "8")  # compiles for the card, as above
        report, _ = run(args.program, pipeline, out, folder / "report.json")
        seconds = report["wall_seconds"] - report["load_seconds"]
        made = len(rows) * new_tokens
        print(f"gpt2 {dtype}: ours {made / seconds:.0f} tokens/s, generate {made / best:.0f} tokens/s, "
              f"ratio {best / seconds:.2f}", flush=True)
        del model


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=list(SHAPES))
    parser.add_argument("--sets", nargs="*", default=list(WORDS))
    parser.add_argument("--dtypes", nargs="*", default=["bf16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="a factor on the number of rows")
    parser.add_argument("--no-gpt2", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    vocabulary = words()
    measured = peak()
    print(f"{time.strftime('%Y-%m-%d')}, {torch.cuda.get_device_name()}, torch {torch.__version__}, "
          f"measured bf16 peak {measured:.0f} TFLOP/s")
    encoders(args, args.folder, vocabulary, measured)
    if not args.no_gpt2:
        gpt2(args, args.folder, vocabulary)


if __name__ == "__main__":
    main()
