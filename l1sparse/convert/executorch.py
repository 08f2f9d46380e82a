# SPDX-License-Identifier: MIT
"""`export_executorch`: an accelerated network as a program for small devices.

Pruned convolutions become calls of one operator, ``l1sparse::sparse_conv2d.out``, which
``libl1sparse_executorch`` brings to the device; the rest is delegated to XNNPACK.
"""

from __future__ import annotations

import copy
import os
import secrets
import warnings
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from l1sparse.convert.rewrite import (
    inference_copy,
    make_sparse,
    optimised_graph,
    without_format_conversions,
)
from l1sparse.nn import DenseConv2d, SparseConv2d

# Packed weights are read where they lie in the file.
_WEIGHT_ALIGNMENT = 64
# As csrc/capi/program.cpp has it.
_CHECKSUM_MAGIC = b"L1SPCRC1"


def export_executorch(
    model: nn.Module, example_input: Tensor, path: str | os.PathLike[str]
) -> None:
    """Write a network with `SparseConv2d` layers as an ExecuTorch program.

    The program runs as NCHW, at the size of the example, without Python and torch: link
    ``libl1sparse_executorch``, ExecuTorch's runtime, its XNNPACK backend and its kernels (which
    run the few operators that XNNPACK does not take). A file that was there before stays whole
    until the new one is. It ends in a checksum that ``l1sparse_program_check`` compares on the
    device, before ExecuTorch reads it.

    Args:
        model: a result of `accelerate` or `load`, or any module with `SparseConv2d` layers, whose
            batch norms are folded and whose activations are fused as in `accelerate` where
            `torch.fx` can trace it; it is not changed.
        example_input: a batch ``[N, C, H, W]``, float32, of the size that the program will get.
        path: the file to write, ``.pte`` by custom.

    Raises:
        ImportError: if ExecuTorch is not installed.
        ValueError: if `model` has no `SparseConv2d` in it, or `example_input` has another rank or
            type.
        RuntimeError: if `torch.export` or ExecuTorch can't take the network; the message says why.
        OSError: if the file can't be written.
    """
    if example_input.dim() != 4 or example_input.dtype != torch.float32:
        raise ValueError(
            f"example_input: is {example_input.dtype} of shape {list(example_input.shape)}, "
            "expected float32 [N, C, H, W]"
        )
    if not any(isinstance(module, SparseConv2d) for module in model.modules()):
        raise ValueError(
            f"model: this {type(model).__name__} has no SparseConv2d layer; accelerate() it first"
        )
    _declare_out_variant()
    example = example_input.contiguous()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ExecuTorch's own imports and passes
        program = lower(_for_device(model), example)
    _write_whole(with_checksum(program), Path(path))


def _for_device(model: nn.Module) -> nn.Module:
    """A copy that only has what a device runs: packed weights, no oneDNN, NCHW throughout."""
    network = _optimised(model)
    for module in network.modules():
        if isinstance(module, SparseConv2d):
            module.drop_dense_weight()
            del module.mask  # the packed weight says it all
        elif isinstance(module, DenseConv2d):
            module.way = "eager"
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if isinstance(network, fx.GraphModule):
        without_format_conversions(network)
    return network


def _optimised(model: nn.Module) -> nn.Module:
    """A copy as `accelerate` would make it, with every `SparseConv2d` chosen sparse."""
    if isinstance(model, fx.GraphModule):
        return copy.deepcopy(model).eval()
    groups = {
        name: module.group
        for name, module in model.named_modules()
        if isinstance(module, SparseConv2d) and name
    }
    try:
        network = optimised_graph(inference_copy(model))
    except Exception:  # fx raises whatever the model's own code does with a proxy
        return copy.deepcopy(model).eval()
    for name, group in groups.items():
        make_sparse(network, name, group).eval()
    return network


def lower(network: nn.Module, example: Tensor) -> bytes:
    """`network` as an ExecuTorch program for inputs like `example`, XNNPACK doing what it can.

    Raises:
        ImportError: if ExecuTorch is not installed.
        RuntimeError: if `torch.export` or ExecuTorch can't take the network.
    """
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
    except ImportError as error:
        raise ImportError(
            f"export_executorch needs the package {error.name!r}; "
            "pip install 'l1sparse[executorch]'"
        ) from error
    with torch.no_grad():
        exported = torch.export.export(network, (example,))
    edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    config = ExecutorchBackendConfig(constant_tensor_alignment=_WEIGHT_ALIGNMENT)
    return bytes(edge.to_executorch(config).buffer)


@cache
def _declare_out_variant() -> torch.library.Library:
    """The operator's form for planned memory, which ExecuTorch puts in the functional one's place.

    Declared where it is needed, and not with the operator: torch has no use for it.
    """
    library = torch.library.Library("l1sparse", "FRAGMENT")
    library.define(
        "sparse_conv2d.out(Tensor input, Tensor packed, int[] weight_shape, Tensor? bias=None, "
        "int[] stride=[1, 1], int[] padding=[0, 0], int[] dilation=[1, 1], int groups=1, "
        "Tensor? residual=None, str activation='none', float clamp_min=0.0, float clamp_max=6.0, "
        "str backend='auto', *, Tensor(a!) out) -> Tensor(a!)"
    )

    def out_variant(*arguments: Any, out: Tensor) -> Tensor:
        return out.copy_(torch.ops.l1sparse.sparse_conv2d.default(*arguments))

    library.impl("sparse_conv2d.out", out_variant, "CompositeExplicitAutograd")
    return library


def with_checksum(program: bytes) -> bytes:
    """`program` and, where ExecuTorch reads nothing, what `l1sparse_program_check` compares."""
    return program + _CHECKSUM_MAGIC + zlib.crc32(program).to_bytes(4, "little")


def _write_whole(content: bytes, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
