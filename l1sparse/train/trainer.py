# SPDX-License-Identifier: MIT
"""Training and measuring, carried by Hugging Face `accelerate`, on one device or many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from l1sparse.pruning.callables import DivergedError, Evaluation, TrainingState
from l1sparse.train.batches import Batch, FixedBatches, TrainingBatches, loader
from l1sparse.train.data import Data
from l1sparse.train.models import example_image
from l1sparse.train.progress import say, tracked
from l1sparse.train.random_state import random_state, restore_random_state
from l1sparse.train.recipe import Recipe, loss_of, make_optimizer, make_scheduler

_CALIBRATION_BATCHES = 10
# With a GPU or other ranks, looking at the loss makes all of them wait; so not at every step.
_STEPS_BETWEEN_LOOKS = 20


class Trainer:
    """Trains and measures one image classifier, on as many processes as `accelerate` was told.

    A run can stop after any step and go on from `state_dict` bit for bit: which images a step
    takes and how they are changed follows from the seed and the number of the step alone.

    Args:
        model: trained in place; moved to this process's device.
        data: to train and to measure with.
        recipe: the settings.
        rounds: how many rounds will be trained, for schedulers that need to know; None: unknown.
        teacher: the dense network, for distillation.
        on_step: called after each step of the optimizer, on every rank.
        skip_broken: whether images that cannot be read are left out; False: they are an error.
        cpu: use no GPU.

    Attributes:
        model: as given.
        on_step: as given.
        optimizer: trains `model`.
        scheduler: of its learning rate, or None.

    Raises:
        ValueError: if the recipe does not fit torch, the data or the number of processes; later,
            if a label is none of the data's classes (where it knows them).
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        recipe: Recipe | None = None,
        *,
        rounds: int | None = None,
        teacher: nn.Module | None = None,
        on_step: Callable[[], object] | None = None,
        skip_broken: bool = False,
        cpu: bool = False,
    ) -> None:
        self._recipe = recipe = recipe or Recipe()
        if recipe.distillation and teacher is None:
            raise ValueError(f"distillation: {recipe.distillation} needs a teacher")
        self._accelerator = Accelerator(mixed_precision=recipe.mixed_precision, cpu=cpu)
        self._data, self.on_step, self._skip_broken = data, on_step, skip_broken
        self._batches = TrainingBatches(
            len(data.train),  # type: ignore[arg-type]
            recipe.batch_size,
            recipe.seed,
            self._accelerator.process_index,
            self._accelerator.num_processes,
        )
        self._loader = self._loader_of(data.train, self._batches)
        self._steps_per_round = recipe.steps_per_round or self._batches.steps_per_epoch
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model
        self.optimizer = make_optimizer(recipe, model.parameters())
        units = self._steps_per_round if recipe.scheduler_every == "step" else 1
        self.scheduler = make_scheduler(
            recipe, self.optimizer, None if rounds is None else rounds * units
        )
        self._wrapped, self._optimizer = self._accelerator.prepare(model, self.optimizer)
        self._teacher = None if not recipe.distillation else teacher
        if self._teacher is not None:
            self._teacher.to(self.device).eval().requires_grad_(False)
        self._step = 0
        self._round_end: int | None = None  # of the round that is being trained
        self._loss_sum = 0.0  # of its steps
        self._rounds = rounds
        self._told: set[str] = set()

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device: torch.device = self._accelerator.device
        return device

    @property
    def rank(self) -> int:
        """Of this process, from 0."""
        return int(self._accelerator.process_index)

    @property
    def ranks(self) -> int:
        """Number of processes."""
        return int(self._accelerator.num_processes)

    @property
    def training_state(self) -> list[TrainingState]:
        """What goes back with the model when pruning rolls a step back."""
        return [self.optimizer] if self.scheduler is None else [self.optimizer, self.scheduler]

    @property
    def steps(self) -> int:
        """Steps of the optimizer so far."""
        return self._step

    def example_batch(self) -> Tensor | None:
        """Zeros of the shape that the network gets in training, where that is all float32 on a CPU.

        None on a GPU, in mixed precision and with several processes.
        """
        plain = self._recipe.mixed_precision == "no" and self.ranks == 1
        if not plain or self.device.type != "cpu":
            return None
        share = -(-self._recipe.batch_size // self._recipe.accumulate)
        images = torch.zeros(share, *example_image(self._data).shape)
        if self._recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def agree(self, number: int) -> int:
        """The largest `number` of all ranks; every rank has to ask."""
        if self.ranks == 1:
            return number
        votes = self._accelerator.gather(torch.tensor([number], device=self.device))
        return int(votes.max())

    def train_round(self) -> float:
        """One round of training, or what was left of the one that was interrupted.

        Returns:
            Mean loss of this rank's images.

        Raises:
            DivergedError: if the loss is not finite.
            ValueError: if an image cannot be read and `skip_broken` is False.
        """
        if self._round_end is None:
            self._round_end, self._loss_sum = self._step + self._steps_per_round, 0.0
        self._batches.steps = range(self._step, self._round_end)
        unseen = torch.zeros((), device=self.device)
        for images, labels in self._usable(self._loader, self._round_in_words()):
            self._wrapped.train()  # each time: on_step may have measured
            unseen += self._train_step(images, labels)
            self._step += 1
            if self._is_time_to_look():
                self._loss_sum += self._checked(unseen)
                unseen.zero_()
            if self.on_step is not None:
                self.on_step()
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(self._mean_of_ranks(self._loss_sum / self._steps_per_round))
        elif self.scheduler is not None and self._recipe.scheduler_every == "round":
            self.scheduler.step()
        self._share_buffers()
        self._round_end = None
        return self._loss_sum / self._steps_per_round

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Top-1 accuracy and mean cross entropy of `model` on the held-out images."""
        was_training = model.training
        model.eval()
        images = len(self._data.held_out)  # type: ignore[arg-type]
        mine = range(self.rank, images, self.ranks)
        sums = torch.zeros(3, dtype=torch.float64)
        batches = FixedBatches(mine, self._recipe.batch_size)
        with torch.inference_mode():
            for pixels, labels in self._usable(
                self._loader_of(self._data.held_out, batches), "measuring"
            ):
                outputs = model(pixels).float()
                loss = F.cross_entropy(outputs, labels, reduction="sum")
                right = (outputs.argmax(1) == labels).sum()
                sums += torch.tensor([float(right), float(loss), len(labels)], dtype=torch.float64)
        model.train(was_training)
        if self.ranks > 1:
            sums = self._accelerator.gather(sums[None].to(self.device)).sum(0)
        right, loss, count = sums.tolist()
        return Evaluation(right / count, loss / count)

    def recalibrate(self, model: nn.Module | None = None) -> None:
        """Estimate the statistics of batch norm anew, from forward passes over training images."""
        model = self.model if model is None else model
        norms = [part for part in model.modules() if isinstance(part, _BatchNorm)]
        if not norms:
            return
        was_training, momenta = model.training, [norm.momentum for norm in norms]
        model.eval()
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over the pass
        generator = torch.Generator().manual_seed(self._recipe.seed)
        order = torch.randperm(len(self._data.train), generator=generator).tolist()  # type: ignore[arg-type]
        chosen = order[: _CALIBRATION_BATCHES * self._recipe.batch_size]
        batches = FixedBatches(chosen, self._recipe.batch_size)
        with torch.no_grad():
            for images, _ in self._usable(
                self._loader_of(self._data.train, batches), "batch norm's statistics"
            ):
                model(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(was_training)
        self._share_buffers()

    def state_dict(self) -> dict[str, Any]:
        """All that training changes besides the model and `training_state`.

        Every rank has to ask.
        """
        scaler = self._accelerator.scaler
        return {
            "step": self._step,
            "round_end": self._round_end,
            "loss_sum": gather_object([self._loss_sum]),
            "scaler": None if scaler is None else scaler.state_dict(),
            "random": gather_object([random_state(self.device)]),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state that `state_dict` gave.

        Raises:
            ValueError: if it is from another number of processes.
        """
        if len(state["random"]) != self.ranks:
            raise ValueError(
                f"resume: the run was begun with {len(state['random'])} processes, now there are "
                f"{self.ranks}; start as many"
            )
        self._step, self._round_end = state["step"], state["round_end"]
        self._loss_sum = state["loss_sum"][self.rank]
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        restore_random_state(state["random"][self.rank], self.device)

    def released_model(self) -> nn.Module:
        """The model as it was given, without what `accelerate` wrapped around its ``forward``."""
        model: nn.Module = self._accelerator.unwrap_model(self._wrapped, keep_fp32_wrapper=False)
        return model

    def close(self) -> None:
        """Leave the group of processes; nothing may be trained or measured afterwards."""
        self._accelerator.end_training()

    def _train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        losses: list[Tensor] = []
        pieces = list(
            zip(
                images.chunk(self._recipe.accumulate),
                labels.chunk(self._recipe.accumulate),
                strict=True,
            )
        )

        def gradients() -> Tensor:
            self._optimizer.zero_grad()
            total = torch.zeros((), device=self.device)
            for number, (pixels, targets) in enumerate(pieces, 1):
                last = number == len(pieces)  # ranks exchange gradients once a step
                with nullcontext() if last else self._accelerator.no_sync(self._wrapped):
                    loss = loss_of(
                        self._recipe, self._wrapped(pixels), targets, self._teach(pixels)
                    )
                    loss = loss * (len(pixels) / len(images))
                    self._accelerator.backward(loss)
                total += loss.detach()
            losses.append(total)
            return total

        if isinstance(self.optimizer, torch.optim.LBFGS):
            self._optimizer.step(gradients)
        else:
            gradients()
            self._optimizer.step()
        if self.scheduler is not None and self._recipe.scheduler_every == "step":
            self.scheduler.step()
        return losses[-1]

    def _teach(self, images: Tensor) -> Tensor | None:
        if self._teacher is None:
            return None
        with torch.no_grad(), self._accelerator.autocast():
            return self._teacher(images).float()  # type: ignore[no-any-return]

    def _usable(self, batches: Any, description: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels on the device; images that could not be read are handled."""
        items = batches if self.rank else tracked(batches, description, len(batches))
        batch: Batch
        for batch in items:
            for broken in batch.broken:
                if not self._skip_broken:
                    raise ValueError(f"{broken}; --skip-broken leaves such images out")
                if str(broken.path) not in self._told:
                    self._told.add(str(broken.path))
                    say(f"left out: {broken}")
            if not len(batch.images):
                raise ValueError(f"{batch.broken[0]}; no image of its batch can be read")
            self._check_labels(batch.labels)
            images = batch.images.to(self.device, non_blocking=True)
            if self._recipe.channels_last and images.dim() == 4:
                images = images.contiguous(memory_format=torch.channels_last)
            yield images, batch.labels.to(self.device, non_blocking=True)

    def _round_in_words(self) -> str:
        number = self._step // self._steps_per_round + 1
        return f"training, round {number}{f' of {self._rounds}' if self._rounds else ''}"

    def _check_labels(self, labels: Tensor) -> None:
        # Before they go to the device: a GPU would end the process without saying which it was.
        classes = self._data.classes
        if classes is None:
            return
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(
                f"data: expected labels 0 to {classes - 1}, one for each of the {classes} classes, "
                f"got {low if low < 0 else high}"
            )

    def _loader_of(self, data: Any, batches: Any) -> Any:
        return loader(
            data, batches, self._recipe.seed, self._recipe.workers, self.device.type == "cuda"
        )

    def _is_time_to_look(self) -> bool:
        if self.ranks == 1 and self.device.type == "cpu":
            return True
        return self._step % _STEPS_BETWEEN_LOOKS == 0 or self._step == self._round_end

    def _checked(self, loss: Tensor) -> float:
        """`loss` as a number, once no rank's is NaN or infinite."""
        # The sum over ranks: they have to stop together.
        value = float(loss if self.ranks == 1 else self._accelerator.reduce(loss.clone(), "sum"))
        if not math.isfinite(value):
            rates = ", ".join(f"{group['lr']:g}" for group in self.optimizer.param_groups)
            raise DivergedError(
                f"the loss is {value} at step {self._step} (learning rate {rates}); the last good "
                "state is kept; lower the learning rate or look at the data"
            )
        return float(loss)

    def _mean_of_ranks(self, number: float) -> float:
        if self.ranks == 1:
            return number
        shared = torch.tensor(number, dtype=torch.float64, device=self.device)
        return float(self._accelerator.reduce(shared, "mean"))

    def _share_buffers(self) -> None:
        """Batch norm's statistics are from each rank's own images; all take those of rank 0."""
        if self.ranks > 1:
            broadcast([b for b in self.model.buffers() if b.is_floating_point()], 0)
