"""`orlop logout`: forget the credentials for a registry."""

from __future__ import annotations

import sys

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax

SYNTAX = Syntax("[SERVER]", "Log out from a registry", most=1)


def main(options: Options, context: Context) -> int:
    """Being logged out already is no failure."""
    from orlop.engine.images.login import logout, server_name

    server = server_name(options.arguments[0] if options.arguments else "")
    if logout(server):
        print(f"Removing login credentials for {server}")
    else:
        print(f"Not logged in to {server}", file=sys.stderr)
    return 0
