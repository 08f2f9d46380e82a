# SPDX-License-Identifier: MIT
"""What the interpreter raises: PTX it does not know, and faults of the kernel it runs."""

from __future__ import annotations


class PtxError(Exception):
    """PTX that is malformed, or that this interpreter does not know.

    Attributes:
        line: The line of the PTX text, counted from 1; 0 if none is to blame.
        text: The statement as it stands there.
    """

    def __init__(self, message: str, line: int = 0, text: str = "") -> None:
        where = f"PTX line {line}: " if line else ""
        super().__init__(f"{where}{message}" + (f"\n    {text}" if text else ""))
        self.line = line
        self.text = text


class Hazard(PtxError):  # noqa: N818 - the kernel's fault, not the interpreter's
    """A fault of the kernel: it read or wrote what it must not, or raced with itself.

    Attributes:
        kind: One of ``KINDS``.
    """

    KINDS = (
        "out of bounds",
        "misaligned",
        "uninitialised register",
        "uninitialised memory",
        "shared race",
        "global race",
        "unwaited copy",
        "divergent barrier",
        "bad shuffle",
        "arithmetic",
        "trap",
    )

    def __init__(self, kind: str, message: str, line: int = 0, text: str = "") -> None:
        assert kind in self.KINDS, kind
        super().__init__(f"{kind}: {message}", line, text)
        self.kind = kind
