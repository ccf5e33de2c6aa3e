"""What can't be had in a user namespace, or by who is not root on the machine: refused before anything is made. Pure.

Sources: user_namespaces(7), mount_setattr(2). The kernel would refuse each of these, with an errno that says less.
"""

from __future__ import annotations

from orlop.runtime.compile_idmaps import Mappings, ways
from orlop.runtime.facts import Host
from orlop.runtime.namespaces import Namespaces
from orlop.spec.errors import FailedPrecondition, InvalidArgument
from orlop.spec.runtime import Linux, Process, RuntimeSpec

_OWNED = ("tmpfs", "devpts")  # file systems whose options uid= and gid= are of the user namespace


def check_users(spec: RuntimeSpec, linux: Linux, found: Namespaces, host: Host) -> None:
    """Refuse a configuration that needs other rights than there are."""
    if "user" not in found and not host.has("CAP_SYS_ADMIN"):
        raise FailedPrecondition(
            f"linux.namespaces: the user {host.uid} has no rights of root and needs a user namespace in it;"
            " spec --rootless writes one"
        )
    if host.lesser:
        _check_id_mapped_mounts(spec)
    if "user" in found.new:
        ways(host, linux.uid_mappings, linux.gid_mappings)
        _check_process(spec, linux)
        _check_options(spec, linux)


def _check_id_mapped_mounts(spec: RuntimeSpec) -> None:
    for index, mount in enumerate(spec.mounts):
        if mount.uid_mappings or mount.gid_mappings or {"idmap", "ridmap"} & set(mount.options):
            raise FailedPrecondition(f"mounts[{index}]: to map ids of a mount takes root's rights on the machine")


def _check_process(spec: RuntimeSpec, linux: Linux) -> None:
    user = (spec.process or Process(cwd="/")).user
    if not _mapped(user.uid, linux.uid_mappings):
        raise InvalidArgument(f"process.user.uid: {user.uid} is not mapped in linux.uidMappings")
    for name, gid in (("gid", user.gid), *(("additionalGids", gid) for gid in user.additional_gids)):
        if not _mapped(gid, linux.gid_mappings):
            raise InvalidArgument(f"process.user.{name}: {gid} is not mapped in linux.gidMappings")


def _check_options(spec: RuntimeSpec, linux: Linux) -> None:
    for index, mount in enumerate(spec.mounts):
        for option in mount.options if mount.type in _OWNED else ():
            name, _, text = option.partition("=")
            side = {"uid": linux.uid_mappings, "gid": linux.gid_mappings}.get(name)
            if side is not None and text.isascii() and text.isdigit() and not _mapped(int(text[:11]), side):
                raise InvalidArgument(
                    f"mounts[{index}].options: {option[:32]} is not mapped in linux.{name}Mappings; leave it out"
                )


def _mapped(identifier: int, mappings: Mappings) -> bool:
    return any(m.container_id <= identifier < m.container_id + m.size for m in mappings)
