#!/usr/bin/env python3
"""Make the goldens: tiny checkpoints with the outputs of the reference libraries.

    pip install -r requirements.txt
    python make_goldens.py [--only CASE ...] [--list]

Every case becomes a folder beside this script: a model directory as the library's own
`save_pretrained` writes it (save for the files a case takes away or rewrites on purpose, see
its function), with random weights large enough that a mistake shows, and

  golden.json          versions, texts, input_ids, token_type_ids, max_length, notes
  golden.safetensors   the outputs, f32 (README.md lists the names)
  tokens.json          ids of many strings, special tokens added, no truncation (plain models only)

(The cases `heads/…` and `images` have their own names in these files, which README.md lists.)
Each text is computed alone, without padding, in eval mode, in f32, with eager attention, from
the directory as it was written. Seeds follow from the names of the cases: the same libraries
give the same files.

A case that another generation of sentence-transformers saves is left as it is, with a line
saying so; requirements.txt tells how to make those two.
"""
import argparse

import torch
import transformers

import cases_adapters  # noqa: F401 (registers its cases)
import cases_bf16  # noqa: F401
import cases_bitmaps  # noqa: F401
import cases_chat  # noqa: F401
import cases_embedders  # noqa: F401
import cases_gguf  # noqa: F401
import cases_gguf_families  # noqa: F401
import cases_heads  # noqa: F401
import cases_image_processors  # noqa: F401
import cases_images  # noqa: F401
import cases_models  # noqa: F401
import cases_modern  # noqa: F401
import cases_modern_decoders  # noqa: F401
import cases_modern_embedders  # noqa: F401
import cases_modern_encoders  # noqa: F401
import cases_modern_tokenizers  # noqa: F401
import cases_multi_vector  # noqa: F401
import cases_pictures  # noqa: F401
import cases_prefixes  # noqa: F401
import cases_rerank  # noqa: F401
import cases_rotary  # noqa: F401
import cases_rows  # noqa: F401
import cases_sentence  # noqa: F401
import cases_seq2seq  # noqa: F401
import cases_seq2seq_tokenizers  # noqa: F401
import cases_sparse  # noqa: F401
import cases_spm_tokenizers  # noqa: F401
import cases_static  # noqa: F401
import cases_tasks  # noqa: F401
import cases_tasks_chat  # noqa: F401
import cases_tasks_deberta  # noqa: F401
import cases_tasks_generation  # noqa: F401
import cases_tasks_images  # noqa: F401
import cases_tasks_seq2seq  # noqa: F401
import cases_tasks_thinking  # noqa: F401
import cases_tasks_vision  # noqa: F401
import cases_tokenizers  # noqa: F401
import cases_vision  # noqa: F401
import cases_windows  # noqa: F401
from tools import CASES, make


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=list(CASES))
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    if args.list:
        print("\n".join(CASES))
        return
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    for name in args.only or CASES:
        make(name)


if __name__ == "__main__":
    main()
