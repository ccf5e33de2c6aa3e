"""`orlop config default`: a whole configuration file, every key with its default and what it is for."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax

SYNTAX = Syntax("", "Print a configuration file with every key at its default", most=0)


def main(options: Options, context: Context) -> int:
    from orlop.daemon.config import Config, as_toml

    print(as_toml(Config()), end="")
    return 0
