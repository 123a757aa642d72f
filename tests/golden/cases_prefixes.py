"""Prompts that begin with the same tokens: what `generate` gives for each alone (`prefixes/`).

The checkpoints are those of `modern/` and `tasks/`: windows shorter than the prefix, rotary embeddings by the length of a row,
learned positions. The rows of a case are those that share a computed prefix, and rows without one.
"""
import os

import torch
import transformers
from transformers import AutoConfig

from modern import LIBRARY, generated
from texts import HERE
from tools import CASES, skip, versions, write_golden
from tools_tasks import nudge

MODELS = ["tasks/gpt2", "modern/llama/for-causal-lm", "modern/llama/for-causal-lm-dynamic", "modern/mistral/for-causal-lm",
          "modern/qwen2/for-causal-lm-sliding", "modern/qwen3/for-causal-lm", "modern/qwen3/for-causal-lm-sliding",
          "modern/smollm3/for-causal-lm", "modern/phi3/for-causal-lm", "modern/phi3/for-causal-lm-longrope",
          "modern/gemma/for-causal-lm", "modern/gemma2/for-causal-lm", "modern/gemma3_text/for-causal-lm"]
OPTIONS = [{}, {"num_beams": 3}]


def prompts(vocab_size, seed):
    """Two prefixes of 13 and 7 tokens, one that continues the first, and prompts of their own."""
    rng = torch.Generator().manual_seed(seed)

    def draw(length):
        return torch.randint(5, vocab_size, (length,), generator=rng).tolist()

    first, second = draw(13), draw(7)
    longer = first + draw(6)
    return [first + draw(1), second + draw(9), draw(5), first + draw(8), longer + draw(4), second + draw(2), first, longer + draw(2),
            draw(14), first + draw(3), second + draw(3)]


def prefixes(folder):
    if transformers.__version__ != LIBRARY:
        skip(f"prefixes are made with transformers {LIBRARY}")
    cases = []
    names = [name for name in MODELS if os.path.isdir(os.path.join(HERE, name))]
    assert names == MODELS, set(MODELS) - set(names)
    for name in names:
        path = os.path.join(HERE, name)
        vocab_size = AutoConfig.from_pretrained(path).vocab_size
        for options in OPTIONS:
            for seed in range(40):
                rows = [generated(path, prompt, {"eos_token_id": None, **options}, lambda net: net) for prompt in prompts(vocab_size, seed)]
                other = [generated(path, row["prompt"], {"eos_token_id": None, **options}, nudge) for row in rows]
                if [row["tokens"] for row in rows] == [row["tokens"] for row in other]:
                    break
            else:
                raise AssertionError(f"{name}: every prompt is next to a tie")
            cases.append({"model": f"../{name}", "options": options, "rows": [{"prompt": row["prompt"], "tokens": row["tokens"]} for row in rows]})
    write_golden(folder, {"library versions": versions(), "max_new_tokens": 12, "cases": cases,
                          "notes": "each prompt alone, without a shared prefix"}, "prefixes.json")


CASES["prefixes"] = prefixes
