# SPDX-License-Identifier: MIT
"""How `gpu_check.py` checks a case: the operators on a device, held against float64 on the CPU.

All of it also runs with the CPU as the device, which is how it is tested where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import l1sparse
from gpu_cases import Case, Pair
from l1sparse import GroupShape, SparseConv2d, reference
from l1sparse.group_mask import expand_group_mask

CLAMP = (-0.25, 0.75)
TORCH_DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
SUMS = {"float32": 2.0**-18, "tf32": 2.0**-10, "float16": 2.0**-16, "bfloat16": 2.0**-16}
"""What sums may be off by, of the sum of the absolute products. Tensor cores cut bits off when they
add. Weights are made such that no kernel has to round them; TF32 rounds the input by 2^-11."""


class SkippedError(Exception):
    """The case can't be run on this machine; says why."""


class WrongError(Exception):
    """The device gave something else than it should have."""

    def __init__(self, message: str, worst: float | None = None) -> None:
        super().__init__(message)
        self.worst = worst


@dataclass(frozen=True)
class Tensors:
    """A case's numbers, on the CPU, input and residual in the case's dtype."""

    case: Case
    input: Tensor
    weight: Tensor
    mask: Tensor
    packed: Tensor
    bias: Tensor | None
    residual: Tensor | None

    @classmethod
    def of(cls, case: Case) -> Tensors:
        """From the case's seed."""
        random = torch.Generator().manual_seed(case.seed)
        dtype = TORCH_DTYPES[case.dtype]
        shape = case.weight_shape
        grid = GroupShape.of(case.group).grid(shape)
        grid_mask = torch.rand(grid, generator=random) < case.density
        weight = _exact(torch.randn(shape, generator=random), case.dtype)
        input = torch.randn(
            case.batch, case.groups * case.channels, *case.size, generator=random
        ).to(dtype)
        mask = expand_group_mask(grid_mask, shape, case.group)
        output = torch.nn.functional.conv2d(
            input.to("meta"), weight.to("meta", dtype), None, *_geometry(case)
        )
        residual = torch.randn(output.shape, generator=random).to(dtype)
        return cls(
            case,
            _in_memory(input, case.memory),
            weight,
            mask,
            l1sparse.pack(weight, grid_mask, case.group),
            torch.randn(shape[0], generator=random) if case.bias else None,
            _in_memory(residual, case.memory) if case.residual else None,
        )

    def to(self, device: torch.device) -> Tensors:
        """On another device, in the same memory layout."""

        def moved(tensor: Tensor) -> Tensor:
            if self.case.memory != "sliced":
                return tensor.to(device)
            return _in_memory(tensor.to(device), "sliced")

        return Tensors(
            self.case,
            moved(self.input),
            self.weight.to(device),
            self.mask.to(device),
            self.packed.to(device),
            None if self.bias is None else self.bias.to(device),
            None if self.residual is None else moved(self.residual),
        )

    def run(self) -> Tensor:
        """`sparse_conv2d` where the tensors are."""
        case = self.case
        return l1sparse.sparse_conv2d(
            self.input,
            self.packed,
            self.bias,
            *_geometry(case),
            residual=self.residual,
            activation=case.activation,
            clamp=CLAMP,
            backend="auto" if self.input.device.type == "cpu" else case.backend,
        )

    def expected(self) -> tuple[Tensor, Tensor]:
        """The output in float64, and how far off each value may be."""
        case = self.case
        bias, residual = (None if x is None else x.double() for x in (self.bias, self.residual))
        value = reference.sparse_conv2d(
            self.input.double(),
            self.weight.double(),
            self.mask,
            bias,
            *_geometry(case),
            residual,
            case.activation,
            CLAMP,
        )
        magnitude = reference.sparse_conv2d(
            self.input.double().abs(),
            self.weight.double().abs(),
            self.mask,
            None if bias is None else bias.abs(),
            *_geometry(case),
            None if residual is None else residual.abs(),
        )
        bound = SUMS[case.dtype] * (magnitude + 1)
        if case.activation == "hardswish":
            bound = bound * 1.5  # its steepest slope
        dtype = TORCH_DTYPES[case.dtype]
        if dtype != torch.float32:  # half a unit in the output's last place
            bound = bound + value.abs() * torch.finfo(dtype).eps / 2
        return value, bound


# ---- checks: (case, device) -> error over what is allowed, at worst ------------------------------


def check_conv(case: Case, device: torch.device) -> float:
    """The output, its dtype and its memory format."""
    tensors = Tensors.of(case)
    there = tensors.to(device)
    output = there.run()
    worst = _hold(output, *tensors.expected())
    wanted = TORCH_DTYPES[case.dtype]
    if output.dtype != wanted:
        raise WrongError(f"the output has dtype {output.dtype}, expected {wanted}")
    last = torch.channels_last if case.memory == "channels_last" else torch.contiguous_format
    if not output.is_contiguous(memory_format=last):
        raise WrongError(f"the output's strides are {output.stride()}, the input is {case.memory}")
    return worst


def check_gradients(case: Case, device: torch.device) -> float:
    """Of input, bias and residual, against autograd through the reference."""
    tensors = Tensors.of(case)
    there = tensors.to(device)
    upstream = torch.randn(
        tensors.expected()[0].shape, generator=torch.Generator().manual_seed(case.seed)
    )
    worst = 0.0
    names = [name for name in ("input", "bias", "residual") if getattr(there, name) is not None]
    ours = [getattr(there, name).detach().requires_grad_() for name in names]
    given = Tensors(**{**vars(there), **dict(zip(names, ours, strict=True))})
    output = given.run()
    gradients = torch.autograd.grad(output, ours, upstream.to(output))
    exact = [getattr(tensors, name).double().requires_grad_() for name in names]
    value = reference.sparse_conv2d(
        exact[0],
        tensors.weight.double(),
        tensors.mask,
        exact[names.index("bias")] if "bias" in names else None,
        *_geometry(case),
        exact[names.index("residual")] if "residual" in names else None,
    )
    seen = upstream.to(TORCH_DTYPES[case.dtype]).double()
    if case.activation == "relu":
        # The mask is the output's own: near 0 rounding decides.
        seen = torch.where(output.detach().cpu() > 0, seen, torch.zeros(()))
    else:
        before = value.detach().requires_grad_()
        after = reference.activate(before, case.activation, *CLAMP)
        (seen,) = torch.autograd.grad(after, before, seen)
    loose = 16 * max(SUMS[case.dtype], torch.finfo(TORCH_DTYPES[case.dtype]).eps)
    for name, gradient, wanted in zip(
        names, gradients, torch.autograd.grad(value, exact, seen), strict=True
    ):
        bound = loose * (wanted.abs() + wanted.abs().max())
        worst = max(worst, _hold(gradient, wanted, bound, f"the gradient of {name}"))
    return worst


def check_stream(case: Case, device: torch.device) -> float:
    """On a stream that is still busy when the operator is called: another would read too early."""
    tensors = Tensors.of(case)
    there = tensors.to(device)
    expected = there.run()
    late = there.input.clone()
    source = late.clone()
    late.fill_(torch.nan)
    with _stream(device) as stream:
        _delay(device)
        late.copy_(source)
        output = Tensors(**{**vars(there), "input": late}).run()
    if stream is not None:
        torch.cuda.current_stream(device).wait_stream(stream)
    _same(output, expected, "on another stream")
    return _hold(output, *tensors.expected())


def check_graph(case: Case, device: torch.device) -> float:
    """Captured once, replayed on other inputs, and again on the first."""
    tensors = Tensors.of(case)
    there = tensors.to(device)
    first = there.run()
    other = torch.randn_like(there.input)
    second = Tensors(**{**vars(there), "input": other}).run()
    fixed = Tensors(**{**vars(there), "input": there.input.clone()})
    if device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = fixed.run()

        def replay() -> Tensor:
            graph.replay()
            return output
    else:
        replay = fixed.run
    for input, expected in ((there.input, first), (other, second), (there.input, first)):
        fixed.input.copy_(input)
        _same(replay(), expected, "replayed from a graph")
    changed = Tensors(**{**vars(tensors), "input": other.cpu()})
    worst = _hold(second, *changed.expected(), "the output of other inputs")
    return max(worst, _hold(first, *tensors.expected()))


def check_repeat(case: Case, device: torch.device) -> float:
    """The same bits each time, and the same as on copies."""
    tensors = Tensors.of(case)
    there = tensors.to(device)
    first = there.run()
    for _ in range(3):
        torch.randn(1 << 16, device=device).sum()
        _same(there.run(), first, "at another call")
    _same(tensors.to(device).run(), first, "with the weight packed and planned again")
    return _hold(first, *tensors.expected())


def check_second_device(case: Case, device: torch.device) -> float:
    """On a device that is not the current one."""
    if device.type == "cuda":
        if torch.cuda.device_count() < 2:
            raise SkippedError("there is one GPU only")
        device = torch.device("cuda", 0 if device.index else 1)
    tensors = Tensors.of(case)
    return _hold(tensors.to(device).run(), *tensors.expected())


def check_new_weights(case: Case, device: torch.device) -> float:
    """A packed buffer that is overwritten is read again."""
    tensors = Tensors.of(case)
    there = tensors.to(device)
    there.run()
    weight = -tensors.weight
    kept = torch.where(tensors.mask, weight, torch.zeros(()))
    packed = l1sparse.pack(kept, tensors.mask, case.group)
    there.packed.copy_(packed)
    changed = Tensors(**{**vars(tensors), "weight": weight, "packed": packed})
    return _hold(there.run(), *changed.expected())


def check_module(case: Case, device: torch.device) -> float:
    """`SparseConv2d.to(device)`, with its dense weight and without, and through its state."""
    tensors = Tensors.of(case)
    assert case.bias
    conv = torch.nn.Conv2d(
        case.groups * case.channels,
        case.groups * case.filters,
        case.kernel,
        case.stride,
        case.padding,
        case.dilation,
        case.groups,
    )
    with torch.no_grad():
        conv.weight.copy_(torch.where(tensors.mask, tensors.weight, torch.zeros(())))
        conv.bias.copy_(tensors.bias)  # type: ignore[union-attr, arg-type]
    # float32 bias, as `expected` has it; a module in 16 bits would round it.
    dtype = TORCH_DTYPES[case.dtype]
    sparse = SparseConv2d.from_dense(conv, case.group).eval()
    sparse.activation = case.activation
    sparse = sparse.to(device=device, dtype=dtype)
    with torch.no_grad():
        first = sparse(tensors.input.to(device))
        rounded = Tensors(**{**vars(tensors), "bias": tensors.bias.to(dtype).float()})  # type: ignore[union-attr]
        value, bound = rounded.expected()
        worst = _hold(first, value, bound)
        sparse.drop_dense_weight()
        _same(sparse(tensors.input.to(device)), first, "without the dense weight")
        back = sparse.to("cpu")
        worst = max(worst, _hold(back(tensors.input), value, bound, "the output back on the CPU"))
    return worst


def check_norm(case: Case, device: torch.device) -> float:
    """`group_l1_norm` of a weight in the case's dtype, twice the same."""
    random = torch.Generator().manual_seed(case.seed)
    dtype = TORCH_DTYPES[case.dtype]
    weight = torch.randn(case.weight_shape, generator=random).to(dtype)
    there = weight.to(device)
    norms = l1sparse.group_l1_norm(there, case.group)
    expected = reference.group_l1_norm(weight.double(), case.group)
    _same(l1sparse.group_l1_norm(there, case.group), norms, "at another call")
    return _hold(norms, expected, 2.0**-17 * expected + 1e-12, "the norm")


def check_errors(case: Case, device: torch.device) -> float:
    """Bad input is refused on the host, and the device works as before afterwards."""
    tensors = Tensors.of(case)
    there = tensors.to(device)
    before = there.run()
    damaged = there.packed.clone()
    damaged[70] ^= 0xFF
    shape = list(case.weight_shape)
    operator = torch.ops.l1sparse.sparse_conv2d.default
    pairs: tuple[Any, ...] = (None, [1, 1], [1, 1])
    bad: dict[str, Callable[[], object]] = {
        "packed": lambda: operator(there.input, damaged, shape, *pairs),
        "packed:": lambda: operator(there.input, there.packed[:40].clone(), shape, *pairs),
        "weight_shape": lambda: operator(there.input, there.packed, [64, 64, 1, 1], *pairs),
        "input": lambda: operator(there.input.double(), there.packed, shape, *pairs),
        "input:": lambda: operator(there.input[:, :9], there.packed, shape, *pairs),
        "stride": lambda: operator(there.input, there.packed, shape, None, [0, 1], [1, 1]),
        "bias": lambda: operator(there.input, there.packed, shape, torch.ones(3).to(device)),
        "activation": lambda: l1sparse.sparse_conv2d(
            there.input, there.packed, activation="softmax"
        ),
        "backend": lambda: operator(there.input, there.packed, shape, *pairs, backend="opencl"),
    }
    if device.type == "cuda":
        bad["packed: "] = lambda: operator(there.input, tensors.packed, shape, *pairs)
        bad["input: "] = lambda: operator(tensors.input, there.packed, shape, *pairs)
    for name, call in bad.items():
        try:
            call()
        except (RuntimeError, ValueError) as error:
            if name.strip(": ") not in str(error):
                raise WrongError(f"the error does not name {name.strip(': ')}: {error}") from error
        else:
            raise WrongError(f"bad {name.strip(': ')} was taken")
    _same(there.run(), before, "after errors")
    return 0.0


def check_out_of_memory(case: Case, device: torch.device) -> float:
    """An output that does not fit is an exception, and what comes then works."""
    if device.type != "cuda":
        raise SkippedError("is for CUDA")
    there = Tensors.of(case).to(device)
    before = there.run()
    free, _ = torch.cuda.mem_get_info(device)
    side = 1 << 12
    batch = free // (side * side * 4 * case.filters) + 2
    input = there.input.new_zeros(1, case.channels, 1, 1).expand(batch, -1, side, side)
    try:
        Tensors(**{**vars(there), "input": input, "residual": None}).run()
    except RuntimeError as error:  # torch.OutOfMemoryError is one, so is what a limit of ours says
        message = str(error)
    else:
        raise WrongError(f"an output of more than the free {free} bytes was made")
    if "memory" not in message and "expected at most" not in message:
        raise WrongError(f"the error is another one: {message}")
    torch.cuda.empty_cache()
    _same(there.run(), before, "after an error")
    return 0.0


def check_large_tensors(case: Case, device: torch.device) -> float:
    """More than 2^31 numbers: the last image has to come out as it does alone."""
    if device.type != "cuda":
        raise SkippedError("is for CUDA")
    small = Case(
        case.check, case.backend, case.dtype, filters=16, channels=16, size=(1024, 1024), batch=1,
        group="16x16", density=1.0, kernel=(1, 1), padding=(0, 0), seed=case.seed,
    )  # fmt: skip
    images = 2**31 // (16 * 1024 * 1024) + 2
    tensors = Tensors.of(small)
    there = tensors.to(device)
    needed = 3 * images * there.input.nbytes
    if torch.cuda.mem_get_info(device)[0] < needed:
        raise SkippedError(f"needs {needed} bytes of memory")
    last = there.input
    input = torch.zeros(images, *last.shape[1:], dtype=last.dtype, device=device).contiguous(
        memory_format=torch.channels_last
    )
    input[-1:] = last
    output = Tensors(**{**vars(there), "input": input}).run()
    alone = there.run()
    _same(output[-1:], alone, "behind 2^31 numbers")
    return _hold(alone, *tensors.expected())


CHECKS: dict[str, Callable[[Case, torch.device], float]] = {
    "conv": check_conv,
    "gradients": check_gradients,
    "stream": check_stream,
    "graph": check_graph,
    "repeat": check_repeat,
    "second device": check_second_device,
    "new weights": check_new_weights,
    "module": check_module,
    "norm": check_norm,
    "errors": check_errors,
    "out of memory": check_out_of_memory,
    "large tensors": check_large_tensors,
}


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Float32 convolutions of torch and ours keep to float32, except for ``tf32``."""
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    before = cudnn.conv.fp32_precision, matmul.fp32_precision
    cudnn.conv.fp32_precision = matmul.fp32_precision = "tf32" if dtype == "tf32" else "ieee"
    try:
        yield
    finally:
        cudnn.conv.fp32_precision, matmul.fp32_precision = before


# ---- parts ---------------------------------------------------------------------------------------


def _geometry(case: Case) -> tuple[Pair, Pair, Pair, int]:
    return (case.stride, case.padding, case.dilation, case.groups)


def _exact(weight: Tensor, dtype: str) -> Tensor:
    """float32 weights that have no bits which a kernel would round away."""
    if dtype == "tf32":
        return (weight.view(torch.int32) & ~0x1FFF).view(torch.float32)
    return weight.to(TORCH_DTYPES[dtype]).float()


def _in_memory(tensor: Tensor, memory: str) -> Tensor:
    if memory == "sliced":
        n, c, h, w = tensor.shape
        around = tensor.new_full((n, c + 2, h + 1, w + 3), torch.nan)
        return around[:, 1 : c + 1, 1:, 2 : w + 2].copy_(tensor)
    last = torch.channels_last if memory == "channels_last" else torch.contiguous_format
    return tensor.contiguous(memory_format=last)


def _hold(got: Tensor, expected: Tensor, bound: Tensor, what: str = "the output") -> float:
    """The largest error in units of what is allowed."""
    if got.shape != expected.shape:
        raise WrongError(f"{what} has shape {list(got.shape)}, expected {list(expected.shape)}")
    error = (got.detach().cpu().double() - expected).abs()
    ratio = torch.where(error == 0, torch.zeros_like(error), error / bound)
    ratio = torch.nan_to_num(ratio, nan=torch.inf, posinf=torch.inf)
    worst = ratio.max().item() if ratio.numel() else 0.0
    if worst > 1:
        at = int(ratio.argmax())
        place = [int(i) for i in torch.unravel_index(torch.tensor(at), ratio.shape)]
        wrong = int((ratio > 1).sum())
        raise WrongError(
            f"{what} is {got.detach().flatten()[at].item()!r} at {place}, expected "
            f"{expected.flatten()[at].item()!r} within {bound.flatten()[at].item():.3g}; "
            f"{wrong} of {ratio.numel()} values are off",
            worst,
        )
    return worst


def _same(got: Tensor, expected: Tensor, when: str) -> None:
    if got.shape != expected.shape or not torch.equal(got, expected):
        count = int((got != expected).sum()) if got.shape == expected.shape else -1
        raise WrongError(f"other bits {when}: {count} of {expected.numel()} values differ")


@contextmanager
def _stream(device: torch.device) -> Iterator[torch.cuda.Stream | None]:
    if device.type != "cuda":
        yield None
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield stream


def _delay(device: torch.device) -> None:
    """Keeps the current stream busy for some tens of milliseconds."""
    if device.type == "cuda":
        torch.cuda._sleep(50_000_000)  # clocks
