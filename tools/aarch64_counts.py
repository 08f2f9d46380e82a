# SPDX-License-Identifier: MIT
"""Instructions that convolutions execute on a 64-bit Arm processor with NEON, counted by qemu.

Counts, not times: an emulator has no caches and no pipeline. Each layer's least count among ours is
held against the least among torch's dense convolutions. Needs what `aarch64_test.py` left
(`make wheel-aarch64 wheel-aarch64-test`).

    python tools/aarch64_counts.py --json docs/performance/neon-counts.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aarch64_test import SYSTEM
from aarch64_wheel import WORK

ROOT = Path(__file__).resolve().parents[1]
# Without SVE, so that dense convolutions are NEON's too.
PROCESSOR = "neoverse-n1"


def plugin() -> Path:
    """The counting plugin, for this machine's qemu."""
    library = WORK / "count_instructions.so"
    source = ROOT / "tools" / "count_instructions.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", str(source), "-o", str(library)], check=True)
    return library


def counted(*arguments: str) -> Iterator[dict[str, Any]]:
    """What `aarch64_counted.py` says, with the instructions between its marks."""
    site = WORK / "site-torch"
    command = ["qemu-aarch64", "-cpu", PROCESSOR, "-plugin", str(plugin()), "-L", str(SYSTEM)]
    command += [str(SYSTEM / "usr/bin/python3.11"), "-u", str(ROOT / "tools/aarch64_counted.py")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT / "benchmarks")]),
        "OMP_NUM_THREADS": "1",
    }
    # Both streams in one, in their order: a line of JSON follows its two marks.
    process = subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=WORK,
    )
    assert process.stdout is not None
    marks: list[int] = []
    other: list[str] = []
    for line in process.stdout:
        if line.startswith("instructions "):
            marks.append(int(line.split()[1]))
        elif line.startswith("{"):
            record = json.loads(line)
            if "kind" in record:
                record["instructions"] = marks[-1] - marks[-2]
            yield record
        else:
            other.append(line)
    if process.wait() != 0:
        raise SystemExit(f"aarch64_counts: the program failed:\n{''.join(other[-20:])}")


def table(rows: list[dict[str, Any]], sparsities: list[float]) -> str:
    """Of millions of instructions, a line a layer and one of all."""
    layers: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        layers.setdefault(row["layer"], []).append(row)
    head = " | ".join(f"{100 * s:g} %" for s in sparsities)
    lines = [f"| layer | dense | {head} |", "|---|---:|" + "---:|" * len(sparsities)]
    sums = [0.0] * (1 + len(sparsities))

    def line(name: str, counts: list[float]) -> str:
        ours = [f"{x / 1e6:,.1f} ({counts[0] / x:.2f}x)" for x in counts[1:]]
        return f"| {name} | {counts[0] / 1e6:,.1f} | {' | '.join(ours)} |"

    for name, own in layers.items():
        counts = [
            float(min(x["instructions"] for x in own if x["kind"] == kind and x["sparsity"] == s))
            for kind, s in [("dense", 0), *(("ours", s) for s in sparsities)]
        ]
        lines.append(line(name, counts))
        sums = [total + own[0]["count"] * x for total, x in zip(sums, counts, strict=True)]
    lines.append(line("all, as often as the network has them", sums))
    return "\n".join(lines)


def main() -> None:
    """Counts, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--suite", default="resnet50")
    parser.add_argument("--group", default="1x8")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.75, 0.9])
    parser.add_argument("--json", type=Path, help="write everything there")
    options = parser.parse_args()
    if not (WORK / "site-torch").exists():
        raise SystemExit("aarch64_counts: run make wheel-aarch64 wheel-aarch64-test first")
    machine: dict[str, Any] = {}
    rows = []
    for record in counted(options.suite, options.group, json.dumps(options.sparsity)):
        if "kind" not in record:
            machine = record
            continue
        rows.append(record)
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if options.json:
        about = {"processor": f"qemu, {PROCESSOR}", "group": options.group, **machine}
        options.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
    print(table(rows, options.sparsity))


if __name__ == "__main__":
    main()
