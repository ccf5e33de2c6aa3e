"""`orlop config check`: whether the daemon would take a configuration file."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax

SYNTAX = Syntax("[FILE]", "Check a configuration file (default /etc/orlop/config.toml)", most=1)


def main(options: Options, context: Context) -> int:
    from orlop.daemon.config import PATH, load

    path = options.arguments[0] if options.arguments else PATH
    load(path)
    print(f"{path}: all keys are known and valid")
    return 0
