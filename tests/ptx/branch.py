# SPDX-License-Identifier: MIT
"""Links control flow: branches, calls, returns and barriers. Each maps lanes to the next place."""

from __future__ import annotations

import numpy as np

from .control import Place, Scheduler
from .errors import PtxError
from .link import Linker, Modifiers, builds
from .machine import Lanes, Machine
from .syntax import Group, Immediate, Instruction, Symbol, Variable


def _target(link: Linker, symbol: object) -> int:
    if not isinstance(symbol, Symbol):
        raise PtxError("a label expected")
    place = link.function.label(symbol)
    if place is None:
        raise PtxError(f"no label {symbol.name}")
    return link.functions[link.function.name] + place


def _part(scheduler: Scheduler, lanes: Lanes) -> Lanes:
    """The lanes for which the guard of the running step holds."""
    step = scheduler.machine.step
    return lanes if step.guard is None else lanes.where(scheduler.guard(step))


@builds("bra")
def branch(instruction: Instruction, link: Linker) -> None:
    """`bra`: lanes that go different ways become two groups."""
    modifiers = Modifiers(instruction)
    modifiers.take("uni")
    modifiers.done()
    target = _target(link, instruction.operands[0])

    def control(scheduler: Scheduler, place: Place, lanes: Lanes) -> Place | None:
        counts = scheduler.machine.counts
        taken = _part(scheduler, lanes)
        counts.branches += lanes.warps
        if taken is lanes:
            return Place(target, place.stack)
        if not taken.mask.any():
            return Place(place.counter + 1, place.stack)
        rest = lanes.mask & ~taken.mask
        counts.divergent_branches += int((taken.warp_mask & Lanes(rest, False).warp_mask).sum())
        scheduler.put(Place(target, place.stack), taken.mask)
        scheduler.put(Place(place.counter + 1, place.stack), rest)
        return None

    link.step.control = control


@builds("brx")
def indexed_branch(instruction: Instruction, link: Linker) -> None:
    """`brx.idx`: a jump through a table of labels."""
    modifiers = Modifiers(instruction)
    modifiers.take("idx")
    modifiers.take("uni")
    modifiers.done()
    index, table = instruction.operands
    if not isinstance(table, Symbol) or table.name not in link.function.tables:
        raise PtxError("a table of labels expected")
    slot = link.source(index, "u32")
    targets = [_target(link, symbol) for symbol in link.function.tables[table.name]]

    def control(scheduler: Scheduler, place: Place, lanes: Lanes) -> Place | None:
        taken = _part(scheduler, lanes)
        if taken is not lanes:
            scheduler.put(Place(place.counter + 1, place.stack), lanes.mask & ~taken.mask)
        if not taken.mask.any():
            return None
        chosen = taken.pick(scheduler.machine.slots[slot])
        if (chosen >= len(targets)).any():
            scheduler.machine.hazard("out of bounds", f"index {chosen.max()} of {len(targets)}")
        ways = 0
        for number in np.unique(chosen[chosen < len(targets)]):
            mask = np.zeros_like(lanes.mask)
            mask[taken.index[chosen == number]] = True
            scheduler.put(Place(targets[number], place.stack), mask)
            ways += Lanes(mask, False).warps
        scheduler.machine.counts.branches += lanes.warps
        scheduler.machine.counts.divergent_branches += max(0, ways - taken.warps)
        return None

    link.step.control = control


class _Call:
    """`call`: copies the arguments into the function's parameters and goes there."""

    def __init__(self, name: str, results: list[Variable], arguments: list[Variable]) -> None:
        self.name, self.results, self.arguments = name, results, arguments
        self.start = -1
        self.parameters: list[Variable] = []
        self.returns: list[Variable] = []

    def resolve(self, link: Linker) -> None:
        """Finds the function, once all are linked."""
        function = link.module.functions.get(self.name)
        if function is None:
            raise PtxError(f"no function {self.name}")
        self.start = link.functions.get(self.name, -1)
        self.parameters, self.returns = function.parameters, function.returns
        if [v.size for v in self.parameters] != [v.size for v in self.arguments]:
            raise PtxError(f"the arguments of {self.name} are not its parameters")

    def __call__(self, scheduler: Scheduler, place: Place, lanes: Lanes) -> Place | None:
        machine = scheduler.machine
        part = _part(scheduler, lanes)
        behind = Place(place.counter + 1, place.stack)
        if not part.mask.any():
            return behind
        if self.start < 0:
            machine.hazard("trap", f"{self.name} was called")
            return behind
        if place.counter + 1 in place.stack:
            raise PtxError("recursion", machine.step.instruction.line)
        if part is not lanes:
            scheduler.put(behind, lanes.mask & ~part.mask)
        _copy(machine, self.arguments, self.parameters, part)
        inside = Place(self.start, (*place.stack, behind.counter))
        if part is lanes:
            return inside
        scheduler.put(inside, part.mask)
        return None

    def leave(self, machine: Machine, lanes: Lanes) -> None:
        """Copies the results back."""
        _copy(machine, self.returns, self.results, lanes)


def _copy(machine: Machine, sources: list[Variable], targets: list[Variable], lanes: Lanes) -> None:
    for source, target in zip(sources, targets, strict=True):
        machine.frames[target][lanes.index] = machine.frames[source][lanes.index]


@builds("call")
def call(instruction: Instruction, link: Linker) -> None:
    """`call` of a function known by name."""
    modifiers = Modifiers(instruction)
    modifiers.take("uni")
    modifiers.done()
    operands = list(instruction.operands)
    results = operands.pop(0) if isinstance(operands[0], Group) else Group(())
    name = operands.pop(0)
    arguments = operands.pop(0) if operands else Group(())
    if operands or not isinstance(name, Symbol) or not isinstance(arguments, Group):
        raise PtxError("only calls of a named function are known")
    for item in (*results.items, *arguments.items):
        if not isinstance(item, Variable):
            raise PtxError("arguments and results are .param variables")
    link.step.control = _Call(name.name, list(results.items), list(arguments.items))  # type: ignore[arg-type]


@builds("ret", "exit")
def leave(instruction: Instruction, link: Linker) -> None:
    """`ret`, `exit`: back to the caller, or the end of the thread."""
    modifiers = Modifiers(instruction)
    modifiers.take("uni")
    modifiers.done()
    whole = instruction.name == "exit"

    def control(scheduler: Scheduler, place: Place, lanes: Lanes) -> Place | None:
        machine = scheduler.machine
        part = _part(scheduler, lanes)
        behind = Place(place.counter + 1, place.stack)
        if not part.mask.any():
            return behind
        if part is not lanes:
            scheduler.put(behind, lanes.mask & ~part.mask)
        if place.stack and not whole:
            counter = place.stack[-1]
            scheduler.steps[counter - 1].control.leave(machine, part)
            back = Place(counter, place.stack[:-1])
            if part is lanes and not scheduler.ready:
                return back
            scheduler.put(back, part.mask)
            return None
        scheduler.leave(part.mask)
        return None

    link.step.control = control


@builds("trap")
def trap(instruction: Instruction, link: Linker):
    """`trap`: a hazard, as nothing in these kernels gives up on purpose."""
    Modifiers(instruction).done()
    return lambda machine, lanes: machine.hazard("trap", machine.shape.name(lanes.index[0]))


def _whole_warps(machine: Machine, lanes: Lanes) -> np.ndarray:
    return np.repeat(lanes.warp_mask, 32)


@builds("bar", "barrier")
def barrier(instruction: Instruction, link: Linker):
    """`bar.sync`, `bar.red`, `bar.warp.sync`."""
    modifiers = Modifiers(instruction)
    if modifiers.take("warp"):
        return _warp_barrier(instruction, link, modifiers)
    modifiers.take("cta")
    aligned = bool(modifiers.take("aligned")) or instruction.name == "bar"
    reduction = bool(modifiers.take("red"))
    if not reduction and not modifiers.take("sync"):
        raise PtxError("only .sync, .red and .warp.sync barriers are known")
    operands = list(instruction.operands)
    reduce = _reduction(operands, link, modifiers) if reduction else None
    modifiers.done()
    number = link.source(operands.pop(0), "u32")
    # The number of threads, if not those of the block.
    expected = link.source(operands.pop(0), "u32") if operands else None
    if expected is not None:
        link.program.partial_barriers = True
    if aligned:
        link.step.members = _whole_warps
    guarded = link.step.guard is not None

    def control(scheduler: Scheduler, place: Place, lanes: Lanes) -> Place | None:
        machine, shape = scheduler.machine, scheduler.machine.shape
        if guarded and _part(scheduler, lanes) is not lanes:
            machine.hazard("divergent barrier", "its predicate is not the same for all threads")
        behind = Place(place.counter + 1, place.stack)
        mask = lanes.mask
        if place in scheduler.waiting:
            mask = mask | scheduler.waiting.pop(place)
        index = np.flatnonzero(mask)
        numbers = np.broadcast_to(machine.slots[number], shape.size)[index]
        keys = shape.block_index[index] * 16 + numbers % 16
        arrived = np.bincount(keys, minlength=shape.blocks * 16)
        wanted = shape.threads_a_block
        if expected is not None:
            wanted = np.broadcast_to(machine.slots[expected], shape.size)[index]
        complete = arrived[keys] >= wanted
        done = index[complete]
        if reduce is not None:
            reduce(machine, done, keys[complete])
        if len(done):
            machine.counts.barriers += len(np.unique(keys[complete]))
            machine.shared.barrier(done, keys[complete], expected is None)
        if complete.all():
            if mask is lanes.mask:
                return behind
            scheduler.put(behind, mask)
            return None
        rest = np.zeros_like(mask)
        rest[index[~complete]] = True
        scheduler.waiting[place] = rest
        if len(done):
            scheduler.put(behind, mask & ~rest)
        return None

    link.step.control = control
    return None


def _reduction(operands: list, link: Linker, modifiers: Modifiers):
    """`bar.red`: returns what gives every thread of a barrier the and, or or count of a flag."""
    kind = modifiers.type("pred", "u32")
    name = modifiers.take("and", "or", "popc")
    if (name == "popc") != (kind == "u32"):
        raise PtxError(f"reduction {name} of .{kind}")
    target = link.target(operands.pop(0), kind)
    flag = link.source(operands.pop(), "pred")

    def reduce(machine: Machine, index: np.ndarray, keys: np.ndarray) -> None:
        flags = np.broadcast_to(machine.slots[flag], machine.shape.size)[index]
        size = machine.shape.blocks * 16
        sums, all_ = np.bincount(keys, flags, size), np.bincount(keys, minlength=size)
        value = {"popc": sums, "or": sums > 0, "and": sums == all_}[name]
        machine.slots[target][index] = value[keys]

    return reduce


def _warp_barrier(instruction: Instruction, link: Linker, modifiers: Modifiers):
    from .warp import members_of

    if not modifiers.take("sync"):
        raise PtxError("only bar.warp.sync is known")
    modifiers.done()
    (operand,) = instruction.operands
    link.program.partial_barriers = True
    mask_slot = link.source(operand, "b32")
    link.step.members = members_of(mask_slot)
    whole = isinstance(operand, Immediate) and operand.value & 0xFFFFFFFF == 0xFFFFFFFF

    def run(machine: Machine, lanes: Lanes) -> None:
        index = lanes.index
        keys = (index // 32).astype(np.int64)
        if not whole:
            keys = keys << 32 | lanes.pick(machine.slots[mask_slot]).astype(np.int64)
        machine.shared.barrier(index, keys, False)

    return run
