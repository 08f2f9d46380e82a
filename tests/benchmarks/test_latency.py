# SPDX-License-Identifier: MIT
"""The latency benchmark: its arguments, figures and files, on layers that take no time."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import arguments
import candidates
import l1sparse
import latency
import machine
import masks
import suites
from l1sparse.convert.measure import Timing
from l1sparse.ops import STRATEGIES
from suites import Layer

LAYERS = (Layer(16, 8, 6, 3, count=3), Layer(8, 32, 6, 1), Layer(32, 16, 6, 3, stride=2, count=2))


@pytest.fixture(autouse=True)
def small_suite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(suites.SUITES, "demo", LAYERS)
    monkeypatch.setattr(latency, "TURN_SECONDS", 1e-5)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    try:
        return latency.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def record_of(*arguments: str) -> dict[str, Any]:
    assert run("--rounds", "1", "--json", "record.json", *arguments) == 0
    return json.loads(Path("record.json").read_text())


@pytest.fixture
def compressed(tmp_path: Path) -> Path:
    network = torch.nn.Sequential(torch.nn.Conv2d(8, 32, 1, bias=False))
    with torch.no_grad():
        network[0].weight[:20] = 0
    network[0] = l1sparse.SparseConv2d.from_dense(network[0], (1, 8))
    l1sparse.save(network.eval(), tmp_path / "network.safetensors")
    return tmp_path / "network.safetensors"


# ---- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--suite nothing", "'nothing'"),
        ("--device tpu", "'tpu'"),
        ("--sparsity 1.5", "fractions from 0 to 1"),
        ("--sparsity -0.1", "fractions from 0 to 1"),
        ("--sparsity nan", "fractions from 0 to 1"),
        ("--sparsity half", "fractions from 0 to 1"),
        ("--sparsity 0.5,", "fractions from 0 to 1"),
        ("--group 0x8", "'0x8'"),
        ("--group 8", "'8'"),
        ("--group 1x8,", "'1x8,'"),
        ("--group 1x-8", "'1x-8'"),
        ("--group 64x64", "--group: is larger than every layer"),
        ("--dtype int8", "'int8'"),
        ("--threads 0", "at least 1"),
        ("--threads 100000", "at most"),
        ("--batch none", "at least 1"),
        ("--rounds 0", "at least 1"),
        ("--seed x", "'x'"),
        ("--strategy fast", "'fast'"),
        ("--layout nhwc", "'nhwc'"),
        ("--mask missing.safetensors", "'missing.safetensors' is no file"),
        ("--json missing/record.json", "can't be written"),
        ("--json .", "can't be written"),
        ("--plot missing/plot.png", "can't be written"),
        ("--colour", "--colour"),
    ],
)
def test_wrong_arguments_end_with_one_line(
    arguments: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = arguments.split()
    outputs = ["--json", "record.json"] if "--json" not in wrong else []
    assert run(*outputs, *wrong) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("latency.py: ")
    assert says in err
    assert list(Path().iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--device", "cuda", "--json", "record.json") == 2
    expected = "latency.py: --device cuda: no CUDA GPU is available to this torch\n"
    assert capsys.readouterr().err == expected
    assert list(Path().iterdir()) == []


def test_cuda_without_kernels_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(name: str) -> None:
        raise RuntimeError(f"backend: {name!r} can't run\nhere")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(arguments, "resolve", none)
    assert run("--device", "cuda") == 2
    err = capsys.readouterr().err
    assert "this build of l1sparse has no CUDA kernels: backend: 'auto' can't run here" in err
    assert err.count("\n") == 1


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "\n  python benchmarks/latency.py --suite resnet50" in capsys.readouterr().out


def test_it_runs_as_a_script_from_anywhere(tmp_path: Path) -> None:
    script = Path(latency.__file__)
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    command = [sys.executable, str(script), "--device", "cuda", "--suite", "nothing"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("latency.py: --suite: ")


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_a_dtype_that_the_operator_refuses_ends_with_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("input: is no float32\nand more")

    monkeypatch.setattr(candidates, "sparse_conv2d", refuse)
    monkeypatch.setattr(latency, "pack", lambda *arguments: torch.empty(0))
    assert run("--dtype", name, "--json", "record.json") == 2
    assert capsys.readouterr().err == f"latency.py: --dtype {name}: input: is no float32\n"
    assert list(Path().iterdir()) == []


# ---- figures ----------------------------------------------------------------------------------


def test_totals_are_the_rows_sums_weighted_by_count(capsys: pytest.CaptureFixture[str]) -> None:
    record = record_of("--group", "1x8,4x4", "--sparsity", "0.5,0.9", "--batch", "2")
    assert len(record["rows"]) == 3 * 2 * 2
    assert len(record["totals"]) == 2 * 2
    for total in record["totals"]:
        rows = [
            row
            for row in record["rows"]
            if (row["group"], row["sparsity"]) == (total["group"], total["sparsity"])
        ]
        counts = [row["count"] for row in rows]
        assert counts == [3, 1, 2]
        assert total["layers"] == 6
        assert total["left_out"] == 0
        dense = sum(row["count"] * row["dense_ms"] for row in rows)
        ours = sum(row["count"] * row["ours_ms"] for row in rows)
        assert total["dense_ms"] == pytest.approx(dense)
        assert total["ours_ms"] == pytest.approx(ours)
        assert total["speedup"] == pytest.approx(dense / ours)
        images = 2 * 2  # a multiply-add counts as two
        flops = [images * n for n in (3 * 16 * 8 * 9 * 36, 8 * 32 * 36, 2 * 32 * 16 * 9 * 9)]
        density = sum(f * row["density"] for f, row in zip(flops, rows, strict=True)) / sum(flops)
        assert total["density"] == pytest.approx(density)
        assert total["efficiency"] == pytest.approx(density * dense / ours)
        assert total["effective_gflops"] == pytest.approx(sum(flops) / ours / 1e6)
        assert total["actual_gflops"] == pytest.approx(density * sum(flops) / ours / 1e6)
        for layout in ("NCHW", "channels_last"):
            one = sum(row["count"] * row["ours"][layout]["median"] for row in rows)
            assert total["one_layout"][layout]["ours_ms"] == pytest.approx(one)
            assert total["one_layout"][layout]["speedup"] == pytest.approx(dense / one)
    out = capsys.readouterr().out
    assert out.count("| layer ") == 4
    assert machine.cpu_model() in out.splitlines()[0]


def test_rows_take_the_fastest_of_four_and_of_two() -> None:
    record = record_of("--sparsity", "0.75", "--batch", "2")
    for row in record["rows"]:
        assert len(row["dense"]) == 4
        assert row["dense_ms"] == min(timing["median"] for timing in row["dense"].values())
        assert row["dense_ms"] == row["dense"][row["best_dense"]]["median"]
        assert row["ours_ms"] == min(timing["median"] for timing in row["ours"].values())
        assert row["ours_ms"] == row["ours"][row["layout"]]["median"]
        assert row["density"] == pytest.approx(0.25, abs=0.02)
        assert row["speedup"] == pytest.approx(row["dense_ms"] / row["ours_ms"])
        assert row["efficiency"] == pytest.approx(row["speedup"] * row["density"])
        assert row["actual_gflops"] == pytest.approx(row["effective_gflops"] * row["density"])
        assert row["isa"] in l1sparse.build_info()["usable"]
        assert row["strategy"] in STRATEGIES[1:]
    first = record["rows"][0]
    flops = 2 * 2 * 16 * 8 * 9 * 36
    assert first["effective_gflops"] == pytest.approx(flops / first["ours_ms"] / 1e6)
    assert record["settings"]["batch"] == 2
    assert record["settings"]["cache"] == "warm"
    assert record["machine"]["threads"] == 1


def test_all_candidates_take_turns_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def record(calls: dict[str, Any], rounds: int, seconds: float) -> dict[str, Timing]:
        seen.append(list(calls))
        return dict.fromkeys(calls, Timing(1.0, 1.0, 1.0))

    monkeypatch.setattr(latency, "alternate", record)
    assert run("--sparsity", "0.5") == 0
    ways = [f"{way} {x}" for way in ("eager", "prepacked") for x in ("NCHW", "channels_last")]
    assert seen == [[*ways, "NCHW", "channels_last"]] * 3


@pytest.mark.parametrize("layout", ["NCHW", "channels_last"])
def test_one_layout_alone_can_be_asked_for(layout: str) -> None:
    record = record_of("--sparsity", "0.5", "--layout", layout.lower())
    assert all(list(row["ours"]) == [layout] for row in record["rows"])
    assert list(record["totals"][0]["one_layout"]) == [layout]


def test_a_strategy_that_refuses_a_layer_is_shown_as_such(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = candidates.sparse_conv2d

    def refuse() -> torch.Tensor:
        raise RuntimeError("strategy: 'channels' does not do this")

    def refuse_1x1(input: torch.Tensor, packed: torch.Tensor, layer: Layer) -> candidates.Call:
        return refuse if layer.kernel == 1 else right(input, packed, layer)

    monkeypatch.setattr(candidates, "sparse_conv2d", refuse_1x1)
    record = record_of("--sparsity", "0.5", "--strategy", "channels")
    refused = record["rows"][1]
    assert refused["ours_ms"] is refused["speedup"] is refused["strategy"] is None
    (total,) = record["totals"]
    assert (total["layers"], total["left_out"]) == (5, 1)
    rows = [record["rows"][0], record["rows"][2]]
    assert {row["strategy"] for row in rows} == {"channels"}
    assert total["dense_ms"] == pytest.approx(sum(r["count"] * r["dense_ms"] for r in rows))
    out = capsys.readouterr().out
    assert "5 of 6" in out
    assert "note: layer 8 > 32 @ 6, 1x1, group 1x8, 50 % pruned: strategy channels" in out


def test_a_strategy_that_refuses_all_layers_has_no_speedup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object) -> torch.Tensor:
        raise RuntimeError("strategy: not here")

    monkeypatch.setattr(latency, "pack", refuse)
    record = record_of("--strategy", "pixels", "--plot", "plot.png")
    assert [total["speedup"] for total in record["totals"]] == [None] * 3


def test_everything_and_nothing_pruned_can_be_timed() -> None:
    record = record_of("--sparsity", "0,1")
    assert [total["density"] for total in record["totals"]] == [1.0, 0.0]


def test_cold_runs_rotate_over_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "last_level_cache_bytes", lambda: 50_000)
    made: list[int] = []
    rotating = candidates.rotating
    monkeypatch.setattr(
        latency, "rotating", lambda calls: made.append(len(calls)) or rotating(calls)
    )
    record = record_of("--sparsity", "0.5", "--cold")
    assert record["settings"]["cache"] == "cold"
    input, weight = 4 * 16 * 36, 4 * 16 * 8 * 9
    assert made[:4] == [50_000 // (input + weight) + 1] * 4
    assert made[4] == made[5] > made[0]
    assert made[4] < 50_000 // input


def test_rotating_makes_each_call_in_turn() -> None:
    made: list[int] = []
    call = candidates.rotating([lambda i=i: made.append(i) for i in range(3)])  # type: ignore[misc]
    for _ in range(5):
        call()
    assert made == [0, 1, 2, 0, 1]


def test_masks_of_a_file_are_timed(compressed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = record_of("--mask", str(compressed))
    (row,) = record["rows"]
    assert row["name"] == "0"
    assert row["sparsity"] is None
    assert row["density"] == pytest.approx(12 / 32)
    assert record["settings"]["mask"] == "network.safetensors"
    assert "group 1x8, trained masks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--group 1x8", "leave out"),
        ("--sparsity 0.5", "leave out"),
        ("--suite vgg16", "has no pruned layer of suite vgg16"),
    ],
)
def test_masks_of_a_file_have_to_fit(
    arguments: str, says: str, compressed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--mask", str(compressed), "--json", "record.json", *arguments.split()) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert says in err
    assert not Path("record.json").exists()


def test_damaged_files_end_with_one_line(
    compressed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = compressed.read_bytes()
    for damaged in (b"", b"no safetensors", data[:-10]):
        compressed.write_bytes(damaged)
        assert run("--mask", str(compressed)) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "--mask" in err


# ---- outputs ----------------------------------------------------------------------------------


def then(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., candidates.Call]:
    """`sparse_conv2d`, but for a change to what its calls give."""
    right = candidates.sparse_conv2d

    def make(*arguments: Any) -> candidates.Call:
        call = right(*arguments)
        return lambda: change(call())

    return make


def wrong_by(amount: float) -> Callable[..., candidates.Call]:
    def change(output: torch.Tensor) -> torch.Tensor:
        output[..., -1, -1] += amount
        return output

    return then(change)


@pytest.mark.parametrize("amount", [1e-3, float("nan")])
def test_a_wrong_output_stops_the_benchmark(
    amount: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(candidates, "sparse_conv2d", wrong_by(amount))
    assert run("--json", "record.json", "--plot", "plot.png") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "layer 16 > 8 @ 6, 3x3, group 1x8, 50 % pruned: the output of ours NCHW is off" in err
    assert list(Path().iterdir()) == []


def test_an_output_in_another_layout_stops_the_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(candidates, "sparse_conv2d", then(torch.Tensor.contiguous))
    assert run() == 1
    assert "ours channels_last is in another layout" in capsys.readouterr().err


def test_a_wrong_dense_output_stops_the_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(layer: Layer, input: torch.Tensor, *arguments: object) -> Callable[[], torch.Tensor]:
        return lambda: torch.zeros(1)

    monkeypatch.setattr(candidates, "_prepacked", wrong)
    assert run() == 1
    assert "dense prepacked NCHW has shape [1]" in capsys.readouterr().err


def test_dense_ways_that_do_not_run_are_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> Callable[[], torch.Tensor]:
        raise RuntimeError("no oneDNN here\nand more")

    monkeypatch.setattr(candidates, "_prepacked", refuse)
    record = record_of("--sparsity", "0.5")
    assert all(len(row["dense"]) == 2 for row in record["rows"])
    expected = "dense prepacked NCHW does not run here: no oneDNN here"
    assert expected in record["notes"]
    assert f"note: {expected}\n" in capsys.readouterr().out

    monkeypatch.setattr(candidates, "eager", refuse)
    assert run() == 1
    assert "no dense convolution runs here" in capsys.readouterr().err


def test_an_error_of_the_operator_names_the_layer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> torch.Tensor:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(candidates, "sparse_conv2d", fail)
    assert run("--json", "record.json") == 1
    err = capsys.readouterr().err
    assert "layer 16 > 8 @ 6, 3x3" in err
    assert "out of luck" in err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("dtype", "dense", "near", "far"),
    [
        (torch.float32, False, 2**-21, 2**-19),
        (torch.float32, True, 2**-21, 2**-19),
        (torch.bfloat16, False, 2**-8, 2**-8 + 2**-10),
        (torch.bfloat16, True, 2**-7, 2**-6),
        (torch.float16, False, 2**-11, 2**-11 + 2**-13),
        (torch.float16, True, 2**-10, 2**-9),
    ],
)
def test_bounds_follow_the_outputs_dtype(
    dtype: torch.dtype, dense: bool, near: float, far: float
) -> None:
    output, magnitude = torch.ones(1, dtype=dtype), torch.ones(1, dtype=torch.float64)
    candidates.Reference(magnitude * (1 + near), magnitude).check(output, dense=dense)
    with pytest.raises(candidates.WrongOutputError, match="off by"):
        candidates.Reference(magnitude * (1 + far), magnitude).check(output, dense=dense)


def test_an_interrupted_run_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(latency, "alternate", interrupt)
    assert run("--json", "record.json") == 130
    out, err = capsys.readouterr()
    assert (out, err) == ("", "latency.py: interrupted\n")
    assert list(Path().iterdir()) == []


def test_a_file_that_was_there_stays_whole_when_writing_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("record.json").write_text("before")

    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    assert run("--rounds", "1", "--sparsity", "0.5", "--json", "record.json") == 1
    assert "disk full" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["record.json"]
    assert Path("record.json").read_text() == "before"


def test_speedup_is_drawn(compressed: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["--rounds", "1", "--plot", "plot.png"]
    assert run(*arguments, "--group", "1x8,4x4") == 0
    assert Path("plot.png").read_bytes().startswith(b"\x89PNG")
    Path("plot.png").unlink()
    assert run(*arguments, "--mask", str(compressed)) == 0
    assert Path("plot.png").exists()


def test_a_plot_without_matplotlib_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run("--plot", "plot.png") == 2
    assert "matplotlib" in capsys.readouterr().err


# ---- the machine ------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not pin")
def test_one_thread_stays_on_one_core_and_all_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 5})
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: pinned.append(cores))
    before = torch.get_num_threads()
    with machine.threads(1) as core:
        assert core == 5
        assert pinned == [{5}]
    assert pinned == [{5}, {0, 2, 5}]
    with machine.threads(2) as core:
        assert core is None
        assert torch.get_num_threads() == 2
    assert len(pinned) == 2
    assert torch.get_num_threads() == before


def test_the_last_level_cache_is_the_largest(tmp_path: Path) -> None:
    assert machine.last_level_cache_bytes(tmp_path) == 32 << 20
    for i, size in enumerate(("32K", "1024K", "36M")):
        (tmp_path / f"index{i}").mkdir()
        (tmp_path / f"index{i}" / "size").write_text(f"{size}\n")
    assert machine.last_level_cache_bytes(tmp_path) == 36 << 20


def test_settings_are_named_in_words() -> None:
    assert str(masks.Setting("1x8", 0.875)) == "group 1x8, 87.5 % pruned"
    assert str(masks.Setting("4x4", None)) == "group 4x4, trained masks"
