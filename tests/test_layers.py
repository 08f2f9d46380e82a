# SPDX-License-Identifier: MIT
"""Who may use whom; the same rule stands in csrc/README.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Folder of csrc: the folders whose headers it may include, besides the standard library; and, in
# files for the GPU and nowhere else, CUDA's.
NATIVE = {
    "base": {"base"},
    "format": {"base", "format"},
    "kernels/linear": {"base", "kernels/linear"},
    "kernels/group_l1": {"base", "format", "kernels/group_l1"},
    "kernels/conv2d": {"base", "format", "kernels/conv2d"},
    "kernels/conv2d_grad": {"base", "format", "kernels/conv2d", "kernels/conv2d_grad"},
    "capi": {"base", "format", "kernels/group_l1", "kernels/conv2d", "include", "capi"},
    # It sees the installed header and ExecuTorch's, like any program.
    "executorch": set(),
    "bindings": {
        *(
            "base",
            "format",
            "kernels/linear",
            "kernels/group_l1",
            "kernels/conv2d",
            "kernels/conv2d_grad",
        ),
        *("include", "torch", "python", "bindings"),
    },
}

# Module of l1sparse: the modules of l1sparse that it may import.
PYTHON = {
    "format": set(),
    "group_mask": {"format"},
    "reference": {"format", "group_mask"},
    "ops": {"_C", "format", "group_mask", "reference"},
    "conv_grad": {"ops"},
    "version": set(),
    "build": {"_C", "version"},
    # The kernels without torch.
    "runtime": {"_runtime", "format", "runtime"},
    # ops calls it by name when it is complete.
    "start": {"build", "gpu"},
    # Its backends are found by name: _cuda and triton may be missing.
    "gpu": {"_C", "_cuda", "gpu", "ops", "format", "group_mask"},
    "triton": {"triton", "gpu", "format"},
    "nn": {"nn", "conv_grad", "gpu", "ops", "format", "group_mask", "reference"},
    "layer_time": {"format"},
    "pruning": {"pruning", "ops", "format", "group_mask", "layer_time", "version"},
    "convert": {"convert", "files", "nn", "ops", "format", "group_mask", "layer_time", "version"},
    "report": {"files", "report"},
    # conv_grad, convert, nn and ops: to train on the pattern where that was measured faster.
    "train": {"conv_grad", "convert", "files", "format", "nn", "ops", "pruning", "train"},
    "demo": {"convert", "pruning", "train"},
    "files": set(),
    "__main__": {"cli"},
    "cli": {"build", "cli", "convert", "demo", "files", "format", "pruning", "report", "train"},
    "__init__": {"build", "convert", "format", "gpu", "nn", "ops", "pruning"},
}


SUFFIXES = (".h", ".cpp", ".inc", ".cu", ".cuh")


def native_folder(include: str) -> str:
    parts = include.split("/")
    if parts[0] == "kernels":
        return "/".join(parts[:2])
    if include == "Python.h":
        return "python"
    return parts[0]


@pytest.mark.parametrize("folder", NATIVE)
def test_native_code_includes_only_what_its_folder_may_use(folder: str) -> None:
    files = [p for p in (ROOT / "csrc" / folder).iterdir() if p.suffix in SUFFIXES]
    assert files
    for path in files:
        text = path.read_text()
        included = {native_folder(i) for i in re.findall(r'#include "([^"]+)"', text)}
        included |= {
            native_folder(i) for i in re.findall(r"#include <((?:torch/|Python).*)>", text)
        }
        assert included <= NATIVE[folder], f"{path}: {included - NATIVE[folder]}"
        if path.suffix not in (".cu", ".cuh"):
            assert not re.search(r"#include <cuda", text), path


def test_every_native_folder_has_a_rule() -> None:
    sources = [p for p in (ROOT / "csrc").rglob("*.c*") if p.suffix in SUFFIXES]
    folders = {str(p.parent.relative_to(ROOT / "csrc")) for p in sources}
    assert folders == set(NATIVE)


def imported(path: Path) -> set[str]:
    """Modules of l1sparse, by their first name, that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module == "l1sparse":
                names |= {f"l1sparse.{alias.name}" for alias in node.names}
            elif node.module:
                names.add(node.module)
    return {name.split(".")[1] for name in names if name.startswith("l1sparse.")}


@pytest.mark.parametrize("path", sorted((ROOT / "l1sparse").rglob("*.py")), ids=str)
def test_python_imports_only_what_its_module_may_use(path: Path) -> None:
    module = path.relative_to(ROOT / "l1sparse").parts[0].removesuffix(".py")
    assert imported(path) <= PYTHON[module], f"{path}: {imported(path) - PYTHON[module]}"
