# SPDX-License-Identifier: MIT
"""PTX text to tokens, without comments and debug information."""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import PtxError

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+)|(?P<newline>\n)|(?P<string>"[^"\n]*")
    |(?P<number>0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}|0[xX][0-9a-fA-F]+U?
      |\d+\.\d*(?:[eE][-+]?\d+)?|\d+U?)
    |(?P<word>[A-Za-z_$%][\w$%]*(?:(?:::|\.)[\w$]+)*|\.[A-Za-z_]\w*(?:::\w+)?)
    |(?P<mark>[-+@!,;:(){}\[\]<>=|])""",
    re.VERBOSE,
)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
# Debug information: lines that end without a semicolon, and sections in braces.
_DEBUG_LINE = re.compile(r"^\s*\.(?:loc|file)\b[^\n]*", re.MULTILINE)
_DEBUG_SECTION = re.compile(r"^\s*\.section\s+[.\w]+\s*\{[^}]*\}", re.MULTILINE)


class Token(NamedTuple):
    kind: str
    text: str
    line: int
    start: int


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match.group())


def tokenize(text: str) -> tuple[str, list[Token]]:
    for pattern in (_COMMENT, _DEBUG_LINE, _DEBUG_SECTION):
        text = pattern.sub(_blank, text)
    tokens: list[Token] = []
    place, line = 0, 1
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise PtxError(f"unexpected character {text[place]!r}", line)
        kind = match.lastgroup or ""
        if kind == "newline":
            line += 1
        elif kind != "space":
            tokens.append(Token(kind, match.group(), line, place))
        place = match.end()
    tokens.append(Token("end", "", line, len(text)))
    return text, tokens
