"""A daemon whose code changes on disk, and one whose socket a service manager made."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.daemon.conftest import COLD_STATUS, SOURCE, Daemon
from tests.daemon.test_daemon import Warm, up, wait_for
from tests.harness import SLOWER
from tests.runtime.test_runtime_cli import Lab

pytestmark = pytest.mark.root


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[Warm]:
    """A daemon that runs from a copy of the code."""
    copy = tmp_path / "src"
    shutil.copytree(SOURCE / "orlop", copy / "orlop")
    daemon, lab = Daemon(tmp_path / "d", copy), Lab(tmp_path)
    yield Warm(daemon, lab)
    for identifier in lab("list", "-q").stdout.split():
        lab("delete", "--force", identifier)
    daemon.stop()
    assert not daemon.socket.exists()
    assert daemon.log.read_text() == ""


def change(daemon: Daemon) -> None:
    """The program calls itself by another name."""
    path = daemon.source / "orlop/cli/runtime.py"
    path.write_text(path.read_text().replace('PROGRAM = "orlop-runtime"', 'PROGRAM = "changed"'))


def says(daemon: Daemon, start: str) -> bool:
    return daemon("--version", ok=None).stdout.startswith(start)


def test_code_that_changes_is_not_served_from_memory(warm: Warm) -> None:
    daemon = warm.daemon
    assert says(daemon, "orlop-runtime version")
    change(daemon)
    wait_for(lambda: not says(daemon, "orlop-runtime version"), 3)  # cold for a second, and then anew
    while not says(daemon, "changed version"):
        assert daemon("--version", ok=None).returncode in (COLD_STATUS, 0)
        assert not says(daemon, "orlop-runtime version")
    assert daemon.process.poll() is None


def test_commands_go_on_while_the_daemon_begins_anew(warm: Warm) -> None:
    with up(warm, "one") as one, up(warm, "two") as two:
        old = warm.daemon.workers()
        change(warm.daemon)
        wait_for(lambda: says(warm.daemon, "changed version"))
        assert len(old & warm.daemon.workers()) == 2
        warm.lab("kill", warm.lab.id("one"), "KILL")
        assert one.wait(10 * SLOWER) == 137
        wait_for(lambda: len(old & warm.daemon.workers()) == 1)
        two.kill()  # the daemon still knows which worker that is
        wait_for(lambda: not old & warm.daemon.workers())
    warm.lab("delete", "--force", warm.lab.id("two"))


def test_a_second_change_and_the_end_find_the_same_socket(warm: Warm) -> None:
    inode = warm.daemon.socket.stat().st_ino
    for _ in range(2):
        old = warm.daemon.workers()
        change(warm.daemon)
        wait_for(lambda old=old: not old & warm.daemon.workers())
        wait_for(lambda: says(warm.daemon, "changed version"))
    assert warm.daemon.socket.stat().st_ino == inode


# --- socket activation


class Activated:
    """A socket as a service manager keeps it, and daemons that get it."""

    def __init__(self, directory: Path, kind: socket.SocketKind = socket.SOCK_SEQPACKET) -> None:
        self.path = directory / "activated.sock"
        self.socket = socket.socket(socket.AF_UNIX, kind)
        self.socket.bind(str(self.path))
        self.socket.listen(8)
        self.front = directory / "orlop-runtime"
        shutil.copy(SOURCE / "orlop/_native/orlop-front", self.front)
        cold = directory / "orlop-runtime-cold"
        cold.write_text(f"#!/bin/sh\nexit {COLD_STATUS}\n")
        cold.chmod(0o755)

    def start(self) -> subprocess.Popen[str]:
        script = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        daemon = [sys.executable, "-m", "orlop", "serve", "--no-cri", "--socket", "/nonexistent/never.sock"]
        fd = self.socket.fileno()
        return subprocess.Popen(
            ["sh", "-c", script, "sh", *daemon],
            preexec_fn=lambda: os.dup2(fd, 3),
            pass_fds=(3,),
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def version(self) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "ORLOP_RUNTIME_SOCKET": str(self.path)}
        words = [str(self.front), "--version"]
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=20 * SLOWER)


def test_a_socket_of_the_service_manager_outlives_daemons(tmp_path: Path) -> None:
    manager = Activated(tmp_path)
    for _ in range(2):
        with manager.start() as daemon:
            try:
                # a front end that comes before the daemon waits for it in the queue, and goes cold after three seconds
                wait_for(lambda: manager.version().stdout.startswith("orlop-runtime version"), 20)
            finally:
                daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(10 * SLOWER) == 0
            assert daemon.stdout is not None
            assert daemon.stdout.read() == ""
        assert manager.path.exists()
    manager.socket.close()
    assert manager.version().returncode == COLD_STATUS


def test_a_socket_of_another_kind_is_refused(tmp_path: Path) -> None:
    with Activated(tmp_path, socket.SOCK_STREAM).start() as daemon:
        assert daemon.wait(10 * SLOWER) == 1
        assert daemon.stdout is not None
        assert daemon.stdout.read() == (
            "orlop: LISTEN_FDS: the socket must be of the kind SOCK_SEQPACKET (ListenSequentialPacket=)\n"
        )
