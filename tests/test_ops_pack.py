# SPDX-License-Identifier: MIT
"""`pack`, `unpack` and `packed_info`: round trips, and every kind of damage is an error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from l1sparse import GroupShape, PackedInfo, pack, packed_info, unpack
from l1sparse.group_mask import expand_group_mask
from l1sparse.ops import STRATEGIES

SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 70), st.integers(1, 4), st.integers(1, 4))
GROUPS = st.tuples(st.sampled_from([1, 2, 3, 4, 64]), st.sampled_from([1, 3, 4, 8, 15, 16, 128]))
LAYOUTS = st.sampled_from(["contiguous", "channels_last", "sliced", "strided", "permuted"])
DENSITIES = st.sampled_from([0.0, 0.3, 0.8, 1.0])

HEADER_BYTES = 64
CHECKSUM_AT = 56


@settings(max_examples=100)
@given(SHAPES, GROUPS, LAYOUTS, DENSITIES, st.booleans(), st.sampled_from(STRATEGIES[1:]))
def test_unpack_gives_the_kept_weights_back_bit_by_bit(
    pruned_weight: Callable[..., tuple[Tensor, Tensor]],
    masked: Callable[..., Tensor],
    in_layout: Callable[..., Tensor],
    shape: tuple[int, int, int, int],
    group: tuple[int, int],
    layout: str,
    density: float,
    full_mask: bool,
    strategy: str,
) -> None:
    weight, grid_mask = pruned_weight(shape, group, density)
    full = expand_group_mask(grid_mask, shape, group)
    mask = full if full_mask else grid_mask
    packed = pack(in_layout(weight, layout), mask, group, strategy)
    assert packed.dtype == torch.uint8
    assert packed.is_contiguous()
    assert torch.equal(unpack(packed), masked(weight, grid_mask, group))
    assert packed_info(packed) == PackedInfo(
        weight_shape=shape,
        group=GroupShape(*group),
        kept_groups=int(grid_mask.sum()),
        kept_weights=int(full.sum()),
        strategy=strategy,
    )


@settings(max_examples=30)
@given(SHAPES, GROUPS, DENSITIES)
def test_without_a_mask_all_zero_groups_are_pruned(
    pruned_weight: Callable[..., tuple[Tensor, Tensor]],
    masked: Callable[..., Tensor],
    shape: tuple[int, int, int, int],
    group: tuple[int, int],
    density: float,
) -> None:
    weight, grid_mask = pruned_weight(shape, group, density)
    zeroed = masked(weight, grid_mask, group)
    assert torch.equal(pack(zeroed, group=group), pack(weight, grid_mask, group))


def test_a_mask_of_any_strides_is_read_as_it_is() -> None:
    weight = torch.randn(4, 16, 3, 3)
    mask = torch.rand(4, 2, 3, 3) < 0.5
    expected = pack(weight, mask)
    assert torch.equal(pack(weight, mask.contiguous(memory_format=torch.channels_last)), expected)
    assert torch.equal(pack(weight, mask.repeat(2, 1, 1, 2)[:4, ..., 3:]), expected)


def test_nan_infinity_and_negative_zero_survive_in_kept_groups() -> None:
    weight = torch.zeros(1, 8, 1, 4)
    weight[0, 0, 0, 0], weight[0, 1, 0, 1], weight[0, 2, 0, 2] = torch.nan, -torch.inf, -0.0
    packed = pack(weight)
    # A NaN is something other than zero, a negative zero is not.
    assert packed_info(packed).kept_groups == 2
    kept = unpack(pack(weight, torch.ones(1, 1, 1, 4, dtype=torch.bool)))
    assert torch.equal(kept.view(torch.int32), weight.view(torch.int32))


def test_pruned_weights_come_back_as_positive_zero() -> None:
    weight = torch.full((2, 8, 1, 1), -torch.inf)
    mask = torch.tensor([True, False]).reshape(2, 1, 1, 1)
    assert torch.equal(unpack(pack(weight, mask))[1].view(torch.int32), torch.zeros(8, 1, 1).int())


def test_a_packed_weight_is_smaller_by_what_is_pruned() -> None:
    weight = torch.randn(64, 64, 3, 3)
    dense_bytes = weight.numel() * 4
    mask = torch.rand(64, 8, 3, 3) < 0.25
    packed = pack(weight, mask)
    assert packed.numel() < dense_bytes * (packed_info(packed).density * 9 / 8 + 0.02)


WEIGHT = torch.randn(4, 16, 3, 3, generator=torch.Generator().manual_seed(0))
MASK = torch.rand(4, 2, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5
CUT = torch.ones(4, 16, 3, 3, dtype=torch.bool)
CUT[2, 3, 1, 1] = False


@pytest.mark.parametrize(
    ("weight", "mask", "parts"),
    [
        (WEIGHT[0], MASK, ["weight", "[16, 3, 3]", "4 dimensions"]),
        (WEIGHT.double(), MASK, ["weight", "float32"]),
        (WEIGHT[:0], MASK, ["weight", "dimension of 0"]),
        (WEIGHT.to("meta"), MASK, ["mask", "cpu", "meta"]),
        (WEIGHT, MASK.to("meta"), ["mask", "meta", "cpu"]),
        (WEIGHT, MASK.float(), ["mask", "bool"]),
        (WEIGHT, MASK.to(torch.uint8), ["mask", "bool"]),
        (WEIGHT, MASK[0], ["mask", "[2, 3, 3]", "4 dimensions"]),
        (WEIGHT, MASK[:3], ["mask", "[3, 2, 3, 3]", "[4, 16, 3, 3]", "[4, 2, 3, 3]"]),
        (WEIGHT, CUT, ["mask", "both kept and pruned", "one value"]),
    ],
)
@pytest.mark.parametrize("direct", [False, True])
def test_a_weight_and_mask_that_do_not_fit_are_an_error(
    weight: Tensor, mask: Tensor, parts: list[str], direct: bool
) -> None:
    with pytest.raises(RuntimeError) as error:
        torch.ops.l1sparse.pack(weight, mask, [1, 8]) if direct else pack(weight, mask)
    assert all(part in str(error.value) for part in parts), error.value


def test_a_weight_of_wrong_rank_is_an_error_without_a_mask_as_well() -> None:
    with pytest.raises(ValueError, match=r"weight: has shape \[4, 16\], expected 4 dimensions"):
        pack(torch.randn(4, 16))


@pytest.mark.parametrize("group", [(0, 8), (1, -8), (1, 8, 1), 8])
def test_a_group_that_is_no_group_shape_is_an_error(group: object) -> None:
    with pytest.raises(ValueError, match=r"^group: "):
        pack(WEIGHT, MASK, group)  # type: ignore[arg-type]


@pytest.mark.parametrize("group", [[0, 8], [1, -8], [1, 8, 1], [2**40, 1]])
def test_a_direct_call_checks_the_group_as_well(group: list[int]) -> None:
    with pytest.raises(RuntimeError, match=r"^group: "):
        torch.ops.l1sparse.pack(WEIGHT, MASK, group)


def changed(offset: int, value: int) -> Tensor:
    packed = pack(WEIGHT, MASK)
    packed[offset] = value
    return packed


def unaligned() -> Tensor:
    packed = pack(WEIGHT, MASK)
    return torch.cat([torch.zeros(1, dtype=torch.uint8), packed])[1:]


DAMAGED = {
    "empty": (lambda: pack(WEIGHT, MASK)[:0], ["0 bytes", "64"]),
    "shorter than its header": (lambda: pack(WEIGHT, MASK)[:63], ["63 bytes", "64"]),
    "cut short by a byte": (lambda: pack(WEIGHT, MASK)[:-1], ["bytes, expected the"]),
    "too long by a byte": (
        lambda: torch.cat([pack(WEIGHT, MASK), torch.zeros(1, dtype=torch.uint8)]),
        ["bytes, expected the"],
    ),
    "unaligned": (unaligned, ["1 bytes past a multiple of 8", "clone()"]),
    "of wrong magic": (lambda: changed(0, ord("X")), ["L1SPARSE", "pack()"]),
    "of wrong version": (lambda: changed(8, 200), ["version 200", "version 1"]),
    "of unknown value type": (lambda: changed(12, 9), ["type 9", "float32"]),
    "of group side 0": (lambda: changed(16, 0), ["header field holds 0"]),
    "of huge height": (lambda: changed(35, 0xFF), ["header field holds", "1 to"]),
    "of more kept groups than groups": (lambda: changed(46, 1), ["header field holds"]),
    "of wrong total size": (lambda: changed(54, 1), ["bytes, expected the"]),
    "of wrong checksum": (lambda: changed(CHECKSUM_AT, 0), ["checksum", "damaged"]),
    "of a row offset out of order": (lambda: changed(HEADER_BYTES + 7, 1), ["row offset"]),
    "of a changed value": (lambda: changed(-1, 0x55), ["checksum", "damaged"]),
    "not bytes": (lambda: WEIGHT.flatten(), ["uint8"]),
    "of two dimensions": (lambda: pack(WEIGHT, MASK)[None], ["1 dimensions"]),
    "not contiguous": (lambda: torch.stack([pack(WEIGHT, MASK)] * 2, 1)[:, 0], ["contiguous"]),
}


@pytest.mark.parametrize("what", DAMAGED)
@pytest.mark.parametrize(
    "use",
    [
        unpack,
        packed_info,
        lambda packed: torch.ops.l1sparse.unpack(packed, WEIGHT.shape),
        lambda packed: torch.ops.l1sparse.sparse_conv2d(
            torch.zeros(1, 16, 5, 5), packed, WEIGHT.shape
        ),
    ],
    ids=["unpack", "packed_info", "direct unpack", "direct sparse_conv2d"],
)
def test_a_packed_buffer_is_an_error_if_it_is(what: str, use: Callable[[Tensor], object]) -> None:
    make, parts = DAMAGED[what]
    with pytest.raises(RuntimeError, match=r"^packed: ") as error:
        use(make())
    assert all(part in str(error.value) for part in parts), error.value


def test_every_flipped_bit_is_an_error() -> None:
    good = pack(WEIGHT, MASK)
    for byte in range(good.numel()):
        for bit in range(8) if byte < 4 * HEADER_BYTES else [byte % 8]:
            packed = good.clone()
            packed[byte] ^= 1 << bit
            # A size in the header may become one that no memory holds.
            with pytest.raises(RuntimeError, match=r"^(packed|size): "):
                unpack(packed)


@pytest.mark.parametrize("offset", [CHECKSUM_AT, HEADER_BYTES + 7, -1])
@pytest.mark.parametrize("check", [unpack])
def test_damage_done_to_a_buffer_that_was_good_before_is_found(
    check: Callable[[Tensor], object], offset: int
) -> None:
    packed = pack(WEIGHT, MASK)
    check(packed)
    packed[offset] ^= 0x55
    with pytest.raises(RuntimeError, match=r"^packed: "):
        check(packed)


@pytest.mark.parametrize("shape", [[], [4, 16, 3], [4, 16, 3, 4], [16, 4, 3, 3], [4, 16, 3, -3]])
def test_unpack_is_told_the_weight_shape_and_holds_it_against_the_buffer(shape: list[int]) -> None:
    with pytest.raises(RuntimeError, match=r"^weight_shape: ") as error:
        torch.ops.l1sparse.unpack(pack(WEIGHT, MASK), shape)
    assert str(shape) in str(error.value)
    assert "[4, 16, 3, 3]" in str(error.value)
