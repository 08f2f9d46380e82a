# SPDX-License-Identifier: MIT
"""`SparseConv2d`: `nn.Conv2d` whose pruned channel groups cost no time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._subclasses.fake_tensor import FakeTensor

from l1sparse.conv_grad import gather_values, values_conv2d, values_shape
from l1sparse.format import GroupShape
from l1sparse.gpu.backend import is_available
from l1sparse.group_mask import as_grid_mask, expand_group_mask, nonzero_groups
from l1sparse.nn.conv_arguments import conv_arguments
from l1sparse.nn.epilogue import apply_epilogue, check_activation, is_fusable, output_shape
from l1sparse.nn.packed_copy import PackedCopy
from l1sparse.nn.packed_function import PackedConv2dFunction
from l1sparse.nn.padding import pad_input
from l1sparse.ops import (
    DTYPES,
    call_sparse_conv2d,
    pack,
    packed_info,
    unpack,
)


class SparseConv2d(nn.Conv2d):
    """A drop-in for `nn.Conv2d` with pruned channel groups of its *weight* (not of its input).

    Training runs the dense convolution with the masked weight, so pruned weights get a gradient of
    exactly 0; `train_sparse` has it run forward and backward on the pattern instead. Evaluation
    runs the native kernels on a packed copy of the kept groups; it is packed again whenever the
    weight has changed: an optimizer step, `load_state_dict`, an in-place edit, `.to()`. (Edits
    through ``weight.data`` bypass torch's change counter, and are seen at the next call of `train`
    or `eval`.) As with `nn.Conv2d`, the state dict holds ``weight`` and ``bias``, and either module
    loads the other's; after loading, a group is pruned if all its weights are zero.

    `drop_dense_weight` leaves only the packed weight, for inference: then the state dict holds
    ``packed`` and ``bias``.

    The native kernels are for float32, bfloat16 and float16 on the CPU, and on an NVIDIA GPU where
    the package has kernels for it (docs/gpu-use.md). Any other dtype or device, autocast, fake
    tensors and the transforms of `torch.func` run the dense convolution with the masked weight.

    Under `torch.compile` and `torch.export` evaluation packs the weight at every call; call
    `drop_dense_weight` first where that is not wanted. A graph that was compiled after
    `train_sparse` keeps the mask's pattern of that time.

    NaN and infinities give what `nn.Conv2d` gives, except that in evaluation a pruned weight
    contributes nothing, whatever the input holds there.

    Args:
        in_channels: as in `nn.Conv2d`, like every argument up to `dtype`.
        out_channels: see there.
        kernel_size: see there.
        stride: see there.
        padding: see there.
        dilation: see there.
        groups: convolution groups, see there.
        bias: see there.
        padding_mode: see there.
        device: see there.
        dtype: see there.
        group: channel-group shape: filters and consecutive input channels that share one
            keep/prune decision.
        activation: one of `l1sparse.ops.ACTIVATIONS`, applied to the output at no extra pass.
        clamp: least and greatest output of activation ``"clamp"``.
    """

    mask: Tensor
    """bool, of the group grid's shape; False marks a pruned group."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        group: GroupShape | Sequence[int] | str = (1, 8),
        activation: str = "none",
        clamp: tuple[float, float] = (0.0, 6.0),
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )
        check_activation(activation, clamp)
        self.group = GroupShape.of(group)
        self.activation = activation
        self.clamp = clamp
        self.weight_shape = tuple(self.weight.shape)
        grid = self.group.grid(self.weight_shape)
        mask = torch.ones(grid, dtype=torch.bool, device=self.weight.device)
        self.register_buffer("mask", mask, persistent=False)
        self.trains_sparse = False
        self._cache: PackedCopy | None = None
        self._pattern: tuple[Tensor, int, Tensor, list[int]] | None = None

    @classmethod
    def from_dense(
        cls,
        conv: nn.Conv2d,
        group: GroupShape | Sequence[int] | str = (1, 8),
        mask: Tensor | None = None,
    ) -> SparseConv2d:
        """A copy of `conv` with pruned groups.

        Args:
            conv: the dense convolution; it stays as it is, and shares nothing with the copy.
            group: channel-group shape.
            mask: bool, True where kept, of the weight's shape or of the group grid's. None: groups
                that are all zero are pruned.

        Raises:
            TypeError: if `conv` is no `nn.Conv2d`, or computes something else than one (a
                subclass with a `forward` of its own), or `mask` is not bool.
            ValueError: if `group` is no group shape, or `mask` has another shape or cuts through
                a group.
        """
        _check_plain_conv(conv)
        shape = GroupShape.of(group)
        weight = conv.weight.detach()
        if mask is None:
            grid_mask = nonzero_groups(weight, shape)
        else:
            grid_mask = as_grid_mask(mask, weight.shape, shape)
        sparse = cls(**conv_arguments(conv), dtype=weight.dtype, group=shape)
        sparse.mask = grid_mask.to(weight.device).clone()
        keep = expand_group_mask(sparse.mask, weight.shape, shape)
        sparse.weight = nn.Parameter(
            torch.where(keep, weight, torch.zeros_like(weight)), conv.weight.requires_grad
        )
        if conv.bias is not None:
            sparse.bias = nn.Parameter(conv.bias.detach().clone(), conv.bias.requires_grad)
        return sparse.train(conv.training)

    def to_dense(self) -> nn.Conv2d:
        """An `nn.Conv2d` that computes the same, pruned weights zero; shares nothing.

        Raises:
            ValueError: if this module applies an activation, which `nn.Conv2d` can't.
        """
        if self.activation != "none":
            raise ValueError(
                f"activation: is {self.activation!r}, which nn.Conv2d does not apply; set it to "
                "'none' and apply the activation outside"
            )
        conv = nn.Conv2d(**conv_arguments(self))
        trainable = self.weight is None or self.weight.requires_grad
        conv.weight = nn.Parameter(self.masked_weight().detach().clone(), trainable)
        if self.bias is not None:
            conv.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        return conv.train(self.training)

    def masked_weight(self) -> Tensor:
        """The dense weight ``[O, C / groups, kH, kW]``, pruned weights exactly 0."""
        if self.weight is None:
            return unpack(self.packed)
        return torch.where(self._full_mask(), self.weight, torch.zeros_like(self.weight))

    @property
    def density(self) -> float:
        """Share of the weights that lie in kept groups, 0 to 1."""
        if self.weight is None:
            return packed_info(self.packed).density
        return float(self._full_mask().float().mean())

    def packed_weight(self) -> Tensor:
        """The packed weight that evaluation runs on, packed now if the weight has changed.

        Returns:
            ``[bytes]``, uint8, see `l1sparse.pack`.
        """
        if self.weight is None:
            return self.packed
        if torch.compiler.is_compiling():  # what is cached says nothing of a later call's weight
            return pack(self.weight.detach(), self.mask, self.group)
        if self._cache is None or not self._cache.is_current(self.weight, self.mask):
            self._cache = PackedCopy(self.weight, self.mask, self.group)
        return self._cache.packed

    def train_sparse(self, mode: bool = True) -> SparseConv2d:
        """Choose how gradients are computed from here on; returns the module itself.

        With True, forward and backward of training go through the kept groups alone, by the native
        kernels on the CPU; what these can't do (other dtypes or devices, autocast) stays dense.
        Parameters, state dict and optimizers are as before: ``weight`` is dense, and its gradient
        is exactly 0 where a group is pruned. As in evaluation, a pruned weight contributes nothing
        to the output, whatever the input holds there. Double backward works. `train` and `eval` are
        chosen apart from this.

        Args:
            mode: False goes back to the dense convolution with the masked weight.

        Raises:
            RuntimeError: if `drop_dense_weight` has left nothing to train.
        """
        if mode and self.weight is None:
            raise RuntimeError("weight: is None after drop_dense_weight(), there is none to train")
        self.trains_sparse = mode
        if mode and self.weight.device.type == "cpu" and self.weight.dtype in DTYPES:
            self._current_pattern()  # here and now, so that torch.compile finds it
        return self

    def drop_dense_weight(self) -> SparseConv2d:
        """Keep only the packed weight, for inference; returns the module itself.

        ``weight`` is None from then on, and the state dict has ``packed`` in its place.
        """
        if self.weight is not None:
            packed = self.packed_weight()
            del self.weight
            self.register_parameter("weight", None)
            self.register_buffer("packed", packed)
            self._cache = self._pattern = None
            self.trains_sparse = False
        return self

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Convolve: the packed weight in evaluation, the dense masked weight in training.

        Args:
            input: as in `nn.Conv2d`.
            residual: added to the output before the activation.
        """
        native = self.weight is None or self._is_native(input)
        sparse = self._runs_on_values(input) if native else False
        if self.weight is not None and not sparse and (self.training or not native):
            output = self._conv_forward(input, self.masked_weight(), self.bias)
            return apply_epilogue(output, residual, self.activation, self.clamp)
        run = self._values_forward if sparse else self._packed_forward
        if input.dim() == 3:
            if residual is not None:
                residual = residual.unsqueeze(0)
            return run(input.unsqueeze(0), residual).squeeze(0)
        return run(input, residual)

    def train(self, mode: bool = True) -> SparseConv2d:
        """As `nn.Module.train`; edits made through ``weight.data`` are seen from here on."""
        self._cache = None
        super().train(mode)
        return self

    def extra_repr(self) -> str:
        """`nn.Conv2d`'s, and the group shape, density and activation."""
        density = "" if self.mask.device.type == "meta" else f", density={self.density:.4f}"
        activation = "" if self.activation == "none" else f", activation={self.activation}"
        if self.activation == "clamp":
            activation += f", clamp={self.clamp}"
        return f"{super().extra_repr()}, group={self.group}{density}{activation}"

    def _is_native(self, input: Tensor) -> bool:
        device = self.weight.device.type
        return (
            self.weight.dtype == input.dtype
            and input.dtype in DTYPES
            and (device == "cpu" or (device == "cuda" and is_available()))
            and not torch.is_autocast_enabled(device)
            and not self._is_transformed(input)
        )

    def _is_transformed(self, input: Tensor) -> bool:
        """Whether the tensors are such that the packed weight, or its gradient, can't be had."""
        if torch.compiler.is_compiling():
            # A weight that is to be trained has its gradient by the dense convolution there.
            return not self.trains_sparse and torch.is_grad_enabled() and self.weight.requires_grad
        return isinstance(self.weight, FakeTensor) or any(
            is_functorch_wrapped_tensor(tensor) for tensor in (self.weight, input)
        )

    def _full_mask(self) -> Tensor:
        return expand_group_mask(self.mask, self.weight_shape, self.group)

    def _packed_forward(self, input: Tensor, residual: Tensor | None) -> Tensor:
        input, padding = pad_input(self, input)
        geometry = (self.stride, padding, self.dilation, self.groups)
        packed = self.packed_weight()
        trains = self.weight is not None and torch.is_grad_enabled() and self.weight.requires_grad
        if trains and residual is None and self.activation in ("none", "relu"):
            return self._trainable(input, packed, geometry, self.activation)
        if trains:
            output = self._trainable(input, packed, geometry, "none")
        elif residual is None or is_fusable(residual, input, output_shape(self, input, padding)):
            return call_sparse_conv2d(
                input,
                packed,
                self.weight_shape,
                self.bias,
                geometry,
                residual,
                self.activation,
                self.clamp,
            )
        else:
            output = call_sparse_conv2d(input, packed, self.weight_shape, self.bias, geometry)
        return apply_epilogue(output, residual, self.activation, self.clamp)

    def _runs_on_values(self, input: Tensor) -> bool:
        """Whether the weight's gradient, or training at all, is to go through the pattern."""
        if not self.trains_sparse or input.device.type != "cpu":
            return False
        return self.training or (torch.is_grad_enabled() and self.weight.requires_grad)

    def _values_forward(self, input: Tensor, residual: Tensor | None) -> Tensor:
        input, padding = pad_input(self, input)
        pattern, shape = self._current_pattern()
        fused, activation = residual, "none"
        if not is_fusable(residual, input, output_shape(self, input, padding)):
            fused = None
        elif self.activation in ("none", "relu"):
            activation = self.activation
        output = values_conv2d(
            input,
            gather_values(self.weight, pattern, shape),
            pattern,
            self.weight_shape,
            self.bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            fused,
            activation,
        )
        if fused is residual and activation == self.activation:
            return output
        left = residual if fused is None else None
        return apply_epilogue(output, left, self.activation, self.clamp)

    def _current_pattern(self) -> tuple[Tensor, list[int]]:
        """The packed pattern of the mask, and the shape of its values."""
        mask = self.mask
        if torch.compiler.is_compiling() and self._pattern is not None:
            return self._pattern[2], self._pattern[3]
        version = -1 if mask.is_inference() else mask._version
        held = self._pattern
        if held is None or held[0] is not mask or held[1] != version or version == -1:
            with torch.inference_mode(False), torch.no_grad():
                pattern = pack(self.weight.detach(), mask, self.group)
                self._pattern = held = (mask, version, pattern, values_shape(pattern))
        return held[2], held[3]

    def _trainable(
        self, input: Tensor, packed: Tensor, geometry: Sequence[Any], activation: str
    ) -> Tensor:
        output: Tensor = PackedConv2dFunction.apply(
            input, self.weight, self.bias, self._full_mask(), packed, geometry, activation
        )
        return output

    def __getstate__(self) -> dict[str, Any]:
        # A copy has tensors of its own, which the cache knows nothing about.
        return {**self.__dict__, "_cache": None, "_pattern": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles of before there was sparse training lack what it needs.
        super().__setstate__({"trains_sparse": False, "_pattern": None, **state})

    def _apply(self, fn: Any, recurse: bool = True) -> SparseConv2d:
        self._cache = self._pattern = None
        super()._apply(fn, recurse)
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.weight is not None and not keep_vars and self.weight.device.type != "meta":
            masked = self.masked_weight().detach()
            if not torch.equal(masked, self.weight):
                destination[f"{prefix}weight"] = masked

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load ``weight`` or ``packed``, whichever is there, into whichever this module holds."""
        dense_key, packed_key = f"{prefix}weight", f"{prefix}packed"
        try:
            if self.weight is not None and packed_key in state_dict:
                state_dict[dense_key] = unpack(_aligned(state_dict.pop(packed_key)))
            elif self.weight is None and dense_key in state_dict:
                dense = state_dict.pop(dense_key)
                state_dict[packed_key] = pack(dense, None, self.group)
            if self.weight is None and packed_key in state_dict:
                state_dict[packed_key] = _aligned(state_dict[packed_key])
                self._accept_packed(state_dict[packed_key])
        except (RuntimeError, ValueError) as error:
            error_msgs.append(f"{packed_key}: {error}")
            return
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
        self._cache = None
        if self.weight is not None and dense_key in state_dict:
            self.mask = nonzero_groups(self.weight, self.group)

    def _accept_packed(self, packed: Tensor) -> None:
        """Check a packed weight and make room for it."""
        info = packed_info(packed)
        if info.weight_shape != self.weight_shape:  # before there is memory for what it claims
            raise ValueError(
                f"holds a weight of shape {info.weight_shape}, expected {self.weight_shape}"
            )
        mask = nonzero_groups(unpack(packed), info.group)  # unpack checks every byte
        self.group, self.mask, self.packed = info.group, mask, torch.empty_like(packed)


def _aligned(packed: Tensor) -> Tensor:
    """The same bytes where the native code can read them: a file may map them anywhere."""
    return packed if packed.data_ptr() % 8 == 0 else packed.clone()


def _check_plain_conv(conv: nn.Module) -> None:
    if type(conv).__module__.startswith("torch.ao."):
        raise TypeError(
            f"conv: is {type(conv).__module__}.{type(conv).__name__}, a module of quantization, "
            "whose numbers the copy would not keep; expected a plain nn.Conv2d: convert before "
            "quantizing"
        )
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"conv: got {type(conv).__name__}, expected nn.Conv2d")
    if (
        type(conv).forward is not nn.Conv2d.forward
        or type(conv)._conv_forward is not nn.Conv2d._conv_forward
    ):
        raise TypeError(
            f"conv: {type(conv).__name__} computes more than nn.Conv2d (it has a forward of its "
            "own), which the copy would lose; expected a plain nn.Conv2d"
        )
