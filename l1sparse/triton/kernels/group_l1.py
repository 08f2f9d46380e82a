# SPDX-License-Identifier: MIT
"""Mean absolute weight of every channel group, one pass over the weight."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def group_l1_kernel(
    weight, norms, filters, channels, taps, group_filters, group_channels, channel_groups,
    filter_stride, NORMS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A program computes `NORMS` norms of one row of filter groups.

    Norms of a row are ordered as the weight is, channel group first, then tap; so programs read
    stretches of consecutive weights, `CHANNELS` channels of each group at a time.
    `filter_stride`: weights of a filter, ``channels * taps``.
    """
    number = tl.program_id(0) * NORMS + tl.arange(0, NORMS)
    row = tl.program_id(1)
    per_row = channel_groups * taps
    first_channel = (number // taps) * group_channels
    first_filter = row.to(tl.int64) * group_filters
    last_filter = tl.minimum(first_filter + group_filters, filters)
    k = tl.arange(0, CHANNELS)
    sums = tl.zeros((NORMS, CHANNELS), tl.float32)
    for filter in range(first_filter, last_filter):
        for within in range(0, group_channels, CHANNELS):
            channel = first_channel[:, None] + within + k[None, :]
            there = (within + k < group_channels)[None, :] & (channel < channels)
            there &= (number < per_row)[:, None]
            at = filter * filter_stride + channel * taps + (number % taps)[:, None]
            sums += tl.abs(tl.load(weight + at, there, 0.0).to(tl.float32))
    size = tl.minimum(group_channels, channels - first_channel) * (last_filter - first_filter)
    means = tl.sum(sums, 1) / tl.maximum(size, 1).to(tl.float32)  # none beyond the row's end
    tl.store(norms + row.to(tl.int64) * per_row + number, means, number < per_row)
