# SPDX-License-Identifier: MIT
"""Two gloo processes: the same masks or an error, the same decisions, one record."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from l1sparse.format import GroupShape
from l1sparse.pruning import (
    Evaluation,
    LayerPlan,
    LayerSensitivity,
    LayerSplit,
    PrunePlan,
    PruneRun,
    measure_sensitivity,
    ranks,
)

PLAN = PrunePlan(
    0.5,
    LayerSplit((LayerSensitivity("1", GroupShape(1, 4), 1.0, (), 0.1),)),
    LayerPlan(sparsity=0.5),
    step=0.4,
    total_rounds=3,
    rounds=1,
)
IMAGES = torch.arange(2 * 8 * 36, dtype=torch.float32).reshape(2, 8, 6, 6).sin()


class Net(nn.Sequential):
    """Three convs that can be pruned, and one that cannot."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, groups=8)
        )


def network() -> Net:
    torch.manual_seed(7)
    return Net()


def share_of_output(model: nn.Module) -> float:
    """Something between 0 and 1 that depends on every weight."""
    with torch.no_grad():
        output: Tensor = model(IMAGES)
    return float(torch.sigmoid(output.sum()))


def sensitivity(model: nn.Module, **others: Any) -> list[dict[str, Any]]:
    def recalibrate(model: nn.Module) -> None:
        with torch.no_grad():
            model[0].bias += 0.01 * torch.randn(8)

    records = measure_sensitivity(
        model, share_of_output, None, (1, 4), recalibrate=recalibrate, **others
    )
    return [record.to_dict() for record in records]


def caught(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def work(rank: int, folder: str) -> None:
    """All that one process does; what it found is written for the tests to read."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),  # of ranks that wait for each other
    )
    found: dict[str, Any] = {}

    mask = torch.ones(3, 3, dtype=torch.bool)
    same, other = mask.clone(), mask.clone()
    other[2, 2] = rank == 0
    found["same masks"] = caught(lambda: ranks.check_same_masks({"a": same}))
    found["other masks"] = caught(lambda: ranks.check_same_masks({"a": same, "b": other}))

    def evaluate(model: nn.Module) -> Evaluation:
        model(IMAGES[rank : rank + 1])
        return Evaluation(0.9 if rank == 0 else 0.1, 0.5)  # rank 1 alone would roll back

    run = PruneRun(network(), evaluate, lambda model: 1.0 + rank, PLAN)
    found["run"] = run.run().to_dict()
    torch.save(run.state_dict(), f"{folder}/run{rank}.pt")

    model = network()
    with torch.no_grad():
        model[1].weight *= 1.0 if rank == 0 else torch.rand(8, 8, 3, 3)
    found["other weights"] = caught(PruneRun(model, evaluate, lambda model: None, PLAN).run)

    plan = PrunePlan(0.5, PLAN.split, strategy="one-shot", target_sparsity=0.2, total_rounds=3)
    diverged = PruneRun(network(), evaluate, lambda model: math.nan if rank else 1.0, plan).run()
    found["diverged"] = [diverged.diverged, diverged.rounds, diverged.ended]
    stopped = PruneRun(
        network(), evaluate, lambda model: None, PLAN, stop=lambda model: rank == 0
    ).run()
    found["stopped"] = stopped.ended

    told: list[str] = []
    model = network()
    found["sensitivity"] = sensitivity(
        model, split_over_ranks=True, on_layer=lambda record: told.append(record.name)
    )
    found["told"] = told
    found["unchanged"] = all(map(torch.equal, model.parameters(), network().parameters()))
    found["together"] = sensitivity(network())

    def fails(model: nn.Module) -> float:
        if rank == 1 and bool((model[1].weight == 0).any()):
            raise OSError("disk gone")
        return 0.5

    found["failed"] = caught(
        lambda: measure_sensitivity(network(), fails, None, (1, 4), split_over_ranks=True)
    )
    Path(f"{folder}/rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(work, args=(str(folder),), nprocs=2)
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_masks_are_compared_and_a_mismatch_is_an_error_on_every_rank(both) -> None:
    for found in both[1]:
        assert found["same masks"] == "nothing"
        assert "masks: rank 1 and rank 0 differ at ['b']" in found["other masks"]


def test_a_prune_on_other_weights_is_an_error_on_every_rank(both) -> None:
    for found in both[1]:
        assert found["other weights"].startswith("RuntimeError: masks: rank 1 and rank 0 differ")
        assert "['1']" in found["other weights"]


def test_ranks_decide_alike_and_have_one_record(both) -> None:
    first, second = (found["run"] for found in both[1])
    assert first == second
    assert first["ranks"] == 2
    assert first["pruned_share"] > 0.2
    assert all(step["accepted"] for step in first["steps"])


def test_activations_of_all_ranks_are_one(both) -> None:
    found = both[1][0]["run"]["activations"]["0"]["input"]
    assert found["count"] == IMAGES.numel()
    assert found["mean"] == pytest.approx(float(IMAGES.mean()), abs=1e-6)
    assert (found["minimum"], found["maximum"]) == (float(IMAGES.min()), float(IMAGES.max()))


def test_a_loss_that_is_not_finite_on_one_rank_stops_all(both) -> None:
    for found in both[1]:
        assert found["diverged"] == [
            True,
            1,
            "stopped: train: expected a finite loss, it returned nan",
        ]


def test_one_rank_may_stop_all(both) -> None:
    assert [found["stopped"] for found in both[1]] == ["stopped by the caller"] * 2


def test_sensitivity_split_over_ranks_is_what_one_process_measures(both) -> None:
    alone = json.loads(json.dumps(sensitivity(network())))
    assert [record["name"] for record in alone] == ["0", "1", "2", "3"]
    assert len({record["sensitivity"] for record in alone}) == 4
    for found in both[1]:
        assert found["sensitivity"] == found["together"] == alone
        assert sorted(found["told"]) == ["0", "1", "2", "3"]
        assert found["unchanged"]


def test_a_rank_that_fails_takes_the_others_along(both) -> None:
    first, second = (found["failed"] for found in both[1])
    assert first == "RuntimeError: sensitivity: rank 1 failed with OSError('disk gone')"
    assert second == "OSError: disk gone"


def test_a_run_of_two_ranks_is_not_resumed_by_one(both) -> None:
    state = torch.load(both[0] / "run0.pt", weights_only=True)
    run = PruneRun(network(), lambda model: 0.9, lambda model: None, PLAN)
    with pytest.raises(ValueError, match=r"ranks: the saved run had 2 processes, this one has 1"):
        run.load_state_dict(state)
