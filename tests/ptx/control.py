# SPDX-License-Identifier: MIT
"""Which threads run next: divergence and reconvergence, calls, barriers.

Of all groups of threads that are not at the same instruction the one with the least program
counter runs (deeper calls first), until it meets another group, which it joins, or passes it.
Threads that must wait for others - at a barrier, or at an instruction that a warp executes
together - are put aside until those come; if none is left to come, that is a hazard.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .link import Program, Step
from .machine import Lanes, Machine


class Place(NamedTuple):
    """A program counter with the return addresses of the calls it is in."""

    counter: int
    stack: tuple[int, ...] = ()


def _order(place: Place) -> tuple[int, tuple[int, ...], int]:
    return -len(place.stack), place.stack, place.counter


class Scheduler:
    """Runs a program on a machine.

    Attributes:
        ready: The threads that can go on, by place.
        waiting: Those that wait for others.
    """

    def __init__(self, machine: Machine, program: Program) -> None:
        self.machine = machine
        self.steps = program.steps
        self.ready: dict[Place, np.ndarray] = {Place(0): machine.live.copy()}
        self.waiting: dict[Place, np.ndarray] = {}

    def run(self) -> None:
        """Runs until every thread has exited."""
        while self.ready:
            place = min(self.ready, key=_order)
            self.advance(place, self.ready.pop(place))
            if not self.ready and self.waiting:
                self.deadlock()

    def put(self, place: Place, mask: np.ndarray) -> None:
        """Makes threads ready at a place, together with those that are there already."""
        there = self.ready.get(place)
        self.ready[place] = mask if there is None else there | mask

    def advance(self, place: Place, mask: np.ndarray) -> None:
        """Runs a group of threads until it splits, waits, exits or meets another."""
        machine = self.machine
        executed = machine.counts.steps
        counter, stack = place
        lanes = Lanes(mask, not self.ready and not self.waiting)
        limit = min((p.counter for p in self.ready if p.stack == stack), default=len(self.steps))
        while True:
            machine.step = step = self.steps[counter]
            if step.members is not None:
                gathered = self.gather(Place(counter, stack), lanes, step)
                if gathered is None:
                    return
                lanes = gathered
            executed[counter] += lanes.warps
            if step.control is not None:
                if machine.untracked[counter]:
                    machine.track(counter, step, lanes)
                following = step.control(self, Place(counter, stack), lanes)
                if following is None:
                    return
                counter, stack = following
            else:
                active = lanes
                if step.guard is not None:
                    if machine.untracked[counter]:
                        machine.check_guard(step, lanes)
                    active = lanes.where(self.guard(step))
                if machine.untracked[counter]:
                    machine.track(counter, step, active)
                if active is lanes or active.warps:
                    step.run(machine, active)  # type: ignore[misc]
                counter += 1
            if counter >= limit:
                self.put(Place(counter, stack), lanes.mask)
                return

    def guard(self, step: Step) -> np.ndarray:
        """The predicate of a step, as it decides."""
        assert step.guard is not None
        value = self.machine.slots[step.guard]
        return ~value if step.instruction.negated else value

    def gather(self, place: Place, lanes: Lanes, step: Step) -> Lanes | None:
        """Keeps the threads whose warp is complete at this place; the others wait there."""
        machine = self.machine
        if lanes.alone and machine.all_live and not getattr(step.members, "checks_masks", False):
            return lanes
        if place in self.waiting:
            lanes = Lanes(lanes.mask | self.waiting.pop(place), False)
        assert step.members is not None
        missing = step.members(machine, lanes) & machine.live & ~lanes.mask
        if not missing.any():
            return Lanes(lanes.mask, not self.ready and not self.waiting)
        incomplete = np.repeat(missing.reshape(-1, 32).any(axis=1), 32) & lanes.mask
        self.waiting[place] = incomplete
        complete = lanes.mask & ~incomplete
        return Lanes(complete, False) if complete.any() else None

    def leave(self, mask: np.ndarray) -> None:
        """Ends threads. Whoever waits looks again whether it waits for one that is gone."""
        self.machine.live &= ~mask
        self.machine.all_live = False
        for place, waiting in self.waiting.items():
            self.put(place, waiting)
        self.waiting.clear()

    def deadlock(self) -> None:
        """Reports that the threads that are left wait for each other."""
        machine = self.machine
        place, mask = min(self.waiting.items())
        machine.step = self.steps[place.counter]
        others = [
            f"{int(other.sum())} wait at line {self.steps[p.counter].instruction.line}"
            for p, other in self.waiting.items()
            if p != place
        ]
        gone = int((machine.shape.exists & ~machine.live).sum())
        others += [f"{gone} have exited"] if gone else []
        first = machine.shape.name(int(np.flatnonzero(mask)[0]))
        message = f"{int(mask.sum())} threads ({first}, …) wait for threads that never come"
        machine.hazards = None  # nothing can go on from here
        machine.hazard("divergent barrier", f"{message}: {', '.join(others) or 'no other is left'}")
