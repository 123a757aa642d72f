"""Embedders, decoders and translators of today beside sentence-transformers, OpenVINO, CTranslate2 and transformers:
checkpoints of real shapes with random weights, alternating rounds, each peer as its own program. See run.sh."""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench import run, spread

END = "<|endoftext|>"
EMBEDDERS = {
    "qwen3-embedding-0.6b": ("Qwen3Model", "Qwen3Config", dict(vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
                                           num_attention_heads=16, num_key_value_heads=8, head_dim=128), "lasttoken"),
    "embeddinggemma-300m": ("Gemma3TextModel", "Gemma3TextConfig", dict(vocab_size=262144, hidden_size=768, intermediate_size=1152, num_hidden_layers=24, num_attention_heads=3,
                                               num_key_value_heads=1, head_dim=256, sliding_window=512, use_bidirectional_attention=True), "mean"),
    "modernbert-base": ("ModernBertModel", "ModernBertConfig", {}, "mean"),
    "nomic-embed-text": ("NomicBertModel", "NomicBertConfig", {}, "mean"),
    "deberta-v3-base": ("DebertaV2Model", "DebertaV2Config", dict(vocab_size=128100, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                                            num_attention_heads=12, relative_attention=True, position_buckets=256, norm_rel_ebd="layer_norm", share_att_key=True,
                                            pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0, layer_norm_eps=1e-7), "mean"),
}
DECODERS = {
    "gpt2-124m": ("GPT2LMHeadModel", "GPT2Config", {}),
    "smollm2-135m": ("LlamaForCausalLM", "LlamaConfig", dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                                                       num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=2048)),
    "qwen2.5-0.5b": ("Qwen2ForCausalLM", "Qwen2Config", dict(vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
                                                       num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True)),
}
# No end is forced: every row has the same number of tokens. `normalize_before` is what CTranslate2 asks for.
TRANSLATORS = {
    "opus-mt": ("MarianMTModel", "MarianConfig", dict(vocab_size=58101, d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8, decoder_attention_heads=8,
                                        encoder_ffn_dim=2048, decoder_ffn_dim=2048, activation_function="swish", max_position_embeddings=512, scale_embedding=True), 200),
    "nllb-600m, a third of the layers": ("M2M100ForConditionalGeneration", "M2M100Config", dict(
        vocab_size=256206, d_model=1024, encoder_layers=4, decoder_layers=4, encoder_ffn_dim=4096, decoder_ffn_dim=4096, activation_function="relu", scale_embedding=True), 64),
    "bart-large-cnn": ("BartForConditionalGeneration", "BartConfig", dict(vocab_size=50265, normalize_before=False), 64),
}
NEW_TOKENS = 64
TRANSLATED_TOKENS = 32


# ------------------------------------------------------------------------------ inputs
def tokenizer(folder, size, padding_side="right", pad_id=None):
    """Byte-level, one token per character: the number of tokens of a row is known. Pads with the end, or with a token of this id."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pad, extra = (END, 1) if pad_id is None else ("<pad>", 2)
    words = [*letters, *(f"Ġ{i}" for i in range(size - len(letters) - extra)), END]
    if pad != END:
        words.insert(pad_id, pad)
    vocab = {word: i for i, word in enumerate(words)}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token=END, eos_token=END, unk_token=END, pad_token=pad, padding_side=padding_side,
                            model_max_length=512, model_input_names=["input_ids", "attention_mask"]).save_pretrained(folder)


def embedder(name, cache):
    folder = cache / name
    if not (folder / "modules.json").is_file():
        import torch
        import transformers

        architecture, config, settings, pooling = EMBEDDERS[name]
        torch.manual_seed(0)
        model = getattr(transformers, architecture)(getattr(transformers, config)(**settings))
        model.save_pretrained(folder)
        tokenizer(folder, model.config.vocab_size, "left" if pooling == "lasttoken" else "right")
        kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        for place, _ in kinds[1:]:
            (folder / place).mkdir(exist_ok=True)
        mode = {"mean": "pooling_mode_mean_tokens", "lasttoken": "pooling_mode_lasttoken"}[pooling]
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": model.config.hidden_size, mode: True}))
        modules = [{"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.models.{kind}"} for i, (place, kind) in enumerate(kinds)]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512}))
    return folder


def decoder(name, cache):
    folder = cache / name
    if not (folder / "tokenizer.json").is_file():
        import torch
        import transformers

        architecture, config, settings = DECODERS[name]
        torch.manual_seed(0)
        model = getattr(transformers, architecture)(getattr(transformers, config)(**settings))
        model.save_pretrained(folder)
        tokenizer(folder, model.config.vocab_size, "left")
    return folder


def translator(name, cache):
    folder = cache / name.split(",")[0]
    if not (folder / "tokenizer.json").is_file():
        import torch
        import transformers

        architecture, config, settings, _ = TRANSLATORS[name]
        # Marian starts with the pad, its last token; the others have it among the first, for positions.
        end, pad = (58099, 58100) if name == "opus-mt" else (settings["vocab_size"] - 1, 1)
        ids = dict(eos_token_id=end, bos_token_id=end, pad_token_id=pad, decoder_start_token_id=pad if name == "opus-mt" else end, forced_eos_token_id=None)
        torch.manual_seed(0)
        model = getattr(transformers, architecture)(getattr(transformers, config)(**settings, **ids, init_std=settings.get("d_model", 1024) ** -0.5))
        decoder = model.get_decoder()
        # With either sign in the last norm, a tied head does not repeat the token it reads.
        torch.nn.init.normal_(getattr(decoder, "layer_norm", decoder.layers[-1].final_layer_norm).weight)
        model.save_pretrained(folder)
        tokenizer(folder, model.config.vocab_size, pad_id=pad)
    return folder


def texts(rows, length, spread_of=0.5):
    """Rows of random letters, `length` tokens on average."""
    rng = random.Random(0)
    lengths = (max(1, round(length * rng.uniform(1 - spread_of, 1 + spread_of))) for _ in range(rows))
    return ["".join(rng.choice("abcdefghijklmnop") for _ in range(length)) for length in lengths]


# ------------------------------------------------------------------------------ peers, each in its own process
def sentence_transformers(args, rows):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(args.model), device="cpu")
    return lambda rows: model.encode(rows, batch_size=args.batch_size, show_progress_bar=False)


class States:
    """The graph of an encoder: token ids and the attention mask in, the last hidden states out."""

    def __init__(self, model):
        import torch
        from transformers import AutoModel

        encoder = AutoModel.from_pretrained(model, attn_implementation="eager").eval().requires_grad_(False)

        class Graph(torch.nn.Module):
            def forward(self, input_ids, attention_mask):
                return encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

        self.graph = Graph()
        self.example = {name: torch.ones((2, 8), dtype=torch.int64) for name in ("input_ids", "attention_mask")}


def batches(args, tokens, rows):
    """Rows by length: the places of each batch and its inputs."""
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    start = 0
    while start < len(order):
        count = max(1, min(args.batch_size, 2048 // len(rows[order[start]])))
        batch = order[start : start + count]
        start += count
        inputs = tokens([rows[row] for row in batch], return_tensors="np", padding=True)
        yield batch, {name: inputs[name].astype(np.int64) for name in ("input_ids", "attention_mask")}


def pooled(args, states, mask):
    """The normalized embeddings of a batch."""
    if "lasttoken" in (Path(args.model) / "1_Pooling" / "config.json").read_text():
        rows = states[np.arange(len(mask)), mask.sum(1) - 1]
    else:
        weights = mask[..., None].astype(np.float32)
        rows = (states * weights).sum(1) / weights.sum(1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def openvino(args, rows):
    """The whole encoder as a graph, rows by length, for throughput."""
    import openvino as ov
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(args.model, padding_side="right")
    graph = Path(args.model) / "openvino.xml"
    if not graph.is_file():
        states = States(args.model)
        ov.save_model(ov.convert_model(states.graph, example_input=states.example), graph, compress_to_fp16=False)
    precision = {"INFERENCE_PRECISION_HINT": args.dtype}
    if args.dtype == "int8":
        graph, precision = static_int8(graph, tokens, rows), {}
    compiled = ov.Core().compile_model(graph, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT", **precision})

    def encode(rows):
        embeddings = [None] * len(rows)
        queue = ov.AsyncInferQueue(compiled)

        def keep(request, batch):
            places, mask = batch
            for place, row in zip(places, pooled(args, request.get_output_tensor().data, mask)):
                embeddings[place] = row

        queue.set_callback(keep)
        for places, inputs in batches(args, tokens, rows):
            queue.start_async(inputs, (places, inputs["attention_mask"]))
        queue.wait_all()
        return np.array(embeddings)

    return encode


def onnxruntime(args, rows):
    """The whole encoder as a graph, rows by length, all cores for each batch."""
    import onnxruntime as ort
    import torch
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(args.model, padding_side="right")
    graph = Path(args.model) / "model.onnx"
    if not graph.is_file():
        states = States(args.model)
        names = list(states.example)
        axes = {name: {0: "rows", 1: "tokens"} for name in [*names, "states"]}
        torch.onnx.export(states.graph, tuple(states.example.values()), graph, input_names=names, output_names=["states"], dynamic_axes=axes, dynamo=False)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def encode(rows):
        embeddings = [None] * len(rows)
        for places, inputs in batches(args, tokens, rows):
            states = session.run(None, inputs)[0]
            for place, row in zip(places, pooled(args, states, inputs["attention_mask"])):
                embeddings[place] = row
        return np.array(embeddings)

    return encode


def static_int8(graph, tokens, rows):
    """The graph with static int8 products, calibrated on the rows."""
    import nncf
    import openvino as ov

    made = graph.with_name("openvino-int8.xml")
    if not made.is_file():
        def inputs(row):
            found = tokens([row], return_tensors="np")
            return {"input_ids": found["input_ids"].astype(np.int64), "attention_mask": found["attention_mask"].astype(np.int64)}

        sample = nncf.Dataset(rows[:: max(1, len(rows) // 64)], inputs)
        ov.save_model(nncf.quantize(ov.Core().read_model(graph), sample, model_type=nncf.ModelType.TRANSFORMER), made, compress_to_fp16=False)
    return made


def ctranslate2(args, rows):
    """Greedy, a request per core."""
    import ctranslate2 as ct2
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(args.model)
    folder = Path(args.model) / "ctranslate2"
    if not folder.is_dir():
        ct2.converters.TransformersConverter(str(args.model)).convert(str(folder))
    cores = len(os.sched_getaffinity(0))
    compute = {"f32": "float32", "int8": "int8"}[args.dtype]
    generator = ct2.Generator(str(folder), device="cpu", compute_type=compute, inter_threads=cores, intra_threads=1)

    def generate(rows):
        prompts = [tokens.convert_ids_to_tokens(tokens(row)["input_ids"]) for row in rows]
        made = generator.generate_batch(prompts, max_batch_size=args.batch_size, beam_size=1, sampling_topk=1, max_length=args.new_tokens,
                                        min_length=args.new_tokens, include_prompt_in_result=False)
        return np.array([tokens.decode(row.sequences_ids[0], skip_special_tokens=True) for row in made])

    return generate


def ctranslate2_translator(args, rows):
    """A request per core."""
    import ctranslate2 as ct2
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(args.model)
    folder = Path(args.model) / "ctranslate2"
    if not folder.is_dir():
        ct2.converters.TransformersConverter(str(args.model)).convert(str(folder))
    compute = {"f32": "float32", "int8": "int8"}[args.dtype]
    translate = ct2.Translator(str(folder), device="cpu", compute_type=compute, inter_threads=len(os.sched_getaffinity(0)), intra_threads=1).translate_batch

    def generate(rows):
        sources = [tokens.convert_ids_to_tokens(tokens(row)["input_ids"]) for row in rows]
        made = translate(sources, max_batch_size=args.batch_size, beam_size=args.beams, max_decoding_length=args.new_tokens, min_decoding_length=args.new_tokens)
        return np.array([tokens.decode(tokens.convert_tokens_to_ids(row.hypotheses[0]), skip_special_tokens=True) for row in made])

    return generate


def transformers(args, rows):
    from peer import transformers as generate

    return generate(args, rows)


def transformers_translator(args, rows):
    """`generate` over batches of rows of similar length."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokens, model = AutoTokenizer.from_pretrained(args.model), AutoModelForSeq2SeqLM.from_pretrained(args.model)
    limits = {"max_new_tokens": args.new_tokens, "min_new_tokens": args.new_tokens, "do_sample": False, "num_beams": args.beams}

    def generate(rows):
        order, made = sorted(range(len(rows)), key=lambda row: -len(rows[row])), {}
        for start in range(0, len(order), args.batch_size):
            batch = order[start : start + args.batch_size]
            inputs = tokens([rows[row] for row in batch], return_tensors="pt", padding=True)
            with torch.inference_mode():
                ids = model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], **limits)
            made |= zip(batch, tokens.batch_decode(ids, skip_special_tokens=True))
        return np.array([made[row] for row in range(len(rows))])

    return generate


PEERS = {function.__name__: function for function in
         (sentence_transformers, openvino, onnxruntime, ctranslate2, ctranslate2_translator, transformers, transformers_translator)}


def as_peer(args):
    rows = pq.read_table(args.rows)["text"].to_pylist()
    compute = PEERS[args.peer](args, rows)
    compute(rows[:: max(1, len(rows) // 4)])
    start = time.perf_counter()
    made = compute(rows)
    seconds = time.perf_counter() - start
    np.save(args.out, made)
    print(json.dumps({"seconds": seconds}), flush=True)
    # OpenVINO's threads may wait for each other at the end of the interpreter.
    os._exit(0)


# ------------------------------------------------------------------------------ rounds
def peer(name, work, dtype="f32", batch_size=32, new_tokens=NEW_TOKENS, beams=1):
    out = work["dir"] / f"{name}-{dtype}.npy"
    command = [sys.executable, __file__, "--peer", name, "--model", str(work["model"]), "--rows", str(work["rows"]), "--out", str(out),
               "--dtype", dtype, "--batch-size", str(batch_size), "--new-tokens", str(new_tokens), "--beams", str(beams)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1])["seconds"], np.load(out)


def rounds(args, runs):
    """The seconds of each run in each round, the order rotating, and the last results."""
    seconds, results = {name: [] for name in runs}, {}
    for number in range(args.rounds):
        names = [*runs]
        for name in names[number % len(names) :] + names[: number % len(names)]:
            taken, results[name] = runs[name]()
            seconds[name].append(taken)
    return seconds, results


def work_of(folder, model, rows):
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": rows}), folder / "rows.parquet")
    return {"dir": folder, "model": model, "rows": folder / "rows.parquet"}


def embed(name, label, rows, args):
    work = work_of(args.cache / "work" / name / label, embedder(name, args.cache), rows)
    step = {"feature-extraction": {"model": "m", "input": "text", "output": "e"}}

    def ours(dtype):
        seconds, column, _ = run(f"ours-{dtype}", work, args.program, dtype, step)
        return seconds, np.asarray(column.flatten(), np.float32).reshape(len(column), -1)

    runs = {"hfauto-pipe f32": lambda: ours("f32"), "sentence-transformers": lambda: peer("sentence_transformers", work), "OpenVINO f32": lambda: peer("openvino", work)}
    if args.onnx:
        runs["ONNX Runtime f32"] = lambda: peer("onnxruntime", work)
    if args.bf16:
        runs |= {"hfauto-pipe bf16": lambda: ours("bf16"), "OpenVINO bf16": lambda: peer("openvino", work, "bf16")}
    if args.int8:
        runs |= {"hfauto-pipe int8": lambda: ours("int8"), "OpenVINO int8": lambda: peer("openvino", work, "int8")}
    seconds, results = rounds(args, runs)
    tokens = sum(map(len, rows))
    print(f"\n## {name}, {label}: {len(rows)} rows of {tokens / len(rows):.0f} tokens on average\n\n| | tokens/s | least cosine to sentence-transformers |\n|---|---|---|")
    for kind, times in seconds.items():
        print(f"| {kind} | {tokens / statistics.median(times):.0f} | {(results[kind] * results['sentence-transformers']).sum(1).min():.5f} |")
    print()
    for own in (kind for kind in runs if kind.startswith("hfauto")):
        others = ["sentence-transformers", own.replace("hfauto-pipe", "OpenVINO"), own.replace("hfauto-pipe", "ONNX Runtime")]
        for other in (other for other in others if other in runs):
            print(f"- {own} over {other}: {spread([theirs / mine for mine, theirs in zip(seconds[own], seconds[other])])}")
    sys.stdout.flush()


def generate(name, args):
    rows = texts(64, 48, 0)
    work = work_of(args.cache / "work" / name, decoder(name, args.cache), rows)
    limits = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    step = {"text-generation": {"model": "m", "input": "text", "output": "e", "return_full_text": False, **limits}}

    def ours(dtype):
        seconds, column, _ = run(f"ours-{dtype}", work, args.program, dtype, step)
        return seconds, np.array([row["text"] for row in column.to_pylist()])

    runs = {f"{kind} {dtype}": call for dtype in args.dtypes for kind, call in (
        ("hfauto-pipe", lambda dtype=dtype: ours(dtype)), ("CTranslate2", lambda dtype=dtype: peer("ctranslate2", work, dtype)))}
    if "f32" in args.dtypes:
        runs["transformers f32"] = lambda: peer("transformers", work)
    compared(f"{name}, decoding: {len(rows)} prompts of 48 tokens, {NEW_TOKENS} new ones, greedy", len(rows) * NEW_TOKENS, runs, args)


def translate(name, beams, args):
    rows = texts(TRANSLATORS[name][3], 32)
    work = work_of(args.cache / "work" / name.split(",")[0] / f"{beams}", translator(name, args.cache), rows)
    limits = {"max_new_tokens": TRANSLATED_TOKENS, "min_new_tokens": TRANSLATED_TOKENS, "do_sample": False, "num_beams": beams}
    step = {"text2text-generation": {"model": "m", "input": "text", "output": "e", **limits}}

    def ours(dtype):
        seconds, column, _ = run(f"ours-{dtype}", work, args.program, dtype, step)
        return seconds, np.array([row["text"] for row in column.to_pylist()])

    def theirs(which, dtype):
        return peer(which, work, dtype, new_tokens=TRANSLATED_TOKENS, beams=beams)

    runs = {f"{kind} {dtype}": call for dtype in args.dtypes for kind, call in (
        ("hfauto-pipe", lambda dtype=dtype: ours(dtype)), ("CTranslate2", lambda dtype=dtype: theirs("ctranslate2_translator", dtype)))}
    if "f32" in args.dtypes:
        runs["transformers f32"] = lambda: theirs("transformers_translator", "f32")
    lengths = f"{min(map(len, rows))} to {max(map(len, rows))}"
    compared(f"{name}: {len(rows)} rows of {lengths} tokens, {TRANSLATED_TOKENS} new ones, {beams} beam{'s' * (beams > 1)}", len(rows) * TRANSLATED_TOKENS, runs, args)


def generated(title, tokens, seconds, results, pairs, reference):
    """Prints rounds as a table of tokens per second, and the ratios of pairs."""
    print(f"\n## {title}\n\n| | tokens/s | the same text as {reference} |\n|---|---|---|")
    for kind, times in seconds.items():
        same = f"{np.mean(results[kind] == results[reference]):.0%}" if reference in results else ""
        print(f"| {kind} | {tokens / statistics.median(times):.0f} | {same} |")
    print()
    for own, other in pairs:
        print(f"- {own} over {other}: {spread([theirs / mine for mine, theirs in zip(seconds[own], seconds[other])])}")
    sys.stdout.flush()


def compared(title, tokens, runs, args):
    """Runs the rounds of decoding, each dtype beside its peers."""
    seconds, results = rounds(args, runs)
    pairs = [(f"hfauto-pipe {dtype}", f"CTranslate2 {dtype}") for dtype in args.dtypes]
    if "f32" in args.dtypes:
        pairs.insert(1, ("hfauto-pipe f32", "transformers f32"))
    generated(title, tokens, seconds, results, pairs, "transformers f32")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--program")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help=f"of {', '.join([*EMBEDDERS, *DECODERS, *TRANSLATORS])}")
    parser.add_argument("--bf16", action="store_true", help="also in bf16, where the processor has instructions for it")
    parser.add_argument("--int8", action="store_true", help="embedders also in int8, OpenVINO's static and by NNCF")
    parser.add_argument("--onnx", action="store_true", help="embedders also in ONNX Runtime")
    parser.add_argument("--dtypes", nargs="*", default=["f32", "int8"], help="of decoding")
    # As a peer.
    parser.add_argument("--peer", choices=list(PEERS))
    parser.add_argument("--model")
    parser.add_argument("--rows")
    parser.add_argument("--out")
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS)
    parser.add_argument("--beams", type=int, default=1)
    args = parser.parse_args()
    if args.peer:
        return as_peer(args)
    args.cache = args.cache / "modern"
    print(f"{time.strftime('%Y-%m-%d')}, {platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores")
    for name in EMBEDDERS:
        if not args.only or name in args.only:
            share = 1 if name.startswith(("modernbert", "nomic")) else 4
            for label, count, length in [("short", 400, 16), ("256 tokens", 32, 256)]:
                embed(name, label, texts(count // share, length), args)
    for name in DECODERS:
        if not args.only or name in args.only:
            generate(name, args)
    for name in TRANSLATORS:
        if not args.only or name in args.only:
            for beams in (1, 4):
                translate(name, beams, args)


if __name__ == "__main__":
    main()
