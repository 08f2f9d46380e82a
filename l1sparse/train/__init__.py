# SPDX-License-Identifier: MIT
"""Training for the command line; the library takes training as callables and needs none of this."""

from l1sparse.train.checkpoint import Checkpoints
from l1sparse.train.data import Data, load_data
from l1sparse.train.dense import train_dense
from l1sparse.train.digits import DigitsNet, load_digits
from l1sparse.train.digits_trainer import DigitsTrainer
from l1sparse.train.interruption import Interruption, StoppedError
from l1sparse.train.keeper import Keeper
from l1sparse.train.kept_pruning import KeptPruning
from l1sparse.train.models import (
    check_classes,
    example_image,
    fingerprint,
    load_model,
    save_weights,
)
from l1sparse.train.recipe import Recipe
from l1sparse.train.trainer import Trainer

__all__ = [
    "Checkpoints",
    "Data",
    "DigitsNet",
    "DigitsTrainer",
    "Interruption",
    "Keeper",
    "KeptPruning",
    "Recipe",
    "StoppedError",
    "Trainer",
    "check_classes",
    "example_image",
    "fingerprint",
    "load_data",
    "load_digits",
    "load_model",
    "save_weights",
    "train_dense",
]
