"""The images of the goldens, and the cells of `heads/` with image models: ViT and DeiT.

A cell's pixel values come from the image processor that the directory names, for images
opened as in transformers' pipelines: rotated by their EXIF orientation, then converted to RGB.
"""
import os

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, DeiTImageProcessor, ViTImageProcessor
from transformers.image_utils import load_image

from heads import bert_like, collect, check, load, spread_head
from texts import HERE
from tools import CASES, case, randomise, rewrite, versions, write_golden, write_tensors

IMAGES = os.path.join(HERE, "images")
IMAGE_HEADS = {"model": "AutoModel", "for-image-classification": "AutoModelForImageClassification"}
PROCESSORS = {"vit": ViTImageProcessor, "deit": DeiTImageProcessor}
SHOWN = (0, 5)       # pictures whose hidden states are kept; the attentions of the first


# -------------------------------------------------------------------------------- pictures
def picture(width, height, seed, channels=3):
    """Slopes, a disc and some noise: edges as well as smooth parts."""
    y, x = np.mgrid[0:height, 0:width]
    rng = np.random.RandomState(seed)
    planes = [((x * (7 + 3 * c) + y * (11 - 2 * c) + 60 * c + 31 * seed) % 256) // 2 for c in range(channels)]
    disc = (x - width // 3) ** 2 + (y - height // 2) ** 2 < (min(width, height) // 3) ** 2
    pixels = np.stack(planes, -1) + np.where(disc, 90, 0)[..., None] + rng.randint(0, 24, (height, width, channels))
    return np.clip(pixels, 0, 255).astype(np.uint8)


@case
def images(folder):
    """One file per kind of image, and its RGB pixels."""
    def to(name):
        return os.path.join(folder, name)
    Image.fromarray(picture(61, 47, 1)).save(to("0-rgb.jpg"), quality=85, subsampling="4:2:0")
    Image.fromarray(picture(19, 31, 2, 1)[..., 0]).save(to("1-gray.png"))
    Image.fromarray(picture(29, 17, 3, 4)).save(to("2-rgba.png"))
    Image.fromarray(picture(33, 21, 4)).save(to("3-lossless.webp"), lossless=True)
    Image.fromarray(picture(26, 38, 5, 4), "CMYK").save(to("4-cmyk.jpg"), quality=90)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(picture(35, 20, 6)).save(to("5-turned.jpg"), quality=90, exif=turned)
    palette = Image.fromarray(picture(23, 23, 7, 1)[..., 0] // 16, "P")
    palette.putpalette([(17 * i * k) % 256 for i in range(16) for k in (1, 5, 11)])
    palette.save(to("6-palette.png"), transparency=3)
    Image.fromarray(picture(3, 2, 8)).save(to("7-tiny.png"))
    Image.fromarray(picture(24, 24, 9)).save(to("8-rgb.png"))
    names, rgb = sorted(os.listdir(folder)), {}
    for i, name in enumerate(names):
        rgb[f"rgb.{i}"] = torch.from_numpy(np.asarray(load_image(to(name))).copy())
    write_tensors(folder, rgb)
    modes = [Image.open(to(name)).mode for name in names]
    write_golden(folder, {
        "library versions": versions() | {"pillow": Image.__version__}, "images": names, "modes": modes,
        "notes": "rgb.{i} are (height, width, 3) u8, turned as EXIF says and then made RGB: alpha is left out, a palette's colours "
                 "too where they are transparent; another decoder of JPEG may differ by a few units"})


# ---------------------------------------------------------------------------------- cells
def image_golden(folder, auto_class, notes):
    processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)
    model = load(folder, auto_class)
    names = sorted(n for n in os.listdir(IMAGES) if not n.startswith("golden."))
    out = {}
    for i, name in enumerate(names):
        pixels = processor(load_image(os.path.join(IMAGES, name)), return_tensors="pt")["pixel_values"]
        assert pixels.dtype == torch.float32
        out[f"pixel_values.{i}"] = pixels[0]
        collect(out, model, lambda: model(pixels, output_hidden_states=True, output_attentions=True), i, i == SHOWN[0], i in SHOWN)
    check(folder, out)
    write_tensors(folder, out)
    config = AutoConfig.from_pretrained(folder)
    write_golden(folder, {
        "auto_class": auto_class, "architectures": config.architectures, "model_class": type(model).__name__,
        "image_processor": type(processor).__name__, "library versions": versions() | {"pillow": Image.__version__}, "notes": notes,
        "images": [f"images/{name}" for name in names]})


def old_processor(kind, **sizes):
    """preprocessor_config.json as written until 2022: with numeric sizes and a feature extractor."""
    def change(value):
        kept = ("do_normalize", "do_resize", "do_center_crop", "image_mean", "image_std", "resample")
        return {**{k: value[k] for k in kept if k in value}, "feature_extractor_type": kind, **sizes}
    return lambda folder: rewrite(folder, "preprocessor_config.json", change)


def image_cell(path, shape, processor, *, notes="", labels=None, model_class=None, edit=None, spread=3, **changes):
    """Registers a cell; `processor` goes to the image processor, `changes` into the configuration.

    `model_class` where a model_type has two for one Auto class, which then needs `architectures` to choose.
    """
    model_type, folder_name = path.split("/")
    auto_class = IMAGE_HEADS[max((h for h in IMAGE_HEADS if folder_name.startswith(h)), key=len)]
    name = f"heads/{path}"

    def build(folder):
        options = dict(changes)
        if labels is not None:
            options |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        config = AutoConfig.for_model(model_type, **bert_like(shape, **options))
        made = getattr(transformers, model_class)(config) if model_class else getattr(transformers, auto_class).from_config(config)
        spread_head(randomise(made, name), spread).save_pretrained(folder)
        PROCESSORS[model_type](**processor).save_pretrained(folder)
        if edit:
            edit(folder)
        image_golden(folder, auto_class, notes)

    CASES[name] = build


ANIMALS = ["tabby, tabby cat", "goldfish", "sea lion", "otter", "heron"]
NEAREST, LANCZOS, BILINEAR, BICUBIC, BOX, HAMMING = range(6)


def square(n):
    return {"size": {"height": n, "width": n}}


image_cell("vit/model", (16, 2, 2, 32), square(20), image_size=20, patch_size=5)
image_cell("vit/model-old-processor", (16, 1, 4, 24), square(18), image_size=18, patch_size=9, qkv_bias=False, hidden_act="relu",
           pooler_output_size=11, pooler_act="relu", edit=old_processor("ViTFeatureExtractor", size=18),
           notes="preprocessor_config.json as of 2021 (size is a number); no biases in queries, keys and values; a pooler of 11 with relu")
image_cell("vit/for-image-classification", (20, 2, 4, 36),
           {**square(21), "resample": BICUBIC, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
           labels=ANIMALS, image_size=21, patch_size=7, hidden_act="gelu_new", layer_norm_eps=1e-6)
image_cell("vit/for-image-classification-oblong", (16, 1, 2, 28), {"size": {"height": 16, "width": 24}, "resample": LANCZOS},
           labels=ANIMALS[:3], image_size=[16, 24], patch_size=[4, 8], hidden_act="quick_gelu", notes="16 by 24, patches of 4 by 8; Lanczos")
image_cell("vit/for-image-classification-nearest", (16, 2, 4, 20), {**square(19), "resample": NEAREST, "do_normalize": False},
           labels=ANIMALS, image_size=19, patch_size=6, qkv_bias=False, spread=4,
           notes="nearest, not normalised; patches of 6 leave a pixel over; no biases in queries, keys and values")
image_cell("vit/for-image-classification-box", (16, 1, 2, 24),
           {**square(16), "resample": BOX, "rescale_factor": 1 / 127.5, "image_mean": [1.0, 0.9, 1.1], "image_std": [0.5, 1.0, 0.25]},
           labels=ANIMALS[:4], image_size=16, patch_size=8, notes="box filter; rescale_factor 1/127.5")
image_cell("vit/for-image-classification-hamming", (16, 1, 2, 24), {**square(17), "resample": HAMMING, "do_rescale": False,
                                                                   "image_mean": [127.0] * 3, "image_std": [64.0, 70.0, 50.0]},
           labels=ANIMALS[:2], image_size=17, patch_size=8, notes="Hamming filter; do_rescale is false, means are of 0 to 255")
image_cell("deit/model", (16, 2, 2, 36), {**square(24), "crop_size": {"height": 20, "width": 20}}, image_size=20, patch_size=5,
           edit=old_processor("DeiTFeatureExtractor", size=24, crop_size=20),
           notes="preprocessor_config.json as of 2021: resized to 24, the middle 20 of it; a class and a distillation token")
image_cell("deit/for-image-classification", (18, 2, 3, 30), {**square(23), "crop_size": {"height": 18, "width": 18}},
           model_class="DeiTForImageClassification", labels=ANIMALS, image_size=18, patch_size=6, hidden_act="relu",
           notes="the class token alone, no teacher; 23 less 18 leaves an odd number of pixels to cut")
image_cell("deit/for-image-classification-with-teacher", (16, 1, 4, 28), {**square(20), "do_center_crop": False, "resample": BILINEAR},
           labels=ANIMALS, image_size=20, patch_size=10, qkv_bias=False, model_class="DeiTForImageClassificationWithTeacher",
           notes="as the distilled checkpoints: `architectures` names the class, logits are the mean of cls_classifier and "
                 "distillation_classifier; do_center_crop is false")
image_cell("deit/for-image-classification-padded", (16, 1, 2, 24), {**square(15), "crop_size": {"height": 18, "width": 18}},
           model_class="DeiTForImageClassification", labels=ANIMALS[:3], image_size=18, patch_size=9, notes="the crop is larger than the resized picture: zeros around it")
