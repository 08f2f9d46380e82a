# SPDX-License-Identifier: MIT
"""Global memory: guarded buffers that know what was written, and by which block.

Every buffer has a shadow with one entry per element of the array it was made from: whether it was
written, which block wrote it last in this launch and which read it. Two blocks that touch one
element, one of them writing and not both by atomics, race: nothing orders them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .layout import round_up
from .syntax import Variable

if TYPE_CHECKING:
    from .machine import Machine

BASE = 0x7F00_0000_0000
ALIGN = 256  # what cudaMalloc promises
GUARD = 1 << 16  # bytes behind each buffer that belong to none

# Sixteen bytes move as a complex number: numpy copies its bits untouched.
MOVES = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.complex128}


class Bytes:
    """Raw storage that is read and written in aligned pieces of 1 to 16 bytes."""

    def __init__(self, size: int) -> None:
        self.storage = np.zeros(round_up(max(size, 1), 32), np.uint8)
        self.views = {size: self.storage.view(kind) for size, kind in MOVES.items()}

    def gather(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """Rows of `size` bytes at aligned offsets."""
        if size == 32:
            both = [self.gather(offsets + half, 16) for half in (0, 16)]
            return np.concatenate(both, axis=1)
        pieces = self.views[size][offsets // size]
        return pieces.view(np.uint8).reshape(len(offsets), size)

    def scatter(self, offsets: np.ndarray, rows: np.ndarray) -> None:
        """Writes rows of bytes at aligned offsets; of equal offsets the last one stays."""
        size = rows.shape[1]
        if size == 32:
            self.scatter(offsets, rows[:, :16])
            self.scatter(offsets + 16, rows[:, 16:])
            return
        pieces = np.ascontiguousarray(rows).view(MOVES[size])[:, 0]
        self.views[size][offsets // size] = pieces


class Buffer(Bytes):
    """One allocation.

    Attributes:
        base: Device address of `storage[0]`.
        start: Where in `storage` the data begins.
        stop: Where it ends.
        granule: Bytes per entry of the shadow.
    """

    def __init__(
        self, name: str, base: int, start: int, shape: tuple[int, ...], dtype: np.dtype
    ) -> None:
        self.shape, self.dtype, self.name, self.base, self.start = shape, dtype, name, base, start
        self.stop = start + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        super().__init__(self.stop)
        granule = dtype.itemsize if dtype.itemsize in (1, 2, 4, 8) else 1
        self.granule = granule if start % granule == 0 else 1
        self.entries = len(self.storage) // self.granule
        self.written: np.ndarray | None = None  # None: all of it

    @cached_property
    def writer(self) -> np.ndarray:
        """Who wrote an element last, see `Memory.begin`."""
        return np.zeros(self.entries, np.int32)

    @cached_property
    def reader(self) -> np.ndarray:
        """Who read it last."""
        return np.zeros(self.entries, np.int32)

    def elements(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """Indices into the shadow, one row an access."""
        first = offsets // self.granule
        count = max(1, size // self.granule)
        return first[:, None] if count == 1 else first[:, None] + np.arange(count)

    def array(self) -> np.ndarray:
        """The data as an array that shares it."""
        return self.storage[self.start : self.stop].view(self.dtype).reshape(self.shape)


class Memory:
    """The global memory of a device."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self._bases: list[int] = []
        self._next = BASE
        self._variables: dict[Variable, int] = {}
        # Owners of elements: those of earlier launches are below `first`.
        self.first, self._last = 1, 0

    def upload(self, array: np.ndarray, offset: int = 0, name: str = "") -> int:
        """Copies an array to the device.

        Args:
            array: What to copy.
            offset: Bytes behind a boundary of 256 at which it is to lie.
            name: What messages call it.

        Returns:
            Its device address.
        """
        buffer = self._add(name, offset, array.shape, array.dtype)
        buffer.array()[...] = array
        return buffer.base + offset

    def allocate(
        self, shape: tuple[int, ...], dtype: type | np.dtype, offset: int = 0, name: str = ""
    ) -> int:
        """A buffer that holds nothing yet: reading an element before it is written is a hazard."""
        buffer = self._add(name, offset, shape, np.dtype(dtype))
        buffer.written = np.zeros(buffer.entries, bool)
        return buffer.base + offset

    def download(self, address: int) -> np.ndarray:
        """A copy of the buffer that begins at that address."""
        return self._at(address).array().copy()

    def written(self, address: int) -> np.ndarray:
        """For each element of the buffer whether it was ever written."""
        buffer = self._at(address)
        if buffer.written is None:
            return np.ones(buffer.shape, bool)
        first = buffer.start // buffer.granule
        count = -(-(buffer.stop - buffer.start) // buffer.granule)
        return buffer.written[first : first + count].reshape(buffer.shape)

    def _at(self, address: int) -> Buffer:
        for buffer in self.buffers:
            if buffer.base + buffer.start == address:
                return buffer
        raise KeyError(f"no buffer begins at {address:#x}")

    def _add(self, name: str, start: int, shape: tuple[int, ...], dtype: np.dtype) -> Buffer:
        buffer = Buffer(name or f"#{len(self.buffers)}", self._next, start, shape, dtype)
        self._next = round_up(self._next + len(buffer.storage) + GUARD, ALIGN)
        self.buffers.append(buffer)
        self._bases.append(buffer.base)
        return buffer

    def module_variable(self, variable: Variable) -> int:
        """The address of a `.global` or `.const` variable, made on first use."""
        if variable not in self._variables:
            start = np.frombuffer(variable.initial or bytes(variable.size), np.uint8)
            self._variables[variable] = self.upload(start, name=variable.name)
        return self._variables[variable]

    def begin(self, blocks: int) -> int:
        """Starts a launch: returns the owner number of its block 0."""
        self.first = self._last + 1
        self.atomic = self.first + blocks  # written by atomics only
        self.many = self.first + blocks + 1  # read by several blocks
        self._last = self.many
        return self.first

    # Access by the lanes of a running instruction

    def split(
        self, machine: Machine, addresses: np.ndarray, lanes: np.ndarray, size: int, verb: str
    ) -> Iterator[tuple[Buffer, np.ndarray | slice, np.ndarray]]:
        """Yields (buffer, which accesses, offsets in its storage) and reports those in none."""
        misaligned = addresses % size != 0
        if misaligned.any():
            first = int(np.flatnonzero(misaligned)[0])
            where = f"{size} bytes at {addresses[first]:#x}"
            machine.hazard("misaligned", f"{machine.shape.name(lanes[first])} {verb} {where}")
            addresses = addresses - addresses % size
        number = np.searchsorted(self._bases, addresses[:1].view(np.int64), "right")[0] - 1
        if number >= 0:
            buffer = self.buffers[number]
            offsets = (addresses - np.uint64(buffer.base)).view(np.int64)
            if offsets.min() >= buffer.start and offsets.max() + size <= buffer.stop:
                yield buffer, slice(None), offsets
                return
        numbers = np.searchsorted(self._bases, addresses.view(np.int64), "right") - 1
        for number in np.unique(numbers):
            chosen = np.flatnonzero(numbers == number)
            buffer = self.buffers[max(number, 0)] if self.buffers else Buffer("", 0, 0, (0,), _U8)
            offsets = (addresses[chosen] - np.uint64(buffer.base)).view(np.int64)
            inside = (offsets >= buffer.start) & (offsets + size <= buffer.stop)
            if not inside.all():
                bad = int(np.flatnonzero(~inside)[0])
                past = int(offsets[bad]) - buffer.start
                machine.hazard(
                    "out of bounds",
                    f"{machine.shape.name(lanes[chosen[bad]])} {verb} {size} bytes at "
                    f"{addresses[chosen[bad]]:#x}, byte {past} of buffer {buffer.name} "
                    f"of {buffer.stop - buffer.start}",
                )
            if inside.any():
                yield buffer, chosen[inside], offsets[inside]

    def load(
        self, machine: Machine, addresses: np.ndarray, lanes: np.ndarray, size: int
    ) -> np.ndarray:
        """Reads rows of `size` bytes for the threads `lanes`."""
        rows = np.zeros((len(addresses), size), np.uint8)
        machine.counts.global_access(machine, addresses, lanes, size, "load")
        for buffer, part, offsets in self.split(machine, addresses, lanes, size, "reads"):
            self._check_read(machine, buffer, offsets, lanes[part], size)
            rows[part] = buffer.gather(offsets, size)
            machine.counts.touch(machine, buffer, offsets, lanes[part], "load")
        return rows

    def store(
        self, machine: Machine, addresses: np.ndarray, lanes: np.ndarray, rows: np.ndarray
    ) -> None:
        """Writes rows of bytes for the threads `lanes`."""
        size = rows.shape[1]
        machine.counts.global_access(machine, addresses, lanes, size, "store")
        for buffer, part, offsets in self.split(machine, addresses, lanes, size, "writes"):
            own = rows[part]
            changes = (buffer.gather(offsets, size) != own).any(axis=1)
            self._check_write(machine, buffer, offsets, lanes[part], size, changes)
            buffer.scatter(offsets, own)
            clash = (buffer.gather(offsets, size) != own).any(axis=1)
            if clash.any():
                self._race(machine, buffer, lanes[part], offsets, clash, "store different values")
            machine.counts.touch(machine, buffer, offsets, lanes[part], "store")

    def _check_read(
        self, machine: Machine, buffer: Buffer, offsets: np.ndarray, lanes: np.ndarray, size: int
    ) -> None:
        elements = buffer.elements(offsets, size)
        if buffer.written is not None and not buffer.written[elements].all():
            bad = int(np.flatnonzero(~buffer.written[elements].all(axis=1))[0])
            where = f"byte {offsets[bad] - buffer.start} of buffer {buffer.name}"
            message = f"{machine.shape.name(lanes[bad])} reads {where}, never written"
            machine.hazard("uninitialised memory", message)
        me = machine.shape.owner[lanes][:, None]
        writer = buffer.writer[elements]
        bad = ((writer >= self.first) & (writer != me)).any(axis=1)
        if bad.any():
            self._race(machine, buffer, lanes, offsets, bad, "read what another block wrote")
        reader = buffer.reader[elements]
        buffer.reader[elements] = np.where((reader >= self.first) & (reader != me), self.many, me)
        shared = buffer.reader[elements] != me
        if shared.any():
            buffer.reader[elements[shared]] = self.many

    def _check_write(
        self,
        machine: Machine,
        buffer: Buffer,
        offsets: np.ndarray,
        lanes: np.ndarray,
        size: int,
        changes: np.ndarray,
    ) -> None:
        elements = buffer.elements(offsets, size)
        me = machine.shape.owner[lanes][:, None]
        writer, reader = buffer.writer[elements], buffer.reader[elements]
        # Two blocks may write one value: which of them comes last does not show.
        bad = ((writer >= self.first) & (writer != me)).any(axis=1) & changes
        if bad.any():
            self._race(machine, buffer, lanes, offsets, bad, "write what another block wrote")
        bad = ((reader >= self.first) & (reader != me)).any(axis=1)
        if bad.any():
            self._race(machine, buffer, lanes, offsets, bad, "write what another block reads")
        buffer.writer[elements] = me
        if buffer.written is not None:
            buffer.written[elements] = True

    def atomic_access(
        self, machine: Machine, buffer: Buffer, offsets: np.ndarray, lanes: np.ndarray, size: int
    ) -> None:
        """Checks of an atomic: as a read, but other atomics are no race."""
        elements = buffer.elements(offsets, size)
        if buffer.written is not None and not buffer.written[elements].all():
            machine.hazard("uninitialised memory", f"an atomic on unwritten {buffer.name}")
        me = machine.shape.owner[lanes][:, None]
        for shadow in (buffer.writer, buffer.reader):
            who = shadow[elements]
            bad = ((who >= self.first) & (who != me) & (who != self.atomic)).any(axis=1)
            if bad.any():
                self._race(machine, buffer, lanes, offsets, bad, "change what another block uses")
        buffer.writer[elements] = self.atomic

    def _race(
        self,
        machine: Machine,
        buffer: Buffer,
        lanes: np.ndarray,
        offsets: np.ndarray,
        bad: np.ndarray,
        what: str,
    ) -> None:
        first = int(np.flatnonzero(bad)[0])
        where = f"byte {offsets[first] - buffer.start} of buffer {buffer.name}"
        who = machine.shape.name(lanes[first])
        machine.hazard("global race", f"threads {what}: {who} at {where}")


_U8 = np.dtype(np.uint8)
