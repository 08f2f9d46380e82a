# SPDX-License-Identifier: MIT
"""Where variables lie: shared memory, local memory, the parameters, and the address windows.

A shared variable gets the weakest place its declared alignment allows and a gap behind it that
belongs to nobody, so that too weak an alignment and an overrun into the next variable show.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .syntax import Variable

SHARED_WINDOW = 0x1000_0000_0000
"""What `cvta.shared` adds to a shared address to make it generic."""
LOCAL_WINDOW = 0x2000_0000_0000
"""What `cvta.local` adds to a local address."""
GAP = 128
"""Bytes between two shared variables: all 32 banks, so that conflicts are as without it."""


def round_up(value: int, multiple: int) -> int:
    """The next multiple not below `value`."""
    return -(-value // multiple) * multiple


@dataclass
class Layout:
    """Offsets of variables within their spaces.

    Attributes:
        offsets: Of each variable.
        shared: (offset, size) of each static shared variable.
        shared_size: End of the static shared variables, gaps included.
        static_shared: Bytes of them as declared.
        dynamic: The `.extern .shared` variable, if there is one.
        parameters: The kernel's parameters in order.
        parameter_size: Bytes of them.
        local_size: Bytes of local memory a thread.
        frames: Parameters and results of device functions: variables each thread has a copy of.
        module: Global and constant variables.
    """

    offsets: dict[Variable, int] = field(default_factory=dict)
    shared: list[tuple[int, int]] = field(default_factory=list)
    shared_size: int = 0
    static_shared: int = 0
    dynamic: list[Variable] = field(default_factory=list)
    parameters: list[Variable] = field(default_factory=list)
    parameter_size: int = 0
    local_size: int = 16  # address 0 stays unused
    frames: list[Variable] = field(default_factory=list)
    module: list[Variable] = field(default_factory=list)

    def add(self, variable: Variable, kernel_parameter: bool = False) -> None:
        """Gives a variable its place."""
        if variable.space == "shared" and variable.size == 0:
            self.dynamic.append(variable)
        elif variable.space == "shared":
            # An odd multiple of the alignment.
            place = round_up(self.shared_size, 2 * variable.align) + variable.align % GAP
            self.offsets[variable] = place
            self.shared.append((place, variable.size))
            self.static_shared = round_up(self.static_shared, variable.align) + variable.size
            self.shared_size = round_up(place + variable.size, GAP) + GAP
        elif variable.space == "local":
            self.local_size = round_up(self.local_size, variable.align)
            self.offsets[variable] = self.local_size
            self.local_size += variable.size
        elif kernel_parameter:
            self.parameter_size = round_up(self.parameter_size, variable.align)
            self.offsets[variable] = self.parameter_size
            self.parameters.append(variable)
            self.parameter_size += variable.size
        elif variable.space == "param":
            self.offsets[variable] = 0
            self.frames.append(variable)
        else:
            self.module.append(variable)

    def place_dynamic(self, size: int) -> int:
        """Gives dynamic shared memory its place behind the static; returns its offset."""
        # 16 bytes are what CUDA promises; an odd multiple shows kernels that hope for more.
        offset = round_up(self.shared_size, GAP) + (16 if size else 0)
        for variable in self.dynamic:
            self.offsets[variable] = offset
        return offset
