"""The cells of `modern/` of the encoders without rotary embeddings: DeBERTa, ELECTRA, ALBERT, XLM-RoBERTa-XL.

Rows are longer than half of `position_buckets`, so that distances share buckets, and some than `max_relative_positions`, so that
they are cut off.
"""
from cases_modern import EMOTIONS, NLI, TAGS, encoder
from modern import modern_cell

# ------------------------------------------------------------------------------ DeBERTa v2 and v3
V3 = dict(relative_attention=True, position_buckets=8, max_relative_positions=-1, norm_rel_ebd="layer_norm", share_att_key=True,
          pos_att_type=["p2c", "c2p"], position_biased_input=False)


def as_on_the_hub(config):
    """pos_att_type as one text, and the settings that the library does not read."""
    return {**config, "pos_att_type": "p2c|c2p", "max_relative_positions": -1, "padding_idx": 0}


def unused_heads(weights):
    """The other tensors of Microsoft's checkpoints."""
    dense = weights["deberta.encoder.layer.0.output.dense.weight"][:, :16] if "deberta.encoder.layer.0.output.dense.weight" in weights else None
    return weights if dense is None else {**weights, "mask_predictions.dense.weight": dense}


modern_cell("deberta-v2/model", encoder(24, 2, 4, 36), **V3, config_json=as_on_the_hub,
            notes="v3: shared projections of positions, 8 buckets, no absolute positions; pos_att_type as one text")
modern_cell("deberta-v2/model-v2-xlarge", encoder(16, 3, 2, 28, max_position_embeddings=20), **{**V3, "position_buckets": 6}, conv_kernel_size=3, conv_act="gelu",
            notes="a convolution beside the first layer; rows longer than max_position_embeddings")
modern_cell("deberta-v2/model-own-projections", encoder(20, 2, 2, 28), **{**V3, "share_att_key": False, "position_buckets": -1, "max_relative_positions": 7,
            "norm_rel_ebd": "none", "position_biased_input": True}, type_vocab_size=2, hidden_act="gelu_new",
            notes="pos_key_proj and pos_query_proj, no buckets, distances cut off at 7, absolute positions and segments too")
modern_cell("deberta-v2/model-c2p", encoder(16, 2, 4, 24), **{**V3, "share_att_key": False, "pos_att_type": ["c2p"]}, embedding_size=10,
            notes="only c2p; embeddings of another size")
modern_cell("deberta-v2/model-p2c", encoder(16, 2, 2, 24), **{**V3, "pos_att_type": ["p2c"]}, notes="only p2c")
modern_cell("deberta-v2/model-absolute", encoder(16, 2, 2, 24), pos_att_type=["c2p", "p2c"],
            notes="relative_attention is false, the default: scores are still scaled for three terms")
modern_cell("deberta-v2/for-masked-lm", encoder(16, 2, 2, 28), **V3, embedding_size=12, notes="legacy: BERT's head; embeddings of another size")
modern_cell("deberta-v2/for-masked-lm-v3", encoder(16, 1, 4, 24), **V3, legacy=False, edit=unused_heads,
            notes="legacy is false: lm_predictions, with the word embeddings as its last product")
modern_cell("deberta-v2/for-sequence-classification", encoder(24, 2, 4, 30), **V3, labels=NLI, kind="pairs", notes="pairs, as for zero-shot classification")
modern_cell("deberta-v2/for-sequence-classification-tanh", encoder(16, 1, 2, 24), **V3, num_labels=1, pooler_hidden_act="tanh")
modern_cell("deberta-v2/for-question-answering", encoder(16, 2, 4, 28), **V3)
modern_cell("deberta-v2/for-token-classification", encoder(20, 2, 2, 32), **V3, labels=TAGS)
modern_cell("deberta-v2/for-multiple-choice", encoder(16, 2, 4, 24), **V3, spread=4)

# ---------------------------------------------------------------------------------- DeBERTa v1
V1 = dict(relative_attention=True, max_relative_positions=-1, pos_att_type=["c2p", "p2c"], position_biased_input=False)
modern_cell("deberta/model", encoder(24, 2, 4, 36), **V1, notes="one projection of queries, keys and values; a vector for each distance")
modern_cell("deberta/model-short", encoder(16, 2, 2, 28), **{**V1, "max_relative_positions": 6, "position_biased_input": True}, type_vocab_size=2,
            notes="distances cut off at 6; absolute positions and segments")
modern_cell("deberta/for-masked-lm", encoder(16, 2, 2, 24), **V1)
modern_cell("deberta/for-sequence-classification", encoder(16, 2, 4, 28), **V1, labels=NLI, kind="pairs")
modern_cell("deberta/for-question-answering", encoder(16, 1, 4, 24), **V1)
modern_cell("deberta/for-token-classification", encoder(20, 2, 2, 28), **V1, labels=TAGS)

# ------------------------------------------------------------------------------------- ELECTRA
modern_cell("electra/model", encoder(24, 2, 4, 36), embedding_size=16, notes="embeddings_project")
modern_cell("electra/model-discriminator", encoder(16, 2, 2, 24), embedding_size=16, hidden_act="relu", saved_as="AutoModelForPreTraining",
            notes="embeddings of the same size; a discriminator's head, unused")
modern_cell("electra/for-causal-lm", encoder(16, 2, 2, 28), embedding_size=12, is_decoder=True, notes="a generator as a decoder")
modern_cell("electra/for-masked-lm", encoder(16, 2, 4, 24), embedding_size=20, hidden_act="relu", notes="a generator: gelu in the head whatever hidden_act")
modern_cell("electra/for-sequence-classification", encoder(16, 2, 2, 28), embedding_size=12, labels=EMOTIONS)
modern_cell("electra/for-question-answering", encoder(16, 2, 4, 28), embedding_size=16)
modern_cell("electra/for-token-classification", encoder(20, 1, 2, 28), embedding_size=12, labels=TAGS)
modern_cell("electra/for-multiple-choice", encoder(16, 2, 2, 24), embedding_size=12, spread=4)

# -------------------------------------------------------------------------------------- ALBERT
modern_cell("albert/model", encoder(24, 3, 4, 36), embedding_size=14, notes="three layers with the same weights")
modern_cell("albert/model-groups", encoder(16, 5, 2, 24), embedding_size=10, num_hidden_groups=2, inner_group_num=2, hidden_act="gelu",
            notes="two groups of two layers: five layers run 0, 0, 0, 1, 1")
modern_cell("albert/for-masked-lm", encoder(16, 2, 2, 28), embedding_size=12)
modern_cell("albert/for-sequence-classification", encoder(16, 2, 4, 28), embedding_size=12, labels=EMOTIONS, spread=3)
modern_cell("albert/for-question-answering", encoder(20, 2, 2, 28), embedding_size=12)
modern_cell("albert/for-token-classification", encoder(16, 2, 2, 24), embedding_size=16, labels=TAGS)
modern_cell("albert/for-multiple-choice", encoder(16, 2, 4, 24), embedding_size=12, spread=4)

# ------------------------------------------------------------------------------ XLM-RoBERTa-XL
modern_cell("xlm-roberta-xl/model", encoder(24, 2, 4, 36), notes="norms before each part and after the last layer")
modern_cell("xlm-roberta-xl/for-causal-lm", encoder(16, 2, 2, 28), is_decoder=True)
modern_cell("xlm-roberta-xl/for-masked-lm", encoder(16, 2, 2, 24))
modern_cell("xlm-roberta-xl/for-masked-lm-untied", encoder(16, 1, 2, 24), tie_word_embeddings=False,
            notes="untied: lm_head.decoder has a bias of its own beside lm_head.bias, and it counts")
modern_cell("xlm-roberta-xl/for-sequence-classification", encoder(16, 2, 4, 28), labels=EMOTIONS, spread=3)
modern_cell("xlm-roberta-xl/for-question-answering", encoder(16, 1, 4, 24))
modern_cell("xlm-roberta-xl/for-token-classification", encoder(20, 2, 2, 28), labels=TAGS)
modern_cell("xlm-roberta-xl/for-multiple-choice", encoder(16, 2, 2, 24), spread=4)
