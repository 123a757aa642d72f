"""Vectors of pictures beside transformers: 400 JPEG files of 640 × 480, decoding included on both sides, in CLIP ViT-B/32 and
DINOv2-small shapes with random weights. transformers runs with its best batch size, found first, and decodes with all cores
ahead of the model. Alternating rounds, each as a program of its own, times without those to load the model. See run.sh."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench import run, spread
from modern import rounds

COUNT, SIZE, BATCH_SIZES = 400, (640, 480), (8, 32, 100)


def pictures(folder):
    """Smooth shapes with some noise: JPEG files of a usual size."""
    from PIL import Image

    if folder.is_dir():
        return
    folder.mkdir(parents=True)
    rng = np.random.default_rng(4)
    for number in range(COUNT):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
        noisy = np.asarray(small, np.int16) + rng.integers(-12, 13, (SIZE[1], SIZE[0], 3), dtype=np.int16)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / f"{number:03}.jpg", quality=88)


def checkpoint(folder, kind):
    import torch
    import transformers

    if (folder / "config.json").is_file():
        return
    torch.manual_seed(0)
    if kind == "clip-vit-base-patch32":
        model = transformers.CLIPModel(transformers.CLIPConfig())
        processor = transformers.CLIPImageProcessor()
    else:
        config = transformers.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14)
        model, processor = transformers.Dinov2Model(config), transformers.BitImageProcessor(
            size={"shortest_edge": 256}, crop_size=224, resample=3, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if kind.startswith("clip"):
        # Not read by this task, but part of every checkpoint.
        golden = Path(__file__).resolve().parents[2] / "tests/golden/tasks/clip"
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(golden / name, folder)


def transformers_peer(args):
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModel

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model, processor = AutoModel.from_pretrained(args.model).eval(), AutoImageProcessor.from_pretrained(args.model)
    features = getattr(model, "get_image_features", None)
    paths = pq.read_table(args.rows)["image"].to_pylist()

    def prepared(paths):
        return processor(images=[Image.open(path).convert("RGB") for path in paths], return_tensors="pt")["pixel_values"]

    def compute(paths, batch_size):
        batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
        made = []
        # The next batch is decoded while the model computes.
        with ThreadPoolExecutor(1) as ahead, torch.inference_mode():
            following = ahead.submit(prepared, batches[0])
            for number in range(len(batches)):
                pixels = following.result()
                if number + 1 < len(batches):
                    following = ahead.submit(prepared, batches[number + 1])
                found = features(pixel_values=pixels) if features else model(pixel_values=pixels).last_hidden_state[:, 0]
                found = found if isinstance(found, torch.Tensor) else found.pooler_output
                made.append(found.numpy())
        return np.concatenate(made)

    compute(paths[:8], 8)

    def timed(paths, batch_size):
        start = time.perf_counter()
        made = compute(paths, batch_size)
        return time.perf_counter() - start, made

    best = min(BATCH_SIZES, key=lambda size: timed(paths[:100], size)[0])
    seconds, made = timed(paths, best)
    np.save(args.out, made)
    print(json.dumps({"seconds": seconds, "batch_size": best}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--program")
    parser.add_argument("--rounds", type=int, default=3)
    # As the peer.
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--model")
    parser.add_argument("--rows")
    parser.add_argument("--out")
    args = parser.parse_args()
    if args.peer:
        return transformers_peer(args)
    folder = args.cache / "pictures"
    pictures(folder / "jpeg")
    rows = folder / "rows.parquet"
    pq.write_table(pa.table({"image": [str(folder / "jpeg" / f"{number:03}.jpg") for number in range(COUNT)]}), rows)
    print("| model | hfauto-pipe, pictures/s | transformers, pictures/s | ratio | least cosine |\n|---|---|---|---|---|")
    for kind, pooling in (("clip-vit-base-patch32", "pooler"), ("dinov2-small", "cls")):
        model = folder / kind
        checkpoint(model, kind)
        work = {"dir": folder / f"work-{kind}", "model": model, "rows": rows}
        work["dir"].mkdir(exist_ok=True)
        step = {"image-feature-extraction": {"model": "m", "input": "image", "output": "e", "pooling": pooling}}

        def ours():
            seconds, column, _ = run("ours", work, args.program, "f32", step)
            return seconds, np.asarray(column.flatten(), np.float32).reshape(len(column), -1)

        def theirs():
            out = work["dir"] / "transformers.npy"
            command = [sys.executable, __file__, "--peer", "--model", str(model), "--rows", str(rows), "--out", str(out)]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            return json.loads(result.stdout.splitlines()[-1])["seconds"], np.load(out)

        seconds, results = rounds(args, {"ours": ours, "theirs": theirs})
        a, b = (results[name] / np.linalg.norm(results[name], axis=1, keepdims=True) for name in ("ours", "theirs"))
        rates = [f"{COUNT / np.median(seconds[name]):.0f}" for name in ("ours", "theirs")]
        ratio = spread([theirs / ours for ours, theirs in zip(seconds["ours"], seconds["theirs"])])
        print(f"| {kind} | {rates[0]} | {rates[1]} | {ratio} | {(a * b).sum(1).min():.5f} |", flush=True)


if __name__ == "__main__":
    main()
