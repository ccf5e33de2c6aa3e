"""What requests say of user namespaces, without a daemon."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import requests
from orlop.engine.config import ContainerConfig
from orlop.engine.oci.spec import ContainerFacts, runtime_spec
from orlop.engine.oci.users import on_host
from orlop.engine.users import Identity
from orlop.spec.errors import InvalidArgument
from orlop.spec.image import ImageConfig, RootFS
from orlop.spec.runtime import IDMapping, Namespace

from .conftest import container_config, pod_config

MAPPING = api.IDMapping(container_id=0, host_id=100_000, length=65_536)
IMAGE = ImageConfig(rootfs=RootFS(type="layers", diff_ids=()))


def options(uids: Any = (MAPPING,), gids: Any = (MAPPING,), mode: int = api.POD, **more: Any) -> api.NamespaceOption:
    return api.NamespaceOption(userns_options=api.UserNamespace(mode=mode, uids=uids, gids=gids), **more)


def pod_request(asked: api.NamespaceOption) -> api.RunPodSandboxRequest:
    config = pod_config("pod")
    config.linux.security_context.namespace_options.CopyFrom(asked)
    return api.RunPodSandboxRequest(config=config)


def sandbox(asked: api.NamespaceOption) -> ContainerConfig:
    return requests.sandbox(pod_request(asked), "bridge")


def container(asked: api.NamespaceOption, pod: api.NamespaceOption, **fields: Any) -> ContainerConfig:
    config = container_config("image", "sh", **fields)
    config.linux.security_context.namespace_options.CopyFrom(asked)
    return requests.container(api.CreateContainerRequest(config=config), pod_request(pod), "5a" * 32)


def facts(**more: Any) -> ContainerFacts:
    known = {kind: f"/proc/7/ns/{kind}" for kind in ("network", "ipc", "uts", "pid")}
    return ContainerFacts(id="ab" * 32, **{f"{kind}_namespace": path for kind, path in known.items()}, **more)


def test_a_sandbox_makes_a_user_namespace_and_its_containers_join_it() -> None:
    config = sandbox(options())
    assert config.pod is not None
    assert config.pod.id_maps == (((0, 100_000, 65_536),), ((0, 100_000, 65_536),))
    assert config.user == "65535:65535"
    whole = msgspec.structs.replace(config, entrypoint=("/pause",))
    linux = runtime_spec(whole, IMAGE, facts()).linux
    assert linux is not None
    assert Namespace(type="user") in linux.namespaces
    assert linux.uid_mappings == linux.gid_mappings == (IDMapping(container_id=0, host_id=100_000, size=65_536),)
    assert linux.sysctl["net.ipv4.ping_group_range"] == "0 65535"

    joined = runtime_spec(
        container(options(), options()), IMAGE, facts(user_namespace="/proc/7/ns/user", hosts_file="/c/hosts")
    )
    assert joined.linux is not None
    assert Namespace(type="user", path="/proc/7/ns/user") in joined.linux.namespaces
    (hosts,) = (mount for mount in joined.mounts if mount.destination == "/etc/hosts")
    assert hosts.uid_mappings == linux.uid_mappings


def test_mode_node_is_as_if_nothing_was_asked_for() -> None:
    for asked in (options(uids=(), gids=(), mode=api.NODE), api.NamespaceOption()):
        config = sandbox(asked)
        assert config.pod is not None
        assert config.pod.id_maps is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (options(mode=api.CONTAINER), "mode: CONTAINER is not possible"),
        (options(mode=api.TARGET), "mode: TARGET is not possible"),
        (options(mode=17), "mode: 17 is not possible"),
        (options(mode=api.NODE), "mode NODE has no mappings"),
        (options(uids=()), "uids: want one mapping, there are 0"),
        (options(gids=(MAPPING, MAPPING)), "gids: want one mapping, there are 2"),
        (options(uids=(api.IDMapping(container_id=1, host_id=9, length=9),)), "container's 0 must be mapped"),
        (options(uids=(api.IDMapping(host_id=9),)), "length: is zero"),
        (options(uids=(api.IDMapping(host_id=(1 << 32) - 2, length=9),)), "host_id and length lead beyond"),
        (options(pid=api.NODE), "pid: NODE and a user namespace exclude each other"),
        (options(ipc=api.NODE), "ipc: NODE and a user namespace exclude each other"),
    ],
)
def test_refuses_in_a_sandbox(asked: api.NamespaceOption, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        sandbox(asked)


@pytest.mark.parametrize(
    ("asked", "pod"),
    [
        (api.NamespaceOption(), options()),
        (options(), api.NamespaceOption()),
        (options(uids=(api.IDMapping(host_id=5, length=65_536),)), options()),
    ],
)
def test_a_container_has_the_mappings_of_its_sandbox(asked: api.NamespaceOption, pod: api.NamespaceOption) -> None:
    with pytest.raises(InvalidArgument, match="the user namespace of its pod sandbox, and none else"):
        container(asked, pod)


def test_the_sandbox_is_root_where_few_ids_are_mapped() -> None:
    few = (api.IDMapping(host_id=100_000, length=1000),)
    assert sandbox(options(few, few)).user == "0:0"


def test_a_user_that_is_not_mapped_is_refused() -> None:
    config = container(options(), options())
    for identity, word in ((Identity(uid=70_000), "user 70000"), (Identity(groups=(0, 70_001)), "group 70001")):
        with pytest.raises(InvalidArgument, match=f"{word}: is not mapped in the pod's user namespace"):
            runtime_spec(config, IMAGE, facts(identity=identity, user_namespace="/proc/7/ns/user"))


def test_mappings_of_a_mount() -> None:
    mount = api.Mount(container_path="/v", host_path="/src", uidMappings=[MAPPING], gidMappings=[MAPPING])
    spec = runtime_spec(container(options(), options(), mounts=[mount]), IMAGE, facts(user_namespace="/proc/7/ns/user"))
    (made,) = (found for found in spec.mounts if found.destination == "/v")
    assert made.uid_mappings == made.gid_mappings == (IDMapping(container_id=0, host_id=100_000, size=65_536),)
    with pytest.raises(InvalidArgument, match=r"mounts\[0\].gidMappings: uidMappings and gidMappings go together"):
        container(options(), options(), mounts=[api.Mount(container_path="/v", host_path="/s", uidMappings=[MAPPING])])


def test_ids_on_the_host() -> None:
    ranges = ((0, 1000, 10), (20, 5000, 10))
    assert [on_host(number, ranges) for number in (0, 9, 25, 15)] == [1000, 1009, 5005, 1000]
    assert on_host(33, ()) == 33
