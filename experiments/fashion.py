# SPDX-License-Identifier: MIT
"""Strategies compared on Fashion-MNIST. Each run is a file; what is there is not run again.

Stop it whenever you like: it goes on where it was, and the table says what is there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from tqdm.auto import tqdm

from fashion_cells import CORE, SEEDS, WIDE, Cell, run_cell
from fashion_data import DEBIAN_FOLDER, FashionData, load_fashion
from fashion_dense import Dense, dense_network
from fashion_table import summary, text_table
from fashion_times import measure_cells
from json_files import read_json, write_json

HERE = Path(__file__).parent


def main() -> int:
    """Run what is missing, then print the table."""
    options = _options()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cells = CORE if options.cells == "core" else (*CORE, *WIDE)
    try:
        data = load_fashion(options.data)
    except (OSError, ValueError) as error:
        print(f"experiment: {error}", file=sys.stderr)
        return 1
    try:
        _run_missing(cells, options, data, device)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
    print(write_summary(options.results))
    if options.times:
        measure_cells((*CORE, *WIDE), options.seeds[0], options.cache, options.results)
    return 0


def write_summary(results: Path) -> str:
    """Collect the runs that are there into ``summary.json``; returns it as a text table."""
    records = [read_json(path) for path in sorted(results.glob("*.json"))]
    records = [record for record in records if "cell" in record]  # not the dense networks'
    written = summary(records, (*CORE, *WIDE))
    write_json(results / "summary.json", written)
    return text_table(written)


def _run_missing(
    cells: tuple[Cell, ...], options: argparse.Namespace, data: FashionData, device: str
) -> None:
    results, cache = options.results, options.cache
    dense: dict[int, Dense] = {}
    runs = [(cell, seed) for cell in cells for seed in options.seeds]
    missing = [run for run in runs if not (results / f"{run[0].name(run[1])}.json").exists()]
    with tqdm(missing, disable=not sys.stderr.isatty()) as bar:
        for cell, seed in bar:
            if seed not in dense:
                dense[seed] = dense_network(data, seed, results, cache, device)
            record = run_cell(cell, seed, dense[seed], data, results, cache)
            lost = dense[seed].record["longer"]["test"] - record["test"]
            tqdm.write(
                f"{cell.name(seed)}: pruned {record['pruned_share']:.1%}, test "
                f"{record['test']:.2%}, {-100 * lost:+.2f} points, {record['cpu_seconds']} s",
                file=sys.stderr,
            )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: make experiment")
    parser.add_argument(
        "--data", type=Path, default=DEBIAN_FOLDER, help="the four IDX files (default: %(default)s)"
    )
    parser.add_argument("--results", type=Path, default=HERE / "results" / "fashion")
    parser.add_argument(
        "--cache",
        type=Path,
        default=HERE.parent / "build" / "experiment",
        help="for weights, which are not kept under version control (default: %(default)s)",
    )
    parser.add_argument("--cells", choices=("core", "all"), default="all")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument(
        "--times", action="store_true", help="measure the networks in the cache on this machine"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
