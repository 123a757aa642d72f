"""Labels of images, and their pixel values: small edge-case images and several kinds of image processors."""
import json
import os
import tempfile

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file
from transformers import (AutoImageProcessor, AutoModelForImageClassification, BitImageProcessor, CLIPImageProcessor,
                          ConvNextImageProcessor, DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher,
                          DeiTImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline)
from transformers.image_utils import load_image

from tools import CASES, write_json
from tools_tasks import TASKS, Case, labels, model, model_folder, nudge, save, task, weights

SIDE = 16
THINGS = ["harbour", "bread", "café", "電影", "film noir", "inn", "sea"]


# ------------------------------------------------------------------------------ images
def picture(width, height, channels=3, seed=0):
    """Slopes, a disc, a chequered corner and noise, which reveal every kernel and every rounding."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    u, v = x / max(1, width - 1), y / max(1, height - 1)
    disc = (u - 0.6) ** 2 + (v - 0.4) ** 2 < 0.06
    chequered = ((x + y) % 2 == 0) & (u < 0.35) & (v > 0.6)
    planes = [255 * u, 255 * v, 255 * (1 - u) * v, 255 * (0.2 + 0.8 * u)][:channels]
    pixels = np.stack([np.where(disc, 250 - 60 * i, plane) for i, plane in enumerate(planes)], -1)
    pixels = np.where(chequered[..., None], 255 - pixels, pixels) + rng.normal(0, 12, pixels.shape)
    pixels = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def images(folder):
    def write(name, image, **options):
        image.save(os.path.join(folder, name), **options)

    def rgb(width, height, seed):
        return Image.fromarray(picture(width, height, seed=seed))

    turned = Image.Exif()
    turned[0x0112] = 6
    mirrored = Image.Exif()
    mirrored[0x0112] = 5
    clear = Image.fromarray(picture(21, 34, seed=7)).quantize(16)
    write("rgb.png", rgb(37, 23, 1))
    write("exact.png", rgb(SIDE, SIDE, 2))
    write("tiny.png", rgb(5, 9, 3))
    write("wide.png", rgb(70, 18, 4))
    write("tall.png", rgb(11, 61, 5))
    write("dot.png", rgb(1, 1, 6))
    write("gray.png", Image.fromarray(picture(30, 41, 1, 8)))
    write("gray-alpha.png", Image.fromarray(picture(25, 27, 2, 9), "LA"))
    write("rgba.png", Image.fromarray(picture(28, 19, 4, 10)))
    write("palette.png", clear)
    write("palette-clear.png", clear, transparency=3)
    write("bits.png", Image.fromarray(picture(33, 26, 1, 11)).convert("1"))
    write("gray-16.png", Image.fromarray((picture(26, 22, 1, 12).astype(np.uint16) * 257)))
    write("photo-420.jpg", rgb(45, 33, 13), quality=85, subsampling="4:2:0")
    write("photo-444.jpg", rgb(31, 44, 14), quality=95, subsampling="4:4:4")
    write("progressive.jpg", rgb(50, 29, 15), quality=80, progressive=True)
    write("gray.jpg", Image.fromarray(picture(34, 25, 1, 16)), quality=90)
    write("turned.jpg", rgb(40, 24, 17), quality=92, subsampling="4:4:4", exif=turned)
    write("mirrored.jpg", rgb(24, 40, 18), quality=92, subsampling="4:4:4", exif=mirrored)
    write("cmyk.jpg", rgb(32, 20, 19).convert("CMYK"), quality=92)
    write("lossless.webp", rgb(29, 31, 20), lossless=True)
    write("lossy.webp", rgb(38, 27, 21), quality=80)
    write("image.gif", rgb(27, 24, 22))
    write("image.bmp", rgb(13, 17, 23))
    save_file({name: torch.from_numpy(np.asarray(ImageOps.exif_transpose(Image.open(os.path.join(folder, name))).convert("RGB")).copy())
               for name in sorted(os.listdir(folder))}, os.path.join(folder, "decoded.safetensors"))


CASES["tasks/images"] = images


# ------------------------------------------------------------------------------ models
def vit(name, cls, config_cls, processor, **settings):
    @model(name)
    def make(folder):
        settings.setdefault("id2label", labels(*THINGS)["id2label"])
        config = config_cls(image_size=SIDE, patch_size=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                            intermediate_size=32, label2id={v: k for k, v in settings["id2label"].items()}, **settings)
        net = weights(cls(config), name + "-b", head=8)     # -b: no near ties
        with torch.no_grad():
            seen = [net(**processor(load_image(path_of(name)), return_tensors="pt")).logits[0] for name in SOME]
            for key, bias in net.named_parameters():
                if key.endswith("classifier.bias"):
                    bias -= torch.stack(seen).mean(0)
        save(folder, net)
        processor.save_pretrained(folder)


def path_of(name):
    return os.path.join(model_folder("images"), name)


PICTURES = ["rgb.png", "exact.png", "tiny.png", "wide.png", "tall.png", "dot.png", "gray.png", "gray-alpha.png", "rgba.png",
            "palette.png", "palette-clear.png", "bits.png", "gray-16.png", "photo-420.jpg", "photo-444.jpg", "progressive.jpg",
            "gray.jpg", "turned.jpg", "mirrored.jpg", "cmyk.jpg", "lossless.webp", "lossy.webp", "image.gif", "image.bmp"]
SOME = ["rgb.png", "exact.png", "tiny.png", "wide.png", "tall.png", "rgba.png", "turned.jpg"]
SIZE = {"height": SIDE, "width": SIDE}

vit("vit", ViTForImageClassification, ViTConfig, ViTImageProcessor(size=SIZE))
vit("vit-multi-label", ViTForImageClassification, ViTConfig, ViTImageProcessor(size=SIZE),
    problem_type="multi_label_classification", qkv_bias=False, hidden_act="gelu_pytorch_tanh")
vit("vit-one-label", ViTForImageClassification, ViTConfig, ViTImageProcessor(size=SIZE), id2label={0: "harbour"})
DEIT = dict(size={"height": 20, "width": 20}, crop_size=SIZE)
vit("deit", DeiTForImageClassification, DeiTConfig, DeiTImageProcessor(**DEIT))
vit("deit-teacher", DeiTForImageClassificationWithTeacher, DeiTConfig, DeiTImageProcessor(**DEIT))


# ------------------------------------------------------------------------------ cases
def classification(path, case, change):
    net = change(AutoModelForImageClassification.from_pretrained(path).eval())
    processor = AutoImageProcessor.from_pretrained(path, use_fast=False)
    if case.preprocessor_config is not None:
        with tempfile.TemporaryDirectory() as other:
            write_json(os.path.join(other, "preprocessor_config.json"), case.preprocessor_config)
            processor = AutoImageProcessor.from_pretrained(other, use_fast=False)
    pipe = pipeline("image-classification", model=net, image_processor=processor, device="cpu")
    top_k = case.options.get("top_k")
    options = {} if top_k is None else {"top_k": net.config.num_labels if top_k == "all" else top_k}
    folder = os.path.join(TASKS, "image-classification.new")
    tensors = {}

    def call(row):
        name = os.path.basename(row["image"])
        value = pipe(path_of(name), **options)
        tensors[name] = processor(images=load_image(path_of(name)), return_tensors="pt")["pixel_values"][0].contiguous()
        if change is not nudge and (case.preprocessor_config is not None or case.name == case.model):
            save_file(tensors, os.path.join(folder, f"{case.name}.safetensors"))
        return value
    call.header = {"image_processor": type(processor).__name__}
    return call


def pictures(*names):
    return [{"image": None if name is None else f"../images/{name}"} for name in names]


def with_processor(name, processor, notes="", model_name="vit"):
    """`processor`: an image processor, or the content of its preprocessor_config.json."""
    value = processor if isinstance(processor, dict) else json.loads(processor.to_json_string())
    return Case(name, model_name, pictures(None, *SOME), "image", {"top_k": "all"}, notes, preprocessor_config=value)


def plain(name, model_name, rows, options=None, notes=""):
    return Case(name, model_name, rows, "image", options or {}, notes)


KERNELS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
ALL = pictures(None, *PICTURES)
EDGE = {"shortest_edge": 20}
IMAGES = [
    plain("vit", "vit", ALL, notes="five labels"),
    plain("vit-all", "vit", ALL, {"top_k": "all"}),
    plain("vit-2", "vit", pictures(*SOME), {"top_k": 2}),
    plain("vit-99", "vit", pictures(*SOME), {"top_k": 99}, "more than there are labels"),
    plain("vit-multi-label", "vit-multi-label", pictures(*SOME), {"top_k": "all"}, "sigmoid; no bias of query, key, value; tanh GELU"),
    plain("vit-one-label", "vit-one-label", pictures(*SOME), {}, "sigmoid"),
    plain("deit", "deit", ALL, {"top_k": "all"}, "resized to 20, cut to 16"),
    plain("deit-teacher", "deit-teacher", ALL, {"top_k": "all"}, "the mean of both classifiers"),
    *(with_processor(f"vit-{name}", ViTImageProcessor(size=SIZE, resample=number), f"resample {number}")
      for name, number in KERNELS.items()),
    with_processor("vit-size-number", {"image_processor_type": "ViTImageProcessor", "size": SIDE}, "size is a number"),
    with_processor("vit-feature-extractor", {"feature_extractor_type": "ViTFeatureExtractor", "size": SIDE, "resample": 3,
                                             "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
                   "the file of older checkpoints"),
    with_processor("vit-mean-std", ViTImageProcessor(size=SIZE, image_mean=MEAN, image_std=STD)),
    with_processor("vit-no-normalize", ViTImageProcessor(size=SIZE, do_normalize=False)),
    with_processor("vit-no-rescale", ViTImageProcessor(size=SIZE, do_rescale=False, image_mean=[127.5] * 3, image_std=[127.5] * 3)),
    with_processor("vit-rescale-factor", ViTImageProcessor(size=SIZE, rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3)),
    with_processor("vit-no-resize", ViTImageProcessor(size=SIZE, do_resize=False), "only an image of the model's size goes through"),
    *(with_processor(f"deit-{name}", DeiTImageProcessor(size={"height": 19, "width": 23}, crop_size=SIZE, resample=number),
                     "resized to 19 × 23, cut to 16", "deit") for name, number in KERNELS.items()),
    with_processor("deit-no-crop", DeiTImageProcessor(size=SIZE, do_center_crop=False), model_name="deit"),
    with_processor("deit-crop-larger", DeiTImageProcessor(size={"height": 11, "width": 13}, crop_size=SIZE),
                   "what the crop lacks is black", "deit"),
    with_processor("deit-crop-only", DeiTImageProcessor(do_resize=False, crop_size=SIZE), model_name="deit"),
    with_processor("clip-shortest-edge", CLIPImageProcessor(size=EDGE, crop_size=SIZE), "the shorter side is 20, then cut to 16"),
    with_processor("clip-bilinear", CLIPImageProcessor(size=EDGE, crop_size=SIZE, resample=2)),
    with_processor("clip-size-number", {"image_processor_type": "CLIPImageProcessor", "size": 20, "crop_size": SIDE}, "numbers"),
    with_processor("bit", BitImageProcessor(size={"shortest_edge": 17}, crop_size=SIZE, resample=3)),
    with_processor("convnext-crop-pct", ConvNextImageProcessor(size={"shortest_edge": SIDE}, crop_pct=0.8),
                   "below 384: the shorter side is size / crop_pct, then cut to size"),
]


task("image-classification", classification, IMAGES)
