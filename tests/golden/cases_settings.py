"""Goldens of the settings in the files of a sentence-transformers directory, made with sentence-transformers 6.2 and
transformers 5.24 (requirements.txt pins the older versions of the other goldens):

    pip install torch==2.9.1 transformers==5.24.0 sentence-transformers==6.2.0
    python cases_settings.py

Writes settings/cases.json: each case is a golden checkpoint of this folder, changes to its JSON files, rows, and what
the library computes; settings/activations.json: activation classes of torch.nn; settings/generate.json: the
results of `generate` for decoders that skip padding in positions; settings/weights: additional weights of some cases.
"""

import json
import shutil
import tempfile
from pathlib import Path

import sentence_transformers
import torch
import transformers
from safetensors.torch import save_file
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parent
OUT = ROOT / "settings"
TEXTS = ["The Harbour of PORTO", "café au lait, 寿司!", "Anna and José walked along the old harbour wall in the evening rain", "x"]
PAIRS = [["the harbour", "Ships in the Harbour of PORTO"], ["rain", "José walked along the old wall in the evening rain again"], ["a", "b"]]
BERT, MODEL = "sentence_bert_config.json", "config_sentence_transformers.json"
NN = "torch.nn.modules"


def merge(path, change):
    if change is None:
        path.unlink(missing_ok=True)
        return
    found = json.loads(path.read_text()) if path.exists() and isinstance(change, dict) else None
    if isinstance(found, dict) and not change.get("__replace__"):
        found.update(change)
        change = found
    if isinstance(change, dict):
        change.pop("__replace__", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(change))


def copied(base, changes, files, folder):
    folder = Path(folder) / "model"
    shutil.copytree(ROOT / base, folder)
    for name, change in json.loads(json.dumps(changes)).items():
        merge(folder / name, change)
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(OUT / source, folder / name)
    return str(folder)


CASES = []


def case(name, task, base, changes, files=None, rows=None):
    with tempfile.TemporaryDirectory() as folder:
        path = copied(base, changes, files or {}, folder)
        if task == "feature-extraction":
            rows = rows or TEXTS
            expected = SentenceTransformer(path, device="cpu").encode(rows).tolist()
        elif task == "rerank":
            rows = rows or PAIRS
            expected = CrossEncoder(path, device="cpu").predict(rows).tolist()
        else:
            rows = rows or TEXTS
            vectors = SparseEncoder(path, device="cpu").encode(rows, convert_to_sparse_tensor=False)
            expected = []
            for vector in vectors:
                pairs = [[i, w] for i, w in enumerate(vector.tolist()) if w > 0]
                expected.append(sorted(pairs, key=lambda pair: -pair[1]))
    CASES.append({"name": name, "task": task, "base": base, "changes": changes, "files": files or {},
                  "rows": rows, "expected": expected})
    print(name)


def modules(*types):
    return [{"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{t.rsplit('.', 1)[-1]}",
             "type": f"sentence_transformers.{t}"} for i, t in enumerate(types)]


TRANSFORMER, POOLING = "base.modules.transformer.Transformer", "sentence_transformer.modules.pooling.Pooling"
DENSE, NORMALIZE = "base.modules.dense.Dense", "base.modules.normalize.Normalize"
LAYER_NORM, DROPOUT = "sentence_transformer.modules.layer_norm.LayerNorm", "sentence_transformer.modules.dropout.Dropout"


def weights():
    generator = torch.Generator().manual_seed(5)
    new = lambda *shape: torch.randn(*shape, generator=generator) * 0.4
    folder = OUT / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"linear.weight": new(32, 32), "linear.bias": new(32)}, folder / "dense.safetensors")
    save_file({"linear.weight": new(12, 32), "linear.bias": new(12), "residual.weight": new(12, 32)},
              folder / "residual.safetensors")
    save_file({"norm.weight": new(32), "norm.bias": new(32)}, folder / "layer_norm.safetensors")


def bi_encoders():
    base, fe = "st-mean-normalize", "feature-extraction"
    case("tokenizer-args-cased", fe, base, {BERT: {"tokenizer_args": {"do_lower_case": False}}})
    case("processor-kwargs-accents", fe, base,
         {BERT: {"processor_kwargs": {"strip_accents": False, "tokenize_chinese_chars": False}}})
    case("processor-kwargs-left", fe, base,
         {BERT: {"max_seq_length": 20, "processor_kwargs": {"truncation_side": "left", "model_max_length": 8}}})
    case("processor-kwargs-distilbert", fe, "st-distilbert", {BERT: {"processor_kwargs": {"do_lower_case": False, "strip_accents": True}}})
    case("processor-kwargs-mpnet", fe, "st-mpnet", {BERT: {"processor_kwargs": {"do_lower_case": False}}})
    case("processor-kwargs-roberta", fe, "st-roberta", {BERT: {"processor_kwargs": {"add_prefix_space": True}}})
    case("lower-case-of-a-cased-model", fe, "st-roberta", {BERT: {"do_lower_case": True, "max_seq_length": 9}})
    case("config-args", fe, base, {BERT: {"config_args": {"hidden_act": "relu"}, "model_args": {"torch_dtype": "float32"}}})
    case("processing-kwargs", fe, base, {BERT: {"processing_kwargs": {"text": {"max_length": 7}, "common": {"padding": True}}}})
    case("truncate-dim", fe, base, {MODEL: {"truncate_dim": 8, "similarity_fn_name": "dot"}})
    case("truncate-dim-beyond", fe, base, {MODEL: {"truncate_dim": 999}})
    case("default-prompt-of-no-file", fe, base, {MODEL: {"default_prompt_name": "query", "prompts": {}}})
    case("prompt-null", fe, base, {MODEL: {"default_prompt_name": "q", "prompts": {"q": None}}})
    case("without-modules", fe, base, {"modules.json": None, MODEL: {"truncate_dim": 8}, BERT: {"max_seq_length": 5}})
    case("family-file", fe, "st-roberta", {BERT: None, "sentence_roberta_config.json": {"max_seq_length": 6, "do_lower_case": True}})
    exclude = "st-prompts-exclude"
    for modes in (["cls"], ["lasttoken", "cls", "weightedmean"], ["max", "mean_sqrt_len_tokens"]):
        case(f"exclude-prompt-{'-'.join(modes)}", fe, exclude,
             {MODEL: {"default_prompt_name": "document"},
              "1_Pooling/config.json": {"__replace__": True, "embedding_dimension": 32, "pooling_mode": modes, "include_prompt": False}})
    dense = {"in_features": 32, "out_features": 32, "bias": True}
    two = modules(TRANSFORMER, POOLING, DENSE)
    files = {"2_Dense/model.safetensors": "weights/dense.safetensors"}
    for activation in ("activation.LeakyReLU", "activation.Softmax", "activation.Mish", "activation.Hardtanh", "activation.LogSigmoid"):
        case(f"dense-{activation.rsplit('.', 1)[-1]}", fe, base,
             {"modules.json": two, "2_Dense/config.json": {**dense, "activation_function": f"{NN}.{activation}"}}, files)
    case("dense-residual", fe, base, {"modules.json": two, "2_Dense/config.json": {**dense, "use_residual": True}}, files)
    case("dense-residual-projected", fe, base,
         {"modules.json": two, "2_Dense/config.json": {**dense, "out_features": 12, "use_residual": True}},
         {"2_Dense/model.safetensors": "weights/residual.safetensors"})
    case("modules-on-tokens", fe, base,
         {"modules.json": modules(TRANSFORMER, DENSE, NORMALIZE, POOLING),
          "1_Dense/config.json": {**dense, "module_input_name": "token_embeddings", "activation_function": f"{NN}.linear.Identity"},
          "2_Normalize/config.json": {"module_input_name": "token_embeddings"},
          "3_Pooling/config.json": {"embedding_dimension": 32, "pooling_mode": "mean"}},
         {"1_Dense/model.safetensors": "weights/dense.safetensors"})
    case("layer-norm-and-dropout", fe, base,
         {"modules.json": modules(TRANSFORMER, POOLING, LAYER_NORM, DROPOUT, NORMALIZE),
          "2_LayerNorm/config.json": {"dimension": 32}, "3_Dropout/config.json": {"dropout": 0.3}},
         {"2_LayerNorm/model.safetensors": "weights/layer_norm.safetensors"})
    case("cross-encoder-embeds", fe, "tasks/bert-rerank", cross({"prompts": {"q": "find: "}, "default_prompt_name": "q"}))


def cross(model, transformer=None):
    return {"modules.json": modules(TRANSFORMER), MODEL: {"__replace__": True, "model_type": "CrossEncoder", **model},
            BERT: {"__replace__": True, "transformer_task": "sequence-classification",
                   "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
                   "module_output_name": "scores", **(transformer or {})}}


def cross_encoders():
    base = "tasks/bert-rerank"
    identity = f"{NN}.linear.Identity"
    case("cross-identity", "rerank", base, cross({"activation_fn": identity}))
    case("cross-softplus", "rerank", base, cross({"activation_fn": f"{NN}.activation.Softplus"}))
    case("cross-default-activation", "rerank", base, cross({}))
    case("cross-default-prompt", "rerank", base,
         cross({"activation_fn": identity, "prompts": {"q": "find: ", "d": "x"}, "default_prompt_name": "q"}))
    case("cross-max-length", "rerank", base, cross({"activation_fn": identity}, {"max_seq_length": 10}))
    case("cross-processor-kwargs", "rerank", base,
         cross({"activation_fn": identity}, {"processor_kwargs": {"do_lower_case": False}, "config_kwargs": {"hidden_act": "relu"}}))
    case("cross-config-json", "rerank", base, {"config.json": {"sentence_transformers": {"activation_fn": identity, "version": "4.1.0"}}})
    case("cross-config-json-legacy", "rerank", base, {"config.json": {"sbert_ce_default_activation_function": identity}})
    case("cross-saved-comes-first", "rerank", base,
         {**cross({"activation_fn": f"{NN}.activation.Tanh"}), "config.json": {"sbert_ce_default_activation_function": identity}})
    # Saved from another class, or without modules.json: the file is ignored.
    case("cross-of-a-bi-encoder", "rerank", base,
         {**cross({"model_type": "SentenceTransformer", "activation_fn": identity, "prompts": {"q": "find: "}, "default_prompt_name": "q"}),
          BERT: {"__replace__": True}})
    case("cross-without-modules", "rerank", base,
         {MODEL: {"__replace__": True, "model_type": "CrossEncoder", "activation_fn": identity, "prompts": {"q": "find: "}, "default_prompt_name": "q"}})


def sparse_encoders():
    base, task = "tasks/bert-splade", "sparse-encoding"
    case("sparse-max-active-dims", task, base, {MODEL: {"max_active_dims": 4}})
    case("sparse-log1p-relu", task, base, {"1_SpladePooling/config.json": {"activation_function": "log1p_relu", "pooling_strategy": "sum"}})
    case("sparse-default-prompt", task, base, {MODEL: {"prompts": {"q": "find: "}, "default_prompt_name": "q", "max_active_dims": 6}})
    case("sparse-new-layout", task, base,
         {"modules.json": modules(TRANSFORMER, "sparse_encoder.modules.splade_pooling.SpladePooling"),
          BERT: {"transformer_task": "fill-mask", "max_seq_length": 6,
                 "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}}, "module_output_name": "token_embeddings"},
          MODEL: {"max_active_dims": 5}})
    case("sparse-tokenizer-args", task, base, {BERT: {"tokenizer_args": {"do_lower_case": False}}, MODEL: {"max_active_dims": 5}})


def activations():
    inputs = [-30.0, -2.0, -0.4, 0.3, 1.5, 25.0]
    names = ["activation." + name for name in (
        "CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid", "LogSoftmax",
        "Mish", "ReLU", "ReLU6", "RReLU", "SELU", "SiLU", "Sigmoid", "Softmax", "Softmin", "Softplus", "Softshrink", "Softsign",
        "Tanh", "Tanhshrink")] + ["linear.Identity", "dropout.Dropout"]
    x = torch.tensor([inputs])
    classes = {}
    for name in names:
        module = torch.nn.modules
        for part in name.split("."):
            module = getattr(module, part)
        classes[f"{NN}.{name}"] = module().eval()(x)[0].tolist()
    write("activations.json", {"inputs": inputs, "classes": classes})


def generate():
    cases = []
    for name in ("roberta", "xlm-roberta", "camembert", "bert"):
        base = f"heads/{name}/for-causal-lm"
        model = AutoModelForCausalLM.from_pretrained(ROOT / base).eval()
        pad = model.config.pad_token_id
        generator = torch.Generator().manual_seed(3)
        prompts = []
        for length in (2, 5, 9):
            ids = torch.randint(5, model.config.vocab_size, (length,), generator=generator).tolist()
            prompts.append([model.config.bos_token_id or 2, *ids])
        # The padding token within a text.
        prompts.append([prompts[1][0], 7, pad, 9])
        for num_beams in (1, 3):
            rows = []
            for ids in prompts:
                ids = torch.tensor([ids])
                out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, min_new_tokens=5,
                                     do_sample=False, num_beams=num_beams, pad_token_id=pad, output_logits=True,
                                     return_dict_in_generate=True)
                first = out.logits[0][0]
                rows.append({"prompt": ids[0].tolist(), "tokens": out.sequences[0, ids.shape[1]:].tolist(),
                             "first_logits": first[:8].tolist()})
            cases.append({"model": base, "num_beams": num_beams, "eos_token_id": model.generation_config.eos_token_id, "rows": rows})
    write("generate.json", cases)


def write(name, content):
    versions = {"library versions": {"sentence-transformers": sentence_transformers.__version__,
                                     "transformers": transformers.__version__, "torch": torch.__version__}}
    if isinstance(content, list):
        content = {"cases": content}
    (OUT / name).write_text(json.dumps({**versions, **content}, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    weights()
    activations()
    generate()
    bi_encoders()
    cross_encoders()
    sparse_encoders()
    write("cases.json", CASES)
