# SPDX-License-Identifier: MIT
"""Faults are reported with their line, and code that has none is not: always a pair of twins.

The bad twin is the good one with an edit; its hazard names the line of the instruction `at`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from ptx import Hazard, Module, PtxError

from .harness import line_of, module_of, run

START = """.shared .align 16 .b8 cells[512];
mov.u32 %r1, %tid.x;
mov.u32 %r2, cells;
mad.lo.s32 %r3, %r1, 4, %r2;
mul.wide.u32 %rd4, %r1, 4;
add.s64 %rd5, %rd0, %rd4;
"""


@dataclass(frozen=True)
class Twins:
    """A body for 64 threads, %rd0: 64 words; and the edit that makes it bad."""

    kind: str
    good: str
    edit: tuple[str, str]
    at: str
    blocks: int = 1


NEIGHBOUR = """st.shared.b32 [%r3], %r1;
bar.sync 0;
xor.b32 %r4, %r1, 32;
mad.lo.s32 %r5, %r4, 4, %r2;
ld.shared.b32 %r6, [%r5];
st.global.b32 [%rd5], %r6;"""
AGAIN = """st.shared.b32 [%r3], %r1;
bar.sync 0;
xor.b32 %r4, %r1, 32;
mad.lo.s32 %r5, %r4, 4, %r2;
ld.shared.b32 %r6, [%r5];
bar.sync 1;
st.shared.b32 [%r3], %r6;
ld.shared.b32 %r7, [%r3];
st.global.b32 [%rd5], %r7;"""
COPY = """cp.async.ca.shared.global [%r3], [%rd5], 4;
cp.async.commit_group;
cp.async.wait_group 0;
ld.shared.b32 %r6, [%r3];
st.global.b32 [%rd5], %r6;"""
TWO_COPIES = """cp.async.ca.shared.global [%r3], [%rd5], 4;
cp.async.commit_group;
cp.async.ca.shared.global [%r3+256], [%rd5], 4;
cp.async.commit_group;
cp.async.wait_group 1;
ld.shared.b32 %r6, [%r3];"""

TWINS = {
    "global read behind the end": Twins(
        "out of bounds", "ld.global.b32 %r4, [%rd5];", ("[%rd5]", "[%rd5+4]"), "ld.global.b32"
    ),
    "global read before the beginning": Twins(
        "out of bounds", "ld.global.b32 %r4, [%rd5];", ("[%rd5]", "[%rd5+-4]"), "ld.global.b32"
    ),
    "global write behind the end": Twins(
        "out of bounds", "st.global.b32 [%rd5], %r1;", ("[%rd5]", "[%rd5+4]"), "st.global.b32"
    ),
    "shared read behind the end": Twins(
        "out of bounds", "st.shared.b32 [%r3], %r1;\nld.shared.b32 %r4, [%r3];",
        ("ld.shared.b32 %r4, [%r3]", "ld.shared.b32 %r4, [%r3+512]"), "ld.shared.b32",
    ),
    "shared write behind the end": Twins(
        "out of bounds", "st.shared.b32 [%r3], %r1;", ("[%r3]", "[%r3+260]"), "st.shared.b32"
    ),
    "copy from behind the end": Twins(
        "out of bounds", COPY, ("[%rd5], 4", "[%rd5+4], 4"), "cp.async.ca"
    ),
    "misaligned global read": Twins(
        "misaligned", "ld.global.b16 %h1, [%rd5+2];", ("b16 %h1", "b32 %r4"), "ld.global"
    ),
    "misaligned vector": Twins(
        "misaligned", "ld.global.v2.b32 {%r4, %r5}, [%rd0+8];", ("+8", "+4"), "ld.global.v2"
    ),
    "misaligned shared write": Twins(
        "misaligned", "st.shared.b16 [%r3+2], 5;", ("b16", "b32"), "st.shared"
    ),
    "no barrier between write and read": Twins(
        "shared race", NEIGHBOUR, ("bar.sync 0;", ""), "ld.shared"
    ),
    "no barrier between read and write": Twins(
        "shared race", AGAIN, ("bar.sync 1;", ""), "st.shared.b32 [%r3], %r6"
    ),
    "two threads write one cell": Twins(
        "shared race", "st.shared.b32 [%r3], %r1;", ("[%r3]", "[%r2]"), "st.shared"
    ),
    "a barrier of a warp does not order two": Twins(
        "shared race", NEIGHBOUR, ("bar.sync 0;", "bar.warp.sync -1;"), "ld.shared"
    ),
    "a barrier of a warp orders its lanes": Twins(
        "shared race",
        NEIGHBOUR.replace("%r1, 32", "%r1, 1").replace("bar.sync 0", "bar.warp.sync -1"),
        ("bar.warp.sync -1;", ""), "ld.shared",
    ),
    "no wait for a copy": Twins(
        "unwaited copy", COPY, ("cp.async.wait_group 0;", ""), "ld.shared"
    ),
    "a copy's group is not closed": Twins(
        "unwaited copy", COPY, ("cp.async.commit_group;", ""), "ld.shared"
    ),
    "a wait for the older of two groups": Twins(
        "unwaited copy", TWO_COPIES, ("ld.shared.b32 %r6, [%r3]", "ld.shared.b32 %r6, [%r3+256]"),
        "ld.shared",
    ),
    "another thread's copy without a barrier": Twins(
        "shared race", COPY.replace("wait_group 0;", "wait_group 0;\nbar.sync 0;")
        .replace("ld.shared.b32 %r6, [%r3]",
                 "xor.b32 %r4, %r1, 32;\nmad.lo.s32 %r5, %r4, 4, %r2;\nld.shared.b32 %r6, [%r5]"),
        ("bar.sync 0;", ""), "ld.shared",
    ),
    "a barrier that some threads do not reach": Twins(
        "divergent barrier", "setp.lt.u32 %p1, %r1, 99;\n@!%p1 bra SKIP;\nbar.sync 0;\n"
        "SKIP: mov.u32 %r4, 0;", ("%r1, 99", "%r1, 16"), "bar.sync",
    ),
    "a guard that differs at a barrier": Twins(
        "divergent barrier", "setp.lt.u32 %p1, %r1, 99;\n@%p1 bar.sync 0;", ("99", "16"), "bar.sync"
    ),
    "an unwritten register in memory": Twins(
        "uninitialised register", "mov.u32 %r4, 3;\nst.global.b32 [%rd5], %r4;",
        ("mov.u32 %r4, 3;", ""), "st.global",
    ),
    "an unwritten register decides": Twins(
        "uninitialised register", "setp.lt.u32 %p1, %r1, 3;\n@%p1 bra NEXT;\nNEXT: mov.u32 %r4, 0;",
        ("%r1, 3", "%r9, 3"), "@%p1",
    ),
    "what comes of an unwritten register": Twins(
        "uninitialised register", "add.s32 %r4, %r1, 1;\nmul.lo.s32 %r4, %r4, 3;\n"
        "st.global.b32 [%rd5], %r4;", ("%r4, %r1, 1", "%r4, %r9, 1"), "st.global",
    ),
    "unwritten shared memory": Twins(
        "uninitialised memory", "st.shared.b32 [%r3], %r1;\nld.shared.b32 %r4, [%r3];",
        ("st.shared.b32 [%r3], %r1;", ""), "ld.shared",
    ),
    "two thread blocks write one number": Twins(
        "global race", "mov.u32 %r4, 7;\nst.global.b32 [%rd5], %r4;",
        ("mov.u32 %r4, 7;", "mov.u32 %r4, %ctaid.x;"), "st.global", blocks=2,
    ),
    "a lane that does not take part is read": Twins(
        "bad shuffle", "setp.lt.u32 %p1, %r1, 99;\n"
        "@%p1 shfl.sync.idx.b32 %r4, %r1, 20, 31, 0xffffffff;",
        ("shfl.sync.idx.b32 %r4, %r1, 20, 31, 0xffffffff",
         "shfl.sync.idx.b32 %r4, %r1, 20, 31, 0x0000ffff"), "shfl",
    ),
    "a division by zero": Twins(
        "arithmetic", "add.s32 %r4, %r1, 1;\ndiv.u32 %r5, %r1, %r4;", ("%r1, 1", "%r1, 0"), "div"
    ),
    "a trap": Twins(
        "trap", "setp.gt.u32 %p1, %r1, 63;\n@%p1 trap;", ("%r1, 63", "%r1, 62"), "trap"
    ),
}  # fmt: skip


def run_body(body: str, blocks: int) -> Module:
    module = module_of(START + body, 1)
    run("", np.arange(64, dtype=np.uint32), threads=64, blocks=blocks, module=module)
    return module


@pytest.mark.parametrize("name", TWINS)
def test_the_good_twin_runs_and_the_bad_one_is_reported(name: str) -> None:
    twins = TWINS[name]
    run_body(twins.good, twins.blocks)
    assert twins.good.count(twins.edit[0]) == 1
    bad = twins.good.replace(*twins.edit)
    with pytest.raises(Hazard) as caught:
        run_body(bad, twins.blocks)
    assert caught.value.kind == twins.kind
    module = module_of(START + bad, 1)
    assert caught.value.line == line_of(module, twins.at)
    assert f"PTX line {caught.value.line}" in str(caught.value)


def test_every_kind_of_hazard_has_twins() -> None:
    assert {twins.kind for twins in TWINS.values()} == set(Hazard.KINDS)


def test_memory_that_was_never_written() -> None:
    from ptx import Memory, launch

    module = module_of("ld.global.b32 %r4, [%rd0];", 1)
    memory = Memory()
    written = memory.upload(np.zeros(1, np.uint32))
    launch(module, "k", grid=(1,), block=(1,), arguments=[written], memory=memory)
    empty = memory.allocate((1,), np.uint32)
    with pytest.raises(Hazard, match="uninitialised memory"):
        launch(module, "k", grid=(1,), block=(1,), arguments=[empty], memory=memory)


@pytest.mark.parametrize(
    "statement",
    [
        "frobnicate.b32 %r1, %r2;",
        "add.frob.s32 %r1, %r2, %r3;",
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r1}, {%r2}, {%r3}, {%r4};",
        "add.s32 %r1, %r2;",
        "add.s64 %rd1, %r2, %r3;",
        "bra NOWHERE;",
        "mov.u32 %r1, %clock;",
    ],
)
def test_what_is_not_known_is_an_error_with_its_line(statement: str) -> None:
    module = module_of(f"mov.u32 %r2, 1;\nmov.u32 %r3, 1;\n{statement}")
    with pytest.raises(PtxError) as caught:
        run("", module=module)
    assert not isinstance(caught.value, Hazard)
    assert caught.value.line == line_of(module, statement)
    assert statement in str(caught.value)
