"""kill -9 of the daemon at each named step while eight clients make and remove pods, and of the processes around a pod:
what is found afterwards is whole or goes, no name is stuck, no exit is lost, nothing is left."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from tests.harness import Orlop, left_behind

from orlop._stubs.cri import api_pb2 as api
from orlop.engine.steps import STEPS
from orlop.sys.procfs import start_time

from .conftest import Client, Daemon, container_config, pod_config, wait_for

pytestmark = [pytest.mark.root, pytest.mark.peers]

CLIENTS = 8
SURVIVED = 12  # times that the step goes well before
IN_CI = (
    "create.snapshot", "start.network", "start.launched", "pods.created", "pods.remove.container", "exits.recorded",
)  # fmt: skip


class Worker(threading.Thread):
    """A client that makes a pod with two containers, one of which ends by itself, removes it, and begins anew."""

    def __init__(self, daemon: Daemon, image: str, number: int) -> None:
        super().__init__(daemon=True)
        self.daemon_, self.image, self.number = daemon, image, number
        self.config = pod_config()
        self.code = 0  # of the container that ends by itself
        self.error: grpc.RpcError | None = None

    def run(self) -> None:
        client = Client(self.daemon_.socket)
        try:
            for round_ in range(1000):
                self.config = pod_config(f"load-{self.number}-{round_}-{time.monotonic_ns()}")
                self.one(client, round_)
        except grpc.RpcError as error:
            self.error = error
        finally:
            client.channel.close()

    def one(self, client: Client, round_: int) -> None:
        pod = client.RunPodSandbox(config=self.config).pod_sandbox_id
        for name, command in (("short", f"exit {10 + self.number}"), ("long", "sleep 1000")):
            wanted = container_config(self.image, "sh", "-c", command, name=name)
            found = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=self.config)
            client.StartContainer(container_id=found.container_id)
        if (self.number + round_) % 3 == 0:
            client.StopContainer(container_id=found.container_id, timeout=0)
        if (self.number + round_) % 2:
            client.StopPodSandbox(pod_sandbox_id=pod)
        client.RemovePodSandbox(pod_sandbox_id=pod)


@contextlib.contextmanager
def nothing_left(daemon: Daemon) -> Iterator[None]:
    """The machine is afterwards as it was before."""
    orlop = Orlop(daemon.root, daemon.state)

    def traces() -> dict[str, Any]:
        found = orlop.traces()
        del found["tables"]  # with the bridge, the daemon keeps it
        found["interfaces"] = [name for name in found["interfaces"] if not name.startswith("orlop-")]
        found["processes"] = [line for line in orlop.processes() if " serve " not in line.replace("\0", " ")]
        return found

    before = traces()
    yield
    after: dict[str, Any] = {}

    def clean() -> bool:
        nonlocal after
        after = traces()
        return not left_behind(before, after)

    with contextlib.suppress(AssertionError):
        wait_for(clean, "everything to be gone", 10)
    left = left_behind(before, after)
    assert left == {}, _history(orlop, set(map(os.path.basename, after["cgroups"])) - set(before["cgroups"]))


def _history(orlop: Orlop, ids: set[str]) -> str:
    """What happened to containers of which groups are left, which nothing else tells any more."""
    events = [msgspec.json.decode(row[0]) for row in orlop.rows("SELECT record FROM events")]
    return "\n".join(str(event) for event in events if event["id"] in ids)


def _standing(pid: int) -> str:
    """What each thread of a process that does not end waits for in the kernel."""
    return "\n".join(f"{task.name} {(task / 'wchan').read_text()}" for task in Path(f"/proc/{pid}/task").iterdir())


def crash(daemon: Daemon, image: str, step: str) -> list[Worker]:
    """Have the daemon kill itself at a step, under load; the clients as they were then."""
    daemon.end()
    daemon.start(ORLOP_KILL_AT=f"{step}:{SURVIVED}")
    assert daemon.process is not None
    workers = [Worker(daemon, image, number) for number in range(CLIENTS)]
    for worker in workers:
        worker.start()
    try:
        assert daemon.process.wait(60) == -9, daemon.log.read_text()
    except subprocess.TimeoutExpired:
        pytest.fail(f"the daemon does not come to {step}:\n{_standing(daemon.process.pid)}\n{daemon.log.read_text()}")
    daemon.process = None
    for worker in workers:
        worker.join(60)
        assert worker.error is not None
        assert worker.error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN), worker.error
    return workers


def check_pods(daemon: Daemon, client: Client) -> None:
    """What is listed is what it is said to be."""
    engine = daemon.engine()
    pods = {pod.id: pod for pod in client.ListPodSandbox().items}
    for pod in pods.values():
        record = engine.containers.store.find(pod.id).record
        assert record.started
        if pod.state == api.SANDBOX_READY:
            assert start_time(record.pid) == record.pid_start_time
            assert client.PodSandboxStatus(pod_sandbox_id=pod.id).status.network.ip
            assert "eth0:" in Path(f"/proc/{record.pid}/net/dev").read_text()
            engine.networks.check(pod.id)
        else:
            wait_for(lambda pod=pod: not engine.containers.store.find(pod.id).record.cgroup, "the release")  # type: ignore[misc]
            assert not engine.containers.store.find(pod.id).record.networked
    for container in client.ListContainers().containers:
        assert container.pod_sandbox_id in pods
        status = client.ContainerStatus(container_id=container.id).status
        record = engine.containers.store.find(container.id).record
        if status.state == api.CONTAINER_RUNNING:
            assert start_time(record.pid) == record.pid_start_time
        elif status.state == api.CONTAINER_EXITED:
            assert status.finished_at
            assert "supervisor" not in status.message
            if status.metadata.name == "short" and status.started_at:
                number = int(pods[container.pod_sandbox_id].metadata.name.split("-")[1])
                assert status.exit_code in (10 + number, 137)
    engine.close()


def can_be_had(client: Client, config: api.PodSandboxConfig) -> None:
    """The pod of an interrupted call comes to be when the call is repeated, unless it had been stopped already."""
    ended = {pod.metadata.name for pod in client.ListPodSandbox().items if pod.state == api.SANDBOX_NOTREADY}
    if config.metadata.name not in ended:
        pod = client.RunPodSandbox(config=config).pod_sandbox_id
        assert client.PodSandboxStatus(pod_sandbox_id=pod).status.state == api.SANDBOX_READY


def remove_all(client: Client) -> None:
    for pod in client.ListPodSandbox().items:
        client.RemovePodSandbox(pod_sandbox_id=pod.id)
    assert list(client.ListContainers().containers) == []


@pytest.mark.parametrize(
    "step", [pytest.param(name, marks=[] if name in IN_CI else pytest.mark.slow) for name in STEPS]
)
def test_daemon_killed_at_a_step_under_load(daemon: Daemon, busybox: str, step: str) -> None:
    with nothing_left(daemon):
        try:
            workers = crash(daemon, busybox, step)
        finally:
            if daemon.process is not None:
                daemon.end()
            client = daemon.start()
        check_pods(daemon, client)
        for worker in workers:
            can_be_had(client, worker.config)
        check_pods(daemon, client)
        remove_all(client)
