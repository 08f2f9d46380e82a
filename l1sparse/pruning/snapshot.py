# SPDX-License-Identifier: MIT
"""A copy of all that training and pruning change, to go back to."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from l1sparse.pruning.callables import TrainingState


class Snapshot:
    """The state of a model, companion masks included, and of the objects that train it.

    Parameters and buffers are copied (non-persistent buffers too, which a ``state_dict`` lacks),
    on their own devices. Restoring writes them back bit for bit and in place, so optimizers and
    parametrizations go on referring to the same tensors.
    """

    def __init__(self, model: nn.Module, training_state: Sequence[TrainingState] = ()) -> None:
        self._model = model
        self._training_state = tuple(training_state)
        self._tensors = {name: tensor.detach().clone() for name, tensor in _tensors(model)}
        # state_dict() hands out the live tensors; without a copy they would train on.
        self._states = [copy.deepcopy(part.state_dict()) for part in self._training_state]

    def restore(self) -> None:
        """Bring the model and the training state back to what they were."""
        with torch.no_grad():
            for name, tensor in _tensors(self._model):
                tensor.copy_(self._tensors[name])
        for part, state in zip(self._training_state, self._states, strict=True):
            part.load_state_dict(copy.deepcopy(state))

    def state_dict(self) -> dict[str, Any]:
        """What is held: ``tensors`` by name, and the states of what trains, in order."""
        return {"tensors": dict(self._tensors), "training": copy.deepcopy(self._states)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold what another snapshot held; the model itself changes upon `restore` only.

        Raises:
            ValueError: if the tensors are not those of this model by name, shape and dtype, or
                there are more or fewer training states.
        """
        saved: dict[str, Tensor] = state["tensors"]
        for name in sorted(self._tensors.keys() | saved.keys()):
            here, there = (_kind(tensors.get(name)) for tensors in (self._tensors, saved))
            if here != there:
                raise ValueError(
                    f"model: {name!r} is {here} here and {there} in the saved state; resume with "
                    "the model that was saved"
                )
        if len(state["training"]) != len(self._training_state):
            raise ValueError(
                f"training_state: the saved state has {len(state['training'])} parts, this run "
                f"{len(self._training_state)}; resume with the same optimizers and schedulers"
            )
        self._tensors = {
            name: saved[name].detach().to(tensor.device, copy=True)
            for name, tensor in self._tensors.items()
        }
        self._states = copy.deepcopy(state["training"])


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(model.named_parameters(), model.named_buffers())


def _kind(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"{tuple(tensor.shape)} of {tensor.dtype}"
