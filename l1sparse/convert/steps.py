# SPDX-License-Identifier: MIT
"""Steps of a traced network that can be taken together."""

from __future__ import annotations

from typing import Any

from torch import fx, nn


def module_of(model: fx.GraphModule, node: Any) -> nn.Module | None:
    """The module that `node` calls, if it is a node that calls one."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    return model.get_submodule(str(node.target))


def input_for_one(node: fx.Node) -> fx.Node | None:
    """The first input of `node`, if it is a node that nothing else reads."""
    before = node.args[0] if node.args else None
    return before if isinstance(before, fx.Node) and len(before.users) == 1 else None
