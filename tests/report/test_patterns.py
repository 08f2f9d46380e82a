# SPDX-License-Identifier: MIT
from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from l1sparse.report import pack_mask, unpack_mask, weight_histogram
from l1sparse.report.patterns import mask_picture


def test_a_mask_survives_packing_and_json() -> None:
    mask = torch.rand(5, 3, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.4
    packed = json.loads(json.dumps(pack_mask(mask)))
    assert np.array_equal(unpack_mask(packed), mask.numpy())


def test_a_packed_mask_of_the_wrong_length_is_an_error() -> None:
    packed = pack_mask(np.ones((4, 4, 1, 1), bool))
    packed["shape"] = [4, 8, 1, 1]
    with pytest.raises(ValueError, match="expected 32 bits"):
        unpack_mask(packed)


def test_a_picture_has_a_row_a_filter_and_a_gap_between_taps() -> None:
    mask = np.zeros((2, 3, 1, 2), bool)
    mask[0, 2, 0, 0] = mask[1, 0, 0, 1] = True
    assert mask_picture(mask).astype(int).tolist() == [
        [0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0],
    ]


def test_a_histogram_counts_zeros_apart() -> None:
    found = weight_histogram([-1.0, -0.9, 0.2, 0.0], torch.tensor([-1.0, 0.0, 0.0, 0.0]), bins=2)
    assert found == {
        "edges": [-1.0, 0.0, 1.0],
        "before": [2, 1],
        "after": [1, 0],
        "zeros": [1, 3],
    }


def test_weights_that_are_all_zero_or_not_finite_have_a_histogram() -> None:
    assert weight_histogram([0.0], [0.0], bins=2)["before"] == [0, 0]
    found = weight_histogram([np.nan, np.inf, 1.0], [0.5, 0.0, 0.0], bins=2)
    assert found["before"] == [0, 1]
