# SPDX-License-Identifier: MIT
"""The network, and its training from tensors in memory: made to be quick on one CPU thread.

A **round** is a fifth of an epoch: the unit in which strategies spend their retraining budget.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fashion_data import CLASSES, FashionData, Images
from l1sparse.train.digits import DigitsNet

CHANNELS, DEPTHS = (16, 32, 64), (2, 2, 4)  # of the stages
ROUNDS_PER_EPOCH = 5
BATCH = 256
PEAK_TRAINING, PEAK_RETRAINING = 0.3, 0.1  # learning rates
# A pruned network has few weights for its data: it needs less to hold them back.
DECAY_TRAINING, DECAY_RETRAINING = 5e-4, 1e-4
# Of retraining: the share of the loss that compares with the dense network, not with the labels.
DISTILLATION, TEMPERATURE = 0.7, 3.0
SETTINGS = {
    "network": "VGG pattern: 2, 2, 4 3x3 convolutions of 16, 32, 64 channels, batch norm, ReLU",
    "batch": BATCH,
    "optimizer": "SGD, Nesterov momentum 0.9",
    "weight_decay": {"training": DECAY_TRAINING, "retraining": DECAY_RETRAINING},
    "peak_learning_rate": {"training": PEAK_TRAINING, "retraining": PEAK_RETRAINING},
    "schedule": "rises over the first tenth, then falls as a cosine to 0",
    "augmentation": "horizontal flip",
    "distillation": {"share": DISTILLATION, "temperature": TEMPERATURE},
    "rounds_per_epoch": ROUNDS_PER_EPOCH,
}
_WARM_UP = 0.1
_EVALUATION_BATCH = 500
_CALIBRATION = 2560  # images


def make_network() -> nn.Module:
    """The untrained network, channels_last."""
    network = DigitsNet(CHANNELS, CLASSES, DEPTHS)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


class FashionTrainer:
    """Trains one network for a fixed number of rounds, a schedule over all of them.

    The schedule goes on with every round, also after a roll-back, so that all strategies train
    under the same learning rates.

    Args:
        model: trained in place.
        data: its three parts.
        rounds: of the whole schedule.
        seed: of the order of images and of augmentation.
        teacher: the dense network, when a trained network is trained on, pruned or not; None when
            training begins.
    """

    def __init__(
        self,
        model: nn.Module,
        data: FashionData,
        rounds: int,
        seed: int,
        teacher: nn.Module | None = None,
    ) -> None:
        self.device = next(model.parameters()).device
        self._model = model
        self._train, self._validation = (
            Images(part.images.to(self.device), part.labels.to(self.device))
            for part in (data.train, data.validation)
        )
        self._peak = PEAK_TRAINING if teacher is None else PEAK_RETRAINING
        decay = DECAY_TRAINING if teacher is None else DECAY_RETRAINING
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=self._peak, momentum=0.9, weight_decay=decay, nesterov=True
        )
        self.losses: list[float] = []
        # What the teacher says of every image, as it is and flipped: it need not run again.
        self._taught = None if teacher is None else _logits(teacher, self._train)
        self._steps_a_round = len(data.train) // ROUNDS_PER_EPOCH // BATCH
        self._total, self._done = rounds * self._steps_a_round, 0
        self._random = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)

    def round(self) -> None:
        """Train for a fifth of an epoch."""
        self._model.train()
        total = 0.0
        for _ in range(self._steps_a_round):
            for group in self.optimizer.param_groups:
                group["lr"] = self._peak * learning_rate_factor(self._done / self._total)
            index = self._next_index()
            batch = self._train.take(index)
            flip = torch.rand(BATCH, generator=self._random).to(self.device) < 0.5
            with _half(self.device):
                logits = self._model(_flipped(batch.images, flip))
            loss = F.cross_entropy(logits.float(), batch.labels)
            if self._taught is not None:
                taught = self._taught[flip.long(), index]
                loss = (1 - DISTILLATION) * loss + DISTILLATION * _divergence(logits, taught)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += float(loss.detach())
            self._done += 1
        self.losses.append(total / self._steps_a_round)

    def validate(self, model: nn.Module) -> float:
        """Accuracy on the validation images, a fraction of 1."""
        return accuracy(model, self._validation)

    def recalibrate(self, model: nn.Module) -> None:
        """Estimate batch norm's statistics anew, as a plain average over training images."""
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        model.train()
        with torch.no_grad(), _half(self.device):
            for images in self._train.images[:_CALIBRATION].split(BATCH):
                model(images.contiguous(memory_format=torch.channels_last))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def _next_index(self) -> Tensor:
        if len(self._order) < BATCH:  # a new epoch; what is left of the old one is dropped
            self._order = torch.randperm(len(self._train), generator=self._random)
        index, self._order = self._order[:BATCH], self._order[BATCH:]
        return index.to(self.device)


def learning_rate_factor(position: float) -> float:
    """Share of the peak at `position`, 0 to 1, of the schedule."""
    if position < _WARM_UP:
        return 0.05 + 0.95 * position / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (position - _WARM_UP) / (1 - _WARM_UP)))


@torch.inference_mode()
def accuracy(model: nn.Module, data: Images) -> float:
    """Accuracy of `model`, a fraction of 1, in the precision that it is trained in."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    right = 0
    for images, labels in zip(
        data.images.split(_EVALUATION_BATCH), data.labels.split(_EVALUATION_BATCH), strict=True
    ):
        with _half(device):
            logits = model(images.to(device, memory_format=torch.channels_last))
        right += int((logits.argmax(1) == labels.to(device)).sum())
    model.train(was_training)
    return right / len(data)


@torch.inference_mode()
def _logits(model: nn.Module, data: Images) -> Tensor:
    """Of the images as they are and flipped: ``[2, N, classes]``."""
    was_training = model.training
    model.eval()
    both = []
    for flip in (False, True):
        parts = []
        for images in data.images.split(_EVALUATION_BATCH):
            which = torch.full((len(images),), flip, device=images.device)
            with _half(images.device):
                parts.append(model(_flipped(images, which)).float())
        both.append(torch.cat(parts))
    model.train(was_training)
    return torch.stack(both)


def _flipped(images: Tensor, flip: Tensor) -> Tensor:
    """The images, those where `flip` is True mirrored."""
    mirrored = torch.where(flip[:, None, None, None], images.flip(3), images)
    return mirrored.contiguous(memory_format=torch.channels_last)


def _divergence(logits: Tensor, taught: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the teacher's softened probabilities (Hinton 2015)."""
    given = F.log_softmax(logits.float() / TEMPERATURE, 1)
    goal = F.log_softmax(taught / TEMPERATURE, 1)
    return F.kl_div(given, goal, log_target=True, reduction="batchmean") * TEMPERATURE**2


def _half(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16)
