"""`mounts`: add mounts to a container that runs, and remove them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.cli.flags import Options, Syntax
from orlop.runtime import live_mounts
from orlop.runtime.state import Store
from orlop.spec.document import decode
from orlop.spec.errors import InvalidArgument, from_os
from orlop.spec.runtime import Mount

if TYPE_CHECKING:
    from orlop.cli.runtime import Context

_VERBS = {"add": live_mounts.add, "remove": live_mounts.remove}


def mounts_command(options: Options, context: Context) -> int:
    """Do it with the mounts of a file, which has a list in the form of `mounts` in config.json."""
    verb, identifier, path = options.arguments
    if verb not in _VERBS:
        raise InvalidArgument(f"mounts: {verb[:40]!r} is neither add nor remove")
    try:
        with open(path, "rb") as file:
            mounts = decode(file.read(), tuple[Mount, ...], "mounts")
    except OSError as error:
        raise from_os(error, f"read {path}") from error
    _VERBS[verb](Store(context.root), identifier, mounts)
    return 0


VERBS = {
    "mounts": (
        mounts_command,
        Syntax("[add|remove] CONTAINER FILE", "Add mounts to a running container, or remove them", (), 3, 3, False),
    )
}
