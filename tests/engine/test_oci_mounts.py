from __future__ import annotations

from typing import Any

import pytest

from orlop.engine.config import ContainerConfig, MountRequest
from orlop.engine.oci.facts import ContainerFacts
from orlop.engine.oci.mounts import mounts, rootfs_propagation, tmpfs_options
from orlop.spec.errors import InvalidArgument
from orlop.spec.runtime import Mount

FACTS = ContainerFacts(id="ab" * 32, hosts_file="/c/hosts", kernel=(6, 1), volumes={"/data": "/v/data/_data"})


def made(*requests: MountRequest, facts: ContainerFacts = FACTS) -> tuple[Mount, ...]:
    return mounts(ContainerConfig(image="x", mounts=requests), facts)


def one(request: MountRequest, facts: ContainerFacts = FACTS) -> Mount:
    (found,) = (m for m in made(request, facts=facts) if m.destination == request.target.rstrip("/"))
    return found


def bind(target: str = "/b", **more: Any) -> MountRequest:
    return MountRequest(type="bind", source="/src", target=target, **more)


@pytest.mark.parametrize(
    ("request_", "options"),
    [
        (bind(), ("rbind", "rprivate")),
        (bind(recursive=False), ("bind", "rprivate")),
        (bind(propagation="rshared"), ("rbind", "rshared")),
        (bind(read_only=True), ("rbind", "rprivate", "rro")),
        (bind(read_only=True, recursive=False), ("bind", "rprivate", "ro")),
    ],
)
def test_binds(request_: MountRequest, options: tuple[str, ...]) -> None:
    assert one(request_) == Mount(destination="/b", type="bind", source="/src", options=options)


def test_an_old_kernel_has_no_recursive_read_only() -> None:
    old = ContainerFacts(id="ab" * 32, kernel=(5, 10))
    assert one(bind(read_only=True), old).options == ("rbind", "rprivate", "ro")


def test_a_volume_is_bound_from_where_it_stands() -> None:
    volume = one(MountRequest(type="volume", source="data", target="/data"))
    assert (volume.type, volume.source) == ("bind", "/v/data/_data")


def test_a_volume_that_is_not_ready_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="no volume stands ready for /other"):
        made(MountRequest(type="volume", source="x", target="/other"))


def test_parents_are_mounted_before_what_lies_in_them() -> None:
    order = [m.destination for m in made(bind("/a/b/c"), bind("/a"), bind("/a/b"))]
    assert [t for t in order if t.startswith("/a")] == ["/a", "/a/b", "/a/b/c"]


def test_a_request_takes_the_place_of_a_default() -> None:
    targets = [m.destination for m in made(bind("/etc/hosts"), MountRequest(type="tmpfs", target="/dev/shm"))]
    assert targets.count("/etc/hosts") == targets.count("/dev/shm") == 1


def test_a_bind_of_dev_brings_its_own_pts_and_shm() -> None:
    targets = [m.destination for m in made(bind("/dev"))]
    assert [t for t in targets if t.startswith("/dev")] == ["/dev"]


@pytest.mark.parametrize(
    ("more", "options"),
    [
        ({}, ("noexec", "nosuid", "nodev", "rprivate")),
        ({"options": ("exec", "size=10m", "uid=1")}, ("exec", "nosuid", "nodev", "rprivate", "size=10m", "uid=1")),
        ({"options": ("rw", "ro")}, ("noexec", "nosuid", "nodev", "rprivate", "ro")),
        ({"size": 1024, "mode": 0o1770}, ("noexec", "nosuid", "nodev", "rprivate", "size=1024", "mode=1770")),
        ({"read_only": True}, ("noexec", "nosuid", "nodev", "rprivate", "ro")),
    ],
)
def test_tmpfs_options(more: dict[str, Any], options: tuple[str, ...]) -> None:
    assert tmpfs_options(MountRequest(type="tmpfs", target="/t", **more)) == options


@pytest.mark.parametrize("option", ["wings", "size", "size=", "lowerdir=/x", "size=1,uid=0", "nsfs", "mode=1\n"])
def test_wrong_tmpfs_options_are_refused(option: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid tmpfs option"):
        tmpfs_options(MountRequest(type="tmpfs", target="/t", options=(option,)))


@pytest.mark.parametrize(
    ("propagations", "want"),
    [((), ""), (("rprivate",), ""), (("rslave",), "rslave"), (("slave", "rshared"), "shared")],
)
def test_the_root_is_shared_as_far_as_a_mount_needs(propagations: tuple[str, ...], want: str) -> None:
    requests = tuple(bind(f"/m{index}", propagation=value) for index, value in enumerate(propagations))
    assert rootfs_propagation(ContainerConfig(image="x", mounts=requests)) == want
