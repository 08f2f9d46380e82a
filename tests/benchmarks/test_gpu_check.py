# SPDX-License-Identifier: MIT
"""`make gpu-check` without a GPU: the CPU stands for it, and workers crash as they like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_gpu import FakeGpu

import arguments
import gpu_check
import gpu_there
import group_l1
import latency
import suites
from gpu_cases import Case
from gpu_check import Script, run_command, sanitized, scripts
from gpu_worker import Result, Worker, run_case
from suites import Layer

ROOT = Path(__file__).parents[2]
BROKEN = [sys.executable, str(Path(__file__).with_name("broken_worker.py")), "cpu"]
GOOD = Case("conv", filters=16, channels=16, size=(5, 5), seed=11)
OTHER = Case("norm", filters=16, channels=16, seed=12)


class InProcess:
    """A worker that is none."""

    starts = 0

    def run(self, case: Case) -> Result:
        return run_case(case, torch.device("cpu"))

    def close(self) -> None:
        pass


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The CPU is the GPU; three cases, one benchmark, no compute-sanitizer."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check, "CudaGpu", FakeGpu)
    monkeypatch.setattr(gpu_check, "why_not", lambda name: None if name == "cuda" else "not here")
    monkeypatch.setattr(gpu_check, "table", lambda backends, seed: [GOOD, OTHER])
    monkeypatch.setattr(gpu_check, "Worker", lambda command: InProcess())
    monkeypatch.setattr(gpu_check, "scripts", lambda backends, quick: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    started = Worker(BROKEN)
    yield started
    started.close()


def run(*arguments: str) -> int:
    try:
        return gpu_check.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def record() -> dict[str, Any]:
    return json.loads(Path("gpu-check.json").read_text())


# ---- where there is none ------------------------------------------------------------------------


def test_without_a_gpu_it_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert run() == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "gpu_check.py: no CUDA GPU is available to this torch\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(gpu_there.why_none() is None, reason="there is a GPU")
def test_make_builds_nothing_without_a_gpu() -> None:
    # Under `make test`, make would take itself for that one's helper and say so.
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    ended = subprocess.run(
        ["make", "gpu-check", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    ours = [line for line in ended.stderr.splitlines() if not line.startswith("make")]
    assert len(ours) == 1
    assert ours[0].startswith("gpu-check: no NVIDIA driver") or "has no GPU" in ours[0]


class Driver:
    def __init__(self, init: int = 0, status: int = 0, number: int = 1) -> None:
        self._init, self._status, self._number = init, status, number

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self._init

    def cuDeviceGetCount(self, number: Any) -> int:  # noqa: N802
        number._obj.value = self._number
        return self._status


@pytest.mark.parametrize(
    ("driver", "says"),
    [
        (Driver(), None),
        (Driver(number=0), "has no GPU"),
        (Driver(init=100), "cuInit: error 100"),
        (Driver(status=3), "cuDeviceGetCount: error 3"),
    ],
)
def test_a_driver_may_have_no_gpu(driver: Driver, says: str | None) -> None:
    found = gpu_there.why_none(lambda name: driver)
    assert found is None if says is None else says in (found or "")


def test_without_any_kernels_it_ends_with_one_line(
    pretend: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "why_not", lambda name: "not built")
    assert run() == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("given", ["--skip cases,all", "--only nothing", "--json no/f", "--seed x"])
def test_wrong_arguments_end_with_one_line(
    given: str, pretend: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*given.split(maxsplit=1)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert list(Path().iterdir()) == []


# ---- what is written ----------------------------------------------------------------------------


def test_the_file_has_all_that_is_needed_from_afar(
    pretend: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--seed", "5") == 0
    found = record()
    assert found["complete"] is True
    assert found["failures"] == []
    assert found["settings"]["seed"] == "5"
    assert found["machine"]["gpu"] == "Fake"
    assert found["build"]["torch"] == torch.__version__
    assert torch.__version__.startswith(found["host"]["packages"]["torch"])  # less what it is for
    assert {"clocks_after", "seconds", "started"} <= set(found)
    first, second = found["cases"]
    assert Case.from_dict(first["case"]) == GOOD
    assert (first["status"], second["status"]) == ("passed", "passed")
    assert 0 < first["worst"] <= 1
    assert found["sanitizer"] == [{"skipped": "compute-sanitizer is not on PATH"}]
    out = capsys.readouterr().out
    assert "cases: 2 passed" in out
    assert "\ncomplete: gpu-check.json" in out


def test_settings_that_matter_are_written_and_no_others(
    pretend: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    assert run() == 0
    assert record()["host"]["environment"]["CUDA_VISIBLE_DEVICES"] == "1"
    assert "hidden" not in Path("gpu-check.json").read_text()


def test_a_failure_is_recorded_with_its_input_and_the_rest_follows(
    pretend: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Case("no such check", filters=48, dtype="tf32", seed=77)
    monkeypatch.setattr(gpu_check, "table", lambda backends, seed: [GOOD, bad, OTHER])
    assert run() == 1
    found = record()
    assert [x["status"] for x in found["cases"]] == ["passed", "failed", "passed"]
    (failure,) = found["failures"]
    assert Case.from_dict(failure["case"]) == bad
    assert "KeyError" in failure["message"]
    assert "Traceback" in failure["trace"]
    assert found["complete"] is True
    out = capsys.readouterr().out
    assert "FAILED cases: no such check dtype=tf32 filters=48 seed=77: failed: KeyError" in out


def test_an_interruption_keeps_what_there_is(
    pretend: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(InProcess):
        def run(self, case: Case) -> Result:
            if case == OTHER:
                raise KeyboardInterrupt
            return super().run(case)

    monkeypatch.setattr(gpu_check, "Worker", lambda command: Interrupted())
    assert run() == 130
    found = record()
    assert found["complete"] is False
    assert [x["status"] for x in found["cases"]] == ["passed"]
    assert "NOT complete" in capsys.readouterr().out


def test_a_step_that_breaks_does_not_stop_the_next(
    pretend: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(command: object) -> InProcess:
        raise ValueError("no worker today")

    on_file: list[dict[str, Any]] = []
    monkeypatch.setattr(gpu_check, "check_cases", lambda *given: broken(given))
    monkeypatch.setattr(gpu_check, "sanitize", lambda *given: on_file.append(record()))
    assert run() == 1
    assert len(on_file[0]["failures"]) == 1  # before the next step has begun
    found = record()
    assert found["failures"][0]["message"] == "ValueError: no worker today"
    assert found["complete"] is True


def test_steps_and_cases_can_be_left_out(pretend: None) -> None:
    assert run("--only", "norm", "--skip", "sanitizer,times") == 0
    found = record()
    assert [x["name"] for x in found["cases"]] == [str(OTHER)]
    assert found["sanitizer"] == found["times"] == []


def test_missing_cuda_kernels_are_a_failure(pretend: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "why_not", lambda name: "not built" if name == "cuda" else None)
    assert run() == 1
    assert record()["failures"][0]["message"] == "the CUDA kernels can't run: not built"
    assert len(record()["cases"]) == 2


# ---- workers ------------------------------------------------------------------------------------


def test_cases_run_in_a_worker(worker: Worker) -> None:
    results = [worker.run(case) for case in (GOOD, OTHER, Case("chat"))]
    assert [r.status for r in results] == ["passed"] * 3
    assert results[2].worst == 0.25
    assert worker.starts == 1
    here = run_case(GOOD, torch.device("cpu"))
    assert results[0].worst == here.worst


def test_a_failure_in_a_worker_says_why(worker: Worker) -> None:
    before = worker.starts
    result = worker.run(Case("fail", filters=5))
    assert result.status == "failed"
    assert result.message == "RuntimeError: no luck with 5 filters"
    assert "in fail" in result.trace
    assert worker.run(GOOD).status == "passed"
    assert worker.starts == max(before, 1)


def test_a_crash_takes_one_case_only(worker: Worker) -> None:
    result = worker.run(Case("crash"))
    assert result.status == "crashed"
    assert result.message == "the worker ended with status 9"
    assert "on the way down" in result.trace
    before = worker.starts
    assert worker.run(GOOD).status == "passed"
    assert worker.starts == before + 1


def test_a_process_that_lost_its_device_is_replaced(worker: Worker) -> None:
    result = worker.run(Case("lose"))
    assert result.status == "failed"
    assert "illegal memory access" in result.message
    before = worker.starts
    assert worker.run(GOOD).status == "passed"
    assert worker.starts == before + 1


def test_a_case_that_does_not_end_is_ended(worker: Worker) -> None:
    assert worker.run(GOOD).status == "passed"
    result = worker.run(Case("hang"), seconds=0.2)
    assert (result.status, result.message) == ("crashed", "did not end within 0.2 s")
    assert result.seconds < 30
    assert worker.run(GOOD).status == "passed"


def test_a_worker_that_does_not_start_is_told_of() -> None:
    worker = Worker([sys.executable, "-c", "import sys; sys.exit('no torch')"])
    result = worker.run(GOOD)
    assert result.status == "crashed"
    assert "it ended with status 1" in result.message
    assert "no torch" in result.trace


# ---- compute-sanitizer --------------------------------------------------------------------------


def program(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def test_cases_run_under_every_tool(
    pretend: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its first six arguments are its own.
    program(tmp_path, "compute-sanitizer", 'echo "========= $2" > "$6"; shift 6; exec "$@"')
    monkeypatch.setattr(gpu_check, "worker_command", lambda device: BROKEN)
    monkeypatch.setattr(gpu_check, "TOOLS", ("memcheck", "racecheck"))
    assert run("--skip", "times") == 0
    found = record()["sanitizer"]
    assert [x["tool"] for x in found] == ["memcheck", "racecheck"]
    assert all(x["status"] == 0 and x["cases"] == 2 for x in found)
    assert found[1]["log"] == "========= racecheck\n"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ('echo "Invalid __global__ read" > "$6"; shift 6; "$@"; exit 9', "exit status 9, 2 of 2"),
        ("exit 0", "exit status 0, 0 of 2 cases ended"),
    ],
)
def test_what_a_tool_finds_is_a_failure(
    script: str, says: str, pretend: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "compute-sanitizer", script)
    monkeypatch.setattr(gpu_check, "worker_command", lambda device: BROKEN)
    monkeypatch.setattr(gpu_check, "TOOLS", ("memcheck",))
    assert run("--skip", "times") == 1
    (failure,) = record()["failures"]
    assert says in failure["message"]
    if "9" in says:
        assert "Invalid __global__ read" in failure["log"]


def test_slow_cases_are_not_sanitized() -> None:
    from gpu_cases import table

    cases = table(["cuda", "triton"])
    chosen = sanitized(cases)
    assert {case.check for case in chosen} == {"conv", "norm"}
    assert not any(case.backend.startswith("triton") for case in chosen)
    assert {case.dtype for case in chosen} == {"float32", "tf32", "float16", "bfloat16"}
    assert 20 < len(chosen) < len(cases) / 2


# ---- benchmarks ---------------------------------------------------------------------------------


def test_a_benchmarks_file_becomes_part_of_ours(
    pretend: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import sys; open(sys.argv[-1], 'w').write('{\"totals\": []}')"
    (tmp_path / "good.py").write_text(text)
    (tmp_path / "bad.py").write_text("import sys; print('so far so good'); sys.exit('then not')")
    monkeypatch.setattr(gpu_check, "HERE", tmp_path)
    given = [Script("bad", "bad.py", ()), Script("good", "good.py", ("--device", "cuda"))]
    monkeypatch.setattr(gpu_check, "scripts", lambda backends, quick: given)
    assert run("--skip", "cases,sanitizer") == 1
    found = record()
    bad, good = found["times"]
    assert (bad["status"], good["status"]) == (1, 0)
    assert good["record"] == {"totals": []}
    assert good["arguments"] == ["--device", "cuda"]
    (failure,) = found["failures"]
    assert failure["message"] == "bad: exit status 1"
    assert "so far so good" in failure["output"]
    assert "then not" in failure["output"]


def test_a_benchmark_that_does_not_end_is_ended() -> None:
    command = [sys.executable, "-c", "import time; print('slow', flush=True); time.sleep(60)"]
    status, output = run_command(command, 1.0)
    assert status == "none: it did not end within 1 s"
    assert "slow" in output
    assert run_command(["/nowhere/at/all"], 1.0)[0].startswith("none: ")  # type: ignore[union-attr]


def test_every_benchmark_takes_its_arguments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Runner:
        name = "fake"

    layers = (Layer(32, 32, 6, 3),)
    for suite in ("demo", "resnet50"):
        monkeypatch.setitem(suites.SUITES, suite, layers)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for module in (arguments, latency):
        monkeypatch.setattr(module, "resolve", lambda name: (Runner(), None))
    for script in (latency, group_l1):
        monkeypatch.setattr(script, "CudaGpu", lambda: FakeGpu(1.0, tick=2**-20))
        monkeypatch.setattr(script, "GPU_TURN_MS", 1e-9)
    right = latency.gpu_candidates.sparse_conv2d
    monkeypatch.setattr(
        latency.gpu_candidates,
        "sparse_conv2d",
        lambda *given: right(*given[:3], "auto"),
    )
    monkeypatch.setattr(group_l1, "fits", lambda layer, group: group.filters < 16)
    names = set()
    asked = scripts(["cuda", "triton"], quick=False)
    for script in asked:
        main = {"latency.py": latency.main, "group_l1.py": group_l1.main}[script.file]
        file = tmp_path / "record.json"
        given = [x if x != "21" else "2" for x in script.arguments]
        assert main([*given, "--json", str(file)]) == 0
        assert json.loads(file.read_text())["totals"]
        names.add(script.name)
    assert len(names) == len(asked)
    assert {script.name for script in scripts(["cuda"], quick=True)} < names


def test_the_summary_has_the_speedups(
    pretend: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    total = {"group": "16x16", "sparsity": 0.75, "speedup": 1.5}
    none = {"group": "1x8", "sparsity": 0.9, "speedup": None}
    text = f"import sys, json; json.dump({{'totals': {[total, none]!r}}}, open(sys.argv[-1], 'w'))"
    (tmp_path / "times.py").write_text(text)
    monkeypatch.setattr(gpu_check, "HERE", tmp_path)
    monkeypatch.setattr(gpu_check, "scripts", lambda *a, **k: [Script("half", "times.py", ())])
    assert run() == 0
    out = capsys.readouterr().out
    assert "half, 16x16, 75 % pruned: 1.50x" in out
    assert "half, 1x8, 90 % pruned: -" in out
