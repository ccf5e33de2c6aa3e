"""Devices by the Container Device Interface: what a specification says, and what it does to a container. Pure.

Source: the interface's SPEC.md, versions 0.3.0 to 1.0.0 (github.com/cncf-tags/container-device-interface). A device is
known by its full name, `vendor.com/class=name`. A file describes the devices of one kind; to give a container one of
them is to make the edits of the device, after those that the file has for all of its devices.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from orlop.engine.config import ContainerConfig, DeviceRequest, HookRequest, MountRequest
from orlop.spec.document import decode
from orlop.spec.errors import InvalidArgument, NotFound, OrlopError, Unimplemented

VERSIONS = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0")
ANNOTATION = "cdi.k8s.io/"  # the beginning of a container's annotations whose values are names, with commas between
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_KIND = r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?"
_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?"
_PROPAGATIONS = {prefix + name for prefix in ("", "r") for name in ("private", "shared", "slave")}


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    pass


class DeviceNode(_Part, frozen=True, kw_only=True):
    """What is left open is as the node at `host_path`, else at `path`, has it on the host."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class Mount(_Part, frozen=True, kw_only=True):
    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


class Hook(_Part, frozen=True, kw_only=True):
    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Edits(_Part, frozen=True, kw_only=True):
    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[Hook, ...] = ()
    additional_gids: tuple[int, ...] = msgspec.field(default=(), name="additionalGids")
    intel_rdt: msgspec.Raw = msgspec.field(default=msgspec.Raw(b""), name="intelRdt")


class Device(_Part, frozen=True, kw_only=True):
    name: str
    annotations: dict[str, str] = {}
    container_edits: Edits = Edits()


class Spec(_Part, frozen=True, kw_only=True):
    """One file."""

    cdi_version: str
    kind: str
    annotations: dict[str, str] = {}
    devices: tuple[Device, ...] = ()
    container_edits: Edits = Edits()


def parse(raw: bytes, what: str) -> Spec:
    """Read a file. Raises InvalidArgument for what the interface does not allow, Unimplemented for what is not done."""
    spec = decode(raw, Spec, what)
    if spec.cdi_version not in VERSIONS:
        raise Unimplemented(f"{what}: cdiVersion {spec.cdi_version[:32]!r} is none of {VERSIONS[0]} to {VERSIONS[-1]}")
    if not re.fullmatch(_KIND, spec.kind):
        raise InvalidArgument(f"{what}: kind {spec.kind[:64]!r} is not VENDOR/CLASS")
    for device in spec.devices:
        if not re.fullmatch(_NAME, device.name):
            raise InvalidArgument(f"{what}: {device.name[:64]!r} is no name of a device")
    if len({device.name for device in spec.devices}) < len(spec.devices):
        raise InvalidArgument(f"{what}: two devices have the same name")
    for edits in (spec.container_edits, *(device.container_edits for device in spec.devices)):
        _check(edits, what)
    return spec


def _check(edits: Edits, what: str) -> None:
    if bytes(edits.intel_rdt):
        raise Unimplemented(f"{what}: containerEdits.intelRdt is not supported")
    for node in edits.device_nodes:
        if not node.path.startswith("/") or node.type not in ("", "b", "c", "u", "p"):
            raise InvalidArgument(f"{what}: containerEdits.deviceNodes: {node.path[:64]!r} is no device node")
        if set(node.permissions) - set("rwm"):
            raise InvalidArgument(f"{what}: containerEdits.deviceNodes: permissions {node.permissions[:16]!r}")
    for mount in edits.mounts:
        if not mount.host_path.startswith("/") or not mount.container_path.startswith("/"):
            raise InvalidArgument(f"{what}: containerEdits.mounts: {mount.host_path[:64]!r} wants absolute paths")
        if mount.type not in ("", "bind", "none"):
            raise Unimplemented(f"{what}: containerEdits.mounts: type {mount.type[:32]!r} is not supported")
    for hook in edits.hooks:
        if hook.hook_name not in HOOKS or not hook.path.startswith("/"):
            raise InvalidArgument(f"{what}: containerEdits.hooks: {hook.hook_name[:32]!r} at {hook.path[:64]!r}")
    for entry in edits.env:
        if entry.find("=") < 1:
            raise InvalidArgument(f"{what}: containerEdits.env: {entry[:64]!r} is not NAME=VALUE")


def wanted(names: Iterable[str], annotations: Mapping[str, str]) -> tuple[str, ...]:
    """The devices that a request names in its own field and in annotations, each once. Raises InvalidArgument."""
    found = list(names)
    for key, value in sorted(annotations.items()):
        if key.startswith(ANNOTATION):
            found += value.split(",")
    for name in found:
        kind, _, device = name.partition("=")
        if not re.fullmatch(_KIND, kind) or not re.fullmatch(_NAME, device):
            raise InvalidArgument(f"CDI device {name[:128]!r}: want VENDOR/CLASS=NAME")
    return tuple(dict.fromkeys(found))


class Library(msgspec.Struct, frozen=True, kw_only=True):
    """All that the host's files say. Each of `layers` is a directory, in which `specs` are by path; a later one goes
    before an earlier one. `broken` are files that can't be used, and why."""

    layers: tuple[dict[str, Spec], ...] = ()
    broken: dict[str, str] = {}
    places: tuple[str, ...] = ()

    def edits(self, names: Sequence[str]) -> tuple[Edits, ...]:
        """What to do for these devices: the edits of a file once, before those of its first device."""
        seen: set[str] = set()
        result: list[Edits] = []
        for name in names:
            path, spec, device = self._find(name)
            if path not in seen:
                seen.add(path)
                result.append(spec.container_edits)
            result.append(device.container_edits)
        return tuple(result)

    def _find(self, name: str) -> tuple[str, Spec, Device]:
        kind, _, wanted = name.partition("=")
        for layer in reversed(self.layers):
            found = [
                (path, spec, device)
                for path, spec in layer.items()
                if spec.kind == kind
                for device in spec.devices
                if device.name == wanted
            ]
            if len(found) > 1:
                raise InvalidArgument(f"CDI device {name}: is in both {found[0][0]} and {found[1][0]}")
            if found:
                return found[0]
        why = "".join(f"; {path}: {reason}" for path, reason in list(self.broken.items())[:3])
        raise NotFound(f"CDI device {name}: is in no file of {' and '.join(self.places)}{why}")


def inject(config: ContainerConfig, edits: Iterable[Edits]) -> ContainerConfig:
    """The request with the edits made. A mount takes the place of one that was asked for at the same target."""
    for each in edits:
        config = _edited(config, each)
    return config


def _edited(config: ContainerConfig, edits: Edits) -> ContainerConfig:
    targets = {mount.container_path.rstrip("/") for mount in edits.mounts}
    nodes = {node.path for node in edits.device_nodes}
    kept = tuple(mount for mount in config.mounts if mount.target.rstrip("/") not in targets)
    devices = tuple(device for device in config.limits.devices if device.target not in nodes)
    limits = msgspec.structs.replace(config.limits, devices=devices + tuple(map(_device, edits.device_nodes)))
    pod = config.pod
    if pod is not None:
        pod = msgspec.structs.replace(pod, hooks=pod.hooks + tuple(map(_hook, edits.hooks)))
    return msgspec.structs.replace(
        config,
        env=config.env + edits.env,
        mounts=kept + tuple(map(_mount, edits.mounts)),
        groups=config.groups + tuple(str(gid) for gid in edits.additional_gids if gid),
        limits=limits,
        pod=pod,
    )


def _device(node: DeviceNode) -> DeviceRequest:
    return DeviceRequest(
        source=node.host_path or node.path,
        target=node.path,
        access=node.permissions or "rwm",
        type=node.type,
        major=node.major,
        minor=node.minor,
        mode=node.file_mode,
        uid=node.uid,
        gid=node.gid,
        of_user=True,
    )


def _hook(hook: Hook) -> HookRequest:
    return HookRequest(name=hook.hook_name, path=hook.path, args=hook.args, env=hook.env, timeout=hook.timeout)


def _mount(mount: Mount) -> MountRequest:
    options = [option for option in mount.options if option not in ("bind", "rbind", "ro", "rw", "rro", "defaults")]
    propagations = [option for option in options if option in _PROPAGATIONS]
    return MountRequest(
        type="bind",
        source=mount.host_path,
        target=mount.container_path,
        read_only="ro" in mount.options or "rro" in mount.options,
        read_only_recursive="rro" in mount.options,
        recursive="rbind" in mount.options,
        propagation=propagations[-1] if propagations else "rprivate",
        options=tuple(option for option in options if option not in _PROPAGATIONS),
    )


def library(directories: Sequence[str], files: Sequence[Mapping[str, bytes]], broken: Mapping[str, str]) -> Library:
    """Parse what was read: the files of each directory by path. `broken` are those that could not be read."""
    layers, reasons = list[dict[str, Spec]](), dict(broken)
    for texts in files:
        layers.append({})
        for path, raw in texts.items():
            try:
                layers[-1][path] = parse(raw, "specification")
            except OrlopError as error:
                reasons[path] = str(error)
    return Library(layers=tuple(layers), broken=reasons, places=tuple(directories))
