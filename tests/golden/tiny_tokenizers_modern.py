"""The tokenizers of `modern/`: tiny vocabularies in the classes that transformers 5.24 has for each family."""
import json
import tempfile

import sentencepiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.decoders import ByteLevel
from transformers import (AlbertTokenizer, BertTokenizer, DebertaTokenizer, DebertaV2Tokenizer, GemmaTokenizer, GPT2Tokenizer, GPTNeoXTokenizer,
                          LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer, RobertaTokenizer, XLMRobertaTokenizer)

import tiny_tokenizers as tiny
from texts import corpus

LANGUAGES = {"en", "de", "fr"}


def trained(pre_tokenizer, size, normalizer=None, **options):
    """Vocabulary and merges, as lists, of a BPE of `size` tokens."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tok.normalizer = normalizer
    tok.train_from_iterator(corpus(LANGUAGES), trainers.BpeTrainer(vocab_size=size, show_progress=False, **options))
    vocab = tok.get_vocab()
    merges = json.loads(tok.to_str())["model"]["merges"]
    return sorted(vocab, key=vocab.get), [tuple(merge) for merge in merges]


def byte_level(max_length, first=(), last=(), merges=24):
    """Byte-level BPE: the 256 bytes and a few merges, between special tokens."""
    words, pairs = trained(pre_tokenizers.ByteLevel(add_prefix_space=False), 256 + merges,
                           initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    vocab = {word: i for i, word in enumerate([*first, *words, *last])}
    return vocab, pairs, tiny.limit(max_length)


def qwen2(max_length):
    """As Qwen2 and Qwen3: special tokens last, none of them added to a text."""
    vocab, merges, limit = byte_level(max_length, last=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return Qwen2Tokenizer(vocab=vocab, merges=merges, extra_special_tokens=["<|im_start|>", "<|im_end|>"], **limit)


def with_template(max_length, template, specials, **names):
    """Byte-level BPE in the general class, with a template of special tokens around a text."""
    vocab, merges, limit = byte_level(max_length, last=specials)
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), ByteLevel()
    tok.add_special_tokens(list(specials))
    if template:
        single, pair = template
        tok.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=[(word, vocab[word]) for word in specials])
    return PreTrainedTokenizerFast(tokenizer_object=tok, **names, **limit)


def llama3(max_length):
    """As Llama 3: <|begin_of_text|> in front."""
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    return with_template(max_length, (f"{begin} $A", f"{begin} $A {begin} $B"), [begin, end], bos_token=begin, eos_token=end)


def smollm3(max_length):
    """As SmolLM3: nothing is added."""
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    return with_template(max_length, None, [begin, end, "<|im_end|>"], bos_token=begin, eos_token=end)


def eurobert(max_length):
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    return with_template(max_length, (f"{begin} $A {end}", f"{begin} $A {end} $B {end}"), [begin, end, "<|mask|>"], bos_token=begin,
                         eos_token=end, pad_token=end, mask_token="<|mask|>")


def modernbert(max_length):
    return with_template(max_length, ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]"), ["[CLS]", "[SEP]", "[PAD]", "[MASK]"],
                         cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", mask_token="[MASK]")


def byte_fallback(specials, merges, normalizer=None, pre_tokenizer=None):
    """BPE over characters: special tokens, a token for each byte, pieces."""
    words, pairs = trained(pre_tokenizer or pre_tokenizers.Metaspace(), 30 + merges, normalizer, limit_alphabet=30)
    return {word: i for i, word in enumerate([*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *words])}, pairs


def llama2(max_length):
    """As Llama 2, Mistral and Phi-3: pieces with bytes to fall back on, <s> in front."""
    vocab, merges = byte_fallback(["<unk>", "<s>", "</s>"], 12)
    return LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True, **tiny.limit(max_length))


def gemma(max_length):
    """As Gemma: the same without a space in front of the first word; <bos> in front."""
    vocab, merges = byte_fallback(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], 12, normalizers.Replace(" ", "▁"),
                                  pre_tokenizers.Split(" ", "merged_with_previous"))
    return GemmaTokenizer(vocab=vocab, merges=merges, add_bos_token=True, **tiny.limit(max_length))


def bert(max_length):
    words = [*tiny.BERT_SPECIALS, *tiny.wordpiece_vocab(True, 180)]
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)}, do_lower_case=True, **tiny.limit(max_length))


def pieces():
    """The pieces of a small unigram model with their scores, without its special ones."""
    with tempfile.TemporaryDirectory() as folder:
        model = sentencepiece.SentencePieceProcessor(model_file=tiny.sentencepiece_model(folder, "identity", 190, LANGUAGES))
    return [(model.id_to_piece(i), model.get_score(i)) for i in range(3, len(model))]


def xlm_roberta(max_length):
    """Unigram; the pieces of sentencepiece with special tokens in the order of fairseq."""
    vocab = [*((word, 0.0) for word in ("<s>", "<pad>", "</s>", "<unk>")), *pieces(), ("<mask>", 0.0)]
    return XLMRobertaTokenizer(vocab=vocab, **tiny.limit(max_length))


def deberta_v2(max_length):
    """Unigram, as DeBERTa v3: [MASK] comes last."""
    vocab = [*((word, 0.0) for word in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")), *pieces(), ("[MASK]", 0.0)]
    return DebertaV2Tokenizer(vocab=vocab, unk_id=3, **tiny.limit(max_length))


def albert(max_length):
    """Unigram without case and accents."""
    vocab = [*((word, 0.0) for word in ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")), *pieces()]
    return AlbertTokenizer(vocab=vocab, **tiny.limit(max_length))


def roberta(max_length):
    """GPT-2's vocabulary with the special tokens of fairseq."""
    vocab, merges, limit = byte_level(max_length, first=["<s>", "<pad>", "</s>", "<unk>"], last=["<mask>"])
    return RobertaTokenizer(vocab=vocab, merges=merges, **limit)


def deberta(max_length):
    """As DeBERTa v1: GPT-2's vocabulary with BERT's special tokens."""
    vocab, merges, limit = byte_level(max_length, first=["[CLS]", "[PAD]", "[SEP]", "[UNK]"], last=["[MASK]"])
    return DebertaTokenizer(vocab=vocab, merges=merges, **limit)


def gpt2(max_length):
    vocab, merges, limit = byte_level(max_length, last=["<|endoftext|>"])
    return GPT2Tokenizer(vocab=vocab, merges=merges, **limit)


def gpt_neox(max_length):
    vocab, merges, limit = byte_level(max_length, first=["<|endoftext|>", "<|padding|>"])
    return GPTNeoXTokenizer(vocab=vocab, merges=merges, **limit)


def opt(max_length):
    """As OPT: </s> in front of a text, and behind it where the model generates."""
    vocab, merges, limit = byte_level(max_length, first=["<s>", "<pad>", "</s>", "<unk>"])
    return GPT2Tokenizer(vocab=vocab, merges=merges, bos_token="</s>", eos_token="</s>", unk_token="</s>", pad_token="<pad>", add_bos_token=True,
                         **limit)
