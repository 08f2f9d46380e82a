# SPDX-License-Identifier: MIT
"""Networks named on the command line, and the weights that they start from."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from l1sparse.train import Data, check_classes, fingerprint, load_model

HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n"
        "def fixed(): return nn.Conv2d(1, 2, 3)\n"
        "def sized(num_classes=7): return nn.Linear(3, num_classes)\n"
        "def text(): return 'not a net'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("own_net", None)


def test_a_function_gives_the_network() -> None:
    assert isinstance(load_model("own_net:fixed", classes=5), nn.Conv2d)
    assert load_model("own_net:sized", classes=5).out_features == 5
    assert load_model("own_net:sized").out_features == 7


def test_a_function_that_gives_no_network_is_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"model: own_net:text must give an nn\.Module, it gave a s"
    ):
        load_model("own_net:text")


@pytest.mark.skipif(HAS_TORCHVISION, reason="torchvision is installed")
def test_without_torchvision_its_names_say_what_is_missing() -> None:
    with pytest.raises(ImportError, match=r"'resnet18' .* not installed; pip install torchvision"):
        load_model("resnet18")


@pytest.mark.skipif(not HAS_TORCHVISION, reason="needs torchvision")
def test_torchvision_names_give_its_networks() -> None:
    assert load_model("resnet18", classes=3).fc.out_features == 3
    with pytest.raises(ValueError, match="torchvision has no 'resnet19'; near it: resnet18"):
        load_model("resnet19")


def state() -> dict[str, torch.Tensor]:
    return {"weight": torch.full((2, 1, 3, 3), 0.5), "bias": torch.ones(2)}


@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_file(state(), path.with_suffix(".safetensors")),
        lambda path: torch.save(state(), path.with_suffix(".pt")),
        lambda path: torch.save({"state_dict": state(), "epoch": 3}, path.with_suffix(".pth")),
        lambda path: torch.save(
            {"model": {f"module.{k}": v for k, v in state().items()}}, path.with_suffix(".tar")
        ),
    ],
    ids=["safetensors", "state_dict", "imagenet example", "DistributedDataParallel"],
)
def test_weights_start_from_a_file(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "weights")
    (path,) = tmp_path.glob("weights.*")
    model = load_model("own_net:fixed", weights=path)
    assert torch.equal(model.weight, state()["weight"])
    assert torch.equal(model.bias, state()["bias"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.ones(2, 1, 3, 3)}, "it lacks bias"),
        ({**state(), "scale": torch.ones(1)}, "the model has no scale"),
        ({**state(), "bias": torch.ones(3)}, r"bias is \[3\] in the file and \[2\] in the model"),
        ([1, 2], "holds a list, expected a state_dict"),
    ],
)
def test_weights_that_do_not_fit_are_an_error(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=f"weights: .*{message}"):
        load_model("own_net:fixed", weights=tmp_path / "weights.pt")


class Runs:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("it_ran"),)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all, only this line of text"])
def test_a_file_that_holds_no_weights_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"weights: .*{name} is neither a whole .safetensors"):
        load_model("own_net:fixed", weights=tmp_path / name)


def test_a_file_of_weights_runs_no_code(tmp_path: Path) -> None:
    torch.save({"weight": Runs()}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="weights: "):
        load_model("own_net:fixed", weights=tmp_path / "weights.pt")
    assert not Path("it_ran").exists()


def test_outputs_and_classes_have_to_agree(
    squares: Data, make_net: Callable[..., nn.Module]
) -> None:
    check_classes(make_net(), squares)
    with pytest.raises(ValueError, match="model: it has 3 outputs, but the data has 4 classes"):
        check_classes(make_net(num_classes=3), squares)
    label = int(squares.held_out[0][1])
    assert label > 0
    with pytest.raises(
        ValueError, match=f"has {label} outputs, but the data has the label {label}"
    ):
        check_classes(make_net(num_classes=label), Data(squares.train, squares.held_out))


def test_images_that_the_network_cannot_take_are_an_error(
    squares: Data, make_net: Callable[..., nn.Module]
) -> None:
    with pytest.raises(ValueError, match=r"cannot take an image of shape \[1, 12, 12\]"):
        check_classes(make_net(channels=3), squares)


def test_a_fingerprint_tells_values_and_names_apart(make_net: Callable[..., nn.Module]) -> None:
    model = make_net()
    before = fingerprint(model)
    assert fingerprint(model) == before
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] += 1e-3
    assert fingerprint(model) != before
    assert fingerprint(nn.Sequential(nn.Linear(2, 2))) != fingerprint(nn.Linear(2, 2))
