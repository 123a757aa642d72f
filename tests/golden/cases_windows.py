"""Pairs under each truncation strategy, and windows over long texts (`return_overflowing_tokens`), by the tokenizers of other cases."""
import json
import os

from transformers import AutoTokenizer

from texts import HERE
from tools import case, versions, write_golden

BASES = ["bert", "bert-cased-vocab", "distilbert", "mpnet", "roberta", "xlm-roberta", "gpt2"]
TEXTS = [
    "", " ", "Harbour", "The little inn by the harbour was quiet, bright and very clean.",
    "first line\nsecond\r\n\n line", "Crème à Kraków 房间很干净 🙂👍🏽 e\u0301te\u0301 end", "  two  spaces \t and a tab  ",
    "a <mask> b [MASK] c </s> d [SEP] e", "👨‍👩‍👧 I'm 3.14%",
]
PAIRS = [
    ["", ""], ["", "The little inn was quiet."], ["What?", ""], ["Who came?", "The film is slow at first,\nand then 房间 🙂 you cannot look away."],
    ["The film is slow at first, and then e\u0301te\u0301 👍🏽.", "Why?"], ["a b c d e f g h i", "j k l m n o p q"],
]
# max_length, stride, truncation_side
SINGLE = [(None, 0, "right"), (3, 0, "right"), (9, 3, "right"), (9, 6, "right"), (10, 4, "left"), (16, 0, "left"), (6, 9, "right")]
PAIR = [(None, 0, "right"), (13, 0, "right"), (13, 3, "right"), (16, 5, "left"), (20, 2, "right")]


def compact(encoding):
    """One window; masks as strings, one character per token."""
    return [encoding.ids, encoding.type_ids, [n for offsets in encoding.offsets for n in offsets], "".join(map(str, encoding.special_tokens_mask)),
            "".join("-" if n is None else str(n) for n in encoding.sequence_ids), [-1 if n is None else n for n in encoding.word_ids]]


def encode(tokenizer, *texts, **options):
    """A batch of one: outside a batch, an empty second text would count as none."""
    try:
        return tokenizer(*([text] for text in texts), return_offsets_mapping=True, return_special_tokens_mask=True, **options).encodings, None
    except BaseException as e:      # the library panics when the stride is too long
        return None, next(kind for kind in ("too short", "stride") if kind in str(e))


def limits(max_length, truncation):
    return {} if max_length is None else {"max_length": max_length, "truncation": truncation}


def rows(base):
    tokenizer = AutoTokenizer.from_pretrained(os.path.join(HERE, base))

    def row(texts, truncation, max_length, stride, side):
        tokenizer.truncation_side = side
        options = limits(max_length, truncation)
        windows, error = encode(tokenizer, *texts, stride=stride, return_overflowing_tokens=True, **options)
        yield {"texts": texts, "truncation": truncation, "max_length": max_length, "stride": stride, "side": side,
               **({"error": error} if error else {"windows": [compact(w) for w in windows]})}

    for text in TEXTS:
        for max_length, stride, side in SINGLE:
            yield from row([text], "longest_first", max_length, stride, side)
    for pair in PAIRS:
        for truncation in ["longest_first", "only_first", "only_second"]:
            for max_length, stride, side in PAIR:
                if max_length is not None or truncation == "longest_first":
                    yield from row(pair, truncation, max_length, stride, side)


def words(base):
    """The spans of each pair's words: pair, text, word, start, end."""
    tokenizer = AutoTokenizer.from_pretrained(os.path.join(HERE, base))
    for i, pair in enumerate(PAIRS):
        encoding = tokenizer([pair]).encodings[0]
        for sequence in (0, 1):
            for word in sorted({w for w, s in zip(encoding.word_ids, encoding.sequence_ids) if s == sequence and w is not None}):
                yield [i, sequence, word, *encoding.word_to_chars(word, sequence)]


@case
def windows(folder):
    for base in BASES:
        write_golden(folder, {"library versions": versions(), "notes": "a window is [input_ids, token_type_ids, offset_mapping, special_tokens_mask, "
                              "sequence_ids, word_ids]; offsets in one list, no word is -1, no sequence is -", "base": base,
                              "pairs": PAIRS, "words": list(words(base)), "rows": list(rows(base))}, f"{base}.json")
