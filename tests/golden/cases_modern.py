"""The cells of `modern/`: decoders and encoders with rotary embeddings, every Auto class that transformers 5.24 has for each.

Shapes are odd on purpose: fewer heads of keys than of queries, a head size that is not hidden size / heads where the family
allows it, windows shorter than the rows, `original_max_position_embeddings` shorter than the rows. config.json is in the
spelling of transformers 5 (`rope_parameters`) or of 4 (`rope_theta`, `rope_scaling`).
"""
from heads import edit_weights
from modern import modern_cell, written_by_4
from tools import rewrite

EMOTIONS = ["anger", "joy", "sadness", "no emotion"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
NLI = ["contradiction", "entailment", "neutral"]
FULL, SLIDING = "full_attention", "sliding_attention"


def decoder(hidden, layers, heads, kv_heads, intermediate, head_dim=None, **more):
    """The shape of a decoder; `head_dim` is given where it is not hidden / heads."""
    return dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
                intermediate_size=intermediate, **({} if head_dim is None else {"head_dim": head_dim}),
                **{"max_position_embeddings": 64, **more})


def encoder(hidden, layers, heads, intermediate, **more):
    return dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=intermediate,
                **{"max_position_embeddings": 64, **more})


def rope(rope_type="default", **more):
    return {"rope_type": rope_type, **more}


# ---------------------------------------------------------------------------------- llama
LLAMA3 = dict(factor=4.0, low_freq_factor=1.0, high_freq_factor=2.0, original_max_position_embeddings=16)
LONG_6 = dict(short_factor=[1.0, 1.05, 1.1, 1.2, 1.2, 1.3], long_factor=[1.0, 1.5, 2.5, 4.0, 5.5, 9.0])
LONG = dict(short_factor=[1.0, 1.1, 1.3, 1.2], long_factor=[1.0, 2.5, 4.0, 7.5])
modern_cell("llama/model", decoder(24, 2, 4, 2, 40, head_dim=8, rms_norm_eps=1e-5), rope_parameters=rope(rope_theta=500.0),
            notes="2 heads of keys, head_dim 8 with 4 heads of a hidden size of 24")
modern_cell("llama/model-llama3", decoder(16, 2, 2, 1, 24), attention_bias=True,
            config_json=written_by_4(rope_theta=16.0, rope_scaling={"rope_type": "llama3", **LLAMA3}),
            notes="rope_scaling llama3: one frequency stays, one is smoothed, two are divided")
modern_cell("llama/model-linear", decoder(16, 1, 2, 2, 28), mlp_bias=True,
            config_json=written_by_4(rope_scaling={"type": "linear", "factor": 2.5}), notes="no rope_theta; `type`, the key of 2023")
modern_cell("llama/model-dynamic", decoder(16, 2, 4, 2, 28, max_position_embeddings=12), saved_as="AutoModelForCausalLM",
            config_json=written_by_4(rope_theta=100.0, rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
            notes="max_position_embeddings 12: each longer row has frequencies of its own length; keys with `model.`, lm_head unused")
modern_cell("llama/model-yarn", decoder(32, 2, 2, 1, 30), notes="yarn, attention_factor from `factor`; max_position_embeddings 64",
            rope_parameters=rope("yarn", rope_theta=50.0, factor=4.0, beta_fast=2.0, beta_slow=0.5, original_max_position_embeddings=16))
modern_cell("llama/model-yarn-mscale", decoder(32, 1, 2, 1, 26), notes="yarn without rounding of its range; attention_factor from mscale",
            config_json=written_by_4(rope_theta=50.0, rope_scaling=rope(
                "yarn", factor=3.0, beta_fast=2.0, beta_slow=0.5, mscale=1.3, mscale_all_dim=0.6, truncate=False,
                original_max_position_embeddings=16)))
modern_cell("llama/model-longrope", decoder(16, 2, 2, 1, 24), notes="rows above 10 tokens have long_factor, the others short_factor",
            rope_parameters=rope("longrope", rope_theta=100.0, factor=4.0, original_max_position_embeddings=10, **LONG))
modern_cell("llama/model-not-causal", decoder(24, 2, 3, 1, 30), is_causal=False, hidden_act="gelu",
            notes="is_causal is false: every token sees all others")
modern_cell("llama/for-causal-lm", decoder(16, 3, 4, 1, 36), mlp_bias=True, attention_bias=True,
            rope_parameters=rope(rope_theta=1000.0), notes="one head of keys, biases, lm_head of its own")
modern_cell("llama/for-causal-lm-tied", decoder(24, 2, 4, 2, 32), tie_word_embeddings=True,
            config_json=written_by_4(rope_theta=500.0, rope_scaling=None, head_dim=None), notes="tied; no head_dim in config.json")
WORDS = "model.embed_tokens.weight"
TIED = dict(tie_word_embeddings=True, rope_parameters=rope(rope_theta=500.0))
modern_cell("llama/for-causal-lm-two-tables", decoder(16, 2, 2, 1, 28), **TIED,
            edit=lambda weights: {**weights, "lm_head.weight": 0.8 * weights[WORDS].flip(1)},
            notes="tie_word_embeddings is true, but lm_head has numbers of its own: they are not tied")
modern_cell("llama/for-causal-lm-only-head", decoder(16, 2, 2, 1, 28), **TIED,
            edit=lambda weights: {"lm_head.weight" if key == WORDS else key: value for key, value in weights.items()},
            notes="tied; stored under the name of the head alone")
modern_cell("llama/for-causal-lm-bf16", decoder(24, 2, 4, 2, 32), **TIED,
            edit=lambda weights: {key: value.bfloat16() for key, value in weights.items()}, notes="tied; stored in bf16, computed in f32")
modern_cell("llama/for-causal-lm-dynamic", decoder(16, 2, 2, 1, 28, max_position_embeddings=12),
            rope_parameters=rope("dynamic", rope_theta=100.0, factor=3.0),
            notes="prompts and continuations go beyond max_position_embeddings: each new token turns by the length so far, keys in the "
                  "cache stay as they are")
modern_cell("llama/model-bf16", decoder(24, 2, 4, 2, 40, head_dim=8), rope_parameters=rope(rope_theta=500.0), attention_bias=True,
            edit=lambda weights: {key: value.bfloat16() for key, value in weights.items()}, notes="stored in bf16, computed in f32")
modern_cell("llama/for-sequence-classification", decoder(20, 2, 2, 1, 30), labels=EMOTIONS, notes="no pad_token_id: the last token counts")
modern_cell("llama/for-sequence-classification-pad", decoder(16, 2, 4, 2, 30), labels=NLI, kind="pairs", pad_token_id=280,
            notes="pad_token_id is that of <|begin_of_text|>: the last token that is another one counts")
modern_cell("llama/for-question-answering", decoder(16, 2, 4, 2, 26))
modern_cell("llama/for-token-classification", decoder(16, 1, 2, 1, 28), labels=TAGS)

# -------------------------------------------------------------------------------- mistral
modern_cell("mistral/model", decoder(20, 2, 3, 1, 32, head_dim=8), sliding_window=5, rope_parameters=rope(rope_theta=1000.0),
            notes="a window of 5 tokens, the token itself among them; 3 heads of 8 with a hidden size of 20")
modern_cell("mistral/model-not-causal", decoder(16, 2, 4, 2, 26), sliding_window=4, is_causal=False,
            config_json=written_by_4(rope_theta=500.0), notes="is_causal is false: a window on both sides")
modern_cell("mistral/for-causal-lm", decoder(20, 2, 2, 1, 30, head_dim=12), sliding_window=6, hidden_act="gelu_new",
            config_json=written_by_4(rope_theta=1000.0), notes="a window of 6 tokens, shorter than prompts and continuations")
modern_cell("mistral/for-causal-lm-tied", decoder(24, 2, 4, 2, 32), sliding_window=None, tie_word_embeddings=True,
            rope_parameters=rope(rope_theta=1000.0), notes="no window; tied")
modern_cell("mistral/for-sequence-classification", decoder(16, 2, 4, 2, 28), sliding_window=7, labels=EMOTIONS)
modern_cell("mistral/for-question-answering", decoder(16, 1, 2, 1, 28), sliding_window=8)
modern_cell("mistral/for-token-classification", decoder(20, 2, 2, 1, 24), sliding_window=3, labels=TAGS)

# ------------------------------------------------------------------------------------ qwen
SLIDES = dict(use_sliding_window=True, sliding_window=4)
modern_cell("qwen2/model", decoder(24, 3, 4, 2, 32), **SLIDES, max_window_layers=1, saved_as="AutoModelForCausalLM",
            rope_parameters=rope(rope_theta=1000.0), notes="biases of q, k, v; layer_types from max_window_layers: the layers from 1 on slide; "
            "keys with `model.`, lm_head unused")
modern_cell("qwen2/model-max-window-layers", decoder(16, 3, 2, 1, 32), **SLIDES, max_window_layers=2,
            config_json=written_by_4(rope_theta=1000.0, layer_types=None, rope_scaling={
                "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}),
            notes="no layer_types in config.json: layer 2 slides; yarn")
modern_cell("qwen2/model-window-unused", decoder(16, 2, 2, 1, 28), is_causal=False,
            config_json=written_by_4(rope_theta=1000.0, use_sliding_window=False, sliding_window=3, max_window_layers=0, layer_types=None),
            notes="use_sliding_window is false: sliding_window does not count; is_causal is false")
modern_cell("qwen2/for-causal-lm", decoder(20, 2, 2, 1, 30), tie_word_embeddings=True, config_json=written_by_4(rope_theta=1000.0),
            notes="tied; no layer slides")
modern_cell("qwen2/for-causal-lm-sliding", decoder(16, 3, 4, 2, 26), use_sliding_window=True, sliding_window=5,
            layer_types=[SLIDING, FULL, SLIDING], rope_parameters=rope(rope_theta=500.0), notes="lm_head of its own; layers 0 and 2 slide")
modern_cell("qwen2/for-sequence-classification", decoder(16, 2, 4, 2, 28), num_labels=1, kind="pairs", pad_token_id=280,
            notes="one label, as rerankers have it; pad_token_id is that of <|endoftext|>, which is not in the text")
modern_cell("qwen2/for-question-answering", decoder(16, 2, 4, 1, 24))
modern_cell("qwen2/for-token-classification", decoder(20, 1, 2, 2, 28), labels=TAGS)
modern_cell("qwen3/model", decoder(16, 2, 3, 1, 32, head_dim=12), rope_parameters=rope(rope_theta=1000.0),
            notes="norms of q and k for each head; 3 heads of 12 with a hidden size of 16")
modern_cell("qwen3/model-not-causal", decoder(20, 2, 4, 2, 28, head_dim=6), is_causal=False, attention_bias=True,
            config_json=written_by_4(rope_theta=1000.0, rope_scaling={
                "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12}),
            notes="is_causal is false; attention_bias; yarn")
modern_cell("qwen3/for-causal-lm", decoder(24, 2, 2, 1, 32, head_dim=16), tie_word_embeddings=True,
            config_json=written_by_4(rope_theta=1000.0), notes="tied")
modern_cell("qwen3/for-causal-lm-sliding", decoder(16, 3, 2, 1, 24, head_dim=10), **SLIDES, layer_types=[FULL, SLIDING, SLIDING],
            rope_parameters=rope(rope_theta=500.0), notes="layers 1 and 2 have a window of 4 tokens")
modern_cell("qwen3/for-sequence-classification", decoder(16, 2, 2, 1, 28, head_dim=12), num_labels=1, kind="pairs")
modern_cell("qwen3/for-sequence-classification-labels", decoder(16, 2, 4, 2, 28, head_dim=6), labels=EMOTIONS)
modern_cell("qwen3/for-question-answering", decoder(16, 1, 4, 2, 24, head_dim=6))
modern_cell("qwen3/for-token-classification", decoder(20, 2, 2, 1, 24, head_dim=8), labels=TAGS)

# -------------------------------------------------------------------------------- smollm3
modern_cell("smollm3/model", decoder(24, 4, 4, 2, 32), no_rope_layer_interval=3, rope_parameters=rope(rope_theta=1000.0),
            pad_token_id=281, notes="layer 2 is without rotary embedding")
modern_cell("smollm3/model-no-rope-layers", decoder(16, 3, 2, 1, 28), no_rope_layers=[1, 0, 1], use_sliding_window=True, sliding_window=5,
            pad_token_id=281, config_json=written_by_4(rope_theta=1000.0, layer_types=None), attention_bias=True, mlp_bias=True,
            notes="no layer_types in config.json: layer 1, without rotary embedding, slides; biases")
modern_cell("smollm3/for-causal-lm", decoder(20, 3, 2, 1, 30), no_rope_layer_interval=2, pad_token_id=281,
            config_json=written_by_4(rope_theta=500.0, no_rope_layers=None),
            notes="tied, the default; no no_rope_layers in config.json: layer 1 is without rotary embedding")
modern_cell("smollm3/for-causal-lm-untied", decoder(16, 2, 4, 1, 28), no_rope_layers=[0, 1], tie_word_embeddings=False, pad_token_id=281,
            notes="lm_head of its own; rope_theta 2,000,000, the default")
modern_cell("smollm3/for-sequence-classification", decoder(16, 2, 4, 2, 28), no_rope_layers=[0, 1], labels=EMOTIONS, pad_token_id=281)
modern_cell("smollm3/for-question-answering", decoder(16, 2, 2, 1, 24), no_rope_layers=[1, 0], pad_token_id=281)
modern_cell("smollm3/for-token-classification", decoder(20, 2, 2, 2, 24), no_rope_layers=[1, 0], labels=TAGS, pad_token_id=281)

# ----------------------------------------------------------------------------------- phi3
PHI = dict(pad_token_id=0, original_max_position_embeddings=64)
modern_cell("phi3/model", decoder(32, 2, 4, 2, 36), **PHI, sliding_window=6, notes="a window of 6; three quarters of a head turn",
            rope_parameters=rope(rope_theta=1000.0, partial_rotary_factor=0.75))
modern_cell("phi3/model-longrope", decoder(32, 2, 4, 2, 36, max_position_embeddings=40), pad_token_id=0, original_max_position_embeddings=10,
            config_json=written_by_4(rope_theta=1000.0, partial_rotary_factor=1.0, rope_scaling={"type": "longrope", **LONG}),
            notes="rows above 10 tokens have long_factor; attention factor from the ratio of both maxima")
modern_cell("phi3/model-su", decoder(32, 1, 2, 1, 28, max_position_embeddings=40), pad_token_id=0, original_max_position_embeddings=12,
            config_json=written_by_4(rope_theta=1000.0, partial_rotary_factor=0.75, rope_scaling={
                "type": "su", "original_max_position_embeddings": 12, **LONG_6}),
            notes="`su`, the name of 2024 for longrope; partial_rotary_factor 0.75")
modern_cell("phi3/for-causal-lm", decoder(24, 2, 4, 2, 30), **PHI, config_json=written_by_4(rope_theta=1000.0, rope_scaling=None),
            notes="lm_head of its own")
modern_cell("phi3/for-causal-lm-longrope", decoder(24, 2, 3, 1, 30, max_position_embeddings=48), pad_token_id=0,
            original_max_position_embeddings=12, tie_word_embeddings=True, rope_parameters=rope("longrope", rope_theta=1000.0, **LONG),
            notes="tied; continuations cross from short_factor to long_factor, where all keys are computed anew")
modern_cell("phi3/for-sequence-classification", decoder(16, 2, 2, 1, 28), **PHI, labels=EMOTIONS, sliding_window=5)
modern_cell("phi3/for-token-classification", decoder(20, 2, 2, 1, 24), **PHI, labels=TAGS)

# ---------------------------------------------------------------------------------- gemma
GEMMA = dict(embeddings=0.25)
modern_cell("gemma/model", decoder(16, 2, 2, 1, 32, head_dim=12), **GEMMA, rope_parameters=rope(rope_theta=1000.0),
            notes="embeddings times √hidden_size, norms with 1 + weight, head_dim 12")
modern_cell("gemma/model-bidirectional", decoder(20, 2, 4, 2, 28, head_dim=6), **GEMMA, use_bidirectional_attention=True, attention="sdpa",
            config_json=written_by_4(rope_theta=1000.0),
            notes="use_bidirectional_attention is true, which the library heeds with sdpa, its default, and a row without padding")
modern_cell("gemma/for-causal-lm", decoder(16, 2, 2, 1, 32, head_dim=10), **GEMMA,
            config_json=written_by_4(rope_theta=1000.0, hidden_act="gelu"), notes="tied; hidden_act gelu, read as gelu_pytorch_tanh")
modern_cell("gemma/for-causal-lm-untied", decoder(20, 2, 4, 1, 26, head_dim=8), **GEMMA, tie_word_embeddings=False, attention_bias=True)
modern_cell("gemma/for-sequence-classification", decoder(16, 2, 4, 2, 28, head_dim=6), **GEMMA, labels=EMOTIONS)
modern_cell("gemma/for-token-classification", decoder(20, 1, 2, 1, 24, head_dim=8), **GEMMA, labels=TAGS)
CAPS = dict(attn_logit_softcapping=2.0, final_logit_softcapping=3.0, query_pre_attn_scalar=10)
modern_cell("gemma2/model", decoder(16, 3, 2, 1, 32, head_dim=12), **GEMMA, **CAPS, sliding_window=5, rope_parameters=rope(rope_theta=1000.0),
            notes="scores times 1 / √10 and capped at 2; layers 0 and 2 slide; four norms a layer")
modern_cell("gemma2/model-not-causal", decoder(20, 2, 4, 2, 28, head_dim=6), **GEMMA, **CAPS, sliding_window=4, is_causal=False,
            config_json=written_by_4(rope_theta=1000.0, layer_types=None),
            notes="is_causal is false; no layer_types in config.json: layer 0 has a window, on both sides")
modern_cell("gemma2/for-causal-lm", decoder(16, 2, 2, 1, 32, head_dim=10), **GEMMA, **CAPS, sliding_window=6,
            config_json=written_by_4(rope_theta=1000.0, layer_types=None), notes="tied; logits capped at 3")
modern_cell("gemma2/for-causal-lm-uncapped", decoder(20, 2, 4, 2, 26, head_dim=8), **GEMMA, attn_logit_softcapping=None,
            final_logit_softcapping=None, query_pre_attn_scalar=8, sliding_window=4, layer_types=[FULL, SLIDING], notes="no cap")
modern_cell("gemma2/for-sequence-classification", decoder(16, 2, 4, 2, 28, head_dim=6), **GEMMA, **CAPS, sliding_window=7, labels=EMOTIONS,
            notes="final_logit_softcapping does not count")
modern_cell("gemma2/for-token-classification", decoder(20, 2, 2, 1, 24, head_dim=8), **GEMMA, **CAPS, sliding_window=5, labels=TAGS)
G3 = dict(query_pre_attn_scalar=10)
modern_cell("gemma3_text/model", decoder(16, 4, 2, 1, 32, head_dim=12), **GEMMA, **G3, sliding_window=5, saved_as="AutoModelForCausalLM",
            layer_types=[SLIDING, SLIDING, FULL, SLIDING], notes="theta of its own for each layer type; norms of q and k; keys with `model.`",
            rope_parameters={FULL: rope("linear", rope_theta=1000.0, factor=4.0), SLIDING: rope(rope_theta=100.0)})
modern_cell("gemma3_text/model-pattern", decoder(20, 3, 4, 2, 28, head_dim=6), **GEMMA, **G3, sliding_window=4,
            layer_types=[SLIDING, FULL, SLIDING], config_json=written_by_4(
                layer_types=None, sliding_window_pattern=2, rope_theta=1000.0, rope_local_base_freq=100.0,
                rope_scaling={"rope_type": "linear", "factor": 8.0}),
            notes="no layer_types: every second layer is full; rope_theta and rope_scaling of the full layers, rope_local_base_freq of the others")
modern_cell("gemma3_text/model-yarn", decoder(16, 2, 2, 1, 28, head_dim=16), **GEMMA, **G3, sliding_window=6, layer_types=[FULL, SLIDING],
            rope_parameters={FULL: rope("yarn", rope_theta=50.0, factor=4.0, beta_fast=2.0, beta_slow=0.5, truncate=False,
                                        original_max_position_embeddings=16), SLIDING: rope(rope_theta=100.0)},
            notes="yarn on the full layer, whose `truncate` is not read where rope_parameters are nested")
modern_cell("gemma3_text/model-bidirectional", decoder(16, 2, 4, 2, 28, head_dim=6), **GEMMA, **G3, layer_types=[SLIDING, FULL],
            use_bidirectional_attention=True, config_json=written_by_4(sliding_window=7),
            notes="use_bidirectional_attention with sliding_window 7: a sliding layer sees 3 tokens on each side; theta 1,000,000 and 10,000, "
                  "the defaults")
modern_cell("gemma3_text/for-causal-lm", decoder(16, 3, 2, 1, 32, head_dim=10), **GEMMA, **G3, sliding_window=5,
            layer_types=[SLIDING, SLIDING, FULL], rope_parameters={FULL: rope(rope_theta=1000.0), SLIDING: rope(rope_theta=100.0)},
            notes="tied, the default")
modern_cell("gemma3_text/for-causal-lm-capped", decoder(20, 2, 4, 2, 26, head_dim=8), **GEMMA, **CAPS, sliding_window=4,
            layer_types=[SLIDING, FULL], tie_word_embeddings=False, attention_bias=True,
            notes="logits capped at 3, scores not: the library does not read attn_logit_softcapping here; lm_head of its own; biases")
modern_cell("gemma3_text/for-sequence-classification", decoder(16, 2, 4, 2, 28, head_dim=6), **GEMMA, **G3, sliding_window=7,
            layer_types=[FULL, SLIDING], labels=EMOTIONS)

# ------------------------------------------------------------------------------ modernbert
modern_cell("modernbert/model", encoder(24, 4, 4, 30), local_attention=6, layer_types=[FULL, SLIDING, FULL, SLIDING],
            config_json=written_by_4(layer_types=None, global_attn_every_n_layers=2, global_rope_theta=1000.0, local_rope_theta=100.0),
            notes="layer 0 has no norm before attention; every second layer sees 3 tokens on each side")
modern_cell("modernbert/model-biases", encoder(20, 3, 2, 26), local_attention=9, layer_types=[SLIDING, FULL, SLIDING], norm_bias=True,
            attention_bias=True, mlp_bias=True, hidden_activation="silu", norm_eps=1e-3, saved_as="AutoModelForMaskedLM",
            rope_parameters={FULL: rope(rope_theta=1000.0), SLIDING: rope(rope_theta=100.0)},
            notes="biases everywhere; local_attention 9: 4 tokens on each side; keys with `model.`, head unused")
modern_cell("modernbert/model-defaults", encoder(16, 4, 2, 24), config_json=written_by_4(layer_types=None, local_attention=None),
            notes="layers 0 and 3 are full, theta 160,000 and 10,000, local_attention 128: the defaults")
modern_cell("modernbert/for-masked-lm", encoder(20, 2, 2, 28), local_attention=8, layer_types=[FULL, SLIDING], classifier_bias=True,
            notes="tied, decoder.bias of its own")
modern_cell("modernbert/for-masked-lm-two-tables", encoder(16, 1, 2, 24), local_attention=8, layer_types=[FULL],
            edit=lambda weights: {**weights, "decoder.weight": 0.8 * weights["model.embeddings.tok_embeddings.weight"].flip(1)},
            notes="tie_word_embeddings is true, the default, but the decoder has numbers of its own: they are not tied")
modern_cell("modernbert/for-masked-lm-untied", encoder(16, 2, 4, 24), local_attention=4, layer_types=[SLIDING, FULL], decoder_bias=False,
            tie_word_embeddings=False, classifier_activation="relu")
modern_cell("modernbert/for-sequence-classification", encoder(16, 2, 4, 28), local_attention=6, layer_types=[FULL, SLIDING], labels=EMOTIONS,
            notes="classifier_pooling cls, the default")
modern_cell("modernbert/for-sequence-classification-mean", encoder(20, 2, 2, 26), local_attention=6, layer_types=[FULL, SLIDING], num_labels=1,
            kind="pairs", classifier_pooling="mean", notes="classifier_pooling mean; one label, as rerankers have it")
modern_cell("modernbert/for-token-classification", encoder(16, 2, 2, 30), local_attention=6, layer_types=[FULL, SLIDING], labels=TAGS)
modern_cell("modernbert/for-question-answering", encoder(16, 3, 4, 26), local_attention=8, layer_types=[FULL, SLIDING, SLIDING])
modern_cell("modernbert/for-multiple-choice", encoder(24, 2, 4, 28), local_attention=6, layer_types=[SLIDING, FULL])
modern_cell("modernbert/for-multiple-choice-mean", encoder(16, 2, 2, 24), local_attention=6, layer_types=[FULL, SLIDING],
            classifier_pooling="mean")

# ----------------------------------------------------------------------- nomic_bert and gte
HUB_NAMES = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_inner": "intermediate_size",
             "n_positions": "max_position_embeddings", "layer_norm_epsilon": "layer_norm_eps"}


def nomic_of_the_hub(folder):
    """As nomic-ai/nomic-embed-text-v1: the names of GPT-2, and the remote code's class."""
    def change(config):
        old = {name: config.pop(own) for name, own in HUB_NAMES.items()}
        config.pop("hidden_act")
        rope_parameters = config.pop("rope_parameters")
        return {**config, **old, "activation_function": "swiglu", "rotary_emb_base": rope_parameters["rope_theta"],
                "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "rotary_scaling_factor": None,
                "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False, "prenorm": False, "use_rms_norm": False,
                "causal": False, "parallel_block": False, "architectures": ["NomicBertModel"],
                "auto_map": {"AutoConfig": "nomic-ai/nomic-bert-2048--configuration_hf_nomic_bert.NomicBertConfig",
                             "AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"}}
    rewrite(folder, "config.json", change)


def gte_of_the_hub(architecture, **old):
    """As Alibaba-NLP/gte-multilingual-base: model_type `new`, tensors with `new.` where there is a head."""
    def after(folder):
        def change(config):
            config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
            return {**config, "model_type": "new", "architectures": [architecture], "layer_norm_type": "layer_norm", "pack_qkv": True,
                    "unpad_inputs": False, "use_memory_efficient_attention": False, "logn_attention_scale": False,
                    "logn_attention_clip1": False, "position_embedding_type": "rope", "rope_scaling": None,
                    "auto_map": {"AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig",
                                 "AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel"}, **old}
        rewrite(folder, "config.json", change)
        edit_weights(folder, lambda weights: {key.replace("gte.", "new.", 1) if key.startswith("gte.") else key: value
                                              for key, value in weights.items()})
    return after


REMOTE = "computed before config.json was rewritten into the names of the remote code, which the library does not run"
modern_cell("nomic_bert/model", encoder(24, 2, 4, 32), notes="post-norm, gated silu, theta 1,000, the default")
modern_cell("nomic_bert/model-hub", encoder(20, 2, 2, 28), after=nomic_of_the_hub, rope_parameters=rope(rope_theta=500.0), notes=REMOTE)
modern_cell("nomic_bert/model-linear", encoder(16, 1, 2, 24, type_vocab_size=3), layer_norm_eps=1e-5,
            config_json=written_by_4(rope_theta=500.0, rope_scaling={"type": "linear", "factor": 2.0}))
modern_cell("nomic_bert/for-masked-lm", encoder(20, 2, 2, 28), rope_parameters=rope(rope_theta=500.0), notes="tied")
modern_cell("nomic_bert/for-sequence-classification", encoder(16, 2, 4, 28), labels=EMOTIONS, notes="a pooler in front of the classifier")
modern_cell("nomic_bert/for-token-classification", encoder(16, 2, 2, 26), labels=TAGS, hidden_act="gelu")
modern_cell("gte/model", encoder(24, 2, 4, 32), rope_parameters=rope(rope_theta=1000.0), notes="post-norm, gated gelu, one segment")
modern_cell("gte/model-no-segments", encoder(16, 2, 2, 28, type_vocab_size=0), layer_norm_eps=1e-5,
            config_json=written_by_4(rope_theta=1000.0), notes="type_vocab_size 0: no table of segments")
modern_cell("gte/model-new", encoder(20, 2, 2, 28), rope_parameters=rope(rope_theta=1000.0), after=gte_of_the_hub("NewModel"), notes=REMOTE)
modern_cell("gte/model-new-ntk", encoder(16, 2, 2, 28), rope_parameters=rope("linear", rope_theta=2000.0, factor=2 ** (2 / 8)),
            after=gte_of_the_hub("NewModel", rope_theta=1000.0, rope_scaling={"type": "ntk", "factor": 2.0}),
            notes=f"{REMOTE}; its rope type ntk of factor f is linear of factor f ** (2 / head_dim) with f times the theta")
modern_cell("gte/for-masked-lm", encoder(20, 2, 2, 28), notes="tied; theta 160,000, the default")
modern_cell("gte/for-sequence-classification", encoder(16, 2, 4, 28), num_labels=1, kind="pairs",
            notes="a pooler in front of the classifier; one label, as rerankers have it")
modern_cell("gte/for-sequence-classification-new", encoder(16, 2, 2, 26), labels=EMOTIONS, rope_parameters=rope(rope_theta=1000.0),
            after=gte_of_the_hub("NewForSequenceClassification"), notes=REMOTE)
modern_cell("gte/for-token-classification", encoder(16, 2, 2, 26), labels=TAGS)

# --------------------------------------------------------------------------------- eurobert
modern_cell("eurobert/model", decoder(24, 2, 4, 2, 32, head_dim=8), rope_parameters=rope(rope_theta=1000.0),
            notes="llama's blocks; every token sees all others")
modern_cell("eurobert/model-biases", decoder(16, 2, 2, 1, 28), attention_bias=True, mlp_bias=True, saved_as="AutoModelForMaskedLM",
            config_json=written_by_4(rope_theta=1000.0, rope_scaling={"rope_type": "llama3", **LLAMA3}),
            notes="biases; rope_scaling llama3; keys with `model.`, lm_head unused")
modern_cell("eurobert/for-masked-lm", decoder(20, 2, 2, 1, 28), rope_parameters=rope(rope_theta=500.0), notes="lm_head of its own")
modern_cell("eurobert/for-masked-lm-tied", decoder(16, 2, 4, 2, 24), tie_word_embeddings=True, mlp_bias=True,
            notes="tied, with a bias, which mlp_bias adds")
modern_cell("eurobert/for-sequence-classification", decoder(16, 2, 4, 2, 28), labels=EMOTIONS, spread=3,
            notes="classifier_pooling late, the default: the mean of the tokens' logits")
modern_cell("eurobert/for-sequence-classification-bos", decoder(20, 2, 2, 1, 26), labels=NLI, kind="pairs", classifier_pooling="bos")
modern_cell("eurobert/for-sequence-classification-mean", decoder(16, 1, 2, 1, 26), num_labels=1, kind="pairs", classifier_pooling="mean")
modern_cell("eurobert/for-token-classification", decoder(16, 2, 4, 2, 24), labels=TAGS)
