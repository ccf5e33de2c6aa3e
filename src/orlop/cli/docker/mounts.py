"""`-v`, `--mount` and `--tmpfs`. Pure: the working directory is handed in."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from orlop.cli.docker.units import parse_size
from orlop.engine.config import MountRequest
from orlop.spec.errors import InvalidArgument, Unimplemented

_VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_PROPAGATIONS = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})


def parse_volume(text: str, cwd: str) -> MountRequest:
    """`-v [source:]target[:options]`: a source with a slash is a host path, any other a volume's name."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise InvalidArgument(f"invalid volume specification: {text[:160]!r}")
    source, target = ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])
    if not target.startswith("/"):
        raise InvalidArgument(f"invalid volume specification: {text[:160]!r}: mount path must be absolute")
    _check_target(target)
    fields = _volume_options(parts[2] if len(parts) == 3 else "", text)
    if source.startswith(("/", ".", "~")):
        path = source if source.startswith("/") else f"{cwd}/{source}"
        return MountRequest(type="bind", source=_clean(path), target=target, create_source=True, **fields)
    if source and not _VOLUME.fullmatch(source):
        raise InvalidArgument(
            f"{source[:80]!r} includes invalid characters for a local volume name, only [a-zA-Z0-9][a-zA-Z0-9_.-] are "
            "allowed; a host directory is given as an absolute path"
        )
    if "propagation" in fields:
        raise InvalidArgument(f"invalid volume specification: {text[:160]!r}: propagation is for host directories")
    return MountRequest(type="volume", source=source, target=target, **fields)


def _volume_options(text: str, whole: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for option in text.split(",") if text else ():
        if option in ("ro", "rw"):
            fields["read_only"] = option == "ro"
        elif option in _PROPAGATIONS:
            fields["propagation"] = option
        elif option == "nocopy":
            fields["no_copy"] = True
        elif option in ("z", "Z"):
            raise Unimplemented(f"volume option {option!r}: SELinux relabelling is not supported")
        else:
            raise InvalidArgument(f"invalid mode: {option[:20]!r} in {whole[:160]!r}")
    return fields


def parse_tmpfs(text: str) -> MountRequest:
    """`--tmpfs /path[:options]`, with the options of mount(8)."""
    target, _, options = text.partition(":")
    if not target.startswith("/"):
        raise InvalidArgument(f"invalid tmpfs mount {text[:80]!r}: path must be absolute")
    _check_target(target)
    return MountRequest(type="tmpfs", target=target, options=tuple(o for o in options.split(",") if o))


def parse_mount(text: str) -> MountRequest:
    """`--mount type=bind,source=/a,target=/b,readonly,...`"""
    fields: dict[str, Any] = {"type": "volume", "target": "", "source": ""}
    for part in _split(text):
        name, equals, value = part.partition("=")
        handler = _KEYS.get(name.lower())
        if handler is None:
            raise InvalidArgument(
                f"invalid argument {text[:120]!r} for --mount: unexpected key {name[:40]!r} in {part[:60]!r}"
            )
        handler(fields, value if equals else None, name)
    kind = fields["type"]
    if kind in ("npipe", "cluster", "image"):
        raise Unimplemented(f"--mount type={kind} is not supported yet")
    if kind not in ("bind", "volume", "tmpfs"):
        raise InvalidArgument(f"--mount: unknown mount type {kind[:40]!r}")
    if not fields["target"].startswith("/"):
        raise InvalidArgument(f"--mount {text[:120]!r}: target is required, as an absolute path")
    _check_target(fields["target"])
    if kind == "bind" and not fields["source"].startswith("/"):
        raise InvalidArgument(f"--mount {text[:120]!r}: source of a bind mount must be an absolute path")
    if kind == "tmpfs" and fields["source"]:
        raise InvalidArgument(f"--mount {text[:120]!r}: source must not be specified for a tmpfs")
    for key, kinds in _ONLY_FOR.items():
        if key in fields and kind not in kinds:
            raise InvalidArgument(f"--mount {text[:120]!r}: {key.replace('_', '-')} is not an option of type {kind}")
    return MountRequest(**fields)


def _split(text: str) -> list[str]:
    """Fields of a comma-separated line, of which some may be quoted as in CSV."""
    import csv

    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise InvalidArgument(f"invalid argument {text[:120]!r} for --mount: {error}") from None
    if not rows or not rows[0]:
        raise InvalidArgument("invalid argument '' for --mount: it is empty")
    return rows[0]


def _text(field: str) -> Callable[[dict[str, Any], str | None, str], None]:
    def put(fields: dict[str, Any], value: str | None, name: str) -> None:
        if not value:
            raise InvalidArgument(f"--mount: {name} must have a value")
        fields[field] = value

    return put


def _truth(field: str, inverted: bool = False) -> Callable[[dict[str, Any], str | None, str], None]:
    def put(fields: dict[str, Any], value: str | None, name: str) -> None:
        if value not in (None, "true", "false", "1", "0"):
            raise InvalidArgument(f"--mount: invalid value for {name}: {value!r:.40}")
        fields[field] = (value in (None, "true", "1")) != inverted

    return put


def _propagation(fields: dict[str, Any], value: str | None, name: str) -> None:
    if value not in _PROPAGATIONS:
        raise InvalidArgument(f"--mount: invalid propagation {value!r:.40}")
    fields["propagation"] = value


def _size(fields: dict[str, Any], value: str | None, name: str) -> None:
    fields["size"] = parse_size(value or "", "--mount tmpfs-size")


def _mode(fields: dict[str, Any], value: str | None, name: str) -> None:
    if not value or not re.fullmatch(r"[0-7]{1,4}", value):
        raise InvalidArgument(f"--mount: invalid value for tmpfs-mode: {value!r:.40}")
    fields["mode"] = int(value, 8)


def _not_yet(fields: dict[str, Any], value: str | None, name: str) -> None:
    raise Unimplemented(f"--mount: {name} is not supported yet")


_KEYS: dict[str, Callable[[dict[str, Any], str | None, str], None]] = {
    "type": _text("type"),
    "source": _text("source"),
    "src": _text("source"),
    "target": _text("target"),
    "dst": _text("target"),
    "destination": _text("target"),
    "readonly": _truth("read_only"),
    "ro": _truth("read_only"),
    "bind-propagation": _propagation,
    "bind-nonrecursive": _truth("recursive", inverted=True),
    "bind-create-src": _truth("create_source"),
    "volume-nocopy": _truth("no_copy"),
    "volume-subpath": _text("subpath"),
    "tmpfs-size": _size,
    "tmpfs-mode": _mode,
    "bind-recursive": _not_yet,
    "volume-driver": _not_yet,
    "volume-label": _not_yet,
    "volume-opt": _not_yet,
    "consistency": lambda fields, value, name: None,  # macOS only; Docker on Linux takes it and does nothing too
}
_ONLY_FOR = {
    "propagation": ("bind",),
    "recursive": ("bind",),
    "create_source": ("bind",),
    "no_copy": ("volume",),
    "subpath": ("volume",),
    "size": ("tmpfs",),
    "mode": ("tmpfs",),
}


def _check_target(target: str) -> None:
    if _clean(target) == "/":
        raise InvalidArgument(f"invalid mount target {target[:80]!r}: destination can't be '/'")


def _clean(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    return "/" + "/".join(parts)
