# SPDX-License-Identifier: MIT
"""Every block of Python in README.md and docs/ runs; every command in them is a real one."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from unittest import SkipTest

import pytest
from page_setup import SETUP
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

from l1sparse.cli.main import _parser, main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PYTHON = Sybil([PythonCodeBlockParser(), SkipParser()])

# Page: the reasons that it gives for its blocks that are not run. Keep this short.
NOT_RUN = {
    "docs/gpu-use.md": ["needs an NVIDIA GPU"],
    "docs/imagenet.md": ["downloads the weights of torchvision"],
}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def python_blocks(page: Path) -> list[str]:
    fences = FencedCodeBlockLexer(language="python")(PYTHON.parse(page))
    return [str(fence.lexemes["source"]) for fence in fences]


@pytest.mark.parametrize("page", [p for p in PAGES if python_blocks(p)], ids=name_of)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    blocks, name = python_blocks(page), name_of(page)
    document = PYTHON.parse(page)
    if name in SETUP:
        document.namespace.update(SETUP[name](blocks))
    before, skipped = set(sys.modules), []
    try:
        for example in document.examples():
            try:
                example.evaluate()
            except SkipTest as reason:
                skipped.append(str(reason))
    finally:
        for module in set(sys.modules) - before:
            if getattr(sys.modules[module], "__file__", None) == str(tmp_path / f"{module}.py"):
                del sys.modules[module]
    assert skipped == NOT_RUN.get(name, [])


def test_blocks_of_python_are_marked_as_such() -> None:
    """One that is indented, or fenced with another name, would run nowhere."""
    looks_like_python = re.compile(r"^\s*(import l1sparse|from l1sparse|import torch\b)")
    for page in PAGES:
        marked = "\n".join(python_blocks(page))
        for line in page.read_text().splitlines():
            assert not looks_like_python.match(line) or line in marked, f"{page}: {line}"


def commands(page: Path) -> list[list[str]]:
    """Lines of the shell, as words, from all fences that name no other language."""
    document = PYTHON.parse(page)
    fences = FencedCodeBlockLexer(language="(?:sh)?")(document)
    lines = [line for fence in fences for line in str(fence.lexemes["source"]).splitlines()]
    ours = re.compile(r"(l1sparse|make|python|torchrun) ")
    return [shlex.split(line, comments=True) for line in lines if ours.match(line)]


def check_command(words: list[str]) -> None:
    """Raises, or exits as `argparse` does, where there is no such command or option."""
    if words[0] == "make":
        targets = (ROOT / "Makefile").read_text().split(".PHONY:")[1].splitlines()[0].split()
        assert words[1] in targets
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    else:
        ours = words[1:] if words[0] == "l1sparse" else words[words.index("l1sparse") + 1 :]
        _parser().parse_args(ours)


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=name_of)
def test_commands_parse(page: Path) -> None:
    for words in commands(page):
        try:
            check_command(words)
        except SystemExit:
            pytest.fail(f"{name_of(page)}: not understood: {shlex.join(words)}")


def test_commands_are_found() -> None:
    found = [words for page in PAGES for words in commands(page)]
    assert sum("l1sparse" in words for words in found) >= 12


@pytest.mark.parametrize("command", ["info", "plan --example"])
def test_small_commands_run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.split()) == 0
    assert capsys.readouterr().out
