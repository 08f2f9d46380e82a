# SPDX-License-Identifier: MIT
"""Reading and writing ``plan.yaml``."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from l1sparse.pruning.plan_schema import LayerRule, PlanFile, RunSection, Section
from l1sparse.pruning.resume import canonical_hash

_WIDTH = 96


class PlanError(ValueError):
    """A plan that cannot be used; one line for each thing that is wrong."""


def read_plan(path: Path | str) -> PlanFile:
    """The plan in a file.

    Raises:
        PlanError: if it is no valid plan; the message names the file and each wrong key.
        OSError: if it cannot be read.
    """
    return parse_plan(Path(path).read_text(encoding="utf-8"), str(path))


def parse_plan(text: str, source: str = "plan") -> PlanFile:
    """The plan in a text.

    Args:
        text: YAML.
        source: how errors call it.

    Raises:
        PlanError: if it is no valid plan.
    """
    try:
        content = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise PlanError(f"{source}: no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise PlanError(
            f"{source}: expected keys {', '.join(PlanFile.model_fields)}; got {content!r}"
        )
    try:
        return PlanFile.model_validate(dict(content))
    except ValidationError as error:
        lines = [f"{source}: {_line(details)}" for details in error.errors()]
        raise PlanError("\n".join(lines)) from error


def write_plan(plan: PlanFile, path: Path | str) -> None:
    """Write `plan`, every key explained."""
    Path(path).write_text(plan_text(plan), encoding="utf-8")


def plan_text(plan: PlanFile) -> str:
    """`plan` as YAML, every key explained by a comment."""
    return "\n".join(_section_lines(plan, "")).lstrip("\n") + "\n"


def example_plan() -> str:
    """A plan with every key and what it means; a valid plan but for the layers' names."""
    layers = PlanFile.model_fields["layers"].examples
    assert layers is not None
    run = RunSection(allowed_drop=0.01, total_rounds=30)
    return plan_text(PlanFile(layers=layers[0], run=run))


def plan_hash(plan: PlanFile) -> str:
    """sha256, in hexadecimal, of what the plan says; how it is written does not matter."""
    content = plan.model_dump()
    # The order of the layers' keys means something; canonical JSON keeps that of lists only.
    return canonical_hash({**content, "layers": list(content["layers"].items())})


class _Loader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML would drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} occurs twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _line(error: ErrorDetails) -> str:
    """One line for one error: the key, its value, and what would be right."""
    path = ".".join(str(part) for part in error["loc"])
    value = error["input"]
    if error["type"] == "extra_forbidden":
        known = list(_section_at(error["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(str(error["loc"][-1]), known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
        return f"{path}: unknown key, with the value {value!r}; {hint}"
    if error["type"] == "missing":
        keys = ", ".join(_section_at(error["loc"]).model_fields)
        return f"{path}: missing; expected it, with some of the keys {keys}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if error["type"] in ("model_type", "dict_type"):
        message = "expected keys and their values"
    if isinstance(value, Section | dict):  # a rule over several keys, which it names itself
        return f"{path}: {message}"
    return f"{path}: {message}; got {value!r}"


def _section_at(location: tuple[int | str, ...]) -> type[Section]:
    section: type[Section] = PlanFile
    for part in location:
        if part == "layers" and section is PlanFile:
            section = LayerRule
        elif str(part) in section.model_fields:
            kind = section.model_fields[str(part)].annotation
            section = kind if isinstance(kind, type) and issubclass(kind, Section) else section
    return section


def _section_lines(section: Section, indent: str) -> list[str]:
    lines = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section) and not indent:
            lines.append("")
        wrapped = textwrap.wrap(
            field.description or "", _WIDTH - len(indent), break_on_hyphens=False
        )
        lines += [f"{indent}# {line}" for line in wrapped]
        if isinstance(value, Section):
            lines += [f"{indent}{name}:", *_section_lines(value, indent + "  ")]
        elif name == "layers" and isinstance(section, PlanFile) and value:
            lines += [f"{indent}{name}:"]
            for key, rule in value.items():
                lines.append(f"{indent}  {_flow(key)}: {_flow(rule.model_dump(exclude_none=True))}")
        else:
            lines.append(f"{indent}{name}: {_flow(value)}")
    return lines


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")
