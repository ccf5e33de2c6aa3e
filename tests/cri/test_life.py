"""Pods and containers over gRPC, from the first call to the last."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import grpc
import pytest

from orlop._stubs.cri import api_pb2 as api

from .conftest import Client, Daemon, container_config, pod_config, wait_for
from .test_crossing import subscribed

pytestmark = [pytest.mark.root, pytest.mark.peers]


def refused(call: object, code: grpc.StatusCode) -> str:
    """The message of a call that must fail with this code."""
    with pytest.raises(grpc.RpcError) as caught:
        call()  # type: ignore[operator]
    assert caught.value.code() == code, caught.value.details()
    text: str = caught.value.details()
    assert text.isprintable(), repr(text)
    assert "Traceback" not in text
    return text


def test_the_whole_life_of_a_pod(client: Client, busybox: str, tmp_path: Path) -> None:
    config = pod_config(hostname="my-pod", log_directory=str(tmp_path))
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    status = client.PodSandboxStatus(pod_sandbox_id=pod).status
    assert status.state == api.SANDBOX_READY
    assert status.network.ip
    assert [item.id for item in client.ListPodSandbox(filter=api.PodSandboxFilter(id=pod)).items] == [pod]

    wanted = container_config(busybox, "sh", "-c", "echo out; echo err >&2; sleep 1000", log_path="main/0.log")
    container = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
    assert client.ContainerStatus(container_id=container).status.state == api.CONTAINER_CREATED
    client.StartContainer(container_id=container)
    status = client.ContainerStatus(container_id=container).status
    assert status.state == api.CONTAINER_RUNNING
    assert status.image_id == busybox
    assert status.log_path == str(tmp_path / "main/0.log")

    answer = client.ExecSync(container_id=container, cmd=["sh", "-c", "hostname; echo no >&2; exit 3"])
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"my-pod\n", b"no\n", 3)
    log = tmp_path / "main/0.log"
    wait_for(lambda: log.read_text().count("\n") == 2, "the container's output")
    lines = log.read_text().splitlines()
    assert sorted(line.split(" ", 1)[1] for line in lines) == ["stderr F err", "stdout F out"]

    client.StopContainer(container_id=container, timeout=0)
    status = client.ContainerStatus(container_id=container).status
    assert (status.state, status.exit_code) == (api.CONTAINER_EXITED, 137)
    client.StopPodSandbox(pod_sandbox_id=pod)
    client.StopPodSandbox(pod_sandbox_id=pod)
    assert client.PodSandboxStatus(pod_sandbox_id=pod).status.state == api.SANDBOX_NOTREADY
    client.RemovePodSandbox(pod_sandbox_id=pod)
    client.RemovePodSandbox(pod_sandbox_id=pod)
    refused(lambda: client.PodSandboxStatus(pod_sandbox_id=pod), grpc.StatusCode.NOT_FOUND)
    refused(lambda: client.ContainerStatus(container_id=container), grpc.StatusCode.NOT_FOUND)


def test_a_repeated_call_is_answered_with_what_is_there(client: Client, busybox: str) -> None:
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    assert client.RunPodSandbox(config=config).pod_sandbox_id == pod
    other = pod_config(config.metadata.name, hostname="other")
    refused(lambda: client.RunPodSandbox(config=other), grpc.StatusCode.ALREADY_EXISTS)
    wanted = container_config(busybox, "sleep", "1000")
    container = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
    again = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
    assert again == container
    client.RemovePodSandbox(pod_sandbox_id=pod)


def test_the_end_of_a_container_is_recorded_while_the_daemon_is_away(
    daemon: Daemon, client: Client, busybox: str
) -> None:
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    ids = []
    for name, command in (("short", "sleep 1; exit 7"), ("long", "sleep 1000")):
        wanted = container_config(busybox, "sh", "-c", command, name=name)
        ids.append(client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id)
        client.StartContainer(container_id=ids[-1])
    daemon.end(signal.SIGKILL)
    engine = daemon.engine()
    wait_for(lambda: engine.containers.store.find(ids[0]).state == "exited", "the exit")
    engine.close()
    client = daemon.start()
    status = client.ContainerStatus(container_id=ids[0]).status
    assert (status.state, status.exit_code, status.reason) == (api.CONTAINER_EXITED, 7, "Error")
    assert client.ContainerStatus(container_id=ids[1]).status.state == api.CONTAINER_RUNNING
    assert client.PodSandboxStatus(pod_sandbox_id=pod).status.state == api.SANDBOX_READY
    client.RemovePodSandbox(pod_sandbox_id=pod)


def test_events_tell_what_happens(client: Client, busybox: str) -> None:
    config = pod_config()
    events = subscribed(client)
    seen = []

    def follow(until: tuple[str, int]) -> None:
        for event in events:
            seen.append((event.container_id, event.container_event_type))
            if seen[-1] == until:
                return

    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    wanted = container_config(busybox, "true")
    container = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
    client.StartContainer(container_id=container)
    follow((container, api.CONTAINER_STOPPED_EVENT))
    client.RemovePodSandbox(pod_sandbox_id=pod)
    follow((pod, api.CONTAINER_DELETED_EVENT))
    mine = [kind for identifier, kind in seen if identifier == container]
    assert mine == [
        api.CONTAINER_CREATED_EVENT,
        api.CONTAINER_STARTED_EVENT,
        api.CONTAINER_STOPPED_EVENT,
        api.CONTAINER_DELETED_EVENT,
    ]


def test_limits_are_put_in_force_and_changed(client: Client, busybox: str) -> None:
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    none = [api.HugepageLimit(page_size="2MB", limit=0)]  # as a kubelet says of every size, whatever the node counts
    limits = api.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_shares=512, hugepage_limits=none)
    wanted = container_config(busybox, "sleep", "1000", linux=api.LinuxContainerConfig(resources=limits))
    container = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
    client.StartContainer(container_id=container)
    client.UpdateContainerResources(
        container_id=container,
        linux=api.LinuxContainerResources(memory_limit_in_bytes=96 << 20, hugepage_limits=none),
    )
    resources = client.ContainerStatus(container_id=container).status.resources.linux
    assert (resources.memory_limit_in_bytes, resources.cpu_shares) == (96 << 20, 512)
    stats = client.ContainerStats(container_id=container).stats
    assert stats.memory.available_bytes.value + stats.memory.working_set_bytes.value == 96 << 20
    found = {item.attributes.id for item in client.ListContainerStats().stats}
    assert container in found
    metrics = client.ListPodSandboxMetrics().pod_metrics
    assert pod in {item.pod_sandbox_id for item in metrics}
    client.RemovePodSandbox(pod_sandbox_id=pod)


@pytest.mark.parametrize(
    ("call", "fields", "code", "text"),
    [
        ("RunPodSandbox", {}, grpc.StatusCode.INVALID_ARGUMENT, "config.metadata is missing"),
        ("RunPodSandbox", {"config": pod_config("a/b")}, grpc.StatusCode.INVALID_ARGUMENT, "metadata.name"),
        ("RunPodSandbox", {"config": pod_config("..")}, grpc.StatusCode.INVALID_ARGUMENT, "metadata.name"),
        (
            "RunPodSandbox",
            {"config": pod_config(), "runtime_handler": "none"},
            grpc.StatusCode.INVALID_ARGUMENT,
            "runtime_handler",
        ),
        ("CreateContainer", {"pod_sandbox_id": "0123"}, grpc.StatusCode.NOT_FOUND, "0123"),
        ("StartContainer", {"container_id": "0123"}, grpc.StatusCode.NOT_FOUND, "0123"),
        ("ContainerStatus", {}, grpc.StatusCode.INVALID_ARGUMENT, "container_id"),
        ("ExecSync", {"container_id": "0123"}, grpc.StatusCode.INVALID_ARGUMENT, "cmd"),
        ("ExecSync", {"container_id": "0123", "cmd": ["x"]}, grpc.StatusCode.NOT_FOUND, "0123"),
        ("PullImage", {"image": api.ImageSpec(image="UPPER")}, grpc.StatusCode.INVALID_ARGUMENT, "UPPER"),
    ],
)
def test_wrong_requests(client: Client, call: str, fields: dict[str, object], code: grpc.StatusCode, text: str) -> None:
    assert text in refused(lambda: getattr(client, call)(**fields), code)


def test_the_sandbox_process_is_small(client: Client, daemon: Daemon) -> None:
    pod = client.RunPodSandbox(config=pod_config()).pod_sandbox_id
    engine = daemon.engine()
    process = engine.pods.get(pod).record.pid
    engine.close()
    assert Path(f"/proc/{process}/comm").read_text() == "pause\n"
    assert os.stat(daemon.state / "pause/pause").st_size < 200_000
    client.RemovePodSandbox(pod_sandbox_id=pod)


def test_the_bridge_stays_while_the_daemon_does(client: Client, daemon: Daemon) -> None:
    pod = client.RunPodSandbox(config=pod_config()).pod_sandbox_id
    client.RemovePodSandbox(pod_sandbox_id=pod)
    engine = daemon.engine()
    device = Path("/sys/class/net") / engine.networks.inspect("bridge").device
    engine.close()
    assert device.exists()
    daemon.end()
    wait_for(lambda: not device.exists(), "the bridge to go")  # /sys shows it for some milliseconds more
    daemon.start()
