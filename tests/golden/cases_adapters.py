"""The cases of `adapters/`: LoRA adapters of peft over checkpoints of other cases, with the outputs of the two together."""
import os
import zlib

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model

from texts import HERE
from tools import CASES, rewrite, versions, write_golden, write_tensors

ROWS = [[5, 9, 17, 3], [11], [8, 8, 30, 21, 2, 14]]


def adapter_case(name, base, auto_class, notes, **settings):
    def make(folder):
        model = getattr(transformers, auto_class).from_pretrained(os.path.join(HERE, base), attn_implementation="eager").eval()
        model = get_peft_model(model, LoraConfig(**settings)).eval()
        rng = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        with torch.no_grad():
            for key, p in sorted(model.named_parameters()):
                if "lora_" in key or "modules_to_save" in key:
                    p.copy_(0.2 * torch.randn(p.shape, generator=rng))
        model.save_pretrained(folder)
        os.remove(os.path.join(folder, "README.md"))
        rewrite(folder, "adapter_config.json", lambda config: {**config, "base_model_name_or_path": base})
        out = {}
        for i, row in enumerate(ROWS):
            with torch.inference_mode():
                out[f"logits.{i}"] = model(input_ids=torch.tensor([row])).logits[0]
        write_tensors(folder, out)
        write_golden(folder, {"base": base, "auto_class": auto_class, "notes": notes, "library versions": {**versions(), "peft": peft.__version__},
                              "input_ids": ROWS})

    CASES["adapters/" + name] = make


adapter_case("llama", "modern/llama/for-causal-lm", "AutoModelForCausalLM", "ranks and alphas by the names of modules", r=4, lora_alpha=12,
             target_modules=["q_proj", "v_proj", "down_proj"], rank_pattern={"v_proj": 2}, alpha_pattern={"down_proj": 5}, task_type="CAUSAL_LM")
adapter_case("bert", "heads/bert/for-sequence-classification", "AutoModelForSequenceClassification", "divided by the root of the rank; a classifier of its own",
             r=3, lora_alpha=2, use_rslora=True, target_modules=["query", "value"], task_type="SEQ_CLS")
adapter_case("gpt2", "heads/gpt2/for-causal-lm", "AutoModelForCausalLM", "transposed weights", r=2, lora_alpha=4, target_modules=["c_attn", "c_proj"],
             fan_in_fan_out=True, task_type="CAUSAL_LM")
