"""Callers that go before their answer is there."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import services
from orlop.cri.flights import Flights
from orlop.engine.engine import Engine
from orlop.engine.images import progress
from orlop.spec import cancel
from orlop.spec.errors import Aborted, NotFound

from .conftest import Client, Daemon, container_config, pod_config, wait_for


def test_work_without_a_token_is_never_called_off() -> None:
    cancel.check()
    token = cancel.Token()
    with cancel.under(token):
        assert cancel.patience(None) == cancel.SLICE
        assert cancel.patience(0.01) == 0.01
        token.cancel()
        with pytest.raises(Aborted, match="the caller has gone"):
            cancel.check()
        with cancel.under(None):
            cancel.check()
            assert cancel.patience(None) is None
    cancel.check()


class Pool:
    """What `Flights` needs of a node."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(4)

    def submit(self, token: cancel.Token | None, function: Callable[[], Any]) -> Any:
        def work() -> Any:
            with cancel.under(token):
                return function()

        return self.pool.submit(work)

    def wake(self) -> None:
        pass


def test_calls_of_the_same_request_share_the_work() -> None:
    made: list[int] = []
    undone: list[int] = []
    go = threading.Event()

    def make() -> int:
        go.wait(5)
        made.append(len(made))
        return made[-1]

    async def main() -> None:
        flights = Flights(Pool())  # type: ignore[arg-type]
        calls = [asyncio.create_task(flights.join("pod", b"same", make, undone.append)) for _ in range(3)]
        await asyncio.sleep(0.01)
        calls[0].cancel()
        go.set()
        assert await asyncio.gather(*calls[1:]) == [0, 0]
        assert (made, undone) == ([0], [])
        # the last one to leave takes it along, and who comes meanwhile waits for that and begins anew
        go.clear()
        lone = asyncio.create_task(flights.join("pod", b"same", make, undone.append))
        await asyncio.sleep(0.01)
        lone.cancel()
        await asyncio.sleep(0.01)
        later = asyncio.create_task(flights.join("pod", b"same", make, undone.append))
        await asyncio.sleep(0.01)
        go.set()
        assert await later == 2
        assert (made, undone) == ([0, 1, 2], [1])
        await flights.settle()

    asyncio.run(main())


def test_a_failure_reaches_everyone_and_is_forgotten() -> None:
    def fail() -> int:
        time.sleep(0.02)
        raise NotFound("no")

    async def main() -> None:
        flights = Flights(Pool())  # type: ignore[arg-type]
        calls = [flights.join("pod", b"same", fail, print) for _ in range(2)]
        assert [type(e) for e in await asyncio.gather(*calls, return_exceptions=True)] == [NotFound, NotFound]
        assert await flights.join("pod", b"same", lambda: 7, print) == 7

    asyncio.run(main())


def late(client: Client) -> set[str]:
    """What was whole, and its caller told, in the moment that the caller's time ran out: kubelet finds it in a list."""
    pods = {item.id for item in client.ListPodSandbox().items if item.state == api.SANDBOX_READY}
    return pods | {item.id for item in client.ListContainers().containers if item.state == api.CONTAINER_CREATED}


def takes_container(call: str) -> bool:
    request = getattr(api, f"{call}Request", None)
    return request is not None and "container_id" in request.DESCRIPTOR.fields_by_name


def containers(daemon: Daemon) -> list[str]:
    engine = daemon.engine()
    try:
        return [container.id for container in engine.containers.list(all=True)]
    finally:
        engine.close()


@pytest.mark.root
@pytest.mark.peers
def test_a_pod_whose_caller_has_gone_is_taken_away(daemon: Daemon, client: Client) -> None:
    for milliseconds in range(1, 25, 2):
        config = pod_config()
        with contextlib.suppress(grpc.RpcError):
            client.RunPodSandbox(config=config, within=milliseconds / 1000)
        # whatever became of it, the same request has its answer, and then the name is free for another
        again = client.RunPodSandbox(config=config)
        client.RemovePodSandbox(pod_sandbox_id=again.pod_sandbox_id)
        other = client.RunPodSandbox(config=pod_config(config.metadata.name, hostname="other"))
        client.RemovePodSandbox(pod_sandbox_id=other.pod_sandbox_id)
    wait_for(lambda: containers(daemon) == [], "the pods' end")


@pytest.mark.root
@pytest.mark.peers
def test_every_call_with_a_millisecond(daemon: Daemon, client: Client, busybox: str, tmp_path: Path) -> None:
    config = pod_config(log_directory=str(tmp_path))
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    wanted = container_config(busybox, "sleep", "1000")
    container = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
    client.StartContainer(container_id=container)
    fields: dict[str, dict[str, Any]] = {
        "RunPodSandbox": {"config": pod_config()},
        "CreateContainer": {
            "pod_sandbox_id": pod,
            "config": container_config(busybox, "true", name="other"),
            "sandbox_config": config,
        },
        "ExecSync": {"container_id": container, "cmd": ["sleep", "1000"]},
        "PullImage": {"image": api.ImageSpec(image="127.0.0.1:1/none")},
        "RemoveImage": {"image": api.ImageSpec(image="none")},
        "RemovePodSandbox": {"pod_sandbox_id": "none"},
        "StopPodSandbox": {"pod_sandbox_id": "none"},
        "RemoveContainer": {"container_id": "none"},
        "StopContainer": {"container_id": "none"},
    }
    fields["StartContainer"] = {
        "container_id": client.CreateContainer(
            pod_sandbox_id=pod, config=container_config(busybox, "true", name="started"), sandbox_config=config
        ).container_id
    }

    def one_after_the_other(within: float) -> None:
        own = Client(daemon.socket)
        for name in (*services.RUNTIME, *services.IMAGES):
            asked = fields.get(name, {"container_id": container} if takes_container(name) else {})
            with contextlib.suppress(grpc.RpcError):
                answer = getattr(own, name)(**asked, within=within)
                if hasattr(answer, "__next__"):
                    list(answer)
        own.channel.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one_after_the_other, [0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05] * 4))
    assert daemon.log.read_text().partition("Traceback")[2] == ""
    # nothing has come to be that was not there, unless its caller was told in time
    known = {pod, container, fields["StartContainer"]["container_id"]}
    time.sleep(0.5)
    wait_for(lambda: set(containers(daemon)) - known <= late(client), "the end of what was called off")
    assert client.ContainerStatus(container_id=container).status.state == api.CONTAINER_RUNNING

    def running() -> int:
        commands: bytes = client.ExecSync(container_id=container, cmd=["ps"]).stdout
        return commands.count(b"sleep 1000")

    wait_for(lambda: running() == 1, "the end of the commands")
    for item in client.ListPodSandbox().items:
        client.RemovePodSandbox(pod_sandbox_id=item.id)


@pytest.mark.root
@pytest.mark.peers
def test_a_stop_whose_caller_has_gone_kills_nothing(client: Client, busybox: str) -> None:
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    wanted = container_config(busybox, "sh", "-c", "trap '' TERM; touch /ready; while :; do sleep 0.1; done")
    container = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
    client.StartContainer(container_id=container)
    ready = ["test", "-e", "/ready"]
    wait_for(lambda: client.ExecSync(container_id=container, cmd=ready).exit_code == 0, "the trap")
    with pytest.raises(grpc.RpcError):
        client.StopContainer(container_id=container, timeout=2, within=0.3)
    time.sleep(2.5)
    assert client.ContainerStatus(container_id=container).status.state == api.CONTAINER_RUNNING
    client.StopContainer(container_id=container, timeout=0)
    assert client.ContainerStatus(container_id=container).status.exit_code == 137
    client.RemovePodSandbox(pod_sandbox_id=pod)


@pytest.mark.root
@pytest.mark.peers
@pytest.mark.parametrize("action", [progress.RESOLVING, progress.DOWNLOADING, progress.EXTRACTING])
def test_a_pull_ends_in_whatever_step_it_is(registry: str, tmp_path: Path, action: str) -> None:
    engine = Engine(str(tmp_path / "root"), str(tmp_path / "state"))
    token = cancel.Token()
    steps: list[str] = []

    def watch(step: progress.Progress) -> None:
        steps.append(step.action)
        if step.action == action:
            token.cancel()

    name = f"{registry}/lab/busybox:1"
    with cancel.under(token), pytest.raises(Aborted, match="the caller has gone"):
        engine.images.pull(name, progress=watch)
    assert progress.DONE not in steps
    assert engine.images.list() == []
    assert engine.images.pull(name).names
    engine.close()
