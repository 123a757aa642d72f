"""DeBERTa in pipelines: zero-shot classification and token classification, with the sentencepiece model as the only file of the tokenizer,
and question answering. As cases_tasks.py, whose references and rows these are. transformers 5 has no pipeline for questions, so those are
answered by 4.57, with the tokenizer.json that 5.24 saves: the two make other ones of a sentencepiece model. make_goldens.py itself needs 5:

    PYTHONPATH=FOLDER_OF_4_57 python -c "import cases_tasks_deberta, tools; tools.make('tasks/deberta-questions')"
"""
import os
import shutil

import torch
import transformers
from transformers import (AutoTokenizer, DebertaV2Config, DebertaV2ForQuestionAnswering, DebertaV2ForSequenceClassification,
                          DebertaV2ForTokenClassification)

from cases_tasks import NER_TEXT, QA, QUESTIONS, STRATEGIES, SUBJECTS, TEXT, WINDOWS, question_answering, token_classification, zero_shot
from heads import compact
from models_tasks import BIO
from texts import HERE, corpus
from tools import CASES, skip, write_json
from tools_tasks import MAX_LENGTH, SHAPE, Case, centre, labels, model, weights, write_case

V3 = dict(relative_attention=True, position_buckets=8, max_relative_positions=-1, share_att_key=True, pos_att_type=["p2c", "c2p"],
          norm_rel_ebd="layer_norm", position_biased_input=False, type_vocab_size=0, max_position_embeddings=MAX_LENGTH)

TOKENIZER_CONFIG = {"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": False, "vocab_type": "spm", "model_max_length": MAX_LENGTH}


def deberta(name, cls, tokenizer_json=False, **settings):
    def make(folder):
        if not transformers.__version__.startswith("5"):
            skip(f"tasks/{name} is made with transformers 5.24")
        shutil.copy(os.path.join(HERE, "spm-tokenizers", "deberta.model"), os.path.join(folder, "spm.model"))
        write_json(os.path.join(folder, "tokenizer_config.json"), TOKENIZER_CONFIG)
        config = DebertaV2Config(vocab_size=321, pad_token_id=0, **{**SHAPE, "num_hidden_layers": 1}, **V3, **settings)
        config.save_pretrained(folder)      # names the class of the tokenizer
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert len(tokenizer) == 321, len(tokenizer)
        torch.manual_seed(0)
        net = weights(cls(config), name)
        if config.num_labels > 2:
            net = centre(net, net.classifier.bias, tokenizer, corpus()[:40])
        net.save_pretrained(folder)
        if tokenizer_json:
            tokenizer.save_pretrained(folder)
            compact(folder)
            write_json(os.path.join(folder, "tokenizer_config.json"), TOKENIZER_CONFIG)      # 4.57 does not read that of 5
            os.remove(os.path.join(folder, "spm.model"))
    model(name)(make)


deberta("deberta-nli", DebertaV2ForSequenceClassification, **labels("entailment", "neutral", "contradiction"))
deberta("deberta-ner", DebertaV2ForTokenClassification, **BIO)
deberta("deberta-qa", DebertaV2ForQuestionAnswering, tokenizer_json=True)

SOME = [*TEXT[:3], *TEXT[4:6], *TEXT[7:], *NER_TEXT[len(TEXT)::2]]
OF_5 = [
    ("zero-shot-classification", zero_shot, [
        Case("zero-shot", "deberta-nli", TEXT, options=SUBJECTS, notes="entailment is 0, as in the checkpoints of DeBERTa v3"),
        Case("zero-shot-multi-label", "deberta-nli", TEXT, options={**SUBJECTS, "multi_label": True}),
        Case("zero-shot-template", "deberta-nli", TEXT, options={**SUBJECTS, "hypothesis_template": "It speaks of {}, \"naturally\"."})]),
    ("token-classification", token_classification, [
        Case(f"ner-{strategy}", "deberta-ner", SOME, options={"aggregation_strategy": strategy},
             notes="a token begins with the space before it, and so does its span") for strategy in STRATEGIES
    ] + [Case("ner-stride-first", "deberta-ner", SOME, options={"aggregation_strategy": "first", "stride": 8})]),
]
OF_4 = [
    ("question-answering", question_answering, [
        Case("qa", "deberta-qa", QUESTIONS, QA),
        Case("qa-top-3", "deberta-qa", QUESTIONS, QA, {"top_k": 3}),
        Case("qa-windows-top-3", "deberta-qa", QUESTIONS, QA, {**WINDOWS, "top_k": 3}),
        Case("qa-impossible", "deberta-qa", QUESTIONS, QA, {**WINDOWS, "handle_impossible_answer": True})]),
]


def register(name, version, tasks):
    def write(folder):
        if not transformers.__version__.startswith(version):
            skip(f"tasks/{name} is made with transformers {version}")
        for task_name, reference, cases in tasks:
            for case in cases:
                write_case(folder, task_name, case, reference)

    CASES[f"tasks/{name}"] = write


register("deberta", "5.24", OF_5)
register("deberta-questions", "4.57", OF_4)
