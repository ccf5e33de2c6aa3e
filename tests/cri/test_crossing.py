"""Calls on a pod that are repeated, and that cross each other and the container's own end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.harness import SLOWER

from orlop._stubs.cri import api_pb2 as api

from .conftest import Client, Daemon, container_config, pod_config, wait_for
from .test_crash import nothing_left

pytestmark = [pytest.mark.root, pytest.mark.peers]
TIMES = 6
GONE = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)


@pytest.fixture(autouse=True)
def _nothing_left(daemon: Daemon, busybox: str) -> Iterator[None]:
    with nothing_left(daemon):
        yield


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What each of them returns, or the error of the call."""
    barrier = threading.Barrier(len(calls))

    def one(call: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return call()
        except grpc.RpcError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


def codes(results: list[Any]) -> set[grpc.StatusCode]:
    return {one.code() for one in results if isinstance(one, grpc.RpcError)}


def pod_with(client: Client, image: str, *command: str, **fields: Any) -> tuple[str, str, api.PodSandboxConfig]:
    """A pod with one container that is not started yet."""
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    wanted = container_config(image, *command, **fields)
    found = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config)
    return pod, found.container_id, config


def test_one_sandbox_for_the_same_request_many_times_at_once(client: Client) -> None:
    config = pod_config()
    found = at_once(*[lambda: client.RunPodSandbox(config=config).pod_sandbox_id] * TIMES)
    assert len(set(found)) == 1, found
    assert [pod.id for pod in client.ListPodSandbox().items] == found[:1]
    client.RemovePodSandbox(pod_sandbox_id=found[0])


def test_two_processes_with_the_same_request_for_a_sandbox(daemon: Daemon, client: Client) -> None:
    from orlop.cri import requests

    config = pod_config()
    wanted = requests.sandbox(api.RunPodSandboxRequest(config=config), "bridge")

    def engine() -> str:
        own = daemon.engine()
        started = own.pods.run(wanted)
        if started.client is not None:
            started.client.close()
        own.close()
        return started.container.id

    found = at_once(*[engine, lambda: client.RunPodSandbox(config=config).pod_sandbox_id] * 3)
    assert len(set(found)) == 1, found
    client.RemovePodSandbox(pod_sandbox_id=found[0])


def test_one_container_for_the_same_request_many_times_at_once(client: Client, busybox: str) -> None:
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    wanted = container_config(busybox, "sleep", "1000")
    create = lambda: client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id  # noqa: E731
    found = at_once(*[create] * TIMES)
    assert len(set(found)) == 1, found
    client.RemovePodSandbox(pod_sandbox_id=pod)


def test_a_container_is_started_once_however_short_it_is(client: Client, busybox: str, tmp_path: Path) -> None:
    mounts = [api.Mount(host_path=str(tmp_path), container_path="/here")]
    pod, container, _ = pod_with(client, busybox, "sh", "-c", "echo >> /here/starts", mounts=mounts)
    results = at_once(*[lambda: client.StartContainer(container_id=container)] * TIMES)
    assert codes(results) == {grpc.StatusCode.FAILED_PRECONDITION}
    assert sum(not isinstance(one, grpc.RpcError) for one in results) == 1
    wait_for(lambda: (tmp_path / "starts").exists(), "the container to write")
    client.RemovePodSandbox(pod_sandbox_id=pod)
    assert (tmp_path / "starts").read_text() == "\n"


@pytest.mark.parametrize("command", ["sleep 1000", "sleep 0.05; exit 4"], ids=["long", "short"])
def test_stop_and_remove_many_times_at_once(client: Client, busybox: str, command: str) -> None:
    pod, container, _ = pod_with(client, busybox, "sh", "-c", command)
    client.StartContainer(container_id=container)
    calls: list[Callable[[], Any]] = [
        lambda: client.StopContainer(container_id=container, timeout=1),
        lambda: client.StopContainer(container_id=container, timeout=0),
        lambda: client.RemoveContainer(container_id=container),
        lambda: client.StopPodSandbox(pod_sandbox_id=pod),
        lambda: client.RemovePodSandbox(pod_sandbox_id=pod),
    ]
    assert codes(at_once(*calls * 2)) == set()
    assert list(client.ListPodSandbox().items) == []
    assert list(client.ListContainers().containers) == []


@pytest.mark.parametrize("call", ["StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"])
def test_start_crossed_by_the_end(client: Client, busybox: str, call: str) -> None:
    pod, container, _ = pod_with(client, busybox, "sleep", "1000")
    fields: dict[str, Any] = {"container_id": container} if "Container" in call else {"pod_sandbox_id": pod}
    start, end = at_once(lambda: client.StartContainer(container_id=container), lambda: getattr(client, call)(**fields))
    assert not isinstance(end, grpc.RpcError), end
    assert codes([start]) <= {*GONE, grpc.StatusCode.ABORTED}, start
    if call == "StopPodSandbox":
        assert client.ContainerStatus(container_id=container).status.state != api.CONTAINER_RUNNING
    elif call.startswith("Remove"):
        assert list(client.ListContainers().containers) == []
    client.RemovePodSandbox(pod_sandbox_id=pod)


@pytest.mark.parametrize("call", ["StopPodSandbox", "RemovePodSandbox"])
def test_pod_is_stopped_while_containers_are_made_in_it(client: Client, busybox: str, call: str) -> None:
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id

    texts: list[str] = []

    def make(number: int) -> grpc.StatusCode:
        for attempt in range(1000):
            wanted = container_config(busybox, "sleep", "1000", name=f"c{number}-{attempt}")
            try:
                found = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config)
                client.StartContainer(container_id=found.container_id)
            except grpc.RpcError as error:
                texts.append(error.details())
                code: grpc.StatusCode = error.code()
                return code
        raise AssertionError("the pod is still ready")

    with ThreadPoolExecutor(4) as pool:
        makers = [pool.submit(make, number) for number in range(4)]
        wait_for(lambda: len(client.ListContainers().containers) >= 4, "the first containers")
        getattr(client, call)(pod_sandbox_id=pod)
        found = {maker.result(60) for maker in makers}
    assert found <= {*GONE, grpc.StatusCode.ABORTED}, texts
    states = {container.state for container in client.ListContainers().containers}
    assert states <= ({api.CONTAINER_EXITED, api.CONTAINER_CREATED} if call == "StopPodSandbox" else set())
    client.RemovePodSandbox(pod_sandbox_id=pod)


def test_pod_is_removed_while_a_command_runs_in_it(client: Client, busybox: str) -> None:
    pod, container, _ = pod_with(client, busybox, "sleep", "1000")
    client.StartContainer(container_id=container)
    with ThreadPoolExecutor(1) as pool:
        command = ["sh", "-c", "echo up; touch /up; sleep 1000"]
        running = pool.submit(lambda: client.ExecSync(container_id=container, cmd=command))
        there = ["test", "-e", "/up"]
        wait_for(lambda: client.ExecSync(container_id=container, cmd=there).exit_code == 0, "the command")
        client.RemovePodSandbox(pod_sandbox_id=pod)
        answer = running.result(10 * SLOWER)
    assert (answer.exit_code, answer.stdout) == (137, b"up\n")


def test_others_are_served_while_many_containers_take_their_time_to_end(
    client: Client, busybox: str, tmp_path: Path
) -> None:
    mounts = [api.Mount(host_path=str(tmp_path), container_path="/here")]
    command = ("sh", "-c", "trap '' TERM; touch /here/up; sleep 1000")
    pod, container, _ = pod_with(client, busybox, *command, mounts=mounts)
    client.StartContainer(container_id=container)
    wait_for(lambda: (tmp_path / "up").exists(), "the trap")
    with ThreadPoolExecutor(60) as pool:
        waiting = [pool.submit(lambda: client.StopContainer(container_id=container, timeout=20)) for _ in range(60)]
        time.sleep(1)
        assert client.ListContainers(within=10).containers  # long before one of the others ends
        assert client.ContainerStatus(container_id=container, within=10).status.state == api.CONTAINER_RUNNING
        assert not any(one.done() for one in waiting)
        client.StopContainer(container_id=container, timeout=0)
        for one in waiting:
            one.result(10 * SLOWER)
    client.RemovePodSandbox(pod_sandbox_id=pod)


KINDS = {
    api.CONTAINER_CREATED_EVENT: "created",
    api.CONTAINER_STARTED_EVENT: "started",
    api.CONTAINER_STOPPED_EVENT: "stopped",
    api.CONTAINER_DELETED_EVENT: "deleted",
}


def follow(events: Any, last: tuple[str, str]) -> list[tuple[str, str]]:
    """Events up to one; none may come twice."""
    seen: list[tuple[str, str]] = []
    for event in events:
        seen.append((event.container_id, KINDS[event.container_event_type]))
        if seen[-1] == last:
            assert len(set(seen)) == len(seen)
            return seen
    raise AssertionError(f"no {last} in {seen}")


def subscribed(client: Client) -> Any:
    """The stream of events, once it is known to bring them: pods come and go until it tells of one."""
    events = client.GetContainerEvents(within=60)

    def probe() -> str:
        found: str = client.RunPodSandbox(config=pod_config()).pod_sandbox_id
        client.RemovePodSandbox(pod_sandbox_id=found)
        return found

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, events)
        last = probe()
        while not first.done():
            last = probe()
    event = first.result()
    while (event.container_id, event.container_event_type) != (last, api.CONTAINER_DELETED_EVENT):
        event = next(events)
    return events


def test_events_are_complete_and_in_order_where_calls_cross(client: Client, busybox: str) -> None:
    events = subscribed(client)
    pod, container, _ = pod_with(client, busybox, "sh", "-c", "sleep 0.05")
    client.StartContainer(container_id=container)
    at_once(
        *[lambda: client.StopContainer(container_id=container, timeout=1)] * 2,
        *[lambda: client.RemovePodSandbox(pod_sandbox_id=pod)] * 2,
    )
    seen = follow(events, (pod, "deleted"))
    for one in (pod, container):
        assert [kind for who, kind in seen if who == one] == ["created", "started", "stopped", "deleted"]
    assert seen.index((container, "deleted")) < seen.index((pod, "deleted"))
    events.cancel()


def test_events_go_on_after_a_restart_and_tell_the_pod(daemon: Daemon, client: Client, busybox: str) -> None:
    pod, container, _ = pod_with(client, busybox, "sleep", "1000")
    client.StartContainer(container_id=container)
    events = subscribed(client)
    daemon.end(9)
    with pytest.raises(grpc.RpcError) as caught:
        next(events)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN)
    client = daemon.start()
    events = subscribed(client)
    client.RemovePodSandbox(pod_sandbox_id=pod)
    found = []
    for event in events:
        found.append(event)
        if (event.container_id, event.container_event_type) == (pod, api.CONTAINER_DELETED_EVENT):
            break
    events.cancel()
    kinds = [(event.container_id, KINDS[event.container_event_type]) for event in found]
    assert kinds == [(container, "stopped"), (pod, "stopped"), (container, "deleted"), (pod, "deleted")]
    assert {event.pod_sandbox_status.id for event in found[1:]} <= {pod, ""}
