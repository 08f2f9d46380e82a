# SPDX-License-Identifier: MIT
"""Cases of `gpu_check.py` in a process of their own, which may crash and is then replaced.

After some errors (an illegal address) a process can do nothing more on its GPU, and after others it
is gone. The worker reads cases from stdin and writes results, both as one line of JSON each.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch

from gpu_cases import Case
from gpu_checks import CHECKS, SkippedError, WrongError, precision

STARTUP_SECONDS = 600.0
CASE_SECONDS = 600.0
"""Triton compiles and times its configurations in a case that is new to it."""
_TAIL = 4000


@dataclass(frozen=True)
class Result:
    """Of one case."""

    case: Case
    status: str
    """``"passed"``, ``"failed"``, ``"skipped"`` or ``"crashed"``."""
    worst: float | None
    """Largest error over what is allowed; None where there was none to take."""
    seconds: float
    message: str = ""
    trace: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether it failed or crashed."""
        return self.status in ("failed", "crashed")

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        worst = self.worst if self.worst is None or abs(self.worst) < float("inf") else "inf"
        return {**asdict(self), "name": str(self.case), "worst": worst}


def run_case(case: Case, device: torch.device) -> Result:
    """Check a case here; whatever goes wrong is in the result."""
    start = time.perf_counter()

    def result(status: str, worst: float | None, message: str = "", trace: str = "") -> Result:
        return Result(case, status, worst, time.perf_counter() - start, message, trace)

    try:
        with precision(case.dtype):
            worst = CHECKS[case.check](case, device)
            _wait(device)
    except SkippedError as reason:
        return result("skipped", None, str(reason))
    except WrongError as error:
        return result("failed", error.worst, str(error))
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        return result("failed", None, message, traceback.format_exc()[-_TAIL:])
    return result("passed", worst)


def serve(device: torch.device, lines: IO[str], results: IO[str]) -> int:
    """Check what comes in `lines` until they end, or the device is lost.

    Returns:
        The exit status: 0, or 3 where the device can't be used any more.
    """
    results.write(json.dumps({"ready": True}) + "\n")
    results.flush()
    for line in lines:
        result = run_case(Case.from_dict(json.loads(line)), device)
        lost = result.is_bad and _is_lost(device)
        record = {**result.to_dict(), "lost": lost}
        results.write(json.dumps(record) + "\n")
        results.flush()
        if lost:
            return 3
    return 0


class Worker:
    """Runs cases in a process; starts another one where it was lost.

    Args:
        command: of the process, see `serve`.
        folder: to run it in.
    """

    def __init__(self, command: Sequence[str], folder: Path | None = None) -> None:
        self._command, self._folder = list(command), folder
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._errors: IO[bytes] | None = None
        self.starts = 0
        """Processes so far."""

    def run(self, case: Case, seconds: float | None = None) -> Result:
        """Check a case there.

        Args:
            case: to check.
            seconds: after so many the process is ended, and the case counts as crashed.
        """
        limit = CASE_SECONDS if seconds is None else seconds
        start = time.perf_counter()

        def crashed(message: str) -> Result:
            text = self._error_text()
            self.close()
            return Result(case, "crashed", None, time.perf_counter() - start, message, text)

        try:
            process = self._ready_process()
            assert process.stdin is not None
            process.stdin.write(json.dumps(case.to_dict()) + "\n")
            process.stdin.flush()
            line = self._lines.get(timeout=limit)
        except queue.Empty:
            return crashed(f"did not end within {limit:g} s")
        except (OSError, RuntimeError) as error:
            return crashed(f"the worker did not start or take the case: {error}")
        if line is None:
            assert self._process is not None
            status = self._process.wait()
            return crashed(f"the worker ended with status {status}")
        record = json.loads(line)
        if record["lost"]:
            self.close()
        worst = float(record["worst"]) if record["worst"] is not None else None
        fields = {name: record[name] for name in ("status", "seconds", "message", "trace")}
        return Result(case, worst=worst, **fields)

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def _ready_process(self) -> subprocess.Popen[str]:
        if self._process is not None:
            return self._process
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=self._folder,
        )
        self.starts += 1
        self._lines = queue.Queue()
        reader = threading.Thread(
            target=_forward, args=(self._process.stdout, self._lines), daemon=True
        )
        reader.start()
        try:
            line = self._lines.get(timeout=STARTUP_SECONDS)
        except queue.Empty:
            raise RuntimeError("it was not ready in time") from None
        if line is None:
            raise RuntimeError(f"it ended with status {self._process.wait()}")
        return self._process

    def _error_text(self) -> str:
        if self._errors is None:
            return ""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _TAIL))
        return self._errors.read().decode(errors="replace")


def _forward(pipe: IO[str], lines: queue.Queue[str | None]) -> None:
    try:
        for line in pipe:
            lines.put(line)
    except ValueError:  # closed meanwhile
        pass
    lines.put(None)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _is_lost(device: torch.device) -> bool:
    """Whether an error stays with this process: nothing runs on the device after it."""
    try:
        _wait(device)
        torch.ones(1, device=device).sum().item()
    except Exception:
        return True
    return False


def main() -> int:
    """``gpu_worker.py DEVICE``: serve stdin; what others print goes to stderr."""
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return serve(torch.device(sys.argv[1]), sys.stdin, results)


if __name__ == "__main__":
    sys.exit(main())
