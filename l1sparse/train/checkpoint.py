# SPDX-License-Identifier: MIT
"""Checkpoints that survive a kill, a full disk and a file cut short."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from l1sparse.files import write_atomically

_KEPT = 2  # checkpoints; the one before the newest is there in case that one is damaged
_DIGITS = 6
_MAGIC = b"l1sparse checkpoint 1\n"


class Checkpoints:
    """The checkpoints of one run, in one folder: ``checkpoint-000001.l1s`` and so on.

    A checkpoint is one line that says so, the SHA-256 of the rest, and what ``torch.save`` makes of
    tensors and plain Python values; it is read with ``weights_only=True``, so that reading one runs
    no code. It is complete or not there: written under a temporary name, synchronised with the
    disk, then renamed.

    Args:
        folder: made if it is not there.

    Raises:
        OSError: if nothing can be written in `folder`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".probe").write_bytes(b"1")
            (folder / ".probe").unlink()
        except OSError as error:
            raise OSError(
                f"output: cannot write in {folder}: {error.strerror}; choose another folder"
            ) from error
        for left_over in folder.glob(".checkpoint-*.tmp"):
            left_over.unlink()
        self._checked = False

    def files(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return sorted(self._folder.glob(f"checkpoint-{'[0-9]' * _DIGITS}.l1s"))

    def write(self, state: dict[str, Any]) -> Path:
        """Write `state` as the newest checkpoint, and remove those before the last but one.

        Args:
            state: nested dictionaries, lists and tuples of tensors, numbers, strings and None.

        Raises:
            OSError: if it cannot be written; the checkpoints that are there stay.
            TypeError: if `state` holds anything that could not be read again.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        if not self._checked:  # once a run: what a checkpoint holds changes in values only
            _check_readable(content)
            self._checked = True
        content = _MAGIC + hashlib.sha256(content).digest() + content
        files = self.files()
        number = int(files[-1].stem[-_DIGITS:]) + 1 if files else 1
        path = self._folder / f"checkpoint-{number:0{_DIGITS}}.l1s"
        try:
            write_atomically(path, content)
        except OSError as error:
            last = f"the last good one, {files[-1]}, is kept" if files else "there is none before"
            raise OSError(f"checkpoint: cannot write {path}: {error.strerror}; {last}") from error
        for old in files[: 1 - _KEPT]:
            old.unlink(missing_ok=True)
        return path

    def read(self, warn: Callable[[str], object]) -> dict[str, Any]:
        """The newest checkpoint that can be read.

        Args:
            warn: told of each one that cannot be.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if none can be read.
        """
        files = self.files()
        if not files:
            raise FileNotFoundError(f"resume: there is no checkpoint in {self._folder}")
        for path in reversed(files):
            state = _read(path)
            if state is not None:
                return state
            warn(f"{path} is cut short or damaged, and left out")
        raise ValueError(
            f"resume: none of the checkpoints in {self._folder} can be read; begin anew in "
            "another folder"
        )


def _read(path: Path) -> dict[str, Any] | None:
    content = path.read_bytes()
    start = len(_MAGIC) + hashlib.sha256().digest_size
    body = content[start:]
    if content[:start] != _MAGIC + hashlib.sha256(body).digest():
        return None
    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)  # type: ignore[no-any-return]


def _check_readable(content: bytes) -> None:
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except pickle.UnpicklingError as error:
        raise TypeError(
            "checkpoint: expected tensors and plain values only, the state of the optimizer, the "
            f"scheduler or the run holds something else: {error}"
        ) from error
