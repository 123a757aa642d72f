"""Tiny tokenizers, one per kind, trained on the sample rows and configured like the real families.

Every function returns the tokenizer that `transformers` builds from the vocabulary, so that
`save_pretrained` writes the files a real checkpoint has.
"""
import io
import json
import os
import tempfile
from collections import Counter

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (BertTokenizerFast, CamembertTokenizerFast, DistilBertTokenizerFast, GPT2TokenizerFast,
                          MPNetTokenizerFast, RobertaTokenizerFast, T5TokenizerFast, XLMRobertaTokenizerFast)

from texts import corpus

# sentencepiece keeps nearly all characters as pieces, so it is trained on alphabets only
SENTENCEPIECE_LANGUAGES = {"en", "de", "fr", "pl", "ru", "ar"}
BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def wordpiece_vocab(lower, size):
    """Letters, letters inside words, frequent words and frequent word endings; deterministic.

    (The trainer of `tokenizers` breaks ties randomly, so every run gives another vocabulary.)
    """
    normalizer, splitter = normalizers.BertNormalizer(lowercase=lower), pre_tokenizers.BertPreTokenizer()
    words, letters, ends = Counter(), Counter(), Counter()
    for text in corpus():
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    for word, count in words.items():
        letters.update({letter: count for letter in word})
        ends.update({word[-n:]: count for n in (2, 3) if len(word) > n + 1})

    def most(counter, n):
        return [key for key, _ in sorted(counter.items(), key=lambda kv: (-kv[1], kv[0]))[:n]]

    alphabet, inside = sorted({*most(letters, 80), *"0123456789!?'\",.:;()-"}), [f"##{c}" for c in sorted(most(letters, 60)) if c.isalnum()]
    short = size - len(alphabet) - len(inside)
    tails = [f"##{end}" for end in most(ends, short // 4)]
    whole = [word for word in most(words, size) if len(word) > 1][:short - len(tails)]
    return alphabet + inside + whole + tails


def write_vocab(folder, words):
    path = os.path.join(folder, "vocab.txt")
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(word + "\n" for word in words)
    return path


def bert(lower=True, max_length=None, size=300, cls=BertTokenizerFast):
    with tempfile.TemporaryDirectory() as folder:
        path = write_vocab(folder, BERT_SPECIALS + wordpiece_vocab(lower, size))
        return cls(vocab_file=path, do_lower_case=lower, **limit(max_length))


def distilbert(max_length=None, size=300):
    return bert(max_length=max_length, size=size, cls=DistilBertTokenizerFast)


def mpnet(max_length=None, size=300):
    """MPNet: RoBERTa's special tokens first, BERT's [UNK] among the words, <mask> last."""
    words = wordpiece_vocab(True, size)
    with tempfile.TemporaryDirectory() as folder:
        path = write_vocab(folder, ["<s>", "<pad>", "</s>", "<unk>"] + words[:99] + ["[UNK]"] + words[99:] + ["<mask>"])
        return MPNetTokenizerFast(vocab_file=path, do_lower_case=True, **limit(max_length))


def roberta(max_length=None, size=400):
    """Byte-level BPE: the 256 bytes and a hundred merges; <mask> comes last, as in RoBERTa."""
    return byte_level(RobertaTokenizerFast, ["<s>", "<pad>", "</s>", "<unk>"], "<mask>", size, max_length)


def gpt2(max_length=None, size=300):
    """Byte-level BPE without special tokens but <|endoftext|>, which comes last."""
    return byte_level(GPT2TokenizerFast, [], "<|endoftext|>", size, max_length)


def byte_level(cls, first, last, size, max_length, from_folder=False):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=size, special_tokens=first, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    with tempfile.TemporaryDirectory() as folder:
        vocab, merges = tok.model.save(folder)
        with open(vocab, encoding="utf-8") as f:
            words = json.load(f)
        words[last] = len(words)
        with open(vocab, "w", encoding="utf-8") as f:
            json.dump(words, f, ensure_ascii=False)
        if from_folder:
            return cls.from_pretrained(folder, **limit(max_length))
        return cls(vocab_file=vocab, merges_file=merges, **limit(max_length))


def sentencepiece_model(folder, rule, size=350, languages=SENTENCEPIECE_LANGUAGES, name="sentencepiece.bpe.model", **options):
    """Unigram model of `size` pieces. `rule`: a normalization rule of sentencepiece, or "few" for our own."""
    if rule == "few":
        tsv = os.path.join(folder, "rule.tsv")
        pairs = [("\t", " "), ("\n", " "), ("\u00a0", " "), ("ﬁ", "fi"), ("½", "1/2"), ("Ａ", "A"), ("e\u0301", "é"), ("…", "...")]
        with open(tsv, "w", encoding="utf-8") as f:
            for source, target in pairs:
                f.write(" ".join("%X" % ord(c) for c in source) + "\t" + " ".join("%X" % ord(c) for c in target) + "\n")
        normalisation = {"normalization_rule_tsv": tsv}
    else:
        normalisation = {"normalization_rule_name": rule}
    model = io.BytesIO()                # not files: their paths would be written into the model
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(text.split()) for text in corpus(languages)), model_writer=model,
        vocab_size=size, character_coverage=0.999, num_threads=1, minloglevel=2, **normalisation, **options)
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    proto.normalizer_spec.ClearField("normalization_rule_tsv")      # a path, which differs from run to run
    path = os.path.join(folder, name)
    with open(path, "wb") as f:
        f.write(proto.SerializeToString(deterministic=True))
    return path


def xlm_roberta(max_length=None, rule="nmt_nfkc", **options):
    return from_sentencepiece(XLMRobertaTokenizerFast, max_length, rule, **options)


def camembert(max_length=None, rule="few", **options):
    return from_sentencepiece(CamembertTokenizerFast, max_length, rule, **options)


def from_sentencepiece(cls, max_length, rule, **options):
    folder = tempfile.mkdtemp()  # kept until the process ends: save_vocabulary copies the model file from here
    return cls(vocab_file=sentencepiece_model(folder, rule, **options), **limit(max_length))


def t5(max_length=None, size=240, extra_ids=10):
    """<pad>, </s> and <unk> first, as in T5; the tokens of `extra_ids` come after the pieces.

    Loaded from a directory, because the constructor alone would drop the space before the first word.
    """
    folder = tempfile.mkdtemp()
    sentencepiece_model(folder, "few", size, {"en", "de", "fr"}, "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
                        pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>")
    return T5TokenizerFast.from_pretrained(folder, extra_ids=extra_ids, **limit(max_length))


def limit(max_length):
    return {} if max_length is None else {"model_max_length": max_length}
