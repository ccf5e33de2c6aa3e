"""One write to a control file: what the pure part decides and the acting part performs."""

from __future__ import annotations

import msgspec


class Write(msgspec.Struct, frozen=True):
    """`value` into `file` of the group in the hierarchy of `controller`, because `origin` (a JSON path) says so.

    `optional`: a missing file is right. `alternative`: what to write where `file` is missing, as kernels name some
    files differently. `guard`: a file of the same group whose number must not be above `value`.
    """

    controller: str
    file: str
    value: str
    origin: str
    optional: bool = False
    alternative: Write | None = None
    guard: str = ""

    def __str__(self) -> str:
        return f"{self.controller}: {self.file} = {self.value}  # {self.origin}"
