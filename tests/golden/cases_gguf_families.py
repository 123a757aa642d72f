"""More cases of `gguf/`: what transformers does not load from a file gets the weights that gguf-py dequantizes, under the names of the
original checkpoint: experts in one tensor, both stacks of T5, factors on frequencies, heads, and the projections of an embedder.
"""
import os

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

import tiny_tokenizers_modern as tiny
from cases_gguf import (CAUSAL, NEW_TOKENS, PROMPTS, TEXTS, add_tensor, bert_keys, byte_level, common, converted, decoder, gemma_keys,
                        gemma_tokens, gguf_name, mixed, qwen_bytes, rope, sentencepiece, sizes, unigram)
from modern import randomise
from tiny_tokenizers import t5 as tiny_t5
from tools import CASES, versions, write_golden, write_tensors



# ------------------------------------------------------------------------------ names
def names_of(arch, config):
    arch_id = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == arch)
    return gguf.get_tensor_name_map(arch_id, config.num_hidden_layers)


def parts(arch, names, key, weights, config):
    """The tensors of the file that a tensor of the checkpoint is: the halves of stacked experts, or one."""
    if key.endswith("experts.gate_up_proj"):
        layer = key.split(".")[2]
        gate, up = np.split(weights, 2, axis=1)
        return {f"blk.{layer}.ffn_gate_exps.weight": gate, f"blk.{layer}.ffn_up_exps.weight": up}
    if key.endswith("experts.down_proj"):
        return {f"blk.{key.split('.')[2]}.ffn_down_exps.weight": weights}
    if key.endswith("mlp.gate.weight"):
        return {f"blk.{key.split('.')[2]}.ffn_gate_inp.weight": weights}
    if key in ("score.weight", "classifier.weight", "classifier.bias"):
        return {f"cls.output.{key.rsplit('.', 1)[1]}": weights}
    name = gguf_name(arch, names, key.removeprefix("model.") if arch == "modern-bert" else key.removeprefix("roberta."))
    if arch == "bert" and name == "position_embd.weight":
        weights = weights[config.pad_token_id + 1:]
    return {name: converted("llama" if arch == "granite" else "gemma3" if arch == "gemma-embedding" else arch, name, weights, config)}


def back(arch, name, weights, config):
    """The tensor of the checkpoint from that of the file, for the two ways in which they differ here."""
    if arch in ("llama", "granite") and (".attn_q." in name or ".attn_k." in name):
        heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
        return weights.reshape(heads, weights.shape[0] // heads // 2, 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)
    if arch == "gemma-embedding" and name.endswith("norm.weight"):
        return weights - np.float32(1)
    if arch == "bert" and name == "position_embd.weight":
        # No token has one of the first positions.
        return np.concatenate([np.zeros((config.pad_token_id + 1, weights.shape[1]), np.float32), weights])
    return weights


def is_tied(config):
    """T5 of transformers 5 says always that it is; a head of its own is in the checkpoint of one that does not scale."""
    return getattr(config, "tie_word_embeddings", False) and getattr(config, "scale_decoder_outputs", True)


def skipped(key, config):
    tied = is_tied(config)
    return key in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight") or (tied and key == "lm_head.weight")


def case(name, arch, auto_class, config, make_tokenizer, tokens, describe, kinds, notes="", extra=lambda config: {}, texts=TEXTS[:2], generates=True,
         ids=None, embeddings=0.3):
    """Registers a case. `extra(config)` are tensors of the file that the checkpoint does not have; `ids(tokenizer)` of settings."""
    def make(folder):
        tokenizer = make_tokenizer(64)
        special_ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
        settings = AutoConfig.for_model(**config, vocab_size=len(tokenizer), **(ids(tokenizer) if ids else special_ids))
        model = auto_class.from_config(settings, attn_implementation="eager")
        if hasattr(model, "lm_head") and not is_tied(model.config):
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        model = randomise(model, "gguf/" + name, arch.startswith("gemma"), embeddings).float()
        settings, names = model.config, names_of(arch, model.config)
        path = os.path.join(folder, "model.gguf")
        writer = gguf.GGUFWriter(path, arch)
        writer.add_name(f"tiny {arch}")
        describe(writer, settings)
        tokens(writer, tokenizer)
        for key, weights in model.state_dict().items():
            if not skipped(key, settings):
                for own, numbers in parts(arch, names, key, weights.numpy(), settings).items():
                    add_tensor(writer, own, numbers, Type.F32 if "ffn_gate_inp" in own or "attn_rel_b" in own else kinds(own))
        for own, numbers in extra(settings).items():
            add_tensor(writer, own, numbers, kinds(own))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

        stored = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}
        found = {}
        for key, weights in model.state_dict().items():
            if not skipped(key, settings):
                own = [back(arch, part, np.array(stored[part]), settings) for part in parts(arch, names, key, weights.numpy(), settings)]
                found[key] = torch.from_numpy(np.concatenate(own, axis=1) if len(own) > 1 else own[0])
        missing, unexpected = model.load_state_dict(found, strict=False)
        assert not unexpected and all(skipped(key, settings) for key in missing), (missing, unexpected)
        if is_tied(settings):
            model.tie_weights()
        results(folder, model.eval(), tokenizer, arch, notes, texts, generates, {name: stored[name] for name in extra(settings) if "dense" in name})

    CASES["gguf/" + name] = make


def results(folder, model, tokenizer, arch, notes, texts, generates, dense):
    """As `outputs` of cases_gguf.py, also for encoder-decoders and heads: the logits of the first token of the decoder, or of the labels."""
    out, ids, two_stacks = {}, [], model.config.is_encoder_decoder
    for i, text in enumerate(texts):
        pair = isinstance(text, list)
        row = tokenizer(*(text if pair else [text]))["input_ids"]
        ids.append(row)
        start = {"decoder_input_ids": torch.tensor([[model.config.decoder_start_token_id]])} if two_stacks else {}
        with torch.inference_mode():
            y = model(input_ids=torch.tensor([row]), output_hidden_states=True, **start)
        out[f"hidden_states.{i}"] = torch.stack([h[0] for h in (y.encoder_hidden_states if two_stacks else y.hidden_states)])
        if generates:
            out[f"logits.{i}"] = y.logits[0, -1]
        elif hasattr(y, "logits"):
            out[f"scores.{i}"] = y.logits[0]
        if dense:
            vector = y.last_hidden_state[0].mean(0)
            for weights in dense.values():
                vector = torch.from_numpy(np.array(weights)) @ vector
            out[f"vector.{i}"] = vector
    continuations = []
    for prompt in PROMPTS if generates else []:
        row = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.inference_mode():
            new = model.generate(row, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0)
        continuations.append({"input_ids": row[0].tolist(), "new": new[0, 1 if two_stacks else row.shape[1]:].tolist()})
    write_tensors(folder, out)
    pairs = {"pairs": texts} if isinstance(texts[0], list) else {}
    write_golden(folder, {
        "architecture": arch, "notes": notes, "library versions": {**versions(), "gguf": "0.19.0"}, "texts": [] if pairs else texts, **pairs,
        "input_ids": ids, "auto_class": type(model).__name__, "continuations": continuations, "strings": []})


# ------------------------------------------------------------------------------ decoders
def llama3_factors(config):
    """`rope_freqs` as convert_hf_to_gguf.py computes them."""
    scaling, size = config.rope_parameters, config.hidden_size // config.num_attention_heads
    low = scaling["original_max_position_embeddings"] / scaling["low_freq_factor"]
    high = scaling["original_max_position_embeddings"] / scaling["high_freq_factor"]
    numbers = []
    for i in range(0, size, 2):
        length = 2 * np.pi * scaling["rope_theta"] ** (i / size)
        smooth = (scaling["original_max_position_embeddings"] / length - scaling["low_freq_factor"]) / (
            scaling["high_freq_factor"] - scaling["low_freq_factor"])
        numbers.append(1 if length < high else scaling["factor"] if length > low else 1 / ((1 - smooth) / scaling["factor"] + smooth))
    return {"rope_freqs.weight": np.array(numbers, dtype=np.float32)}


LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 12}
case("llama-rope-freqs", "llama", CAUSAL, {**common("llama", 32, 1, 2, 1, 64, rope_parameters=LLAMA3)}, tiny.llama2, sentencepiece, decoder, mixed(),
     "the scaling of Llama 3 is a tensor", extra=llama3_factors)

LONG, SHORT = [1.5, 2.0, 4.0, 8.0, 9.0, 12.0, 16.0, 20.0], [1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5]


def longrope_keys(writer, config):
    decoder(writer, config)
    writer.add_pad_token_id(0)
    scale = config.max_position_embeddings / config.rope_parameters["original_max_position_embeddings"]
    original = config.rope_parameters["original_max_position_embeddings"]
    writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(scale) / np.log(original))))
    writer.add_rope_scaling_orig_ctx_len(original)


case("phi3-longrope", "phi3", CAUSAL,
     common("phi3", 32, 1, 2, 1, 64, sliding_window=None, original_max_position_embeddings=10,
            rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "long_factor": LONG, "short_factor": SHORT,
                             "original_max_position_embeddings": 10}), tiny.llama2, sentencepiece, longrope_keys, mixed(ffn="Q4_1"),
     "factors for rows up to the original length and for longer ones", texts=TEXTS,
     extra=lambda _: {"rope_factors_long.weight": np.array(LONG, np.float32), "rope_factors_short.weight": np.array(SHORT, np.float32)})


def granite_keys(writer, config):
    decoder(writer, config)
    writer.add_attention_scale(config.attention_multiplier)
    writer.add_embedding_scale(config.embedding_multiplier)
    writer.add_residual_scale(config.residual_multiplier)
    writer.add_logit_scale(config.logits_scaling)


case("granite", "granite", CAUSAL,
     common("granite", 32, 2, 4, 2, 64, rope_parameters=rope(), attention_multiplier=0.4, embedding_multiplier=3.0, residual_multiplier=0.7,
            logits_scaling=2.5), tiny.smollm3, lambda writer, tokenizer: byte_level(writer, tokenizer, "gpt-2", False), granite_keys,
     mixed(attn="Q4_0"), "four scales")


# ------------------------------------------------------------------------------ experts
def expert_keys(writer, config):
    decoder(writer, config)
    writer.add_expert_count(config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    if (inner := getattr(config, "moe_intermediate_size", None)) is not None:
        writer.add_expert_feed_forward_length(inner)


case("mixtral", "llama", CAUSAL, common("mixtral", 32, 1, 2, 1, 32, num_local_experts=4, num_experts_per_tok=2, rope_parameters=rope()), tiny.llama2,
     sentencepiece, expert_keys, mixed(ffn="Q5_1", attn="Q8_0"), "as Mixtral is converted: a llama whose experts are in one tensor each projection")
case("qwen3moe", "qwen3moe", CAUSAL,
     common("qwen3_moe", 32, 1, 2, 1, 32, head_dim=16, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True,
            rope_parameters=rope()), tiny.qwen2, qwen_bytes, expert_keys, mixed(ffn="Q4_0"),
     "transformers 5.24 does not read the size of the experts")


# ------------------------------------------------------------------------------ T5
def t5_keys(writer, config):
    writer.add_context_length(64)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_block_count(config.num_layers)
    writer.add_decoder_block_count(config.num_decoder_layers)
    writer.add_head_count(config.num_heads)
    writer.add_key_length(config.d_kv)
    writer.add_value_length(config.d_kv)
    writer.add_relative_attn_buckets_count(config.relative_attention_num_buckets)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
    writer.add_decoder_start_token_id(config.decoder_start_token_id)


def t5_tokens(writer, tokenizer):
    unigram(writer, tokenizer)
    for key in ("add_bos_token", "add_eos_token"):
        writer.kv_data[-1].pop(f"tokenizer.ggml.{key}")
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(True)


def t5_ids(tokenizer):
    return {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": tokenizer.eos_token_id}


T5 = dict(d_model=32, num_layers=2, num_heads=2, d_ff=32, d_kv=16, relative_attention_num_buckets=8)
for name, model_type, more, notes in (
        ("t5", "t5", dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_decoder_layers=1), "as Flan-T5: gated, a head of its own"),
        ("t5-relu", "t5", dict(feed_forward_proj="relu"), "as the first T5: not gated, the head shares the table"),
        ("umt5", "umt5", dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False), "a relative position bias in each layer")):
    case(name, "t5", AutoModelForSeq2SeqLM, {**T5, "model_type": model_type, **more}, lambda length: tiny_t5(length, 160, extra_ids=4), t5_tokens, t5_keys,
         mixed(ffn_up="Q5_0", attn="Q8_0", token_embd="F16"), notes + "; transformers 5.24 drops `is_gated_act`", ids=t5_ids, embeddings=1.0)


# ------------------------------------------------------------------------------ encoders and heads
def embedding_keys(writer, config):
    gemma_keys(writer, config)
    writer.add_sliding_window(WINDOW)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    for dense, inner, outer in (("dense_2", 32, 64), ("dense_3", 64, 32)):
        writer.add_dense_features_dims(dense, inner, outer)


def projections(_config):
    rng = np.random.default_rng(7)
    return {"dense_2.weight": rng.normal(0, 0.2, (64, 32)).astype(np.float32), "dense_3.weight": rng.normal(0, 0.2, (32, 64)).astype(np.float32)}


WINDOW = 10
case("gemma-embedding", "gemma-embedding", AutoModel,
     {**common("gemma3_text", 32, 6, 2, 1, 32, head_dim=16, sliding_window=WINDOW, use_bidirectional_attention=True, query_pre_attn_scalar=16,
               rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 1e6},
                                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}})},
     tiny.gemma, gemma_tokens, embedding_keys, mixed(attn="Q4_0"), "as EmbeddingGemma: sees both sides; `vector`: the mean, projected twice", generates=False,
     extra=projections)


def modern_bert_keys(writer, config):
    sizes(writer, config)
    writer.add_layer_norm_eps(config.norm_eps)
    writer.add_causal_attention(False)
    writer.add_sliding_window(config.local_attention)
    writer.add_sliding_window_pattern(config.global_attn_every_n_layers)
    writer.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
    writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])


def modern_bert_tokens(writer, tokenizer):
    byte_level(writer, tokenizer, "modern-bert")
    writer.add_bos_token_id(tokenizer.cls_token_id)
    writer.add_eos_token_id(tokenizer.sep_token_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)


def modern_bert_ids(tokenizer):
    return {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id,
            "cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}


MODERN_BERT = dict(model_type="modernbert", hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, max_position_embeddings=64,
                   local_attention=6, global_attn_every_n_layers=3, classifier_pooling="mean",
                   rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 160.0},
                                    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}})
case("modern-bert-scores", "modern-bert", AutoModelForSequenceClassification, {**MODERN_BERT, "num_labels": 1}, tiny.modernbert,
     modern_bert_tokens, modern_bert_keys, mixed(ffn="Q4_0"), "a reranker: one score of a pair; sliding layers", ids=modern_bert_ids, generates=False,
     texts=[["Who?", TEXTS[0]], ["a", "b"]])


def labelled(writer, config):
    decoder(writer, config)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_classifier_output_labels(["yes", "no"])


case("qwen3-scores", "qwen3", AutoModelForSequenceClassification,
     {**common("qwen3", 32, 1, 2, 1, 64, head_dim=16, rope_parameters=rope()), "tie_word_embeddings": True, "id2label": {0: "yes", 1: "no"},
      "label2id": {"yes": 0, "no": 1}}, tiny.qwen2, qwen_bytes, labelled, mixed(),
     "as Qwen3-Reranker is converted: two rows of its head are the labels", generates=False)


def roberta_keys(writer, config):
    bert_keys(writer, config)
    writer.kv_data[-1].pop(f"{writer.arch}.pooling_type")
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_classifier_output_labels(list(config.id2label.values()))


def roberta_bytes(writer, tokenizer):
    byte_level(writer, tokenizer, "roberta-bpe")
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)


ROBERTA = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, max_position_embeddings=66, type_vocab_size=1)
case("xlm-roberta-scores", "bert", AutoModelForSequenceClassification, {**ROBERTA, "model_type": "xlm-roberta", "num_labels": 1}, tiny.xlm_roberta, unigram,
     roberta_keys, mixed(ffn="Q4_0"), "as bge-reranker is converted: one score of a pair, with two `</s>` between its texts", generates=False,
     texts=[["Who?", TEXTS[0]], ["a", "b"]])
case("roberta-labels", "bert", AutoModelForSequenceClassification,
     {**ROBERTA, "model_type": "roberta", "id2label": {0: "bad", 1: "so-so", 2: "good"}, "label2id": {"bad": 0, "so-so": 1, "good": 2}},
     tiny.roberta, roberta_bytes, roberta_keys, mixed(attn="Q8_0"), "as RoBERTa is converted, with three labels", generates=False)
