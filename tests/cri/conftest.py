"""The daemon as a process with a store of its own, and a client that speaks gRPC to it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.harness import SLOWER, archive_image, wait_for

from orlop._stubs.cri import api_pb2 as api
from orlop.cri.methods import stub
from orlop.engine.engine import Engine


class Client:
    """Calls by name: `client.Version()`, `client.RunPodSandbox(config=...)`; see api.proto."""

    def __init__(self, socket: Path) -> None:
        # a daemon that takes its time is tried again each second
        self.channel = grpc.insecure_channel(f"unix:{socket}", [("grpc.max_reconnect_backoff_ms", 1000)])
        self._calls = stub(self.channel, "RuntimeService") | stub(self.channel, "ImageService")

    def __getattr__(self, name: str) -> Any:
        request = getattr(api, "GetEventsRequest" if name == "GetContainerEvents" else f"{name}Request")

        def call(within: float = 30.0, **fields: Any) -> Any:
            patience = within * SLOWER if within >= 20 else within  # shorter ones are meant to pass
            return self._calls[name](request(**fields), timeout=patience)

        return call


class Daemon:
    """`orlop serve` with its own directories under `base`. `under` are words that start another program, as unshare."""

    def __init__(self, base: Path, under: Sequence[str] = ()) -> None:
        self.base = base
        self.under = under
        self.socket = base / "cri.sock"
        self.root, self.state = base / "root", base / "state"
        self.config = base / "config.toml"
        self.cni = base / "net.d"  # its own, so that the pods have the built-in bridge whatever the machine has
        self.cni.mkdir(exist_ok=True)
        self.configure("")
        self.log = base / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, text: str, cri: str = "") -> None:
        """The configuration file: tables, and further lines of `cri`'s."""
        self.config.write_text(f"[cri]\ncni_config = '{self.cni}'\n{cri}\n{text}")

    def start(self, **environment: str) -> Client:
        words = ["--root", str(self.root), "--state", str(self.state), "serve", "--config", str(self.config)]
        words += ["--cri-socket", str(self.socket), "--socket", str(self.base / "runtime.sock")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.under, sys.executable, "-m", "orlop", *words],
                stderr=log,
                env=os.environ | {"PYTHONFAULTHANDLER": "1"} | environment,
            )
        client = Client(self.socket)
        try:
            grpc.channel_ready_future(client.channel).result(30 * SLOWER)
        except grpc.FutureTimeoutError:
            said = self.log.read_text()[-4000:]
            raise AssertionError(f"a daemon (exit status {self.process.poll()}) that is not ready:\n{said}") from None
        return client

    def end(self, number: int = signal.SIGTERM) -> None:
        """Stop the daemon, or kill it."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(30)
        self.process = None

    def engine(self) -> Engine:
        """The same store from within the test."""
        return Engine(str(self.root), str(self.state), "k8s.io")


def pod_config(name: str = "", **fields: Any) -> api.PodSandboxConfig:
    metadata = api.PodSandboxMetadata(name=name or f"pod-{uuid.uuid4().hex[:8]}", namespace="default", uid="uid")
    return api.PodSandboxConfig(metadata=metadata, linux=api.LinuxPodSandboxConfig(), **fields)


def container_config(image: str, *command: str, name: str = "main", **fields: Any) -> api.ContainerConfig:
    return api.ContainerConfig(
        metadata=api.ContainerMetadata(name=name),
        image=api.ImageSpec(image=image),
        command=command,
        linux=fields.pop("linux", api.LinuxContainerConfig()),
        **fields,
    )


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with served() as found:
        yield found


@contextmanager
def served(*under: str) -> Iterator[Daemon]:
    """A daemon with a store on a tmpfs. No container may be left when its tests are through."""
    with serving(*under) as found:
        yield found


def _still_at_it(base: Path) -> bool:
    """Whether what a shim starts at the end of its container, and nobody waits for, is still looking into the store."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"on-exit\0" + os.fsencode(base) in path.read_bytes():
                return True
        except OSError:  # it has ended meanwhile
            pass
    return False


def take_away(base: Path) -> None:
    """Remove a store, whose database files go by themselves where a test's last connection ends only now."""

    def gone_already(_function: object, _path: str, error: Any) -> None:
        if not isinstance(error[1], FileNotFoundError):
            raise error[1]

    shutil.rmtree(base, onerror=gone_already)


@contextmanager
def serving(*prefix: str, config: str = "", cri: str = "") -> Iterator[Daemon]:
    """A daemon with a store on a tmpfs, started with `prefix` before its command. No container may be left."""
    base = Path("/dev/shm") / f"orlop-cri-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    base.mkdir()
    found = Daemon(base, prefix)
    found.configure(config, cri)
    found.start()
    engine = found.engine()
    try:
        yield found
        left = [container.name for container in engine.containers.list(all=True)]
    finally:
        fallen = None if found.process is None else found.process.poll()
        if found.process is not None:
            found.end()
        for sandbox in engine.pods.list():
            engine.pods.remove(sandbox)
        engine.close()
        wait_for(lambda: not _still_at_it(base), "those who look into the store")
        said = found.log.read_text()
        take_away(base)
        assert not fallen, f"the daemon had ended with {fallen}: {said}"  # 0: the test has asked it to
    assert left == []
    assert "Traceback" not in said, said


@pytest.fixture
def client(daemon: Daemon) -> Client:
    return Client(daemon.socket)


@pytest.fixture
def busybox(client: Client, daemon: Daemon, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The ID of an image with a shell; the machine of scripts/qemu has no registry, and loads it."""
    if "ORLOP_QEMU" in os.environ:
        return loaded(client, daemon, request.getfixturevalue("lab"), tmp_path)
    registry: str = request.getfixturevalue("registry")
    reference: str = client.PullImage(image=api.ImageSpec(image=f"{registry}/lab/busybox:1")).image_ref
    return reference


def loaded(client: Client, daemon: Daemon, lab: Path, directory: Path) -> str:
    """The lab's busybox, put into the daemon's store as an archive unless it is there; its ID."""
    image = api.ImageSpec(image="busybox")
    if not client.ImageStatus(image=image).image.id:
        archive = directory / "busybox.tar"
        archive_image(lab, "busybox", archive)
        words = ["--root", str(daemon.root), "--state", str(daemon.state), "-n", "k8s.io", "load", "-q", "-i", archive]
        subprocess.run([sys.executable, "-m", "orlop", *map(str, words)], check=True, timeout=600)
    return str(client.ImageStatus(image=image).image.id)


__all__ = ["Client", "Daemon", "container_config", "loaded", "pod_config", "serving", "wait_for"]
