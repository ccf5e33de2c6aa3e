"""Two hundred pods at once, made and removed by eight clients: lists stay quick, and nothing is left of them."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests import harness

from orlop._stubs.cri import api_pb2 as api
from orlop.network.plan import names_for

from .conftest import Client, Daemon, container_config, pod_config, wait_for
from .test_crash import nothing_left

pytestmark = [pytest.mark.root, pytest.mark.peers]

CLIENTS = 8
LISTINGS = 100
LONGEST = 0.010  # seconds of a list of 200
_TICKS = os.sysconf("SC_CLK_TCK")


def by_clients(daemon: Daemon, work: Callable[[Client, Any], Any], items: list[Any]) -> list[Any]:
    """What the work returns for each, in the order of the items; each of the clients has its share."""

    def share(number: int) -> list[Any]:
        client = Client(daemon.socket)
        try:
            return [work(client, item) for item in items[number::CLIENTS]]
        finally:
            client.channel.close()

    with ThreadPoolExecutor(CLIENTS) as pool:
        shares = list(pool.map(share, range(CLIENTS)))
    return [shares[index % CLIENTS][index // CLIENTS] for index in range(len(items))]


def used(pid: int) -> float:
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def descriptors(pid: int) -> list[str]:
    """The kind of each; those of the database are left out, each thread has its own."""
    found = [each.partition(" ")[2].partition("[")[0] for each in harness.descriptors(pid)]
    return [kind for kind in found if ".db" not in kind]


def held(daemon: Daemon) -> dict[str, Any]:
    """What the daemon itself keeps for pods, beyond what `nothing_left` looks at."""
    assert daemon.process is not None
    names = names_for(str(daemon.root / "networks"))
    rules = subprocess.run(["nft", "list", "table", "inet", names.table], capture_output=True, text=True, check=True)
    walks = [each for base in (daemon.root, daemon.state) for each in os.walk(base)]
    paths = [Path(place, name) for place, directories, files in walks for name in (*directories, *files)]
    return {
        "rules": rules.stdout.splitlines(),
        "files": [str(p) for p in paths if p.suffix not in (".db-wal", ".db-shm") and "fs" not in p.parts],
        "descriptors": descriptors(daemon.process.pid),
        "bridge's ports": os.listdir(f"/sys/class/net/{names.bridge}/brif"),
    }


@pytest.mark.parametrize("count", [24, pytest.param(200, marks=pytest.mark.long)])
@pytest.mark.timeout(600)
def test_many_pods_at_once(daemon: Daemon, client: Client, busybox: str, count: int) -> None:
    def make(client: Client, config: api.PodSandboxConfig) -> tuple[str, str]:
        pod = client.RunPodSandbox(config=config, within=120).pod_sandbox_id
        wanted = container_config(busybox, "sleep", "1000")
        fields = {"pod_sandbox_id": pod, "config": wanted, "sandbox_config": config}
        container = client.CreateContainer(**fields, within=120).container_id
        client.StartContainer(container_id=container, within=120)
        return pod, container

    def remove(client: Client, made: tuple[str, str]) -> None:
        client.StopPodSandbox(pod_sandbox_id=made[0], within=120)
        client.RemovePodSandbox(pod_sandbox_id=made[0], within=120)

    remove(client, make(client, pod_config()))  # the bridge is there from now on
    before = held(daemon)
    with nothing_left(daemon):
        began = time.monotonic()
        made = by_clients(daemon, make, [pod_config() for _ in range(count)])
        up = time.monotonic() - began
        pods = {item.id: item for item in client.ListPodSandbox().items}
        containers = {item.id: item for item in client.ListContainers().containers}
        assert set(pods) == {pod for pod, _ in made}
        assert all(pod.state == api.SANDBOX_READY for pod in pods.values())
        assert {identifier: item.pod_sandbox_id for identifier, item in containers.items()} == {c: p for p, c in made}
        assert all(item.state == api.CONTAINER_RUNNING for item in containers.values())
        addresses = by_clients(daemon, lambda c, one: c.PodSandboxStatus(pod_sandbox_id=one[0]).status.network.ip, made)
        assert len(set(addresses)) == count
        lists_are_quick(daemon, client)
        began = time.monotonic()
        by_clients(daemon, remove, made)
        print(f"{count} pods: up in {up:.1f} s, removed in {time.monotonic() - began:.1f} s")
        assert list(client.ListPodSandbox().items) == []
        assert list(client.ListContainers().containers) == []
    more: dict[str, Any] = {}

    def as_before() -> bool:
        # less is fine: before, a client that had gone may not have been noticed yet
        more.clear()
        more.update(harness.left_behind(before, held(daemon)))
        return not more

    with contextlib.suppress(AssertionError):
        wait_for(as_before, "what it held before")
    assert more == {}


def lists_are_quick(daemon: Daemon, client: Client) -> None:
    """By the processor's time that they take from the daemon: what else the machine does counts for nothing."""
    assert daemon.process is not None
    for call in (client.ListPodSandbox, client.ListContainers):
        times = []
        before = used(daemon.process.pid)
        for _ in range(LISTINGS):
            began = time.perf_counter()
            call()
            times.append((time.perf_counter() - began) * 1e3)
        taken = (used(daemon.process.pid) - before) / LISTINGS
        median, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        print(f"list: {taken * 1e3:.2f} ms of the processor, median {median:.2f} ms, p95 {p95:.2f} ms")
        assert taken < LONGEST
