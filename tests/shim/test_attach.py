"""Attaching: in a process of its own, whose terminal is a pseudo-terminal held by the test."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orlop.shim.state import read_state

if TYPE_CHECKING:
    from conftest import Lab

PROGRAM = """
import sys
from pathlib import Path
from orlop.shim.attach import attach_streams, parse_detach_keys
from orlop.shim.client import ShimClient
with ShimClient(Path(sys.argv[1])) as client:
    tty = "tty" in sys.argv
    client.attach(stdin=True)
    print("attached", file=sys.stderr, flush=True)
    ended = attach_streams(client, tty=tty, stdin="nostdin" not in sys.argv, detach_keys=parse_detach_keys(""))
    print(f"\\r\\n{ended}", flush=True)
    sys.exit(getattr(ended, "status", 200))
"""
OWN_SESSION = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
"""


class Terminal:
    """A user at a terminal."""

    def __init__(self, directory: Path) -> None:
        self.master, slave = os.openpty()
        termios.tcsetwinsize(self.master, (30, 100))
        self.slave = slave
        self.modes = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWN_SESSION, PROGRAM, str(directory), "tty"], stdin=slave, stdout=slave, stderr=slave
        )
        self.seen = b""
        self.expect(b"attached")
        deadline = time.monotonic() + 10
        while self.process.poll() is None and termios.tcgetattr(slave)[3] & termios.ICANON:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def expect(self, text: bytes, seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come, but {self.seen!r}"
            self.seen += os.read(self.master, 65536)
        self.seen = self.seen.partition(text)[2]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def shell(lab: Lab) -> Iterator[Terminal]:
    shim = lab.start("PS1='$ ' exec sh -i", tty=True, stdin=True)
    terminal = Terminal(shim.directory)
    yield terminal
    terminal.close()


def test_terminal_runs_a_shell_and_is_restored(lab: Lab, shell: Terminal) -> None:
    shell.type(b"echo $((6*7)); tty\r")
    shell.expect(b"42\r\n")
    shell.type(b"exit 5\r")
    assert shell.process.wait(10) == 5
    assert termios.tcgetattr(shell.slave) == shell.modes


def test_size_follows_the_users_terminal(lab: Lab, shell: Terminal) -> None:
    shell.type(b"stty size\r")
    shell.expect(b"30 100")
    termios.tcsetwinsize(shell.master, (40, 50))
    shell.type(b"until stty size | grep '40 50'; do sleep 0.01; done; echo size-$?\r")
    shell.expect(b"size-0")


def test_ctrl_c_interrupts_the_foreground_job_only(lab: Lab, shell: Terminal) -> None:
    shell.type(b"sleep 60; echo status $?\r")
    pid = read_state(lab.directory / "c").pid
    below = Path(f"/proc/{pid}/task/{pid}/children")

    def sleeps() -> bool:
        return any(Path(f"/proc/{one}/cmdline").read_bytes()[:6] == b"sleep\0" for one in below.read_text().split())

    lab.until(sleeps)
    shell.type(b"\x03")
    shell.type(b"echo again $?\r")
    shell.expect(b"again 130")


def test_detach_keys_leave_the_container_running(lab: Lab, shell: Terminal) -> None:
    shell.type(b"echo one\r")
    shell.expect(b"one\r\n")
    shell.type(b"\x10\x11")
    assert shell.process.wait(10) == 200
    assert termios.tcgetattr(shell.slave) == shell.modes
    assert read_state(lab.directory / "c").reality == "running"
    again = Terminal(lab.directory / "c")
    again.type(b"exit 3\r")
    assert again.process.wait(10) == 3
    again.close()


def test_killed_client_restores_its_terminal(lab: Lab, shell: Terminal) -> None:
    shell.type(b"echo ready\r")
    shell.expect(b"ready\r\n")
    shell.process.send_signal(signal.SIGTERM)
    assert shell.process.wait(10) == -signal.SIGTERM
    assert termios.tcgetattr(shell.slave) == shell.modes
    assert read_state(lab.directory / "c").reality == "running"


def test_vanished_terminal_leaves_the_container_running(lab: Lab) -> None:
    shim = lab.start("PS1='$ ' exec sh -i", tty=True, stdin=True)
    terminal = Terminal(shim.directory)
    terminal.process.kill()
    terminal.close()
    time.sleep(0.1)
    assert read_state(shim.directory).reality == "running"


def run(directory: Path, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(directory), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,  # type: ignore[call-overload]
    )
    assert process.stderr is not None
    assert process.stderr.readline() == b"attached\n"
    return process


def test_pipe_through_the_container_with_end_of_file(lab: Lab) -> None:
    shim = lab.start("wc -c; echo done >&2", stdin=True)
    process = run(shim.directory, stdin=subprocess.PIPE)
    out, err = process.communicate(b"x" * 3_000_000, timeout=20)
    assert out.startswith(b"3000000\n")
    assert err == b"done\n"
    assert process.returncode == 0


def test_echoing_megabytes_does_not_deadlock(lab: Lab) -> None:
    shim = lab.start("cat", stdin=True)
    process = run(shim.directory, stdin=subprocess.PIPE)
    data = os.urandom(1 << 20) * 8
    out, _ = process.communicate(data, timeout=40)
    assert out[: len(data)] == data


def test_signals_go_to_the_process(lab: Lab) -> None:
    shim = lab.start("trap 'echo got; exit 9' INT; read -r x; echo up; while :; do sleep 0.05; done", stdin=True)
    process = run(shim.directory, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=10)
    assert b"got\n" in out
    assert process.returncode == 9


def test_signal_passes_input_that_nobody_reads(lab: Lab) -> None:
    shim = lab.start("trap 'exit 8' TERM; read -r x; echo up; while :; do sleep 0.05; done", stdin=True)
    process = run(shim.directory, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"up\n"
    os.set_blocking(process.stdin.fileno(), False)
    for _ in range(40):
        try:
            os.write(process.stdin.fileno(), b"x" * 65536)
        except BlockingIOError:
            time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 8
    process.communicate()


def test_broken_output_ends_the_client_not_the_container(lab: Lab) -> None:
    shim = lab.start("read -r x; while :; do echo y; done", stdin=True)
    process = run(shim.directory, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.read(2) == b"y\n"
    process.stdout.close()
    process.wait(10)
    assert process.returncode == 1
    assert b"BrokenPipeError" in process.stderr.read()  # type: ignore[union-attr]
    process.stdin.close()
    assert read_state(shim.directory).reality == "running"


def test_shim_that_is_killed_is_reported(lab: Lab) -> None:
    shim = lab.start("exec sleep 60")
    process = run(shim.directory, "nostdin", stdin=subprocess.DEVNULL)
    os.kill(shim.pid, 9)
    _, err = process.communicate(timeout=10)
    assert b"Unavailable" in err
    lab.until(lambda: read_state(shim.directory).reality == "lost")
