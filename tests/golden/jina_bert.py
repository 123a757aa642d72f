"""JinaBERT, the encoder of jina-embeddings-v2: the code of its authors and of Hugging Face, which no package of PyPI holds.

`jinaai/jina-bert-implementation` (the English checkpoints) is a copy in a repository, whose additions (flash attention, a scale of ALiBi)
are off. `jinaai/jina-bert-v2-qk-post-norm` (code, German, Spanish), whose queries and keys are normalized and whose attention has a
second norm, is that of text-embeddings-inference, which computes from the tensors of a checkpoint. The files are downloaded once, into
`HFAUTO_REFERENCES`, and are the only source of numbers here; transformers 5 lacks three helpers of version 4, which are below.
"""
import copy
import hashlib
import importlib.util
import os
import sys
import types
import urllib.request

import torch
import transformers
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

CACHE = os.environ.get("HFAUTO_REFERENCES", os.path.expanduser("~/.cache/hfauto-references"))
ENGLISH = ("veya2ztn/sci-bert-finetune", "e39c6b94c6c3d90f7c3ce29c3411b3b015822e58", "models/jinabert/")
INFERENCE = ("huggingface/text-embeddings-inference", "0d124dc9773be6ac5a9a57d8439aba9bbbf33273", "backends/python/server/text_embeddings_server/models/")
SHA256 = {"configuration_bert.py": "ea02a16898af6c94747f9632291c4e01b32142a509e8497911849be0e24a5366",
          "modeling_bert.py": "f6d4aed19e73fc0da1faa49179890ab6eff3166c100d437085944c09ac68e70b",
          "jinaBert_model.py": "481c3cdef174c675abdd1c72c9fd4a3bab4a89e843c2bb8e07da11ea2296c736"}


# ------------------------------------------------------------------------------ the code
def downloaded(source, name):
    """The path of a file of a repository on GitHub, which is what its hash says."""
    repository, commit, folder = source
    path = os.path.join(CACHE, repository, commit, name)
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        urllib.request.urlretrieve(f"https://raw.githubusercontent.com/{repository}/{commit}/{folder}{name}", path)
    with open(path, "rb") as f:
        found = hashlib.sha256(f.read()).hexdigest()
    if found != SHA256[name]:
        raise ValueError(f"{path} is not {repository} {commit}:{folder}{name}: its sha256 is {found}")
    return path


def module(package, source, name):
    """Runs a file as a module of a package."""
    spec = importlib.util.spec_from_file_location(f"{package}.{name.removesuffix('.py')}", downloaded(source, name))
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


def empty(name, **members):
    """A module that is imported for classes which are not used here."""
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__.update({"__path__": [], **members})


transformers.pytorch_utils.find_pruneable_heads_and_indices = None
empty("transformers.onnx", OnnxConfig=object)
empty("jina_remote_code")
module("jina_remote_code", ENGLISH, "configuration_bert.py")
english = module("jina_remote_code", ENGLISH, "modeling_bert.py")

UNUSED = {"Model": object, "PaddedBatch": object, "Embedding": object, "Score": object, "DefaultPooling": object}
for part in ("", ".models", ".models.pooling", ".models.types"):
    empty("text_embeddings_server" + part, **UNUSED)


class Tracer:
    def start_as_current_span(self, _name):
        return lambda function: function


if importlib.util.find_spec("opentelemetry") is None:
    empty("opentelemetry", trace=types.SimpleNamespace(get_tracer=lambda _name: Tracer()))
inference = module("text_embeddings_server.models", INFERENCE, "jinaBert_model.py")


# ------------------------------------------------------------------------------ what differs in transformers 5
def rebuild_alibi_tensor(encoder, size, device=None, *, original=english.JinaBertEncoder.rebuild_alibi_tensor):
    """`from_pretrained` makes models on the device `meta`, where numbers have no place."""
    with torch.device("cpu"):
        return original(encoder, size, device)


def get_extended_attention_mask(model, attention_mask, _shape):
    return (1.0 - attention_mask[:, None, None, :].to(model.dtype)) * torch.finfo(model.dtype).min


english.JinaBertEncoder.rebuild_alibi_tensor = rebuild_alibi_tensor
english.JinaBertPreTrainedModel._supports_sdpa = True       # cells without attentions: the code of text-embeddings-inference gives none
english.JinaBertPreTrainedModel.get_extended_attention_mask = get_extended_attention_mask
english.JinaBertPreTrainedModel.get_head_mask = lambda _model, _mask, layers: [None] * layers


# ------------------------------------------------------------------------------ classes
class JinaBertConfig(english.JinaBertConfig):
    model_type = "jina_bert_v2"
    is_decoder = add_cross_attention = False        # these are defaults of transformers 4
    tie_word_embeddings = True
    chunk_size_feed_forward = 0

    def __init__(self, feed_forward_type="geglu", qk_post_norm=False, **kwargs):
        kwargs |= {"position_embedding_type": "alibi", "attn_implementation": None, "emb_pooler": None, "embedding_model": False}
        super().__init__(feed_forward_type=feed_forward_type, **kwargs)
        self.qk_post_norm = qk_post_norm


class QkPostNormMlp(nn.Module):
    """The tensors of the second form; not computed with."""
    def __init__(self, config):
        super().__init__()
        self.up_gated_layer = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_layer = nn.Linear(config.intermediate_size, config.hidden_size)


class JinaBertModel(english.JinaBertModel):
    config_class = JinaBertConfig

    def __init__(self, config, add_pooling_layer=True):
        super().__init__(config, add_pooling_layer)
        self.encoder._current_alibi_size = 0        # made again for each row: `from_pretrained` leaves buffers empty
        if config.qk_post_norm:
            def norm():
                return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

            for layer in self.encoder.layer:
                layer.attention.self.layer_norm_q, layer.attention.self.layer_norm_k, layer.layer_norm_1, layer.layer_norm_2 = (
                    norm() for _ in range(4))
                layer.mlp = QkPostNormMlp(config)
            self.post_init()

    def forward(self, input_ids, token_type_ids=None, attention_mask=None, **options):
        if not self.config.qk_post_norm:
            return super().forward(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids, **options)
        tensors, still = types.SimpleNamespace(get_tensor=self.state_dict().get), copy.deepcopy(self.config)
        still.hidden_dropout_prob = still.attention_probs_dropout_prob = 0      # that code does not turn dropout off
        whole = inference.FlashJinaBertModel(tensors, self.device, self.dtype, still)
        types_of = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        mask = None if attention_mask is None else get_extended_attention_mask(self, attention_mask, None)
        layers, states = whole.encoder.layers, []
        for count in range(len(layers) + 1):        # the encoder gives the last state only
            whole.encoder.layers = layers[:count]
            states.append(whole.forward(input_ids, types_of, None, input_ids.shape[1], mask))
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=states[-1], hidden_states=tuple(states), pooler_output=None if self.pooler is None else self.pooler(states[-1]))


def with_head(name, add_pooling_layer):
    """The class of a head, over either form of the model."""
    class WithHead(getattr(english, name)):
        config_class = JinaBertConfig
        _tied_weights_keys = getattr(transformers, name.removeprefix("Jina"))._tied_weights_keys       # a list in version 4

        def __init__(self, config):
            super().__init__(config)
            self.bert = JinaBertModel(config, add_pooling_layer)
            self.post_init()

    WithHead.__name__ = name
    return WithHead


transformers.AutoConfig.register("jina_bert_v2", JinaBertConfig)
transformers.AutoModel.register(JinaBertConfig, JinaBertModel)
for head, pooled in (("MaskedLM", False), ("SequenceClassification", True), ("QuestionAnswering", False), ("TokenClassification", False),
                     ("MultipleChoice", True)):
    getattr(transformers, f"AutoModelFor{head}").register(JinaBertConfig, with_head(f"JinaBertFor{head}", pooled))
