# SPDX-License-Identifier: MIT
"""A copy of all that training and pruning change, to go back to."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import chain

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


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(model.named_parameters(), model.named_buffers())
