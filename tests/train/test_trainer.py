# SPDX-License-Identifier: MIT
"""Training: what a round does, whatever it is told to use, and that it can stop at any step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from l1sparse.pruning import attach, companion_mask, extend
from l1sparse.pruning.callables import DivergedError
from l1sparse.train import Data, Recipe, Trainer, load_data
from l1sparse.train.batches import BrokenImage

MakeNet = Callable[..., nn.Module]
OPTIMIZERS = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    if name != "Optimizer"
)
# Made for parameters or gradients that a convolution does not have.
UNFIT = {"Muon", "SparseAdam"}
RATES = {"SGD": 0.1, "ASGD": 0.1, "Adadelta": 2.0, "Adagrad": 0.05, "LBFGS": 0.1, "Rprop": 1e-3}


def weights_of(model: nn.Module) -> Tensor:
    return torch.cat([tensor.double().flatten() for tensor in model.state_dict().values()])


def test_training_learns_and_measures(squares: Data, make_net: MakeNet) -> None:
    trainer = Trainer(make_net(), squares, Recipe(learning_rate=0.2, batch_size=16))
    before = trainer.evaluate(trainer.model)
    losses = [trainer.train_round() for _ in range(6)]
    after = trainer.evaluate(trainer.model)
    assert trainer.steps == 6 * 6
    assert losses[-1] < losses[0] / 2
    assert after.accuracy > 0.9 > before.accuracy
    model = trainer.model.eval()
    images = torch.stack([image for image, _ in squares.held_out])
    labels = torch.stack([label for _, label in squares.held_out])
    with torch.no_grad():
        outputs = model(images)
    assert after.accuracy == pytest.approx(float((outputs.argmax(1) == labels).double().mean()))
    assert after.loss == pytest.approx(float(nn.functional.cross_entropy(outputs, labels)), 1e-5)


def prune_half(model: nn.Module) -> nn.Conv2d:
    conv = model[3]
    attach(conv, "1x4")
    mask = torch.ones(16, 2, 3, 3, dtype=torch.bool)
    mask[::2] = False
    extend(conv, mask)
    return conv


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in UNFIT])
def test_pruned_weights_stay_zero_at_every_step_of_every_optimizer(
    squares: Data, make_net: MakeNet, name: str
) -> None:
    model = make_net()
    conv = prune_half(model)
    pruned = ~companion_mask(conv).weight_mask()
    zeros = []
    trainer = Trainer(
        model,
        squares,
        Recipe(optimizer=name, learning_rate=RATES.get(name, 0.01), batch_size=32),
        on_step=lambda: zeros.append(conv.weight[pruned].detach().clone()),
    )
    kept = conv.weight[~pruned].detach().clone()
    losses = [trainer.train_round() for _ in range(4)]
    assert len(zeros) == 12
    assert all(not values.view(torch.int32).any() for values in zeros)  # +0.0, bit for bit
    assert not torch.equal(conv.weight[~pruned], kept)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", sorted(UNFIT & set(OPTIMIZERS)))
def test_an_optimizer_that_does_not_fit_says_so(
    squares: Data, make_net: MakeNet, name: str
) -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"2D parameters|dense gradients"):
        Trainer(make_net(), squares, Recipe(optimizer=name, batch_size=32)).train_round()


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("stop_after", [1, 5, 6, 7])
def test_a_run_that_stopped_at_any_step_goes_on_bit_for_bit(
    idx_folder: Path, make_net: MakeNet, stop_after: int
) -> None:
    recipe = Recipe(
        batch_size=40,  # 6 steps in an epoch
        learning_rate=0.1,
        optimizer_options={"momentum": 0.9},
        scheduler="CosineAnnealingLR",
        accumulate=2,
    )
    start = nn.Sequential(make_net(), nn.Dropout(0.2))  # a layer that draws random numbers

    def trainer_of(model: nn.Module, on_step: Callable[[], object] | None = None) -> Trainer:
        return Trainer(model, load_data(str(idx_folder)), recipe, rounds=2, on_step=on_step)

    torch.manual_seed(1)
    whole = trainer_of(copy.deepcopy(start))
    expected = [whole.train_round(), whole.train_round()]

    saved: list[object] = []

    def stop() -> None:
        if trainer.steps == stop_after:
            states = [part.state_dict() for part in trainer.training_state]
            saved.append(copy.deepcopy((trainer.model.state_dict(), trainer.state_dict(), states)))
            raise StoppedError

    torch.manual_seed(1)
    trainer = trainer_of(copy.deepcopy(start), stop)
    losses = []
    with pytest.raises(StoppedError):
        losses = [trainer.train_round() for _ in range(2)]
    torch.manual_seed(99)
    resumed = trainer_of(copy.deepcopy(start))
    model_state, position, states = saved[0]
    resumed.model.load_state_dict(model_state)
    for part, state in zip(resumed.training_state, states, strict=True):
        part.load_state_dict(state)
    resumed.load_state_dict(position)
    losses = [resumed.train_round() for _ in range(2 if stop_after <= 6 else 1)]
    assert torch.equal(weights_of(resumed.model), weights_of(whole.model))
    assert losses == expected[-len(losses) :]


def test_accumulated_steps_are_the_steps_of_the_whole_batch(
    squares: Data, make_net: MakeNet
) -> None:
    torch.manual_seed(0)
    model = make_net(norm=False)
    weights = []
    for accumulate in (1, 3):
        trainer = Trainer(
            copy.deepcopy(model),
            squares,
            Recipe(batch_size=32, accumulate=accumulate, learning_rate=0.05),
        )
        trainer.train_round()
        weights.append(weights_of(trainer.model))
    assert not torch.allclose(weights[0], weights_of(model))
    torch.testing.assert_close(weights[0], weights[1], atol=1e-6, rtol=1e-5)


def test_a_round_may_be_so_many_steps(squares: Data, make_net: MakeNet) -> None:
    whole = Trainer(make_net(), squares, Recipe(batch_size=32))
    parts = Trainer(copy.deepcopy(whole.model), squares, Recipe(batch_size=32, steps_per_round=2))
    for _ in range(2):
        whole.train_round()
    for _ in range(3):
        parts.train_round()
    assert torch.equal(weights_of(whole.model), weights_of(parts.model))


def test_a_scheduler_steps_with_each_step_or_each_round(squares: Data, make_net: MakeNet) -> None:
    options = {"scheduler": "StepLR", "scheduler_options": {"step_size": 1, "gamma": 0.5}}
    for every, expected in (("step", 0.01 * 0.5**6), ("round", 0.01 * 0.5**2)):
        recipe = Recipe(batch_size=32, scheduler_every=every, **options)
        trainer = Trainer(make_net(), squares, recipe, rounds=2)
        for _ in range(2):
            trainer.train_round()
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_a_scheduler_that_looks_at_the_loss_gets_that_of_the_round(
    squares: Data, make_net: MakeNet
) -> None:
    recipe = Recipe(
        batch_size=32,
        scheduler="ReduceLROnPlateau",
        scheduler_options={"patience": 0, "threshold": 10.0, "threshold_mode": "abs"},
        scheduler_every="round",
    )
    trainer = Trainer(make_net(), squares, recipe)
    losses = [trainer.train_round() for _ in range(2)]
    assert trainer.scheduler is not None
    assert trainer.scheduler.state_dict()["best"] == losses[0]
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.001), "no loss falls by 10"


def test_distillation_draws_towards_the_teacher(squares: Data, make_net: MakeNet) -> None:
    torch.manual_seed(0)
    teacher = make_net().eval()
    images = torch.stack([image for image, _ in squares.held_out])
    distances = []
    for distillation in (0.0, 1.0):
        torch.manual_seed(1)
        trainer = Trainer(
            make_net(),
            squares,
            Recipe(batch_size=32, learning_rate=0.1, distillation=distillation, temperature=2.0),
            teacher=teacher,
        )
        for _ in range(8):
            trainer.train_round()
        model = trainer.model.eval()
        with torch.no_grad():
            distances.append(float((model(images).softmax(1) - teacher(images).softmax(1)).norm()))
    assert distances[1] < distances[0] / 3


def test_distillation_without_a_teacher_is_an_error(squares: Data, make_net: MakeNet) -> None:
    with pytest.raises(ValueError, match=r"distillation: 0\.5 needs a teacher"):
        Trainer(make_net(), squares, Recipe(distillation=0.5))


def test_channels_last_and_bfloat16_are_used(squares: Data, make_net: MakeNet) -> None:
    model = nn.Sequential(*make_net(), nn.Identity())
    seen: list[tuple[bool, torch.dtype]] = []

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        last = inputs[0].is_contiguous(memory_format=torch.channels_last)
        seen.append((last, output.dtype))

    model[3].register_forward_hook(note)
    recipe = Recipe(batch_size=32, channels_last=True, mixed_precision="bf16", learning_rate=0.1)
    trainer = Trainer(model, squares, recipe)
    assert model[3].weight.is_contiguous(memory_format=torch.channels_last)
    losses = [trainer.train_round() for _ in range(4)]
    assert set(seen) == {(True, torch.bfloat16)}
    assert model[3].weight.dtype == torch.float32
    assert losses[-1] < losses[0]
    # A copy of the released model is a model of its own.
    copied = copy.deepcopy(trainer.released_model())
    with torch.no_grad():
        copied[-2].weight.zero_(), copied[-2].bias.zero_()
    assert not copied(torch.randn(2, 1, 12, 12)).any()


def test_recalibration_averages_over_training_images(squares: Data, make_net: MakeNet) -> None:
    trainer = Trainer(make_net(), squares, Recipe(batch_size=10))
    norm = trainer.model[1]
    trainer.recalibrate()
    images = torch.stack([image for image, _ in squares.train])
    outputs = trainer.model[0](images).detach()
    assert norm.momentum == 0.1
    assert trainer.model.training
    mean, deviation = outputs.mean((0, 2, 3)), outputs.std((0, 2, 3))
    assert float(((norm.running_mean - mean) / deviation).abs().max()) < 0.05
    first = norm.running_var.clone()
    torch.manual_seed(5)
    trainer.recalibrate()
    assert torch.equal(norm.running_var, first)


def test_a_loss_that_is_not_finite_stops_the_round(squares: Data, make_net: MakeNet) -> None:
    trainer = Trainer(make_net(norm=False), squares, Recipe(batch_size=16, learning_rate=1e30))
    with pytest.raises(
        DivergedError, match=r"the loss is \S+ at step \d+ \(learning rate 1e\+30\)"
    ):
        trainer.train_round()
    assert trainer.steps < 6


class WithBroken(Dataset[object]):
    def __init__(self, data: Dataset[object], broken: set[int]) -> None:
        self._data, self._broken = data, broken

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> object:
        if index in self._broken:
            return BrokenImage(Path(f"{index}.jpg"), "OSError: truncated")
        return self._data[index]


@pytest.fixture
def with_broken(squares: Data) -> Data:
    return Data(WithBroken(squares.train, {3}), WithBroken(squares.held_out, {5, 6}), 4)


def test_a_broken_image_is_an_error_that_names_it(with_broken: Data, make_net: MakeNet) -> None:
    trainer = Trainer(make_net(), with_broken, Recipe(batch_size=32))
    with pytest.raises(ValueError, match=r"3.jpg: cannot .* truncated.*; --skip-broken leaves"):
        trainer.train_round()
    with pytest.raises(ValueError, match=r"5.jpg: cannot be read as an image"):
        trainer.evaluate(trainer.model)


def test_broken_images_are_left_out_if_asked(
    with_broken: Data, make_net: MakeNet, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(make_net(), with_broken, Recipe(batch_size=32), skip_broken=True)
    trainer.train_round()
    trainer.train_round()
    accuracy = trainer.evaluate(trainer.model).accuracy
    assert accuracy * 48 == pytest.approx(round(accuracy * 48))
    told = capsys.readouterr().err.splitlines()
    names = sorted(line.split(":")[1].strip() for line in told if line.startswith("left out"))
    assert names == ["3.jpg", "5.jpg", "6.jpg"]  # each once


def test_a_batch_of_broken_images_only_is_an_error(squares: Data, make_net: MakeNet) -> None:
    broken = WithBroken(squares.train, set(range(96)))
    trainer = Trainer(make_net(), Data(broken, squares.held_out), skip_broken=True)
    with pytest.raises(ValueError, match="no image of its batch can be read"):
        trainer.train_round()


def test_another_number_of_processes_is_an_error(squares: Data, make_net: MakeNet) -> None:
    trainer = Trainer(make_net(), squares, Recipe(batch_size=32))
    state = trainer.state_dict()
    state["random"] = state["random"] * 2
    with pytest.raises(ValueError, match=r"resume: the run was begun with 2 processes, now .* 1"):
        trainer.load_state_dict(state)


@pytest.fixture
def lines_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("l1sparse.train.progress._LINE_SECONDS", 0.0)
    return


@pytest.mark.usefixtures("lines_only")
def test_progress_is_plain_lines_where_there_is_no_terminal(
    squares: Data, make_net: MakeNet, capsys: pytest.CaptureFixture[str]
) -> None:
    Trainer(make_net(), squares, Recipe(batch_size=32)).train_round()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("training, round 1: 1 of 3, 00:")
    assert lines[-1] == "training, round 1: 3 of 3, 00:00 left"
    assert "\r" not in "".join(lines)
