"""One peer over one file of rows: loads, warms up, takes the time from texts to embeddings, and prints it as JSON."""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def sentence_transformers(args, texts):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(args.model), device="cpu")
    model.max_seq_length = args.max_length

    # It sorts by length itself.
    return lambda rows: model.encode(rows, batch_size=args.batch_size, show_progress_bar=False)


def onnxruntime(args, texts):
    import os

    import onnxruntime as ort
    from tokenizers import Tokenizer

    options = ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = ort.InferenceSession(args.onnx, options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(Path(args.model) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(args.max_length)

    def encode(rows):
        ids = [encoding.ids for encoding in tokenizer.encode_batch(rows)]
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        embeddings = None
        start = 0
        while start < len(order):
            longest = len(ids[order[start]])
            # At most this many rows, and 4,096 tokens with padding; larger batches were slower.
            count = max(1, min(args.batch_size, 4096 // longest))
            batch = order[start : start + count]
            start += count
            input_ids = np.zeros((len(batch), longest), np.int64)
            mask = np.zeros_like(input_ids)
            for place, row in enumerate(batch):
                input_ids[place, : len(ids[row])] = ids[row]
                mask[place, : len(ids[row])] = 1
            inputs = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
            (states,) = session.run(["last_hidden_state"], inputs)
            weights = mask[..., None].astype(np.float32)
            pooled = (states * weights).sum(1) / weights.sum(1)
            pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
            if embeddings is None:
                embeddings = np.empty((len(ids), pooled.shape[1]), np.float32)
            embeddings[batch] = pooled
        return embeddings

    return encode


def transformers(args, texts):
    """Greedy `generate` over batches of rows of similar length; the last words as texts."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model)
    limits = {"max_new_tokens": args.new_tokens, "min_new_tokens": args.new_tokens, "do_sample": False}

    def generate(rows):
        order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
        made = [None] * len(rows)
        for start in range(0, len(order), args.batch_size):
            batch = order[start : start + args.batch_size]
            inputs = tokenizer([rows[row] for row in batch], return_tensors="pt", padding=True)
            with torch.inference_mode():
                ids = model.generate(**inputs, **limits)[:, inputs["input_ids"].shape[1] :]
            for row, text in zip(batch, tokenizer.batch_decode(ids, skip_special_tokens=True)):
                made[row] = text
        return np.array(made)

    return generate


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=["sentence_transformers", "onnxruntime", "transformers"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--onnx")
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    args = parser.parse_args()
    texts = pq.read_table(args.rows)["text"].to_pylist()
    peers = {"sentence_transformers": sentence_transformers, "onnxruntime": onnxruntime, "transformers": transformers}
    encode = peers[args.peer](args, texts)
    encode(texts[:: max(1, len(texts) // 8)])
    start = time.perf_counter()
    embeddings = encode(texts)
    seconds = time.perf_counter() - start
    np.save(args.out, embeddings)
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
