"""What the daemon keeps of memory that large requests took."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from orlop._stubs.cri import api_pb2 as api
from orlop.daemon.trimmer import DELAY

from .conftest import Client, Daemon, container_config, pod_config, serving, wait_for
from .test_life import refused

pytestmark = [pytest.mark.root, pytest.mark.peers]

LARGE = 10 << 20  # bytes of a request, of which gRPC takes 16 MiB
VARIABLES = 100_000
NEAR = 40 << 10  # KiB; the interpreter's own arenas, in which something small has come to live, are the most of it


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """One that has not answered others: what it has had once, it can use again."""
    with serving() as found:
        yield found


def resident(daemon: Daemon) -> int:
    """KiB that belong to the daemon alone."""
    assert daemon.process is not None
    text = Path(f"/proc/{daemon.process.pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Anonymous:"))


def test_large_requests_leave_little(daemon: Daemon, client: Client, busybox: str) -> None:
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    small = client.CreateContainer(
        pod_sandbox_id=pod, config=container_config(busybox, "true", name="small"), sandbox_config=config
    )
    client.StartContainer(container_id=small.container_id)
    before = resident(daemon)
    for _ in range(8):
        refused(lambda: client.ContainerStatus(container_id="x" * LARGE), grpc.StatusCode.INVALID_ARGUMENT)
        refused(lambda: client.ExecSync(container_id=pod, cmd=["x" * LARGE]), grpc.StatusCode.NOT_FOUND)
    after_refusals = resident(daemon)
    assert after_refusals - before < 3 * NEAR, "requests that were refused are still there"
    variables = [api.KeyValue(key=b"K%d" % number, value=b"v" * 20) for number in range(VARIABLES)]
    for name in ("one", "two"):
        wanted = container_config(busybox, "true", name=name, envs=variables)
        client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config)
        client.ListContainers()
    client.StopPodSandbox(pod_sandbox_id=pod)
    client.RemovePodSandbox(pod_sandbox_id=pod)
    client.ListContainers()
    wait_for(lambda: resident(daemon) - before < NEAR, "the memory to be given back", seconds=4 * DELAY)
