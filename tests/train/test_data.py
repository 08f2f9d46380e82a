# SPDX-License-Identifier: MIT
"""Data named on the command line: what it gives, and what is said when something is wrong."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from l1sparse.train import load_data
from l1sparse.train.batches import BrokenImage
from l1sparse.train.idx import read_idx
from l1sparse.train.image_folder import ImageFolder


def test_an_idx_folder_gives_standardised_images_and_its_classes(idx_folder: Path) -> None:
    data = load_data(str(idx_folder), augment=False)
    assert data.classes == 4
    assert (len(data.train), len(data.held_out)) == (256, 64)
    images = torch.stack([data.train[i][0] for i in range(256)])
    assert images.shape == (256, 1, 12, 12)
    torch.testing.assert_close(images.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(images.std(), torch.tensor(1.0), atol=1e-4, rtol=0)


def test_idx_images_move_at_random_only_when_trained_on(idx_folder: Path) -> None:
    data = load_data(str(idx_folder))
    assert any(not torch.equal(data.train[0][0], data.train[0][0]) for _ in range(20))
    assert torch.equal(data.held_out[0][0], data.held_out[0][0])


def test_an_image_tree_gives_crops_of_one_size(image_tree: Path) -> None:
    data = load_data(str(image_tree), image_size=16)
    assert data.classes == 3
    assert (len(data.train), len(data.held_out)) == (24, 12)
    for part in (data.train, data.held_out):
        for index in range(len(part)):
            image, label = part[index]
            assert image.shape == (3, 16, 16)
            assert int(image.mean((1, 2)).argmax()) == 2 - label  # classes are colors, by name


def test_the_center_crop_is_a_crop_of_the_resized_image(image_tree: Path) -> None:
    picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    for path in (image_tree / "val").rglob("*.*"):
        path.unlink()
        picture.save(path.with_suffix(".png"))
    image, _ = ImageFolder(image_tree / "val", 56, augment=False)[0]
    row = image[0, :, 0] * 0.229 + 0.485
    # The middle 7/8 of a gradient from 0 to 1.
    torch.testing.assert_close(row[0], torch.tensor(1 / 16), atol=0.02, rtol=0)
    torch.testing.assert_close(row[-1], torch.tensor(15 / 16), atol=0.02, rtol=0)


def test_training_images_differ_from_time_to_time(image_tree: Path) -> None:
    data = load_data(str(image_tree), image_size=16)
    assert not torch.equal(data.train[0][0], data.train[0][0])
    assert torch.equal(data.held_out[0][0], data.held_out[0][0])


def test_a_broken_image_is_named_and_given_as_such(image_tree: Path) -> None:
    path = image_tree / "train" / "blue" / "0.jpg"
    path.write_bytes(path.read_bytes()[:200])
    item = load_data(str(image_tree)).train[0]
    assert isinstance(item, BrokenImage)
    assert str(path) in str(item)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"data: the folder {tmp_path} is empty; expected train/"):
        load_data(str(tmp_path))


def test_a_tree_without_val_is_an_error(image_tree: Path) -> None:
    shutil.rmtree(image_tree / "val")
    with pytest.raises(ValueError, match="there is no val/"):
        load_data(str(image_tree))


def test_a_class_without_images_is_named(image_tree: Path) -> None:
    for path in (image_tree / "train" / "green").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"train/green: expected images .* there is none"):
        load_data(str(image_tree))


def test_a_tree_without_classes_is_an_error(image_tree: Path) -> None:
    shutil.rmtree(image_tree / "train")
    (image_tree / "train").mkdir()
    with pytest.raises(ValueError, match="train: expected one folder a class, there is none"):
        load_data(str(image_tree))


def test_parts_with_different_classes_are_an_error(image_tree: Path) -> None:
    shutil.rmtree(image_tree / "val" / "red")
    with pytest.raises(ValueError, match=r"train/ has 3 classes and val/ 2; .* has red"):
        load_data(str(image_tree))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file"),
        (b"\x00\x00\x0d\x01abcd", "got 00 00 0d 01"),
        (b"\x00\x00\x08\x03\x00\x00", "ends within its header of 16 bytes"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05abcd", r"says \[5\], 5 bytes, but 4 follow"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path}: .*{message}"):
        read_idx(path)


def test_an_idx_file_cut_short_by_its_compression_is_named(idx_folder: Path) -> None:
    path = idx_folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=f"{path}: cannot be decompressed"):
        load_data(str(idx_folder))


def test_a_missing_idx_file_is_named(idx_folder: Path) -> None:
    (idx_folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="expected t10k-labels-idx1-ubyte or t10k-labels-idx1-uby"):
        load_data(str(idx_folder))


def test_images_and_labels_that_differ_in_number_are_an_error(idx_folder: Path) -> None:
    name = "labels-idx1-ubyte"
    (idx_folder / f"train-{name}").write_bytes((idx_folder / f"t10k-{name}").read_bytes())
    with pytest.raises(ValueError, match=r"images \[256, 12, 12\] and labels \[64\]"):
        load_data(str(idx_folder))


def test_idx_parts_with_different_classes_are_an_error(idx_folder: Path) -> None:
    path = idx_folder / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + bytes([7]))
    with pytest.raises(ValueError, match=r"the train labels are 0 to 3, but .* t10k label 7"):
        load_data(str(idx_folder))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data.py").write_text(
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "def pair():\n"
        "    data = TensorDataset(torch.zeros(3, 1, 4, 4), torch.tensor([0, 1, 2]))\n"
        "    return data, data\n"
        "def one(): return pair()[0]\n"
        "def iterator(): return iter(()), pair()[0]\n"
        "def none(): return [], []\n"
        "number = 3\n"
    )
    (tmp_path / "needs_more.py").write_text("import not_there_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("own_data", None)


@pytest.mark.usefixtures("module")
def test_a_function_gives_two_data_sets() -> None:
    data = load_data("own_data:pair")
    assert len(data.train) == len(data.held_out) == 3
    assert data.classes is None


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere", "there is no folder 'nowhere'"),
        ("own_data:", "expected module:function, got 'own_data:'"),
        ("nowhere:pair", "no module 'nowhere'"),
        ("own_data:absent", "expected a function 'absent' in .*own_data.py, found nothing"),
        ("own_data:number", "expected a function 'number' in .*own_data.py, found a int"),
        ("own_data:one", "must give two data sets .* it gave a TensorDataset"),
        ("own_data:iterator", "train must have __len__ and __getitem__, it is a tuple_iterator"),
        ("own_data:none", "train is empty"),
    ],
)
def test_what_gives_no_data_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"data: .*{message}"):
        load_data(text)


@pytest.mark.usefixtures("module")
def test_what_a_users_module_lacks_is_not_hidden() -> None:
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        load_data("needs_more:pair")
