# SPDX-License-Identifier: MIT
"""How far a run is: bars where there is a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

import l1sparse
from l1sparse.train.progress import Countdown

SLOW_WORK = """\
import time
from l1sparse.train.progress import say, tracked

for item in tracked(range(5), "work", 5):
    time.sleep(0.15)
    if item == 2:
        say("a line")
"""


def test_in_a_terminal_there_is_a_bar_with_the_time_left() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_WORK],
        stderr=theirs,
        env=os.environ | {"PYTHONPATH": str(Path(l1sparse.__file__).parents[1])},
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # that is how the end of a terminal shows
        pass
    os.close(ours)
    assert process.wait() == 0
    text = shown.decode()
    assert "work:  60%|" in text
    assert "3/5 [00:00<00:00" in text, "time gone and time left"
    assert "\r" in text
    assert "a line\r\n" in text, "above the bar, on a line of its own"


def test_time_left_follows_from_what_was_done_in_this_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    countdown = Countdown(10, done=4)
    assert countdown.left(4) == "?"
    now = 160.0
    assert countdown.left(6) == "02:00", "30 seconds each, 4 are left"
    countdown.skip()
    assert countdown.left(6) == "04:00", "60 seconds each"
    assert countdown.left(10) == "00:00"
