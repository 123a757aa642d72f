"""The tasks of translation and summarisation with models of language codes: what the pipelines of transformers do, by 5.24.

transformers 5 has the parts of these pipelines (`_build_translation_inputs` of the tokenizers, `generate`), but no longer the
pipelines; the defaults of 4.57 are given as options.
"""
import os

import torch
import transformers
from transformers import (AutoModelForSeq2SeqLM, AutoTokenizer, BartConfig, BartForConditionalGeneration, GenerationConfig, M2M100Config,
                          M2M100ForConditionalGeneration, MarianConfig, MarianMTModel, MBartConfig, MBartForConditionalGeneration)

import tiny_tokenizers_seq2seq as tiny
from cases_tasks import LONG
from cases_tasks_generation import BEAMS, ONE_BEAM, STEADY, beside, ending
from tools import CASES, skip
from tools_tasks import Case, model, text_rows, weights, write_case

SHAPE = dict(d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24,
             decoder_ffn_dim=24)


def register(name, make_tokenizer, cls, config_cls, seed, generation=None, **settings):
    @model(name)
    def make(folder):
        if transformers.__version__ != "5.24.0":
            skip(f"tasks/{name} is made with transformers 5.24")
        tokenizer = make_tokenizer()
        ids = dict(pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
                   decoder_start_token_id=tokenizer.pad_token_id if cls is MarianMTModel else tokenizer.eos_token_id)
        net = weights(cls(config_cls(vocab_size=len(tokenizer) + (8 if cls is M2M100ForConditionalGeneration else 0), **SHAPE, **ids, **settings)), seed)
        rng = torch.Generator().manual_seed(len(seed))
        with torch.no_grad():
            last = net.model.decoder.layer_norm if hasattr(net.model.decoder, "layer_norm") else net.model.decoder.layers[-1].final_layer_norm
            last.weight.copy_(2.5 * torch.randn(last.weight.shape, generator=rng))
            if hasattr(net, "final_logits_bias"):
                net.final_logits_bias.copy_(0.3 * torch.randn(net.final_logits_bias.shape, generator=rng))
        net.generation_config = GenerationConfig(**ids, **{key: ids["eos_token_id"] for key in ("forced_eos_token_id",) if cls is not M2M100ForConditionalGeneration},
                                                 **(generation(tokenizer) if generation else {}))
        tokenizer.save_pretrained(folder)
        net.save_pretrained(folder)
        assert sum(os.path.getsize(os.path.join(folder, file)) for file in os.listdir(folder)) < 150_000, folder


register("m2m_100", lambda: tiny.m2m_100(24), M2M100ForConditionalGeneration, M2M100Config, "m2m_100", max_position_embeddings=24)
register("mbart", lambda: tiny.mbart(24), MBartForConditionalGeneration, MBartConfig, "mbart", max_position_embeddings=48, scale_embedding=True)
register("marian", lambda: tiny.marian(32), MarianMTModel, MarianConfig, "marian", max_position_embeddings=48, scale_embedding=True,
         activation_function="swish", generation=lambda tokenizer: {"renormalize_logits": True, "bad_words_ids": [[tokenizer.pad_token_id]], "num_beams": 3})
register("bart", lambda: tiny.bart(32, 300), BartForConditionalGeneration, BartConfig, "bart", max_position_embeddings=48,
         generation=lambda tokenizer: {"num_beams": 4, "length_penalty": 2.0, "no_repeat_ngram_size": 3, "min_length": 6, "max_length": 14,
                                       "early_stopping": True, "forced_bos_token_id": tokenizer.bos_token_id})


def reference(path, case, change):
    tokenizer = AutoTokenizer.from_pretrained(path)
    net = change(AutoModelForSeq2SeqLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval())
    options = {key: value for key, value in case.options.items() if key not in ("src_lang", "tgt_lang", "on_long", "truncation", "prefix")}
    cut = {"truncation": True} if case.options.get("on_long") == "truncate" else {}
    limit = net.config.max_position_embeddings

    def call(row):
        tgt_lang, text = row.get("tgt_lang") or case.options.get("tgt_lang"), case.options.get("prefix", "") + row["text"]
        if hasattr(tokenizer, "_build_translation_inputs") and tgt_lang:
            prompt = dict(tokenizer._build_translation_inputs(text, return_tensors="pt", src_lang=case.options.get("src_lang", tokenizer.src_lang),
                                                              tgt_lang=tgt_lang, **cut))
        else:
            prompt = dict(tokenizer(text, return_tensors="pt", **cut))
        assert cut or prompt["input_ids"].shape[1] <= limit, text
        seen = net.generate(**prompt, return_dict_in_generate=True, output_scores=True, **options)
        text = tokenizer.decode(seen.sequences[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        reason, new = ending(seen.sequences[0].tolist()[1:], case, net.generation_config, text)
        return {"text": text, "finish_reason": reason, "prompt_tokens": prompt["input_ids"].shape[1], "generated_tokens": len(new)}, beside(
            new, None if seen.get("sequences_scores") is None else seen.sequences_scores[0].item())
    return call


TEXTS = text_rows(None, "", "H", "The film is slow", "I bought it", "\U0001f642房间", " leading  and trailing ", "a\nb")
CODES = text_rows(">>fra<< The film is slow", ">>deu<< The film is slow", "The >>fra<< film", None, ">>xyz<<")
LONGER = TEXTS + text_rows(LONG)
ROWS = [{"text": text, "tgt_lang": language} for text, language in [
    ("The film is slow", "fr"), ("The film is slow", "de"), ("Harbour", "fr"), (None, "fr"), ("Harbour", None), ("", "zh"), ("I bought it", "de")]]
BY_ROW = {"text": "text", "tgt_lang": "tgt_lang"}


LANGUAGES = {"src_lang": "en", "tgt_lang": "fr"}
CASES_BY_TASK = {
    "translation": [
        Case("m2m_100-en-fr", "m2m_100", TEXTS, options={**STEADY, "num_beams": 4, **LANGUAGES}, notes=BEAMS),
        Case("m2m_100-de-zh", "m2m_100", TEXTS, options={**ONE_BEAM, "src_lang": "de", "tgt_lang": "zh"}),
        Case("m2m_100-truncated", "m2m_100", LONGER, options={**ONE_BEAM, **LANGUAGES, "on_long": "truncate"}, notes="24 tokens, both special ones included"),
        Case("m2m_100-languages", "m2m_100", ROWS, BY_ROW, options={**STEADY, "num_beams": 2, "src_lang": "en"}, notes="each row has a language"),
        Case("mbart-en-ro", "mbart", TEXTS, options={**STEADY, "num_beams": 4, "src_lang": "en_XX", "tgt_lang": "ro_RO"}, notes=BEAMS),
        Case("marian", "marian", TEXTS + CODES, options=STEADY, notes="num_beams 3, renormalize_logits and bad_words_ids of the model"),
        Case("marian-greedy", "marian", CODES, options=ONE_BEAM),
        Case("marian-prefix", "marian", TEXTS, options={**ONE_BEAM, "prefix": ">>fra<< "}),
    ],
    "summarization": [
        Case("bart", "bart", TEXTS, options={"do_sample": False, "max_new_tokens": 12}, notes="the model's settings: beams, lengths, n-grams, forced tokens"),
        Case("bart-truncated", "bart", LONGER, options={**ONE_BEAM, "on_long": "truncate"}),
    ],
    "text2text-generation": [Case("bart-text2text", "bart", TEXTS, options={**ONE_BEAM, "max_new_tokens": 20})],
}


def write(folder):
    if transformers.__version__ != "5.24.0":
        skip("tasks/seq2seq is made with transformers 5.24")
    for task, cases in CASES_BY_TASK.items():
        for case in cases:
            write_case(folder, task, case, reference)


CASES["tasks/seq2seq"] = write
