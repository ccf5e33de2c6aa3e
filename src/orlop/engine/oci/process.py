"""The process of a container: arguments, environment, directory, user and limits, by Docker's rules. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

import msgspec

from orlop.engine.config import ContainerConfig, ExecConfig, Ulimit
from orlop.engine.oci import security
from orlop.engine.oci.facts import ContainerFacts
from orlop.engine.users import Identity
from orlop.spec import capabilities
from orlop.spec.errors import InvalidArgument
from orlop.spec.image import ContainerDefaults
from orlop.spec.runtime import Capabilities, Process, Rlimit, RuntimeSpec, User

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INIT_TARGET = "/sbin/docker-init"
_UNLIMITED = (1 << 64) - 1

# getrlimit(2), by the names of --ulimit
RLIMITS = frozenset(
    "core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()
)


def process(config: ContainerConfig, image: ContainerDefaults, facts: ContainerFacts, held: tuple[str, ...]) -> Process:
    """The first process. `held` are the capabilities of the container."""
    return Process(
        args=_with_init(config, arguments(config, image), facts),
        env=environment(config, image, facts.hostname, facts.identity.home),
        cwd=working_directory(config.working_dir or image.working_dir),
        terminal=config.tty,
        user=user(facts.identity),
        capabilities=capability_sets(held, facts.identity.uid, _ambient(config, held)),
        rlimits=tuple(rlimit(limit) for limit in config.limits.ulimits),
        no_new_privileges=security.options(config).no_new_privileges,
        oom_score_adj=config.limits.oom_score_adj,
        apparmor_profile=config.pod.apparmor if config.pod is not None else "",
        selinux_label=config.pod.selinux if config.pod is not None else "",
    )


def arguments(config: ContainerConfig, image: ContainerDefaults) -> tuple[str, ...]:
    """Entry point and command. An entry point that is asked for puts the image's command aside too."""
    if config.entrypoint is not None:
        result = config.entrypoint + (config.command or ())
    else:
        result = (image.entrypoint or ()) + (config.command or image.cmd or ())
    if not result:
        raise InvalidArgument("no command specified")
    _check_strings(result, "command")
    if not result[0]:
        raise InvalidArgument("command: the program's name is empty")
    return result


def _with_init(config: ContainerConfig, args: tuple[str, ...], facts: ContainerFacts) -> tuple[str, ...]:
    return (INIT_TARGET, "--", *args) if uses_init(config) and facts.init_path else args


def uses_init(config: ContainerConfig) -> bool:
    """In a PID namespace that is not its own, an init would not be process 1 and have nothing to reap."""
    return config.init and not config.pid_mode


def environment(config: ContainerConfig, image: ContainerDefaults, hostname: str, home: str) -> tuple[str, ...]:
    """`NAME=value` entries: defaults, then what was asked for, then the image's; HOME last, unless it is given.

    A given HOME never stands last, so that `exec` can tell (see `exec_process`).
    """
    asked = _as_mapping(config.env)
    given = {name: value for name, value in _as_mapping(image.env or ()).items() if name not in asked}
    values: dict[str, str | None] = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if config.tty:
        values["TERM"] = "xterm"
    values |= asked | given
    own_home = values.pop("HOME", None)
    first: dict[str, str | None] = {} if not own_home else {"HOME": own_home}
    last: dict[str, str | None] = {} if own_home else {"HOME": home}
    return _entries(first | values | last)


def _as_mapping(entries: Iterable[str]) -> dict[str, str | None]:
    """Names with values; None for a name alone, which takes the variable away."""
    result: dict[str, str | None] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not name or "\0" in entry:
            raise InvalidArgument(f"invalid environment variable: {entry[:40]!r}")
        result[name] = value if equals else None
    return result


def _entries(values: dict[str, str | None]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in values.items() if value is not None)


def working_directory(path: str) -> str:
    """A cleaned absolute path; the root when none is given."""
    if not path:
        return "/"
    if not path.startswith("/"):
        raise InvalidArgument(f"the working directory {path[:128]!r} is invalid, it needs to be an absolute path")
    _check_strings((path,), "working directory")
    return "/" + posixpath.normpath(path).lstrip("/")


def user(identity: Identity) -> User:
    return User(uid=identity.uid, gid=identity.gid, additional_gids=identity.groups)


def _ambient(config: ContainerConfig, held: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(
        capabilities.normalize(name, "ambient capability") for name in (config.pod.ambient if config.pod else ())
    )
    return held if "ALL" in names else tuple(name for name in held if name in names)


def capability_sets(held: tuple[str, ...], uid: int, ambient: tuple[str, ...] = ()) -> Capabilities:
    """Root has its capabilities in effect. Another user only has them in the bounding set, for programs that gain
    them by their files, as execve(2) would leave it. None is inheritable (CVE-2022-24769) but the ambient ones, which
    any user keeps."""
    kept = held if uid == 0 else ambient
    return Capabilities(bounding=held, effective=kept, permitted=kept, inheritable=ambient, ambient=ambient)


def rlimit(limit: Ulimit) -> Rlimit:
    name = limit.name.lower()
    if name not in RLIMITS:
        raise InvalidArgument(f"invalid ulimit type: {limit.name[:32]}")
    soft, hard = (_UNLIMITED if value == -1 else value for value in (limit.soft, limit.hard))
    if not (0 <= soft <= _UNLIMITED and 0 <= hard <= _UNLIMITED):
        raise InvalidArgument(f"ulimit {name}: want -1 or a number of 64 bits")
    if soft > hard:
        raise InvalidArgument(
            f"{name}: ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}"
        )
    return Rlimit(type=f"RLIMIT_{name.upper()}", soft=soft, hard=hard)


def exec_process(
    spec: RuntimeSpec, config: ExecConfig, identity: Identity | None, available: int = capabilities.ALL
) -> Process:
    """A further process in a running container.

    `identity` is the resolved `--user`, or None for the container's own user; `available` the mask of capabilities
    that `--privileged` gives.
    """
    base = spec.process
    if base is None:
        raise InvalidArgument("process: the container has none")
    if not config.command:
        raise InvalidArgument("no command specified")
    _check_strings(config.command, "command")
    who = user(identity) if identity else base.user
    held, ambient = (base.capabilities.bounding, base.capabilities.ambient) if base.capabilities else ((), ())
    if config.privileged:
        held = capabilities.names(available)
    return msgspec.structs.replace(
        base,
        args=config.command,
        env=_exec_environment(base.env, config, identity),
        cwd=working_directory(config.working_dir) if config.working_dir else base.cwd,
        terminal=config.tty,
        console_size=None,
        user=who,
        capabilities=capability_sets(held, who.uid, ambient),
    )


def _exec_environment(inherited: tuple[str, ...], config: ExecConfig, identity: Identity | None) -> tuple[str, ...]:
    """The container's own, with a HOME that fits another user unless the container was given one."""
    default_home = bool(inherited) and inherited[-1].startswith("HOME=")
    values = _as_mapping(inherited)
    if config.tty:
        values.setdefault("TERM", "xterm")
    if identity is not None and default_home:
        values["HOME"] = identity.home
    return _entries(values | _as_mapping(config.env))


def _check_strings(strings: Iterable[str], what: str) -> None:
    if any("\0" in text for text in strings):
        raise InvalidArgument(f"{what}: contains a NUL character")
