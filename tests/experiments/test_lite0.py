# SPDX-License-Identifier: MIT
from __future__ import annotations

import torch
from torch import Tensor, nn

from l1sparse.pruning import conv_layers, unprunable_reason
from lite0 import with_plain_convs


class SelfPadding(nn.Conv2d):
    """As the package's convolutions are: padding comes from a module of their own."""

    def __init__(self, *sizes: int, pads: tuple[int, ...] | None, **options: int) -> None:
        super().__init__(*sizes, **options)
        self.static_padding = nn.Identity() if pads is None else nn.ZeroPad2d(pads)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(self.static_padding(images))


def test_convolutions_that_pad_by_themselves_become_plain_and_compute_the_same() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        SelfPadding(4, 8, 3, stride=2, pads=(0, 1, 0, 1)),
        nn.Sequential(SelfPadding(8, 8, 1, pads=None), nn.Conv2d(8, 4, 3, groups=2)),
    )
    images = torch.randn(2, 4, 9, 9)
    before = model(images)
    assert all("forward of its own" in str(unprunable_reason(model, n)) for n in ("0", "1.0"))
    plain = with_plain_convs(model)
    assert torch.equal(plain(images), before)
    assert list(conv_layers(plain)) == ["0.1", "1.0", "1.1"]
    assert all(unprunable_reason(plain, name) is None for name in conv_layers(plain))
