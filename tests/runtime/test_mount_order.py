"""Bind mounts of what is in the root, where mounts before them have put it: the order of the plans. No privileges."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import msgspec
import pytest
from tests.runtime.test_compile import HOST, USER, all_ops, namespaces, plan, spec

from orlop.runtime import compile_external, ops
from orlop.runtime.compile import CreateRequest, compile_from_outside
from orlop.runtime.compile_mounts import idmap_key, stripped
from orlop.spec.errors import FailedPrecondition

ROOT = "/bundle/rootfs"
FIRST = {"destination": "/mnt", "type": "tmpfs"}
USERS = msgspec.structs.replace(HOST, uid=1000, effective=0, id_helpers={"newuidmap": "x", "newgidmap": "y"})
MAPS = {"uidMappings": USER["uidMappings"], "gidMappings": USER["gidMappings"]}
USERNS = {
    "linux__namespaces": namespaces("mount", "user", "uts", "network"),
    "linux__uidMappings": USER["uidMappings"],
    "linux__gidMappings": USER["gidMappings"],
}


def bind(source: str, **more: Any) -> dict[str, Any]:
    return {"destination": "/final", "source": source, "options": ["rbind", *more.pop("options", ())]} | more


def request(**changes: Any) -> CreateRequest:
    found = spec(**changes)
    keys = dict.fromkeys(key for i in range(len(found.mounts)) if (key := idmap_key(found, i)))
    return CreateRequest(id="c1", bundle="/bundle", idmaps={key: 1 + i for i, key in enumerate(keys)})


def opened(stage: int, source: str, **changes: Any) -> list[ops.OpenTree]:
    steps = plan(request=request(**changes), **changes).stages[stage].steps
    return [s.op for s in steps if isinstance(s.op, ops.OpenTree) and s.op.path == source]


def test_a_source_in_the_root_is_opened_after_the_mounts_before_it() -> None:
    mounts = [FIRST, bind(f"{ROOT}/mnt/x", **MAPS)]
    steps = [s.op for s in plan(request=request(mounts=mounts), mounts=mounts).stages[1].steps]
    tree = next(i for i, op in enumerate(steps) if isinstance(op, ops.OpenTree) and op.path == "/mnt/x")
    assert any(isinstance(op, ops.Fsopen) for op in steps[:tree])
    mapped = steps[tree + 1]
    assert isinstance(mapped, ops.MountSetattr)
    assert mapped.userns == 1
    assert not opened(0, f"{ROOT}/mnt/x", mounts=mounts)


def test_another_source_with_mapped_ids_is_opened_before_anything_is_mounted() -> None:
    for source in ("/srv/x", "/bundle/rootfs2/x"):
        assert opened(0, source, mounts=[FIRST, bind(source, **MAPS)])


def test_without_mapped_ids_or_a_user_namespace_a_source_in_the_root_has_its_own_path() -> None:
    mounts = [FIRST, bind(f"{ROOT}/mnt/x")]
    assert opened(1, f"{ROOT}/mnt/x", mounts=mounts)
    # where the root is elsewhere until it is entered, its path would lead to the host's directory
    assert opened(1, "/mnt/x", mounts=mounts, linux__rootfsPropagation="shared")


def test_a_source_that_is_to_be_a_peer_of_the_hosts_is_opened_first_unless_a_mount_makes_it() -> None:
    for source, early in ((f"{ROOT}/srv", True), (f"{ROOT}/mnt/x", False), (f"{ROOT}/mnt", False), (ROOT, False)):
        mounts = [FIRST, bind(source, options=["rshared"])]
        assert bool(opened(0, source, mounts=mounts)) == early, source


def test_in_a_user_namespace_the_parent_binds_it_with_its_own_rights_over_the_source_only() -> None:
    mounts = [FIRST, bind(f"{ROOT}/mnt/x", **MAPS), bind("rootfs/y", options=["ro"])]
    found = plan(request=request(mounts=mounts, **USERNS), mounts=mounts, **USERNS)
    assert [s.origin for s in found.stages[1].steps if s.op == ops.Sync("mounts", ())] == [
        f"mounts[1] ({ROOT}/mnt/x -> /final)",
        "mounts[2] (/bundle/rootfs/y -> /final)",
    ]
    first, second = compile_from_outside(spec(mounts=mounts, **USERNS), HOST, request(mounts=mounts, **USERNS))
    assert [type(s.op).__name__ for s in first.stages[0].steps] == [
        *("Setns", "Open", "OpenTree", "MountSetattr"),
        *("Setns", "SetIds", "Target", "MoveMount", "Exit"),
    ]
    assert [op.nstype for op in all_ops(first, ops.Setns)] == [0x20000, 0x10000000]
    assert all_ops(first, ops.MountSetattr)[0].userns == 1
    assert all_ops(second, ops.OpenTree)[0].path == "/y"
    assert all_ops(second, ops.MountSetattr)[0].set == 1


def test_who_is_not_root_binds_it_with_the_rights_that_there_are() -> None:
    mounts = [FIRST, bind(f"{ROOT}/mnt/x")]
    found = plan(host=USERS, mounts=mounts, **USERNS)
    assert not [op for op in all_ops(found, ops.Sync) if op.name == "mounts"]
    assert any(isinstance(s.op, ops.OpenTree) and s.op.path == "/mnt/x" for s in found.stages[1].steps)


def test_criu_is_not_asked_to_restore_what_another_mount_put_in_the_root() -> None:
    """It would bind what the host has there. A plain copy of a directory with mounts in it is none of those."""
    for source, options, refused in (
        (f"{ROOT}/mnt/x", ["bind"], True),
        (f"{ROOT}", ["rbind"], True),
        (f"{ROOT}", ["bind"], False),
        (f"{ROOT}/srv", ["rbind"], False),
        ("/srv", ["rbind"], False),
    ):
        given = spec(mounts=[FIRST, {"destination": "/final", "source": source, "options": options}])
        with pytest.raises(FailedPrecondition, match=r"^mounts\[1\]: ") if refused else nullcontext():
            compile_external.mounts(given, "/bundle")


def test_the_roots_own_path_is_taken_off_a_destination() -> None:
    for path, found in {
        f"{ROOT}/a/b": "/a/b",
        ROOT: "/",
        f"{ROOT}/../rootfs/c": "/c",
        f"{ROOT}{ROOT}/c": f"{ROOT}/c",
        f"{ROOT}2/c": f"{ROOT}2/c",
        "/c": "/c",
    }.items():
        assert stripped(path, ROOT) == found
    assert stripped("/a", "/") == "/a"
