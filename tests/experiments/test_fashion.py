# SPDX-License-Identifier: MIT
from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import fashion
import fashion_cells
import fashion_data
import fashion_dense
import fashion_training
from fashion_cells import Cell
from fashion_data import load_fashion
from fashion_table import summary, text_table

TRAIN, VALIDATION, TEST = 80, 20, 24


def write_idx(path: Path, array: np.ndarray) -> None:
    header = np.array([0x0800 + array.ndim, *array.shape], ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fashion-MNIST's four files, with few images: a class is a bright row."""
    monkeypatch.setattr(fashion_data, "_VALIDATION", VALIDATION)
    monkeypatch.setattr(fashion_training, "BATCH", 16)
    monkeypatch.setattr(fashion_training, "DEPTHS", (2, 2, 2))
    for module in (fashion_dense, fashion_cells):
        monkeypatch.setattr(module, "RETRAINING_ROUNDS", 20)
    random = np.random.default_rng(0)
    for part, count in (("train", TRAIN + VALIDATION), ("t10k", TEST)):
        labels = random.integers(0, 10, count)
        images = random.integers(0, 60, (count, 28, 28))
        images[np.arange(count), 2 * labels + 3] = 255
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", labels)
    return tmp_path


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    places = ["--data", str(folder), "--results", str(folder / "r"), "--cache", str(folder / "c")]
    monkeypatch.setattr("sys.argv", ["fashion.py", *places, "--seeds", "0", *more])
    return fashion.main()


def test_the_validation_images_are_held_out_of_the_training_images(folder: Path) -> None:
    data = load_fashion(folder)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [
        TRAIN,
        VALIDATION,
        TEST,
    ]
    seen = {image.numpy().tobytes() for image in data.train.images}
    assert not seen & {image.numpy().tobytes() for image in data.validation.images}
    both = torch.cat([data.train.images, data.validation.images])
    assert float(both.mean()) == pytest.approx(0, abs=1e-5)
    # The bright row says the class: labels went with their images.
    assert (data.train.images.mean(3)[:, 0].argmax(1) == 2 * data.train.labels + 3).all()


def test_missing_data_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, monkeypatch) == 1
    assert "apt-get install dataset-fashion-mnist" in capsys.readouterr().err


@pytest.mark.parametrize("cut", [1, 1000], ids=["cut", "cut a lot"])
def test_a_file_that_was_cut_short_is_an_error(folder: Path, cut: int) -> None:
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-cut]))
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte: not a whole IDX file"):
        load_fashion(folder)


def test_labels_in_place_of_images_are_an_error(folder: Path) -> None:
    labels = (folder / "t10k-labels-idx1-ubyte.gz").read_bytes()
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(labels)
    with pytest.raises(ValueError, match="not a whole IDX file of bytes in 3 dimensions"):
        load_fashion(folder)


def test_runs_are_files_and_are_not_run_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = tuple(Cell("1x8", 0.75, strategy) for strategy in ("method", "gradual"))
    monkeypatch.setattr(fashion, "CORE", cells)
    monkeypatch.setattr(fashion, "WIDE", (Cell("1x8", 0.5, "global"),))
    assert run(folder, monkeypatch, "--cells", "core", "--times") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[4].strip() for line in lines[2:5]][2] == "not run"

    rounds = {}
    for cell in cells:
        record = json.loads((folder / "r" / f"{cell.name(0)}.json").read_text())
        assert record["pruned_share"] == pytest.approx(0.75, abs=0.01)
        assert 0 <= record["test"] <= 1
        rounds[cell.strategy] = record["result"]["rounds"]
    assert rounds == {"method": 20, "gradual": 20}, "equal training"
    times = json.loads((folder / "r" / "times.json").read_text())
    assert {cell.name(0) for cell in cells} < set(times["batches"]["1"])

    def no_more_training(self: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(fashion_training.FashionTrainer, "round", no_more_training)
    assert run(folder, monkeypatch, "--cells", "core") == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_all_strategies_have_a_plan() -> None:
    model = fashion_training.make_network()
    layers = fashion_cells.measure_sensitivity(
        model,
        lambda _: 0.5,
        ["features.17", "features.20", "features.23"],
        "1x8",
        (0.5, 0.9, 0.96),
        0.5,
    )
    for cell in {*fashion_cells.CORE, *fashion_cells.WIDE}:
        if cell.sparsity < 0.6:  # all that three layers hold
            fashion_cells.plan_of(cell, layers, model, 0.9)


def test_the_table_has_mean_and_deviation_and_names_what_is_missing() -> None:
    cell, missing = Cell("1x8", 0.75, "method"), Cell("1x8", 0.9, "method")
    records = [
        {
            "cell": {"group": "1x8", "sparsity": 0.75, "strategy": "method"},
            "seed": seed,
            "test": test,
            "pruned_share": 0.75,
            "cpu_seconds": 1.0,
            "dense": {"start": {"test": 0.9}, "longer": {"test": 0.92}},
        }
        for seed, test in ((0, 0.91), (1, 0.93))
    ]
    entries = summary(records, [cell, missing])
    assert entries[0]["lost_each"] == pytest.approx([1.0, -1.0])
    assert entries[0]["lost"] == pytest.approx(0.0)
    assert entries[0]["lost_deviation"] == pytest.approx(2**0.5)
    assert entries[0]["lost_start"] == pytest.approx(-2.0)
    assert entries[1]["seeds"] == []
    assert "0.00 ± 1.41" in text_table(entries)
    assert "not run" in text_table(entries)
