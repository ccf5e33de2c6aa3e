"""`/etc/orlop/config.toml`: what the daemon serves and how. Every key is known, typed and explained here.

The classes are the file's tables; a field's default is what holds where the file is silent, and the text beside it is
what `orlop config explain` says. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
from msgspec import Meta

from orlop.cri.pinned import Pinned
from orlop.distribution.hosts import DIRECTORIES
from orlop.spec.errors import InvalidArgument, NotFound, from_os
from orlop.standins import deferred

with deferred():
    import tomllib

PATH = "/etc/orlop/config.toml"
# what SIGHUP puts in force; everything else takes effect when the daemon is started again
RELOADED = frozenset(
    "daemon.log_level daemon.log_format daemon.shutdown_timeout cri.network cri.pinned_images cri.certs "
    "cri.restore_images cri.default_handler cri.handlers tracing.endpoint tracing.ratio".split()
)


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0)]


class Daemon(_Table, frozen=True, kw_only=True):
    root: Annotated[str, Meta(description="Where images, snapshots and the database are")] = "/var/lib/orlop"
    state: Annotated[str, Meta(description="Where sockets, mounts and pids are; empty after a boot")] = "/run/orlop"
    log_level: Annotated[
        str, Meta(description="debug, info, warning or error", pattern="^(debug|info|warning|error)$")
    ] = "info"
    log_format: Annotated[str, Meta(description="text, or json with one object a line", pattern="^(text|json)$")] = (
        "text"
    )
    workers: Annotated[int, Meta(description="How many calls work at once", ge=4, le=512)] = 32
    shutdown_timeout: Annotated[Seconds, Meta(description="Seconds that calls under way are given at the end")] = 10.0


class Runtime(_Table, frozen=True, kw_only=True):
    warm: Annotated[bool, Meta(description="Keep an interpreter ready for orlop-runtime")] = True
    socket: Annotated[str, Meta(description="Where orlop-runtime looks for it")] = "/run/orlop/runtime.sock"


class Handler(_Table, frozen=True, kw_only=True):
    path: Annotated[str, Meta(description="An OCI runtime's program")]
    root: Annotated[str, Meta(description="Its --root; empty: a directory of the daemon's state")] = ""
    options: Annotated[tuple[str, ...], Meta(description="Global options before the command")] = ()


class Cri(_Table, frozen=True, kw_only=True):
    enabled: Annotated[bool, Meta(description="Serve the Container Runtime Interface")] = True
    socket: Annotated[str, Meta(description="The socket that kubelet and crictl are given")] = "/run/orlop/orlop.sock"
    namespace: Annotated[str, Meta(description="The namespace of its containers and images")] = "k8s.io"
    cgroup_driver: Annotated[
        str,
        Meta(
            description="Who makes the groups of pods, as the kubelet's: cgroupfs or systemd",
            pattern="^(cgroupfs|systemd)$",
        ),
    ] = "cgroupfs"
    network: Annotated[
        str, Meta(description="The network of pods; empty: the first conflist of cni_config, else the built-in bridge")
    ] = ""
    cni_config: Annotated[str, Meta(description="Directory of CNI's conflists")] = "/etc/cni/net.d"
    cni_plugins: Annotated[tuple[str, ...], Meta(description="Directories of CNI's plugins")] = (
        "/opt/cni/bin",
        "/usr/lib/cni",
    )
    streaming_address: Annotated[str, Meta(description="Where exec, attach and port-forward are served")] = "127.0.0.1"
    streaming_port: Annotated[Port, Meta(description="0: any that is free")] = 0
    stream_idle_timeout: Annotated[Seconds, Meta(description="Seconds without a byte that end a stream")] = 14400.0
    pinned_images: Annotated[
        tuple[str, ...],
        Meta(description="Images that the kubelet's garbage collection leaves alone; * stands for any characters"),
    ] = ()
    certs: Annotated[
        tuple[str, ...], Meta(description="Directories with a REGISTRY/hosts.toml for mirrors and certificates")
    ] = tuple(map(str, DIRECTORIES))
    restore_images: Annotated[
        bool,
        Meta(description="Restore containers from images that hold a checkpoint, whose makers then decide all they do"),
    ] = False
    default_handler: Annotated[str, Meta(description="The handler of pods that name none")] = "orlop"
    handlers: Annotated[
        dict[str, Handler], Meta(description="Other OCI runtimes by the name that a RuntimeClass gives")
    ] = {}


class Metrics(_Table, frozen=True, kw_only=True):
    address: Annotated[str, Meta(description="host:port for Prometheus' /metrics; empty: not served")] = ""


class Tracing(_Table, frozen=True, kw_only=True):
    endpoint: Annotated[str, Meta(description="OTLP over HTTP, as http://127.0.0.1:4318; empty: no traces")] = ""
    ratio: Annotated[float, Meta(description="Which part of the calls is traced", ge=0, le=1)] = 1.0


class Config(_Table, frozen=True, kw_only=True):
    daemon: Daemon = Daemon()
    runtime: Runtime = Runtime()
    cri: Cri = Cri()
    metrics: Metrics = Metrics()
    tracing: Tracing = Tracing()


def load(path: str = "") -> Config:
    """The configuration of a file. Without a path: of the usual one, or the defaults where that is not there."""
    try:
        with open(path or PATH, "rb") as file:
            text = file.read()
    except FileNotFoundError as error:
        if path:
            raise NotFound(f"{path}: no such configuration file") from error
        return Config()
    except OSError as error:
        raise from_os(error, "read") from error
    return parse(text, path or PATH)


def parse(text: bytes, path: str = PATH) -> Config:
    """Raises InvalidArgument with the file, the key's whole name, and what is wrong with it."""
    try:
        raw = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path}: {str(error)[:300].lower()}") from None
    for key, known in _unknown(raw, Config, ""):
        import difflib

        near = difflib.get_close_matches(key.rpartition(".")[2], known, 1, 0.5)
        table = key.rpartition(".")[0]
        hint = (
            f"; did you mean {'.'.join(filter(None, (table, near[0])))}?" if near else f"; known are {', '.join(known)}"
        )
        raise InvalidArgument(f"{path}: unknown key {key}{hint}")
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        message, _, where = str(error).rpartition(" - at `$")
        raise InvalidArgument(f"{path}: {where.strip('`.')}: {(message or str(error)).lower()}") from None
    _check(config, path)
    return config


def _unknown(raw: dict[str, Any], table: type[msgspec.Struct], prefix: str) -> Iterator[tuple[str, list[str]]]:
    hints = get_type_hints(table)
    for key, value in raw.items():
        name = prefix + key
        if key not in hints:
            yield name, sorted(hints)
        elif isinstance(value, dict):
            if (inner := _struct(hints[key])) is not None:
                yield from _unknown(value, inner, name + ".")
            elif (inner := next(filter(None, map(_struct, get_args(hints[key]))), None)) is not None:
                for kind, entry in value.items():
                    if isinstance(entry, dict):
                        yield from _unknown(entry, inner, f"{name}.{kind}.")


def _struct(hint: Any) -> type[msgspec.Struct] | None:
    return hint if isinstance(hint, type) and issubclass(hint, msgspec.Struct) else None


def _check(config: Config, path: str) -> None:
    cri = config.cri
    if cri.default_handler != "orlop" and cri.default_handler not in cri.handlers:
        raise InvalidArgument(f"{path}: cri.default_handler: there is no cri.handlers.{cri.default_handler[:64]}")
    for image in cri.pinned_images:
        try:
            Pinned((image,))
        except InvalidArgument as error:
            raise InvalidArgument(f"{path}: cri.pinned_images: {error}") from None
    if "orlop" in cri.handlers:
        raise InvalidArgument(f"{path}: cri.handlers.orlop: the name is Orlop's own runtime's")
    for name, handler in cri.handlers.items():
        if not handler.path.startswith("/"):
            raise InvalidArgument(f"{path}: cri.handlers.{name}.path: {handler.path[:128]!r} is not an absolute path")
    for key, value in (
        ("daemon.root", config.daemon.root),
        ("daemon.state", config.daemon.state),
        ("runtime.socket", config.runtime.socket),
        ("cri.socket", cri.socket),
    ):
        if not value.startswith("/"):
            raise InvalidArgument(f"{path}: {key}: {value[:128]!r} is not an absolute path")
    for key, value in (("runtime.socket", config.runtime.socket), ("cri.socket", cri.socket)):
        if len(value.encode()) > 107:
            raise InvalidArgument(f"{path}: {key}: a socket's path has at most 107 bytes")


class Key(msgspec.Struct, frozen=True):
    """One key of the file: its whole name, what it is for, and what it is set to."""

    name: str
    text: str
    value: Any


def keys(config: Config) -> list[Key]:
    """Every key in the order of the file."""
    return list(_keys(config, ""))


def _keys(table: msgspec.Struct, prefix: str) -> Iterator[Key]:
    hints = get_type_hints(type(table), include_extras=True)
    for name, hint in hints.items():
        value = getattr(table, name)
        if isinstance(value, msgspec.Struct):
            yield from _keys(value, f"{prefix}{name}.")
            continue
        text = next(
            (meta.description for meta in get_args(hint)[1:] if isinstance(meta, Meta) and meta.description), ""
        )
        yield Key(prefix + name, text, value)
        if isinstance(value, dict):
            for kind, inner in value.items():
                yield from _keys(inner, f"{prefix}{name}.{kind}.")


def at_once(name: str) -> bool:
    """Whether SIGHUP puts a change of this key in force."""
    return name in RELOADED or name.startswith("cri.handlers.")


def as_toml(config: Config, comments: bool = True) -> str:
    """A whole file, with what each key is for in a comment above it."""
    import tomli_w

    lines: list[str] = []
    table = ""
    for key in keys(config):
        at, _, name = key.name.rpartition(".")
        if isinstance(key.value, dict):
            if comments:
                lines.append(f"# [{key.name}.NAME]: {key.text[0].lower()}{key.text[1:]}")
            continue
        if at != table:
            lines += ["", f"[{at}]"]
            table = at
        if comments:
            lines.append(f"# {key.text}")
        lines.append(tomli_w.dumps({name: msgspec.to_builtins(key.value)}).strip())
    return "\n".join(lines).strip() + "\n"
