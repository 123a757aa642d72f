"""`spm-tokenizers`: the tokenizers of DeBERTa v2 and ALBERT from their sentencepiece model alone, by transformers 5.24.

As `modern-tokenizers`: each variant lists its files, as JSON or by the name of a file in this folder. Those of XLM-RoBERTa, CamemBERT
and T5 are in folders of their own, by transformers 4.57, whose steps differ in control characters and in a literal `▁`.
"""
import os

import transformers

import tiny_tokenizers as tiny
from cases_modern_tokenizers import LIBRARY, PAIRS, added, encoded
from texts import NASTY
from tools import case, skip, versions, write_golden

TEXTS = [
    "Harbour", " leading space", "two  spaces, three   spaces ", "a[MASK]b [MASK] c", "[CLS]x [SEP] y[SEP][SEP]", "a<s>b</s> c <unk>d<mask>e <mask>",
    "n\u00e9 \u2603 \u623f\u95f4 \U0001f642", "", " ", "\ttab\nnewline \r\n x", "12345 rows, 3.14", "\u2581under \u2581", "it 's done .", "``quoted'' it",
    "\uff21\ufb01\u00bd e\u0301", "<extra_id_0> and <extra_id_99>", "Ein Stra\u00dfencaf\u00e9 \u0130stanbul", "<new> and<new>Blue Sky", "<pad>", *NASTY[:12],
]
# Of several combining marks on one letter, sentencepiece composes the first, the tokenizers library none.
TEXTS = [text for text in TEXTS if "\u0308\u0323" not in text]
LANGUAGES = {"en", "de", "fr"}
MODELS = {      # size, special pieces
    "deberta.model": (320, dict(pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]")),
    "albert.model": (300, dict(pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols=["[CLS]", "[SEP]", "[MASK]"])),
}


def variants():
    tokens = {"4": added("Blue Sky", lstrip=True), "900": added("<new>")}
    for family, model_type, file, name, settings in [
        ("deberta-v2", "deberta-v2", "spm.model", "deberta.model", [
            ("bare", None), ("v3", {"do_lower_case": False, "vocab_type": "spm"}), ("lower", {"do_lower_case": True, "vocab_type": "spm"}),
            ("punct", {"do_lower_case": False, "split_by_punct": True}), ("class", {"tokenizer_class": "DebertaV2Tokenizer"}),
            ("added", {"added_tokens_decoder": tokens})]),
        ("albert", "albert", "spiece.model", "albert.model", [
            ("bare", None), ("cased", {"do_lower_case": False}), ("accents", {"keep_accents": True, "do_lower_case": True}),
            ("class", {"tokenizer_class": "AlbertTokenizer", "do_lower_case": False, "keep_accents": True})]),
    ]:
        for label, config in settings:
            files = {"config.json": {"model_type": model_type}, file: name}
            yield f"{family}-{label}", files if config is None else {**files, "tokenizer_config.json": config}


@case
def spm_tokenizers(folder):
    if transformers.__version__ != LIBRARY:
        skip(f"spm-tokenizers is made with transformers {LIBRARY}")
    for name, (size, options) in MODELS.items():
        tiny.sentencepiece_model(folder, "few", size, LANGUAGES, name, **options)
    os.remove(os.path.join(folder, "rule.tsv"))
    made = [{"name": name, "files": files, **encoded(folder, files, TEXTS)} for name, files in variants()]
    write_golden(folder, {"library versions": versions(), "notes": "`files`: JSON, or the name of a file in this folder",
                          "texts": TEXTS, "pairs": PAIRS, "variants": made})
