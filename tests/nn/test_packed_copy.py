# SPDX-License-Identifier: MIT
"""Evaluation sees every change of the weight or the mask, and packs no more often than that."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l1sparse import SparseConv2d, pack, packed_info
from l1sparse.nn import sparse_conv2d as module


@pytest.fixture
def layer() -> SparseConv2d:
    layer = SparseConv2d(12, 10, 3, padding=1)
    layer.mask &= torch.rand(layer.mask.shape) < 0.5
    return layer.eval()


X = torch.randn(1, 12, 8, 8)


def check_is_fresh(layer: SparseConv2d) -> None:
    expected = F.conv2d(X.double(), layer.masked_weight().double(), layer.bias.double(), padding=1)
    torch.testing.assert_close(layer(X).double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(layer.packed_weight(), pack(layer.weight, layer.mask, layer.group))


Make = Callable[[list[Tensor]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1),
    "SGD foreach": lambda p: torch.optim.SGD(p, 0.1, foreach=True),
    "SGD fused": lambda p: torch.optim.SGD(p, 0.1, fused=True),
    "Adam foreach": lambda p: torch.optim.Adam(p, 0.1, foreach=True),
    "Adam fused": lambda p: torch.optim.Adam(p, 0.1, fused=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, 0.1, fused=True),
    "Adagrad fused": lambda p: torch.optim.Adagrad(p, 0.1, fused=True),
    "LBFGS": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_step_in_evaluation_mode_is_seen(layer: SparseConv2d, name: str) -> None:
    optimizer = OPTIMIZERS[name](list(layer.parameters()))

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = layer(X).square().mean()
        value.backward()
        return value

    for _ in range(3):
        before = layer.packed_weight().clone()
        optimizer.step(loss)
        assert not torch.equal(layer.packed_weight(), before)
        check_is_fresh(layer)


def test_a_parameter_put_in_its_place_is_seen_wherever_it_lies_in_memory(
    layer: SparseConv2d,
) -> None:
    for _ in range(50):
        check_is_fresh(layer)
        # The second of the two may be given the memory of the one that was packed.
        layer.weight = nn.Parameter(torch.randn(10, 12, 3, 3))
        layer.weight = nn.Parameter(torch.randn(10, 12, 3, 3))
        check_is_fresh(layer)


def test_a_mask_put_in_its_place_is_seen_wherever_it_lies_in_memory(layer: SparseConv2d) -> None:
    for _ in range(50):
        layer.mask = torch.rand(layer.mask.shape) < 0.5
        layer.mask = torch.rand(layer.mask.shape) < 0.5
        check_is_fresh(layer)


def test_an_edited_mask_is_seen(layer: SparseConv2d) -> None:
    for filter_ in range(10):
        check_is_fresh(layer)
        layer.mask[filter_] = ~layer.mask[filter_]
        check_is_fresh(layer)


def test_a_parameter_shared_with_another_module_is_seen(layer: SparseConv2d) -> None:
    check_is_fresh(layer)
    other = nn.Conv2d(12, 10, 3)
    other.weight = layer.weight
    nn.init.ones_(other.weight)
    check_is_fresh(layer)


def test_an_edit_through_data_is_seen_from_the_next_train_or_eval_on(layer: SparseConv2d) -> None:
    for mode in (True, False):
        check_is_fresh(layer)
        layer.weight.data.mul_(2)
        layer.train(mode).eval()
        check_is_fresh(layer)


@pytest.mark.parametrize("assign", [False, True])
def test_load_state_dict_is_seen(layer: SparseConv2d, assign: bool) -> None:
    check_is_fresh(layer)
    conv = nn.Conv2d(12, 10, 3)
    with torch.no_grad():
        conv.weight[:, :8] = 0
    layer.load_state_dict(conv.state_dict(), assign=assign)
    check_is_fresh(layer)
    assert not layer.mask[:, 0].any()
    assert layer.mask[:, 1].all()


def test_torch_save_keeps_the_mask_and_the_copy_is_independent(layer: SparseConv2d) -> None:
    layer(X)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    copy = torch.load(file, weights_only=False)
    assert torch.equal(copy(X), layer(X))
    assert torch.equal(copy.mask, layer.mask)
    with torch.no_grad():
        copy.weight.mul_(3)
    check_is_fresh(copy)
    check_is_fresh(layer)


def test_weights_made_under_inference_mode_are_packed_at_every_use() -> None:
    with torch.inference_mode():
        layer = SparseConv2d(12, 10, 3, padding=1).eval()
        check_is_fresh(layer)
        layer.weight.mul_(2)
        check_is_fresh(layer)


@pytest.mark.parametrize("trainable", [False, True])
def test_a_weight_packed_under_inference_mode_serves_autograd_later(
    layer: SparseConv2d, trainable: bool
) -> None:
    layer.requires_grad_(trainable)
    with torch.inference_mode():
        layer(X)
    x = X.clone().requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None


def test_an_unchanged_weight_is_packed_once(
    layer: SparseConv2d, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Counted(module.PackedCopy):
        def __init__(self, *args: object) -> None:
            made.append(1)
            super().__init__(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "PackedCopy", Counted)
    for _ in range(3):
        layer(X)
        with torch.no_grad():
            layer(X)
        layer.packed_weight()
    assert len(made) == 1


def test_evaluation_runs_the_native_kernel_and_training_does_not(
    layer: SparseConv2d, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_dense(*_: object) -> None:
        raise AssertionError("the dense convolution ran")

    monkeypatch.setattr(layer, "_conv_forward", no_dense)
    assert layer(X).shape == (1, 10, 8, 8)
    with pytest.raises(AssertionError, match="dense"):
        layer.train()(X)


def test_packed_weight_holds_the_kept_groups_only(layer: SparseConv2d) -> None:
    info = packed_info(layer.packed_weight())
    assert info.kept_groups == int(layer.mask.sum())
    assert info.density == pytest.approx(layer.density)
