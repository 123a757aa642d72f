"""The cells of `vision/`: CLIP, SigLIP, DINOv2, BEiT, Swin and convolutional networks, made with transformers 5.

Pixel values come from the image processor that the directory names, on Pillow. A model of texts and pictures has rows of
token ids, too: its outputs for them are called `text.…`.
"""
import os
import zlib

import torch
import transformers
from transformers import AutoConfig, AutoImageProcessor
from transformers.image_utils import load_image

from cases_images import ANIMALS, BILINEAR, IMAGES, LANCZOS, square
from tools import CASES, rewrite, skip, versions, write_golden, write_tensors

PICTURES = ["0-rgb.jpg", "7-tiny.png"]
AUTO = {"model": "AutoModel", "for-image-classification": "AutoModelForImageClassification",
        "for-zero-shot-image-classification": "AutoModelForZeroShotImageClassification"}
IDS = [[40, 3, 17, 5, 41], [40, 41], [40, 9, 9, 30, 12, 2, 8, 41]]           # 40 begins and 41 ends a text


# ---------------------------------------------------------------------------- weights
def randomise(model, name):
    """Random parameters and statistics, by the number of inputs of each layer; norms near 1."""
    rng = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def noise(p):
        return torch.randn(p.shape, generator=rng)
    with torch.no_grad():
        for key, p in sorted(model.named_parameters()):
            if key == "logit_scale":
                p.fill_(2.0)
            elif key == "logit_bias":
                p.fill_(-1.5)
            elif "embedding" in key and "patch" not in key or key.endswith(("_token", "probe")):
                p.copy_(0.5 * noise(p))
            elif p.ndim > 1 and p.shape[0] > 1:
                p.copy_(1.2 * noise(p) / (p.numel() / p.shape[0]) ** 0.5)
            elif key.endswith("weight") or "lambda" in key or "layer_scale" in key:
                p.copy_(1 + 0.3 * noise(p))
            else:
                p.copy_(0.2 * noise(p))
        for key, b in sorted(model.named_buffers()):
            if key.endswith("running_mean"):
                b.copy_(0.3 * noise(b))
            elif key.endswith("running_var"):
                b.copy_(0.5 + torch.rand(b.shape, generator=rng))
    return model.eval()


# --------------------------------------------------------------------------- outputs
def tokens(state):
    """The states of one picture as one line per token: a map of features has its cells in rows."""
    state = state[0]
    return state.flatten(1).T if state.ndim == 3 else state


def keep(out, y, i, prefix, shown):
    for name in ("last_hidden_state", "pooler_output", "logits"):
        value = getattr(y, name, None)
        if value is not None:
            out[f"{prefix}{name}.{i}"] = tokens(value) if name == "last_hidden_state" else value[0].flatten()
    if shown:
        states = [tokens(state) for state in getattr(y, "hidden_states", None) or ()]
        if states and len({state.shape for state in states}) == 1:
            out[f"{prefix}hidden_states.{i}"] = torch.stack(states)
        else:       # of stages, which shrink the map
            out.update({f"{prefix}hidden_states.{stage}.{i}": state for stage, state in enumerate(states)})
        layers = getattr(y, "attentions", None)
        if layers and len({layer.shape for layer in layers}) == 1 and len(layers[0]) == 1:     # Swin has those of windows
            out[f"{prefix}attentions.{i}"] = torch.stack([layer[0] for layer in layers])


def vision_golden(folder, auto_class, ids, notes):
    model, info = getattr(transformers, auto_class).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"], (folder, info)
    model = model.eval()
    wanted = dict(output_hidden_states=True, output_attentions=True)
    both, out, pixels = hasattr(model, "get_text_features"), {}, []
    reads_images = model.main_input_name == "pixel_values" or both
    value = {"auto_class": auto_class, "model_class": type(model).__name__, "library versions": versions(), "notes": notes}
    with torch.inference_mode():
        if reads_images:
            processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
            for i, name in enumerate(PICTURES):
                given = processor(load_image(os.path.join(IMAGES, name)), return_tensors="pt")["pixel_values"]
                pixels.append(given)
                out[f"pixel_values.{i}"] = given[0]
                y = model.get_image_features(given, **wanted) if both else model(given, **wanted)
                keep(out, y, i, "", i == 0)
            value |= {"image_processor": type(processor).__name__.removesuffix("Pil"), "images": [f"images/{n}" for n in PICTURES]}
        if both or not reads_images:
            value["input_ids"] = ids
            for i, row in enumerate(ids):
                given = torch.tensor([row])
                y = model.get_text_features(given, **wanted) if both else model(given, **wanted)
                keep(out, y, i, "text.", i == 0)
        if both:        # each row of ids on its own: they differ in length
            for i, given in enumerate(pixels):
                out[f"logits_per_image.{i}"] = torch.cat([model(input_ids=torch.tensor([row]), pixel_values=given).logits_per_image[0] for row in ids])
    write_tensors(folder, out)
    write_golden(folder, value)


def vision_cell(path, processor, *, notes="", labels=None, edit=None, ids=IDS, **changes):
    """Registers a cell. `processor`: a class and its arguments, or none for a model of texts."""
    model_type, folder_name = path.split("/")
    auto_class = AUTO[max((h for h in AUTO if folder_name.startswith(h)), key=len)]
    name = f"vision/{path}"

    def build(folder):
        if not transformers.__version__.startswith("5"):
            skip("made with transformers 5")
        options = dict(changes)
        if labels is not None:
            options |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        config = AutoConfig.for_model(model_type, **options)
        randomise(getattr(transformers, auto_class).from_config(config), name).save_pretrained(folder)
        if processor:
            kind, settings = processor
            getattr(transformers, f"{kind}ImageProcessorPil")(**settings).save_pretrained(folder)
        if edit:
            edit(folder)
        vision_golden(folder, auto_class, ids, notes)

    CASES[name] = build


def encoder(hidden, layers, heads, intermediate, **changes):
    return dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=intermediate, **changes)


def crop(n):
    return {"crop_size": {"height": n, "width": n}}


def edge(n):
    return {"size": {"shortest_edge": n}}


# -------------------------------------------------------------------------------- CLIP
TEXT = dict(vocab_size=42, max_position_embeddings=9, bos_token_id=40, eos_token_id=41, pad_token_id=41)
CLIP = dict(text_config=encoder(16, 2, 2, 20, **TEXT), vision_config=encoder(20, 2, 4, 26, image_size=20, patch_size=5), projection_dim=14)
CLIP_PROCESSOR = ("CLIP", {**edge(20), **crop(20)})


def old_eos(folder):
    """As OpenAI's checkpoints: another eos_token_id, and the texts' settings once more, which count."""
    def change(value):
        value["text_config"]["eos_token_id"] = 2
        value["text_config_dict"] = {k: v for k, v in value["text_config"].items() if not k.startswith("transformers")}
        value["text_config"] = {**value["text_config"], "num_hidden_layers": 7}
        value["vision_config_dict"] = None
        return value
    rewrite(folder, "config.json", change)
    rewrite(folder, "preprocessor_config.json", lambda value: {
        "crop_size": 20, "do_center_crop": True, "do_normalize": True, "do_resize": True, "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": value["image_mean"], "image_std": value["image_std"], "resample": 3, "size": 20})


vision_cell("clip/model", CLIP_PROCESSOR, **CLIP, notes="texts and pictures of other widths, projected to 14")
vision_cell("clip/model-old", CLIP_PROCESSOR, text_config=encoder(16, 1, 2, 20, hidden_act="gelu", **TEXT),
            vision_config=encoder(16, 1, 2, 20, image_size=20, patch_size=10, hidden_act="gelu"), projection_dim=10, edit=old_eos,
            ids=[[40, 3, 41], [40, 2, 5, 41], [40, 7, 41, 41, 41]],
            notes="eos_token_id is 2: the largest id is pooled; text_config_dict replaces text_config; gelu; numbers as sizes")
vision_cell("clip/for-zero-shot-image-classification", ("CLIP", {**edge(23), **crop(18), "resample": BILINEAR}),
            text_config=encoder(16, 2, 4, 24, **TEXT), vision_config=encoder(20, 1, 2, 24, image_size=18, patch_size=7), projection_dim=12)
vision_cell("clip/for-image-classification", CLIP_PROCESSOR, **CLIP, labels=ANIMALS, notes="the mean of the patches, not normalised")
vision_cell("clip_vision_model/model", ("CLIP", {**square(20), "do_center_crop": False}), **encoder(20, 2, 2, 28, image_size=20, patch_size=8))
vision_cell("clip_text_model/model", None, **encoder(20, 2, 2, 28, **TEXT))

# ------------------------------------------------------------------------------ SigLIP
PADDED = [[40, 3, 17, 5, 41, 1, 1, 1, 1], [41, 1, 1, 1, 1, 1, 1, 1, 1], [4, 9, 9, 30, 12, 2, 8, 3, 41]]
SIGLIP_TEXT = dict(vocab_size=42, max_position_embeddings=9)
SIGLIP = dict(text_config=encoder(16, 2, 2, 20, **SIGLIP_TEXT), vision_config=encoder(16, 2, 4, 22, image_size=20, patch_size=5))
vision_cell("siglip/model", ("Siglip", square(20)), **SIGLIP, ids=PADDED, notes="pads are attended")
vision_cell("siglip/for-zero-shot-image-classification", ("Siglip", {**square(21), "resample": BILINEAR}), ids=PADDED,
            text_config=encoder(16, 1, 4, 20, projection_size=18, hidden_act="gelu", **SIGLIP_TEXT),
            vision_config=encoder(18, 2, 3, 26, image_size=21, patch_size=8), notes="projection_size; a row of pixels over")
vision_cell("siglip/for-image-classification", ("Siglip", square(20)), **SIGLIP, labels=ANIMALS, notes="the mean of all patches")
vision_cell("siglip_vision_model/model", ("Siglip", square(16)), **encoder(18, 2, 3, 26, image_size=16, patch_size=4))
vision_cell("siglip_vision_model/model-no-head", ("Siglip", square(16)), **encoder(16, 1, 2, 20, image_size=16, patch_size=8),
            vision_use_head=False)

# ------------------------------------------------------------------------------ DINOv2
DINO = dict(hidden_size=18, num_hidden_layers=2, num_attention_heads=3, patch_size=4)
vision_cell("dinov2/model", ("Bit", {**edge(22), **crop(20)}), **DINO, image_size=20, notes="pictures of the size of the position table")
vision_cell("dinov2/model-swiglu", ("Bit", {**edge(20), **crop(16)}), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=4,
            image_size=28, use_swiglu_ffn=True, qkv_bias=False, notes="SwiGLU; 7 by 7 positions interpolated to 4 by 4")
vision_cell("dinov2/model-oblong", ("Bit", {"size": {"height": 26, "width": 18}, "do_center_crop": False}), **DINO, image_size=12, mlp_ratio=2,
            notes="3 by 3 positions interpolated to 6 by 4, with pixels over")
vision_cell("dinov2/for-image-classification", ("Bit", {**edge(24), **crop(20)}), **DINO, image_size=16, labels=ANIMALS,
            notes="the class token beside the mean of the patches")

# -------------------------------------------------------------------------------- BEiT
def cut(larger, n):
    """BEiT's processor does not cut unless it is told to."""
    return {**square(larger), **crop(n), "do_center_crop": True}


BEIT = encoder(18, 2, 3, 26, patch_size=4)
SMALL_BEIT = encoder(16, 1, 2, 20, patch_size=4)
vision_cell("beit/model", ("Beit", cut(20, 16)), **BEIT, image_size=16, use_relative_position_bias=True,
            notes="a bias for each layer; the pooled vector is the normalised mean of the patches, which have no last norm")
vision_cell("beit/model-shared", ("Beit", cut(27, 22)), **BEIT, image_size=12, use_shared_relative_position_bias=True,
            use_absolute_position_embeddings=True, use_mask_token=True, use_mean_pooling=False, layer_scale_init_value=0.0,
            notes="3 by 3 positions and their bias interpolated to 5 by 5, with pixels over; the class token is pooled; no scales")
vision_cell("beit/model-oblong", ("Beit", {"size": {"height": 12, "width": 18}, "do_reduce_labels": True}),
            **BEIT, image_size=[12, 16], use_relative_position_bias=True, use_shared_relative_position_bias=True, hidden_act="relu",
            notes="both biases; their table of 5 by 7 is read as 7 by 5 and interpolated, as in transformers")
vision_cell("beit/for-image-classification", ("Beit", {**square(20), "resample": BILINEAR}), **SMALL_BEIT, image_size=16,
            use_relative_position_bias=True, labels=ANIMALS, notes="the bias of 4 by 4 positions interpolated to 5 by 5")
vision_cell("beit/for-image-classification-cls", ("Beit", square(17)), **encoder(16, 1, 2, 20, patch_size=8),
            image_size=17, use_mean_pooling=False, labels=ANIMALS, notes="the class token, without positions")
vision_cell("data2vec-vision/model", ("Beit", cut(18, 16)), **SMALL_BEIT, image_size=16, use_shared_relative_position_bias=True,
            notes="AutoModel has no pooler")
vision_cell("data2vec-vision/for-image-classification", ("Beit", cut(18, 16)), **SMALL_BEIT, image_size=16,
            use_shared_relative_position_bias=True, labels=ANIMALS)

# -------------------------------------------------------------------------------- Swin
SWIN = dict(embed_dim=6, depths=[2, 1, 2], num_heads=[1, 2, 3])
vision_cell("swin/model", ("ViT", square(19)), **SWIN, image_size=19, patch_size=2, window_size=3,
            notes="pixels, cells and windows over: maps of 10, 5 and 3 cells; the last is one window, which is not shifted")
vision_cell("swin/model-oblong", ("ViT", {"size": {"height": 26, "width": 43}}), image_size=[28, 44], patch_size=4, embed_dim=8, depths=[2, 2],
            num_heads=[2, 4], window_size=4, use_absolute_embeddings=True, qkv_bias=False, mlp_ratio=2.2, hidden_act="relu",
            notes="maps of 7 by 11 and 4 by 6 cells; absolute positions")
vision_cell("swin/for-image-classification", ("ViT", square(24)), image_size=20, patch_size=4, embed_dim=10, depths=[2, 1], num_heads=[5, 2],
            window_size=2, mlp_ratio=2, labels=ANIMALS, notes="pictures of another size than the configuration's")

# ------------------------------------------------------------------------- convolutions
RESNET = dict(embedding_size=6, hidden_sizes=[12, 16, 20], depths=[2, 1, 1])
vision_cell("resnet/model", ("ConvNext", {**edge(40), "crop_pct": 0.8}), **RESNET, notes="bottlenecks")
vision_cell("resnet/model-basic", ("ConvNext", {**edge(35), "crop_pct": 0.9}), embedding_size=6, hidden_sizes=[6, 10], depths=[2, 2], layer_type="basic",
            downsample_in_first_stage=True, hidden_act="gelu", notes="basic layers; an odd size")
vision_cell("resnet/for-image-classification", ("ConvNext", edge(36)), **RESNET, downsample_in_bottleneck=True, labels=ANIMALS)
CONVNEXT = dict(hidden_sizes=[5, 6, 7, 9], depths=[1, 1, 2, 1], patch_size=2)
vision_cell("convnext/model", ("ConvNext", {**edge(32), "crop_pct": 0.875}), **CONVNEXT, layer_scale_init_value=0.5)
vision_cell("convnext/model-no-scale", ("ConvNext", {**edge(24), "resample": LANCZOS}), hidden_sizes=[6, 10], depths=[1, 2], num_stages=2,
            layer_scale_init_value=0.0, hidden_act="relu", notes="two stages, without scales; Lanczos")
vision_cell("convnext/for-image-classification", ("ConvNext", edge(35)), **CONVNEXT, layer_scale_init_value=0.5, labels=ANIMALS, notes="pixels over")
vision_cell("convnextv2/model", ("ConvNext", edge(33)), **CONVNEXT)
vision_cell("convnextv2/for-image-classification", ("ConvNext", edge(33)), **CONVNEXT, labels=ANIMALS)
