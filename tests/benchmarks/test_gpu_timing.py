# SPDX-License-Identifier: MIT
"""Timing on a GPU, on one that is none."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from fake_gpu import FakeGpu

import gpu_timing
from gpu_timing import (
    MOST_REPEATS,
    NVIDIA_SMI_FIELDS,
    WARM_UP,
    Replay,
    alternate,
    cudnn_benchmark,
    gpu_headline,
    parse_nvidia_smi,
    prepare,
)


def taking(gpu: FakeGpu, *milliseconds: float) -> Callable[[], None]:
    """A call that takes these times in turn, the last one from then on."""
    left = list(milliseconds)

    def call() -> None:
        gpu.log.append("call")
        gpu.now += left.pop(0) if len(left) > 1 else left[0]

    return call


def test_a_short_call_is_repeated_in_one_graph() -> None:
    gpu = FakeGpu(0.0)
    replay = prepare(gpu, taking(gpu, 0.1), 2.0, flushed=False)
    assert gpu.graphs == [20]
    assert replay.repeats == 20
    assert alternate(gpu, {"a": replay}, 3, flushed=False)["a"].median == pytest.approx(0.1)


def test_what_only_the_first_calls_cost_does_not_count() -> None:
    gpu = FakeGpu(0.0)
    replay = prepare(gpu, taking(gpu, *[500.0] * WARM_UP, 0.5), 2.0, flushed=False)
    assert replay.repeats == 4


def test_a_graph_keeps_its_candidate() -> None:
    """It reads the candidate's tensors by address: freed, something else would be read there."""
    gpu = FakeGpu(1.0)
    replays = [prepare(gpu, taking(gpu, 0.1), 2.0, flushed=flushed) for flushed in (False, True)]
    gc.collect()
    for replay in replays:
        replay.run()


@pytest.mark.parametrize(("milliseconds", "repeats"), [(0.0, MOST_REPEATS), (50.0, 1)])
def test_repeats_have_bounds(milliseconds: float, repeats: int) -> None:
    gpu = FakeGpu(0.0)
    assert prepare(gpu, taking(gpu, milliseconds), 2.0, flushed=False).repeats == repeats


def test_flushed_calls_are_single_and_flushed_each_time() -> None:
    gpu = FakeGpu(0.0)
    replay = prepare(gpu, taking(gpu, 0.1), 2.0, flushed=True)
    assert gpu.graphs == [1]
    gpu.log.clear()
    times = alternate(gpu, {"a": replay}, 2, flushed=True)
    assert gpu.log == ["flush", "event", "replay", "call", "event"] * 2
    assert times["a"].median == pytest.approx(0.1)  # without the flush's second


def test_candidates_take_turns_each_after_a_run_that_is_not_timed() -> None:
    gpu = FakeGpu(0.0)
    order: list[str] = []
    replays = {
        name: Replay(lambda name=name: order.append(name), 1)  # type: ignore[misc]
        for name in ("a", "b")
    }
    alternate(gpu, replays, 2, flushed=False)
    assert order == ["a", "a", "b", "b"] * 2
    assert gpu.log == ["event"] * 8


def test_times_are_medians_of_the_turns() -> None:
    gpu = FakeGpu(0.0)
    # In each turn a run that is not timed, then one that is.
    call = taking(gpu, 0.0, 5.0, 0.0, 1.0, 0.0, 2.0)
    found = alternate(gpu, {"a": Replay(call, 1)}, 3, flushed=False)["a"]
    assert (found.low, found.median, found.high) == (1.0, 2.0, 5.0)


def test_calls_can_be_made_one_by_one() -> None:
    gpu = FakeGpu(100.0)
    replay = prepare(gpu, taking(gpu, 0.5), 2.0, flushed=False, graphs=False)
    assert gpu.graphs == []
    gpu.log.clear()
    replay.run()
    assert gpu.log == ["call"] * 4


def test_a_call_that_can_not_be_captured_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()

    def refuse(call: object, repeats: int) -> Callable[[], object]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(gpu, "graph", refuse)
    with pytest.raises(RuntimeError, match="capturing"):
        prepare(gpu, lambda: None, 1.0, flushed=True)


def test_lines_of_nvidia_smi_are_read() -> None:
    values = [f"v{i}" for i in range(len(NVIDIA_SMI_FIELDS.split(",")))]
    text = ", ".join(values) + "\n" + ", ".join(values) + "\n\n"
    first, second = parse_nvidia_smi(text)
    assert first == second
    assert first["name"] == "v0"
    assert first["driver_version"] == "v1"
    assert first["clocks_throttle_reasons.active"] == values[-1]


def test_without_nvidia_smi_there_are_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert gpu_timing.nvidia_smi() == []


@pytest.mark.parametrize("script", ["exit 9", "echo one, two", "sleep 0; kill -9 $$"])
def test_nvidia_smi_may_fail(
    script: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"  # type: ignore[operator]
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = gpu_timing.nvidia_smi()
    assert found == ([{"name": "one", "driver_version": "two"}] if "echo" in script else [])


def test_the_headline_names_chip_and_versions() -> None:
    machine = FakeGpu().describe()
    line = gpu_headline(machine)
    for part in ("Fake", "8.0", "580.1", "CUDA 13.0", "cuDNN 90000", torch.__version__):
        assert part in line
    assert "driver unknown" in gpu_headline({**machine, "nvidia_smi": []})


def test_cudnn_is_as_before_afterwards() -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.conv.fp32_precision
    for tf32, precision in ((True, "tf32"), (False, "ieee")):
        with cudnn_benchmark(tf32=tf32):
            assert (cudnn.benchmark, cudnn.conv.fp32_precision) == (True, precision)
        assert (cudnn.benchmark, cudnn.conv.fp32_precision) == before
