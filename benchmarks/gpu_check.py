# SPDX-License-Identifier: MIT
"""All that only a GPU can show, in one file: are the operators right on it, and how fast are they.

Run it as ``make gpu-check``, which builds first, or as ``python benchmarks/gpu_check.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from arguments import OneLineParser, output_file, run_benchmark
from gpu_cases import Case, table
from gpu_timing import CudaGpu, Gpu, gpu_headline, nvidia_smi
from gpu_worker import Result, Worker
from l1sparse.build import build_info
from l1sparse.gpu.backend import MODULES, resolve
from output import progress, write_json

HERE = Path(__file__).resolve().parent
STEPS = ("cases", "sanitizer", "times")
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
TOOL_SECONDS = 3600.0
SCRIPT_SECONDS = 7200.0
_TAIL = 8000
_SETTINGS = ("L1SPARSE_", "CUDA_", "TORCH_", "PYTORCH_", "TRITON_", "NVIDIA_", "CUBLAS_", "CUDNN_")

DESCRIPTION = """\
Checks the operators on the current CUDA device, case by case, against float64 on the CPU: shapes,
dtypes, group shapes and backends, gradients, other streams, CUDA graphs, a second device if there
is one, bad input. Then again under compute-sanitizer where that is on PATH, then times layers
against cuDNN with latency.py. What is known is in the file at any time: it is written after every
case, and a failure, a crash or an interruption never loses the rest.
"""
EXAMPLES = """\
  make gpu-check
  python benchmarks/gpu_check.py --quick
  python benchmarks/gpu_check.py --only "conv backend=cuda dtype=float16" --skip sanitizer,times
"""


@dataclass
class Report:
    """What is found, and the file it goes to."""

    path: Path
    record: dict[str, Any] = field(default_factory=dict)

    def fail(self, step: str, message: str, **details: Any) -> None:
        """Remember a failure."""
        self.record["failures"].append({"step": step, "message": message, **details})

    def save(self) -> None:
        """Write everything that is known so far."""
        write_json(self.path, self.record)


@dataclass(frozen=True)
class Script:
    """A benchmark to run."""

    name: str
    file: str
    arguments: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script.

    Returns:
        The exit status: 0, 1 where something failed, 130 where the user interrupted.

    Raises:
        SystemExit: with 2, where there is no GPU, no backend, or arguments are wrong.
    """
    parser = OneLineParser("gpu_check.py", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--json",
        type=output_file,
        default="gpu-check.json",
        metavar="FILE",
        help="write all there (default: %(default)s)",
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="cases that have this in their name"
    )
    parser.add_argument(
        "--skip",
        type=steps,
        default=[],
        metavar="STEPS",
        help=f"out of {','.join(STEPS)}, with commas between them",
    )
    parser.add_argument(
        "--quick", action="store_true", help="times of the demo suite only, and fewer turns"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of all randomness (default: 0)"
    )
    failed = False

    def check(parser: OneLineParser, options: argparse.Namespace) -> None:
        nonlocal failed
        failed = run(parser, options)

    status = run_benchmark(parser, check, arguments)
    return status or int(failed)


def run(parser: OneLineParser, options: argparse.Namespace) -> bool:
    """Go through all steps.

    Returns:
        Whether anything failed.
    """
    if not torch.cuda.is_available():
        parser.error("no CUDA GPU is available to this torch")
    reasons = {name: why_not(name) for name in MODULES}
    backends = [name for name, reason in reasons.items() if reason is None]
    if not backends:
        parser.error(f"this build of l1sparse has no kernels for a GPU: {reasons}")
    cases = [case for case in table(backends, options.seed) if options.only in str(case)]
    if not cases:
        parser.error(f"--only: no case has {options.only!r} in its name")

    gpu = CudaGpu()
    report = Report(Path(options.json), new_record(gpu, options))
    if reasons["cuda"] is not None:
        report.fail("build", f"the CUDA kernels can't run: {reasons['cuda']}")
    print(gpu_headline(report.record["machine"]))
    report.save()
    todo: dict[str, Callable[[], None]] = {
        "cases": lambda: check_cases(report, cases, Worker(worker_command(gpu.device))),
        "sanitizer": lambda: sanitize(report, sanitized(cases), worker_command(gpu.device)),
        "times": lambda: take_times(report, scripts(backends, quick=options.quick)),
    }
    try:
        for name, step in todo.items():
            if name not in options.skip:
                attempt(report, name, step)
        report.record["complete"] = True
    finally:
        report.record["seconds"] = time.time() - report.record["started"]
        report.record["clocks_after"] = nvidia_smi()
        report.save()
        print(summary(report))
    return bool(report.record["failures"])


def new_record(gpu: Gpu, options: argparse.Namespace) -> dict[str, Any]:
    """What has to be known to understand the rest from afar."""
    return {
        "complete": False,
        "started": time.time(),
        "settings": {name: str(value) for name, value in sorted(vars(options).items())},
        "machine": gpu.describe(),
        "build": build_info(),
        "host": {
            "platform": platform.platform(),
            "python": sys.version,
            "processor": platform.processor(),
            "cores": os.cpu_count(),
            "packages": {name: package_version(name) for name in ("torch", "triton", "numpy")},
            "commit": commit(),
            "environment": {
                name: value
                for name, value in sorted(os.environ.items())
                if name.startswith(_SETTINGS)
            },
        },
        "failures": [],
        "cases": [],
        "sanitizer": [],
        "times": [],
    }


def attempt(report: Report, name: str, step: Callable[[], None]) -> None:
    """Take a step; what it did not expect is a failure like others."""
    try:
        step()
    except Exception as error:
        report.fail(name, f"{type(error).__name__}: {error}", trace=traceback.format_exc()[-_TAIL:])
    report.save()


# ---- right? --------------------------------------------------------------------------------------


def check_cases(report: Report, cases: Sequence[Case], worker: Worker) -> None:
    """Check every case; one that fails or crashes is a failure, and the next one follows."""
    try:
        for case in progress(cases, "cases"):
            add_result(report, "cases", worker.run(case))
            report.save()
    finally:
        report.record["worker_starts"] = worker.starts
        worker.close()


def add_result(report: Report, step: str, result: Result) -> None:
    """Remember a case's result, its input and seed included."""
    report.record[step].append(result.to_dict())
    if result.is_bad:
        details = {key: result.to_dict()[key] for key in ("case", "worst", "trace")}
        report.fail(step, f"{result.case}: {result.status}: {result.message}", **details)


def sanitized(cases: Sequence[Case]) -> list[Case]:
    """The cases for compute-sanitizer, which makes everything some ten to hundred times slower."""
    kernels = [
        x for x in cases if x.check in ("conv", "norm") and not x.backend.startswith("triton")
    ]
    return [x for x in kernels if x.size != (57, 56) and x.group in ("16x16", "1x8", "3x5")]


def sanitize(report: Report, cases: Sequence[Case], command: Sequence[str]) -> None:
    """Run cases under each tool of compute-sanitizer, if that is there."""
    program = shutil.which("compute-sanitizer")
    if program is None or not cases:
        report.record["sanitizer"].append({"skipped": "compute-sanitizer is not on PATH"})
        return
    for tool in progress(TOOLS, "compute-sanitizer"):
        report.record["sanitizer"].append(run_tool(report, program, tool, cases, command))
        report.save()


def run_tool(
    report: Report, program: str, tool: str, cases: Sequence[Case], command: Sequence[str]
) -> dict[str, Any]:
    """One tool over all of `cases`, in one process."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        options = ["--tool", tool, "--error-exitcode", "9", "--log-file", str(log)]
        status, output = run_command(
            [program, *options, *command],
            TOOL_SECONDS,
            stdin="".join(json.dumps(case.to_dict()) + "\n" for case in cases),
            # Else torch hands out parts of larger pieces, whose ends the tool can't see.
            environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        )
        text = log.read_text(errors="replace") if log.exists() else ""
    results = [json.loads(line) for line in output.splitlines() if line.startswith('{"case"')]
    wrong = [x for x in results if x["status"] in ("failed", "crashed")]
    if status != 0 or wrong or len(results) != len(cases):
        names = ", ".join(x["name"] for x in wrong[:5])
        report.fail(
            "sanitizer",
            f"{tool}: exit status {status}, {len(results)} of {len(cases)} cases ended, "
            f"{len(wrong)} were wrong {names}".strip(),
            log=text[:_TAIL],
            output=output[-_TAIL:],
        )
    return {
        "tool": tool,
        "status": status,
        "cases": len(results),
        "failed": wrong,
        "log": text[-_TAIL:],
    }


# ---- how fast? -----------------------------------------------------------------------------------


def scripts(backends: Sequence[str], *, quick: bool) -> list[Script]:
    """The benchmarks to run."""
    suite = "demo" if quick else "resnet50"
    rounds = "5" if quick else "21"
    common = ("--device", "cuda", "--suite", suite, "--rounds", rounds)

    def latency(name: str, *arguments: str) -> Script:
        return Script(name, "latency.py", (*common, *arguments))

    float16, tf32, many = ("--dtype", "float16"), ("--dtype", "tf32"), ("--batch", "32")
    both = ("--group", "16x16,1x8", "--sparsity", "0.5,0.75,0.9")
    few = ("--group", "16x16", "--sparsity", "0.75")
    found = [
        latency("float16, batch 32, L2 warm", *float16, *many, *both),
        latency("float16, batch 32, L2 flushed", *float16, *many, *both, "--cold"),
        latency("float16, batch 1, L2 warm", *float16, *both),
        latency("float16, batch 1, L2 flushed", *float16, *both, "--cold"),
        latency("float16, batch 1, eager", *float16, *few, "--eager"),
        latency("bfloat16, batch 32, L2 warm", "--dtype", "bfloat16", *many, *few),
        latency("tf32, batch 32, L2 warm", *tf32, *many, "--group", "16x8,1x8"),
        latency("tf32, batch 32, L2 flushed", *tf32, *many, "--group", "16x8", "--cold"),
        latency("float32, batch 32, L2 warm", "--dtype", "float32", *many, "--group", "1x8"),
    ]
    if "triton" in backends:
        triton = ("--backend", "triton")
        found.append(latency("triton, float16, batch 32, L2 warm", *float16, *many, *few, *triton))
    norms = ("--device", "cuda", "--suite", suite, "--rounds", rounds)
    found.append(Script("group_l1_norm", "group_l1.py", (*norms, "--group", "1x8,4x4,16x16")))
    return found


def take_times(report: Report, scripts: Sequence[Script]) -> None:
    """Run every benchmark; its file becomes part of ours."""
    for script in progress(scripts, "benchmarks"):
        report.record["times"].append(run_script(report, script))
        report.save()


def run_script(report: Report, script: Script) -> dict[str, Any]:
    """Run one, in a process of its own."""
    found: dict[str, Any] = {"name": script.name, "script": script.file}
    found["arguments"] = list(script.arguments)
    found["clocks_before"] = nvidia_smi()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "record.json"
        command = [sys.executable, str(HERE / script.file), *script.arguments, "--json", str(file)]
        status, output = run_command(command, SCRIPT_SECONDS)
        found["status"] = status
        if status == 0 and file.exists():
            found["record"] = json.loads(file.read_text())
        else:
            report.fail("times", f"{script.name}: exit status {status}", output=output[-_TAIL:])
    found["clocks_after"] = nvidia_smi()
    return found


# ---- parts ---------------------------------------------------------------------------------------


def steps(text: str) -> list[str]:
    """``cases,times`` as names of steps."""
    names = text.split(",")
    if not set(names) <= set(STEPS):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected steps out of {','.join(STEPS)}")
    return names


def why_not(backend: str) -> str | None:
    """Why a backend can't run here, or None where it can."""
    try:
        resolve(backend)
    except RuntimeError as error:
        return " ".join(str(error).split())
    return None


def worker_command(device: torch.device) -> list[str]:
    """Of `gpu_worker`, for `device`."""
    return [sys.executable, str(HERE / "gpu_worker.py"), str(device)]


def run_command(
    command: Sequence[str],
    seconds: float,
    stdin: str = "",
    environment: dict[str, str] | None = None,
) -> tuple[int | str, str]:
    """Run a command to its end.

    Returns:
        Its exit status, or why it has none, and what it printed, errors included.
    """
    try:
        ended = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired as error:
        parts = [part or b"" for part in (error.stdout, error.stderr)]
        text = b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)
        return f"none: it did not end within {seconds:g} s", text.decode(errors="replace")
    except OSError as error:
        return f"none: {error}", ""
    return ended.returncode, ended.stdout + ended.stderr


def package_version(name: str) -> str | None:
    """Of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """Of the sources, with a ``+`` where they were changed."""
    status, text = run_command(["git", "-C", str(HERE), "rev-parse", "HEAD"], 30)
    if status != 0:
        return None
    _, changes = run_command(["git", "-C", str(HERE), "status", "--porcelain", "-uno"], 30)
    return text.strip() + ("+" if changes.strip() else "")


def summary(report: Report) -> str:
    """What the user sees at the end."""
    record = report.record
    count: dict[str, int] = {}
    for result in record["cases"]:
        count[result["status"]] = count.get(result["status"], 0) + 1
    lines = [f"cases: {', '.join(f'{n} {status}' for status, n in count.items()) or 'none'}"]
    passed = [x for x in record["cases"] if x["status"] == "passed"]
    if passed:
        worst = max(passed, key=lambda x: x["worst"])
        lines.append(f"largest error: {worst['worst']:.2f} of what is allowed, {worst['name']}")
    for found in record["times"]:
        for total in found.get("record", {}).get("totals", []):
            sparsity = total.get("sparsity")
            pruned = "" if sparsity is None else f", {100 * sparsity:g} % pruned"
            speedup = total["speedup"]
            text = "-" if speedup is None else f"{speedup:.2f}x"
            lines.append(f"{found['name']}, {total['group']}{pruned}: {text}")
    failures = record["failures"]
    lines += [f"FAILED {x['step']}: {x['message'].splitlines()[0]}" for x in failures[:10]]
    if len(failures) > 10:
        lines.append(f"... and {len(failures) - 10} more")
    lines.append(f"{'complete' if record['complete'] else 'NOT complete'}: {report.path}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
