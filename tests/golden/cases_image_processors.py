"""Settings of image processors: what 5.24 makes of two pictures with each, on Pillow."""
import os
import tempfile

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor

from tools import case, skip, versions, write_golden, write_json, write_tensors

CLASSES = ["ViT", "DeiT", "CLIP", "Siglip", "Bit", "Beit", "ConvNext"]
EDGES = {"shortest_edge": 9, "longest_edge": 14}
NO_CROP = {"do_center_crop": False}
SETTINGS = [
    {"size": 9, **NO_CROP},
    {"size": 9, "do_center_crop": True, "crop_size": 6},
    {"size": 9, "do_center_crop": True, "crop_size": {"height": 12, "width": 5}},
    {"size": {"shortest_edge": 9}, **NO_CROP},
    {"size": {"shortest_edge": 12, "longest_edge": 14}, **NO_CROP, "resample": 2},
    {"size": EDGES, "do_center_crop": True, "crop_size": [7, 8]},
    {"size": 9, "default_to_square": False, **NO_CROP},
    {"size": {"shortest_edge": 9}, "do_resize": None, "do_center_crop": None},
    {"size": {"shortest_edge": 8}, **NO_CROP, "do_normalize": False, "image_mean": [0.5], "image_std": None},
    {"size": {"shortest_edge": 8}, **NO_CROP, "do_rescale": False, "rescale_factor": None, "image_mean": 7, "image_std": [2, 3, 4]},
    {"size": {"shortest_edge": 8}, **NO_CROP, "do_pad": True, "pad_size": None, "rescale_factor": 0.01},
]


@case
def image_processors(folder):
    if transformers.__version__ != "5.24.0":
        skip("made with transformers 5.24")
    rng = np.random.default_rng(5)
    pictures = [rng.integers(0, 256, size, dtype=np.uint8) for size in [(3, 7, 3), (10, 14, 3)]]       # the first has three rows
    out, cases = {f"picture.{i}": torch.from_numpy(picture) for i, picture in enumerate(pictures)}, []
    for name in CLASSES:
        for settings in SETTINGS:
            settings = {"image_processor_type": f"{name}ImageProcessor", **settings}
            with tempfile.TemporaryDirectory() as scratch:
                write_json(os.path.join(scratch, "preprocessor_config.json"), settings)
                processor = AutoImageProcessor.from_pretrained(scratch, backend="pil")
                for i, picture in enumerate(pictures):
                    out[f"{len(cases)}.{i}"] = processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"][0].float()
            cases.append(settings)
    write_tensors(folder, out)
    write_golden(folder, {"library versions": versions(), "notes": "tensor I.J: pixel values of picture J with the settings of case I",
                          "cases": cases})
