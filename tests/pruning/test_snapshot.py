# SPDX-License-Identifier: MIT
from __future__ import annotations

import copy

import torch

from l1sparse.pruning.mask import attach, extend
from l1sparse.pruning.snapshot import Snapshot


def test_a_snapshot_restores_the_same_state_again_and_again(trained) -> None:
    model, optimizer = trained.model, trained.optimizer
    companion = attach(model.last, (1, 4))
    model.register_buffer("unsaved", torch.ones(3), persistent=False)
    snapshot = Snapshot(model, [optimizer])
    tensors = [*model.parameters(), *model.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    state = copy.deepcopy(optimizer.state_dict())
    for _ in range(3):
        extend(model.last, torch.rand(companion.mask.shape) < 0.5, optimizer)
        trained.train(model)
        model.unsaved.zero_()
        snapshot.restore()
        now = [*model.parameters(), *model.buffers()]
        assert all(tensor is same for tensor, same in zip(tensors, now, strict=True))
        torch.testing.assert_close(now, before, rtol=0, atol=0)
        torch.testing.assert_close(optimizer.state_dict()["state"], state["state"], rtol=0, atol=0)
