"""The cells of `heads/`: every model_type with each of its Auto classes, and variants of their checkpoints.

A line is one cell: its folder, the model's shape (hidden size, layers, heads, intermediate
size; for T5 also the head size), the vocabulary size, and special settings. heads.py
makes it. Shapes, activations and labels vary from one line to the next, so that nothing passes
because two numbers happen to be equal.
"""
import torch

from heads import edit_weights, text_cell
from tools import rewrite

EMOTIONS = ["anger", "joy", "sadness", "no emotion"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
NLI = ["contradiction", "entailment", "neutral"]
DECODER = {"is_decoder": True}


# ------------------------------------------------------------------------------------ BERT
def gamma_beta(folder):
    edit_weights(folder, lambda weights: {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v for k, v in weights.items()})


def fifty_labels(folder):
    """Like checkpoints of 2020: `num_labels` is 50, with two label names."""
    rewrite(folder, "config.json", lambda config: {
        **config, "num_labels": 50, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}})


def only_num_labels(folder):
    rewrite(folder, "config.json", lambda config: {
        **{k: v for k, v in config.items() if k not in ("id2label", "label2id")}, "num_labels": 7})


text_cell("bert/for-causal-lm", (16, 2, 2, 40), 190, **DECODER)
text_cell("bert/for-causal-lm-not-decoder", (16, 1, 4, 24), 185, hidden_act="relu",
          notes="is_decoder is false, so that every token sees all others")
text_cell("bert/for-masked-lm", (20, 2, 5, 36), 195, hidden_act="gelu_new")
text_cell("bert/for-masked-lm-gamma-beta", (16, 1, 2, 28), 186, edit=gamma_beta, layer_norm_eps=1e-5,
          notes="LayerNorm.gamma and LayerNorm.beta, as in the checkpoints of 2018")
text_cell("bert/for-masked-lm-untied", (16, 1, 2, 24), 187, tie_word_embeddings=False,
          notes="tie_word_embeddings is false: cls.predictions.decoder.weight counts")
text_cell("bert/for-masked-lm-relative-key", (16, 2, 2, 32), 189, position_embedding_type="relative_key",
          notes="position_embedding_type relative_key: a query meets the embedding of the distance to each key")
text_cell("bert/for-sequence-classification", (24, 2, 4, 40), 200, labels=EMOTIONS, type_vocab_size=3)
text_cell("bert/for-sequence-classification-nli", (16, 2, 4, 30), 196, labels=NLI, kind="pairs", notes="pairs, as for inference")
text_cell("bert/for-sequence-classification-regression", (18, 1, 3, 30), 191, num_labels=1, problem_type="regression", spread=20)
text_cell("bert/for-sequence-classification-bf16", (16, 2, 2, 32), 190, labels=EMOTIONS[:3], dtype=torch.bfloat16,
          notes="bf16 weights, widened to f32")
text_cell("bert/for-sequence-classification-50-labels", (16, 1, 2, 32), 184, num_labels=50, edit=fifty_labels, refused=True,
          load_options={"num_labels": 50},
          notes="num_labels 50 and 50 rows of weights, but id2label names 2: id2label wins, so that the library refuses the directory "
                "(`error`); the outputs are with from_pretrained(num_labels=50), whose labels are LABEL_0 to LABEL_49")
text_cell("bert/for-sequence-classification-num-labels", (16, 1, 2, 32), 183, num_labels=7, edit=only_num_labels,
          notes="num_labels 7 and no id2label: labels LABEL_0 to LABEL_6")
text_cell("bert/for-sequence-classification-relative-key-query", (16, 2, 4, 28), 185, labels=EMOTIONS,
          position_embedding_type="relative_key_query",
          notes="position_embedding_type relative_key_query: queries and keys meet the embedding of their distance")
text_cell("bert/for-question-answering", (16, 2, 4, 36), 197, hidden_act="silu")
text_cell("bert/for-question-answering-sharded", (16, 2, 2, 24), 190, save_options={"max_shard_size": "15KB"},
          notes="model.safetensors.index.json and its shards; the head is in another file than the embeddings")
text_cell("bert/for-token-classification", (20, 2, 4, 44), 193, labels=TAGS, without=["tokenizer.json"], notes="vocab.txt only")
text_cell("bert/for-multiple-choice", (16, 2, 2, 32), 192, type_vocab_size=2, layer_norm_eps=1e-6)
text_cell("bert/for-next-sentence-prediction", (16, 2, 4, 24), 194)


# ---------------------------------------------------------------- RoBERTa and relatives
def decoder_too(folder):
    edit_weights(folder, lambda weights: {
        **weights, "lm_head.decoder.bias": weights["lm_head.bias"],
        "lm_head.decoder.weight": weights["roberta.embeddings.word_embeddings.weight"]})


text_cell("roberta/for-causal-lm", (16, 2, 2, 30), 270, **DECODER)
text_cell("roberta/for-masked-lm", (20, 1, 4, 36), 280, hidden_act="gelu_fast", extra_rows=3)
text_cell("roberta/for-sequence-classification", (16, 2, 4, 40), 275, labels=["negative", "neutral", "positive"])
text_cell("roberta/for-sequence-classification-multi-label", (18, 1, 3, 32), 272, labels=EMOTIONS + ["fear", "surprise"],
          problem_type="multi_label_classification")
text_cell("roberta/for-sequence-classification-relative-key-query", (16, 2, 2, 24), 271, labels=NLI, kind="pairs",
          position_embedding_type="relative_key_query", notes="distances are of places in the row, from 0")
text_cell("roberta/for-question-answering", (16, 2, 2, 34), 285, without=["tokenizer.json"], notes="vocab.json and merges.txt only")
text_cell("roberta/for-token-classification", (16, 1, 4, 28), 276, labels=TAGS)
text_cell("roberta/for-token-classification-f16", (16, 2, 2, 28), 273, labels=TAGS[:3], dtype=torch.float16,
          notes="f16 weights, widened to f32")
text_cell("roberta/for-multiple-choice", (16, 2, 4, 24), 274, notes="with a pooler, unlike the other heads of RoBERTa")
text_cell("xlm-roberta/for-causal-lm", (16, 1, 4, 36), 180, **DECODER)
text_cell("xlm-roberta/for-masked-lm", (16, 2, 2, 30), 190, extra_rows=1)
text_cell("xlm-roberta/for-sequence-classification", (20, 1, 5, 32), 185, labels=["en", "fr", "de", "ar", "zh", "ja"])
text_cell("xlm-roberta/for-question-answering", (16, 2, 4, 28), 200, without=["tokenizer.json"], notes="sentencepiece.bpe.model only")
text_cell("xlm-roberta/for-token-classification", (16, 2, 2, 40), 195, labels=TAGS)
text_cell("xlm-roberta/for-multiple-choice", (18, 1, 3, 24), 182)
text_cell("camembert/for-causal-lm", (16, 2, 4, 24), 170, **DECODER)
text_cell("camembert/for-masked-lm", (16, 1, 2, 36), 180, edit=decoder_too,
          notes="the tied head is stored too: lm_head.decoder.weight and lm_head.decoder.bias")
text_cell("camembert/for-sequence-classification", (16, 2, 2, 28), 175, labels=["négatif", "positif"])
text_cell("camembert/for-question-answering", (20, 1, 2, 32), 172)
text_cell("camembert/for-token-classification", (16, 1, 4, 40), 176, labels=["O", "I-LOC", "I-PER"], hidden_act="gelu_new")
text_cell("camembert/for-multiple-choice", (16, 1, 2, 30), 174, type_vocab_size=2)

# --------------------------------------------------------------------- DistilBERT, MPNet
text_cell("distilbert/for-masked-lm", (16, 2, 4, 36), 190, activation="relu")
text_cell("distilbert/for-masked-lm-sinusoidal", (16, 1, 2, 32), 186, sinusoidal_pos_embds=True,
          notes="sinusoidal_pos_embds is true, yet the stored position embeddings count")
text_cell("distilbert/for-sequence-classification", (20, 2, 2, 30), 195, labels=["NEGATIVE", "POSITIVE"])
text_cell("distilbert/for-question-answering", (16, 1, 4, 40), 198)
text_cell("distilbert/for-token-classification", (16, 2, 2, 24), 187, labels=TAGS, without=["tokenizer.json"], notes="vocab.txt only")
text_cell("distilbert/for-multiple-choice", (18, 2, 3, 28), 189)
text_cell("mpnet/for-masked-lm", (16, 1, 4, 30), 190)
text_cell("mpnet/for-sequence-classification", (16, 2, 2, 36), 194, labels=EMOTIONS)
text_cell("mpnet/for-question-answering", (20, 1, 5, 28), 188)
text_cell("mpnet/for-token-classification", (16, 2, 4, 32), 192, labels=TAGS, hidden_act="relu")
text_cell("mpnet/for-multiple-choice", (16, 1, 2, 24), 186)


# ----------------------------------------------------------------------------------- GPT-2
EMPTY = "the tokenizer makes no token of an empty row, on which the library fails: there is no output for it"


def pre_2020(folder):
    """Keys without `transformer.`, including the mask of every layer."""
    def change(weights):
        weights = {k.removeprefix("transformer."): v for k, v in weights.items()}
        for layer in (0, 1):
            weights[f"h.{layer}.attn.bias"] = torch.ones(24, 24).tril()[None, None]
            weights[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
        return weights
    edit_weights(folder, change)


def pad_is_end(tokenizer, config):
    tokenizer.pad_token = tokenizer.eos_token
    config.pad_token_id = tokenizer.eos_token_id


text_cell("gpt2/model", (16, 2, 2, None), 270, notes=EMPTY)
text_cell("gpt2/model-inverse-layer", (16, 3, 4, 40), 265, scale_attn_by_inverse_layer_idx=True,
          notes=f"scale_attn_by_inverse_layer_idx; {EMPTY}")
text_cell("gpt2/for-causal-lm", (16, 2, 4, None), 275, notes=EMPTY)
text_cell("gpt2/for-causal-lm-relu", (21, 1, 3, 37), 266, activation_function="relu", layer_norm_epsilon=1e-3,
          without=["tokenizer.json"], notes=f"relu, n_inner 37, 3 heads of 7; vocab.json and merges.txt only; {EMPTY}")
text_cell("gpt2/for-causal-lm-pre-2020", (16, 2, 2, None), 268, edit=pre_2020,
          notes=f"keys without `transformer.`, with attn.bias and attn.masked_bias; {EMPTY}")
text_cell("gpt2/for-causal-lm-untied", (16, 1, 2, 24), 267, tie_word_embeddings=False, scale_attn_weights=False,
          notes=f"lm_head.weight of its own; scale_attn_weights is false; {EMPTY}")
text_cell("gpt2/for-sequence-classification", (20, 2, 2, None), 270, labels=EMOTIONS, prepare=pad_is_end, spread=3,
          notes=f"pad_token_id is that of <|endoftext|>: the last token that is another one counts; {EMPTY}")
text_cell("gpt2/for-sequence-classification-no-pad", (16, 1, 4, 32), 262, labels=NLI, kind="pairs",
          notes=f"no pad_token_id: the last token counts; {EMPTY}")
text_cell("gpt2/for-question-answering", (16, 2, 4, 30), 280, notes=EMPTY)
text_cell("gpt2/for-token-classification", (16, 1, 2, 44), 264, labels=TAGS, notes=EMPTY)


# -------------------------------------------------------------------------------------- T5
def all_names(folder):
    """Like t5-small: the shared embeddings under all their names."""
    edit_weights(folder, lambda weights: {**weights, **{f"{stack}.embed_tokens.weight": weights["shared.weight"]
                                                        for stack in ("encoder", "decoder")}})


def own_names(*stacks):
    """Word embeddings of these stacks that differ from the shared ones, as a checkpoint that was trained apart has them."""
    def change(weights):
        [shared] = [key for key in weights if key.endswith("shared.weight")]
        return {**weights, **{shared.replace("shared", f"{stack}.embed_tokens"): weights[shared].roll(1 + i, 0)
                              for i, stack in enumerate(stacks)}}
    return lambda folder: edit_weights(folder, change)


def own_names_only(folder):
    """The same without shared ones."""
    own_names("encoder", "decoder")(folder)
    edit_weights(folder, lambda weights: {k: v for k, v in weights.items() if k != "shared.weight"})


OWN = "word embeddings under several names that differ are not tied"
V1_1 = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
SPIECE_ONLY = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
text_cell("t5/model", (16, 2, 2, 32, 8), 200, extra_rows=6, relative_attention_num_buckets=8, relative_attention_max_distance=12)
text_cell("t5/model-gated-gelu", (16, 1, 3, 24, 6), 190, num_decoder_layers=2, **V1_1,
          notes="as T5 v1.1; 3 heads of 6, which is more than the hidden size; one layer in the encoder, two in the decoder")
text_cell("t5/for-seq2seq-lm", (16, 1, 2, 28, 6), 195, edit=all_names, relative_attention_num_buckets=12,
          notes="relu, tied; the embeddings are stored under three names")
text_cell("t5/for-seq2seq-lm-gated-gelu", (16, 1, 4, 20, 4), 185, extra_rows=2, **V1_1, notes="as T5 v1.1 and FLAN-T5: lm_head of its own")
text_cell("t5/for-seq2seq-lm-spiece", (16, 1, 2, 24, 8), 180, extra_rows=90 + 4, without=SPIECE_ONLY,
          notes="spiece.model only, hence 100 extra_ids; 4 more rows of embeddings than tokens")
text_cell("t5/for-seq2seq-lm-own-embeddings", (16, 1, 2, 24, 6), 180, edit=own_names("encoder", "decoder"), notes=f"{OWN}; the head is the shared ones")
text_cell("t5/model-own-embeddings", (16, 1, 2, 24, 6), 182, edit=own_names_only, notes=f"{OWN}; without shared ones, the encoder's are shared")
text_cell("t5/for-token-classification-own-embeddings", (16, 1, 2, 24, 6), 181, labels=TAGS, edit=own_names("encoder"),
          notes=OWN)
text_cell("t5/for-sequence-classification", (16, 1, 2, 32, 8), 190, labels=EMOTIONS,
          notes="the decoder reads the input shifted right; the place of the last </s> in the input counts")
text_cell("t5/for-question-answering", (16, 1, 4, 30, 4), 192, notes="the decoder reads the input shifted right")
text_cell("t5/for-token-classification", (16, 2, 2, 36, 6), 188, labels=TAGS, notes="the encoder alone")
text_cell("mt5/model", (16, 1, 2, 30, 6), 190, extra_rows=5, feed_forward_proj="gated-gelu", relative_attention_num_buckets=10,
          relative_attention_max_distance=16)
text_cell("mt5/for-seq2seq-lm", (16, 1, 4, 24, 3), 195, **V1_1)
text_cell("mt5/for-sequence-classification", (16, 1, 2, 28, 8), 185, labels=NLI, kind="pairs", **V1_1)
text_cell("mt5/for-question-answering", (18, 1, 3, 24, 6), 192, feed_forward_proj="gated-silu")
text_cell("mt5/for-token-classification", (16, 2, 2, 32, 4), 187, labels=TAGS, **V1_1)
