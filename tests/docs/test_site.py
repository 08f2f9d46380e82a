# SPDX-License-Identifier: MIT
"""The docs site: complete, built without a warning, and in need of no other site."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", ["l1sparse", "l1sparse.pruning", "l1sparse.runtime"])
def test_api_pages_have_every_public_name_once(module: str) -> None:
    page = (ROOT / f"docs/api/{module.removeprefix('l1sparse.')}.md").read_text()
    documented = re.findall(rf"^::: {re.escape(module)}\.(\w+)$", page, re.MULTILINE)
    public = importlib.import_module(module).__all__
    assert sorted(documented) == sorted(name for name in public if name != "__version__")


def test_every_page_is_in_the_navigation_and_there_is_no_other() -> None:
    listed = re.findall(r"[\w./-]+\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    docs = ROOT / "docs"
    assert sorted(listed) == sorted(p.relative_to(docs).as_posix() for p in docs.rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the site needs pip install 'l1sparse[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    return folder


class Loaded(HTMLParser):
    """Collects the addresses that a browser loads by itself to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        of = {name: value or "" for name, value in attributes}
        if tag in ("script", "img", "iframe", "source"):
            self.addresses.append(of.get("src", ""))
        if tag == "link":
            self.addresses.append(of.get("href", ""))


def addresses(page: Path) -> Iterator[str]:
    parser = Loaded()
    parser.feed(page.read_text())
    return filter(None, parser.addresses)


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    assert len(pages) > 20
    for page in pages:
        for address in addresses(page):
            # Pages and what they load also work where there is no server.
            assert (page.parent / address.split("#")[0].split("?")[0]).exists(), (page, address)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", sheet.read_text()), sheet


def test_docstrings_are_on_the_api_pages(site: Path) -> None:
    text = (site / "api/l1sparse.html").read_text()
    for words in ("A copy of a pruned network for fast inference", "Parameters:", "Raises:"):
        assert words in text
