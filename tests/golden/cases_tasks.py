"""The final columns of the non-generating tasks: the results of transformers' pipelines and sentence-transformers."""
import os

import torch
from sentence_transformers import CrossEncoder, SparseEncoder
from sentence_transformers.sparse_encoder.models import MLMTransformer, SpladePooling
from transformers import (AutoModelForMaskedLM, AutoModelForMultipleChoice, AutoModelForNextSentencePrediction,
                          AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoModelForTokenClassification,
                          AutoTokenizer, PreTrainedTokenizerFast, pipeline)

import models_tasks  # noqa: F401 (registers the models)
from tools_tasks import Case, task, text_rows

LONG = "The little inn by the harbour was quiet, bright and very clean, and the bread was still warm. " * 3
TEXTS = [
    None,
    "",
    "Harbour",
    LONG,
    "Wow 🙂👍🏽, 房间干净安静。 👩‍👩‍👧‍👦 the film",
    "Cafe\u0301 nai\u0308ve co\u0308ope\u0301rative, Crème brûlée",
    "\"I can't,\" she said,\n'not today'.\n\nReally?! (Yes.)",
    "  leading and trailing spaces \t ",
    "Anna Kowalska met José in Kraków, near the harbour of Porto-Novo.",
]
TEXT = text_rows(*TEXTS)


def loaded(cls, path, change):
    # Eager attention: SDPA ignores `scale_attn_by_inverse_layer_idx`.
    return change(cls.from_pretrained(path, attn_implementation="eager").eval()), AutoTokenizer.from_pretrained(path)


def with_logits(net, keep):
    """Stores the last logits of `net` in the list `keep`."""
    net.register_forward_hook(lambda _module, _args, out: keep.append(out.logits[0].detach().numpy()))


# ------------------------------------------------------------------------ text-classification
def text_classification(path, case, change):
    net, tokenizer = loaded(AutoModelForSequenceClassification, path, change)
    keep = []
    with_logits(net, keep)
    pipe = pipeline("text-classification", model=net, tokenizer=tokenizer, device="cpu")
    options = {key: value for key, value in case.options.items() if key in ("top_k", "function_to_apply")}
    if options.get("top_k") == "all":
        options["top_k"] = None

    def call(row):
        keep.clear()
        value = pipe(row if "text_pair" in row else row["text"], truncation=True, **options)
        if case.options.get("top_k", 1) == 1 and isinstance(value, list):
            (value,) = value
        return value, ({"logits": keep[-1].tolist()} if "outputs" in case.options else {})
    return call


PAIR = {"text": "text", "text_pair": "text_pair"}
PAIRS = [{"text": a, "text_pair": b} for a, b in [
    ("Is the inn quiet?", "The little inn by the harbour was quiet."), (None, "x"), ("x", None), ("", "film"), ("film", ""), ("", ""),
    (LONG, "short"), ("short", LONG), (LONG, LONG), ("🙂 房间", "Cafe\u0301 \"quoted\"\nline"), ("  spaces  ", "  around  ")]]

task("text-classification", text_classification, [
    Case("bert", "bert-sentiment", TEXT),
    Case("roberta", "roberta-sentiment", TEXT),
    Case("distilbert", "distilbert-sentiment", TEXT,
         notes="config.json has function_to_apply none, which transformers reads only where num_labels is 0: softmax"),
    Case("bert-pairs", "bert-sentiment", PAIRS, PAIR, notes="truncation is longest_first"),
    Case("roberta-pairs", "roberta-sentiment", PAIRS, PAIR),
    Case("t5-pairs", "t5-sentiment", PAIRS, PAIR, notes="two </s> in a row: the head reads the last"),
    Case("bert-multi-label", "bert-topics", TEXT, options={"top_k": "all"},
         notes="problem_type multi_label_classification: sigmoid"),
    Case("bert-multi-label-best", "bert-topics", TEXT, notes="one label even so"),
    Case("bert-regression", "bert-stars", TEXT, notes="problem_type regression: the logit"),
    Case("bert-one-label", "bert-rerank", TEXT, notes="num_labels 1 without problem_type: sigmoid"),
    Case("bert-top-1", "bert-sentiment", TEXT, options={"top_k": 1},
         notes="transformers gives a list of one where top_k is given; here it is that one"),
    Case("bert-top-2", "bert-sentiment", TEXT, options={"top_k": 2}),
    Case("bert-top-9", "bert-sentiment", TEXT, options={"top_k": 9}, notes="more than there are labels"),
    Case("bert-all", "bert-sentiment", TEXT, options={"top_k": "all"}),
    Case("bert-sigmoid", "bert-sentiment", TEXT, options={"top_k": "all", "function_to_apply": "sigmoid"}),
    Case("bert-none", "bert-sentiment", TEXT, options={"top_k": "all", "function_to_apply": "none"}),
    Case("bert-none-best", "bert-sentiment", TEXT, options={"function_to_apply": "none"}),
    Case("bert-multi-label-softmax", "bert-topics", TEXT, options={"top_k": "all", "function_to_apply": "softmax"}),
    Case("bert-regression-sigmoid", "bert-stars", TEXT, options={"function_to_apply": "sigmoid"}),
    Case("gpt2", "gpt2-sentiment", TEXT, notes="the last token counts"),
    Case("t5", "t5-sentiment", TEXT, options={"top_k": "all"}),
    Case("bert-logits", "bert-sentiment", TEXT, options={"outputs": ["logits"]}, notes="`logits`: one list a row"),
])


# -------------------------------------------------------------------- zero-shot-classification
def zero_shot(path, case, change):
    net, tokenizer = loaded(AutoModelForSequenceClassification, path, change)
    pipe = pipeline("zero-shot-classification", model=net, tokenizer=tokenizer, device="cpu")

    def call(row):
        value = pipe(row["text"], **case.options)
        return [{"label": label, "score": score} for label, score in zip(value["labels"], value["scores"])]
    return call


SUBJECTS = {"candidate_labels": ["travel", "food and drink", "café 🙂"]}
ONE = "one label: entailment against contradiction, whatever multi_label is"
task("zero-shot-classification", zero_shot, [
    Case("bert", "bert-nli", TEXT, options=SUBJECTS),
    Case("bert-multi-label", "bert-nli", TEXT, options={**SUBJECTS, "multi_label": True}),
    Case("bert-first", "bert-nli-first", TEXT, options=SUBJECTS, notes="ENTAILMENT_X is 0"),
    Case("bert-first-multi-label", "bert-nli-first", TEXT, options={**SUBJECTS, "multi_label": True},
         notes="entailment is 0, so the last label is taken for contradiction"),
    Case("bert-middle", "bert-nli-middle", TEXT, options=SUBJECTS, notes="Entailed is 1: any label that starts with `entail` will do"),
    Case("bert-middle-multi-label", "bert-nli-middle", TEXT, options={**SUBJECTS, "multi_label": True},
         notes="entailment is not 0, so label 0 is taken for contradiction, though it is neutral here"),
    Case("bert-unnamed", "bert-sentiment", TEXT, options=SUBJECTS,
         notes="no label starts with `entail`: transformers warns and takes the last"),
    Case("bert-one-label", "bert-nli", TEXT, options={"candidate_labels": ["travel"]}, notes=ONE),
    Case("bert-one-label-multi-label", "bert-nli", TEXT, options={"candidate_labels": ["travel"], "multi_label": True}, notes=ONE),
    Case("bert-commas", "bert-nli", TEXT, options={"candidate_labels": " travel , food and drink,, film"},
         notes="a string is split at commas, its parts trimmed, empty ones left out"),
    Case("bert-template", "bert-nli", TEXT, options={**SUBJECTS, "hypothesis_template": "It speaks of {}, \"naturally\"."}),
    Case("roberta", "roberta-nli", TEXT, options=SUBJECTS),
    Case("roberta-multi-label", "roberta-nli", TEXT, options={**SUBJECTS, "multi_label": True}),
])


# ------------------------------------------------------------------------------ rerank
ACTIVATIONS = {"sigmoid": torch.nn.Sigmoid, "identity": torch.nn.Identity}


def rerank(path, case, change):
    encoder = CrossEncoder(path, device="cpu")
    change(encoder.model)
    name = case.options.get("activation")

    def call(row):
        return float(encoder.predict([(row["query"], row["document"])], show_progress_bar=False,
                                     activation_fn=None if name is None else ACTIVATIONS[name]())[0])
    return call


QUERY = {"query": "query", "document": "document"}
QUERIES = [{"query": row["text"], "document": row["text_pair"]} for row in PAIRS]
task("rerank", rerank, [
    Case("bert", "bert-rerank", QUERIES, QUERY, notes="num_labels 1: sigmoid"),
    Case("bert-identity", "bert-rerank-identity", QUERIES, QUERY, notes="sentence_transformers.activation_fn of config.json"),
    Case("roberta-legacy", "roberta-rerank-legacy", QUERIES, QUERY, notes="sbert_ce_default_activation_function of config.json"),
    Case("bert-option-identity", "bert-rerank", QUERIES, QUERY, {"activation": "identity"}),
    Case("bert-identity-option-sigmoid", "bert-rerank-identity", QUERIES, QUERY, {"activation": "sigmoid"}),
])


# ------------------------------------------------------------------------ token-classification
def token_classification(path, case, change):
    net, tokenizer = loaded(AutoModelForTokenClassification, path, change)
    keep = []
    with_logits(net, keep)
    pipe = pipeline("token-classification", model=net, tokenizer=tokenizer, device="cpu")
    options = {key: value for key, value in case.options.items() if key != "outputs"}

    def call(row):
        keep.clear()
        spans = pipe(row["text"], **options)
        value = [{"label": span.get("entity", span.get("entity_group")), **({"index": span["index"]} if "index" in span else {}),
                  **{key: span[key] for key in ("score", "word", "start", "end")}} for span in spans]
        return value, ({"logits": keep[-1].tolist()} if "outputs" in case.options else {})
    return call


NER_TEXT = TEXT + text_rows(
    "Anna", "Anna Anna", "New York, New York!", "unquestionably internationalisation", "Port of Kraków (Poland): 3.14 km; it's far…",
    "张三 lives in 北京", "Café de Flore", "🙂", ".", " ", "Anna\nKowalska\tfrom  Kraków")
STRATEGIES = ["none", "simple", "first", "average", "max"]
NER_MODELS = {"bert": "bert-ner", "bert-plain": "bert-ner-plain", "roberta": "roberta-ner", "xlm-roberta": "xlm-roberta-ner"}
WORDY = "words by the tokenizer's continuing_subword_prefix"
SPACED = "no continuing_subword_prefix: a token is inside a word where neither the character before it nor its first is a space"
task("token-classification", token_classification, [
    Case(f"{short}-{strategy}", name, NER_TEXT, options={"aggregation_strategy": strategy},
         notes=WORDY if short.startswith("bert") else SPACED)
    for short, name in NER_MODELS.items() for strategy in STRATEGIES
] + [
    Case("bert-default", "bert-ner", NER_TEXT, notes="aggregation_strategy none"),
    Case("bert-ignore-nothing", "bert-ner", NER_TEXT, options={"ignore_labels": []}),
    Case("bert-ignore-nothing-simple", "bert-ner", NER_TEXT, options={"ignore_labels": [], "aggregation_strategy": "simple"}),
    Case("bert-ignore-two", "bert-ner", NER_TEXT, options={"ignore_labels": ["O", "B-PER"]}),
    Case("bert-ignore-group", "bert-ner", NER_TEXT, options={"ignore_labels": ["O", "PER", "I-LOC"], "aggregation_strategy": "simple"},
         notes="a group is named without B- and I-, so `I-LOC` ignores nothing"),
    *(Case(f"{short}-stride-{strategy}", NER_MODELS[short], NER_TEXT, options={"aggregation_strategy": strategy, "stride": 8},
           notes="windows of the model's maximum that share 8 tokens; of overlapping spans the longer stays, then the better")
      for short in ("bert", "roberta", "xlm-roberta") for strategy in ("simple", "first", "average", "max")),
    Case("bert-stride-0", "bert-ner", NER_TEXT, options={"aggregation_strategy": "simple", "stride": 0}),
    Case("bert-logits", "bert-ner", NER_TEXT, options={"outputs": ["logits"]},
         notes="`logits`: a list for each token, special ones included"),
])


# -------------------------------------------------------------------------- question-answering
def question_answering(path, case, change):
    net, tokenizer = loaded(AutoModelForQuestionAnswering, path, change)
    pipe = pipeline("question-answering", model=net, tokenizer=tokenizer, device="cpu")

    def call(row):
        value = pipe(question=row["question"], context=row["context"], **case.options)
        if case.options.get("top_k", 1) == 1:
            return {key: value[key] for key in ("answer", "score", "start", "end")}
        value = value if isinstance(value, list) else [value]
        return [{key: answer[key] for key in ("answer", "score", "start", "end")} for answer in value]
    return call


QA = {"question": "question", "context": "context"}
QUESTIONS = [{"question": q, "context": c} for q, c in [
    (None, "x"), ("x", None), ("Where?", "By the harbour."), ("Who?", "Anna"),
    ("What was warm?", "The little inn was quiet, bright and clean, and the bread was still warm."),
    ("What was warm?", LONG),
    ("房间?", "房间干净安静，窗外就是大海。🙂👍🏽 Wow"),
    ("Cafe\u0301?", "Cafe\u0301 nai\u0308ve, \"Crème\"\n\n  brûlée, Kraków. "),
    ("Who was there?", "  Anna and anna and ANNA, and Anna Kowalska, and Anna again  "),
    ("Is the unquestionably international question that we ask here about the harbour longer than it should be?", "Yes, it is."),
    ("", "context"), ("question", ""), ("?", "  "),
]]
WINDOWS = {"max_seq_len": 24, "doc_stride": 8}
SPECIAL = [{"question": q, "context": c} for q, c in [
    ("Who?", "Anna [CLS] Kowalska [SEP] was there"), ("[CLS]?", "Anna Kowalska was there"), ("Who <s>?", "Anna <s> Kowalska </s> was there")]]
task("question-answering", question_answering, [
    *(Case(short, f"{short}-qa", QUESTIONS, QA, notes="max_seq_len is the model's 32 and doc_stride half of it")
      for short in ("bert", "roberta", "distilbert")),
    *(Case(f"{short}-top-3", f"{short}-qa", QUESTIONS, QA, {"top_k": 3},
           notes="answers that are equal but for capitals are one, their scores added; transformers gives one answer bare, "
                 "here it is a list") for short in ("bert", "roberta", "distilbert")),
    *(Case(f"{short}-windows", f"{short}-qa", QUESTIONS, QA, WINDOWS) for short in ("bert", "roberta", "distilbert")),
    *(Case(f"{short}-windows-top-5", f"{short}-qa", QUESTIONS, QA, {**WINDOWS, "top_k": 5}) for short in ("bert", "roberta")),
    *(Case(f"{short}-impossible", f"{short}-qa", QUESTIONS, QA, {**WINDOWS, "handle_impossible_answer": True})
      for short in ("bert", "roberta", "distilbert")),
    *(Case(f"{short}-impossible-top-4", f"{short}-qa", QUESTIONS, QA, {"top_k": 4, "handle_impossible_answer": True})
      for short in ("bert", "roberta")),
    Case("bert-possible", "bert-qa", QUESTIONS, QA, {"handle_impossible_answer": False}),
    Case("bert-answer-1", "bert-qa", QUESTIONS, QA, {"max_answer_len": 1}),
    Case("bert-answer-3-top-3", "bert-qa", QUESTIONS, QA, {"max_answer_len": 3, "top_k": 3}),
    Case("roberta-answer-2", "roberta-qa", QUESTIONS, QA, {"max_answer_len": 2}),
    Case("bert-question-4", "bert-qa", QUESTIONS, QA, {"max_question_len": 4},
         notes="transformers cuts questions only with its slow tokenizers: with these max_question_len changes nothing"),
    Case("bert-special-top-4", "bert-qa", SPECIAL, QA, {"top_k": 4}, notes="a [CLS] of the text may be an answer too"),
    Case("roberta-special-top-4", "roberta-qa", SPECIAL, QA, {"top_k": 4}),
    Case("bert-left", "bert-qa-left", QUESTIONS, QA, WINDOWS,
         notes="padding_side left: the context comes first, and every token may be in the answer"),
    Case("bert-left-top-5", "bert-qa-left", QUESTIONS, QA, {**WINDOWS, "top_k": 5}),
    Case("xlm-roberta", "xlm-roberta-qa", QUESTIONS, QA),
    Case("xlm-roberta-windows-top-5", "xlm-roberta-qa", QUESTIONS, QA, {**WINDOWS, "top_k": 5},
         notes="windows have token_type_ids of 1 from the second on, which model_input_names keeps from the model"),
    Case("bert-top-100", "bert-qa", QUESTIONS, QA, {"top_k": 100}, notes="more than there are candidates"),
])


# ------------------------------------------------------------------------------ fill-mask
def fill_mask(path, case, change):
    net, tokenizer = loaded(AutoModelForMaskedLM, path, change)
    pipe = pipeline("fill-mask", model=net, tokenizer=tokenizer, device="cpu")
    options = {key: value for key, value in case.options.items() if key in ("top_k", "targets")}
    several = case.options.get("multiple_masks", False)

    def call(row):
        value = pipe(row["text"], tokenizer_kwargs={"truncation": True}, **options)
        nested = isinstance(value[0], list)
        if nested and not several:
            raise ValueError(f"{len(value)} masks (our own: transformers gives a list of lists here)")
        if several and not nested:
            value = [value]

        def entry(guess):
            return {key: guess[key] for key in ("token_str", "token", "score", "sequence")}
        return [[entry(g) for g in mask] for mask in value] if several else [entry(g) for g in value]
    return call


def masked(mask):
    return text_rows(*[text and text.replace("_", mask) for text in [
        None, "", "no mask", "_", "The _ was quiet.", "_ starts", "it ends with _", "  spaces _  ", "🙂 房间 _ Cafe\u0301 \"x\"\nline",
        LONG.replace("inn", "_", 1).replace("bright and", "bright, not dark, and"), LONG + "_", "a _ and a _", "x_y", "_._, _!"]])


MASKED = {"bert": masked("[MASK]"), "roberta": masked("<mask>"), "distilbert": masked("[MASK]")}
TARGETS = {"bert": ["the", "film", "Harbour", "unquestionably", "##s", "café"],
           "roberta": ["the", " the", "\u0120the", "film", "unquestionably", " unquestionably", "🙂"]}
FIRST_PIECE = "a target that is no token becomes its first piece (a warning); targets that become the same token are one"
task("fill-mask", fill_mask, [
    *(Case(short, f"{short}-mlm", rows, notes="`sequence` leaves special tokens out") for short, rows in MASKED.items()),
    *(Case(f"{short}-top-2", f"{short}-mlm", rows, options={"top_k": 2}) for short, rows in MASKED.items()),
    *(Case(f"{short}-targets", f"{short}-mlm", MASKED[short], options={"targets": targets}, notes=FIRST_PIECE)
      for short, targets in TARGETS.items()),
    Case("bert-target", "bert-mlm", MASKED["bert"], options={"targets": "the"}),
    Case("bert-targets-top-2", "bert-mlm", MASKED["bert"], options={"targets": TARGETS["bert"], "top_k": 2}),
    *(Case(f"{short}-multiple", f"{short}-mlm", rows, options={"multiple_masks": True, "top_k": 3},
           notes="`sequence` keeps special tokens where a text has several masks; with one mask transformers gives a list, "
                 "here it is a list of one list") for short, rows in MASKED.items()),
    Case("bert-multiple-targets", "bert-mlm", MASKED["bert"], options={"multiple_masks": True, "targets": TARGETS["bert"]}),
])


# ------------------------------------------------------------------------------ sparse-encoding
def sparse_encoding(path, case, change):
    if "pooling" in case.options:
        encoder = SparseEncoder(modules=[MLMTransformer(path), SpladePooling(case.options["pooling"])], device="cpu")
    else:
        encoder = SparseEncoder(path, device="cpu")
    change(encoder)

    def call(row):
        vector = encoder.encode(row["text"], max_active_dims=case.options.get("top_k"), convert_to_sparse_tensor=False,
                                show_progress_bar=False)
        best = sorted((i for i, weight in enumerate(vector.tolist()) if weight > 0), key=lambda i: -vector[i].item())
        return [{"token": encoder.tokenizer.convert_ids_to_tokens(i), "index": i, "weight": vector[i].item()} for i in best]
    return call


task("sparse-encoding", sparse_encoding, [
    Case("bert", "bert-splade", TEXT, notes="modules.json: max of log1p(relu(logits))"),
    Case("bert-top-8", "bert-splade", TEXT, options={"top_k": 8}),
    Case("bert-sum", "bert-splade", TEXT, options={"pooling": "sum"}),
    Case("bert-sum-top-3", "bert-splade", TEXT, options={"pooling": "sum", "top_k": 3}),
    Case("distilbert-sum", "distilbert-splade-sum", TEXT, options={"top_k": 12},
         notes="1_SpladePooling/config.json: sum, log1p_relu (the logarithm twice)"),
    Case("bert-plain", "bert-mlm", TEXT, options={"pooling": "max", "top_k": 12}, notes="no modules.json"),
    Case("roberta-plain", "roberta-mlm", TEXT, options={"pooling": "max", "top_k": 12}, notes="no modules.json"),
])


# ------------------------------------------------------------------ next-sentence-prediction
def next_sentence(path, _case, change):
    net, tokenizer = loaded(AutoModelForNextSentencePrediction, path, change)

    def call(row):
        with torch.inference_mode():
            logits = net(**tokenizer(row["text"], row["text_pair"], truncation=True, return_tensors="pt")).logits[0]
        return {"is_next": bool(logits.argmax() == 0), "score": logits.softmax(-1)[0].item()}, {"logits": logits.tolist()}
    return call


task("next-sentence-prediction", next_sentence, [
    Case("bert", "bert-next", PAIRS + [{"text": a, "text_pair": b} for a, b in [
        ("The bread was warm.", "We ate it at once."), ("We ate it at once.", "The bread was warm."), ("a", "b"), ("Film!", "房间")]],
         PAIR, notes="`score`: the probability of label 0, `is next`; `logits`: of both"),
])


# ---------------------------------------------------------------------------- multiple-choice
def multiple_choice(path, case, change):
    net, tokenizer = loaded(AutoModelForMultipleChoice, path, change)

    def call(row):
        choices = [row[column] for column in case.input["choices"]] if isinstance(case.input["choices"], list) else row["choices"]
        encoded = tokenizer([row["prompt"]] * len(choices), choices, truncation=True, padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits = net(**{key: value[None] for key, value in encoded.items()}).logits[0]
        return {"choice": logits.argmax().item(), "scores": logits.softmax(-1).tolist()}, {"logits": logits.tolist()}
    return call


def choices(n):
    rows = [("What was warm?", ["The bread.", "The film, which was slow at first.", "Nothing at all", "🙂"]),
            ("", ["", "a", "房间", "\"quoted\"\nline"]), ("Cafe\u0301 nai\u0308ve  ", ["  spaces  ", LONG, "short", ""]),
            (LONG, ["Yes", "No", LONG, "It's"]), ("x", ["same", "other", "more", "most"])]
    return [{"prompt": prompt, "choices": texts[:n]} for prompt, texts in rows] + [{"prompt": None, "choices": ["a"] * n}]


def in_columns(n):
    return [{"prompt": row["prompt"], **{f"choice_{i}": text for i, text in enumerate(row["choices"])}} for row in choices(n)]


LIST = {"prompt": "prompt", "choices": "choices"}
SCORES = "`scores`: softmax over the choices; `logits` beside them"
task("multiple-choice", multiple_choice, [
    *(Case(f"{short}-{n}", f"{short}-choice", choices(n), LIST, notes=SCORES) for short in ("bert", "roberta") for n in (2, 3, 4)),
    Case("bert-1", "bert-choice", choices(1), LIST, notes="one choice: score 1"),
    Case("bert-columns", "bert-choice", in_columns(3), {"prompt": "prompt", "choices": ["choice_0", "choice_1", "choice_2"]}, notes=SCORES),
    Case("bert-lists", "bert-choice", [row for n in (3, 2, 4) for row in choices(n)[:2]], LIST, notes="lists of several lengths"),
])


# -------------------------------------------------------------------------------- token-count
def token_count(path, _case, _change):
    tokenizer = AutoTokenizer.from_pretrained(path)
    return lambda row: len(tokenizer(row["text"])["input_ids"])


task("token-count", token_count, [
    Case(short, name, NER_TEXT, notes="special tokens included, nothing cut") for short, name in [
        ("bert", "bert-sentiment"), ("roberta", "roberta-sentiment"), ("xlm-roberta", "xlm-roberta-ner"), ("gpt2", "gpt2-sentiment"),
        ("t5", "t5-sentiment")]
])


# -------------------------------------------------------------------------------------- chunk
def chunk(path, case, _change):
    """The windows of the tokenizer as texts, without white space at their ends.

    Left out are rows where a window ends inside a character, or has more tokens alone than in its text: there, chunks are
    shorter than windows.
    """
    # As tokenizer.json has it: transformers 5 makes some tokenizers again from their vocabulary.
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=os.path.join(path, "tokenizer.json"))
    max_tokens, overlap = case.options["max_tokens"], case.options["overlap"]

    def windows(text):
        windows = tokenizer(text, truncation=True, max_length=max_tokens, stride=overlap, return_overflowing_tokens=True,
                            return_offsets_mapping=True, return_special_tokens_mask=True)
        for offsets, mask in zip(windows["offset_mapping"], windows["special_tokens_mask"]):
            yield [span for span, special in zip(offsets, mask) if not special]

    def call(row):
        text, chunks = row["text"], []
        for spans in windows(text):
            if not spans:
                continue
            start, end = spans[0][0], spans[-1][1]
            own = text[start:end]
            start, end = start + len(own) - len(own.lstrip()), end - len(own) + len(own.rstrip())
            # Not one of white space, nor one that repeats the end of the one before.
            if own.strip() and end > (chunks[-1]["end"] if chunks else 0):
                chunks.append({"chunk": text[start:end], "index": len(chunks), "start": start, "end": end})
        return chunks

    def is_kept(row):
        if row["text"] is None:
            return True
        spans = list(windows(row["text"]))
        ends = {window[-1][1] for window in spans if window}
        everything = tokenizer(row["text"], return_offsets_mapping=True)["offset_mapping"]
        inside = any(start < end < stop for end in ends for start, stop in everything)
        torn = [span for window in spans for span in (window[:1] + window[-1:]) if everything.count(span) > 1]
        return not inside and not torn and all(len(tokenizer(c["chunk"])["input_ids"]) <= max_tokens for c in call(row))

    case.rows = [row for row in case.rows if is_kept(row)]
    assert sum(row["text"] is not None for row in case.rows) > 3, case.name
    return call


CHUNKS = {"by": "tokens", "max_tokens": 16, "overlap": 4}
task("chunk", chunk, [
    *(Case(short, name, list(NER_TEXT), options=CHUNKS, notes="return_overflowing_tokens with a stride") for short, name in [
        ("bert", "bert-sentiment"), ("roberta", "roberta-sentiment"), ("xlm-roberta", "xlm-roberta-ner"), ("gpt2", "gpt2-sentiment"),
        ("t5", "t5-sentiment")]),
    Case("bert-apart", "bert-sentiment", list(NER_TEXT), options={"by": "tokens", "max_tokens": 32, "overlap": 0}),
])
