# SPDX-License-Identifier: MIT
"""Shared memory with a shadow that knows who wrote and read each piece since the last barrier.

A piece (granule) is as small as the smallest access of the kernel. Its shadow holds a stamp of
the last write and one of the last read: the block's barrier count (its epoch) and who it was.
Two accesses of one epoch by different threads, one of them a write, race, unless a barrier of
fewer threads came between (see `order.py`). Data that `cp.async` brings is marked as in flight
until its thread has waited for it; the wait counts as the write.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .copies import Copies
from .layout import round_up
from .memory import Bytes
from .order import Order

if TYPE_CHECKING:
    from .machine import Machine

# Who, in the low bits of a stamp: a thread of the block, or one of these.
WHO_BITS = 11
WARP = 1024  # + number: several lanes of a warp
MANY = 1056  # threads of several warps
ATOMIC = 1057
_WHO = (1 << WHO_BITS) - 1


class SharedMemory(Bytes):
    """The shared memory of all blocks of a batch, one behind the other."""

    def __init__(
        self, machine: Machine, areas: Sequence[tuple[int, int]], granule: int, partial: bool
    ) -> None:
        self.machine = machine
        self.granule = granule
        self.size = round_up(max((start + size for start, size in areas), default=0), 128)
        super().__init__(self.size * machine.shape.blocks)
        entries = len(self.storage) // granule
        self.valid = np.zeros(self.size + 1, bool)
        for start, size in areas:
            self.valid[start : start + size] = True
        # `valid` summed up: an access lies within one variable if so many bytes are valid.
        self.valid_before = np.concatenate([[0], np.cumsum(self.valid[:-1])])
        self.written = np.zeros(entries, bool)
        self.flying = np.zeros(entries, bool)
        self.write_stamp = np.zeros(entries, np.int32)
        self.read_stamp = np.zeros(entries, np.int32)
        self.stamp = (1 << WHO_BITS | machine.shape.in_block).astype(np.int32)
        self.base = machine.shape.block_index * self.size
        self.order = Order(machine.shape, entries) if partial else None
        self.copies = Copies(machine.shape.size)

    def barrier(self, index: np.ndarray, keys: np.ndarray, whole: bool) -> None:
        """Orders what these threads did before it and do after it, per key."""
        if whole:
            # All threads of the blocks: a new epoch, in which nothing has happened yet.
            self.stamp[index] += 1 << WHO_BITS
            if self.order is not None:
                self.order.reset(index)
        elif self.order is not None:
            self.order.join(index, keys)

    # Access by the lanes of the running instruction

    def locate(
        self, addresses: np.ndarray, lanes: np.ndarray, size: int, verb: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Checks the addresses; returns offsets in the storage and which accesses they are of."""
        addresses = addresses.astype(np.int64)
        machine = self.machine
        if (addresses % size).any():
            first = int(np.flatnonzero(addresses % size)[0])
            where = f"{size} bytes at shared address {addresses[first]}"
            machine.hazard("misaligned", f"{machine.shape.name(lanes[first])} {verb} {where}")
            addresses = addresses - addresses % size
        clipped = np.clip(addresses, 0, max(self.size - size, 0))
        inside = self.valid_before[np.minimum(clipped + size, self.size)]
        inside = (inside - self.valid_before[clipped] == size) & (clipped == addresses)
        if not inside.all():
            first = int(np.flatnonzero(~inside)[0])
            where = f"{size} bytes at shared address {addresses[first]}, in no variable"
            machine.hazard("out of bounds", f"{machine.shape.name(lanes[first])} {verb} {where}")
            good = np.flatnonzero(inside)
            return addresses[good] + self.base[lanes[good]], good
        return addresses + self.base[lanes], np.arange(len(lanes))

    def pieces(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """Indices into the shadow, one row an access."""
        first = offsets // self.granule
        count = size // self.granule
        return first[:, None] if count == 1 else first[:, None] + np.arange(count)

    def load(self, addresses: np.ndarray, lanes: np.ndarray, size: int) -> np.ndarray:
        """Reads rows of `size` bytes for the threads `lanes`."""
        self.machine.counts.shared_access(addresses, lanes, size, "load")
        offsets, good = self.locate(addresses, lanes, size, "reads")
        rows = np.zeros((len(lanes), size), np.uint8)
        self.check_read(offsets, lanes[good], size)
        rows[good] = self.gather(offsets, size)
        return rows

    def store(self, addresses: np.ndarray, lanes: np.ndarray, rows: np.ndarray) -> None:
        """Writes rows of bytes for the threads `lanes`."""
        size = rows.shape[1]
        self.machine.counts.shared_access(addresses, lanes, size, "store")
        offsets, good = self.locate(addresses, lanes, size, "writes")
        lanes, rows = lanes[good], rows[good]
        changes = (self.gather(offsets, size) != rows).any(axis=1)
        pieces = self.check_write(offsets, lanes, size, changes)
        self.scatter(offsets, rows)
        self.written[pieces] = True
        clash = (self.gather(offsets, size) != rows).any(axis=1)
        if clash.any():
            self.race(lanes, offsets, clash, "stores in one instruction with others to")

    def check_read(self, offsets: np.ndarray, lanes: np.ndarray, size: int) -> None:
        """Reports reads of what is unwritten, in flight or being written; notes the read."""
        pieces = self.pieces(offsets, size)
        self.check_flight(pieces, lanes, offsets, "reads")
        if not self.written[pieces].all():
            bad = int(np.flatnonzero(~self.written[pieces].all(axis=1))[0])
            self.report("uninitialised memory", lanes[bad], offsets[bad], "reads", "never written")
        stamp = self.stamp[lanes][:, None]
        race = self.unordered(self.write_stamp[pieces], stamp, lanes, pieces, "write")
        if race.any():
            self.race(lanes, offsets, race.any(axis=1), "reads", "written since the last barrier")
        self.note_read(pieces, lanes, stamp)

    def note_read(self, pieces: np.ndarray, lanes: np.ndarray, stamp: np.ndarray) -> None:
        """Stamps pieces as read, by a thread or by several."""
        before = self.read_stamp[pieces]
        self.read_stamp[pieces] = stamp
        if self.order is not None:
            self.order.note(self.order.read_clock, pieces, lanes)
        after = self.read_stamp[pieces]
        me = np.broadcast_to(stamp & _WHO, pieces.shape)
        epoch = np.broadcast_to(stamp & ~_WHO, pieces.shape)
        same, apart = np.zeros(pieces.shape, bool), np.zeros(pieces.shape, bool)
        # Others read it: earlier in this epoch, or in this instruction.
        for other in (before, after):
            several = ((other ^ stamp) >> WHO_BITS == 0) & (other != stamp)
            if several.any():
                who = other & _WHO
                warp = np.where(who < WARP, who >> 5, who - WARP)
                same |= several & (warp == me >> 5)
                apart |= several & (warp != me >> 5)
        self.read_stamp[pieces[same]] = epoch[same] | WARP + (me[same] >> 5)
        self.read_stamp[pieces[apart]] = epoch[apart] | MANY

    def check_write(
        self, offsets: np.ndarray, lanes: np.ndarray, size: int, changes: np.ndarray
    ) -> np.ndarray:
        """Reports writes over what others use; notes the write and returns the pieces."""
        pieces = self.pieces(offsets, size)
        self.check_flight(pieces, lanes, offsets, "overwrites")
        stamp = self.stamp[lanes][:, None]
        race = self.unordered(self.write_stamp[pieces], stamp, lanes, pieces, "write")
        # Two threads may write one value: which of them comes last does not show.
        race = race.any(axis=1) & changes
        if race.any():
            self.race(lanes, offsets, race, "overwrites", "written since the last barrier")
        race = self.unordered(self.read_stamp[pieces], stamp, lanes, pieces, "read")
        if race.any():
            self.race(lanes, offsets, race.any(axis=1), "overwrites", "read since the last barrier")
        self.note_write(pieces, lanes, stamp)
        return pieces

    def note_write(self, pieces: np.ndarray, lanes: np.ndarray, stamp: np.ndarray) -> None:
        """Stamps pieces as written."""
        self.write_stamp[pieces] = stamp
        if self.order is not None:
            self.order.note(self.order.write_clock, pieces, lanes)

    def check_atomic(self, offsets: np.ndarray, lanes: np.ndarray, size: int) -> None:
        """Checks of an atomic: as a read and a write, but other atomics are no race."""
        pieces = self.pieces(offsets, size)
        self.check_flight(pieces, lanes, offsets, "changes")
        if not self.written[pieces].all():
            bad = int(np.flatnonzero(~self.written[pieces].all(axis=1))[0])
            self.report("uninitialised memory", lanes[bad], offsets[bad], "changes", "unwritten")
        stamp = self.stamp[lanes][:, None]
        for shadow, kind in ((self.write_stamp, "write"), (self.read_stamp, "read")):
            found = shadow[pieces]
            race = self.unordered(found, stamp, lanes, pieces, kind) & (found & _WHO != ATOMIC)
            if race.any():
                self.race(lanes, offsets, race.any(axis=1), "changes", "used by others")
        self.note_write(pieces, lanes, stamp & ~_WHO | ATOMIC)

    def check_flight(
        self, pieces: np.ndarray, lanes: np.ndarray, offsets: np.ndarray, verb: str
    ) -> None:
        """Reports the use of what a `cp.async` is still writing."""
        flying = self.flying[pieces]
        if flying.any():
            bad = int(np.flatnonzero(flying.any(axis=1))[0])
            self.report(
                "unwaited copy", lanes[bad], offsets[bad], verb, "to which a cp.async is in flight"
            )

    def unordered(
        self,
        found: np.ndarray,
        stamp: np.ndarray,
        lanes: np.ndarray,
        pieces: np.ndarray,
        kind: str,
    ) -> np.ndarray:
        """Which stamps are of another thread with no barrier between it and now."""
        other = ((found ^ stamp) >> WHO_BITS == 0) & (found != stamp)
        if self.order is not None and other.any():
            clock = self.order.write_clock if kind == "write" else self.order.read_clock
            other[other] = ~self.order.before(
                found[other] & _WHO,
                clock[pieces[other]],
                np.broadcast_to(lanes[:, None], other.shape)[other],
            )
        return other

    def race(
        self, lanes: np.ndarray, offsets: np.ndarray, bad: np.ndarray, verb: str, why: str = ""
    ) -> None:
        """Reports the first of the accesses that race."""
        first = int(np.flatnonzero(bad)[0])
        why = why or "a different value"
        self.report("shared race", lanes[first], offsets[first], verb, f"{why} by another thread")

    def report(self, kind: str, lane: int, offset: int, verb: str, why: str) -> None:
        """Reports a hazard at an offset of the storage."""
        address = int(offset) - int(self.base[lane])
        who = self.machine.shape.name(int(lane))
        self.machine.hazard(kind, f"{who} {verb} shared address {address}, {why}")
