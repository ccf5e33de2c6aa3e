"""`orlop config explain`: what is in force, key by key, what each is for, which the file has set, and when a change
takes effect."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax, value
from orlop.spec.errors import InvalidArgument

SYNTAX = Syntax(
    "[KEY]",
    "Show the configuration in force, and what each key is for",
    (value("--config", "Configuration file", "", "path"),),
    most=1,
)


def main(options: Options, context: Context) -> int:
    import msgspec

    from orlop.daemon.config import Config, at_once, keys, load

    wanted = options.arguments[0] if options.arguments else ""
    defaults = {key.name: key.value for key in keys(Config())}
    found = [key for key in keys(load(options.config)) if not wanted or f"{key.name}.".startswith(f"{wanted}.")]
    if not found:
        raise InvalidArgument(f"config: there is no key {wanted[:80]}; `orlop config default` shows all")
    for key in found:
        origin = "default" if key.name in defaults and defaults[key.name] == key.value else "configured"
        effect = "on SIGHUP" if at_once(key.name) else "with a restart"
        print(f"{key.name} = {msgspec.json.encode(key.value).decode()}  ({origin}; a change takes effect {effect})")
        print(f"    {key.text}")
    return 0
