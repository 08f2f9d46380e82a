# SPDX-License-Identifier: MIT
"""What the compiler made of the GPU kernels, and the gate that it has to pass. No GPU is needed.

Compiles every ``csrc/**/*.cu`` for a list of architectures and prints for each kernel: registers,
stack frame, spills, shared memory, how many warps fit on a multiprocessor, widths of loads from
global memory, and whether tensor-core instructions are there. Exit code 1 where the gate fails:
a stack frame or a spill; and what the line above the kernel states, which looks like

    // gpu-code: name<*, 4> threads 128 dynamic 1024 loads 16x20 uses HMMA LDSM warps 80:12 90:16

with the kernel's name and template arguments (``*``: any), threads of a block, bytes of dynamic
shared memory, bytes of a load from global memory and how many instructions load as many at least,
instructions that must be there, and warps that fit on a multiprocessor at least, by architecture.
Every kernel needs such a line. Copies to shared memory that bypass registers must be of 16 bytes.

Run it as ``python benchmarks/gpu_code.py`` or ``make gpu-code``.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from output import write_json

ROOT = Path(__file__).resolve().parents[1]
ARCHES = (75, 80, 86, 90, 100, 120)


@dataclass(frozen=True)
class Limits:
    """Of a multiprocessor: CUDA C++ Programming Guide, "Technical Specifications per Compute
    Capability"; allocation units from the CUDA Occupancy Calculator.
    """

    warps: int
    blocks: int
    shared: int
    """Bytes."""
    reserved: int
    """Bytes of shared memory that the system takes of every block."""
    registers: int = 65536
    register_unit: int = 256
    """Registers are given to a warp in so many."""
    warp_unit: int = 4
    """Warps that registers are counted for: one of each quarter of the multiprocessor."""
    shared_unit: int = 128


LIMITS = {
    75: Limits(warps=32, blocks=16, shared=64 * 1024, reserved=0, shared_unit=256),
    80: Limits(warps=64, blocks=32, shared=164 * 1024, reserved=1024),
    86: Limits(warps=48, blocks=16, shared=100 * 1024, reserved=1024),
    90: Limits(warps=64, blocks=32, shared=228 * 1024, reserved=1024),
    100: Limits(warps=64, blocks=32, shared=228 * 1024, reserved=1024),
    120: Limits(warps=48, blocks=24, shared=100 * 1024, reserved=1024),
}


@dataclass(frozen=True)
class Statement:
    """What a ``gpu-code`` line states of the kernels that `pattern` matches."""

    pattern: str
    threads: int
    dynamic: int
    width: int
    loads: int
    uses: tuple[str, ...]
    warps: dict[int, int]


@dataclass(frozen=True)
class Kernel:
    """A kernel as compiled for one architecture."""

    name: str
    arch: int
    registers: int
    stack: int
    spills: int
    """Bytes, stores and loads."""
    static: int
    """Bytes of static shared memory."""
    loads: dict[int, int]
    """Instructions that load from global memory (or where the compiler does not know it: from
    any), by bytes a thread."""
    narrow_copies: int
    """Copies to shared memory, past registers, of less than 16 bytes a thread."""
    instructions: dict[str, int]
    """Tensor-core multiplies, copies to shared memory and matrix loads."""


INSTRUCTIONS = ("HMMA", "LDGSTS", "LDSM")


def warps_that_fit(limits: Limits, threads: int, registers: int, shared: int) -> int:
    """Warps on a multiprocessor when nothing else runs there.

    Args:
        limits: the multiprocessor's.
        threads: of a block.
        registers: of a thread.
        shared: bytes of a block, static and dynamic.
    """
    warps = -(-threads // 32)
    of_warp = _up(registers * 32, limits.register_unit)
    by_registers = limits.registers // of_warp // limits.warp_unit * limits.warp_unit // warps
    by_shared = limits.shared // max(_up(shared + limits.reserved, limits.shared_unit), 1)
    return warps * min(limits.blocks, limits.warps // warps, by_registers, by_shared)


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def statements(source: Path) -> list[Statement]:
    """The ``gpu-code`` lines of a file.

    Raises:
        ValueError: if one is not of the form above.
    """
    found = []
    for line in re.findall(r"^// gpu-code: (.*)$", source.read_text(), re.MULTILINE):
        parts = re.fullmatch(
            r"(\w+<.*>) threads (\d+) dynamic (\d+) loads (\d+)x(\d+)"
            r"(?: uses ((?:[A-Z]+ )*[A-Z]+))? warps (\d+:\d+(?: \d+:\d+)*)",
            line,
        )
        if parts is None:
            raise ValueError(f"{source}: gpu-code: got {line!r}, see benchmarks/gpu_code.py")
        pairs = (pair.split(":") for pair in parts[7].split())
        found.append(
            Statement(
                pattern=parts[1],
                threads=int(parts[2]),
                dynamic=int(parts[3]),
                width=int(parts[4]),
                loads=int(parts[5]),
                uses=tuple((parts[6] or "").split()),
                warps={int(arch): int(warps) for arch, warps in pairs},
            )
        )
    return found


def compile_file(nvcc: str, source: Path, arch: int, csrc: Path) -> list[Kernel]:
    """Every kernel of `source` on `arch`.

    Raises:
        RuntimeError: if it does not compile, with the compiler's words.
    """
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        said = _output(
            nvcc,
            "-cubin",
            f"-arch=sm_{arch}",
            "-std=c++20",
            "-O3",
            f"-I{csrc}",
            "-Xptxas=-v",
            str(source),
            "-o",
            str(cubin),
        )
        code = _output(find_tool("cuobjdump"), "-sass", str(cubin))
    return kernels_of(said, code, arch)


def kernels_of(ptxas: str, sass: str, arch: int) -> list[Kernel]:
    """Kernels by what ``ptxas -v`` says of them, and their machine code by ``cuobjdump -sass``."""
    bodies = dict(re.findall(r"^\s*Function : (\S+)\n(.*?)(?=^\s*Function : |\Z)", sass, _BODY))
    found = []
    for mangled, facts in re.findall(
        r"Compiling entry function '(\w+)'(.*?)(?=Compiling entry function|\Z)", ptxas, re.DOTALL
    ):
        operations = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)",
                                bodies[mangled], re.MULTILINE)  # fmt: skip
        loads = [width(o) for o in operations if o.split(".")[0] in ("LD", "LDG", "LDGSTS")]
        narrow = [o for o in operations if o.startswith("LDGSTS") and width(o) < 16]
        found.append(
            Kernel(
                name=demangle(mangled),
                arch=arch,
                registers=_number(r"Used (\d+) registers", facts),
                stack=_number(r"(\d+) bytes stack frame", facts),
                spills=_number(r"(\d+) bytes spill stores", facts)
                + _number(r"(\d+) bytes spill loads", facts),
                static=_number(r"(\d+) bytes smem", facts, 0),
                loads=dict(sorted(Counter(loads).items())),
                narrow_copies=len(narrow),
                instructions={
                    name: sum(o.split(".")[0] == name for o in operations) for name in INSTRUCTIONS
                },
            )
        )
    return found


_BODY = re.MULTILINE | re.DOTALL


def width(operation: str) -> int:
    """Bytes a thread of a load such as ``LDG.E.128.CONSTANT``."""
    for part in operation.split("."):
        if part in ("U8", "S8"):
            return 1
        if part in ("U16", "S16"):
            return 2
        if part in ("64", "128"):
            return int(part) // 8
    return 4


def _number(pattern: str, text: str, default: int | None = None) -> int:
    found = re.search(pattern, text)
    if found is None and default is None:
        raise RuntimeError(f"ptxas does not say {pattern!r}: {text}")
    return int(found[1]) if found is not None else int(default or 0)


def demangle(name: str) -> str:
    """``kernel<float, 4>`` for its mangled name."""
    full = _output("c++filt", name).strip()
    found = re.search(r"(\w+(?:<[^()]*>)?)\(", full.replace("(anonymous namespace)::", ""))
    return found[1] if found else full


def _output(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")
    return result.stdout + result.stderr


def find_tool(name: str) -> str:
    """A tool of the CUDA toolkit: in CUDA_HOME, PATH, the usual place, or a Python package.

    Raises:
        RuntimeError: if it is in none of them.
    """
    home = os.environ.get("CUDA_HOME")
    folders = [Path(home) / "bin"] if home else []
    packages = Path(sys.prefix) / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    folders += [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    folders += [
        Path("/usr/local/cuda/bin"),
        *sorted((packages / "nvidia").glob("cu*/bin")),
        packages / "triton" / "backends" / "nvidia" / "bin",
    ]
    for folder in folders:
        found = shutil.which(str(folder / name))
        if found:
            return found
    raise RuntimeError(
        f"{name}: is not in CUDA_HOME, PATH or /usr/local/cuda/bin, nor in a Python package "
        "(pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm)"
    )


def row_of(kernel: Kernel, stated: list[Statement]) -> dict[str, Any]:
    """A kernel's figures, its warps, and what is wrong with it by the gate."""
    fitting = [s for s in stated if fnmatch.fnmatchcase(kernel.name, s.pattern)]
    row: dict[str, Any] = {**asdict(kernel), "warps": None, "stated_warps": None, "failures": []}
    failures: list[str] = row["failures"]
    if kernel.stack:
        failures.append(f"a stack frame of {kernel.stack} bytes")
    if kernel.spills:
        failures.append(f"{kernel.spills} bytes of spills")
    if len(fitting) != 1:
        failures.append(f"{len(fitting)} gpu-code lines state something of it, expected 1")
        return row
    (statement,) = fitting
    row["dynamic"] = statement.dynamic
    row["warps"] = warps_that_fit(
        LIMITS[kernel.arch], statement.threads, kernel.registers, kernel.static + statement.dynamic
    )
    row["stated_warps"] = statement.warps.get(kernel.arch)
    if row["stated_warps"] is None:
        failures.append("no warps are stated for this architecture")
    elif row["warps"] < row["stated_warps"]:
        failures.append(f"{row['warps']} warps fit, {row['stated_warps']} are stated")
    wide = kernel.loads.get(statement.width, 0)
    if wide < statement.loads:
        failures.append(f"{wide} loads of {statement.width} bytes, {statement.loads} are stated")
    if kernel.narrow_copies:
        failures.append(f"{kernel.narrow_copies} copies to shared memory of less than 16 bytes")
    failures += [f"no {name} in it" for name in statement.uses if not kernel.instructions[name]]
    return row


def inspect(csrc: Path, arches: Sequence[int], jobs: int) -> list[dict[str, Any]]:
    """A row for every kernel under `csrc` and architecture that it is for."""
    nvcc = find_tool("nvcc")
    work = []
    for source in sorted(csrc.rglob("*.cu")):
        # What a header states holds for every file.
        stated = [s for file in (source, *sorted(csrc.rglob("*.cuh"))) for s in statements(file)]
        needed = re.search(r"^// Needs sm_(\d+) or later\.$", source.read_text(), re.MULTILINE)
        least = int(needed[1]) if needed else 0
        work += [(source, arch, stated) for arch in arches if arch >= least]

    def one(job: tuple[Path, int, list[Statement]]) -> list[dict[str, Any]]:
        source, arch, stated = job
        file = str(source.relative_to(csrc))
        kernels = compile_file(nvcc, source, arch, csrc)
        return [{"file": file, **row_of(kernel, stated)} for kernel in kernels]

    with ThreadPoolExecutor(jobs) as pool:
        return [row for rows in pool.map(one, work) for row in rows]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| kernel | sm | registers | stack | spills | shared | warps (stated) "
        "| loads of 16, 8, 4, 2 bytes | HMMA, LDGSTS, LDSM | gate |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: (r["file"], r["name"], r["arch"])):
        loads = ", ".join(str(row["loads"].get(width, 0)) for width in (16, 8, 4, 2))
        used = ", ".join(str(row["instructions"][name]) for name in INSTRUCTIONS)
        shared = row["static"] + (row.get("dynamic") or 0)
        lines.append(
            f"| `{row['name']}` | {row['arch']} | {row['registers']} | {row['stack']} | "
            f"{row['spills']} | {shared} | {row['warps']} ({row['stated_warps']}) | {loads} | "
            f"{used} | {'; '.join(row['failures']) or 'passes'} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program; 0 where every kernel passes the gate, 1 where one fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--arch", default=",".join(map(str, ARCHES)), help="such as 80,90")
    parser.add_argument("--csrc", type=Path, default=ROOT / "csrc", help="folder of the sources")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    arches = [int(arch) for arch in options.arch.split(",") if arch.isdigit()]
    if not arches or not set(arches) <= set(LIMITS):
        parser.error(f"--arch: got {options.arch!r}, expected some of {sorted(LIMITS)}")
    try:
        rows = inspect(options.csrc.resolve(), arches, options.jobs)
    except (RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(table(rows))
    if options.json:
        write_json(options.json, {"kernels": rows})
    failed = [row for row in rows if row["failures"]]
    for row in failed:
        print(f"{row['name']} sm_{row['arch']}: {'; '.join(row['failures'])}", file=sys.stderr)
    print(f"{len(rows) - len(failed)} of {len(rows)} pass the gate", file=sys.stderr)
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
