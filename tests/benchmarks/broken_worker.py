# SPDX-License-Identifier: MIT
"""`gpu_worker` with checks that go wrong in every way."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import torch

import gpu_worker
from gpu_cases import Case


def crash(case: Case, device: torch.device) -> float:
    print("on the way down", file=sys.stderr, flush=True)
    os._exit(9)


def hang(case: Case, device: torch.device) -> float:
    time.sleep(60)
    return 0.0


def fail(case: Case, device: torch.device) -> float:
    raise RuntimeError(f"no luck with {case.filters} filters")


def lose(case: Case, device: torch.device) -> float:
    gpu_worker._is_lost = lambda device: True  # type: ignore[assignment]
    raise RuntimeError("an illegal memory access was encountered")


def chat(case: Case, device: torch.device) -> float:
    print("some library's greeting")
    return 0.25


gpu_worker.CHECKS.update(crash=crash, hang=hang, fail=fail, lose=lose, chat=chat)

if __name__ == "__main__":
    sys.exit(gpu_worker.main())
