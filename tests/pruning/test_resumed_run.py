# SPDX-License-Identifier: MIT
"""A run that is cut at any checkpoint and goes on elsewhere ends as if nothing had happened."""

from __future__ import annotations

import copy
import io
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l1sparse.format import GroupShape
from l1sparse.pruning import LayerPlan, LayerSensitivity, LayerSplit, PrunePlan, PruneRun
from l1sparse.pruning.callables import Evaluation
from l1sparse.pruning.layers import conv_layers

SPLIT = LayerSplit(
    tuple(LayerSensitivity(n, GroupShape(1, 4), 1.0, (), 0.1) for n in ("middle", "last"))
)
PLANS = {
    "method": PrunePlan(
        0.9, SPLIT, LayerPlan(alpha=9.0), step=0.9, rounds=3, total_rounds=8, retries=1
    ),
    "method to a sparsity": PrunePlan(
        0.97, SPLIT, LayerPlan(alpha=9.0), step=0.4, rounds=2, total_rounds=6, target_sparsity=0.6
    ),
    "above": PrunePlan(0.9, SPLIT, prune="above", step=0.3, rounds=1, total_rounds=4),
    "one-shot": PrunePlan(0.9, SPLIT, strategy="one-shot", target_sparsity=0.7, total_rounds=3),
    "gradual": PrunePlan(
        0.9, SPLIT, LayerPlan(sparsity=0.8), strategy="gradual", total_rounds=5, pruning_rounds=3
    ),
    "global": PrunePlan(
        0.9, SPLIT, strategy="global", target_sparsity=0.7, total_rounds=4, pruning_rounds=2
    ),
}


class Session:
    """One process of a run: a model of its own, what trains it, and the random state."""

    def __init__(self, problem, plan: PrunePlan, model: nn.Module) -> None:
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.97)
        self.problem = type(problem)(model, problem.images, problem.labels, self.optimizer)
        self.saved: list[bytes] = []
        self.run = PruneRun(
            model,
            self.evaluate,
            self.train,
            plan,
            training_state=[self.optimizer, self.scheduler],
            recalibrate=self.recalibrate,
            on_checkpoint=self.save,
        )

    def evaluate(self, model: nn.Module) -> Evaluation:
        # A step that takes too much of this layer fails, however it is trained.
        spoilt = float((model.last.weight == 0).double().mean()) > 0.85
        return Evaluation(0.0 if spoilt else self.problem.evaluate(model), 0.5)

    def train(self, model: nn.Module) -> None:
        self.problem.train(model)
        self.scheduler.step()

    def recalibrate(self, model: nn.Module) -> None:
        model.train()
        with torch.no_grad():
            model(self.problem.images[torch.randperm(256)[:32]])

    def save(self, run: PruneRun) -> None:
        assert run is self.run
        file = io.BytesIO()
        torch.save({"run": run.state_dict(), "random": torch.get_rng_state()}, file)
        self.saved.append(file.getvalue())

    def load(self, saved: bytes) -> None:
        # `weights_only`: nothing in the state needs code to be run.
        state = torch.load(io.BytesIO(saved), weights_only=True)
        self.run.load_state_dict(state["run"])
        torch.set_rng_state(state["random"])

    def outcome(self) -> dict[str, Any]:
        result = self.run.run()
        return {
            "result": json.loads(json.dumps(result.to_dict(), allow_nan=False)),
            "tensors": bits(self.model),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "scheduler": self.scheduler.state_dict(),
            "random": torch.get_rng_state(),
        }


def fresh(problem) -> nn.Module:
    """A network of the same kind with other weights."""
    return type(problem.model)()


def bits(model: nn.Module) -> dict[str, Tensor]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: t.detach().clone().reshape(-1).view(torch.uint8) for name, t in tensors}


def assert_same(first: object, second: object) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", PLANS)
def test_a_run_cut_at_any_checkpoint_ends_bit_for_bit_like_one_that_was_not(trained, name) -> None:
    whole = Session(trained, PLANS[name], trained.model)
    expected = whole.outcome()
    assert expected["result"]["pruned_share"] > 0.2
    rounds = expected["result"]["rounds"]
    assert len(whole.saved) > rounds > 2, "a checkpoint after every round"

    for place, saved in enumerate(whole.saved):
        torch.manual_seed(1000 + place)
        resumed = Session(trained, PLANS[name], fresh(trained))
        resumed.load(saved)
        state, loaded = resumed.run.state_dict(), torch.load(io.BytesIO(saved))["run"]
        for part in ("good", "now"):
            held, given = state.pop(part), loaded.pop(part)
            assert (held is None) == (given is None)
            assert_same(held or {}, given or {})
        assert state == loaded
        found = resumed.outcome()
        assert found["result"] == expected["result"], f"checkpoint {place}"
        assert_same(found["tensors"], expected["tensors"])
        for part in ("optimizer", "scheduler", "random"):
            assert_same(found[part], expected[part])
        assert len(resumed.saved) == len(whole.saved) - place - 1


def test_a_checkpoint_within_a_step_knows_how_many_rounds_it_had(trained) -> None:
    """The cases above must include a step that is neither accepted nor rolled back."""
    session = Session(trained, PLANS["method"], trained.model)
    steps = session.outcome()["result"]["steps"]
    last = [(step["accepted"], step["rounds"]) for step in steps if step["layer"] == "last"]
    assert last[0] == (False, 3), "one is rolled back"
    assert last[1][0], "and comes back with less"
    states = [torch.load(io.BytesIO(s), weights_only=True)["run"] for s in session.saved]
    inside = [state for state in states if state["strategy"]["open"] is not None]
    assert inside
    assert {state["strategy"]["open"]["rounds"] for state in inside} >= {1, 2}
    assert all(state["now"] is not None for state in inside)
    assert any(state["now"] is None for state in states), "the good state is saved once only"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupt_out_of_a_checkpoint_loses_nothing(trained, error) -> None:
    expected = Session(trained, PLANS["method"], copy.deepcopy(trained.model))
    random = torch.get_rng_state()
    outcome = expected.outcome()

    torch.set_rng_state(random)
    cut = Session(trained, PLANS["method"], trained.model)
    save = cut.save

    def interrupted(run: PruneRun) -> None:
        save(run)
        if len(cut.saved) == 4:
            raise error("enough")

    cut.run._on_checkpoint = interrupted
    with pytest.raises(error, match="enough"):
        cut.run.run()

    resumed = Session(trained, PLANS["method"], fresh(trained))
    resumed.load(cut.saved[-1])
    assert resumed.outcome()["result"] == outcome["result"]
    assert_same(bits(resumed.model), outcome["tensors"])


@pytest.mark.parametrize("name", ["method to a sparsity", "gradual"])
def test_a_run_that_was_stopped_goes_on_from_its_last_checkpoint(trained, name) -> None:
    whole = Session(trained, PLANS[name], copy.deepcopy(trained.model))
    random = torch.get_rng_state()
    expected = whole.outcome()
    for turns in (1, 3, len(whole.saved) - 1):
        torch.set_rng_state(random)
        model = copy.deepcopy(trained.model)
        cut = Session(trained, PLANS[name], model)
        cut.run._stop = lambda model, cut=cut, turns=turns: len(cut.saved) >= turns
        assert cut.run.run().ended == "stopped by the caller"
        assert len(cut.saved) == turns, "the roll-back that ends it is not saved"
        resumed = Session(trained, PLANS[name], fresh(trained))
        resumed.load(cut.saved[-1])
        assert_same(resumed.outcome()["tensors"], expected["tensors"])


def test_a_finished_run_stays_finished(trained) -> None:
    session = Session(trained, PLANS["one-shot"], trained.model)
    expected = session.outcome()
    again = Session(trained, PLANS["one-shot"], fresh(trained))
    again.load(session.saved[-1])
    again.train = None  # type: ignore[assignment]
    assert again.outcome()["result"] == expected["result"]
    assert again.problem.rounds == 0


def test_a_resume_with_anything_changed_is_refused(trained) -> None:
    plan = PLANS["method"]
    session = Session(trained, plan, trained.model)
    session.outcome()
    state = session.run.state_dict()

    def resume(plan: PrunePlan = plan, model: nn.Module | None = None, parts: int = 2) -> None:
        other = Session(trained, plan, model or fresh(trained))
        other.run._training_state = other.run._training_state[:parts]
        other.run.load_state_dict(state)

    resume()
    with pytest.raises(ValueError, match=r"plan: layer\.alpha is 2\.0 here and 9\.0 in the saved"):
        resume(PrunePlan(**{**vars(plan), "layer": LayerPlan(alpha=2.0)}))
    with pytest.raises(ValueError, match=r"plan: split\.prune\[0\]\.name is 'last' here and 'mid"):
        resume(PrunePlan(**{**vars(plan), "split": LayerSplit(SPLIT.prune[::-1])}))
    wider = fresh(trained)
    wider.head = nn.Linear(16, 5)
    with pytest.raises(ValueError, match=r"model: 'head\.bias' is \(5.*and \(4"):
        resume(model=wider)
    deeper = fresh(trained)
    deeper.extra = nn.Linear(2, 2, bias=False)
    with pytest.raises(ValueError, match=r"model: 'extra.weight' is \(2, 2\) .* here and absent"):
        resume(model=deeper)
    with pytest.raises(
        ValueError, match=r"training_state: the saved state has 2 parts, this run 1"
    ):
        resume(parts=1)
    state["ranks"] = 2
    with pytest.raises(ValueError, match=r"ranks: the saved run had 2 processes, this one has 1"):
        resume()


def test_before_it_starts_there_is_nothing_to_save(trained) -> None:
    session = Session(trained, PLANS["method"], trained.model)
    with pytest.raises(RuntimeError, match="run: nothing to save yet"):
        session.run.state_dict()
    assert not any(
        hasattr(conv, "parametrizations") for conv in conv_layers(trained.model).values()
    )
