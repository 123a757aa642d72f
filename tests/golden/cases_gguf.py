"""The cases of `gguf/`: tiny models in one file, as llama.cpp converts and quantizes them, with the results of transformers.

Decoders are loaded by transformers from the file (`gguf_file`); the encoders, which it does not load, get the weights that
gguf-py dequantizes. The file's tokenizer is compared with the one that it was made from.
"""
import json
import os
import re
import tempfile
import zlib

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import tiny_tokenizers_modern as tiny
from modern import randomise
from texts import NASTY
from tiny_tokenizers import sentencepiece_model
from tools import CASES, versions, write_golden, write_tensors

TEXTS = ["The hotel was clean.", "a", "It's 3 years old 🙂"]
PROMPTS = ["The", "It was a very quiet and"]
MAX_LENGTH = 24
NEW_TOKENS = 12
CONTROL, USER_DEFINED, NORMAL, UNKNOWN, BYTE = 3, 4, 1, 2, 6
BLOCKS = {Type.Q2_K: 84, Type.Q3_K: 110, Type.Q4_K: 144, Type.Q5_K: 176, Type.Q6_K: 210}


# ------------------------------------------------------------------------------ quantization
def blocks_of(kind, shape, rng):
    """Random blocks of a type that gguf-py only reads, with small scales."""
    rows, columns = shape
    blocks = rng.integers(0, 256, (rows * columns // 256, BLOCKS[kind]), dtype=np.uint8)
    scale = {Type.Q2_K: (80, 82), Type.Q3_K: (108,), Type.Q4_K: (0, 2), Type.Q5_K: (0, 2), Type.Q6_K: (208,)}[kind]
    steps = {Type.Q2_K: 20, Type.Q3_K: 80, Type.Q4_K: 480, Type.Q5_K: 960, Type.Q6_K: 2000}[kind]
    for place in scale:
        halves = (rng.uniform(0.5, 1.0, len(blocks)) * columns ** -0.5 / steps * 2).astype(np.float16)
        blocks[:, place:place + 2] = halves.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def add_tensor(writer, name, numbers, kind):
    numbers = np.ascontiguousarray(numbers, dtype=np.float32)
    if numbers.ndim < 2 or "norm" in name or name.startswith(("position_embd", "token_types")):
        kind = Type.F32
    if kind in BLOCKS:
        data = blocks_of(kind, numbers.shape, np.random.default_rng(zlib.crc32(name.encode())))
        writer.add_tensor(name, data, raw_dtype=kind)
    elif kind == Type.F32:
        writer.add_tensor(name, numbers)
    else:
        writer.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)


# ------------------------------------------------------------------------------ tokenizers
KEYS = {"unk": "unknown", "pad": "padding", "sep": "seperator"}


def special(writer, tokenizer, names=("bos", "eos", "unk", "pad", "sep", "cls", "mask")):
    for name in names:
        token = getattr(tokenizer, f"{name}_token_id", None)
        if token is not None:
            writer.add_uint32(f"tokenizer.ggml.{KEYS.get(name, name)}_token_id", token)


def tokens_of(tokenizer):
    vocab = tokenizer.get_vocab()
    return sorted(vocab, key=vocab.get)


def added(tokenizer):
    return {token: info.special for token, info in ((t.content, t) for t in tokenizer.added_tokens_decoder.values())}


def byte_level(writer, tokenizer, pre, bos=None):
    tokens, known = tokens_of(tokenizer), added(tokenizer)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([NORMAL if t not in known else CONTROL if known[t] else USER_DEFINED for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    special(writer, tokenizer)
    if bos is not None:
        writer.add_add_bos_token(bos)


def sentencepiece(writer, tokenizer, space=True, bos=True):
    tokens, known = tokens_of(tokenizer), added(tokenizer)
    byte = re.compile(r"<0x[0-9A-F]{2}>")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types([UNKNOWN if t == "<unk>" else CONTROL if t in known else BYTE if byte.fullmatch(t) else NORMAL for t in tokens])
    writer.add_add_space_prefix(space)
    writer.add_add_bos_token(bos)
    special(writer, tokenizer)


def wordpiece(writer, tokenizer):
    def phantom(token):
        if token.startswith("[") and token.endswith("]"):
            return token
        return token[2:] if token.startswith("##") else "▁" + token

    tokens = tokens_of(tokenizer)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([phantom(t) for t in tokens])
    writer.add_token_types([CONTROL if t.startswith("[") else NORMAL for t in tokens])
    special(writer, tokenizer, ("unk", "pad", "sep", "cls", "mask"))


def unigram(writer, tokenizer):
    pieces = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]
    known = added(tokenizer)
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece for piece, _ in pieces])
    writer.add_token_scores([score for _, score in pieces])
    writer.add_token_types([UNKNOWN if p == "<unk>" else CONTROL if p in known else NORMAL for p, _ in pieces])
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    special(writer, tokenizer)


# ------------------------------------------------------------------------------ conversion
def permuted(weights, heads):
    """Rows of queries and keys for rotary embeddings of neighbours, as `LlamaModel.permute` of llama.cpp."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def ungrouped(weights, heads, kv_heads):
    """Bloom's and Falcon's heads: all queries, all keys, all values."""
    size = weights.shape[0] // (heads + 2 * kv_heads)
    rows = weights.reshape(kv_heads, heads // kv_heads + 2, size, *weights.shape[1:])
    parts = [rows[:, :-2], rows[:, [-2]], rows[:, [-1]]]
    return np.concatenate([part.reshape(-1, *weights.shape[1:]) for part in parts])


def converted(arch, name, weights, config):
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if arch == "llama" and ".attn_q." in name:
        return permuted(weights, heads)
    if arch == "llama" and ".attn_k." in name:
        return permuted(weights, kv_heads)
    if arch in ("gemma", "gemma2", "gemma3") and name.endswith("norm.weight"):
        return weights + np.float32(1)
    if arch == "gpt2" and weights.ndim == 2 and re.search(r"attn_qkv|attn_output|ffn_up|ffn_down", name):
        return weights.T
    if arch in ("bloom", "falcon") and ".attn_qkv." in name:
        return ungrouped(weights, heads, 1 if arch == "falcon" else heads)
    return weights



def gguf_name(arch, names, key):
    path, suffix = key.rsplit(".", 1)
    found = names.get_name(path) or names.get_name(path.removeprefix("transformer."))
    if found is None:
        raise ValueError(f"{arch}: no name for {key}")
    return f"{found}.{suffix}"


# ------------------------------------------------------------------------------ cases
def sizes(writer, config, **more):
    writer.add_context_length(more.pop("context", None) or config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if (feed_forward := more.pop("feed_forward", getattr(config, "intermediate_size", None))) is not None:
        writer.add_feed_forward_length(feed_forward)
    if (kv_heads := getattr(config, "num_key_value_heads", None)) is not None:
        writer.add_head_count_kv(kv_heads)
    if (head_dim := getattr(config, "head_dim", None)) is not None:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)


def theta(config, key="rope_theta"):
    parameters = config.rope_parameters
    return parameters.get("full_attention", parameters)[key]


def decoder(writer, config, **more):
    sizes(writer, config, **more)
    writer.add_rope_freq_base(theta(config))
    if (eps := getattr(config, "rms_norm_eps", None)) is not None:
        writer.add_layer_norm_rms_eps(eps)
    turning = int((getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads) * (config.rope_parameters.get("partial_rotary_factor") or 1))
    writer.add_rope_dimension_count(turning)


def written(folder, arch, model, describe, kinds):
    """The model as a GGUF file. `kinds` gives the type of each tensor by its name."""
    config = model.config
    writer = gguf.GGUFWriter(os.path.join(folder, "model.gguf"), arch)
    writer.add_name(f"tiny {arch}")
    describe(writer, config)
    arch_id = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == arch)
    names = gguf.get_tensor_name_map(arch_id, config.num_hidden_layers)
    tied = {"lm_head.weight"} if getattr(config, "tie_word_embeddings", False) else set()
    for key, weights in model.state_dict().items():
        if key in tied or key.startswith("pooler"):
            continue
        name = gguf_name(arch, names, key)
        weights = converted(arch, name, weights.float().numpy(), config)
        add_tensor(writer, name, weights, kinds(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def outputs(folder, model, tokenizer, notes, generates, arch, texts, with_strings, encode):
    out, ids = {}, []
    for i, text in enumerate(texts):
        row = tokenizer(text, truncation=True, max_length=MAX_LENGTH)["input_ids"]
        ids.append(row)
        with torch.inference_mode():
            y = model(input_ids=torch.tensor([row]), output_hidden_states=True)
        out[f"hidden_states.{i}"] = torch.stack([h[0] for h in y.hidden_states])
        if generates:
            out[f"logits.{i}"] = y.logits[0, -1]
    continuations = []
    for prompt in PROMPTS if generates else []:
        row = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.inference_mode():
            new = model.generate(row, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0)
        continuations.append({"input_ids": row[0].tolist(), "new": new[0, row.shape[1]:].tolist()})
    encode = encode(tokenizer) if encode else lambda text: tokenizer(text)["input_ids"]
    strings = [text for text in NASTY if "\x00" not in text and with_strings]
    strings = [[text, encode(text)] for text in strings]
    write_tensors(folder, out)
    write_golden(folder, {
        "architecture": arch, "notes": notes, "library versions": {**versions(), "gguf": "0.19.0"}, "texts": texts, "input_ids": ids,
        "continuations": continuations, "strings": [row for row in strings if row[1] is not None]})


def gguf_case(name, arch, auto_class, config, make_tokenizer, tokens, describe, kinds, notes="", load=None, texts=TEXTS, strings=True, encode=None):
    def make(folder):
        tokenizer = make_tokenizer(64)
        settings = AutoConfig.for_model(**config, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id,
                                        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
        model = auto_class.from_config(settings, attn_implementation="eager")
        model = randomise(model, "gguf/" + name, arch in ("gemma", "gemma2", "gemma3"), 0.3)

        def all_of(writer, config):
            describe(writer, config)
            tokens(writer, tokenizer)

        written(folder, arch, model, all_of, kinds)
        model = load(folder, model, arch) if load else auto_class.from_pretrained(
            folder, gguf_file="model.gguf", attn_implementation="eager", dtype=torch.float32)
        outputs(folder, model.eval(), tokenizer, notes, auto_class is AutoModelForCausalLM, arch, texts, strings, encode)

    CASES["gguf/" + name] = make


def dequantized(folder, model, arch):
    """The model with the weights of the file, for an architecture that transformers does not load."""
    reader = gguf.GGUFReader(os.path.join(folder, "model.gguf"))
    arch_id = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == arch)
    names = gguf.get_tensor_name_map(arch_id, model.config.num_hidden_layers)
    stored = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    weights = {}
    for key in model.state_dict():
        name = None if key.startswith(("pooler", "lm_head")) else gguf_name(arch, names, key)
        if name in stored:
            numbers = torch.from_numpy(np.array(stored[name]))
            if arch == "gemma" and name.endswith("norm.weight"):
                numbers -= 1
            weights[key] = numbers
            if arch == "gpt2" and re.search(r"(attn_qkv|attn_output|ffn_up|ffn_down).weight$", name):
                weights[key] = numbers.T.contiguous()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all(key.startswith(("pooler", "lm_head")) for key in missing), (missing, unexpected)
    model.tie_weights()
    return model


def by_sentencepiece(tokenizer):
    """The ids of the sentencepiece library: unlike it, the class of transformers 5.24 first splits a text at white space."""
    with tempfile.TemporaryDirectory() as folder:
        model = SentencePieceProcessor(model_file=sentencepiece_model(folder, "identity", 190, tiny.LANGUAGES))
    vocab = tokenizer.get_vocab()

    def encode(text):
        if any(token in text for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")):
            return None
        return [vocab["<s>"], *(vocab.get(piece, vocab["<unk>"]) for piece in model.encode(text, out_type=str)), vocab["</s>"]]

    return encode


def mixed(**kinds):
    """A type by the part of a tensor's name; Q8_0 for the others."""
    return lambda name: next((getattr(Type, kind) for part, kind in kinds.items() if part in name), Type.Q8_0)


def common(model_type, hidden, layers, heads, kv_heads, intermediate, **more):
    return dict(model_type=model_type, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
                intermediate_size=intermediate, max_position_embeddings=64, tie_word_embeddings=False, **more)


def rope(base=500.0):
    return {"rope_type": "default", "rope_theta": base}


CAUSAL = AutoModelForCausalLM
gguf_case("llama", "llama", CAUSAL, common("llama", 32, 2, 4, 2, 64, rope_parameters=rope(), rms_norm_eps=1e-5), tiny.llama2, sentencepiece, decoder,
          mixed(attn_q="Q4_0", attn_k="Q5_0", attn_v="Q8_0", ffn_gate="Q4_1", ffn_up="Q5_1", ffn_down="F16", output="BF16", token_embd="Q8_0"),
          "rows of queries and keys in the order of neighbours; a tokenizer of sentencepiece")
gguf_case("llama-tied", "llama", CAUSAL, {**common("llama", 32, 2, 2, 1, 64, rope_parameters=rope()), "tie_word_embeddings": True}, tiny.llama3,
          lambda writer, tokenizer: byte_level(writer, tokenizer, "llama-bpe"), decoder, mixed(attn_q="F32", ffn_down="F32"),
          "the head shares the table; byte-level BPE")
gguf_case("qwen2", "qwen2", CAUSAL, common("qwen2", 32, 2, 2, 1, 64, rope_parameters=rope()), tiny.qwen2,
          lambda writer, tokenizer: byte_level(writer, tokenizer, "qwen2", False), decoder, mixed(attn="Q4_0", ffn="Q5_1"))
gguf_case("qwen3-k", "qwen3", CAUSAL, {**common("qwen3", 256, 1, 1, 1, 256, head_dim=128, rope_parameters=rope()), "tie_word_embeddings": True}, tiny.qwen2,
          lambda writer, tokenizer: byte_level(writer, tokenizer, "qwen2", False), decoder,
          mixed(attn_q="Q2_K", attn_k="Q3_K", attn_v="Q4_K", ffn_gate="Q5_K", ffn_up="Q4_K", ffn_down="Q6_K", token_embd="Q6_K"),
          "types with blocks of 256 numbers", texts=TEXTS[:1], strings=False)


def bert_keys(writer, config):
    sizes(writer, config)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.CLS)


BERT = dict(model_type="bert", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, max_position_embeddings=64)
gguf_case("bert", "bert", AutoModel, BERT, tiny.bert, wordpiece, bert_keys, mixed(attn="Q8_0", ffn_up="Q5_0", ffn_down="F16"),
          "no pooler; the file says that the first vector counts", load=dequantized)
gguf_case("bert-unigram", "bert", AutoModel, {**BERT, "num_hidden_layers": 1, "type_vocab_size": 1}, tiny.xlm_roberta, unigram, bert_keys, mixed(),
          "as XLM-RoBERTa is converted: positions from 0, a tokenizer of unigrams", load=dequantized, encode=by_sentencepiece)


# ------------------------------------------------------------------------------ other architectures
FEW = dict(texts=TEXTS[:2], strings=False)


def qwen_bytes(writer, tokenizer):
    byte_level(writer, tokenizer, "qwen2", False)


def gemma_tokens(writer, tokenizer):
    sentencepiece(writer, tokenizer, space=False)


def gemma_keys(writer, config):
    decoder(writer, config)
    if (window := getattr(config, "sliding_window", None)) is not None:
        writer.add_sliding_window(window)
    if getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


# Sizes of heads are those of every model in use: transformers has them as a default of the scale.
GEMMA = {**common("gemma", 32, 2, 1, 1, 64, head_dim=256, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}), "tie_word_embeddings": True}
gguf_case("gemma", "gemma", CAUSAL, GEMMA, tiny.gemma, gemma_tokens, gemma_keys, mixed(), "norms as 1 + w", load=dequantized,
          texts=TEXTS[:2])
gguf_case("gemma2", "gemma2", CAUSAL, {**GEMMA, "model_type": "gemma2", "sliding_window": 6, "query_pre_attn_scalar": 256}, tiny.gemma, gemma_tokens, gemma_keys,
          mixed(ffn="Q4_0"), "every second layer slides; soft caps", **FEW)
gguf_case("gemma3", "gemma3", CAUSAL,
          {**GEMMA, "model_type": "gemma3_text", "num_hidden_layers": 6, "sliding_window": 6, "query_pre_attn_scalar": 256, "intermediate_size": 32,
           "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}},
          tiny.gemma, gemma_tokens, gemma_keys, mixed(attn="Q4_0"), "five of six layers slide, with frequencies of their own", **FEW)
gguf_case("phi3", "phi3", CAUSAL, common("phi3", 32, 2, 2, 1, 64, rope_parameters=rope(10000.0), sliding_window=None), tiny.llama2, sentencepiece,
          lambda writer, config: (decoder(writer, config), writer.add_pad_token_id(0)), mixed(ffn="Q4_1"), "fused projections", **FEW)


def gpt2_keys(writer, config):
    sizes(writer, config, feed_forward=config.n_inner)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


gguf_case("gpt2", "gpt2", CAUSAL, dict(model_type="gpt2", n_embd=32, n_layer=2, n_head=2, n_inner=64, n_positions=64), tiny.gpt2,
          lambda writer, tokenizer: byte_level(writer, tokenizer, "gpt-2", False), gpt2_keys, mixed(attn_qkv="Q4_0"), "transposed products",
          load=dequantized, texts=TEXTS[:2])
gguf_case("stablelm", "stablelm", CAUSAL,
          common("stablelm", 32, 2, 2, 1, 64, use_qkv_bias=True, rope_parameters={**rope(10000.0), "partial_rotary_factor": 0.25}), tiny.qwen2, qwen_bytes,
          lambda writer, config: (decoder(writer, config), writer.add_layer_norm_eps(config.layer_norm_eps)), mixed(), **FEW)
gguf_case("starcoder2", "starcoder2", CAUSAL, common("starcoder2", 32, 2, 2, 1, 64, rope_parameters=rope(10000.0)), tiny.qwen2, qwen_bytes,
          lambda writer, config: (decoder(writer, config), writer.add_layer_norm_eps(config.norm_epsilon)), mixed(), **FEW)
gguf_case("falcon", "falcon", CAUSAL,
          dict(model_type="falcon", hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_kv_heads=1, multi_query=True, parallel_attn=True,
               new_decoder_architecture=False, bias=False, alibi=False, max_position_embeddings=64, rope_parameters=rope(10000.0)), tiny.qwen2, qwen_bytes,
          lambda writer, config: (decoder(writer, config, feed_forward=4 * config.hidden_size), writer.add_head_count_kv(1),
                                  writer.add_layer_norm_eps(config.layer_norm_epsilon)), mixed(), **FEW)
gguf_case("bloom", "bloom", CAUSAL, dict(model_type="bloom", hidden_size=32, n_layer=2, n_head=2), tiny.qwen2, qwen_bytes,
          lambda writer, config: (sizes(writer, config, context=64, feed_forward=4 * config.hidden_size), writer.add_head_count_kv(config.n_head),
                                  writer.add_layer_norm_eps(config.layer_norm_epsilon)), mixed(), "queries, keys and values of each head", **FEW)


# ------------------------------------------------------------------------------ nomic-bert
NOMIC = {"emb_ln": "token_embd_norm", "embeddings.word_embeddings": "token_embd", "embeddings.token_type_embeddings": "token_types",
         "attn.Wqkv": "attn_qkv", "attn.out_proj": "attn_output", "norm1": "attn_output_norm", "norm2": "layer_output_norm", "mlp.fc11": "ffn_up",
         "mlp.fc12": "ffn_gate", "mlp.fc2": "ffn_down"}


def nomic_name(key):
    key = re.sub(r"^encoder\.layers\.", "blk.", key)
    found = max((name for name in NOMIC if name in key), key=len)
    return key.replace(found, NOMIC[found])


def nomic_bert(folder):
    """The names of the hub's checkpoints are those that llama.cpp converts; transformers changes them when it loads and saves."""
    tokenizer = tiny.bert(64)
    config = AutoConfig.for_model("nomic_bert", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=len(tokenizer),
                                  max_position_embeddings=64, head_dim=8)
    model = randomise(AutoModel.from_config(config, attn_implementation="eager"), "gguf/nomic-bert", False, 0.3)
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        path = os.path.join(saved, "model.safetensors")
        weights = load_file(path)
        writer = gguf.GGUFWriter(os.path.join(folder, "model.gguf"), "nomic-bert")
        sizes(writer, config)
        writer.add_layer_norm_eps(config.layer_norm_eps)
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType.MEAN)
        writer.add_rope_freq_base(1000.0)
        wordpiece(writer, tokenizer)
        for key, numbers in weights.items():
            add_tensor(writer, nomic_name(key), numbers.numpy(), Type.Q5_0 if "fc1" in key else Type.Q8_0)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        stored = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(os.path.join(folder, "model.gguf")).tensors}
        save_file({key: torch.from_numpy(np.array(stored[nomic_name(key)])) for key in weights}, path, metadata={"format": "pt"})
        model = AutoModel.from_pretrained(saved, attn_implementation="eager").eval()
    outputs(folder, model, tokenizer, "the vectors of tokens are averaged", False, "nomic-bert", TEXTS[:2], False, None)


CASES["gguf/nomic-bert"] = nomic_bert
