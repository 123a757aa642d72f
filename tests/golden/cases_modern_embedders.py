"""The cells of `modern/` of encoders that are made for embeddings: JinaBERT (jina-embeddings-v2), Jina Embeddings v3 and
EmbeddingGemma 2.

Windows are shorter than the rows, heads of keys fewer than those of queries, heads of another size than hidden size / heads.
"""
import torch

from cases_modern import FULL, NLI, SLIDING, TAGS, encoder, rope
from heads import edit_weights
from modern import modern_cell
from tools import rewrite

# ------------------------------------------------------------------------- JinaBERT (jina-embeddings-v2)
REFERENCE = "computed by the code that jina_bert.py downloads: no library has the class"


def jina_v2_of_the_hub(code):
    """As jinaai/jina-embeddings-v2-*: model_type `bert`, ALiBi and the remote code in config.json."""
    def after(folder):
        def change(config):
            for key in ("qk_post_norm", "alibi_scaling", "embedding_model"):
                config.pop(key)
            return {**config, "model_type": "bert", "architectures": ["JinaBertForMaskedLM"], "position_embedding_type": "alibi",
                    "emb_pooler": "mean", "attn_implementation": "torch", "auto_map": {
                        "AutoConfig": f"jinaai/{code}--configuration_bert.JinaBertConfig",
                        "AutoModel": f"jinaai/{code}--modeling_bert.JinaBertModel"}}
        rewrite(folder, "config.json", change)
    return after


ENGLISH, CODE = jina_v2_of_the_hub("jina-bert-implementation"), jina_v2_of_the_hub("jina-bert-v2-qk-post-norm")
modern_cell("jina_bert_v2/model", encoder(24, 2, 3, 36), after=ENGLISH, notes=f"{REFERENCE}; 3 heads: slopes between powers of two")
modern_cell("jina_bert_v2/model-reglu", encoder(16, 2, 4, 28), feed_forward_type="reglu", layer_norm_eps=1e-5, after=ENGLISH,
            notes=REFERENCE)
modern_cell("jina_bert_v2/model-qk-post-norm", encoder(24, 3, 6, 32), qk_post_norm=True, layer_norm_eps=1e-5, after=CODE, attention="sdpa",
            notes=f"{REFERENCE}; norms of queries and keys over all heads, two norms after attention, the gate in the second half")
modern_cell("jina_bert_v2/for-masked-lm", encoder(16, 2, 2, 28), after=ENGLISH, notes=f"{REFERENCE}; tied")
modern_cell("jina_bert_v2/for-sequence-classification", encoder(16, 2, 4, 28), num_labels=1, kind="pairs", qk_post_norm=True, after=CODE,
            attention="sdpa", spread=3, notes=f"{REFERENCE}; one label, as rerankers have it")
modern_cell("jina_bert_v2/for-question-answering", encoder(16, 2, 2, 24), after=ENGLISH, notes=REFERENCE)
modern_cell("jina_bert_v2/for-token-classification", encoder(20, 2, 2, 28), labels=TAGS, after=ENGLISH, notes=REFERENCE)
modern_cell("jina_bert_v2/for-multiple-choice", encoder(16, 2, 4, 24), spread=4, after=ENGLISH, notes=REFERENCE)


# ----------------------------------------------------------------------------------- Jina Embeddings v3
def jina_v3_of_the_hub(folder):
    """As jinaai/jina-embeddings-v3 without its adapters: model_type `xlm-roberta`, rotary embeddings and the remote code in config.json."""
    def change(config):
        theta = config.pop("rope_parameters")["rope_theta"]
        return {**config, "model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], "position_embedding_type": "rotary",
                "rotary_emb_base": theta, "emb_pooler": None, "use_flash_attn": True, "use_reentrant": False, "auto_map": {
                    "AutoConfig": "jinaai/xlm-roberta-flash-implementation--configuration_xlm_roberta.XLMRobertaFlashConfig",
                    "AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_xlm_roberta.XLMRobertaModel"}}
    rewrite(folder, "config.json", change)


V3 = dict(type_vocab_size=1)
modern_cell("jina_embeddings_v3/model", encoder(24, 2, 4, 36), **V3, rope_parameters=rope(rope_theta=500.0), notes="post-norm, rotary, gelu")
modern_cell("jina_embeddings_v3/model-hub", encoder(20, 2, 2, 28), **V3, rope_parameters=rope(rope_theta=1000.0), after=jina_v3_of_the_hub,
            notes="computed before config.json was rewritten into that of the remote code, which the library does not run")
modern_cell("jina_embeddings_v3/model-head-dim", encoder(16, 2, 3, 24, type_vocab_size=2, head_dim=12), hidden_act="gelu_new",
            layer_norm_eps=1e-12, rope_parameters=rope("linear", rope_theta=1000.0, factor=2.5),
            notes="3 heads of 12 with a hidden size of 16; two segments; linear scaling")
modern_cell("jina_embeddings_v3/for-masked-lm", encoder(20, 2, 2, 28), **V3, notes="tied; theta 20,000, the default")
modern_cell("jina_embeddings_v3/for-sequence-classification", encoder(16, 2, 4, 28), **V3, labels=NLI, kind="pairs", spread=3,
            rope_parameters=rope(rope_theta=500.0))
modern_cell("jina_embeddings_v3/for-question-answering", encoder(16, 1, 4, 24), **V3)
modern_cell("jina_embeddings_v3/for-token-classification", encoder(20, 2, 2, 28), **V3, labels=TAGS)


# --------------------------------------------------------------------------------------- EmbeddingGemma 2
def scalars(weights):
    """A scalar of its own for each layer, which the class makes 1. Queries are small, because scores are not divided by √head_dim,
    and so is what the parts of a layer add: norms of each part pass on rounding errors."""
    rng = torch.Generator().manual_seed(11)

    def one(key):
        if key.endswith("layer_scalar"):
            return 0.6 + 0.6 * torch.rand(1, generator=rng)
        if key.endswith("q_norm.weight"):
            return 0.4 * weights[key]
        return 0.3 * weights[key] if ".post_" in key else weights[key]
    return {key: one(key) for key in sorted(weights)}


def towers(folder):
    """Tensors of the other towers, which hub checkpoints have; image, video and audio tokens that occur in the rows."""
    def change(config):
        return {**config, "vision_config": {"model_type": "gemma4_vision", "hidden_size": 8}, "audio_config": {"model_type": "gemma4_audio"}}
    rewrite(folder, "config.json", change)
    edit_weights(folder, lambda weights: {**weights, **{f"{name}.weight": torch.ones(2, 3) for name in (
        "vision_tower.patch_embedder.input_proj", "embed_vision.embedding_projection", "audio_tower.output_proj",
        "embed_audio.embedding_projection")}})


def gemma2(hidden, layers, heads, kv_heads, intermediate, head_dim, **more):
    return dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
                intermediate_size=intermediate, head_dim=head_dim, **more)


EG2 = dict(embeddings=0.25, edit=scalars)
modern_cell("embedding_gemma2/model", gemma2(16, 4, 4, 2, 28, 6, hidden_size_per_layer_input=10, embedding_dim=16), **EG2, sliding_window=3,
            layer_types=[SLIDING, FULL, SLIDING, FULL], global_head_dim=10, after=towers,
            notes="full layers have heads of 10 and one head of keys, the others heads of 6 and two; a window of 3 tokens on either side; tensors of the other "
                  "towers are added after the computation")
modern_cell("embedding_gemma2/model-defaults", gemma2(20, 3, 2, 1, 24, 8, hidden_size_per_layer_input=6, embedding_dim=28), **EG2,
            sliding_window=4, sliding_window_pattern=2, global_head_dim=12, attention_bias=True, image_token_id=70, audio_token_id=71,
            video_token_id=72, rope_parameters={FULL: rope(rope_theta=500.0), SLIDING: rope("linear", rope_theta=50.0, factor=2.0)},
            notes="embeddings of another size than hidden states; biases of attention; layer types by pattern; tokens of images, audio and video count as padding")
modern_cell("embedding_gemma2_text/model", gemma2(12, 3, 4, 2, 20, 8, hidden_size_per_layer_input=8, embedding_dim=12), **EG2, sliding_window=2,
            per_layer_config={**{layer: {"num_key_value_heads": 4} for layer in (0, 1)}, 2: {"head_dim": 4}},
            notes="the text model alone; per_layer_config of its own: 4 heads of keys in the layers with a window, heads of 4 in the last, which is full")
