"""Tiny tokenizers of the models that generate: GPT-2's byte-level BPE and T5's sentencepiece."""
import io
import json
import os
import tempfile

import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GPT2TokenizerFast, T5TokenizerFast

from texts import corpus
from tiny_tokenizers import SENTENCEPIECE_LANGUAGES, limit

EXTRA_IDS = 10
RULE = [("\t", " "), ("\n", " "), ("\u00a0", " "), ("ﬁ", "fi"), ("½", "1/2"), ("Ａ", "A"), ("e\u0301", "é"), ("…", "...")]


def gpt2(max_length=None, size=400, **options):
    """The 256 bytes and some merges; <|endoftext|> comes last, as in GPT-2."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=size - 1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    with tempfile.TemporaryDirectory() as folder:
        vocab, merges = tok.model.save(folder)
        with open(vocab, encoding="utf-8") as f:
            words = json.load(f)
        words["<|endoftext|>"] = len(words)
        with open(vocab, "w", encoding="utf-8") as f:
            json.dump(words, f, ensure_ascii=False)
        return GPT2TokenizerFast(vocab_file=vocab, merges_file=merges, **limit(max_length), **options)


def t5(max_length=None, size=310):
    """Unigram: <pad> 0, </s> 1, <unk> 2, no <s>, and <extra_id_9> … <extra_id_0> after the pieces."""
    folder = tempfile.mkdtemp()         # kept until the process ends: save_vocabulary copies the model file from here
    rule = os.path.join(folder, "rule.tsv")     # the full NFKC of T5 takes 240 kB
    with open(rule, "w", encoding="utf-8") as f:
        for source, target in RULE:
            f.write(" ".join("%X" % ord(c) for c in source) + "\t" + " ".join("%X" % ord(c) for c in target) + "\n")
    piece_model = io.BytesIO()          # not files: their paths would be written into the model
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(text.split()) for text in corpus(SENTENCEPIECE_LANGUAGES)), model_writer=piece_model,
        vocab_size=size, character_coverage=0.999, num_threads=1, minloglevel=2, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        normalization_rule_tsv=rule)
    path = os.path.join(folder, "spiece.model")
    with open(path, "wb") as f:
        f.write(piece_model.getvalue())
    return T5TokenizerFast(vocab_file=path, extra_ids=EXTRA_IDS, **limit(max_length))
