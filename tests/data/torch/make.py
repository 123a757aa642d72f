"""Makes the checkpoints of this folder with torch (made with torch 2.9.1; any 2.x works).

    python make.py

Each holds the tensors of `expected.safetensors`, in a form of torch.save that crates/hfauto/src/hub/ reads:
every storage type, views (transposed, sliced, shared, zero-dimensional, empty), parameters.
`forbidden.bin` names a function outside the list and must be refused.
"""

import json
import os
import struct
from collections import OrderedDict
from pathlib import Path

import torch

HERE = Path(__file__).parent
NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}


def tensors():
    base = torch.arange(24, dtype=torch.float32) / 8 - 1
    state = OrderedDict()
    state["whole"] = base.reshape(4, 6)
    state["transposed"] = base.reshape(4, 6).t()
    state["sliced"] = base.reshape(4, 6)[1:3, 2:5]
    state["strided"] = base[1::3]
    state["scalar"] = base[5]
    state["empty"] = torch.empty(0, 3)
    state["repeated"] = torch.arange(3).expand(1, -1)
    state["parameter"] = torch.nn.Parameter(torch.tensor([[0.5, -2.0]]))
    noted = torch.tensor([7.0, 8.0])
    noted.note = "an attribute"
    state["noted"] = noted
    for dtype in NAMES:
        values = [0, 1, 1, 0] if dtype == torch.bool else [0, 1, 2, 100]
        state[f"of_{NAMES[dtype].lower()}"] = torch.tensor(values, dtype=dtype)
    state["negative"] = torch.tensor([-1, -128], dtype=torch.int8)
    return state


def save_safetensors(state, path):
    header, data = {}, b""
    for name, tensor in state.items():
        flat = tensor.detach().contiguous().clone().reshape(-1)
        raw = bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""
        header[name] = {
            "dtype": NAMES[tensor.dtype], "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


class Forbidden:
    def __reduce__(self):
        return os.system, ("true",)


state = tensors()
save_safetensors(state, HERE / "expected.safetensors")
torch.save(state, HERE / "zip.bin")
torch.save(state, HERE / "zip_protocol4.bin", pickle_protocol=4)
torch.save(state, HERE / "legacy.bin", _use_new_zipfile_serialization=False)
torch.save(state, HERE / "legacy_protocol4.bin", _use_new_zipfile_serialization=False, pickle_protocol=4)
torch.save({"epoch": 3, "loss": 0.25, "state_dict": state}, HERE / "nested.bin")
torch.save({"weight": torch.zeros(2), "hook": Forbidden()}, HERE / "forbidden.bin")
torch.manual_seed(0)
torch.save(torch.nn.Linear(2, 2).state_dict(), HERE / "linear.bin")
torch.save(torch.nn.Linear(2, 2), HERE / "module.bin")
