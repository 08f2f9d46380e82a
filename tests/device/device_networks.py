# SPDX-License-Identifier: MIT
"""Networks that tests name on the command line."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import l1sparse
from l1sparse.train import DigitsNet


def digits() -> DigitsNet:
    return DigitsNet((8, 16, 16))


class Mixed(nn.Module):
    """Small, with layers of ours and of XNNPACK's in turn."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dense = nn.Conv2d(1, 8, 3, padding=1)
        self.sparse = l1sparse.SparseConv2d(8, 16, 3, padding=1, activation="relu")
        self.residual = l1sparse.SparseConv2d(16, 16, 3, padding=1, activation="relu6")
        self.clamped = l1sparse.SparseConv2d(16, 10, 1, activation="clamp", clamp=(-0.25, 0.5))
        for layer in (self.sparse, self.residual, self.clamped):
            layer.mask = torch.rand(layer.mask.shape) < 0.6
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.sparse(torch.relu(self.dense(x)))
        x = self.residual(x, x)
        return self.clamped(torch.sigmoid(x)).mean((2, 3))
