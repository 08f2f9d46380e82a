# SPDX-License-Identifier: MIT
"""HTML in small pieces: everything that comes from a record is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

# One palette, light and dark; the plots' SVG refers to the same variables.
STYLE = """
:root { color-scheme: light dark; --page: #fbfbf9; --card: #ffffff; --text: #1d2327;
  --soft: #5d666d; --line: #dfe3e6; --c0: #2563c9; --c1: #c8650a; --c2: #12805c; --c3: #b3261e;
  --c4: #7a3fc0; --c5: #0c7c99; --c6: #b0307a; --c7: #7d5a12; }
@media (prefers-color-scheme: dark) { :root { --page: #14181b; --card: #1c2226; --text: #e6eaec;
  --soft: #9aa5ac; --line: #343c42; --c0: #74a8ff; --c1: #f0a050; --c2: #52c69b; --c3: #ff8078;
  --c4: #bd97f5; --c5: #58c4e0; --c6: #f083bb; --c7: #d3b060; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .2rem; }
h2 { font-size: 1.2rem; margin: 0 0 .2rem; }
p { margin: .2rem 0 .8rem; max-width: 46rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1rem 1.1rem; margin: 1rem 0; }
.beside { display: grid; gap: 1rem 1.6rem; grid-template-columns: minmax(0, 1fr); }
@media (min-width: 62rem) { .beside { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); } }
.tiles { display: grid; gap: .7rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.25; font-weight: 650; }
.wall { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 40rem; color: var(--text); }
.wall img { display: block; width: 100%; max-height: 15rem; object-fit: contain;
  object-position: left top; image-rendering: pixelated; border: 1px solid var(--line);
  background: var(--page); }
.scroll { overflow-x: auto; max-height: 32rem; margin-bottom: .6rem; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .9rem .25rem 0; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; position: sticky; top: 0; background: var(--card); }
th:first-child, td:first-child { text-align: left; }
td.words, th.words { text-align: left; }
td.words { white-space: normal; min-width: 12rem; padding-right: 0; }
pre { overflow-x: auto; font-size: .8rem; background: var(--page); border: 1px solid var(--line);
  border-radius: .4rem; padding: .7rem; margin: .4rem 0; }
details > summary { cursor: pointer; font-weight: 600; }
"""


def page(title: str, parts: Sequence[str], data: str) -> str:
    """A whole document.

    Args:
        title: plain text.
        parts: HTML of the body, in order.
        data: the record as JSON text, kept in the page so that it can be read back.
    """
    # "</script>" inside of a string would end the element; JSON may write "<" as an escape.
    safe = data.replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + f'\n<script type="application/json" id="data">{safe}</script>\n</main></body></html>\n'
    )


def section(title: str, explanation: str, beside: Sequence[str], below: str = "") -> str:
    """A card: a title, a line of explanation, parts side by side where wide enough, one below."""
    parts = [f"<section><h2>{escape(title)}</h2>", f'<p class="soft">{escape(explanation)}</p>']
    if beside:
        parts.append(f'<div class="beside">{"".join(beside)}</div>')
    return "\n".join([*parts, below, "</section>"])


def tiles(entries: Sequence[tuple[str, str, str]]) -> str:
    """Big figures: (what it is, the figure, a line below)."""
    cells = (
        f'<div class="tile"><span class="soft">{escape(name)}</span><b>{escape(value)}</b>'
        f'<span class="soft">{escape(note)}</span></div>'
        for name, value, note in entries
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = ()) -> str:
    """A table; the first column is aligned to the left, and so are the columns `words`, wrapped."""

    def cell(column: int, text: str, tag: str = "td") -> str:
        kind = ' class="words"' if column in words else ""
        return f"<{tag}{kind}>{escape(text)}</{tag}>"

    head = "".join(cell(column, name, "th") for column, name in enumerate(header))
    body = "\n".join(
        f"<tr>{''.join(cell(column, text) for column, text in enumerate(row))}</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def figure(drawing: str, caption: str = "") -> str:
    """A drawing (SVG or an ``<img>``; HTML, not escaped) with its caption (plain text)."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{drawing}{below}</figure>"


def picture(png: str, description: str) -> str:
    """An ``<img>`` of PNG bytes in base64."""
    return f'<img src="data:image/png;base64,{png}" alt="{escape(description)}">'


def folded(title: str, text: str) -> str:
    """Preformatted text that opens on a click."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"
