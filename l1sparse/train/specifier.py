# SPDX-License-Identifier: MIT
"""``module:function``: how a user names code of their own on the command line."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def imported_function(argument: str, text: str) -> Callable[..., Any]:
    """The function that ``module:function`` names; modules of the current folder count too.

    Args:
        argument: what `text` was given for; errors begin with it.
        text: such as ``"my_package.models:tiny"``.

    Raises:
        ValueError: if `text` has another form, or the module or the function is not found.
    """
    module_name, separator, function_name = text.partition(":")
    if not (separator and module_name and function_name):
        raise ValueError(f"{argument}: expected module:function, got {text!r}")
    here = str(Path.cwd())
    if here not in sys.path:  # the script l1sparse starts with its own folder instead
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise ValueError(
            f"{argument}: no module {module_name!r} in {here} or among the installed ones, "
            f"got {text!r}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        found = "nothing" if function is None else f"a {type(function).__name__}"
        raise ValueError(
            f"{argument}: expected a function {function_name!r} in {module.__file__}, found {found}"
        )
    return function  # type: ignore[no-any-return]
