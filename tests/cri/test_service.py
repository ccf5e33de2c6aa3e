"""What a service manager sees of the daemon: its words (sd_notify(3)), its ends, its log, sockets that it was given."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from tests.harness import SLOWER

from orlop._stubs.cri import api_pb2 as api
from orlop.daemon import notify

from .conftest import Client, Daemon, container_config, pod_config, serving, wait_for

pytestmark = pytest.mark.root
FRONT = Path(notify.__file__).parents[1] / "_native/orlop-front"


class Manager:
    """Where a service manager listens."""

    def __init__(self, path: str) -> None:
        self.address = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path.replace("@", "\0"))

    def next(self, seconds: float = 20.0) -> str:
        self.socket.settimeout(seconds * SLOWER)
        return self.socket.recv(4096).decode()

    def says(self, seconds: float) -> bool:
        """Whether anything comes in time."""
        self.socket.settimeout(seconds)
        try:
            return bool(self.socket.recv(4096))
        except TimeoutError:
            return False

    def after(self, word: str) -> str:
        """What is said after `word` came."""
        while self.next() != word:
            pass
        return self.next()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    found = Manager(str(tmp_path / "notify"))
    with found.socket:
        yield found


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """One that the test starts anew at will."""
    with serving() as found:
        found.end()
        yield found


def test_ready_reloading_and_stopping_are_told(daemon: Daemon, manager: Manager) -> None:
    client = daemon.start(NOTIFY_SOCKET=manager.address)
    assert manager.next() == "READY=1"
    assert client.Version().runtime_name == "orlop"
    assert daemon.process is not None
    before = time.monotonic_ns() // 1000
    daemon.process.send_signal(signal.SIGHUP)
    word, moment = manager.next().split("\n")
    assert word == "RELOADING=1"
    assert before <= int(moment.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    assert manager.next() == "READY=1"
    daemon.configure("[nonsense]")  # a reload that fails has ended as well
    daemon.process.send_signal(signal.SIGHUP)
    assert manager.next().startswith("RELOADING=1\n")
    assert manager.next() == "READY=1"
    daemon.process.send_signal(signal.SIGTERM)
    assert manager.next() == "STOPPING=1"
    assert daemon.process.wait(20 * SLOWER) == 0


def test_in_the_abstract_namespace(daemon: Daemon) -> None:
    manager = Manager(f"@orlop-test-{os.getpid()}")
    with manager.socket:
        daemon.start(NOTIFY_SOCKET=manager.address)
        assert manager.next() == "READY=1"


def test_the_watchdog_hears_of_life_until_the_end(daemon: Daemon, manager: Manager) -> None:
    daemon.start(NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="400000")
    assert manager.after("READY=1") == "WATCHDOG=1"
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)  # one that hangs says nothing, once what it has said is heard
    while manager.says(0.5):
        pass
    daemon.process.send_signal(signal.SIGCONT)

    def in_time() -> bool:
        began = time.monotonic()
        for _ in range(6):
            assert manager.next() == "WATCHDOG=1"
        return 5 * 0.15 < time.monotonic() - began < 5 * 0.4 * SLOWER

    assert in_time() or in_time() or in_time()  # the machine, too, may have hung for a moment


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0),  # it is another's
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({"WATCHDOG_USEC": "0"}, 0),
        ({}, 0),
    ],
)
def test_when_a_watchdog_waits(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], seconds: float) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert notify.watchdog() == seconds
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert notify.watchdog() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(
    daemon: Daemon, registry: str, manager: Manager, number: signal.Signals
) -> None:
    """While a call is under way that will take long."""
    daemon.configure("[daemon]\nshutdown_timeout = 1000.0")
    client = daemon.start(NOTIFY_SOCKET=manager.address)
    image = client.PullImage(image=api.ImageSpec(image=f"{registry}/lab/busybox:1")).image_ref
    pod = client.RunPodSandbox(config=pod_config()).pod_sandbox_id
    asked = container_config(image, "sleep", "1000")
    made = client.CreateContainer(pod_sandbox_id=pod, config=asked).container_id
    client.StartContainer(container_id=made)
    assert daemon.process is not None
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.ExecSync, within=1000, container_id=made, cmd=["sleep", "4711"])
        wait_for(lambda: b"sleep 4711" in client.ExecSync(container_id=made, cmd=["ps"]).stdout, "the call")
        daemon.process.send_signal(signal.SIGTERM)
        assert manager.after("READY=1") == "STOPPING=1"
        assert daemon.process.poll() is None
        daemon.process.send_signal(number)
        assert daemon.process.wait(20 * SLOWER) == 128 + number  # of a thousand seconds
        with pytest.raises(grpc.RpcError):
            call.result(30)
    assert f"{number.name} again: ending at once" in daemon.log.read_text()
    daemon.configure("")
    again = daemon.start()
    assert again.ContainerStatus(container_id=made).status.state == api.CONTAINER_RUNNING
    again.RemovePodSandbox(pod_sandbox_id=pod)


def test_who_only_listens_does_not_keep_it(daemon: Daemon, manager: Manager) -> None:
    """A kubelet hears events for as long as there are any."""
    client = daemon.start(NOTIFY_SOCKET=manager.address)
    events = client.GetContainerEvents(within=1000)
    pod = client.RunPodSandbox(config=pod_config()).pod_sandbox_id
    assert next(iter(events)).container_id == pod
    client.RemovePodSandbox(pod_sandbox_id=pod)
    began = time.monotonic()
    daemon.end()
    assert time.monotonic() - began < 9 * SLOWER  # of the ten that calls are given


def test_every_line_of_the_log_is_an_object(daemon: Daemon) -> None:
    daemon.log.unlink()
    daemon.configure("[daemon]\nlog_format = 'json'\nlog_level = 'debug'")
    client = daemon.start()
    pod = client.RunPodSandbox(config=pod_config()).pod_sandbox_id
    client.RemovePodSandbox(pod_sandbox_id=pod)
    for wrong in (pod_config(name="../x"), pod_config(name="line\nbreak"), api.PodSandboxConfig()):
        with pytest.raises(grpc.RpcError):
            client.RunPodSandbox(config=wrong)
    daemon.configure("[nonsense]")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "was not read again" in daemon.log.read_text(), "the complaint")
    daemon.end()
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert {line["level"] for line in lines} <= {"debug", "info", "warning", "error"}
    assert all(line["time"].endswith("Z") and line["time"][10] == "T" for line in lines)
    said = {line["message"].partition(":")[0] for line in lines}
    assert {"stopping", "the configuration was not read again"} <= said
    refused = [line for line in lines if line.get("method") == "RunPodSandbox" and line["code"] != "OK"]
    assert [line["code"] for line in refused] == ["INVALID_ARGUMENT"] * 3
    assert all(line["level"] == "debug" and line["seconds"] >= 0 for line in refused)


def test_the_runtime_s_socket_may_be_the_service_manager_s(daemon: Daemon, tmp_path: Path) -> None:
    front, cold = tmp_path / "orlop-runtime", tmp_path / "orlop-runtime-cold"
    shutil.copy(FRONT, front)
    cold.write_text("#!/bin/sh\necho cold\n")
    cold.chmod(0o755)
    environment = os.environ | {"ORLOP_RUNTIME_SOCKET": str(tmp_path / "runtime.sock")}

    def run() -> str:
        done = subprocess.run([front, "--version"], env=environment, capture_output=True, text=True, timeout=60)
        return done.stdout

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as runtime, socket.socket(socket.AF_UNIX) as cri:
        runtime.bind(environment["ORLOP_RUNTIME_SOCKET"])
        runtime.listen()
        cri.bind(str(daemon.socket))
        cri.listen()
        for _ in range(2):
            served_on(daemon, cri.fileno(), runtime.fileno(), tmp_path)
            assert Client(daemon.socket).Version().runtime_name == "orlop"
            wait_for(lambda: "orlop" in run(), "the warm runtime")
            daemon.end()
            assert (tmp_path / "runtime.sock").exists()
    daemon.socket.unlink()


def served_on(daemon: Daemon, cri: int, runtime: int, directory: Path) -> None:
    """Start the daemon as a service manager does, with both sockets from descriptor 3 on."""
    words = [sys.executable, "-m", "orlop", "--root", daemon.root, "--state", daemon.state, "serve"]
    words += ["--config", daemon.config, "--cri-socket", daemon.socket, "--socket", directory / "runtime.sock"]
    script = f'exec 3<&{cri} 4<&{runtime}; export LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=a:b; exec "$@"'
    # far from 3 and 4, which the shell gives them
    with daemon.log.open("ab") as log:
        daemon.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *map(str, words)], pass_fds=[cri, runtime], stderr=log
        )
