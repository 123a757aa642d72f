"""Vectors of images and of texts in one space, and images labelled by texts. Made with transformers 5."""
import json
import os
import shutil
from collections import Counter

import torch
import transformers
from sentence_transformers import SentenceTransformer
from transformers import (AutoImageProcessor, AutoModel, AutoModelForZeroShotImageClassification, AutoTokenizer, BeitConfig, BeitModel, CLIPConfig,
                          CLIPModel, CLIPTokenizer, Dinov2Config, Dinov2Model, SiglipConfig, SiglipModel, SiglipTokenizer, SwinConfig, SwinModel,
                          ViTConfig, ViTModel, pipeline)
from transformers.image_utils import load_image

from cases_tasks_images import PICTURES, SIDE, SIZE, SOME, path_of, pictures
from cases_vision import randomise
from texts import HERE, corpus
from tools import CASES, case, rewrite, skip, versions, write_golden, write_json, write_tensors
from tools_tasks import Case, model, model_folder, task

# Without the picture whose palette has a transparent colour: transformers 5.24 keeps that colour when it makes the picture RGB, and
# then its processors paint every pixel of that colour white. Here, as in transformers 4.57, transparency is left out.
ALL = pictures(None, *(name for name in PICTURES if name != "palette-clear.png"))


def only_5():
    if not transformers.__version__.startswith("5"):
        skip("made with transformers 5")


# ------------------------------------------------------------------------------ tokenizers
def clip_tokenizer(merges=90):
    """Byte pairs that end words in `</w>`. Ties are broken by spelling, so every run gives the same vocabulary."""
    steps = CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[]).backend_tokenizer
    words = Counter()
    for text in corpus():
        text = steps.normalizer.normalize_str(text)
        words.update(word for word, _ in steps.pre_tokenizer.pre_tokenize_str(text))
    letters = [chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256))]
    letters += [chr(256 + i) for i in range(256 - len(letters))]
    vocab = letters + [letter + "</w>" for letter in letters]
    parts = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    made = []
    for _ in range(merges):
        pairs = Counter()
        for word, count in words.items():
            for pair in zip(parts[word], parts[word][1:]):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        made.append(best)
        vocab.append("".join(best))
        for word, old in parts.items():
            new, i = [], 0
            while i < len(old):
                joined = i + 1 < len(old) and (old[i], old[i + 1]) == best
                new.append("".join(old[i:i + 2]) if joined else old[i])
                i += 2 if joined else 1
            parts[word] = new
    vocab = dict.fromkeys(vocab)
    ids = {token: i for i, token in enumerate([*vocab, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=ids, merges=made, model_max_length=24)


def siglip_tokenizer():
    """As on the hub: without a mask, so that pads are attended."""
    return SiglipTokenizer(vocab_file=os.path.join(HERE, "t5-spiece", "spiece.model"), model_input_names=["input_ids"])


# ---------------------------------------------------------------------------------- models
def tower(**changes):
    return dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, **changes)


@model("clip")
def clip(folder):
    only_5()
    tokenizer = clip_tokenizer()
    text = tower(vocab_size=len(tokenizer), max_position_embeddings=24, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    net = CLIPModel(CLIPConfig(text_config=text, vision_config=tower(image_size=SIDE, patch_size=4), projection_dim=12))
    randomise(net, "tasks/clip").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size=SIZE).save_pretrained(folder)


@model("siglip")
def siglip(folder):
    only_5()
    tokenizer = siglip_tokenizer()
    net = SiglipModel(SiglipConfig(text_config=tower(vocab_size=len(tokenizer), max_position_embeddings=64),
                                   vision_config=tower(image_size=SIDE, patch_size=4)))
    randomise(net, "tasks/siglip").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers.SiglipImageProcessorPil(size=SIZE).save_pretrained(folder)


@model("clip-sentence-transformers")
def clip_sentence_transformers(folder):
    """As `clip-ViT-B-32`: the files of CLIP in `0_CLIPModel`."""
    only_5()
    shutil.copytree(model_folder("clip"), os.path.join(folder, "0_CLIPModel"))
    write_json(os.path.join(folder, "modules.json"), [
        {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}])
    write_json(os.path.join(folder, "config_sentence_transformers.json"), {"__version__": {"sentence_transformers": "2.0.0"}})
    os.makedirs(os.path.join(folder, "1_Normalize"))
    open(os.path.join(folder, "1_Normalize", ".gitkeep"), "w").close()


@model("vit-pooler")
def vit_pooler(folder):
    only_5()
    net = ViTModel(ViTConfig(**tower(image_size=SIDE, patch_size=4)))
    randomise(net, "tasks/vit-pooler").save_pretrained(folder)
    transformers.ViTImageProcessorPil(size=SIZE).save_pretrained(folder)


@model("dinov2")
def dinov2(folder):
    only_5()
    net = Dinov2Model(Dinov2Config(hidden_size=12, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=4))
    randomise(net, "tasks/dinov2").save_pretrained(folder)
    transformers.BitImageProcessorPil(size={"shortest_edge": 20}, crop_size=SIZE).save_pretrained(folder)


@model("beit")
def beit(folder):
    only_5()
    net = BeitModel(BeitConfig(**tower(image_size=SIDE, patch_size=4, use_relative_position_bias=True)))
    randomise(net, "tasks/beit").save_pretrained(folder)
    transformers.BeitImageProcessorPil(size=SIZE).save_pretrained(folder)


@model("swin")
def swin(folder):
    only_5()
    net = SwinModel(SwinConfig(image_size=SIDE, patch_size=2, embed_dim=8, depths=[2, 1], num_heads=[2, 2], window_size=3))
    randomise(net, "tasks/swin").save_pretrained(folder)
    transformers.ViTImageProcessorPil(size=SIZE).save_pretrained(folder)


# ----------------------------------------------------------------------------------- cases
def features(path, case, change):
    only_5()
    own = os.path.join(path, "0_CLIPModel")
    folder = own if os.path.isdir(own) else path
    net = change(AutoModel.from_pretrained(folder).eval())
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    pooling = case.options.get("pooling")

    def call(row):
        image = load_image(path_of(os.path.basename(row["image"])))
        with torch.inference_mode():
            if hasattr(net, "get_image_features") and pooling is None:
                value = net.get_image_features(**processor(image, return_tensors="pt")).pooler_output[0]
            else:
                base = getattr(net, "vision_model", net)
                pipe = pipeline("image-feature-extraction", model=base, image_processor=processor, device="cpu")
                if pooling == "pooler":
                    value = torch.tensor(pipe(image, pool=True)[0])
                else:
                    tokens = torch.tensor(pipe(image)[0])
                    value = tokens[0] if pooling == "cls" else tokens.mean(0)
        if case.options.get("normalize") or folder == own:
            value = torch.nn.functional.normalize(value, dim=0)
        return value.tolist()
    return call


FEATURES = [
    Case("clip", "clip", ALL, "image", {}, "the projected vector (get_image_features)"),
    Case("clip-normalize", "clip", pictures(*SOME), "image", {"normalize": True}),
    Case("clip-cls", "clip", pictures(*SOME), "image", {"pooling": "cls"}, "the state of the class token, which CLIP does not normalise"),
    Case("clip-sentence-transformers", "clip-sentence-transformers", pictures(*SOME), "image", {}, "modules.json with CLIPModel and Normalize"),
    Case("siglip", "siglip", pictures(None, *SOME), "image", {}, "the vector of the attention head"),
    Case("siglip-mean", "siglip", pictures(*SOME), "image", {"pooling": "mean", "normalize": True}),
    Case("vit", "vit-pooler", pictures(*SOME), "image", {}, "the mean of all tokens, as sentence-transformers"),
    Case("vit-cls", "vit-pooler", pictures(*SOME), "image", {"pooling": "cls"}),
    Case("vit-pooler", "vit-pooler", pictures(*SOME), "image", {"pooling": "pooler"}),
    Case("dinov2", "dinov2", pictures(*SOME), "image", {}, "interpolated positions"),
    Case("dinov2-pooler", "dinov2", pictures(*SOME), "image", {"pooling": "pooler", "normalize": True}),
    Case("beit", "beit", pictures(*SOME), "image", {}, "the mean of all tokens, before a norm"),
    Case("beit-cls", "beit", pictures(*SOME), "image", {"pooling": "cls"}),
    Case("beit-pooler", "beit", pictures(*SOME), "image", {"pooling": "pooler"}, "the normalised mean of the patches"),
    Case("swin", "swin", pictures(None, *SOME), "image", {}, "the mean of the cells of the last map"),
    Case("swin-pooler", "swin", pictures(*SOME), "image", {"pooling": "pooler", "normalize": True}),
]
task("image-feature-extraction", features, FEATURES)


def zero_shot(path, case, change):
    only_5()
    net = change(AutoModelForZeroShotImageClassification.from_pretrained(path).eval())
    pipe = pipeline("zero-shot-image-classification", model=net, tokenizer=AutoTokenizer.from_pretrained(path),
                    image_processor=AutoImageProcessor.from_pretrained(path, backend="pil"), device="cpu")
    return lambda row: pipe(path_of(os.path.basename(row["image"])), **case.options)


LABELS = ["a harbour", "Bread, still warm!", "café", "the film noir of a very long and winding name that does not fit at all"]
ZERO_SHOT = [
    Case("clip", "clip", ALL, "image", {"candidate_labels": LABELS[:3]}, "softmax over the labels"),
    Case("clip-template", "clip", pictures(*SOME), "image", {"candidate_labels": LABELS[:2], "hypothesis_template": "A bad picture of {}"}),
    Case("clip-one-label", "clip", pictures(*SOME), "image", {"candidate_labels": ["bread"]}),
    Case("siglip", "siglip", pictures(None, *SOME), "image", {"candidate_labels": LABELS}, "sigmoid; texts are padded to 64 tokens"),
    Case("siglip-template", "siglip", pictures(*SOME), "image", {"candidate_labels": LABELS[:3], "hypothesis_template": "{}"}),
]
task("zero-shot-image-classification", zero_shot, ZERO_SHOT)


# ----------------------------------------------------------------------------------- texts
TEXTS = ["", "A photo of a Harbour.", "bread", "Crème à Kraków 房间 🙂👍🏽", "  two  spaces\nand a line", "it's 2024: the FILM, isn't it? <|endoftext|> end",
         "a </s> b", "The little inn by the harbour was quiet, bright and very clean, and the bread was still warm. " * 3]


@case
def text_vision(folder):
    """Vectors of texts by CLIP and SigLIP, and their tokens."""
    only_5()
    value = {"library versions": versions(), "texts": TEXTS}
    out = {}
    with torch.inference_mode():
        for name, options in [("clip", {"truncation": True}), ("siglip", {"truncation": True, "padding": "max_length", "max_length": 64})]:
            path = model_folder(name)
            tokenizer, net = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
            ids = [tokenizer(text, **options)["input_ids"] for text in TEXTS]
            value[f"{name}_ids"] = ids
            out[name] = torch.stack([net.get_text_features(torch.tensor([row])).pooler_output[0] for row in ids])
        for name in ("clip", "clip-sentence-transformers"):
            out[f"sentence_transformers.{name}"] = torch.from_numpy(SentenceTransformer(model_folder(name), device="cpu").encode(TEXTS))
    assert torch.allclose(out["sentence_transformers.clip"], out["clip"], atol=1e-5)
    write_tensors(folder, out)
    write_golden(folder, value)
