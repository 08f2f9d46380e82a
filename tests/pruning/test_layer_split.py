# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest

from l1sparse.format import GroupShape
from l1sparse.pruning.curve import LayerSensitivity, order_layers
from l1sparse.pruning.split import LayerSplit, split_layers


def record(name: str, sensitivity: float | None) -> LayerSensitivity:
    reason = "no channels" if sensitivity is None else None
    return LayerSensitivity(name, GroupShape(1, 8), 0.99, (), sensitivity, reason)


RECORDS = [
    record("stem", None),
    record("a.conv1", 0.01),
    record("a.conv2", 0.30),
    record("b.conv1", -0.02),
    record("b.conv2", 0.10),
]


def pruned(split: LayerSplit) -> list[str]:
    return [one.name for one in split.prune]


def reasons(split: LayerSplit) -> dict[str, str]:
    return {one.sensitivity.name: one.reason for one in split.kept}


def test_order_is_from_most_to_least_sensitive() -> None:
    names = [one.name for one in order_layers(RECORDS)]
    assert names == ["a.conv2", "b.conv2", "a.conv1", "b.conv1"]


def test_equal_sensitivities_keep_their_order() -> None:
    assert [one.name for one in order_layers([record(n, 0.1) for n in "cab"])] == ["c", "a", "b"]


def test_without_a_rule_all_that_can_be_pruned_is() -> None:
    split = split_layers(RECORDS)
    assert pruned(split) == ["a.conv2", "b.conv2", "a.conv1", "b.conv1"]
    assert reasons(split) == {"stem": "cannot be pruned: no channels"}


def test_a_layer_that_loses_more_than_allowed_is_kept() -> None:
    split = split_layers(RECORDS, allowed_drop=0.10)
    assert pruned(split) == ["b.conv2", "a.conv1", "b.conv1"]
    assert reasons(split)["a.conv2"] == "kept: sensitivity 0.3000 is above 0.1"


def test_the_most_sensitive_are_kept_by_count() -> None:
    split = split_layers(RECORDS, keep_count=2)
    assert pruned(split) == ["a.conv1", "b.conv1"]
    assert list(reasons(split)) == ["a.conv2", "b.conv2", "stem"]
    assert reasons(split)["b.conv2"] == "kept as number 2 of the 2 most sensitive"
    assert pruned(split_layers(RECORDS, keep_count=4)) == []


def test_layers_are_kept_by_name_or_pattern() -> None:
    split = split_layers(RECORDS, keep_names=["b.*", "a.conv1"])
    assert pruned(split) == ["a.conv2"]
    assert reasons(split)["b.conv1"] == "kept by name: b.*"


def test_rules_add_up() -> None:
    split = split_layers(RECORDS, allowed_drop=0.05, keep_count=1, keep_names=["b.conv1"])
    assert pruned(split) == ["a.conv1"]


def test_bad_arguments_are_named() -> None:
    for drop in (-0.01, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"allowed_drop: .* got {drop}"):
            split_layers(RECORDS, allowed_drop=drop)
    for count in (-1, 5):
        with pytest.raises(ValueError, match=f"keep_count: expected 0 to 4, .* got {count}"):
            split_layers(RECORDS, keep_count=count)
    with pytest.raises(ValueError, match=r"keep_names: 'layer4.\*' matches none of \['stem'"):
        split_layers(RECORDS, keep_names=["layer4.*"])
