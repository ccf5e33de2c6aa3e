"""kill -9 of the processes around a pod, and the kernel's own kills for want of memory."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.crash.test_processes import shim_of
from tests.harness import Orlop, kill

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import requests
from orlop.engine import start
from orlop.spec.errors import OrlopError
from orlop.sys.procfs import start_time

from .conftest import Client, Daemon, container_config, pod_config, wait_for
from .test_crash import nothing_left
from .test_life import refused

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.fixture(autouse=True)
def _nothing_left(daemon: Daemon, busybox: str) -> Iterator[None]:
    with nothing_left(daemon):
        yield


def running(client: Client, pod: str, config: api.PodSandboxConfig, image: str, *command: str, **fields: Any) -> str:
    wanted = container_config(image, *command, **fields)
    found = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config)
    client.StartContainer(container_id=found.container_id)
    identifier: str = found.container_id
    return identifier


def ended(client: Client, identifier: str) -> api.ContainerStatus:
    """The status of a container, once it has ended."""

    def status() -> api.ContainerStatus:
        return client.ContainerStatus(container_id=identifier).status

    wait_for(lambda: status().state == api.CONTAINER_EXITED, "the end")
    return status()


def pod_state(client: Client, pod: str) -> int:
    state: int = client.PodSandboxStatus(pod_sandbox_id=pod).status.state
    return state


def test_killed_shim_takes_its_container_along_and_no_other(daemon: Daemon, client: Client, busybox: str) -> None:
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    victim = running(client, pod, config, busybox, "sleep", "1000", name="victim")
    other = running(client, pod, config, busybox, "sleep", "1000", name="other")
    kill(shim_of(Orlop(daemon.root, daemon.state), victim))
    status = ended(client, victim)
    assert (status.exit_code, status.reason) == (137, "Error")
    assert "supervisor" in status.message
    assert client.ContainerStatus(container_id=other).status.state == api.CONTAINER_RUNNING
    assert pod_state(client, pod) == api.SANDBOX_READY
    client.RemovePodSandbox(pod_sandbox_id=pod)


def spawners(daemon: Daemon) -> list[int]:
    """The process that forks the daemon's shims, if there is one now; some thread's child."""
    assert daemon.process is not None
    found = []
    for children in Path(f"/proc/{daemon.process.pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for name in children.read_text().split():
                if Path(f"/proc/{name}/cmdline").read_bytes().rstrip(b"\0") == b"orlop-shim --spawner":
                    found.append(int(name))
    return found


def test_killed_spawner_takes_nobody_along_and_has_a_successor(daemon: Daemon, client: Client, busybox: str) -> None:
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    before = running(client, pod, config, busybox, "sleep", "1000", name="before")
    (spawner,) = spawners(daemon)
    kill(spawner)
    wait_for(lambda: start_time(spawner) is None, "its end")
    after = running(client, pod, config, busybox, "sleep", "1000", name="after")
    assert spawners(daemon) not in ([], [spawner])
    for identifier in (before, after):
        assert client.ContainerStatus(container_id=identifier).status.state == api.CONTAINER_RUNNING
        assert client.ExecSync(container_id=identifier, cmd=["true"]).exit_code == 0
    client.RemovePodSandbox(pod_sandbox_id=pod)


def test_spawner_killed_again_and_again_under_load(daemon: Daemon, busybox: str) -> None:
    """A start that it was asked for and had not yet begun fails, and leaves nothing; no other does."""
    over = threading.Event()
    made: list[str] = []
    said: list[str] = []

    def work() -> None:
        client = Client(daemon.socket)
        while not over.is_set():
            config = pod_config()
            try:
                pod = client.RunPodSandbox(config=config).pod_sandbox_id
                running(client, pod, config, busybox, "sleep", "1000")
                made.append(pod)
                client.RemovePodSandbox(pod_sandbox_id=pod)
            except grpc.RpcError as error:
                said.append(error.details() or "")
        client.channel.close()

    workers = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for worker in workers:
        worker.start()
    try:
        for killed in range(20):
            wait_for(lambda: spawners(daemon), "a spawner")
            wait_for(lambda killed=killed: len(made) >= 2 * killed, "pods")  # type: ignore[misc]
            for spawner in spawners(daemon):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(spawner, 9)
    finally:
        over.set()
        for worker in workers:
            worker.join()
    assert all("ended before" in text for text in said), said
    client = Client(daemon.socket)
    for pod in client.ListPodSandbox().items:  # whose container could not be started
        client.RemovePodSandbox(pod_sandbox_id=pod.id)
    client.channel.close()


@pytest.mark.parametrize("victim", ["shim", "pause"])
def test_killed_sandbox_is_not_ready_and_gives_its_network_back(
    daemon: Daemon, client: Client, busybox: str, victim: str
) -> None:
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    container = running(client, pod, config, busybox, "sleep", "1000")
    engine = daemon.engine()
    pause = engine.pods.get(pod).record.pid
    kill(shim_of(Orlop(daemon.root, daemon.state), pod) if victim == "shim" else pause)
    wait_for(lambda: pod_state(client, pod) == api.SANDBOX_NOTREADY, "the sandbox to be not ready")
    wait_for(lambda: not engine.pods.get(pod).record.networked, "the network to be given back")
    engine.close()
    refused(lambda: client.RunPodSandbox(config=config), grpc.StatusCode.ALREADY_EXISTS)
    wanted = container_config(busybox, "true", name="late")
    refused(
        lambda: client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config),
        grpc.StatusCode.FAILED_PRECONDITION,
    )
    config.metadata.attempt += 1
    again = client.RunPodSandbox(config=config).pod_sandbox_id
    client.StopPodSandbox(pod_sandbox_id=pod)
    assert client.ContainerStatus(container_id=container).status.state == api.CONTAINER_EXITED
    for one in (pod, again):
        client.RemovePodSandbox(pod_sandbox_id=one)


@pytest.mark.parametrize("what", ["sandbox", "container"])
def test_killed_launch_helper(
    daemon: Daemon, client: Client, busybox: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = start.follow

    def follow(control: Any, plan: Any, on_sync: Any) -> Any:
        def act(name: str, pid: int, fds: list[int]) -> None:
            on_sync(name, pid, fds)
            kill(pid)
            wait_for(lambda: start_time(pid) is None, "the helper to be dead")

        return original(control, plan, act)

    config = pod_config()
    request = api.RunPodSandboxRequest(config=config)
    engine = daemon.engine()
    if what == "sandbox":
        with monkeypatch.context() as patch:
            patch.setattr(start, "follow", follow)
            with pytest.raises(OrlopError, match="launch helper"):
                engine.pods.run(requests.sandbox(request, "bridge"))
        assert engine.containers.store.all() == []
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    if what == "container":
        wanted = container_config(busybox, "sleep", "1000")
        found = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
        with monkeypatch.context() as patch:
            patch.setattr(start, "follow", follow)
            with pytest.raises(OrlopError, match="launch helper"):
                engine.pods.start_container(engine.containers.get(found))
        status = client.ContainerStatus(container_id=found).status
        assert (status.state, status.reason, status.exit_code) == (api.CONTAINER_EXITED, "StartError", 128)
        refused(lambda: client.StartContainer(container_id=found), grpc.StatusCode.FAILED_PRECONDITION)
    engine.close()
    client.RemovePodSandbox(pod_sandbox_id=pod)


HUNGRY = "dd if=/dev/zero of=/dev/null bs=200M count=1"  # a buffer that is too large


@pytest.mark.parametrize(
    ("command", "code"), [(f"exec {HUNGRY}", 137), (f"{HUNGRY}; exit 3", 3)], ids=["first process", "child"]
)
def test_container_out_of_memory(client: Client, busybox: str, command: str, code: int) -> None:
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    limits = api.LinuxContainerResources(memory_limit_in_bytes=32 << 20, memory_swap_limit_in_bytes=32 << 20)
    container = running(
        client, pod, config, busybox, "sh", "-c", command, linux=api.LinuxContainerConfig(resources=limits)
    )
    status = ended(client, container)
    assert (status.exit_code, status.reason) == (code, "OOMKilled")
    assert pod_state(client, pod) == api.SANDBOX_READY
    client.RemovePodSandbox(pod_sandbox_id=pod)


def test_pod_out_of_memory_takes_the_container_and_not_the_sandbox(client: Client, busybox: str) -> None:
    """The limit is that of the pod's group, as kubelet sets it; the sandbox's process is the last to be chosen."""
    parent = f"/orlop/test-pod-{os.getpid()}"
    v1 = Path("/sys/fs/cgroup/memory")
    directory = Path(f"{v1 if v1.is_dir() else '/sys/fs/cgroup'}{parent}")
    config = pod_config()
    config.linux.cgroup_parent = parent
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    (directory / ("memory.limit_in_bytes" if v1.is_dir() else "memory.max")).write_text(str(48 << 20))
    container = running(client, pod, config, busybox, "sh", "-c", f"exec {HUNGRY}")
    status = ended(client, container)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
    assert pod_state(client, pod) == api.SANDBOX_READY
    client.RemovePodSandbox(pod_sandbox_id=pod)
    for group in [*Path("/sys/fs/cgroup").glob(f"*{parent}"), Path(f"/sys/fs/cgroup{parent}")]:
        if group.is_dir():
            group.rmdir()
