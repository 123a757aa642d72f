"""JinaBERT, the encoder of jina-embeddings-v2, in PyTorch: neither transformers nor sentence-transformers has it.

Its layers follow the remote code of the hub, in both of its forms: `jinaai/jina-bert-implementation` (the English checkpoints) and
`jinaai/jina-bert-v2-qk-post-norm` (code, German, Spanish), whose queries and keys are normalized and whose attention has a
second norm. Embeddings, pooler and heads are those of transformers' BERT, as in that code.
"""
import math

import torch
import transformers
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers.models.bert import modeling_bert as bert


@strict
class JinaBertConfig(transformers.BertConfig):
    model_type = "jina_bert_v2"
    feed_forward_type: str = "geglu"
    qk_post_norm: bool = False


def slopes(heads):
    """The slope of each head: powers of 2 ** (-8 / heads); where `heads` is no power of two, every other one of twice as many follow."""
    def geometric(count):
        ratio = 2 ** (-(2 ** -(math.log2(count) - 3)))
        return [ratio ** (i + 1) for i in range(count)]
    whole = 2 ** math.floor(math.log2(heads))
    return geometric(whole) + ([] if whole == heads else geometric(2 * whole)[0::2][:heads - whole])


class SelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads = config.num_attention_heads
        self.query, self.key, self.value = (nn.Linear(config.hidden_size, config.hidden_size) for _ in range(3))
        if config.qk_post_norm:
            self.layer_norm_q, self.layer_norm_k = (nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) for _ in range(2))
        self.qk_post_norm = config.qk_post_norm

    def forward(self, x, mask):
        q, k, v = self.query(x), self.key(x), self.value(x)
        if self.qk_post_norm:
            q, k = self.layer_norm_q(q), self.layer_norm_k(k)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        places = torch.arange(x.shape[1])
        distance = (places[None, :] - places[:, None]).abs()
        scores = scores - torch.tensor(slopes(self.heads), dtype=torch.float32).to(scores.dtype)[:, None, None] * distance
        attentions = (scores if mask is None else scores + mask).softmax(-1)
        return (attentions @ v).transpose(1, 2).flatten(2), attentions


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self = SelfAttention(config)
        self.output = bert.BertSelfOutput(config)

    def forward(self, x, mask):
        return self.output(self.self(x, mask)[0], x)


class GluMlp(nn.Module):
    """The first half of the product goes through the activation; the norm after it is here."""
    def __init__(self, config, activation):
        super().__init__()
        self.gated_layers = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.wo = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = activation

    def forward(self, x):
        gated, other = self.gated_layers(x).chunk(2, -1)
        return self.layernorm(self.wo(self.activation(gated) * other) + x)


class UpGatedMlp(nn.Module):
    """The second half of the product goes through the activation."""
    def __init__(self, config, activation):
        super().__init__()
        self.up_gated_layer = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_layer = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = activation

    def forward(self, x):
        up, gated = self.up_gated_layer(x).chunk(2, -1)
        return self.down_layer(up * self.activation(gated))


class JinaBertLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        activation = {"geglu": nn.GELU(), "reglu": nn.ReLU()}[config.feed_forward_type]
        self.attention = Attention(config)
        self.qk_post_norm = config.qk_post_norm
        if config.qk_post_norm:
            self.layer_norm_1, self.layer_norm_2 = (nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) for _ in range(2))
        self.mlp = (UpGatedMlp if config.qk_post_norm else GluMlp)(config, activation)

    def forward(self, x, mask=None, *_, **__):
        attended = self.attention(x, mask)
        if not self.qk_post_norm:
            return self.mlp(attended)
        attended = self.layer_norm_1(x + attended)
        return self.layer_norm_2(attended + self.mlp(attended))


class NoPositions(nn.Module):
    def forward(self, ids):
        return torch.zeros(1)


class JinaBertModel(transformers.BertModel):
    config_class = JinaBertConfig
    _can_record_outputs = {"hidden_states": JinaBertLayer, "attentions": SelfAttention}

    def __init__(self, config, add_pooling_layer=True):
        super().__init__(config, add_pooling_layer)
        self.embeddings.position_embeddings = NoPositions()
        self.encoder.layer = nn.ModuleList(JinaBertLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()


def with_head(parent, add_pooling_layer):
    """The class of a head over JinaBertModel."""
    class WithHead(parent):
        config_class = JinaBertConfig

        def __init__(self, config):
            super().__init__(config)
            self.bert = JinaBertModel(config, add_pooling_layer)
            self.post_init()

    WithHead.__name__ = parent.__name__.replace("Bert", "JinaBert", 1)
    return WithHead


transformers.AutoConfig.register("jina_bert_v2", JinaBertConfig)
transformers.AutoModel.register(JinaBertConfig, JinaBertModel)
for head, pooled in (("MaskedLM", False), ("SequenceClassification", True), ("QuestionAnswering", False), ("TokenClassification", False),
                     ("MultipleChoice", True)):
    getattr(transformers, f"AutoModelFor{head}").register(JinaBertConfig, with_head(getattr(transformers, f"BertFor{head}"), pooled))
