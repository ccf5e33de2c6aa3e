"""What an ordinary user can have: decided before anything is made."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orlop.cgroups.facts import CgroupHost
from orlop.runtime.compile_idmaps import Ways, ways
from orlop.runtime.compile_process import group_rights
from orlop.runtime.compile_users import check_users
from orlop.runtime.default_spec import default_spec
from orlop.runtime.facts import Host
from orlop.runtime.namespaces import namespaces
from orlop.spec import capabilities
from orlop.spec.errors import FailedPrecondition, OrlopError
from orlop.spec.runtime import IDMapping, Mount, RuntimeSpec, User

OWN = 1000
HELPERS = {"newuidmap": "/usr/bin/newuidmap", "newgidmap": "/usr/bin/newgidmap"}
ROOT = Host(
    kernel=(6, 1),
    uid=0,
    gid=0,
    bounding=capabilities.ALL,
    effective=capabilities.ALL,
    last_capability=40,
    cgroups=CgroupHost(mode="v2", mounts={}, unified="/cg"),
)
ORDINARY = msgspec.structs.replace(ROOT, uid=OWN, gid=OWN, effective=0)
INSIDE = msgspec.structs.replace(ROOT, user_namespace=True)  # root of a user namespace
ONE = (IDMapping(container_id=0, host_id=OWN, size=1),)
MANY = (*ONE, IDMapping(container_id=1, host_id=100000, size=65536))
OTHERS = (IDMapping(container_id=0, host_id=OWN + 1, size=1),)


def with_(host: Host, **changes: Any) -> Host:
    return msgspec.structs.replace(host, **changes)


# --- who writes the maps


@pytest.mark.parametrize("maps", [ONE, MANY, OTHERS])
@pytest.mark.parametrize("host", [ROOT, INSIDE, with_(ROOT, uid=OWN, gid=OWN)])
def test_with_the_capabilities_maps_are_written(host: Host, maps: tuple[IDMapping, ...]) -> None:
    assert ways(host, maps, maps) == Ways("write", "write")
    assert ways(host, maps, maps).groups


def test_ones_own_id_needs_no_helper_and_forbids_groups() -> None:
    for host in (ORDINARY, with_(ORDINARY, id_helpers=HELPERS)):
        found = ways(host, ONE, ONE)
        assert (found, found.groups) == (Ways("own", "own"), False)


@pytest.mark.parametrize("maps", [MANY, OTHERS, (*ONE, *OTHERS), (), (IDMapping(container_id=0, host_id=OWN, size=2),)])
def test_other_ids_need_a_helper(maps: tuple[IDMapping, ...]) -> None:
    assert ways(with_(ORDINARY, id_helpers=HELPERS), maps, maps) == Ways("helper", "helper")
    assert ways(with_(ORDINARY, id_helpers=HELPERS), maps, maps).groups
    with pytest.raises(FailedPrecondition, match=r"^linux\.uidMappings: newuidmap is needed .* \(package uidmap\)$"):
        ways(ORDINARY, maps, maps)


def test_users_and_groups_go_their_own_ways() -> None:
    found = ways(with_(ORDINARY, id_helpers={"newgidmap": "/usr/bin/newgidmap"}), ONE, MANY)
    assert (found, found.groups) == (Ways("own", "helper"), True)
    half = with_(ORDINARY, effective=1 << capabilities.BITS["CAP_SETUID"])
    assert ways(half, MANY, ONE) == Ways("write", "own")
    with pytest.raises(FailedPrecondition, match=r"^linux\.gidMappings: newgidmap is needed"):
        ways(half, MANY, MANY)


# --- groups


@pytest.mark.parametrize(
    ("host", "joins_user", "rights"),
    [
        (ROOT, False, "set"),
        (ROOT, True, "set"),
        (ORDINARY, False, "set"),
        (ORDINARY, True, "either"),
        (with_(ORDINARY, setgroups=False), True, "keep"),
        (with_(INSIDE, setgroups=False), False, "keep"),
        (INSIDE, True, "set"),
    ],
)
def test_rights_to_groups(host: Host, joins_user: bool, rights: str) -> None:
    assert group_rights(host, joins_user) == rights


# --- the configuration


def check(spec: RuntimeSpec, host: Host) -> str:
    """What is said against it."""
    assert spec.linux is not None
    try:
        check_users(spec, spec.linux, namespaces(spec.linux), host)
    except OrlopError as error:
        return error.message
    return ""


def rootless(maps: tuple[IDMapping, ...] = ONE, mounts: tuple[Mount, ...] = (), **user: Any) -> RuntimeSpec:
    spec = default_spec(True, OWN, OWN)
    assert spec.linux is not None
    assert spec.process is not None
    return msgspec.structs.replace(
        spec,
        linux=msgspec.structs.replace(spec.linux, uid_mappings=maps, gid_mappings=maps),
        process=msgspec.structs.replace(spec.process, user=User(**user)),
        mounts=spec.mounts + mounts,
    )


def test_the_template_is_for_whom_it_was_written() -> None:
    assert check(default_spec(), ROOT) == ""
    assert check(rootless(), ORDINARY) == ""
    assert check(default_spec(), ORDINARY) == (
        f"linux.namespaces: the user {OWN} has no rights of root and needs a user namespace in it;"
        " spec --rootless writes one"
    )
    assert check(default_spec(), INSIDE) == ""


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ({"uid": 1}, "process.user.uid: 1 is not mapped in linux.uidMappings"),
        ({"gid": 5}, "process.user.gid: 5 is not mapped in linux.gidMappings"),
        ({"additional_gids": (0, 7)}, "process.user.additionalGids: 7 is not mapped in linux.gidMappings"),
    ],
)
def test_ids_of_the_process_must_be_mapped(user: dict[str, Any], said: str) -> None:
    assert check(rootless(**user), ORDINARY) == said
    assert check(rootless(**user), ROOT) == said
    assert check(rootless(MANY, **user), with_(ORDINARY, id_helpers=HELPERS)) == ""
    assert check(rootless(MANY, uid=65536, gid=65536), ROOT) == ""
    assert check(rootless(MANY, uid=65537), ROOT).startswith("process.user.uid: 65537")


@pytest.mark.parametrize("changes", [{"options": ("idmap",)}, {"options": ("ridmap",)}, {"uid_mappings": ONE}])
def test_mounts_with_mapped_ids_take_root(changes: dict[str, Any]) -> None:
    mount = Mount(destination="/data", type="bind", source="/srv", **changes)
    said = "mounts[7]: to map ids of a mount takes root's rights on the machine"
    assert check(rootless(mounts=(mount,)), ORDINARY) == said
    assert check(rootless(mounts=(mount,)), INSIDE) == said
    assert check(rootless(mounts=(mount,)), ROOT) == ""


@pytest.mark.parametrize(
    ("type_", "option", "side"),
    [
        ("devpts", "gid=5", "gid"),
        ("tmpfs", "uid=9", "uid"),
        ("tmpfs", "uid=0", ""),
        ("tmpfs", "gid=x", ""),
        ("ext4", "gid=5", ""),
    ],
)
def test_ids_in_options_must_be_mapped(type_: str, option: str, side: str) -> None:
    mount = Mount(destination="/x", type=type_, source="x", options=(option,))
    said = f"mounts[7].options: {option} is not mapped in linux.{side}Mappings; leave it out" if side else ""
    assert check(rootless(mounts=(mount,)), ORDINARY) == said
    assert check(rootless(MANY, mounts=(mount,)), ROOT) == ""
