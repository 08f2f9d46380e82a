# SPDX-License-Identifier: MIT
"""From a pruned network to a fast one, and to a file and back."""

from l1sparse.convert.accelerate import accelerate, layer_choices
from l1sparse.convert.choice import LayerChoice
from l1sparse.convert.executorch import export_executorch
from l1sparse.convert.file import load, save
from l1sparse.convert.measure import Timing, alternate
from l1sparse.convert.onnx import export_onnx
from l1sparse.convert.summary import FileSummary, summarize
from l1sparse.convert.times import layer_times

__all__ = [
    "FileSummary",
    "LayerChoice",
    "Timing",
    "accelerate",
    "alternate",
    "export_executorch",
    "export_onnx",
    "layer_choices",
    "layer_times",
    "load",
    "save",
    "summarize",
]
