# SPDX-License-Identifier: MIT
"""CUDA tensors: who gets them, what is refused on the host, and what is remembered of a weight."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_case import CASES, tensors_of
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import l1sparse
from l1sparse import SparseConv2d, pack
from l1sparse.gpu import backend, device, layout, problem, run, weights
from l1sparse.gpu.device import Device
from l1sparse.gpu.plan import Plan
from l1sparse.gpu.weights import weight_of

ROOT = Path(__file__).parents[2]
INPUT = torch.randn(2, 12, 7, 7)
PACKED = pack(torch.randn(6, 12, 3, 3))
SHAPE = [6, 12, 3, 3]
OUTPUT = [2, 6, 5, 5]


class Launches:
    """A backend that launches nothing and counts what it is asked for."""

    name = "counting"
    layouts = ("tensor_core", "simt")

    def __init__(self) -> None:
        self.plans = self.convolutions = self.norms = 0

    def plan(self, layout: layout.Layout, *arguments: Any) -> Plan:
        self.plans += 1
        from l1sparse.triton.backend import BACKEND

        return BACKEND.plan(layout, *arguments)

    def conv2d(self, problem: Any, plan: Plan, input: Tensor, *_: Any) -> Tensor:
        self.convolutions += 1
        return input.new_zeros(problem.output_shape)

    def group_l1_norm(self, weight: Tensor, group: Any) -> Tensor:
        self.norms += 1
        return weight.new_zeros(group.grid(weight.shape))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    counting = Launches()

    def resolve(name: str) -> tuple[Any, str | None]:
        return counting, backend.resolve("triton" + name.removeprefix("auto"))[1]

    monkeypatch.setattr(run, "resolve", resolve)
    return counting


# ---- who gets them ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["sparse_conv2d", "group_l1_norm", "pack", "unpack", "packed_info"]
)
def test_every_operator_takes_cuda_tensors(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"l1sparse::{name}", "CUDA")


def test_importing_the_package_imports_neither_triton_nor_the_extension() -> None:
    code = (
        "import sys, torch; before = 'triton' in sys.modules; import l1sparse;"
        "assert before or 'triton' not in sys.modules;"
        "assert 'l1sparse._cuda' not in sys.modules"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The backends' modules, to be replaced."""
    found = dict(backend.MODULES)
    monkeypatch.setattr(backend, "MODULES", found)
    for function in (backend.resolve, backend.is_available):
        function.cache_clear()
    yield found
    for function in (backend.resolve, backend.is_available):
        function.cache_clear()


def test_without_any_backend_the_error_says_what_to_install(modules: dict[str, str]) -> None:
    modules.update(cuda="l1sparse.no_such_module", triton="l1sparse.neither_this")
    calls: list[Any] = [
        lambda: run.sparse_conv2d(INPUT, PACKED, SHAPE),
        lambda: run.group_l1_norm(INPUT, [1, 8]),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match=r"^backend: 'auto' can't run on a GPU") as error:
            call()
        for part in ("no_such_module", "neither_this", "L1SPARSE_CUDA=1", "l1sparse[triton]"):
            assert part in str(error.value)
    assert not backend.is_available()


def test_a_backend_asked_for_by_name_does_not_become_another(modules: dict[str, str]) -> None:
    modules["cuda"] = "l1sparse.no_such_module"
    with pytest.raises(RuntimeError, match=r"^backend: 'cuda' can't run .* L1SPARSE_CUDA=1"):
        run.sparse_conv2d(INPUT, PACKED, SHAPE, backend="cuda")
    assert backend.resolve("auto")[0].name == "triton"
    assert backend.is_available()


@pytest.mark.parametrize("name", ["", "gpu", "CUDA", "cuda/", "triton/mma", "simt", "auto/auto"])
def test_an_unknown_backend_is_an_error(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"^backend: got '.*', expected 'auto', 'cuda' or") as e:
        run.sparse_conv2d(INPUT, PACKED, SHAPE, backend=name)
    assert repr(name) in str(e.value)


@pytest.mark.parametrize("call", [l1sparse.sparse_conv2d, torch.ops.l1sparse.sparse_conv2d])
def test_a_gpus_backend_does_not_take_tensors_of_the_cpu(call: Any) -> None:
    with pytest.raises(RuntimeError, match=r"^backend: got 'triton', expected 'auto' for"):
        call(INPUT, PACKED, weight_shape=SHAPE, backend="triton")


# ---- what is refused ----------------------------------------------------------------------------

# As on the CPU, to the letter.
WRONG: list[dict[str, Any]] = [
    {"input": INPUT.double()},
    {"input": INPUT.to(torch.int32)},
    {"input": INPUT[0]},
    {"input": INPUT[:, :8]},
    {"input": INPUT[:, :, :2]},
    {"input": INPUT[:0, :, :, :2]},
    {"packed": torch.randn(6, 12, 3, 3)},
    {"packed": PACKED[None]},
    {"packed": PACKED[:100]},
    {"packed": PACKED[:20]},
    {"packed": PACKED[::2]},
    {"packed": torch.zeros(4096, dtype=torch.uint8)},
    {"weight_shape": [6, 12, 3]},
    {"weight_shape": [12, 6, 3, 3]},
    {"bias": torch.randn(4)},
    {"bias": torch.randn(1, 6)},
    {"bias": torch.randn(6).double()},
    {"residual": torch.randn(2, 6, 5, 4)},
    {"residual": torch.randn(1, 6, 5, 5)},
    {"residual": torch.randn(6, 5, 5)},
    {"residual": torch.zeros(OUTPUT).half()},
    {"stride": [0, 1]},
    {"stride": [1, -2]},
    {"stride": [1]},
    {"padding": [-1, 0]},
    {"padding": [0, 2**62]},
    {"padding": [0, 0, 0]},
    {"dilation": [1, 0]},
    {"dilation": [2**62, 1]},
    {"dilation": []},
    {"groups": 0},
    {"groups": -3},
    {"groups": 4},
    {"groups": 2},
    {"activation": "gelu"},
    {"activation": ""},
    {"activation": "clamp", "clamp_min": 2.0, "clamp_max": 1.0},
    {"activation": "clamp", "clamp_min": float("nan")},
]


@pytest.mark.parametrize("change", WRONG, ids=lambda change: next(iter(change)))
def test_errors_are_the_cpus_and_come_before_a_launch(
    change: dict[str, Any], launches: Launches
) -> None:
    arguments = {"input": INPUT, "packed": PACKED, "weight_shape": SHAPE, **change}
    with pytest.raises(RuntimeError) as expected:
        torch.ops.l1sparse.sparse_conv2d(**arguments)
    with pytest.raises(RuntimeError) as error:
        run.sparse_conv2d(**arguments)
    assert str(error.value) == str(expected.value)
    assert launches.convolutions == 0


def test_what_is_right_is_launched(launches: Launches) -> None:
    assert list(run.sparse_conv2d(INPUT, PACKED, SHAPE).shape) == OUTPUT
    assert launches.convolutions == 1


def test_an_empty_batch_is_nothing_to_launch(launches: Launches) -> None:
    for format_ in (torch.contiguous_format, torch.channels_last):
        empty = torch.empty(0, 12, 7, 7).contiguous(memory_format=format_)
        assert list(run.sparse_conv2d(empty, PACKED, SHAPE).shape) == [0, *OUTPUT[1:]]
    assert launches.convolutions == 0


def test_every_byte_of_a_packed_weight_is_checked_on_the_host(launches: Launches) -> None:
    for place in range(0, len(PACKED), 7):
        damaged = PACKED.clone()
        damaged[place] ^= 0x10
        with pytest.raises(RuntimeError, match=r"^(packed|size): "):
            run.sparse_conv2d(INPUT, damaged, SHAPE)
    assert launches.convolutions == launches.plans == 0


@pytest.mark.parametrize("name", ["packed", "bias", "residual"])
def test_tensors_on_two_devices_are_an_error_that_names_both(name: str) -> None:
    with FakeTensorMode():
        arguments: dict[str, Any] = {
            "packed": torch.empty(64, dtype=torch.uint8, device="cuda:0"),
            "bias": torch.empty(6, device="cuda:0"),
            "residual": torch.empty(OUTPUT, device="cuda:0"),
        }
        input = torch.empty(INPUT.shape, device="cuda:0")
        problem.check_tensors(input, **arguments)
        for other in ("cpu", "cuda:1"):
            changed = {**arguments, name: arguments[name].to(other)}
            with pytest.raises(
                RuntimeError, match=rf"^{name}: is on {other}, expected cuda:0, where input is$"
            ):
                problem.check_tensors(input, **changed)
        with pytest.raises(RuntimeError, match=r"^packed: is on cuda:0, expected cpu, where"):
            problem.check_tensors(input.to("cpu"), **arguments)


def test_pack_takes_tensors_of_one_device() -> None:
    with pytest.raises(RuntimeError, match=r"^mask: is on meta, expected cpu, where weight is$"):
        run.pack(INPUT, torch.ones(INPUT.shape, dtype=torch.bool, device="meta"), [1, 8])


def on_capability(monkeypatch: pytest.MonkeyPatch, *capability: int) -> None:
    found = Device("a GPU", capability, 40)  # type: ignore[arg-type]
    for module in (device, run):
        monkeypatch.setattr(module, "describe", lambda _: found)


def test_a_gpu_that_is_too_old_is_an_error(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_capability(monkeypatch, 7, 0)
    text = r"^input: is on cpu \(a GPU\) of compute capability 7\.0, expected 7\.5 or later$"
    with pytest.raises(RuntimeError, match=text):
        run.sparse_conv2d(INPUT, PACKED, SHAPE)
    with pytest.raises(RuntimeError, match=text.replace("input", "weight")):
        run.group_l1_norm(INPUT, [1, 8])
    assert launches.convolutions == launches.norms == 0


def test_a_layout_that_a_backend_has_no_kernel_for_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"triton: has no kernel for layout 'compressed'"):
        backend.resolve("triton/compressed")


def test_turing_runs_simt_and_no_tensor_cores(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_capability(monkeypatch, 7, 5)
    arguments = tensors_of(CASES["half"]).arguments()
    run.sparse_conv2d(**arguments)
    (plan,) = weight_of(arguments["packed"])._plans.values()
    assert plan.layout == "simt"
    with pytest.raises(
        RuntimeError,
        match=r"^backend: 'auto/tensor_core' needs compute capability 8\.0 or later, and cpu "
        r"\(a GPU\) has 7\.5$",
    ):
        run.sparse_conv2d(**arguments, backend="auto/tensor_core")


@pytest.mark.parametrize(
    ("dtype", "channels", "tile"),
    [(torch.float16, 24, 16), (torch.bfloat16, 8, 16), (torch.float32, 12, 8)],
)
def test_a_forced_layout_that_can_not_hold_the_weight_is_an_error(
    dtype: torch.dtype, channels: int, tile: int, launches: Launches
) -> None:
    case = CASES["half"].but(channels=channels, dtype=dtype, group="1x4")
    arguments = tensors_of(case).arguments()
    text = rf"needs channels in multiples of {tile} for .*, the weight has {channels} \(per"
    with pytest.raises(RuntimeError, match=text):
        run.sparse_conv2d(**arguments, backend="auto/tensor_core")
    run.sparse_conv2d(**arguments)
    assert launches.convolutions == 1


@pytest.fixture
def precision() -> Iterator[Any]:
    """Torch's switch for TF32 in convolutions, set back afterwards."""
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    yield convolutions
    convolutions.fp32_precision = before


def test_float32_is_rounded_to_tf32_only_where_torch_may_do_so(
    launches: Launches, precision: Any
) -> None:
    arguments = tensors_of(CASES["tf32"]).arguments()
    for value, kinds in (
        ("tf32", ["tensor_core"]),
        ("ieee", ["tensor_core", "simt"]),
        ("tf32", ["tensor_core", "simt"]),
    ):
        precision.fp32_precision = value
        run.sparse_conv2d(**arguments)
        plans = weight_of(arguments["packed"])._plans.values()
        assert [plan.layout for plan in plans] == kinds
    precision.fp32_precision = "ieee"
    run.sparse_conv2d(**arguments, backend="auto/tensor_core")
    assert launches.plans == 3


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"weight": torch.randn(3, 4, 2)}, r"^weight: has shape \[3, 4, 2\], expected 4"),
        ({"weight": torch.randn(3, 4, 2, 2).double()}, "^weight: has dtype float64, expected"),
        ({"weight": torch.randn(3, 0, 2, 2)}, "^weight: a dimension of 0 is not usable"),
        ({"group": [0, 8]}, "^group: a side of 0 is not usable, expected 1 to"),
        ({"group": [8]}, "^group: has 1 numbers, expected 2"),
    ],
)
def test_bad_input_to_group_l1_norm(change: Any, text: str, launches: Launches) -> None:
    arguments: dict[str, Any] = {"weight": torch.randn(3, 4, 2, 2), "group": [1, 8], **change}
    with pytest.raises(RuntimeError, match=text) as error:
        run.group_l1_norm(**arguments)
    with pytest.raises(RuntimeError) as expected:
        torch.ops.l1sparse.group_l1_norm(**arguments)
    assert str(error.value).split(", expected 1 to")[0] in str(expected.value)
    assert launches.norms == 0


@pytest.mark.parametrize("side", ["input", "output"])
def test_an_image_that_can_not_be_addressed_is_an_error(side: str) -> None:
    channels, filters = (2**13, 1) if side == "input" else (1, 2**13)
    with pytest.raises(RuntimeError, match=r"^input: one image of input or output has 34359738368"):
        problem.conv2d_problem(
            (1, channels, 2**11, 2**11), (filters, channels, 1, 1), (1, 1), (0, 0), (1, 1), 1,
            "none", 0.0, 0.0,
        )  # fmt: skip


def test_sizes_beyond_32_bits_are_seen() -> None:
    def wide(batch: int) -> bool:
        sizes = ((batch, 64, 512, 512), (64, 64, 1, 1))
        rest: Any = ((1, 1), (0, 0), (1, 1), 1, "none", 0.0, 0.0)
        return problem.conv2d_problem(*sizes, *rest).is_wide

    assert not wide(32)
    assert wide(128)


# ---- what is remembered -------------------------------------------------------------------------


def test_a_weight_is_read_once_and_its_plan_made_once(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = PACKED.clone()
    run.sparse_conv2d(INPUT, packed, SHAPE)
    monkeypatch.setattr(weights, "GpuWeight", lambda packed: pytest.fail("was read a second time"))
    run.sparse_conv2d(INPUT, packed, SHAPE)
    run.sparse_conv2d(INPUT[:, :, :5], packed, SHAPE, stride=[2, 1], activation="relu")
    run.unpack(packed, SHAPE)
    run.packed_info(packed)
    assert (launches.plans, launches.convolutions) == (1, 3)
    run.sparse_conv2d(INPUT.half(), packed, SHAPE)
    assert launches.plans == 2
    run.sparse_conv2d(INPUT.bfloat16(), packed, SHAPE)
    assert launches.plans == 3
    run.sparse_conv2d(torch.randn(2, 24, 7, 7), packed, SHAPE, groups=2)
    assert launches.plans == 4


def test_a_weight_that_changed_in_place_is_read_again() -> None:
    packed, other = PACKED.clone(), pack(torch.randn(6, 12, 3, 3))
    before = run.sparse_conv2d(INPUT, packed, SHAPE, backend="triton")
    packed.copy_(other)
    after = run.sparse_conv2d(INPUT, packed, SHAPE, backend="triton")
    expected = torch.ops.l1sparse.sparse_conv2d(INPUT, other, SHAPE)
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before, after)
    assert torch.equal(run.unpack(packed, SHAPE), l1sparse.unpack(other))
    packed[70] ^= 1
    with pytest.raises(RuntimeError, match=r"^packed: "):
        run.sparse_conv2d(INPUT, packed, SHAPE, backend="triton")


def test_a_weight_made_in_inference_mode_is_read_at_every_call(launches: Launches) -> None:
    with torch.inference_mode():
        packed = PACKED.clone()
        run.sparse_conv2d(INPUT, packed, SHAPE)
        packed.copy_(pack(torch.zeros(6, 12, 3, 3), torch.ones(6, 12, 3, 3) > 0))
        assert run.unpack(packed, SHAPE).count_nonzero() == 0


def test_plans_are_forgotten_with_their_weight(launches: Launches) -> None:
    packed = PACKED.clone()
    gc.collect()
    count = len(weights._weights)
    run.sparse_conv2d(INPUT, packed, SHAPE)
    assert len(weights._weights) == count + 1
    del packed
    gc.collect()
    assert len(weights._weights) == count


def test_unpacked_weights_are_the_callers_own() -> None:
    first = run.unpack(PACKED, SHAPE)
    first.fill_(7)
    assert torch.equal(run.unpack(PACKED, SHAPE), l1sparse.unpack(PACKED))


def test_the_shape_given_to_unpack_is_held_against_the_bytes() -> None:
    with pytest.raises(RuntimeError, match=r"^weight_shape: got \[6, 12, 9, 1\], expected the"):
        run.unpack(PACKED, [6, 12, 9, 1])


def test_what_is_new_can_not_be_read_while_a_graph_is_captured(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, new = PACKED.clone(), PACKED.clone()
    run.sparse_conv2d(INPUT, known, SHAPE)
    monkeypatch.setattr(weights, "is_capturing", lambda _: True)
    run.sparse_conv2d(INPUT, known, SHAPE)
    run.packed_info(known)
    calls: list[Any] = [
        lambda: run.sparse_conv2d(INPUT, new, SHAPE),
        lambda: run.packed_info(new),
        lambda: run.sparse_conv2d(INPUT.half(), known, SHAPE),
        lambda: run.unpack(known, SHAPE),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match=r"^packed: is new to the GPU, and can't be read"):
            call()
    assert launches.convolutions == 2


def test_a_plan_used_on_another_stream_is_held_for_it(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = PACKED.clone()
    run.sparse_conv2d(INPUT, packed, SHAPE)
    recorded: list[Any] = []
    monkeypatch.setattr(weights, "_stream", lambda _: 5)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: "stream 5")
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: recorded.append(stream))
    run.sparse_conv2d(INPUT, packed, SHAPE)
    (plan,) = weight_of(packed)._plans.values()
    assert recorded == ["stream 5"] * len(plan.tensors())
    run.sparse_conv2d(INPUT, packed, SHAPE)
    assert len(recorded) == len(plan.tensors())


# ---- modules and gradients ----------------------------------------------------------------------


def test_a_module_on_a_gpu_runs_packed_where_there_is_a_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = SparseConv2d(16, 16, 3, group="1x8").eval()
    input = torch.empty(1, 16, 5, 5)
    # The weight has no data only because there is no GPU.
    monkeypatch.setattr(SparseConv2d, "_is_transformed", lambda *_: False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        module.weight = torch.nn.Parameter(torch.empty(16, 16, 3, 3, device="cuda"))
        for available in (True, False):
            monkeypatch.setattr("l1sparse.nn.sparse_conv2d.is_available", lambda: available)  # noqa: B023
            assert module._is_native(input) == available
        monkeypatch.setattr("l1sparse.nn.sparse_conv2d.is_available", lambda: True)
        assert module._is_native(input)
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
        assert not module._is_native(input)


def test_the_gradient_of_group_l1_norm_stays_on_its_device() -> None:
    # Tensors without data stand for a device that is not the CPU.
    weight = torch.empty(6, 10, 3, 3, device="meta", requires_grad=True)
    norms = torch.ops.l1sparse.group_l1_norm(weight, [1, 8])
    (grad,) = torch.autograd.grad(norms.sum(), weight)
    assert (grad.shape, grad.device) == (weight.shape, weight.device)


def test_the_backward_of_the_operator_names_the_backend_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    input = torch.empty(2, 12, 7, 7, device="meta", requires_grad=True)
    packed = torch.empty(64, dtype=torch.uint8, device="meta")
    output = l1sparse.sparse_conv2d(
        input, packed, weight_shape=SHAPE, activation="hardswish", backend="triton"
    )
    call = l1sparse.ops.call_sparse_conv2d
    backends: list[Any] = []

    def recording(*arguments: Any, **named: Any) -> Tensor:
        backends.append(named.get("backend"))
        return call(*arguments, **named)

    monkeypatch.setattr("l1sparse.ops.call_sparse_conv2d", recording)
    (grad,) = torch.autograd.grad(output.sum(), input)
    assert (grad.shape, grad.device) == (input.shape, input.device)
    assert backends == ["triton"]


def test_a_gpus_environment_is_not_asked_for_on_import() -> None:
    # CUDA is started by the first use of a GPU, not by importing the package.
    code = "import l1sparse, torch; assert not torch.cuda.is_initialized()"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
