"""The models of the non-generating tasks: one directory for several cases."""
import os

from safetensors.torch import load_file, save_file
from transformers import (BertConfig, BertForMaskedLM, BertForMultipleChoice, BertForNextSentencePrediction, BertForQuestionAnswering,
                          BertForSequenceClassification, BertForTokenClassification, DistilBertConfig, DistilBertForMaskedLM,
                          DistilBertForQuestionAnswering, DistilBertForSequenceClassification, GPT2Config,
                          GPT2ForSequenceClassification, RobertaConfig, RobertaForMaskedLM, RobertaForMultipleChoice,
                          RobertaForQuestionAnswering, RobertaForSequenceClassification, RobertaForTokenClassification,
                          T5Config, T5ForSequenceClassification, XLMRobertaConfig, XLMRobertaForQuestionAnswering,
                          XLMRobertaForTokenClassification)

import tiny_tokenizers as tiny
import tiny_tokenizers_tasks as tiny_tasks
from texts import corpus
from tools import CASES, write_json
from tools_tasks import MAX_LENGTH, SHAPE, centre, labels, model, save, weights

FEELINGS = labels("NEGATIVE", "NEUTRAL", "POSITIVE")
BIO = labels("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def balanced(net, tokenizer):
    """Balances a classifier's labels over the sample rows."""
    head = net.cls.seq_relationship if isinstance(net, BertForNextSentencePrediction) else getattr(net, "classifier", None)
    if head is None or net.config.num_labels == 1 or "Multiple" in type(net).__name__:
        return net
    return centre(net, getattr(head, "out_proj", head).bias, tokenizer, corpus()[:40])


def bert(name, cls, seed=None, padding_side="right", **settings):
    def make(folder):
        tokenizer = tiny.bert(max_length=MAX_LENGTH, size=220)
        tokenizer.padding_side = padding_side
        config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=MAX_LENGTH, **SHAPE, **settings)
        save(folder, balanced(weights(cls(config), seed or name), tokenizer), tokenizer)
    model(name)(make)


def roberta(name, cls, config_cls=RobertaConfig, tokenizer=tiny.roberta, seed=None, **settings):
    def make(folder):
        tok = tokenizer(max_length=MAX_LENGTH)
        config = config_cls(vocab_size=len(tok), max_position_embeddings=MAX_LENGTH + 2, type_vocab_size=1, layer_norm_eps=1e-5,
                            **SHAPE, **settings)
        save(folder, balanced(weights(cls(config), seed or name), tok), tok)
    model(name)(make)


def distilbert(name, cls, seed=None, **settings):
    def make(folder):
        tokenizer = tiny.distilbert(max_length=MAX_LENGTH, size=220)
        config = DistilBertConfig(vocab_size=len(tokenizer), max_position_embeddings=MAX_LENGTH, dim=16, hidden_dim=32, n_layers=2,
                                  n_heads=2, **settings)
        save(folder, balanced(weights(cls(config), seed or name), tokenizer), tokenizer)
    model(name)(make)


# ------------------------------------------------------------------------------ sequences
bert("bert-sentiment", BertForSequenceClassification, **FEELINGS)
bert("bert-topics", BertForSequenceClassification, problem_type="multi_label_classification",
     **labels("harbour", "bread", "café", "電影", "film noir"))
bert("bert-stars", BertForSequenceClassification, problem_type="regression", **labels("stars"))
roberta("roberta-sentiment", RobertaForSequenceClassification, **FEELINGS)
# transformers reads a configuration's function_to_apply only if num_labels is 0: it has no effect here
distilbert("distilbert-sentiment", DistilBertForSequenceClassification, function_to_apply="none", **labels("NEGATIVE", "POSITIVE"))


@model("gpt2-sentiment")
def gpt2_sentiment(folder):
    tokenizer = tiny_tasks.gpt2(max_length=MAX_LENGTH)
    end = tokenizer.eos_token_id
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=MAX_LENGTH, n_embd=16, n_layer=2, n_head=2, pad_token_id=end,
                        bos_token_id=end, eos_token_id=end, **FEELINGS)
    save(folder, weights(GPT2ForSequenceClassification(config), "gpt2-sentiment"), tokenizer)


@model("t5-sentiment")
def t5_sentiment(folder):
    tokenizer = tiny_tasks.t5(max_length=MAX_LENGTH)
    config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0,
                      **FEELINGS)
    save(folder, weights(T5ForSequenceClassification(config), "t5-sentiment"), tokenizer)


# the same weights three times: only the place of the labels differs
bert("bert-nli", BertForSequenceClassification, seed="nli", **labels("contradiction", "neutral", "entailment"))
bert("bert-nli-first", BertForSequenceClassification, seed="nli", **labels("ENTAILMENT_X", "NEUTRAL", "CONTRADICTION"))
bert("bert-nli-middle", BertForSequenceClassification, seed="nli", **labels("neutral", "Entailed", "contradiction"))
roberta("roberta-nli", RobertaForSequenceClassification, **labels("CONTRADICTION", "NEUTRAL", "ENTAILMENT"))

bert("bert-rerank", BertForSequenceClassification, **labels("LABEL_0"))
bert("bert-rerank-identity", BertForSequenceClassification, **labels("LABEL_0"),
     sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity", "version": "5.2.3"})
roberta("roberta-rerank-legacy", RobertaForSequenceClassification, **labels("LABEL_0"),
        sbert_ce_default_activation_function="torch.nn.modules.linear.Identity")

bert("bert-next", BertForNextSentencePrediction)
bert("bert-choice", BertForMultipleChoice)
roberta("roberta-choice", RobertaForMultipleChoice)

# ------------------------------------------------------------------------------ tokens
bert("bert-ner", BertForTokenClassification, **BIO)
bert("bert-ner-plain", BertForTokenClassification, **labels("O", "PER", "LOC", "MISC-2"))
roberta("roberta-ner", RobertaForTokenClassification, **BIO)
roberta("xlm-roberta-ner", XLMRobertaForTokenClassification, XLMRobertaConfig,
        lambda max_length: tiny.xlm_roberta(max_length=max_length, rule="few"), **BIO)

bert("bert-qa", BertForQuestionAnswering)
bert("bert-qa-left", BertForQuestionAnswering, padding_side="left")
roberta("roberta-qa", RobertaForQuestionAnswering)
distilbert("distilbert-qa", DistilBertForQuestionAnswering)
roberta("xlm-roberta-qa", XLMRobertaForQuestionAnswering, XLMRobertaConfig,
        lambda max_length: tiny.xlm_roberta(max_length=max_length, rule="few"))

bert("bert-mlm", BertForMaskedLM)
roberta("roberta-mlm", RobertaForMaskedLM)
distilbert("distilbert-mlm", DistilBertForMaskedLM)


def splade(name, plain, pooling, activation):
    """A sentence-transformers directory (MLMTransformer, SpladePooling) with the model that `plain` makes.

    Its bias is lowered so that most token weights are zero, as in real models.
    """
    def make(folder):
        plain(folder)
        path = os.path.join(folder, "model.safetensors")
        tensors = load_file(path)
        for key in {"cls.predictions.bias", "cls.predictions.decoder.bias", "vocab_projector.bias"} & set(tensors):
            tensors[key] -= 4.5
        save_file(tensors, path, metadata={"format": "pt"})
        modules = "sentence_transformers.sparse_encoder.models"
        write_json(os.path.join(folder, "modules.json"), [
            {"idx": 0, "name": "0", "path": "", "type": f"{modules}.MLMTransformer"},
            {"idx": 1, "name": "1", "path": "1_SpladePooling", "type": f"{modules}.SpladePooling"}])
        write_json(os.path.join(folder, "sentence_bert_config.json"), {"max_seq_length": MAX_LENGTH, "do_lower_case": False})
        write_json(os.path.join(folder, "config_sentence_transformers.json"), {"model_type": "SparseEncoder", "prompts": {}})
        os.makedirs(os.path.join(folder, "1_SpladePooling"))
        write_json(os.path.join(folder, "1_SpladePooling", "config.json"), {
            "pooling_strategy": pooling, "activation_function": activation, "word_embedding_dimension": None})
    model(name)(make)


splade("bert-splade", CASES["tasks/bert-mlm"], "max", "relu")
splade("distilbert-splade-sum", CASES["tasks/distilbert-mlm"], "sum", "log1p_relu")
