# SPDX-License-Identifier: MIT
"""``plan.yaml``: what is read is what is meant, and every mistake is named in one line."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from l1sparse.pruning.plan_file import (
    PlanError,
    example_plan,
    parse_plan,
    plan_hash,
    plan_text,
    read_plan,
    write_plan,
)
from l1sparse.pruning.plan_schema import LayerRule, PlanFile

LEAST = "run: {allowed_drop: 0.01}\n"


def keys_of(model: type[BaseModel]) -> list[tuple[str, Any]]:
    """Every key of a section and of those beneath."""
    found = []
    for name, field in model.model_fields.items():
        found.append((name, field))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += keys_of(field.annotation)
    return found


def test_one_key_is_a_plan() -> None:
    plan = parse_plan(LEAST)
    assert plan.layer.group == "1x8"
    assert plan.run.strategy == "method"
    assert plan.run.allowed_drop == 0.01


def test_the_example_has_every_key_and_what_it_means() -> None:
    text = example_plan()
    keys = keys_of(PlanFile)
    assert len(keys) > 40
    for name, field in keys:
        assert field.description, f"{name} is not documented"
        assert f"{name}:" in text
        assert field.description.split()[0] in text
    for name in LayerRule.model_fields:
        assert LayerRule.model_fields[name].description
    assert max(map(len, text.splitlines())) <= 100


def test_the_example_is_a_plan_and_is_written_as_it_was_read(tmp_path) -> None:
    plan = parse_plan(example_plan())
    assert plan.layers["features.0"].keep
    assert plan.layers["features.*"] == LayerRule(group="1x16", alpha=2.0, max_sparsity=0.9)
    write_plan(plan, tmp_path / "plan.yaml")
    assert (tmp_path / "plan.yaml").read_text() == example_plan()
    assert read_plan(tmp_path / "plan.yaml") == plan


def test_a_layer_name_with_special_characters_survives() -> None:
    name = "blocks: [a-b] #1 é"
    plan = PlanFile(layers={name: LayerRule(keep=True)}, run={"allowed_drop": 0.1})
    assert list(parse_plan(plan_text(plan)).layers) == [name]


def test_a_group_may_be_a_pair_and_yaml_words_are_understood() -> None:
    plan = parse_plan(
        "layer: {group: [4, 4]}\nrun: {allowed_drop: 1e-2}\ntraining: {mixed_precision: no}"
    )
    assert plan.layer.group == "4x4"
    assert plan.run.allowed_drop == 0.01  # YAML itself reads 1e-2 as a text
    assert plan.training.mixed_precision == "no"


def test_the_hash_is_of_the_content_and_of_the_order_of_layers() -> None:
    plan = parse_plan(LEAST + "layers: {a: {keep: true}, '*': {alpha: 2}}")
    again = parse_plan("layers:\n  a:\n    keep: true # said so\n  '*': {alpha: 2.0}\n" + LEAST)
    swapped = parse_plan(LEAST + "layers: {'*': {alpha: 2}, a: {keep: true}}")
    other = parse_plan(LEAST + "layers: {a: {keep: true}, '*': {alpha: 3}}")
    assert plan_hash(plan) == plan_hash(again) == plan_hash(parse_plan(plan_text(plan)))
    assert len({plan_hash(plan), plan_hash(swapped), plan_hash(other)}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: {stratgy: method, allowed_drop: 0}",
         "plan: run.stratgy: unknown key, with the value 'method'; did you mean 'strategy'?"),
        ("trainer: 3\n" + LEAST, "plan: trainer: unknown key, with the value 3; did you mean"),
        (LEAST + "layers: {a: {gruop: 1x8}}",
         "plan: layers.a.gruop: unknown key, with the value '1x8'; did you mean 'group'?"),
        (LEAST + "split: {zzz: 1}",
         "plan: split.zzz: unknown key, with the value 1; expected one of allowed_drop, keep_cou"),
        ("run: {allowed_drop: 75}",
         "plan: run.allowed_drop: expected less than or equal to 1; got 75"),
        ("run: {target_accuracy: .nan}",
         "plan: run.target_accuracy: expected a finite number; got nan"),
        ("run: {allowed_drop: 0.1, step: yes}", "plan: run.step: expected a number, not True"),
        ("run: {allowed_drop: 0.1, step: 0}", "plan: run.step: expected greater than 0; got 0"),
        ("run: {allowed_drop: 0.1, rounds: 2.5}",
         "plan: run.rounds: expected a valid integer, got a number with a fractional part; got"),
        ("run: {allowed_drop: 0.1, strategy: magic}",
         "plan: run.strategy: expected 'method', 'one-shot', 'gradual' or 'global'; got 'magic'"),
        ("run: {allowed_drop: 0.1, side: both}",
         "plan: run.side: expected 'below' or 'above'; got 'both'"),
        (LEAST + "layers: {a: {group: 0x8}}", "plan: layers.a.group: expected filters x channels"),
        (LEAST + "layer: {group: 8}", "such as 1x8; got 8"),
        (LEAST + "layer: {alpha: -1}", "plan: layer.alpha: expected greater than 0; got -1"),
        (LEAST + "layers: {a: {alpha: 1, sparsity: 0.5}}",
         "plan: layers.a: expected alpha or sparsity, not both; got alpha 1.0 and sparsity 0.5"),
        (LEAST + "layers: {a: prune}",
         "plan: layers.a: expected keys and their values; got 'prune'"),
        ("run: {}",
         "plan: run: expected either target_accuracy or allowed_drop; got target_accuracy None"),
        ("run: {allowed_drop: 0.1, target_accuracy: 0.9}",
         "got target_accuracy 0.9 and allowed_drop 0.1"),
        ("layer: {}", "plan: run: missing; expected it, with some of the keys strategy, side"),
        (LEAST + "sensitivity: {at: 0.3}", "at: expected one of the sparsities [0.25, 0.5, 0.75]"),
        (LEAST + "layers: {a: {}, a: {}}", "plan: no valid YAML: the key 'a' occurs twice"),
        ("run: {", "plan: no valid YAML: "),
        ("- run", "plan: expected keys layer, layers, split, sensitivity, run, training; got ['ru"),
        ("", "got None"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_value_and_what_would_be_right(text, message) -> None:
    with pytest.raises(PlanError) as error:
        parse_plan(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_several_mistakes_have_a_line_each(tmp_path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("run: {allowed_drop: 2, rounds: -1}\nlayer: {sparsity: 9}\n")
    with pytest.raises(PlanError) as error:
        read_plan(path)
    lines = str(error.value).splitlines()
    assert [line.removeprefix(f"{path}: ").split(":")[0] for line in lines] == [
        "layer.sparsity",
        "run.allowed_drop",
        "run.rounds",
    ]


def test_no_code_in_a_plan_is_run(tmp_path) -> None:
    with pytest.raises(PlanError, match="no valid YAML: could not determine a constructor"):
        parse_plan(f"run: !!python/object/apply:os.mkdir ['{tmp_path}/made']")
    assert not (tmp_path / "made").exists()


def test_what_is_written_is_plain_yaml() -> None:
    assert yaml.safe_load(example_plan())["layers"]["features.0"] == {"keep": True}
