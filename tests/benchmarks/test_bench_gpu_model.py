# SPDX-License-Identifier: MIT
"""The table of floors: its arguments, its sums, and what ResNet-50 comes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import gpu_model
import l1sparse
import suites
from l1sparse import GroupShape
from l1sparse.gpu.cells import KeptAtRandom
from l1sparse.gpu.chips import CHIPS
from l1sparse.gpu.model import Tiling, dense_work, floor, tensor_core_work
from suites import SUITES, Layer


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    try:
        return gpu_model.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def record_of(*arguments: str) -> dict[str, Any]:
    assert run("--totals", "--json", "record.json", *arguments) == 0
    return json.loads(Path("record.json").read_text())


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """Totals at 75 %, 16x16, float16, batch 32, by chip and cache."""
    file = tmp_path_factory.mktemp("floors") / "record.json"
    arguments = ["--group", "16x16", "--sparsity", "0.75", "--batch", "32", "--dtype", "float16"]
    assert run("--totals", "--json", str(file), *arguments) == 0
    record = json.loads(file.read_text())
    return {(x["chip"], x["cache"]): x for x in record["totals"]}


@pytest.mark.parametrize("chip", ["A100", "H100"])
def test_resnet50_is_bound_half_as_much_where_the_cache_is_warm(
    chip: str, resnet50: dict[tuple[str, str], dict[str, Any]]
) -> None:
    assert resnet50[chip, "warm"]["ratio"] >= 2


@pytest.mark.parametrize(
    ("chip", "cache", "dense", "ratio", "on_chip"),
    [
        # What docs/gpu-model.md says.
        ("T4", "flushed", 5418, 0.64, 0.64),
        ("T4", "warm", 5181, 0.62, 0.62),
        ("A100", "flushed", 1004, 1.61, 1.51),
        ("A100", "warm", 817, 3.28, 2.25),
        ("H100", "flushed", 450, 1.20, 1.09),
        ("H100", "warm", 259, 2.25, 1.11),
        ("RTX 4090", "flushed", 1943, 1.55, 1.55),
        ("RTX 4090", "warm", 1538, 3.96, 3.96),
        ("Orin", "flushed", 8384, 1.38, 1.33),
        ("Orin", "warm", 7995, 1.54, 1.44),
    ],
)
def test_resnet50_totals_are_as_documented(
    chip: str,
    cache: str,
    dense: float,
    ratio: float,
    on_chip: float,
    resnet50: dict[tuple[str, str], dict[str, Any]],
) -> None:
    found = resnet50[chip, cache]
    assert found["dense_us"] == pytest.approx(dense, abs=0.5)
    assert found["ratio"] == pytest.approx(ratio, abs=0.005)
    assert found["on_chip_ratio"] == pytest.approx(on_chip, abs=0.005)
    assert found["layers"] == 52


@pytest.mark.parametrize(
    ("chip", "ratios"), [("A100", (1.80, 2.25, 2.45)), ("H100", (0.85, 1.11, 1.31))]
)
def test_larger_blocks_lower_what_moves_on_the_chip(chip: str, ratios: tuple[float, ...]) -> None:
    """The table of docs/gpu-model.md."""
    for filters, ratio in zip((64, 128, 256), ratios, strict=True):
        tiling = Tiling(filters, 128, min(filters, 128), 32)
        dense = ours = 0.0
        for layer in SUITES["resnet50"]:
            conv = gpu_model.convolution(layer, 32, "float16")
            kept = KeptAtRandom(layer.weight_shape, GroupShape(16, 16), 0.25)
            work = tensor_core_work(conv, kept, tiling)
            least = floor(dense_work(conv, CHIPS[chip]), CHIPS[chip], warm=True, on_chip=False)
            dense += layer.count * least.microseconds
            ours += layer.count * floor(work, CHIPS[chip], warm=True).microseconds
        assert dense / ours == pytest.approx(ratio, abs=0.005)


def test_counts_of_resnet50_are_the_kept_tiles_times_the_pixel_tiles() -> None:
    record = record_of("--chip", "A100", "--group", "16x16", "--sparsity", "0.75")
    assert len(record["rows"]) == len(SUITES["resnet50"])
    for row, layer in zip(record["rows"], SUITES["resnet50"], strict=True):
        side = layer.size // layer.stride
        tile = row["tiling"]["pixels"]
        pixel_tiles = -(-32 * side * side // tile)
        tiles = layer.out_channels // 16 * layer.in_channels // 16 * layer.kernel**2
        assert row["layout"] == "tensor_core"
        assert row["ours"]["mma"] == pytest.approx(0.25 * tiles * pixel_tiles * tile / 8)
        assert row["dense"]["mma"] == tiles * 32 * side * side / 8
        activations = 2 * 32 * (side * side * layer.out_channels)
        assert row["ours"]["output_bytes"] == row["dense"]["output_bytes"] == activations
        assert row["ours"]["input_bytes"] <= row["dense"]["input_bytes"]
        assert row["fill_in"] == pytest.approx(1.0)


def test_totals_are_the_rows_sums_weighted_by_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = (Layer(32, 16, 14, 3, count=3), Layer(16, 64, 28, 1, count=2))
    monkeypatch.setitem(suites.SUITES, "resnet50", layers)
    record = record_of("--group", "16x16,1x8", "--sparsity", "0.5,0.9", "--batch", "2")
    assert len(record["rows"]) == 2 * 2 * 2 * 5
    assert len(record["totals"]) == 2 * 2 * 2 * 5
    keys = ("chip", "group", "sparsity")
    for total in record["totals"]:
        rows = [r for r in record["rows"] if all(r[key] == total[key] for key in keys)]
        assert [r["count"] for r in rows] == [3, 2]
        for name, column in (
            ("dense", "dense_us"),
            ("floor", "floor_us"),
            ("on_chip", "on_chip_us"),
        ):
            parts = [r["count"] * r["caches"][total["cache"]][name]["us"] for r in rows]
            assert total[column] == pytest.approx(sum(parts))
            assert sum(total["binds"][name].values()) == pytest.approx(sum(parts))
        assert total["ratio"] == total["dense_us"] / total["floor_us"]
        assert total["on_chip_us"] >= total["floor_us"]
        assert total["launches"] == 5
    out = capsys.readouterr().out
    assert out.startswith("floors from counts and datasheets; no time was measured on a GPU\n")
    assert out.count("| layer ") == 0
    assert record["chips"]["A100"]["l2"] == 5120 * 1.41e9


def test_layers_are_shown_a_table_a_chip_and_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--suite", "demo", "--chip", "t4,H100", "--group", "16x16", "--cache", "warm") == 0
    out = capsys.readouterr().out
    assert out.count("| layer ") == 2 * 3
    assert "H100, group 16x16, 75 % pruned, L2 warm" in out
    assert "T4, group 16x16, 90 % pruned, L2 warm" in out
    assert out.count("64 > 64 @ 56, 3x3") == 2 * 3


def test_masks_of_a_file_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1024, 256, 1, bias=False))
    with torch.no_grad():
        network[0].weight[:192] = 0
    network[0] = l1sparse.SparseConv2d.from_dense(network[0], (1, 8))
    l1sparse.save(network.eval(), tmp_path / "network.safetensors")
    arguments = ["--suite", "demo", "--chip", "A100", "--mask", "network.safetensors"]
    record = record_of(*arguments)
    (row,) = record["rows"]
    assert (row["name"], row["sparsity"], row["density"]) == ("0", None, 0.25)
    assert row["fill_in"] == 1.0
    assert row["ours"]["mma"] == 64 // 16 * 1024 // 16 * 32 * 14 * 14 / 8
    assert run(*arguments, "--group", "1x8") == 2
    assert "leave out the others" in capsys.readouterr().err


def test_layers_smaller_than_a_group_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    record = record_of("--suite", "mobile", "--group", "32x32", "--chip", "A100")
    assert "16 > 96 @ 112, 1x1: smaller than a 32x32 group" in record["notes"]
    assert "note: 16 > 96 @ 112, 1x1: smaller" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--chip V100", "T4, A100, H100, RTX 4090, Orin"),
        ("--chip A100,", "got 'A100,'"),
        ("--suite nothing", "'nothing'"),
        ("--group 0x8", "'0x8'"),
        ("--group 4096x1", "is larger than every layer"),
        ("--sparsity 2", "fractions from 0 to 1"),
        ("--dtype int8", "'int8'"),
        ("--batch 0", "at least 1"),
        ("--cache cold", "'cold'"),
        ("--mask missing", "'missing' is no file"),
        ("--json missing/x.json", "can't be written"),
        ("--rounds 3", "--rounds"),
    ],
)
def test_wrong_arguments_end_with_one_line(
    arguments: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("gpu_model.py: ")
    assert says in err
    assert list(Path().iterdir()) == []


def test_damaged_files_end_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("damaged").write_bytes(b"nothing")
    assert run("--mask", "damaged") == 2
    err = capsys.readouterr().err
    assert err.startswith("gpu_model.py: --mask: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_dtypes_have_floors(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    record = record_of("--suite", "demo", "--dtype", dtype, "--group", "16x8")
    layouts = {row["chip"]: row["dense"]["layout"] for row in record["rows"]}
    assert layouts["T4"] == "dense simt"
    assert {layouts[name] for name in CHIPS if name != "T4"} == {"dense tensor_core"}


def test_sums_of_a_chip_do_not_know_of_others(
    resnet50: dict[tuple[str, str], dict[str, Any]],
) -> None:
    record = record_of("--chip", "Orin", "--group", "16x16", "--sparsity", "0.75")
    alone = {x["cache"]: x for x in record["totals"]}
    assert alone["warm"]["on_chip_us"] == resnet50["Orin", "warm"]["on_chip_us"]
