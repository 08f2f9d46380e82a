# SPDX-License-Identifier: MIT
"""The training loop, carried by Hugging Face `accelerate`: more devices change nothing here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

_MOMENTUM = 0.9
_WEIGHT_DECAY = 5e-4
_LARGEST_SHIFT = 2  # pixels
_EVALUATION_BATCH = 250
_CALIBRATION_BATCHES = 10


class DigitsTrainer:
    """Trains and evaluates the demo's classifier, on tensors that moved at random as whole batches.

    Args:
        model: the network; trained in place.
        train_data: (image, label) pairs.
        held_out: likewise, for `evaluate`.
        batch_size: images a step.
        show_progress: whether to draw progress bars.
    """

    def __init__(
        self,
        model: nn.Module,
        train_data: TensorDataset,
        held_out: TensorDataset,
        batch_size: int = 64,
        show_progress: bool = True,
    ) -> None:
        self._accelerator = Accelerator()
        self._show_progress = show_progress and self._accelerator.is_main_process
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY
        )
        self._model, self._optimizer, self._train_loader, self._held_out_loader = (
            self._accelerator.prepare(
                model,
                self.optimizer,
                DataLoader(train_data, batch_size, shuffle=True, drop_last=True),
                DataLoader(held_out, _EVALUATION_BATCH),
            )
        )

    def fit(self, epochs: int, learning_rate: float) -> None:
        """Train for `epochs`, the learning rate rising to `learning_rate` and falling to 0."""
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            learning_rate,
            total_steps=epochs * len(self._train_loader),
            cycle_momentum=False,
        )
        for epoch in range(epochs):
            self._epoch(f"train {epoch + 1}/{epochs}", schedule)

    def retrain_epoch(self, learning_rate: float) -> None:
        """One epoch at a constant learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self._epoch("retrain", None)

    def recalibrate(self) -> None:
        """Estimate batch norm's statistics anew, from one forward pass over training images."""
        norms = [m for m in self._model.modules() if isinstance(m, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over the pass
        self._model.train()
        with torch.no_grad():
            for (images, _), _ in zip(
                self._train_loader, range(_CALIBRATION_BATCHES), strict=False
            ):
                self._model(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> float:
        """Accuracy of `model` on the held-out images, a fraction of 1."""
        was_training = model.training
        model.eval()
        right = total = 0
        for images, labels in self._held_out_loader:
            predictions, labels = self._accelerator.gather_for_metrics(
                (model(images).argmax(1), labels)
            )
            right += int((predictions == labels).sum())
            total += len(labels)
        model.train(was_training)
        return right / total

    def _epoch(
        self, description: str, schedule: torch.optim.lr_scheduler.LRScheduler | None
    ) -> None:
        self._model.train()
        batches = tqdm(
            self._train_loader, description, leave=False, disable=not self._show_progress
        )
        for images, labels in batches:
            loss = F.cross_entropy(self._model(_shifted(images)), labels)
            self._optimizer.zero_grad()
            self._accelerator.backward(loss)
            self._optimizer.step()
            if schedule is not None:
                schedule.step()


def _shifted(images: Tensor) -> Tensor:
    """The images, each moved by a few pixels at random; what comes in is background."""
    count, _, height, width = images.shape
    background = float(images.min())
    padded = F.pad(images, (_LARGEST_SHIFT,) * 4, value=background)
    rows, cols = torch.randint(0, 2 * _LARGEST_SHIFT + 1, (2, count, 1), device=images.device)
    y = (rows + torch.arange(height, device=images.device))[:, :, None]
    x = (cols + torch.arange(width, device=images.device))[:, None, :]
    n = torch.arange(count, device=images.device)[:, None, None]
    return padded[n, :, y, x].permute(0, 3, 1, 2).contiguous()
