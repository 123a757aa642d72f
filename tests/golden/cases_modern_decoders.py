"""The cells of `modern/` of the decoders that arrange their layers in other ways than Llama, and of mixtures of experts."""
from cases_modern import EMOTIONS, TAGS, decoder, rope
from modern import modern_cell, written_by_4


def gpt2_names(hidden, layers, heads, intermediate, **more):
    return dict(n_embd=hidden, n_layer=layers, n_head=heads, n_inner=intermediate, n_positions=64, **more)


# ------------------------------------------------------------------------------------ phi
modern_cell("phi/model", decoder(24, 2, 3, 3, 40), notes="attention and feed-forward network side by side; half of a head's features turn")
modern_cell("phi/model-norms", decoder(16, 2, 2, 1, 28), qk_layernorm=True, saved_as="AutoModelForCausalLM",
            config_json=written_by_4(rope_theta=100.0, partial_rotary_factor=0.75, rope_scaling={"type": "linear", "factor": 2.0}),
            notes="norms of queries and keys; one head of keys; six of eight features turn")
modern_cell("phi/for-causal-lm", decoder(16, 2, 2, 2, 28), notes="lm_head with a bias")
modern_cell("phi/for-sequence-classification", decoder(16, 2, 2, 2, 24), labels=EMOTIONS)
modern_cell("phi/for-token-classification", decoder(16, 1, 2, 2, 24), labels=TAGS)

# ---------------------------------------------------------------------------------- olmo2
modern_cell("olmo2/model", decoder(24, 2, 4, 2, 40), notes="norms only after each part; norms of all queries and of all keys")
modern_cell("olmo2/for-causal-lm", decoder(16, 2, 2, 1, 28), attention_bias=True, rope_parameters=rope(rope_theta=500.0))
modern_cell("olmo2/for-sequence-classification", decoder(16, 2, 2, 2, 24), labels=EMOTIONS)

# -------------------------------------------------------------------------------- granite
modern_cell("granite/model", decoder(24, 2, 4, 2, 40), embedding_multiplier=3.0, residual_multiplier=0.4, attention_multiplier=0.3, attention_bias=True, mlp_bias=True)
modern_cell("granite/for-causal-lm", decoder(16, 2, 2, 1, 28), embedding_multiplier=4.0, residual_multiplier=0.6, attention_multiplier=0.4, logits_scaling=0.5,
            tie_word_embeddings=True)

# ------------------------------------------------------------------------------- stablelm
modern_cell("stablelm/model", decoder(32, 2, 4, 2, 40), use_qkv_bias=True, notes="a quarter of a head's features turn")
modern_cell("stablelm/model-parallel", decoder(32, 2, 2, 2, 28), use_parallel_residual=True, qk_layernorm=True,
            config_json=written_by_4(rope_theta=500.0, partial_rotary_factor=0.5), notes="a norm of its own for each head; one norm for both parts")
modern_cell("stablelm/for-causal-lm", decoder(16, 2, 2, 2, 28))
modern_cell("stablelm/for-sequence-classification", decoder(16, 2, 2, 1, 24), labels=EMOTIONS)
modern_cell("stablelm/for-token-classification", decoder(16, 1, 2, 2, 24), labels=TAGS)

# ------------------------------------------------------------------------------ starcoder2
modern_cell("starcoder2/model", decoder(24, 2, 4, 2, 40), sliding_window=5)
modern_cell("starcoder2/for-causal-lm", decoder(16, 2, 2, 1, 28), notes="tied")
modern_cell("starcoder2/for-causal-lm-window", decoder(16, 2, 2, 2, 24), sliding_window=6, use_bias=False, norm_epsilon=1e-3, tie_word_embeddings=False)
modern_cell("starcoder2/for-sequence-classification", decoder(16, 2, 2, 1, 24), labels=EMOTIONS)
modern_cell("starcoder2/for-token-classification", decoder(16, 1, 2, 1, 24), labels=TAGS)

# -------------------------------------------------------------------------------- gpt_neox
def neox(hidden, layers, heads, intermediate, **more):
    return dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=intermediate, max_position_embeddings=64, **more)


def neox_of_the_hub(config):
    """As EleutherAI/pythia: rotary_pct and rotary_emb_base."""
    rope_parameters = config.pop("rope_parameters")
    return {**config, "rotary_pct": rope_parameters["partial_rotary_factor"], "rotary_emb_base": rope_parameters["rope_theta"], "torch_dtype": config.pop("dtype")}


modern_cell("gpt_neox/model", neox(24, 2, 3, 40), notes="queries, keys and values head by head; attention and feed-forward network side by side, each with a norm")
modern_cell("gpt_neox/model-sequential", neox(32, 2, 2, 28), use_parallel_residual=False, attention_bias=False, hidden_act="relu",
            rope_parameters=rope(rope_theta=100.0, partial_rotary_factor=0.5), config_json=neox_of_the_hub)
modern_cell("gpt_neox/model-dynamic", {**neox(16, 1, 2, 24), "max_position_embeddings": 12},
            rope_parameters=rope("dynamic", rope_theta=100.0, factor=2.0, partial_rotary_factor=1.0),
            notes="heads of eight features that all turn: a quarter of them is too small for `dynamic`")
modern_cell("gpt_neox/for-causal-lm", neox(16, 2, 2, 28), notes="embed_out")
modern_cell("gpt_neox/for-sequence-classification", neox(16, 2, 2, 24), labels=EMOTIONS)
modern_cell("gpt_neox/for-question-answering", neox(16, 2, 2, 24))
modern_cell("gpt_neox/for-token-classification", neox(16, 1, 2, 24), labels=TAGS)

# ------------------------------------------------------------------------------------ gptj
modern_cell("gptj/model", gpt2_names(24, 2, 3, 40), rotary_dim=4, notes="four features of a head turn, in neighbouring pairs")
modern_cell("gptj/for-causal-lm", gpt2_names(20, 2, 2, None), rotary_dim=6, notes="n_inner is null; lm_head with a bias")
modern_cell("gptj/for-sequence-classification", gpt2_names(16, 2, 2, 24), rotary_dim=8, labels=EMOTIONS)
modern_cell("gptj/for-question-answering", gpt2_names(16, 1, 2, 24), rotary_dim=4)


# --------------------------------------------------------------------------------- gpt_neo
def neo(hidden, layers, heads, intermediate, **more):
    return dict(hidden_size=hidden, num_layers=layers, num_heads=heads, intermediate_size=intermediate, max_position_embeddings=64, **more)


MIXED = dict(attention_types=[[["global", "local"], 1]], window_size=5)
modern_cell("gpt_neo/model", neo(24, 3, 4, 40), attention_types=[[["global", "local"], 1], [["local"], 1]], window_size=4, notes="scores are not scaled")
modern_cell("gpt_neo/for-causal-lm", neo(16, 2, 2, None), **MIXED, notes="tied; intermediate_size is null")
modern_cell("gpt_neo/for-sequence-classification", neo(16, 2, 2, 24), **MIXED, labels=EMOTIONS)
modern_cell("gpt_neo/for-question-answering", neo(16, 2, 2, 24), **MIXED)
modern_cell("gpt_neo/for-token-classification", neo(16, 2, 2, 24), **MIXED, labels=TAGS)


# ---------------------------------------------------------------------------------- falcon
def falcon(hidden, layers, heads, intermediate, **more):
    return dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, ffn_hidden_size=intermediate, max_position_embeddings=64, **more)


NEW = dict(new_decoder_architecture=True)
modern_cell("falcon/model", falcon(24, 2, 3, 40), notes="as falcon-7b: one head of keys; one norm for attention and feed-forward network side by side")
modern_cell("falcon/model-new", falcon(24, 2, 6, 40), **NEW, num_kv_heads=2, bias=True, notes="as falcon-40b: heads in groups, two norms")
modern_cell("falcon/model-one-norm", falcon(16, 2, 4, 28), **NEW, num_kv_heads=2, num_ln_in_parallel_attn=1, notes="as falcon-11b")
modern_cell("falcon/model-alibi", falcon(24, 2, 3, 40), alibi=True, multi_query=False, parallel_attn=False, bias=True, attention="sdpa",
            notes="as falcon-rw: linear biases, queries, keys and values head by head; with sdpa, the library's default: eager adds the biases twice")
modern_cell("falcon/for-causal-lm", falcon(16, 2, 2, 28), notes="tied")
modern_cell("falcon/for-causal-lm-alibi", falcon(16, 2, 4, 28), alibi=True, multi_query=False, parallel_attn=False, tie_word_embeddings=False, attention="sdpa")
modern_cell("falcon/for-sequence-classification", falcon(16, 2, 2, 24), labels=EMOTIONS)
modern_cell("falcon/for-question-answering", falcon(16, 2, 2, 24), **NEW, num_kv_heads=1)
modern_cell("falcon/for-token-classification", falcon(16, 1, 2, 24), labels=TAGS)


# ----------------------------------------------------------------------------------- bloom
def bloom(hidden, layers, heads, **more):
    return dict(hidden_size=hidden, n_layer=layers, n_head=heads, **more)


modern_cell("bloom/model", bloom(24, 2, 3), notes="a norm of the embeddings; linear biases for a number of heads that is no power of two")
modern_cell("bloom/model-after-norms", bloom(16, 2, 4), apply_residual_connection_post_layernorm=True)
modern_cell("bloom/for-causal-lm", bloom(16, 2, 2), notes="tied")
modern_cell("bloom/for-sequence-classification", bloom(16, 2, 2), labels=EMOTIONS)
modern_cell("bloom/for-question-answering", bloom(16, 2, 4))
modern_cell("bloom/for-token-classification", bloom(16, 1, 2), labels=TAGS)


# ------------------------------------------------------------------------------------- opt
def opt(hidden, layers, heads, intermediate, **more):
    return dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, ffn_dim=intermediate, max_position_embeddings=64,
                **{"word_embed_proj_dim": hidden, **more})


modern_cell("opt/model", opt(24, 2, 3, 40), notes="positions from row 2 of their table on")
modern_cell("opt/model-no-weights", opt(16, 2, 2, 28), layer_norm_elementwise_affine=False, enable_bias=False, activation_function="gelu")
modern_cell("opt/for-causal-lm", opt(16, 2, 2, 28), notes="tied")
modern_cell("opt/for-causal-lm-350m", opt(16, 2, 2, 28, word_embed_proj_dim=12), do_layer_norm_before=False,
            notes="as opt-350m: norms after the sums, none at the end; embeddings of another size")
modern_cell("opt/for-sequence-classification", opt(16, 2, 2, 24), labels=EMOTIONS)
modern_cell("opt/for-question-answering", opt(16, 2, 4, 24))

# ------------------------------------------------------------------ mixtures of experts
EXPERTS = dict(num_local_experts=4, num_experts_per_tok=2)
modern_cell("mixtral/model", decoder(24, 2, 4, 2, 20), **EXPERTS, sliding_window=6)
modern_cell("mixtral/for-causal-lm", decoder(16, 2, 2, 1, 16), **EXPERTS, rope_parameters=rope(rope_theta=500.0))
modern_cell("mixtral/for-sequence-classification", decoder(16, 2, 2, 1, 16), **EXPERTS, labels=EMOTIONS)
modern_cell("mixtral/for-question-answering", decoder(16, 1, 2, 2, 16), **EXPERTS)
modern_cell("mixtral/for-token-classification", decoder(16, 1, 2, 1, 16), **{**EXPERTS, "num_experts_per_tok": 1}, labels=TAGS)
MANY = dict(num_experts=6, num_experts_per_tok=3, moe_intermediate_size=12)
modern_cell("qwen3_moe/model", decoder(24, 3, 4, 2, 40, head_dim=8), **MANY, norm_topk_prob=True, mlp_only_layers=[1], notes="layer 1 has no experts")
modern_cell("qwen3_moe/for-causal-lm", decoder(16, 2, 2, 1, 28, head_dim=6), **MANY, decoder_sparse_step=2, notes="every second layer has experts; probabilities add up to less than 1")
modern_cell("qwen3_moe/for-sequence-classification", decoder(16, 2, 2, 1, 24), **MANY, norm_topk_prob=True, use_sliding_window=True, sliding_window=5, labels=EMOTIONS)
modern_cell("qwen3_moe/for-question-answering", decoder(16, 1, 2, 2, 24), **MANY, norm_topk_prob=True)
modern_cell("qwen3_moe/for-token-classification", decoder(16, 1, 2, 1, 24), **MANY, norm_topk_prob=True, labels=TAGS)
