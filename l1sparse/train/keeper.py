# SPDX-License-Identifier: MIT
"""When a run is saved, what it has to be the same as to go on, and how it stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list

from l1sparse.pruning.resume import check_same_plan
from l1sparse.train.checkpoint import Checkpoints
from l1sparse.train.interruption import Interruption, StoppedError
from l1sparse.train.progress import say
from l1sparse.train.trainer import Trainer

# Asking all ranks makes them wait for each other; so not at every step.
_STEPS_BETWEEN_VOTES = 10
_GO_ON, _SAVE, _STOP = 0, 1, 2

T = TypeVar("T")


class Keeper:
    """Saves the state of a run of `trainer` in checkpoints, by rank 0, and reads it again.

    All methods are for all ranks to call.

    Args:
        folder: of the run.
        trainer: whose run it is; `on_step` of it is set.
        identity: what the run depends on, by names that a user understands; values JSON-able.
        interruption: whether to stop.
        minutes: between checkpoints within a round; 0: after each step.

    Attributes:
        state_within_round: gives what is saved after a step, when that is asked for.
    """

    def __init__(
        self,
        folder: Path,
        trainer: Trainer,
        identity: Mapping[str, Any],
        interruption: Interruption,
        minutes: float = 10.0,
    ) -> None:
        self._trainer, self._identity = trainer, dict(identity)
        self._interruption, self._seconds = interruption, 60 * minutes
        self._checkpoints = self._on_rank_0(lambda: Checkpoints(folder))
        self._folder = folder
        self._saved_at = time.monotonic()
        self.state_within_round: Callable[[], dict[str, Any]] | None = None
        trainer.on_step = self._after_step

    def begin(self, resume: bool) -> dict[str, Any] | None:
        """The state to go on from; None for a run from the beginning.

        Raises:
            FileExistsError: if the folder has checkpoints and `resume` is False.
            FileNotFoundError: if it has none and `resume` is True.
            ValueError: if none can be read, or the run to go on is not this one.
        """
        found = [self._on_rank_0(lambda: self._read(resume))]
        if self._trainer.ranks > 1:
            broadcast_object_list(found)
        state: dict[str, Any] | None = found[0]
        if state is not None:
            self._check_identity(state["identity"])
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint.

        Raises:
            OSError: if it cannot be written.
            RuntimeError: if rank 0 could not write it.
        """
        whole = {"identity": self._identity, **state}
        self._on_rank_0(lambda: self._of_rank_0().write(whole))
        self._saved_at = time.monotonic()

    def stop_if_asked(self) -> None:
        """Raise StoppedError if there was an interruption; to be called after `save`."""
        if self._trainer.agree(int(self._interruption.requested)):
            raise StoppedError(f"stopped; the state is kept in {self._folder}")

    def _after_step(self) -> None:
        if self.state_within_round is None:
            return
        if self._trainer.ranks > 1 and self._trainer.steps % _STEPS_BETWEEN_VOTES:
            return
        due = time.monotonic() - self._saved_at >= self._seconds
        vote = _STOP if self._interruption.requested else _SAVE if due else _GO_ON
        vote = self._trainer.agree(vote)
        if vote != _GO_ON:
            self.save(self.state_within_round())
        if vote == _STOP:
            raise StoppedError(f"stopped; the state is kept in {self._folder}")

    def _read(self, resume: bool) -> dict[str, Any] | None:
        checkpoints = self._of_rank_0()
        if resume:
            return checkpoints.read(say)
        files = checkpoints.files()
        if files:
            raise FileExistsError(
                f"output: {self._folder} has a run in it already ({files[-1].name}); go on with it "
                "by --resume, or choose another folder"
            )
        return None

    def _check_identity(self, saved: Mapping[str, Any]) -> None:
        for key in sorted(self._identity.keys() | saved.keys()):
            here, there = self._identity.get(key), saved.get(key)
            if key == "plan" and isinstance(here, Mapping) and isinstance(there, Mapping):
                check_same_plan(here, there)
            if here != there:
                raise ValueError(
                    f"resume: {key} is not what the run was begun with: {there!r} then, {here!r} "
                    "now; give the same, or begin anew in another folder"
                )

    def _of_rank_0(self) -> Checkpoints:
        assert self._checkpoints is not None
        return self._checkpoints

    def _on_rank_0(self, action: Callable[[], T]) -> T | None:
        """What `action` gives on rank 0, None elsewhere; if it fails, no rank waits for it."""
        result: T | None = None
        failure: Exception | None = None
        if self._trainer.rank == 0:
            try:
                result = action()
            except Exception as error:
                failure = error
        failed = self._trainer.agree(int(failure is not None))
        if failure is not None:
            raise failure
        if failed:
            raise RuntimeError("rank 0 failed; see its message")
        return result
