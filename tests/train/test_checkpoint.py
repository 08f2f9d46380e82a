# SPDX-License-Identifier: MIT
"""Checkpoints: whole or not there, and the last good one is always kept."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from l1sparse.train import Checkpoints


def state(number: int) -> dict[str, Any]:
    return {
        "number": number,
        "weights": torch.full((1000,), float(number)),
        "by index": {0: (1.5, None, "text"), 1: [True]},
    }


def read(folder: Path) -> tuple[dict[str, Any], list[str]]:
    warnings: list[str] = []
    return Checkpoints(folder).read(warnings.append), warnings


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written = state(7)
    Checkpoints(tmp_path / "new" / "folder").write(written)
    found, warnings = read(tmp_path / "new" / "folder")
    assert torch.equal(found.pop("weights"), written.pop("weights"))
    assert found == written
    assert not warnings


def test_the_last_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for number in range(1, 13):
        checkpoints.write(state(number))
    names = ["checkpoint-000011.l1s", "checkpoint-000012.l1s"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert read(tmp_path)[0]["number"] == 12
    Checkpoints(tmp_path).write(state(13))  # in another process, after the first
    assert read(tmp_path)[0]["number"] == 13


@pytest.mark.parametrize("damage", ["cut short", "emptied", "one bit", "other file"])
def test_a_damaged_one_is_named_and_the_one_before_used(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(state(1))
    path = checkpoints.write(state(2))
    content = bytearray(path.read_bytes())
    if damage == "cut short":
        del content[len(content) // 2 :]
    elif damage == "emptied":
        content.clear()
    elif damage == "one bit":
        content[len(content) // 2] ^= 4
    else:
        content[:] = b"something else"
    path.write_bytes(content)
    found, warnings = read(tmp_path)
    assert found["number"] == 1
    assert warnings == [f"{path} is cut short or damaged, and left out"]


def test_if_all_are_damaged_that_is_an_error(tmp_path: Path) -> None:
    Checkpoints(tmp_path).write(state(1)).write_bytes(b"")
    with pytest.raises(ValueError, match=f"resume: none of the checkpoints in {tmp_path} can be r"):
        read(tmp_path)


def test_none_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"resume: there is no checkpoint in {tmp_path}"):
        read(tmp_path)


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Writing beyond it fails, as on a full disk (Python ignores the signal that goes with it)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_an_error_and_the_last_good_one_is_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    good = checkpoints.write(state(1))
    with (
        files_no_larger_than(2048),
        pytest.raises(OSError, match=f"checkpoint: cannot write .*-000002.l1s: .*{good}, is kept"),
    ):
        checkpoints.write(state(2))
    assert [path.name for path in tmp_path.iterdir()] == [good.name]
    assert read(tmp_path)[0]["number"] == 1


def test_a_failure_to_rename_leaves_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(state(1))

    def fail(*names: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left on device; the last good one"):
        checkpoints.write(state(2))
    assert read(tmp_path)[0]["number"] == 1


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(file: int) -> None:
        happened.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{file}')).name}")
        fsync(file)

    def note_replace(source: Path, target: Path) -> None:
        happened.append(f"rename {Path(source).name} {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    Checkpoints(tmp_path).write(state(1))
    name = "checkpoint-000001.l1s"
    assert happened == [
        f"fsync .{name}.tmp",
        f"rename .{name}.tmp {name}",
        f"fsync {tmp_path.name}",
    ]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    Checkpoints(tmp_path).write(state(1))
    (tmp_path / ".checkpoint-000002.l1s.tmp").write_bytes(b"half")
    assert read(tmp_path)[0]["number"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "read_only"
    folder.mkdir(mode=0o555)
    # The superuser may write anywhere, so another user tries; it has to get there.
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from l1sparse.train import Checkpoints\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: Checkpoints(Path(sys.argv[1]))\n"
        "except OSError as error: print(error)\n"
    )
    for parent in folder.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o001)
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith(f"output: cannot write in {folder}: Permission denied; choose")


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="checkpoint: expected tensors and plain values only"):
        Checkpoints(tmp_path).write({"path": Path("x")})
    assert not list(tmp_path.glob("checkpoint-*"))
