# SPDX-License-Identifier: MIT
"""The version of the installed package; its number comes from the tag that it was built at."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

# Of a source tree that is used without being installed: a version that tools can still parse.
UNKNOWN = "0+unknown"


def installed_version() -> str:
    """Version of the installed distribution, `UNKNOWN` where only the source tree is there."""
    try:
        return version("l1sparse")
    except PackageNotFoundError:
        return UNKNOWN
