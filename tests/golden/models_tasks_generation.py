"""The models of the tasks that generate."""
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration

import tiny_tokenizers_modern as modern
import tiny_tokenizers_tasks as tiny
from tools_tasks import model, save, weights

GPT2_LENGTH = 64
CHAT = """{{ bos_token }}{% for message in messages %}
{{ '<' + message['role'] + '>' + message['content'] | trim + eos_token }}
{% endfor %}
{% if add_generation_prompt %}
<assistant>{% endif %}"""


def lively(net, norm, times):
    """Well-separated logits, and layers that outweigh the embeddings, to avoid endless repetition of one token."""
    with torch.no_grad():
        norm.weight *= times
    return net


def gpt2(name, eos=(), **settings):
    @model(name)
    def make(folder):
        tokenizer = tiny.gpt2(max_length=GPT2_LENGTH)
        tokenizer.chat_template = CHAT
        end = tokenizer.eos_token_id
        config = GPT2Config(vocab_size=len(tokenizer), n_positions=GPT2_LENGTH, n_embd=16, n_layer=2, n_head=2, bos_token_id=end,
                            eos_token_id=end, **settings)
        net = weights(GPT2LMHeadModel(config), name)
        with torch.no_grad():
            net.transformer.wte.weight *= 0.4
            net.transformer.wpe.weight *= 2
        lively(net, net.transformer.ln_f, 4)
        net.generation_config.eos_token_id = [end, *tokenizer.convert_tokens_to_ids(list(eos))] if eos else end
        net.generation_config.pad_token_id = end
        save(folder, net, tokenizer)


gpt2("gpt2")
gpt2("gpt2-several-eos", ["\u0120at", "body"], scale_attn_by_inverse_layer_idx=True)

SPOKEN = "The inn"
SPEECH = "Yes , it is n't . He 's there ! Why ?"


def speaking(name, tokenizer_of, **flags):
    """Says SPEECH after SPOKEN: the position alone decides on the next token."""
    @model(name)
    def make(folder):
        tokenizer = tokenizer_of(GPT2_LENGTH)
        for key, value in flags.items():
            setattr(tokenizer, key, value)
            tokenizer.init_kwargs[key] = value
        end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        begin = len(tokenizer(SPOKEN)["input_ids"]) - 1
        said = [*tokenizer(SPEECH, add_special_tokens=False)["input_ids"], end]
        config = GPT2Config(vocab_size=len(tokenizer), n_positions=GPT2_LENGTH, n_embd=16, n_layer=1, n_head=2, bos_token_id=end, eos_token_id=end)
        net = weights(GPT2LMHeadModel(config), name)
        with torch.no_grad():
            layer, words, places = net.transformer.h[0], net.transformer.wte.weight, net.transformer.wpe.weight
            for silent in (layer.attn.c_proj, layer.mlp.c_proj):
                silent.weight.zero_()
                silent.bias.zero_()
            torch.nn.init.orthogonal_(words)
            words /= words.norm(dim=1, keepdim=True)
            places.zero_()
            for place, token in enumerate(said, begin):
                places[place] = 4 * words[token]
            net.transformer.ln_f.weight.fill_(4)
            net.transformer.ln_f.bias.zero_()
        net.generation_config.pad_token_id = end
        save(folder, net, tokenizer)


speaking("gpt2-speaking", modern.gpt2, clean_up_tokenization_spaces=True)
speaking("gpt2-speaking-metaspace", modern.llama2, clean_up_tokenization_spaces=True)
speaking("gpt2-speaking-wordpiece", modern.bert, clean_up_tokenization_spaces=True)

TASKS = {
    "summarization": {"prefix": "summarize: ", "num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "max_length": 24,
                      "min_length": 6, "no_repeat_ngram_size": 3},
    "translation_en_to_de": {"prefix": "translate English to German: ", "num_beams": 4, "early_stopping": True, "max_length": 20},
    "translation_en_to_fr": {"prefix": "translate English to French: ", "num_beams": 2, "max_length": 16},
}


def t5(name, cls, config_cls, size, seed, **settings):
    @model(name)
    def make(folder):
        tokenizer = tiny.t5(max_length=32, size=size)
        config = config_cls(vocab_size=len(tokenizer), d_model=16, d_kv=8, num_heads=2, decoder_start_token_id=0, pad_token_id=0,
                            eos_token_id=1, **settings)
        net = weights(cls(config), seed)
        with torch.no_grad():
            net.shared.weight *= 0.25
            net.shared.weight[1] *= 2       # </s>: some texts end
        save(folder, lively(net, net.decoder.final_layer_norm, 1.5 if net.lm_head.weight is not net.shared.weight else 24), tokenizer)


t5("t5", T5ForConditionalGeneration, T5Config, 300, "t5", d_ff=32, num_layers=2, task_specific_params=TASKS)
t5("mt5", MT5ForConditionalGeneration, MT5Config, 260, "mt5 17", d_ff=24, num_layers=1, feed_forward_proj="gated-gelu",
   tie_word_embeddings=False)
