"""Sparse encoders without a transformer: `tasks/sparse-encoding-static`, by sentence-transformers 6.2."""
import os

import sentence_transformers
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

import tiny_tokenizers_modern as modern_tokenizers
from tools import CASES, skip, write_json
from tools_tasks import Case, model, text_rows, write_case

MAX_TOKENS = 32
TEXTS = [None, "", "Harbour", "The little inn by the harbour was quiet, and the bread was still warm. " * 4, "the the the film",
         "Wow 🙂👍🏽, 房间 [SEP] the film [MASK]", "  leading and trailing  "]


def sparse_static(name, idf=False):
    """As `SparseEncoder.save_pretrained` writes it; with `idf`, the weights are in a file of words."""
    def make(folder):
        tokenizer = modern_tokenizers.bert(MAX_TOKENS)
        weight = torch.randn(len(tokenizer), generator=torch.Generator().manual_seed(1)).abs()
        weight[::7] = 0
        encoder = SparseEncoder(modules=[SparseStaticEmbedding(tokenizer, weight, frozen=True)], device="cpu",
                                prompts={"query": "find: ", "document": ""})
        encoder.save_pretrained(folder, create_model_card=False)
        if idf:
            os.remove(os.path.join(folder, "model.safetensors"))
            words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
            write_json(os.path.join(folder, "idf.json"), {word: w for word, w in zip(words, weight.tolist()) if w > 0.5})
            write_json(os.path.join(folder, "config.json"), {"frozen": True, "path": "idf.json"})
    model(name)(make)


sparse_static("sparse-static")
sparse_static("sparse-static-idf", idf=True)


def sparse_encoding(path, case, change):
    # The weights in `idf.json` are found from the working directory.
    before = os.getcwd()
    os.chdir(path)
    encoder = SparseEncoder(path, device="cpu")
    os.chdir(before)
    change(encoder)

    def call(row):
        vector = encoder.encode(row["text"], prompt_name=case.options.get("prompt_name"), max_active_dims=case.options.get("top_k"),
                                convert_to_sparse_tensor=False, show_progress_bar=False)
        best = sorted((i for i, weight in enumerate(vector.tolist()) if weight != 0), key=lambda i: -vector[i].item())
        return [{"token": encoder.tokenizer.convert_ids_to_tokens(i), "index": i, "weight": vector[i].item()} for i in best]
    return call


def write(folder):
    if not sentence_transformers.__version__.startswith("6.2"):
        skip("tasks/sparse-encoding-static is made with sentence-transformers 6.2")
    rows = text_rows(*TEXTS)
    for case in [
        Case("static", "sparse-static", rows, notes="a weight per token, whatever its place; no special tokens are added"),
        Case("static-top-3", "sparse-static", rows, options={"top_k": 3, "prompt_name": "query"}),
        Case("static-idf", "sparse-static-idf", rows, notes="weights in idf.json"),
    ]:
        write_case(folder, "sparse-encoding", case, sparse_encoding)


CASES["tasks/sparse-encoding-static"] = write
