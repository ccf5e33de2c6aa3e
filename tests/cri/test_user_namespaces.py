"""Pods with a user namespace of their own, by the real kernel."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from orlop._stubs.cri import api_pb2 as api

from .conftest import Client, container_config, pod_config
from .test_life import refused
from .test_requests_userns import options

pytestmark = [pytest.mark.root, pytest.mark.peers]
FIRST = 100_000


@pytest.fixture(autouse=True)
def supported(client: Client) -> None:
    handler = next(item for item in client.Status().runtime_handlers if not item.name)
    if not handler.features.user_namespaces:
        pytest.skip("this kernel, or the file system of /dev/shm, has no idmapped mounts")


@pytest.fixture(params=["own network", "the node's network"])
def pod(request: pytest.FixtureRequest, client: Client) -> Iterator[tuple[str, api.PodSandboxConfig]]:
    """A sandbox with a user namespace."""
    network = api.POD if request.param == "own network" else api.NODE
    config = pod_config()
    config.linux.security_context.namespace_options.CopyFrom(options(network=network))
    identifier = client.RunPodSandbox(config=config).pod_sandbox_id
    yield identifier, config
    client.RemovePodSandbox(pod_sandbox_id=identifier)


def started(client: Client, pod: tuple[str, api.PodSandboxConfig], image: str, **fields: object) -> str:
    """A container that sleeps in the pod."""
    linux = api.LinuxContainerConfig()
    linux.security_context.namespace_options.CopyFrom(pod[1].linux.security_context.namespace_options)
    config = container_config(image, "sleep", "1000", linux=linux, **fields)
    container: str = client.CreateContainer(pod_sandbox_id=pod[0], config=config, sandbox_config=pod[1]).container_id
    client.StartContainer(container_id=container)
    return container


def said(client: Client, container: str, script: str) -> str:
    answer = client.ExecSync(container_id=container, cmd=["sh", "-c", script])
    assert answer.exit_code == 0, answer.stderr
    text: str = answer.stdout.decode()
    return text


def test_root_of_the_container_is_somebody_else_outside(
    client: Client, busybox: str, pod: tuple[str, api.PodSandboxConfig], tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "there").write_text("before\n")
    plain = tmp_path / "plain"
    plain.mkdir()
    mappings = pod[1].linux.security_context.namespace_options.userns_options
    mounts = [
        api.Mount(container_path="/v", host_path=str(volume), uidMappings=mappings.uids, gidMappings=mappings.gids),
        api.Mount(container_path="/plain", host_path=str(plain)),
    ]
    container = started(client, pod, busybox, mounts=mounts)

    assert said(client, container, "cat /proc/self/uid_map /proc/self/gid_map").split() == [
        *("0", str(FIRST), "65536"),
        *("0", str(FIRST), "65536"),
    ]
    shown = said(client, container, "stat -c %u:%g / /bin/sh /etc /etc/hosts /dev/shm /v /v/there")
    assert shown.split() == ["0:0"] * 7
    # the host's root is nobody
    assert said(client, container, "stat -c %u /plain").strip() == "65534"
    said(client, container, "echo new > /root/file && chown 33:33 /root/file && echo > /v/new && echo > /dev/shm/a")
    said(
        client,
        container,
        "echo 10.0.0.9 elsewhere >> /etc/hosts; chown 33 /bin/busybox; stat -c %u /bin/busybox | grep 33",
    )
    assert client.ExecSync(container_id=container, cmd=["touch", "/plain/x"]).exit_code != 0
    assert (volume / "new").stat().st_uid == 0
    pid = _pid_of(client, container)
    assert os.stat(f"/proc/{pid}").st_uid == FIRST
    assert os.lstat(f"/proc/{pid}/root/root/file").st_uid == FIRST + 33


def _pid_of(client: Client, container: str) -> int:
    info = client.ContainerStatus(container_id=container, verbose=True).info["info"]
    found: int = json.loads(info)["pid"]
    return found


def test_containers_of_a_pod_share_the_namespace_and_its_memory(
    client: Client, busybox: str, pod: tuple[str, api.PodSandboxConfig]
) -> None:
    first = started(client, pod, busybox)
    said(client, first, "echo hello > /dev/shm/note")
    linux = api.LinuxContainerConfig()
    linux.security_context.namespace_options.CopyFrom(pod[1].linux.security_context.namespace_options)
    linux.security_context.run_as_user.value = 1000
    config = container_config(busybox, "sleep", "1000", name="second", linux=linux)
    second = client.CreateContainer(pod_sandbox_id=pod[0], config=config, sandbox_config=pod[1]).container_id
    client.StartContainer(container_id=second)
    assert said(client, second, "cat /dev/shm/note; id -u").split() == ["hello", "1000"]
    same = [said(client, each, "readlink /proc/self/ns/user") for each in (first, second)]
    assert same[0] == same[1] != os.readlink("/proc/self/ns/user")
    assert os.stat(f"/proc/{_pid_of(client, second)}").st_uid == FIRST + 1000


def test_a_terminal_belongs_to_the_user_of_the_container(
    client: Client, busybox: str, pod: tuple[str, api.PodSandboxConfig]
) -> None:
    container = started(client, pod, busybox, tty=True)
    assert said(client, container, "stat -c %u /dev/console").strip() == "0"


def test_root_of_the_container_owns_its_network(client: Client, busybox: str) -> None:
    config = pod_config()
    config.linux.security_context.namespace_options.CopyFrom(options())
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    container = started(client, (pod, config), busybox)
    assert said(client, container, "cat /proc/sys/net/ipv4/ping_group_range").split() == ["0", "65535"]
    assert client.PodSandboxStatus(pod_sandbox_id=pod).status.network.ip in said(client, container, "ip addr")
    client.RemovePodSandbox(pod_sandbox_id=pod)


def test_an_image_that_is_mounted_has_root_s_files(client: Client, busybox: str) -> None:
    config = pod_config()
    config.linux.security_context.namespace_options.CopyFrom(options())
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    mount = api.Mount(container_path="/image", image=api.ImageSpec(image=busybox), readonly=True)
    container = started(client, (pod, config), busybox, mounts=[mount])
    assert said(client, container, "stat -c %u:%g /image /image/bin/sh").split() == ["0:0", "0:0"]
    client.RemovePodSandbox(pod_sandbox_id=pod)


def test_other_mappings_than_the_sandbox_s_are_refused(
    client: Client, busybox: str, pod: tuple[str, api.PodSandboxConfig]
) -> None:
    text = refused(
        lambda: client.CreateContainer(
            pod_sandbox_id=pod[0], config=container_config(busybox, "true"), sandbox_config=pod[1]
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    assert "userns_options" in text


def test_a_volume_of_the_image_belongs_to_root_of_the_container(client: Client, registry: str) -> None:
    image = client.PullImage(image=api.ImageSpec(image=f"{registry}/lab/redis:1")).image_ref
    config = pod_config()
    config.linux.security_context.namespace_options.CopyFrom(options())
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    container = started(client, (pod, config), image)
    assert said(client, container, "stat -c %u:%g /var/lib/redis").strip() == "0:0"
    said(client, container, "touch /var/lib/redis/new && chown 77 /var/lib/redis/new")
    assert said(client, container, "stat -c %u /var/lib/redis/new").strip() == "77"
    assert " /var/lib/redis " in said(client, container, "cat /proc/mounts")
    client.RemovePodSandbox(pod_sandbox_id=pod)


def test_privileged_is_so_within_the_namespace_only(client: Client, busybox: str) -> None:
    config = pod_config()
    config.linux.security_context.namespace_options.CopyFrom(options())
    config.linux.security_context.privileged = True
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    linux = api.LinuxContainerConfig()
    linux.security_context.namespace_options.CopyFrom(options())
    linux.security_context.privileged = True
    wanted = container_config(busybox, "sleep", "1000", linux=linux)
    container = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
    client.StartContainer(container_id=container)
    said(client, container, "mount -t tmpfs tmpfs /www")
    answer = client.ExecSync(container_id=container, cmd=["sh", "-c", "echo 1 > /proc/sys/kernel/panic"])
    assert answer.exit_code != 0
    client.RemovePodSandbox(pod_sandbox_id=pod)


def test_what_the_namespace_lacks_is_refused(client: Client, busybox: str) -> None:
    """A user that is not mapped; a file system that can't map ids."""
    config = pod_config()
    config.linux.security_context.namespace_options.CopyFrom(options())
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    mappings = options().userns_options
    proc = api.Mount(container_path="/v", host_path="/proc", uidMappings=mappings.uids, gidMappings=mappings.gids)
    for name, user, mounts, words in (
        ("user", 70_000, (), "user 70000: is not mapped in the pod's user namespace"),
        ("mount", 0, (proc,), "ids can't be mapped on this file system"),
    ):
        linux = api.LinuxContainerConfig()
        linux.security_context.namespace_options.CopyFrom(options())
        linux.security_context.run_as_user.value = user
        wanted = container_config(busybox, "sleep", "1000", name=name, linux=linux, mounts=mounts)
        container = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
        with pytest.raises(grpc.RpcError) as caught:
            client.StartContainer(container_id=container)
        assert words in caught.value.details()
    client.RemovePodSandbox(pod_sandbox_id=pod)
