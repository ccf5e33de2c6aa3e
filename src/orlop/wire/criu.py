"""What is said to CRIU and what it answers: the messages of its RPC (criu.org, "RPC"; images/rpc.proto). Sans I/O.

`criu swrk FD` serves one connection on a socket of type SOCK_SEQPACKET: a request in a datagram, then answers, of which
some are notifications that CRIU wants an answer to before it goes on (`notified`), and the last is of the request's own
type. Numbers are those of rpc.proto; every field here is known to CRIU 3.16.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from orlop.spec.errors import InvalidArgument
from orlop.wire.protobuf import data, fields, number, signed

DUMP, RESTORE, NOTIFY, FEATURE_CHECK, PRE_DUMP = 1, 2, 6, 9, 13
MOST_BYTES = 64 * 1024
# what becomes of control groups inside of the container's own; CRIU's default is soft
CGROUP_MODES = {"ignore": 0, "soft": 3, "full": 4, "strict": 5, "": 6}


class Options(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`criu_opts`. Descriptors of directories are the client's; those of `inherit` are CRIU's own.

    `external_mounts` maps on a dump a mount point to a key, on a restore a key to a path of the host. `page_server` is
    an address and a port. `inherit` maps names of descriptors in the image, such as `pipe:[1]`, to descriptors.
    `cgroup_roots` has pairs of controller and path, `join` pairs of namespace and file.
    """

    images_dir_fd: int
    work_dir_fd: int = -1
    pid: int = 0
    log_level: int = 4
    log_file: str = ""
    root: str = ""
    parent_image: str = ""
    config_file: str = ""
    freeze_cgroup: str = ""
    lsm_profile: str = ""
    lsm_mount_context: str = ""
    leave_running: bool = False
    ext_unix_sk: bool = False
    tcp_established: bool = False
    tcp_skip_in_flight: bool = False
    tcp_close: bool = False
    evasive_devices: bool = False
    shell_job: bool = False
    file_locks: bool = False
    notify_scripts: bool = True
    track_mem: bool = False
    auto_dedup: bool = False
    link_remap: bool = False
    manage_cgroups: bool = True
    rst_sibling: bool = False
    lazy_pages: bool = False
    orphan_pts_master: bool = True
    empty_namespaces: int = 0
    manage_cgroups_mode: int = CGROUP_MODES[""]
    page_server: tuple[str, int] | None = None
    external_mounts: tuple[tuple[str, str], ...] = ()
    external: tuple[str, ...] = ()
    inherit: tuple[tuple[str, int], ...] = ()
    cgroup_roots: tuple[tuple[str, str], ...] = ()
    join: tuple[tuple[str, str], ...] = ()


_Kind = Literal["number", "text", "texts", "page server", "text pairs", "descriptors"]
_OPTIONS: dict[str, tuple[int, _Kind]] = {
    "images_dir_fd": (1, "number"),
    "pid": (2, "number"),
    "leave_running": (3, "number"),
    "ext_unix_sk": (4, "number"),
    "tcp_established": (5, "number"),
    "evasive_devices": (6, "number"),
    "shell_job": (7, "number"),
    "file_locks": (8, "number"),
    "log_level": (9, "number"),
    "log_file": (10, "text"),
    "page_server": (11, "page server"),
    "notify_scripts": (12, "number"),
    "root": (13, "text"),
    "parent_image": (14, "text"),
    "track_mem": (15, "number"),
    "auto_dedup": (16, "number"),
    "work_dir_fd": (17, "number"),
    "link_remap": (18, "number"),
    "external_mounts": (23, "text pairs"),
    "manage_cgroups": (24, "number"),
    "cgroup_roots": (25, "text pairs"),
    "rst_sibling": (26, "number"),
    "inherit": (27, "descriptors"),
    "manage_cgroups_mode": (34, "number"),
    "external": (37, "texts"),
    "empty_namespaces": (38, "number"),
    "join": (39, "text pairs"),
    "freeze_cgroup": (44, "text"),
    "tcp_skip_in_flight": (46, "number"),
    "lazy_pages": (48, "number"),
    "orphan_pts_master": (50, "number"),
    "config_file": (51, "text"),
    "tcp_close": (52, "number"),
    "lsm_profile": (53, "text"),
    "lsm_mount_context": (63, "text"),
}
_ALWAYS = ("images_dir_fd", "manage_cgroups_mode")


class Features(msgspec.Struct, frozen=True):
    """What this CRIU can do on this kernel."""

    mem_track: bool = False
    lazy_pages: bool = False


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """`criu_resp`. `script` and `pid` are a notification's; `message` is CRIU's first error, where it tells it."""

    type: int
    success: bool
    errno: int = 0
    message: str = ""
    script: str = ""
    pid: int = 0
    features: Features = Features()


def request(kind: int, options: Options) -> bytes:
    """A request of type DUMP, PRE_DUMP or RESTORE."""
    return number(1, kind) + data(2, _encoded(options))


def feature_check() -> bytes:
    """Asks for all of `Features`; the connection stays open for a further request."""
    return number(1, FEATURE_CHECK) + number(4, True) + data(5, number(1, True) + number(2, True))


def notified(success: bool = True) -> bytes:
    """The answer to a notification."""
    return number(1, NOTIFY) + number(3, success)


def _encoded(options: Options) -> bytes:
    result = b""
    for name, (field, kind) in _OPTIONS.items():
        value = getattr(options, name)
        if name in _ALWAYS or value != _DEFAULTS[name]:
            result += _field(field, kind, value)
    return result


_DEFAULTS: dict[str, Any] = {name: "" if kind == "text" else False for name, (_, kind) in _OPTIONS.items()}
_DEFAULTS |= {name: () for name, (_, kind) in _OPTIONS.items() if kind in ("texts", "text pairs", "descriptors")}
_DEFAULTS |= {"work_dir_fd": -1, "page_server": None}


def _field(field: int, kind: _Kind, value: Any) -> bytes:
    if kind == "number":
        return number(field, value)
    if kind == "text":
        return data(field, value)
    if kind == "page server":
        return data(field, data(1, value[0]) + number(2, value[1]))
    if kind == "texts":
        return b"".join(data(field, text) for text in value)
    second = number if kind == "descriptors" else data
    return b"".join(data(field, data(1, first) + second(2, other)) for first, other in value)


def parse(datagram: bytes) -> Answer:
    """Read an answer. Raises InvalidArgument for one that is none."""
    found = dict(fields(datagram))
    kind, success = found.get(1), found.get(2)
    if not isinstance(kind, int) or not isinstance(success, int):
        raise InvalidArgument("criu: an answer has no type or no result")
    notify, restored = _message(found.get(5)), _message(found.get(4))
    features = _message(found.get(8))
    return Answer(
        type=kind,
        success=bool(success),
        errno=signed(_int(found.get(7))),
        message=_text(found.get(9)),
        script=_text(notify.get(1)),
        pid=_int(notify.get(2)) or _int(restored.get(1)),
        features=Features(bool(features.get(1)), bool(features.get(2))),
    )


def _message(value: int | bytes | None) -> dict[int, int | bytes]:
    return dict(fields(value)) if isinstance(value, bytes) else {}


def _int(value: int | bytes | None) -> int:
    return value if isinstance(value, int) else 0


def _text(value: int | bytes | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""
