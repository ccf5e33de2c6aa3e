"""What no well-behaved client sends, and a machine that has run out: the right code, one line, nothing left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from orlop._stubs.cri import api_pb2 as api

from .conftest import Client, container_config, pod_config, serving, wait_for
from .test_life import refused

pytestmark = [pytest.mark.root, pytest.mark.peers]
Code = grpc.StatusCode


def raw(client: Client, call: str, service: str = "RuntimeService") -> Callable[[bytes], bytes]:
    """A call that sends bytes as they are."""
    found: Callable[[bytes], bytes] = client.channel.unary_unary(f"/runtime.v1.{service}/{call}")
    return found


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05ab", os.urandom(4096) + b"\xff\xff"])
@pytest.mark.parametrize("call", ["Version", "RunPodSandbox", "CreateContainer", "ExecSync"])
def test_malformed_requests(client: Client, call: str, data: bytes) -> None:
    text = refused(lambda: raw(client, call)(data), Code.INVALID_ARGUMENT)
    assert text == f"{call}: the request is no {call}Request"


def test_malformed_requests_of_streams(client: Client) -> None:
    stream = client.channel.unary_stream("/runtime.v1.RuntimeService/StreamContainers")
    assert "StreamContainers: the request" in refused(lambda: list(stream(b"\xff")), Code.INVALID_ARGUMENT)


def test_names_that_are_no_utf8(client: Client) -> None:
    refused(lambda: raw(client, "StopContainer")(b"\x0a\x02\xc3\x28"), Code.INVALID_ARGUMENT)


def test_oversized_requests(client: Client) -> None:
    config = pod_config(annotations={"a": "x" * (16 << 20)})
    text = refused(lambda: client.RunPodSandbox(config=config), Code.RESOURCE_EXHAUSTED)
    assert "larger than max" in text
    assert client.Version().runtime_name == "orlop"


def test_calls_that_are_not_there(client: Client) -> None:
    refused(lambda: raw(client, "NoSuchCall")(b""), Code.UNIMPLEMENTED)


@pytest.mark.parametrize("name", ["a/b", "..", ".", "../../etc", "a b", "a\nb", "a\0b", "", "x" * 300, "a;b", "a=b"])
@pytest.mark.parametrize("field", ["name", "namespace", "uid"])
def test_names_of_pods(client: Client, field: str, name: str) -> None:
    config = pod_config()
    setattr(config.metadata, field, name)
    text = refused(lambda: client.RunPodSandbox(config=config), Code.INVALID_ARGUMENT)
    assert f"config.metadata.{field}" in text


def test_attempts(client: Client) -> None:
    config = pod_config()
    first = client.RunPodSandbox(config=config).pod_sandbox_id
    other = pod_config(config.metadata.name, hostname="other")
    assert first[:12] in refused(lambda: client.RunPodSandbox(config=other), Code.ALREADY_EXISTS)
    other.metadata.attempt = 1
    second = client.RunPodSandbox(config=other).pod_sandbox_id
    assert second != first
    client.StopPodSandbox(pod_sandbox_id=first)
    assert first[:12] in refused(lambda: client.RunPodSandbox(config=config), Code.ALREADY_EXISTS)
    for pod in (first, second):
        client.RemovePodSandbox(pod_sandbox_id=pod)


class Pod:
    """A pod with one container that runs and one that has ended."""

    def __init__(self, client: Client, image: str) -> None:
        self.client, self.image = client, image
        self.config = pod_config()
        self.id = client.RunPodSandbox(config=self.config).pod_sandbox_id
        self.running = self.create("sleep", "1000", name="running")
        self.ended = self.create("true", name="ended")
        for container in (self.running, self.ended):
            client.StartContainer(container_id=container)
        wait_for(lambda: self.state(self.ended) == api.CONTAINER_EXITED, "the end")

    def create(self, *command: str, **fields: Any) -> str:
        config = container_config(self.image, *command, **fields)
        identifier: str = self.client.CreateContainer(
            pod_sandbox_id=self.id, config=config, sandbox_config=self.config
        ).container_id
        return identifier

    def state(self, container: str) -> int:
        found: int = self.client.ContainerStatus(container_id=container).status.state
        return found


@pytest.fixture
def pod(client: Client, busybox: str) -> Any:
    found = Pod(client, busybox)
    yield found
    client.RemovePodSandbox(pod_sandbox_id=found.id)


def test_containers_in_the_wrong_state(client: Client, pod: Pod) -> None:
    for container, state in ((pod.running, "running"), (pod.ended, "exited")):
        text = refused(
            lambda container=container: client.StartContainer(container_id=container), Code.FAILED_PRECONDITION
        )  # type: ignore[misc]
        assert f"is {state}: it is started once" in text
    for call in (
        lambda: client.ExecSync(container_id=pod.ended, cmd=["true"]),
        lambda: client.ReopenContainerLog(container_id=pod.ended),
        lambda: client.UpdateContainerResources(container_id=pod.ended),
    ):
        text = refused(call, Code.FAILED_PRECONDITION)
        assert pod.ended[:12] in text or "container ended_" in text
    client.StopContainer(container_id=pod.ended)
    config = container_config(pod.image, "sleep", "7", name="running")
    again = {"pod_sandbox_id": pod.id, "config": config, "sandbox_config": pod.config}
    refused(lambda: client.CreateContainer(**again), Code.ALREADY_EXISTS)
    config.metadata.attempt = 1
    assert client.CreateContainer(**again).container_id != pod.running


def test_a_container_is_no_pod_and_a_pod_no_container(client: Client, pod: Pod) -> None:
    for call in (
        lambda: client.PodSandboxStatus(pod_sandbox_id=pod.running),
        lambda: client.ContainerStatus(container_id=pod.id),
        lambda: client.StartContainer(container_id=pod.id),
        lambda: client.ExecSync(container_id=pod.id, cmd=["true"]),
    ):
        assert "no such" in refused(call, Code.NOT_FOUND)
    client.StopContainer(container_id=pod.id, timeout=0)
    client.RemoveContainer(container_id=pod.id)
    client.RemovePodSandbox(pod_sandbox_id=pod.running)
    assert client.PodSandboxStatus(pod_sandbox_id=pod.id).status.state == api.SANDBOX_READY
    assert pod.state(pod.running) == api.CONTAINER_RUNNING


def test_a_container_of_another_sandbox(client: Client, pod: Pod) -> None:
    other = pod_config()
    identifier = client.RunPodSandbox(config=other).pod_sandbox_id
    config = container_config(pod.image, "true")
    config.linux.security_context.namespace_options.pid = api.TARGET
    config.linux.security_context.namespace_options.target_id = pod.running
    text = refused(
        lambda: client.CreateContainer(pod_sandbox_id=identifier, config=config, sandbox_config=other),
        Code.INVALID_ARGUMENT,
    )
    assert f"container {pod.running[:12]} is in another pod" in text
    client.StopPodSandbox(pod_sandbox_id=identifier)
    config.linux.security_context.ClearField("namespace_options")
    text = refused(
        lambda: client.CreateContainer(pod_sandbox_id=identifier, config=config, sandbox_config=other),
        Code.FAILED_PRECONDITION,
    )
    assert "is not ready" in text
    client.RemovePodSandbox(pod_sandbox_id=identifier)
    assert client.ListContainers(filter=api.ContainerFilter(pod_sandbox_id=identifier)).containers == []


def test_an_image_that_vanishes(client: Client, busybox: str, registry: str) -> None:
    image = api.ImageSpec(image=f"{registry}/lab/busybox:1")
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    wanted = {"pod_sandbox_id": pod, "config": container_config(busybox, "sleep", "1000"), "sandbox_config": config}
    container = client.CreateContainer(**wanted).container_id
    client.RemoveImage(image=image)
    assert not client.ImageStatus(image=image).HasField("image")
    client.StartContainer(container_id=container)  # its layers are held by the container
    assert client.ExecSync(container_id=container, cmd=["echo", "here"]).stdout == b"here\n"
    assert client.ContainerStatus(container_id=container).status.image_id == busybox
    wanted["config"] = container_config(image.image, "true", name="late")
    assert "no such image" in refused(lambda: client.CreateContainer(**wanted), Code.NOT_FOUND)
    assert client.PullImage(image=image).image_ref == busybox
    client.RemovePodSandbox(pod_sandbox_id=pod)


def test_a_full_disk(registry: str) -> None:
    """A root of few bytes, in a mount namespace of its own."""
    script = 'mkdir -p "$5" && mount -t tmpfs -o size=1m none "$5" && exec "$@"'  # $5 is what follows --root
    with serving("unshare", "-m", "sh", "-c", script, "sh") as daemon:
        client = Client(daemon.socket)
        before = client.ImageFsInfo().image_filesystems[0].used_bytes.value
        image = api.ImageSpec(image=f"{registry}/lab/busybox:1")
        for _ in range(2):
            text = refused(lambda: client.PullImage(image=image), Code.RESOURCE_EXHAUSTED)
            assert "no space left" in text
        assert client.ListImages().images == []
        assert client.ImageFsInfo().image_filesystems[0].used_bytes.value <= before + (256 << 10)
        pod = client.RunPodSandbox(config=pod_config()).pod_sandbox_id  # that needs next to nothing
        client.RemovePodSandbox(pod_sandbox_id=pod)
        # not a byte is left
        assert daemon.process is not None
        enter = ["nsenter", "-t", str(daemon.process.pid), "-m", "sh", "-c"]
        subprocess.run([*enter, f"cat /dev/zero > {daemon.root}/filler 2>/dev/null"], check=False)
        config = pod_config()
        refused(lambda: client.RunPodSandbox(config=config), Code.RESOURCE_EXHAUSTED)
        assert client.ListPodSandbox().items == []
        subprocess.run([*enter, f"rm {daemon.root}/filler"], check=True)
        pod = client.RunPodSandbox(config=config).pod_sandbox_id
        client.RemovePodSandbox(pod_sandbox_id=pod)
        assert client.ListPodSandbox().items == []
        assert daemon.log.read_text().partition("Traceback")[2] == ""
