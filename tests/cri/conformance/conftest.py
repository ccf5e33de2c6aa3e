"""One daemon for all of these tests, in a mount namespace of its own: what they mount there is seen nowhere else."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cri.conformance.pod import Pod
from tests.cri.conftest import Client, Daemon, loaded, served

from orlop._stubs.cri import api_pb2 as api

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.peers)


@pytest.fixture(scope="package")
def daemon() -> Iterator[Daemon]:
    with served("unshare", "--mount", "--propagation", "private") as found:
        yield found


@pytest.fixture(scope="package")
def client(daemon: Daemon) -> Client:
    return Client(daemon.socket)


@pytest.fixture(scope="package")
def busybox(
    client: Client, daemon: Daemon, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The ID of an image with a shell, and users root, app (1000, in staff as well) and nobody."""
    if "ORLOP_QEMU" in os.environ:
        return loaded(client, daemon, request.getfixturevalue("lab"), tmp_path_factory.mktemp("image"))
    registry: str = request.getfixturevalue("registry")
    reference: str = client.PullImage(image=api.ImageSpec(image=f"{registry}/lab/busybox:1")).image_ref
    return reference


@pytest.fixture(scope="module")
def pod(client: Client, busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """A plain one, which the tests of a module share."""
    found = Pod(client, busybox, tmp_path_factory.mktemp("logs"))
    yield found
    found.remove()


@pytest.fixture
def make_pod(client: Client, busybox: str, tmp_path: Path) -> Iterator[Callable[..., Pod]]:
    """Makes pods of a test's own."""
    made = []

    def make(**fields: Any) -> Pod:
        made.append(Pod(client, busybox, tmp_path, **fields))
        return made[-1]

    yield make
    for found in made:
        found.remove()


@pytest.fixture
def node_mount(daemon: Daemon, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Runs mount(8), or another program, where the daemon is."""

    def run(*words: str) -> None:
        assert daemon.process is not None
        command = ["nsenter", "-t", str(daemon.process.pid), "-m", "--", *words]
        subprocess.run(command, check=True, capture_output=True, timeout=20)

    yield run
    assert daemon.process is not None
    table = Path(f"/proc/{daemon.process.pid}/mounts").read_text().splitlines()
    for line in reversed(table):
        if (place := line.split()[1]).startswith(str(tmp_path)):
            run("umount", "-l", place)


@pytest.fixture
def unique() -> str:
    return uuid.uuid4().hex[:8]
