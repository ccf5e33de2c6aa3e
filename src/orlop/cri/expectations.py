"""What a container that goes on from a checkpoint is said to be, against what it is. Pure.

A configuration for restoring describes the process that the checkpoint holds: it neither starts nor changes that. So
what it says of the process must be what the checkpoint's own request said. Labels, limits, the log and where mounts
come from may be others.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import DecodeError, Message

from orlop._stubs.cri import api_pb2 as api
from orlop.spec.errors import FailedPrecondition, InvalidArgument

_PROCESS = ("command", "args", "working_dir", "envs", "stdin", "tty")
_SECURITY = (
    "capabilities",
    "privileged",
    "run_as_user",
    "run_as_username",
    "run_as_group",
    "supplemental_groups",
    "supplemental_groups_policy",
    "no_new_privs",
    "readonly_rootfs",
    "masked_paths",
    "readonly_paths",
    "seccomp",
    "seccomp_profile_path",
    "apparmor",
    "apparmor_profile",
    "selinux_options",
)


def parse(raw: bytes) -> api.ContainerConfig:
    """The configuration of a CreateContainerRequest, as a checkpoint keeps it. Raises InvalidArgument."""
    try:
        return api.CreateContainerRequest.FromString(raw).config
    except DecodeError:
        raise InvalidArgument("container.request: is none") from None


def check(then: api.ContainerConfig, now: api.ContainerConfig) -> None:
    """Raises FailedPrecondition for what the checkpoint can't follow, and names the field."""
    for field in _differences(then, now):
        name = now.metadata.name[:64]
        raise FailedPrecondition(f"container_configs ({name}): {field}: is not as in the checkpoint")


def _differences(then: api.ContainerConfig, now: api.ContainerConfig) -> Iterator[str]:
    if then.image.image != now.image.image:
        yield "image"
    yield from _unequal(then, now, _PROCESS, "")
    before, after = then.linux.security_context, now.linux.security_context
    yield from _unequal(before, after, _SECURITY, "linux.security_context.")
    kinds = ("pid", "ipc", "network")
    yield from _unequal(before.namespace_options, after.namespace_options, kinds, "namespace_options.")
    if {mount.container_path for mount in then.mounts} != {mount.container_path for mount in now.mounts}:
        yield "mounts"
    if {device.container_path for device in then.devices} != {device.container_path for device in now.devices}:
        yield "devices"


def _unequal(then: Message, now: Message, names: tuple[str, ...], prefix: str) -> Iterator[str]:
    return (prefix + name for name in names if getattr(then, name) != getattr(now, name))
