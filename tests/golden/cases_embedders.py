"""The cases of `embedders/`: directories of sentence-transformers over encoders that are made for embeddings, end to end.

golden.json has the texts, and for each of its `cases` the options and one vector per text: `prompt_name` and `truncate_dim` are those of
`encode`, `default_task` is the adapter of Jina Embeddings v3 (null: none).
"""
import os
import tempfile

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer, models
from transformers import AutoConfig, AutoModel

import tiny_tokenizers_modern as tiny
from cases_modern import FULL, SLIDING, encoder, rope
from cases_modern_embedders import CODE, gemma2, scalars
from heads import compact, edit_weights
from modern import configuration, randomise, token_ids
from tools import CASES, MAX_LENGTH, rewrite, save, versions, write_golden, write_json

TEXTS = ["", "good", "  The room was very quiet. ", 'She said: "It\'s fine"\nand left', "Crème à Kraków 房间 🙂👍🏽",
         "The little inn by the harbour was quiet, bright and very clean, and the bread was still warm. " * 2]


def folder_of(scratch, model_type, tokenizer, options, edit=None, embeddings=0.3):
    """A plain model directory."""
    config = configuration(model_type, {"vocab_size": len(tokenizer), **token_ids(tokenizer, model_type), **options})
    save(scratch, randomise(AutoModel.from_config(config), model_type, False, embeddings), tokenizer)
    if edit:
        edit_weights(scratch, edit)


def encoded(model, texts, **options):
    """Each text alone, with digits that tell f32 numbers apart."""
    vectors = [model.encode(text, show_progress_bar=False, **options) for text in texts]
    return [[float(f"{x:.8g}") for x in vector.tolist()] for vector in vectors]


def case(name, model_type, tokenizer, options, prompts, calls, *, tasks=None, after=None, notes="", **more):
    """Registers a case: mean pooling and unit length over a plain model, with `prompts`. `calls` are options of `encode`."""
    def build(folder):
        own = tokenizer(MAX_LENGTH)
        with tempfile.TemporaryDirectory() as scratch:
            folder_of(scratch, model_type, own, options, **more)
            first = models.Transformer(scratch, max_seq_length=MAX_LENGTH, model_kwargs={"attn_implementation": "eager"})
            modules = [first, models.Pooling(first.get_embedding_dimension(), "mean"), models.Normalize()]
            SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save_pretrained(folder, create_model_card=False)
        compact(folder)
        model = SentenceTransformer(folder, device="cpu", model_kwargs={"attn_implementation": "eager"}).eval()
        adapters = tasks(model) if tasks else None
        cases = []
        for call in calls:
            task = call.get("default_task", "")
            if tasks:
                select(model, task)
            rest = {key: value for key, value in call.items() if key != "default_task"}
            cases.append({"options": call, "vectors": encoded(model, TEXTS, **rest)})
        if after:
            after(folder, adapters)
        write_golden(folder, {"library versions": versions(), "notes": notes, "texts": TEXTS, "cases": cases})

    CASES[f"embedders/{name}"] = build


# ------------------------------------------------------------------------------ EmbeddingGemma 2
PROMPTS_OF_GEMMA = {"query": "task: search result | query: ", "document": "title: none | text: ", "STS": "task: sentence similarity | query: "}


def whole_model(folder, _):
    """The text model as part of the whole, whose processor needs files of images, video and audio."""
    def change(config):
        config.pop("transformers_version")
        text = {key: value for key, value in config.items() if key not in ("architectures", "dtype")}
        return {"architectures": ["EmbeddingGemma2Model"], "dtype": "float32", "model_type": "embedding_gemma2", "text_config": text,
                "vision_config": {"model_type": "gemma4_vision"}, "audio_config": {"model_type": "gemma4_audio"}, "image_token_id": 258880}
    rewrite(folder, "config.json", change)
    edit_weights(folder, lambda weights: {f"language_model.{key}": value for key, value in weights.items()})


case("embedding-gemma2", "embedding_gemma2_text", tiny.gemma,
     gemma2(12, 3, 2, 2, 20, 8, hidden_size_per_layer_input=6, embedding_dim=20, sliding_window=4, layer_types=[SLIDING, SLIDING, FULL],
            global_head_dim=10),
     PROMPTS_OF_GEMMA, [{}, {"prompt_name": "query"}, {"prompt_name": "document", "truncate_dim": 8}], edit=scalars, embeddings=0.25,
     after=whole_model, notes="as google/embeddinggemma-2: Transformer, Pooling mean, Normalize; computed with the text model")


# ------------------------------------------------------------------------------ Jina v2
case("jina-v2", "jina_bert_v2", tiny.bert, encoder(24, 2, 3, 28, qk_post_norm=True), {}, [{}, {"truncate_dim": 16}],
     after=lambda folder, _: CODE(folder), notes="as jinaai/jina-embeddings-v2-base-code; computed by the code that jina_bert.py downloads")

# ------------------------------------------------------------------------------ Jina v3
TASKS = {"retrieval.query": "Represent the query for retrieving evidence documents: ", "retrieval.passage": "Represent the document for retrieval: ",
         "separation": ""}
RANK, ALPHA = 3, 2
# Modules of the library by those of the hub's checkpoints.
LORA = {"mixer.Wqkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "mixer.out_proj": ["self_attn.o_proj"],
        "mlp.fc1": ["mlp.fc1"], "mlp.fc2": ["mlp.fc2"]}


def peft_name(task):
    return task.replace(".", "_")


def add_adapters(model):
    """Adds an adapter for each task with peft, as the class takes them; returns their factors by module and task."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "dense", "word_embeddings", "token_type_embeddings"]
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, init_lora_weights=False)
    for task in TASKS:
        inject_adapter_in_model(config, model[0].auto_model, peft_name(task))
    rng = torch.Generator().manual_seed(3)
    factors = {}
    with torch.no_grad():
        for name, module in sorted(model[0].auto_model.named_modules()):
            if hasattr(module, "lora_A"):
                for task in TASKS:
                    own = peft_name(task)
                    if own in getattr(module, "lora_embedding_A", {}):
                        pair = (module.lora_embedding_A[own], module.lora_embedding_B[own])
                    else:
                        pair = (module.lora_A[own].weight, module.lora_B[own].weight)
                    for p in pair:
                        p.copy_(0.25 * torch.randn(p.shape, generator=rng))
                    if name.endswith(("q_proj", "v_proj")):      # the three have one factor A in the hub's checkpoints
                        pair[0].copy_(factors[name[:-6] + "k_proj", task][0])
                    factors[name, task] = tuple(p.clone() for p in pair)
    return factors


def select(model, task):
    """Runs the adapter of `task`, or none."""
    for module in model[0].auto_model.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(task is not None)
            if task is not None:
                module.set_adapter(peft_name(task))


def of_the_hub(folder, factors):
    """As jinaai/jina-embeddings-v3: adapters as parametrizations, the remote code's module and configuration."""
    def change(config):
        theta = config.pop("rope_parameters")["rope_theta"]
        return {**config, "model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], "position_embedding_type": "rotary",
                "rotary_emb_base": theta, "emb_pooler": None, "load_trained_adapters": True, "lora_adaptations": list(TASKS),
                "lora_alpha": ALPHA, "lora_dropout_p": 0.0, "lora_main_params_trainable": False, "lora_rank": RANK,
                "matryoshka_dimensions": [8, 16], "task_instructions": TASKS, "use_flash_attn": True, "auto_map": {
                    "AutoConfig": "jinaai/xlm-roberta-flash-implementation--configuration_xlm_roberta.XLMRobertaFlashConfig",
                    "AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_lora.XLMRobertaLoRA"}}
    rewrite(folder, "config.json", change)
    first = lambda modules: [{"idx": 0, "name": "transformer", "path": "", "type": "custom_st.Transformer", "kwargs": ["task"]},
                             *modules[1:]]
    rewrite(folder, "modules.json", first)
    write_json(os.path.join(folder, "sentence_bert_config.json"), {"max_seq_length": MAX_LENGTH, "do_lower_case": False,
                                                                   "model_args": {"default_task": "separation"}})

    def adapters(path):
        """The factors A and B of all tasks, stacked."""
        layer = path.split("encoder.layers.")[-1].split(".", 1)
        modules = [f"layers.{layer[0]}.{own}" for own in LORA[layer[1]]] if path.startswith("encoder.layers.") else [path]
        pairs = [[factors[module, task] for module in modules] for task in TASKS]
        a, b = [pair[0][0] for pair in pairs], [torch.cat([own[1] for own in pair]) for pair in pairs]
        if path.startswith("embeddings."):      # the hub's tables have (rows, rank) and (rank, columns)
            a, b = [x.T for x in a], [x.T for x in b]
        return torch.stack(a).contiguous(), torch.stack(b).contiguous()

    def change_weights(weights):
        out = {}
        for key, value in weights.items():
            path = key.removesuffix(".weight")
            if value.ndim != 2:
                out["roberta." + key] = value
                continue
            place = f"roberta.{path}.parametrizations.weight"
            a, b = adapters(path)
            out |= {f"{place}.original": value, f"{place}.0.lora_A": a, f"{place}.0.lora_B": b}
        return out
    edit_weights(folder, change_weights)
    assert len(load_file(os.path.join(folder, "model.safetensors"))) > 30


case("jina-v3", "jina_embeddings_v3", tiny.xlm_roberta, encoder(16, 2, 2, 24, type_vocab_size=1, rope_parameters=rope(rope_theta=500.0)), TASKS,
     [{"default_task": None}, {"default_task": None, "prompt_name": "retrieval.query"}, {"default_task": "separation"},
      {"default_task": "retrieval.query", "prompt_name": "retrieval.query"},
      {"default_task": "retrieval.passage", "prompt_name": "retrieval.passage", "truncate_dim": 8}],
     tasks=add_adapters, after=of_the_hub,
     notes="as jinaai/jina-embeddings-v3; computed with the same adapters in the form of peft, which the library's class takes")
