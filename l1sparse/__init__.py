# SPDX-License-Identifier: MIT
"""Channel-group pruning of convolutional networks, and kernels that make it pay.

Prune with `prune` (and the parts of `l1sparse.pruning`), turn the result into a fast network with
`accelerate`, write it with `save`. `SparseConv2d` is the layer, `sparse_conv2d` the operator
beneath it. `l1sparse.runtime` has the kernels for NumPy arrays, without torch.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from l1sparse.build import build_info

    # From where it is defined: a type checker takes convert.accelerate for the module of that name.
    from l1sparse.convert import LayerChoice, export_executorch, export_onnx, load, save
    from l1sparse.convert.accelerate import accelerate, layer_choices
    from l1sparse.format import GroupShape, PackedInfo
    from l1sparse.nn import SparseConv2d
    from l1sparse.ops import group_l1_norm, pack, packed_info, sparse_conv2d, unpack
    from l1sparse.pruning import prune

    __version__: str

# Where each public name is. Nothing is imported before the first use of one, so that
# l1sparse.runtime works, and starts fast, without torch.
_HOMES = {
    "GroupShape": "format",
    "LayerChoice": "convert",
    "PackedInfo": "format",
    "SparseConv2d": "nn",
    "accelerate": "convert",
    "build_info": "build",
    "export_executorch": "convert",
    "export_onnx": "convert",
    "group_l1_norm": "ops",
    "layer_choices": "convert",
    "load": "convert",
    "pack": "ops",
    "packed_info": "ops",
    "prune": "pruning",
    "save": "convert",
    "sparse_conv2d": "ops",
    "unpack": "ops",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        globals()[name] = import_module("l1sparse.version").installed_version()
        return globals()[name]
    if name not in _HOMES:
        raise AttributeError(f"module 'l1sparse' has no attribute {name!r}")
    import_module("l1sparse.start")
    for public, home in _HOMES.items():
        globals()[public] = getattr(import_module(f"l1sparse.{home}"), public)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})


# A program that has torch loaded may go on to torch.ops.l1sparse without naming anything of here.
if "torch" in sys.modules and find_spec("l1sparse._C") is not None:
    import_module("l1sparse.start")

__all__ = [
    "GroupShape",
    "LayerChoice",
    "PackedInfo",
    "SparseConv2d",
    "__version__",
    "accelerate",
    "build_info",
    "export_executorch",
    "export_onnx",
    "group_l1_norm",
    "layer_choices",
    "load",
    "pack",
    "packed_info",
    "prune",
    "save",
    "sparse_conv2d",
    "unpack",
]
