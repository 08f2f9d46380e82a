# SPDX-License-Identifier: MIT
"""Channel-group pruning of convolutional networks, and kernels that make it pay.

Prune with `prune` (and the parts of `l1sparse.pruning`), turn the result into a fast network with
`accelerate`, write it with `save`. `SparseConv2d` is the layer, `sparse_conv2d` the operator
beneath it.
"""

from l1sparse.build import build_info, force_arch_from_environment
from l1sparse.convert import LayerChoice, accelerate, layer_choices, load, save
from l1sparse.format import GroupShape, PackedInfo
from l1sparse.gpu.dispatch import register
from l1sparse.nn import SparseConv2d
from l1sparse.ops import group_l1_norm, pack, packed_info, sparse_conv2d, unpack
from l1sparse.pruning import prune

force_arch_from_environment()
register()

__all__ = [
    "GroupShape",
    "LayerChoice",
    "PackedInfo",
    "SparseConv2d",
    "accelerate",
    "build_info",
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
