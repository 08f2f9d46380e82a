# SPDX-License-Identifier: MIT
"""What threads do together, where they go, and who they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from .harness import run

# Every thread's number is in %r1; what is in %r2 at the end is stored for it.
START = "mov.u32 %r1, %tid.x;\n"
END = """
mov.u32 %r60, %ctaid.x;
mov.u32 %r61, %ntid.x;
mad.lo.s32 %r62, %r60, %r61, %r1;
mul.wide.u32 %rd4, %r62, 4;
add.s64 %rd5, %rd0, %rd4;
st.global.b32 [%rd5], %r2;"""


def values(code: str, threads: int = 32, blocks: int = 1) -> list[int]:
    """What each thread has in %r2."""
    out = np.zeros(threads * blocks, np.uint32)
    (got,), _ = run(START + code + END, out, threads=threads, blocks=blocks)
    return [int(x) for x in got]


SHUFFLES: dict[str, Callable[[int], int]] = {
    "idx.b32 %r2, %r1, 5, 31": lambda i: 5,
    "idx.b32 %r2, %r1, 9, 0x181f": lambda i: i // 8 * 8 + 1,  # segments of eight
    "up.b32 %r2, %r1, 3, 0": lambda i: i - 3 if i >= 3 else i,
    "down.b32 %r2, %r1, 4, 31": lambda i: i + 4 if i + 4 < 32 else i,
    "bfly.b32 %r2, %r1, 16, 31": lambda i: i ^ 16,
    "bfly.b32 %r2, %r1, 1, 31": lambda i: i ^ 1,
}


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_shuffles(shuffle: str) -> None:
    got = values(f"shfl.sync.{shuffle}, -1;")
    assert got == [SHUFFLES[shuffle](i) for i in range(32)]


def test_a_shuffle_says_whether_its_lane_was_there() -> None:
    code = "shfl.sync.up.b32 %r3|%p1, %r1, 3, 0, -1;\nselp.b32 %r2, 1, 0, %p1;"
    assert values(code) == [int(i >= 3) for i in range(32)]


ODD = "and.b32 %r3, %r1, 1;\nsetp.ne.u32 %p1, %r3, 0;\n"
TOGETHER = {
    "vote.sync.ballot.b32 %r2, %p1, -1;": [0xAAAAAAAA] * 32,
    "vote.sync.any.pred %p2, %p1, -1;\nselp.b32 %r2, 1, 0, %p2;": [1] * 32,
    "vote.sync.all.pred %p2, %p1, -1;\nselp.b32 %r2, 1, 0, %p2;": [0] * 32,
    "vote.sync.uni.pred %p2, %p1, -1;\nselp.b32 %r2, 1, 0, %p2;": [0] * 32,
    "redux.sync.add.s32 %r2, %r1, -1;": [496] * 32,
    "redux.sync.max.u32 %r2, %r1, -1;": [31] * 32,
    "redux.sync.min.s32 %r2, %r1, -1;": [0] * 32,
    "redux.sync.xor.b32 %r2, %r1, -1;": [0] * 32,
    "redux.sync.or.b32 %r2, %r1, -1;": [31] * 32,
    "match.any.sync.b32 %r2, %r3, -1;": [0x55555555, 0xAAAAAAAA] * 16,
    "activemask.b32 %r2;": [0xFFFFFFFF] * 32,
    "elect.sync %r2|%p2, -1;": [0] * 32,
}


@pytest.mark.parametrize("code", TOGETHER)
def test_votes_and_reductions(code: str) -> None:
    assert values(ODD + code) == TOGETHER[code]


SPECIAL: dict[str, Callable[[int], int]] = {
    "%tid.x": lambda i: i % 64, "%ctaid.x": lambda i: i // 64, "%ntid.x": lambda i: 64,
    "%nctaid.x": lambda i: 2, "%laneid": lambda i: i % 32, "%warpid": lambda i: i % 64 // 32,
    "%nwarpid": lambda i: 2, "%tid.y": lambda i: 0, "%ntid.y": lambda i: 1,
    "%lanemask_lt": lambda i: (1 << i % 32) - 1, "%lanemask_eq": lambda i: 1 << i % 32,
    "%lanemask_ge": lambda i: 2**32 - (1 << i % 32), "%lanemask_le": lambda i: (2 << i % 32) - 1,
    "%lanemask_gt": lambda i: 2**32 - (2 << i % 32), "WARP_SZ": lambda i: 32,
}  # fmt: skip


@pytest.mark.parametrize("name", SPECIAL)
def test_special_registers(name: str) -> None:
    expected = [SPECIAL[name](i) for i in range(128)]
    assert values(f"mov.u32 %r2, {name};", threads=64, blocks=2) == expected


# ---- control flow -------------------------------------------------------------------------------


def test_lanes_go_different_ways_and_meet() -> None:
    code = """mov.u32 %r2, 0;
    setp.lt.u32 %p1, %r1, 10;
    @%p1 bra LOW;
    add.s32 %r2, %r2, 100;
    bra DONE;
    LOW: add.s32 %r2, %r2, 1;
    DONE: add.s32 %r2, %r2, 1000;"""
    assert values(code) == [1001 if i < 10 else 1100 for i in range(32)]


def test_a_loop_runs_as_often_as_each_lane_wants() -> None:
    code = """mov.u32 %r2, 0;
    mov.u32 %r3, 0;
    LOOP: setp.ge.u32 %p1, %r3, %r1;
    @%p1 bra DONE;
    add.s32 %r3, %r3, 1;
    add.s32 %r2, %r2, %r3;
    bra LOOP;
    DONE: add.s32 %r2, %r2, 0;"""
    assert values(code) == [i * (i + 1) // 2 for i in range(32)]


def test_a_jump_through_a_table() -> None:
    code = """and.b32 %r3, %r1, 3;
    TABLE: .branchtargets A, B, C, D;
    brx.idx %r3, TABLE;
    A: mov.u32 %r2, 10; bra DONE;
    B: mov.u32 %r2, 20; bra DONE;
    C: mov.u32 %r2, 30; bra DONE;
    D: mov.u32 %r2, 40;
    DONE: add.s32 %r2, %r2, 1;"""
    assert values(code) == [11, 21, 31, 41] * 8


def test_a_guard_keeps_what_was_there() -> None:
    code = "mov.u32 %r2, 7;\nsetp.gt.u32 %p1, %r1, 15;\n@!%p1 mov.u32 %r2, 8;"
    assert values(code) == [8] * 16 + [7] * 16


def test_a_barrier_lets_one_warp_read_what_another_wrote() -> None:
    code = """.shared .align 4 .b32 cells[64];
    mov.u32 %r4, cells;
    mad.lo.s32 %r5, %r1, 4, %r4;
    st.shared.b32 [%r5], %r1;
    bar.sync 0;
    xor.b32 %r6, %r1, 63;
    mad.lo.s32 %r6, %r6, 4, %r4;
    ld.shared.b32 %r2, [%r6];"""
    assert values(code, threads=64) == [63 - i for i in range(64)]


def test_a_barrier_counts_a_flag() -> None:
    code = "setp.lt.u32 %p1, %r1, 40;\nbar.red.popc.u32 %r2, 0, %p1;"
    assert values(code, threads=64) == [40] * 64


def test_instructions_are_counted_by_warp() -> None:
    code = START + "mov.u32 %r2, 0;\nsetp.lt.u32 %p1, %r1, 32;\n@%p1 bra SKIP;\n"
    code += "add.s32 %r2, %r2, 1;\nSKIP: mul.lo.s32 %r2, %r2, 2;" + END
    _, report = run(code, np.zeros(64, np.uint32), threads=64)
    counts = report.counts
    assert counts.of("add") == 1 + 2  # the second warp; and an address in each
    assert counts.instructions["mul.lo.s32"] == 2
    assert counts.divergent_branches == 0
    assert counts.global_store_sectors == 8
