"""`features`, `plan` and `spec`: nothing here makes a container."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from orlop.cli.flags import Options, Syntax, switch, value
from orlop.spec.errors import AlreadyExists, OrlopError, from_os

if TYPE_CHECKING:
    from orlop.cli.runtime import Context


def features_command(options: Options, context: Context) -> int:
    """Print what this runtime can do (features.md)."""
    from orlop.runtime.features import features

    print(msgspec.json.format(msgspec.json.encode(features()), indent=4).decode())
    return 0


def plan_command(options: Options, context: Context) -> int:
    """Print the plan that would create a container of the bundle."""
    from orlop.runtime.create import plans_of, read_bundle
    from orlop.runtime.host import probe_host

    bundle = os.path.abspath(options.arguments[0] if options.arguments else options.bundle)
    spec = read_bundle(bundle).value
    cache = os.path.join(context.root, ".seccomp")
    plans = plans_of(spec, bundle, options.id, probe_host(), cache, context.systemd)
    print("".join(plan.render() for plan in plans), end="")
    return 0


def spec_command(options: Options, context: Context) -> int:
    """Write a config.json to start from."""
    from orlop.runtime.default_spec import default_config

    path = os.path.join(options.bundle, "config.json")
    config = default_config(options.rootless, os.geteuid(), os.getegid(), _controllers_on_v1())
    text = msgspec.json.format(config, indent=4)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with os.fdopen(fd, "wb") as file:
            file.write(text + b"\n")
    except FileExistsError:
        raise AlreadyExists(f"{path} exists; remove it first") from None
    except OSError as error:
        raise from_os(error, "write") from error
    return 0


def _controllers_on_v1() -> bool:
    from orlop.cgroups.probe import probe

    try:
        return probe().mode != "v2"
    except OrlopError:
        return False


VERBS = {
    "features": (features_command, Syntax("", "Show what this runtime can do, as JSON", (), 0, 0)),
    "plan": (
        plan_command,
        Syntax(
            "[BUNDLE]",
            "Show the operations that would create a container of the bundle",
            (
                value("-b --bundle", "Directory of the bundle", ".", "path"),
                value("--id", "Identifier of the container", "container"),
            ),
            0,
            1,
        ),
    ),
    "spec": (
        spec_command,
        Syntax(
            "",
            "Write a default config.json",
            (
                value("-b --bundle", "Directory of the bundle", ".", "path"),
                switch("--rootless", "For a container of this user, without root's rights"),
            ),
            0,
            0,
        ),
    ),
}
