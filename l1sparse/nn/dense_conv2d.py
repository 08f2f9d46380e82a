# SPDX-License-Identifier: MIT
"""`DenseConv2d`: `nn.Conv2d` for inference, run in the way in which torch is fastest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from l1sparse.nn.conv_arguments import conv_arguments
from l1sparse.nn.epilogue import apply_epilogue, check_activation, is_fusable, output_shape
from l1sparse.ops import pack

WAYS = ("eager", "prepacked")

# oneDNN's names and numbers for our activations.
_POINTWISE: dict[str, str] = {
    "none": "none",
    "relu": "relu",
    "relu6": "hardtanh",
    "clamp": "hardtanh",
    "hardswish": "hardswish",
}


def _is_for_onednn(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class DenseConv2d(nn.Conv2d):
    """A convolution that is not worth running sparse, with the same epilogue as `SparseConv2d`.

    Its state dict is that of `nn.Conv2d`.

    Args:
        conv: the convolution; its parameters are shared.
        activation: one of `l1sparse.ops.ACTIVATIONS`.
        clamp: least and greatest output of activation ``"clamp"``.
        way: ``"eager"``, or ``"prepacked"``: oneDNN with the weight reordered once, an
            activation in the same pass, and a residual too where no activation or a ReLU
            follows it. Inference only; what it can't do (gradients, other types than float32
            on the CPU) runs eager.
    """

    _reordered: Tensor | None
    _packed: Tensor | None

    def __init__(
        self,
        conv: nn.Conv2d,
        activation: str = "none",
        clamp: tuple[float, float] = (0.0, 6.0),
        way: str = "eager",
    ) -> None:
        check_activation(activation, clamp)
        if way not in WAYS:
            raise ValueError(f"way: got {way!r}, expected one of {WAYS}")
        super().__init__(**conv_arguments(conv))
        self.weight, self.bias = conv.weight, conv.bias
        self.training = conv.training
        self.activation, self.clamp, self.way = activation, clamp, way
        self._forget()

    def forward(self, input: Tensor, residual: Any = None) -> Tensor:
        """Convolve, add `residual`, apply the activation."""
        if self.way == "prepacked" and self.can_be_prepacked(input):
            return self._prepacked(input, residual)
        output = self._conv_forward(input, self.weight, self.bias)
        return apply_epilogue(output, residual, self.activation, self.clamp)

    def to_plain(self) -> nn.Conv2d:
        """The convolution alone, sharing the parameters."""
        conv = nn.Conv2d(**conv_arguments(self))
        conv.weight, conv.bias = self.weight, self.bias
        return conv.train(self.training)

    def extra_repr(self) -> str:
        """`nn.Conv2d`'s, and the activation and the way."""
        activation = "" if self.activation == "none" else f", activation={self.activation}"
        return f"{super().extra_repr()}{activation}, way={self.way}"

    def can_be_prepacked(self, input: Tensor) -> bool:
        """Whether oneDNN can run this convolution on `input`."""
        return (
            input.dim() == 4
            and input.dtype == self.weight.dtype
            and _is_for_onednn(input.dtype)
            and input.device.type == self.weight.device.type == "cpu"
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and torch.backends.mkldnn.is_available()
        )

    def reordered_weight(self, input: Tensor) -> Tensor:
        """The weight as oneDNN wants it, for inputs of about this shape; it is kept."""
        if self._reordered is None:
            geometry = (self.padding, self.stride, self.dilation, self.groups)
            reorder = torch.ops.aten.mkldnn_reorder_conv2d_weight.default
            weight = self.weight.detach().to_mkldnn()
            self._reordered = reorder(weight, *geometry, list(input.shape))
        return self._reordered

    def packed_weight(self) -> Tensor:
        """The whole weight packed for the native kernel that goes along pixels; it is kept."""
        if self._packed is None:
            group = (1, self.weight.shape[1])
            everything = torch.ones_like(self.weight, dtype=torch.bool)
            self._packed = pack(self.weight.detach(), everything, group, "pixels")
        return self._packed

    def _prepacked(self, input: Tensor, residual: Any) -> Tensor:
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        arguments = (self.reordered_weight(input), self.bias, *geometry)
        operator = torch.ops.mkldnn._convolution_pointwise
        output: Tensor
        if residual is None:
            name = _POINTWISE[self.activation]
            low, high = self.clamp if self.activation == "clamp" else (0.0, 6.0)
            scalars = [low, high] if name == "hardtanh" else []
            output = operator.default(input, *arguments, name, scalars, "")
            return output
        unary = {"none": None, "relu": "relu"}
        shape = output_shape(self, input, self.padding)  # type: ignore[arg-type]
        if self.activation in unary and is_fusable(residual, input, shape):
            activation = unary[self.activation]
            output = operator.binary(input, residual, *arguments, "add", 1.0, activation, [], "")
            return output
        output = operator.default(input, *arguments, "none", [], "")
        return apply_epilogue(output, residual, self.activation, self.clamp)

    def train(self, mode: bool = True) -> DenseConv2d:
        """As `nn.Module.train`; forms of the weight are made again at the next call."""
        self._forget()
        super().train(mode)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> DenseConv2d:
        self._forget()
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reordered": None, "_packed": None}

    def _forget(self) -> None:
        """The forms of the weight that were kept: it may change."""
        self._reordered = None
        self._packed = None
