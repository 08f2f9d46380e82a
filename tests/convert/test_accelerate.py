# SPDX-License-Identifier: MIT
"""`accelerate` on networks of unusual build, and the records of what it chose."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import l1sparse
from l1sparse import SparseConv2d
from l1sparse.convert import Timing
from l1sparse.pruning import attach, companion_mask, extend


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the measurement says, sparse faster at first; each candidate still runs once."""
    medians = {"dense": 2.0, "sparse": 1.0}

    def alternate(
        candidates: dict[str, Callable[[], object]], rounds: int = 0
    ) -> dict[str, Timing]:
        for call in candidates.values():
            call()
        return {name: Timing(medians.get(name, 5.0), 0.0, 9.0) for name in candidates}

    monkeypatch.setattr(sys.modules["l1sparse.convert.accelerate"], "alternate", alternate)
    return medians


class Net(nn.Module):
    """A stem and a body; subclasses say how the two are used."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)
        with torch.no_grad():
            self.body.weight[:, :8] = 0
            self.body.weight[::2, 8:] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.body(self.stem(x)))


class CalledByKeyword(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.body(input=self.stem(input=x)))


class TwiceAtTwoSizes(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        small = self.body(F.max_pool2d(x, 2))
        return self.norm(self.body(x)) + F.interpolate(small, scale_factor=2.0)


class ReluAndSomethingElse(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x))
        return x.relu() + x


class NormAndSomethingElse(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x))
        return self.norm(x) + x


class InPlaceRelu(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.body(self.stem(x).relu_())), inplace=True)


class TwoNames(Net):
    def __init__(self) -> None:
        super().__init__()
        self.again = self.body

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.body(self.stem(x)).relu()).relu()


class TwoResults(Net):
    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        return {"body": self.body(x), "stem": x}


ODD_NETS = [CalledByKeyword, TwiceAtTwoSizes, ReluAndSomethingElse, NormAndSomethingElse]
ODD_NETS += [InPlaceRelu, TwoNames, TwoResults]


def sparse_names(model: nn.Module) -> set[str]:
    return {name for name, m in model.named_modules() if isinstance(m, SparseConv2d)}


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("kind", ODD_NETS)
def test_a_network_of_unusual_build_gives_the_same_outputs(kind: type[Net]) -> None:
    net, x = kind().eval(), torch.randn(2, 3, 8, 8)
    fast = l1sparse.accelerate(net, x)
    assert "body" in sparse_names(fast)
    torch.testing.assert_close(fast(x), net(x), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("measured")
def test_a_relu_is_fused_only_where_nothing_else_reads_its_input() -> None:
    x = torch.randn(1, 3, 8, 8)
    fused = l1sparse.accelerate(InPlaceRelu(), x)
    assert fused.get_submodule("body").activation == "relu"
    assert not [node for node in fused.graph.nodes if node.target is F.relu]
    kept = l1sparse.accelerate(ReluAndSomethingElse(), x)
    assert kept.get_submodule("body").activation == "none"


def test_the_choices_are_recorded_in_order_and_become_json(measured: dict[str, float]) -> None:
    fast = l1sparse.accelerate(InPlaceRelu(), torch.randn(1, 3, 8, 8), (2, 8))
    choices = [choice.to_dict() for choice in l1sparse.layer_choices(fast)]
    assert json.loads(json.dumps(choices)) == choices
    not_pruned = {"name": "stem", "group": "2x8", "density": 1.0, "choice": "dense"}
    times = {"dense_ms": measured["dense"], "sparse_ms": None}
    assert choices[0] == {**not_pruned, **times, "reason": "nothing is pruned"}
    assert choices[1] == {
        "name": "body",
        "group": "2x8",
        "density": 0.5,  # where one filter of a pair is kept, both are
        "dense_ms": measured["dense"],
        "sparse_ms": measured["sparse"],
        "choice": "sparse",
        "reason": "measured faster",
    }


def test_a_tie_leaves_the_convolution_dense(measured: dict[str, float]) -> None:
    measured["sparse"] = measured["dense"]
    net, x = Net().eval(), torch.randn(1, 3, 8, 8)
    fast = l1sparse.accelerate(net, x)
    assert not sparse_names(fast)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())
    torch.testing.assert_close(fast(x), net(x), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("measured")
def test_group_shapes_can_be_given_by_layer_name() -> None:
    x = torch.randn(1, 3, 8, 8)
    fast = l1sparse.accelerate(Net(), x, {"body": "1x4"})
    assert [choice.group for choice in l1sparse.layer_choices(fast)] == ["1x8", "1x4"]
    with pytest.raises(ValueError, match=r"^group: expected a pair"):
        l1sparse.accelerate(Net(), x, {"body": 8})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"^group: .*at least 1, got 0"):
        l1sparse.accelerate(Net(), x, (1, 0))


@pytest.mark.usefixtures("measured")
def test_companion_masks_stay_on_the_original_which_still_trains() -> None:
    net, x = Net(), torch.randn(2, 3, 8, 8)
    companion = attach(net.body, (2, 4))
    extend(net.body, torch.rand(companion.mask.shape) < 0.5)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fast = l1sparse.accelerate(net, x, (1, 8))
    assert l1sparse.layer_choices(fast)[1].group == "2x4"
    torch.testing.assert_close(fast(x), net.eval()(x), rtol=0, atol=1e-4)
    assert companion_mask(net.body) is companion
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    net.train()(x).sum().backward()
    assert net.body.parametrizations.weight.original.grad is not None


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.mark.usefixtures("measured")
def test_any_other_parametrization_becomes_part_of_the_copys_weight_only() -> None:
    net, x = Net().eval(), torch.randn(1, 3, 8, 8)
    parametrize.register_parametrization(net.body, "weight", Doubled())
    before = net(x)
    fast = l1sparse.accelerate(net, x)
    torch.testing.assert_close(fast(x), before, rtol=0, atol=1e-4)
    assert parametrize.is_parametrized(net.body, "weight")
    assert torch.equal(net(x), before)


@pytest.mark.usefixtures("measured")
def test_a_sparse_layer_with_an_activation_of_its_own_keeps_it() -> None:
    net = nn.Sequential(SparseConv2d(3, 8, 3, group=(1, 2), activation="relu"), nn.Conv2d(8, 4, 1))
    x = torch.randn(1, 3, 6, 6)
    fast = l1sparse.accelerate(net, x)
    torch.testing.assert_close(fast(x), net.eval()(x), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_of_16_bits_runs_on_the_kernels_and_from_a_file(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    net, x = Net().to(dtype).eval(), torch.randn(2, 3, 8, 8).to(dtype)
    expected = net.float()(x.float())
    net.to(dtype)
    fast = l1sparse.accelerate(net, x)
    assert sparse_names(fast) == {"body"}
    with torch.no_grad():
        output = fast(x)
        assert output.dtype == dtype
        # Batch norm is folded into weights of this type, so they are rounded once more.
        rounding = 8 * torch.finfo(dtype).eps * float(expected.abs().max())
        torch.testing.assert_close(output.float(), expected, atol=rounding, rtol=0)
        l1sparse.save(fast, tmp_path / "fast.safetensors")
        loaded = l1sparse.load(tmp_path / "fast.safetensors", Net().to(dtype))
        assert torch.equal(loaded(x), output)


@pytest.mark.usefixtures("measured")
def test_other_dtypes_stay_dense() -> None:
    net, x = Net().double().eval(), torch.randn(2, 3, 8, 8).double()
    fast = l1sparse.accelerate(net, x)
    assert sparse_names(fast) == set()
    assert "no kernels for float64 on cpu" in fast.explain()
    torch.testing.assert_close(fast(x), net(x))


@pytest.mark.usefixtures("measured")
def test_the_copy_shares_no_memory_with_the_original() -> None:
    net, x = Net().eval(), torch.randn(1, 3, 8, 8)
    fast = l1sparse.accelerate(net, x)
    before = fast(x)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.zero_()
    assert torch.equal(fast(x), before)


@pytest.mark.usefixtures("measured")
def test_the_copy_is_for_evaluation_whatever_the_original_was_doing() -> None:
    net, x = Net().train(), torch.randn(4, 3, 8, 8)
    fast = l1sparse.accelerate(net, x)
    assert not any(module.training for module in fast.modules())
    assert all(module.training for module in net.modules())


def test_with_real_timing_the_choice_agrees_with_the_recorded_times() -> None:
    net, x = Net().eval(), torch.randn(1, 3, 16, 16)
    choice = l1sparse.layer_choices(l1sparse.accelerate(net, x))[1]
    assert choice.dense_ms is not None
    assert choice.sparse_ms is not None
    assert (choice.choice == "sparse") == (choice.sparse_ms < choice.dense_ms)


@pytest.mark.parametrize("method", ["l1_unstructured", "random_structured"])
def test_masks_of_torchs_own_pruning_become_zeros(measured: dict[str, float], method: str) -> None:
    net, x = Net().eval(), torch.randn(1, 3, 8, 8)
    arguments = {"dim": 1} if method == "random_structured" else {}
    getattr(prune, method)(net.body, "weight", 0.25, **arguments)
    prune.random_unstructured(net.stem, "bias", 0.5)
    expected = net(x).detach()
    fast = l1sparse.accelerate(net, x)
    torch.testing.assert_close(fast(x), expected)
    assert isinstance(fast.get_submodule("body"), SparseConv2d)
    assert prune.is_pruned(net), "the original keeps its hooks"
    torch.testing.assert_close(net(x), expected, rtol=0, atol=0)
