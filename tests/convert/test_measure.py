# SPDX-License-Identifier: MIT
"""Alternating measurement, on a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from l1sparse.convert import Timing, alternate, measure


class Clock:
    """Stands still but for the calls under measurement."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls: list[str] = []

    def takes(self, name: str, milliseconds: Callable[[], float]) -> Callable[[], None]:
        def call() -> None:
            self.calls.append(name)
            self.seconds += milliseconds() / 1e3

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock.seconds)
    return clock


def test_the_time_of_one_call_is_reported_in_milliseconds(clock: Clock) -> None:
    times = alternate(
        {"slow": clock.takes("slow", lambda: 7.0), "fast": clock.takes("fast", lambda: 0.01)}
    )
    assert list(times) == ["slow", "fast"]
    assert times["slow"].median == pytest.approx(7.0)
    assert times["fast"].median == pytest.approx(0.01)


def test_candidates_take_turns_after_a_warm_up(clock: Clock) -> None:
    calls = {name: clock.takes(name, lambda: 5.0) for name in "ab"}
    alternate(calls, rounds=4, round_seconds=0.005)
    turns = "aabb" * 4  # one call that is not timed, one that is
    assert "".join(clock.calls[-16:]) == turns
    assert clock.calls[:-16].count("a") >= 1
    assert clock.calls[:-16].count("b") >= 1


def test_short_calls_are_repeated_until_a_turn_is_long_enough(clock: Clock) -> None:
    alternate({"short": clock.takes("short", lambda: 0.1)}, rounds=3, round_seconds=0.002)
    assert len(clock.calls) == pytest.approx(3 * 21, abs=3)


def test_outliers_move_the_percentiles_and_not_the_median(clock: Clock) -> None:
    # Two calls to warm up, then two a round, of which the second is timed.
    timed = [5.0, 1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 6.0, 90.0, 90.0, 100.0]
    durations = iter([9.0, 9.0] + [d for each in timed for d in (500.0, each)])
    call = clock.takes("uneven", lambda: next(durations))
    timing = alternate({"uneven": call}, rounds=11, round_seconds=0.002)["uneven"]
    assert (timing.median, timing.low, timing.high) == pytest.approx((5.0, 2.0, 90.0))


def test_a_call_that_takes_no_time_at_all_is_measured(clock: Clock) -> None:
    times = alternate({"nothing": clock.takes("nothing", lambda: 0.0)}, 2, round_seconds=1e-6)
    assert times["nothing"] == Timing(0.0, 0.0, 0.0)


def test_an_error_of_a_candidate_is_the_callers(clock: Clock) -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        alternate({"fine": clock.takes("fine", lambda: 1.0), "broken": fail})
