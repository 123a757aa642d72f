"""The cells of `heads/` for the encoder-decoder families, and what they generate: `generate.json`, by transformers 5.24.

Every row of `generate.json` is generated alone, with the settings of its case as arguments of `generate`. Random weights
and prompts are taken that are not next to a tie.
"""
import torch

from heads import edit_weights, load, text_cell
from tools import versions, write_golden
from tools_tasks import nudge, short

EMOTIONS = ["anger", "joy", "sadness", "no emotion"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
NLI = ["contradiction", "neutral", "entailment"]
NEW_TOKENS = 12


# ------------------------------------------------------------------------------ weights
def lively(weights, seed):
    """A last norm with weights of either sign, so that a tied head does not repeat the token it reads; and biases of the logits."""
    decoder = [key for key in weights if "decoder." in key and "norm.weight" in key and "attn" not in key and "embedding" not in key]
    last = max(decoder, key=lambda key: ("layers" not in key and "block" not in key, [int(part) for part in key.split(".") if part.isdigit()]))
    rng = torch.Generator().manual_seed(seed)
    weights = {**weights, last: 0.8 * torch.randn(weights[last].shape, generator=rng)}
    if "final_logits_bias" in weights:
        weights["final_logits_bias"] = 0.5 * torch.randn(weights["final_logits_bias"].shape, generator=rng)
    return weights


def generating(*changes, seed=5):
    def edit(folder):
        edit_weights(folder, lambda weights: lively(weights, seed))
        for change in changes:
            change(folder)
    return edit


# --------------------------------------------------------------------------- generation
def generated(model, prompt, settings):
    ids, seq2seq = torch.tensor([prompt]), model.config.is_encoder_decoder
    settings = {"do_sample": False, "num_beams": 1, "max_new_tokens": NEW_TOKENS, **settings}
    if "max_length" in settings:
        del settings["max_new_tokens"]
    end = settings.pop("eos_token_id", None)
    model.generation_config.eos_token_id = end
    model.generation_config.forced_eos_token_id = settings.pop("forced_eos_token_id", None)
    y = model.generate(ids, attention_mask=torch.ones_like(ids), output_scores=True, return_dict_in_generate=True, **settings)
    found = []
    for i, sequence in enumerate(y.sequences.tolist()):
        tokens = sequence[1 if seq2seq else len(prompt):]
        ends = [tokens.index(token) + 1 for token in end or [] if token in tokens]
        found.append({"tokens": tokens[:min(ends, default=None)],
                      **({} if settings["num_beams"] == 1 else {"sequences_score": short(y.sequences_scores[i].item())})})
    return {"prompt": prompt, "sequences": found}


def tokens_of(rows):
    return [[sequence["tokens"] for sequence in row["sequences"]] for row in rows]


def generate(auto_class, *more):
    """Writes generate.json: greedy and with beams, then the settings of `more`, each a function of ends and of tokens that occur."""
    def write(folder):
        model, nudged = load(folder, auto_class), nudge(load(folder, auto_class))
        marian, cases, seed = model.config.model_type == "marian", [], 0

        def prompts():
            rng = torch.Generator().manual_seed(seed)
            low, high = (0, model.config.vocab_size - 1) if marian else (4, model.config.vocab_size)
            return [torch.randint(low, high, (length,), generator=rng).tolist() for length in (1, 5, 14)]

        def steady(settings):
            nonlocal seed
            for seed in range(seed, seed + 60):
                found = [generated(model, prompt, settings) for prompt in prompts()]
                if tokens_of(found) == tokens_of([generated(nudged, prompt, settings) for prompt in prompts()]):
                    length = {} if "max_length" in settings else {"max_new_tokens": NEW_TOKENS}
                    cases.append({"settings": {**length, "num_beams": 1, "eos_token_id": [], "forced_eos_token_id": [], **settings},
                                  "rows": found})
                    return tokens_of(found)
            raise AssertionError(f"{folder}: every prompt is next to a tie: {settings}")

        tokens = steady({})
        occur = sorted({token for row in tokens for sequence in row for token in sequence})
        assert len(occur) > 6, (folder, tokens)
        ends = sorted({tokens[0][0][6], tokens[2][0][3]})
        for settings in ({"eos_token_id": ends}, {"num_beams": 4}, {"num_beams": 4, "eos_token_id": ends}):
            steady(settings)
        for settings in more:
            steady(settings(ends, occur))
        write_golden(folder, {"library versions": versions(), "auto_class": auto_class, "cases": cases,
                              "notes": "each prompt alone; `sequences` are those of num_return_sequences"}, "generate.json")
    return write


SETTINGS = [
    lambda ends, occur: {"num_beams": 4, "eos_token_id": ends, "early_stopping": True, "length_penalty": 2.0, "no_repeat_ngram_size": 2},
    lambda ends, occur: {"num_beams": 3, "eos_token_id": ends, "early_stopping": "never", "length_penalty": 0.6},
    lambda ends, occur: {"num_beams": 4, "eos_token_id": ends, "length_penalty": -1.0, "num_return_sequences": 3},
    lambda ends, occur: {"num_beams": 2, "num_return_sequences": 2, "early_stopping": True, "eos_token_id": ends},
    lambda ends, occur: {"eos_token_id": ends, "min_length": 8, "max_length": 11, "forced_bos_token_id": occur[-1], "forced_eos_token_id": ends[0]},
    lambda ends, occur: {"num_beams": 4, "eos_token_id": ends, "min_new_tokens": 5, "forced_bos_token_id": occur[0],
                         "forced_eos_token_id": ends[-1]},
    lambda ends, occur: {"num_beams": 4, "eos_token_id": ends, "renormalize_logits": True, "bad_words_ids": [[occur[1]], occur[2:4]]},
    lambda ends, occur: {"suppress_tokens": occur[:2], "begin_suppress_tokens": occur[2:4], "decoder_start_token_id": occur[-2]},
    lambda ends, occur: {"num_beams": 3, "suppress_tokens": occur[-2:], "begin_suppress_tokens": occur[:3], "repetition_penalty": 1.3},
    lambda ends, occur: {"encoder_no_repeat_ngram_size": 1, "no_repeat_ngram_size": 3},
    lambda ends, occur: {"num_beams": 2, "encoder_no_repeat_ngram_size": 2, "encoder_repetition_penalty": 1.4},
    lambda ends, occur: {"num_beams": 4, "eos_token_id": ends, "exponential_decay_length_penalty": [4, 1.6]},
    lambda ends, occur: {"eos_token_id": ends, "exponential_decay_length_penalty": [3, 1.3]},
]
DECODER_SETTINGS = [settings for settings in SETTINGS
                    if not {"decoder_start_token_id", "max_length"} & set(settings([0, 1], list(range(9))))]
SEQ2SEQ, CAUSAL = "AutoModelForSeq2SeqLM", "AutoModelForCausalLM"


# ------------------------------------------------------------------------------ the cells
def without_bias(folder):
    edit_weights(folder, lambda weights: {key: value for key, value in weights.items() if key != "final_logits_bias"})


DECODER = {"decoder_layers": 1, "max_position_embeddings": 32}     # the library's cache of a decoder alone has as many layers as the encoder
text_cell("bart/model", (16, 1, 2, 40), 280)
text_cell("bart/model-shifted", (16, 1, 4, 30), 270, kind="texts", notes="no decoder_input_ids: the decoder reads the input shifted right")
text_cell("bart/for-seq2seq-lm", (16, 1, 2, 36), 275, edit=generating(), after=generate(SEQ2SEQ, *SETTINGS), notes="final_logits_bias is not zero")
text_cell("bart/for-seq2seq-lm-no-bias", (24, 1, 3, 30), 270, edit=generating(without_bias), scale_embedding=True, decoder_attention_heads=2,
          notes="no final_logits_bias in the file; another number of heads in the decoder")
text_cell("bart/for-causal-lm", (16, 1, 2, 30), 272, edit=generating(), **DECODER, after=generate(CAUSAL, *DECODER_SETTINGS), notes="the decoder alone")
text_cell("bart/for-masked-lm", (16, 1, 4, 32), 274, notes="the decoder reads the input shifted right")
text_cell("bart/for-sequence-classification", (16, 1, 2, 28), 276, labels=NLI, kind="pairs", spread=4, notes="the state at the last </s>")
text_cell("bart/for-question-answering", (16, 1, 2, 32), 278)
text_cell("mbart/model", (16, 1, 2, 40), 180)
text_cell("mbart/model-shifted", (16, 1, 4, 30), 170, kind="texts", notes="no decoder_input_ids: the last token, the language, comes first")
text_cell("mbart/for-seq2seq-lm", (16, 1, 4, 36), 175, edit=generating(), after=generate(SEQ2SEQ, *SETTINGS[:6]), decoder_start_token_id=2)
text_cell("mbart/for-causal-lm", (16, 1, 2, 30), 172, edit=generating(), **DECODER, after=generate(CAUSAL))
text_cell("mbart/for-masked-lm", (16, 1, 2, 32), 174)
text_cell("mbart/for-sequence-classification", (16, 1, 2, 28), 176, labels=EMOTIONS, spread=4)
text_cell("mbart/for-question-answering", (16, 1, 4, 32), 178)
text_cell("pegasus/model", (16, 1, 2, 40), 170, notes="embed_positions in the file, other numbers than sines")
text_cell("pegasus/for-seq2seq-lm", (18, 1, 3, 36), 175, edit=generating(), after=generate(SEQ2SEQ, *SETTINGS[:4]))
text_cell("pegasus/for-causal-lm", (16, 1, 2, 30), 172, edit=generating(), **DECODER, after=generate(CAUSAL))
text_cell("marian/model", (16, 1, 2, 40), 170, notes="embed_positions in the file, other numbers than sines")
text_cell("marian/for-seq2seq-lm", (16, 1, 2, 36), 175, edit=generating(), after=generate(SEQ2SEQ, *SETTINGS[:9]),
          notes="no embed_positions in the file: sines")
text_cell("marian/for-seq2seq-lm-apart", (16, 1, 2, 30), 172, edit=generating(), after=generate(SEQ2SEQ), share_encoder_decoder_embeddings=False,
          decoder_vocab_size=290, notes="a table for the encoder and one for decoder and head, of another size")
text_cell("marian/for-causal-lm", (16, 1, 2, 30), 172, edit=generating(), **DECODER, after=generate(CAUSAL))
text_cell("m2m_100/model", (16, 1, 2, 40), 200)
text_cell("m2m_100/for-seq2seq-lm", (16, 1, 4, 36), 205, edit=generating(), after=generate(SEQ2SEQ, *SETTINGS[:6]), max_position_embeddings=8,
          notes="rows are longer than max_position_embeddings")
text_cell("umt5/model", (16, 2, 2, 30, 6), 190, extra_rows=5, relative_attention_num_buckets=10, relative_attention_max_distance=16)
text_cell("umt5/for-seq2seq-lm", (24, 2, 4, 32, 5), 195, edit=generating(seed=8), after=generate(SEQ2SEQ, *SETTINGS[:4]))
text_cell("umt5/for-seq2seq-lm-not-scaled", (16, 2, 2, 24, 6), 185, edit=generating(),
          prepare=lambda tokenizer, config: setattr(config, "scale_decoder_outputs", False),
          notes="tie_word_embeddings is false in the file: tied, but not scaled")
text_cell("umt5/for-sequence-classification", (16, 2, 2, 28, 8), 185, labels=NLI, kind="pairs")
text_cell("umt5/for-question-answering", (18, 1, 3, 24, 6), 192)
text_cell("umt5/for-token-classification", (16, 2, 2, 32, 4), 187, labels=TAGS)
