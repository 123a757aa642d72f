"""Tiny tokenizers of the encoder-decoder families, as transformers 5.24 reads them from a directory with vocabulary files."""
import json
import os
import tempfile

from sentencepiece import SentencePieceProcessor
from transformers import BartTokenizer, M2M100Tokenizer, MarianTokenizer, MBart50Tokenizer, MBartTokenizer, NllbTokenizer, PegasusTokenizer

from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

import tiny_tokenizers as tiny

LATIN = {"en", "de", "fr"}


def pieces(path):
    model = SentencePieceProcessor(model_file=path)
    return [model.id_to_piece(i) for i in range(model.get_piece_size())]


def write_vocab(folder, words, name="vocab.json"):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump({word: i for i, word in enumerate(words)}, f, ensure_ascii=False)


def fairseq(cls, max_length=None, size=200, rule="few", settings=None, **options):
    folder = tempfile.mkdtemp()     # kept until the process ends: save_vocabulary copies files from here
    tiny.sentencepiece_model(folder, rule, size, LATIN, **options)
    return cls.from_pretrained(folder, **tiny.limit(max_length), **(settings or {}))


def bart(max_length=None, size=270):
    """As RoBERTa's."""
    return tiny.byte_level(BartTokenizer, ["<s>", "<pad>", "</s>", "<unk>"], "<mask>", size, max_length, from_folder=True)


def mbart(max_length=None, size=200, rule="few"):
    return fairseq(MBartTokenizer, max_length, size, rule)


def mbart50(max_length=None, size=200, rule="few"):
    return fairseq(MBart50Tokenizer, max_length, size, rule)


def nllb(max_length=None, size=300, rule="few"):
    return fairseq(NllbTokenizer, max_length, size, rule, model_type="bpe")


def pegasus(max_length=None, size=200, rule="few"):
    """<pad> and </s> first, as in the models of PEGASUS; <unk> is piece 2."""
    folder = tempfile.mkdtemp()
    tiny.sentencepiece_model(folder, rule, size, LATIN, "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
                             pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>")
    return PegasusTokenizer.from_pretrained(folder, **tiny.limit(max_length))


def m2m_100(max_length=None, size=260, rule="few"):
    """BPE pieces; vocab.json has fairseq's first four tokens and not all of the pieces."""
    folder = tempfile.mkdtemp()
    path = tiny.sentencepiece_model(folder, rule, size, LATIN, model_type="bpe")
    words = [piece for i, piece in enumerate(pieces(path)[3:]) if i % 23 != 11]
    write_vocab(folder, ["<s>", "<pad>", "</s>", "<unk>", *words])
    # As in the files of M2M-100: the languages are additional special tokens.
    languages = [f"__{code}__" for code in FAIRSEQ_LANGUAGE_CODES["m2m100"]]
    return M2M100Tokenizer.from_pretrained(folder, additional_special_tokens=languages, **tiny.limit(max_length))


def marian(max_length=None, size=180, rule="few", codes=(">>fra<<", ">>deu<<"), separate=False):
    """Pieces of the source and of the target in one vocabulary, without some of them; <pad> comes last."""
    folder = tempfile.mkdtemp()
    source = pieces(tiny.sentencepiece_model(folder, rule, size, {"en"}, "source.spm"))[3:]
    target = pieces(tiny.sentencepiece_model(folder, rule, size - 10, {"de", "fr"}, "target.spm"))[3:]
    first, last = ["</s>", "<unk>", *codes], ["<pad>"]
    source = [piece for i, piece in enumerate(source) if i % 29 != 11]
    if separate:
        write_vocab(folder, first + source + last)
        write_vocab(folder, first + target + last, "target_vocab.json")
    else:
        write_vocab(folder, first + sorted({*source, *target}) + last)
    return MarianTokenizer.from_pretrained(folder, separate_vocabs=separate, **tiny.limit(max_length))
