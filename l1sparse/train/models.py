# SPDX-License-Identifier: MIT
"""Networks, named on the command line, and the weights that they start from."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from l1sparse.files import write_atomically
from l1sparse.train.batches import BrokenImage
from l1sparse.train.data import Data
from l1sparse.train.specifier import imported_function


def load_model(text: str, classes: int | None = None, weights: Path | None = None) -> nn.Module:
    """The network that `text` names.

    Args:
        text: ``module:function``, called with ``num_classes=classes`` if it takes that and
            `classes` is known, else without arguments; or a name of torchvision's, such as
            ``resnet50``.
        classes: how many the data has, or None.
        weights: a ``.safetensors`` file, or a ``state_dict`` that ``torch.save`` wrote, also inside
            of a dictionary under ``state_dict`` or ``model`` and with names that begin with
            ``module.``. None: the network's own initial weights.

    Raises:
        ValueError: if there is no such network, or the file does not fit it.
        ImportError: if the name is torchvision's and torchvision is not installed.
    """
    if ":" in text:
        function = imported_function("model", text)
        takes_classes = "num_classes" in inspect.signature(function).parameters
        model = function(num_classes=classes) if takes_classes and classes else function()
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"model: {text} must give an nn.Module, it gave a {type(model).__name__}"
            )
    else:
        model = _torchvision_model(text, classes)
    if weights is not None:
        _start_from(model, weights)
    return model


def check_classes(model: nn.Module, data: Data, device: torch.device | str = "cpu") -> int:
    """How many classes `model` tells apart.

    Raises:
        ValueError: unless it has one output for each class of `data`, as far as `data` or its
            first image tells them.
    """
    image, label = _example(data)
    was_training = model.training
    with torch.inference_mode():
        try:
            outputs = model.eval()(image[None].to(device))
        except RuntimeError as error:
            raise ValueError(
                f"model: it cannot take an image of shape {list(image.shape)}: {error}"
            ) from error
        finally:
            model.train(was_training)
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(f"model: expected outputs [images, classes], got {found}")
    count = outputs.shape[1]
    if data.classes is not None and data.classes != count:
        raise ValueError(f"model: it has {count} outputs, but the data has {data.classes} classes")
    if not 0 <= label < count:
        raise ValueError(f"model: it has {count} outputs, but the data has the label {label}")
    return count


def example_image(data: Data) -> Tensor:
    """One of the held-out images."""
    image: Tensor = _example(data)[0]
    return image


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the ``state_dict`` of `model` as a ``.safetensors`` file, whole or not at all."""
    state = {name: tensor.cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    write_atomically(path, save(state))


def fingerprint(model: nn.Module) -> str:
    """A hash of names, shapes, types and values of all parameters and buffers of `model`."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def _example(data: Data) -> tuple[Tensor, int]:
    items = (data.held_out[index] for index in range(len(data.held_out)))  # type: ignore[arg-type]
    item = next((item for item in items if not isinstance(item, BrokenImage)), None)
    if item is None:
        raise ValueError("data: none of the held-out images can be read")
    image, label = item
    return image, int(label)


def _torchvision_model(name: str, classes: int | None) -> nn.Module:
    try:
        from torchvision import models
    except ModuleNotFoundError as error:
        raise ImportError(
            f"model: {name!r} would be a name of torchvision's, which is not installed; "
            "pip install torchvision, or give module:function"
        ) from error
    if name not in models.list_models():
        near = difflib.get_close_matches(name, models.list_models(), 3)
        raise ValueError(
            f"model: torchvision has no {name!r}{'; near it: ' if near else ''}{', '.join(near)}"
        )
    options = {} if classes is None else {"num_classes": classes}
    model: nn.Module = models.get_model(name, weights=None, **options)
    return model


def _start_from(model: nn.Module, path: Path) -> None:
    weights = _state_dict_of(path)
    wanted = model.state_dict()
    lacking = sorted(set(wanted) - set(weights))
    foreign = sorted(set(weights) - set(wanted))
    if lacking or foreign:
        parts = [
            f"{text} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            for text, names in (("it lacks", lacking), ("the model has no", foreign))
            if names
        ]
        raise ValueError(f"weights: {path} does not fit the model: {'; '.join(parts)}")
    for name, tensor in wanted.items():
        if weights[name].shape != tensor.shape:
            raise ValueError(
                f"weights: {path} does not fit the model: {name} is {list(weights[name].shape)} in "
                f"the file and {list(tensor.shape)} in the model"
            )
    model.load_state_dict(weights)


def _state_dict_of(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except (EOFError, OSError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"weights: {path} is neither a whole .safetensors file nor a state_dict of torch.save: "
            f"{reason}"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"weights: {path} holds a {type(content).__name__}, expected a state_dict")
    # DistributedDataParallel writes its own prefix.
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}
