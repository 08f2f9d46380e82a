# SPDX-License-Identifier: MIT
"""The benchmarks with ``--device cuda``, on a GPU that is none: all but the clock is real."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_gpu import FakeGpu

import arguments
import gpu_candidates
import gpu_timing
import group_l1
import latency
import suites
from l1sparse.gpu import layout
from suites import Layer

LAYERS = (Layer(16, 32, 6, 3, count=3), Layer(32, 16, 6, 1))


class Runner:
    name = "fake"


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGpu:
    """A GPU that torch says is there, and the only one that benchmarks find."""
    fake = FakeGpu(1.0, tick=2**-20)
    monkeypatch.setattr(latency, "GPU_TURN_MS", 1e-9)
    monkeypatch.setattr(group_l1, "GPU_TURN_MS", 1e-9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for module in (arguments, latency):
        monkeypatch.setattr(module, "resolve", lambda name: (Runner(), None))
    for script in (latency, group_l1):
        monkeypatch.setattr(script, "CudaGpu", lambda: fake)
    monkeypatch.setitem(suites.SUITES, "demo", LAYERS)
    monkeypatch.setitem(suites.SUITES, "resnet50", LAYERS)
    monkeypatch.chdir(tmp_path)
    return fake


def run(*arguments: str) -> int:
    try:
        return latency.main(["--device", "cuda", *arguments])
    except SystemExit as end:
        return int(end.code or 0)


def record_of(*arguments: str) -> dict[str, Any]:
    assert run("--rounds", "3", "--json", "record.json", *arguments) == 0
    return json.loads(Path("record.json").read_text())


@pytest.mark.parametrize("dtype", ["float32", "tf32", "float16", "bfloat16"])
def test_layers_are_timed_against_cudnn(
    dtype: str, gpu: FakeGpu, capsys: pytest.CaptureFixture[str]
) -> None:
    record = record_of("--dtype", dtype, "--group", "16x16", "--sparsity", "0.5", "--batch", "2")
    assert len(record["rows"]) == 2
    for row in record["rows"]:
        assert list(row["dense"]) == ["cuDNN NCHW", "cuDNN channels_last"]
        assert list(row["ours"]) == ["NCHW", "channels_last"]
        assert row["dense_ms"] == row["ours_ms"] == pytest.approx(1.0)
        assert row["isa"] == "fake"
        assert row["density"] == 0.5
    (total,) = record["totals"]
    assert total["dense_ms"] == pytest.approx(4.0)
    assert record["machine"]["gpu"] == "Fake"
    assert record["settings"]["device"] == "cuda"
    assert record["settings"]["dtype"] == dtype
    assert record["settings"]["graphs"] is True
    assert "flush" not in gpu.log
    out = capsys.readouterr().out
    assert out.startswith("Fake, compute capability 8.0, driver 580.1, CUDA 13.0, cuDNN 90000")
    assert "warm caches, backend auto, CUDA graphs" in out


def test_cold_flushes_the_cache_before_each_timed_call(gpu: FakeGpu) -> None:
    record = record_of("--cold", "--sparsity", "0.5")
    assert record["settings"]["cache"] == "cold"
    assert set(gpu.graphs) == {1}
    assert gpu.log.count("flush") == 3 * 2 * 4  # rounds, layers, candidates
    timed = [x for x in gpu.log if x != "call"]
    assert timed[-4:] == ["flush", "event", "replay", "event"]


def test_eager_captures_nothing(gpu: FakeGpu) -> None:
    record = record_of("--eager", "--sparsity", "0.5")
    assert gpu.graphs == []
    assert record["settings"]["graphs"] is False


def test_the_backend_reaches_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    right = gpu_candidates.sparse_conv2d

    def spy(input: torch.Tensor, packed: torch.Tensor, layer: Layer, backend: str) -> torch.Tensor:
        asked.append(backend)
        return right(input, packed, layer, "auto")

    monkeypatch.setattr(gpu_candidates, "sparse_conv2d", spy)
    record = record_of("--backend", "triton/simt", "--sparsity", "0.5", "--layout", "nchw")
    assert set(asked) == {"triton/simt"}
    assert record["settings"]["backend"] == "triton/simt"


def test_packed_weights_count_their_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One made in inference mode would be read by the host again at every call."""
    right = gpu_candidates.sparse_conv2d

    def check(input: torch.Tensor, packed: torch.Tensor, *rest: Any) -> torch.Tensor:
        assert not packed.is_inference()
        assert not torch.is_grad_enabled()
        return right(input, packed, *rest)

    monkeypatch.setattr(gpu_candidates, "sparse_conv2d", check)
    record_of("--sparsity", "0.5")


@pytest.mark.parametrize(
    ("dtype", "tf32"), [("float32", False), ("tf32", True), ("float16", False)]
)
def test_tf32_is_allowed_where_it_is_asked_for(
    dtype: str, tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    right = gpu_candidates.sparse_conv2d

    def spy(*given: Any) -> torch.Tensor:
        seen.append((layout.may_round_to_tf32(), torch.backends.cudnn.benchmark))
        return right(*given)

    monkeypatch.setattr(gpu_candidates, "sparse_conv2d", spy)
    record_of("--dtype", dtype, "--sparsity", "0.5")
    assert set(seen) == {(tf32, True)}


@pytest.mark.parametrize(
    ("dtype", "off", "fine"),
    [
        ("float32", 1e-3, False),
        ("tf32", 1e-3, True),
        ("tf32", 1.0, False),
        ("float16", 1.0, False),
        ("float32", float("nan"), False),
    ],
)
def test_outputs_are_checked_before_they_are_timed(
    dtype: str,
    off: float,
    fine: bool,
    gpu: FakeGpu,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = gpu_candidates.sparse_conv2d

    def wrong(*given: Any) -> torch.Tensor:
        output = right(*given)
        output[..., -1, -1] += off
        return output

    monkeypatch.setattr(gpu_candidates, "sparse_conv2d", wrong)
    given = ["--rounds", "1", "--dtype", dtype, "--sparsity", "0", "--json", "x.json"]
    assert run(*given) == (0 if fine else 1)
    if not fine:
        assert "the output of ours NCHW is off by" in capsys.readouterr().err
        assert gpu.graphs == [1, 1]  # the dense ones
        assert list(Path().iterdir()) == []


def test_dense_is_checked_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def zero(layer: Layer, input: torch.Tensor, weight: torch.Tensor, layout: str) -> Any:
        return lambda: torch.zeros(1, 32, 6, 6)

    monkeypatch.setattr(gpu_candidates, "eager", zero)
    assert run("--sparsity", "0.5") == 1
    assert "the output of dense cuDNN NCHW is off" in capsys.readouterr().err


def test_a_forced_backend_that_refuses_a_layer_is_shown_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = gpu_candidates.sparse_conv2d

    def refuse(input: Any, packed: Any, layer: Layer, backend: str) -> torch.Tensor:
        if layer.kernel == 1:
            raise RuntimeError("backend: layout 'tensor_core' needs channels in multiples of 16")
        return right(input, packed, layer, "auto")

    monkeypatch.setattr(gpu_candidates, "sparse_conv2d", refuse)
    record = record_of("--sparsity", "0.5", "--backend", "cuda/tensor_core")
    assert record["rows"][1]["ours_ms"] is None
    assert record["totals"][0]["left_out"] == 1
    assert any("backend cuda/tensor_core does not run" in note for note in record["notes"])
    assert run("--sparsity", "0.5") == 1  # its own choice has to run


def test_a_candidate_that_can_not_be_captured_is_told_of(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = gpu.graph
    made: list[int] = []

    def refuse_first(call: Callable[[], object], repeats: int) -> Callable[[], object]:
        made.append(repeats)
        if len(made) == 1:
            raise RuntimeError("not while capturing")
        return capture(call, repeats)

    monkeypatch.setattr(gpu, "graph", refuse_first)
    record = record_of("--sparsity", "0.5")
    assert list(record["rows"][0]["dense"]) == ["cuDNN channels_last"]
    assert record["notes"] == ["dense cuDNN NCHW does not run here: not while capturing"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("--strategy pixels", "--strategy: is for --device cpu"),
        ("--backend opencl", "got 'opencl'"),
        ("--backend cuda/", "got 'cuda/'"),
        ("--backend triton/dot", "got 'triton/dot'"),
        ("--dtype int8", "'int8'"),
    ],
)
def test_wrong_arguments_end_with_one_line(
    given: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--json", "record.json", *given.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("latency.py: ")
    assert says in err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("given", ["--backend cuda", "--eager", "--dtype tf32"])
def test_what_is_for_a_gpu_is_refused_without(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        latency.main(given.split())
    assert end.value.code == 2
    assert "is for --device cuda" in capsys.readouterr().err


def test_norms_are_timed_on_a_gpu(gpu: FakeGpu, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--device", "cuda", "--rounds", "2", "--group", "4x4", "--json", "record.json"]
    assert group_l1.main(arguments) == 0
    record = json.loads(Path("record.json").read_text())
    assert record["machine"]["gpu"] == "Fake"
    assert record["settings"]["device"] == "cuda"
    assert len(record["rows"]) == 2
    assert all(row["ours_ms"] == row["plain_ms"] == pytest.approx(1.0) for row in record["rows"])
    assert len(gpu.graphs) == 2 * 4
    assert capsys.readouterr().out.startswith("Fake, ")


def test_fake_and_real_gpus_offer_the_same() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")} - {"device"}

    assert public(gpu_timing.Gpu) == public(gpu_timing.CudaGpu) == public(FakeGpu)
