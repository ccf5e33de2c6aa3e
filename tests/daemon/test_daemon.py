"""What the daemon and its front ends do when one of them is killed, refuses, or is talked to by a stranger."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.daemon.conftest import COLD_STATUS, Daemon
from tests.harness import SLOWER, descriptors
from tests.runtime.test_runtime_cli import Lab, groups_of

pytestmark = pytest.mark.root
# commands; who finds the daemon too busy for three seconds helps itself
AT_ONCE = 8 if SLOWER == 1 else 2


class Warm:
    """Front ends of one daemon, on a bundle."""

    def __init__(self, daemon: Daemon, lab: Lab) -> None:
        self.daemon, self.lab = daemon, lab

    def words(self, *words: str) -> list[str]:
        return [str(self.daemon.front), "--root", str(self.lab.root), *words]

    def begin(self, *words: str, **more: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words(*words),
            env=self.daemon.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,  # type: ignore[call-overload]
        )


@pytest.fixture
def warm(mine: Daemon, tmp_path: Path) -> Iterator[Warm]:
    lab = Lab(tmp_path)
    yield Warm(mine, lab)
    for identifier in lab("list", "-q").stdout.split():
        lab("delete", "--force", identifier)
    assert not groups_of(lab.prefix)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds * SLOWER
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def up(warm: Warm, name: str = "c") -> subprocess.Popen[str]:
    """A container in the foreground that has said `up`."""
    warm.lab.configure("sh", "-c", "echo up; exec sleep 1000")
    process = warm.begin("run", "-b", str(warm.lab.bundle), warm.lab.id(name))
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def test_a_container_is_its_callers_child(warm: Warm) -> None:
    with up(warm) as process:
        parent = Path(f"/proc/{warm.lab.state()['pid']}/status").read_text()
        assert f"PPid:\t{process.pid}\n" in parent
        warm.lab("kill", warm.lab.id(), "KILL")
        assert process.wait(10 * SLOWER) == 137


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGRTMIN], ids=["TERM", "RTMIN"])
def test_signals_pass_through_the_front_end_also_those_a_c_library_keeps(warm: Warm, number: signal.Signals) -> None:
    warm.lab.configure("sh", "-c", f"trap 'exit 7' {number.value}; echo up; while :; do sleep 0.05; done")
    with warm.begin("run", "-b", str(warm.lab.bundle), warm.lab.id()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.wait(10 * SLOWER) == 7


def test_a_daemon_killed_in_the_middle_leaves_a_container_that_can_be_deleted(warm: Warm) -> None:
    with up(warm) as process:
        warm.daemon.process.kill()
        assert process.wait(10 * SLOWER) == 1
        assert process.stderr is not None
        assert process.stderr.readline() == "orlop-runtime: the daemon ended in the middle of the command\n"
    warm.lab("delete", "--force", warm.lab.id())
    assert warm.daemon("state", "x", ok=None).returncode == COLD_STATUS  # what is left of the socket refuses
    warm.daemon.process = warm.daemon.start()
    assert warm.daemon("--version").returncode == 0


def test_a_client_that_is_killed_ends_its_worker(warm: Warm) -> None:
    with up(warm) as process:
        before = warm.daemon.workers()
        process.kill()
        process.wait()
        wait_for(lambda: len(before - warm.daemon.workers()) == 1)
    warm.lab("delete", "--force", warm.lab.id())
    assert warm.daemon("--version").returncode == 0


def test_a_worker_that_is_killed_is_an_error(warm: Warm) -> None:
    with up(warm) as process:
        for worker in warm.daemon.workers():
            with contextlib.suppress(ProcessLookupError):  # a spare that has ended meanwhile
                os.kill(worker, signal.SIGKILL)
        assert process.wait(10 * SLOWER) == 1
    warm.lab("delete", "--force", warm.lab.id())
    assert warm.daemon("--version").returncode == 0


def test_several_at_once(warm: Warm) -> None:
    warm.lab.configure("sh", "-c", "exit 7")
    processes = [warm.begin("run", "-b", str(warm.lab.bundle), warm.lab.id(f"c{n}")) for n in range(AT_ONCE)]
    for process in processes:
        with process:
            assert process.wait(30 * SLOWER) == 7, process.stderr.read() if process.stderr else ""


def status_of(worker: int) -> dict[str, str]:
    """What a command could leave behind in the process that has run it."""
    process = Path(f"/proc/{worker}")
    lines = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    kept = ("Umask", "SigIgn", "SigCgt", "SigBlk", "SigPnd", "ShdPnd", "Groups", "CapEff", "NoNewPrivs", "Seccomp")
    return {name: lines[name] for name in kept} | {
        "cwd": os.readlink(process / "cwd"),
        **{name: os.readlink(process / "ns" / name) for name in os.listdir(process / "ns")},
        "limits": (process / "limits").read_text(),
        "stat": " ".join((process / "stat").read_text().rpartition(") ")[2].split()[1:6]),
    }


def test_a_worker_serves_again_and_keeps_nothing(warm: Warm) -> None:
    warm.lab.configure("sh", "-c", "test $(umask) = 0022")
    words = ("run", "-b", str(warm.lab.bundle))
    workers = warm.daemon.workers()
    for turn in range(3):  # all at once, so that each has something to do, and has open what it keeps from then on
        begun = [warm.begin(*words, warm.lab.id(f"w{turn}{number}")) for number in range(len(workers))]
        assert [each.wait(10 * SLOWER) for each in begun] == [0] * len(workers)
    before = {worker: status_of(worker) for worker in workers}
    is_open = {worker: descriptors(worker) for worker in workers}  # that of a front end that has just gone among them
    reader, writer = os.pipe()

    def odd() -> None:
        os.umask(0)
        os.chdir("/tmp")
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGPIPE, signal.SIGRTMIN + 2):
            signal.signal(number, signal.SIG_IGN)
        os.dup2(reader, 3)
        os.dup2(reader, 4)

    for number in range(6):
        command = warm.words("run", "--preserve-fds", "1", *words[1:3], warm.lab.id(f"n{number}"))
        environment = {**warm.daemon.environment, "ODD": "1"}
        done = subprocess.run(command, env=environment, preexec_fn=odd, pass_fds=(3, 4), timeout=20 * SLOWER)
        assert done.returncode == 0
    os.close(writer)
    os.close(reader)
    assert warm.daemon.workers() == workers
    wait_for(lambda: {worker: status_of(worker) for worker in workers} == before, 3)
    wait_for(lambda: all(descriptors(worker) <= is_open[worker] for worker in workers), 3)


def test_what_a_command_prints_ends_with_it(mine: Daemon) -> None:
    reader, writer = os.pipe()
    front = subprocess.Popen([str(mine.front), "--version"], env=mine.environment, stdout=writer)
    os.close(writer)
    assert front.wait(10 * SLOWER) == 0
    os.set_blocking(reader, False)
    assert os.read(reader, 4096).startswith(b"orlop-runtime")
    assert os.read(reader, 4096) == b""  # else: BlockingIOError
    os.close(reader)


def test_workers_are_scheduled_as_the_daemon_was_started(mine: Daemon) -> None:
    before, daemon = mine.workers(), mine.process.pid
    nice = os.getpriority(os.PRIO_PROCESS, daemon) - 1  # the kernel's own way to reset a policy takes a negative one
    os.setpriority(os.PRIO_PROCESS, daemon, nice)
    assert mine("state", "nosuch", ok=False).stderr.startswith("orlop-runtime: ")  # its worker leaves for another
    wait_for(lambda: len(mine.workers()) == 2 and bool(mine.workers() - before))
    (new,) = mine.workers() - before
    wait_for(lambda: os.sched_getscheduler(new) == os.SCHED_OTHER)
    assert os.getpriority(os.PRIO_PROCESS, new) == nice
    assert os.sched_getscheduler(daemon) == os.SCHED_BATCH


def test_a_command_that_fails_takes_its_worker_along(mine: Daemon) -> None:
    before = mine.workers()
    assert mine("state", "nosuch", ok=False).stderr.startswith("orlop-runtime: ")
    wait_for(lambda: len(mine.workers()) == 2 and len(mine.workers() & before) == 1)


def test_workers_that_are_too_many_leave(warm: Warm) -> None:
    running = [up(warm, f"c{number}") for number in range(4)]
    wait_for(lambda: len(warm.daemon.workers()) > 4)
    for number in range(4):
        warm.lab("kill", warm.lab.id(f"c{number}"), "TERM")
        warm.lab("kill", warm.lab.id(f"c{number}"), "KILL")
    for process in running:
        with process:
            assert process.wait(10 * SLOWER) == 137
    wait_for(lambda: len(warm.daemon.workers()) <= 3)
    assert warm.daemon("--version").returncode == 0


def test_of_hundreds_at_once_none_is_lost(mine: Daemon) -> None:
    """Connections come and go faster than the daemon hears of them, and their numbers are used again."""
    script = f"seq 400 | xargs -P {AT_ONCE} -I{{}} {mine.front} --version"
    done = subprocess.run(
        ["sh", "-c", script], env=mine.environment, capture_output=True, text=True, timeout=60 * SLOWER
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("orlop-runtime version") == 400


def test_sigterm_lets_commands_end(warm: Warm) -> None:
    with up(warm) as process:
        warm.daemon.process.terminate()
        wait_for(lambda: len(warm.daemon.workers()) == 1)
        assert warm.daemon("--version", ok=None).returncode == COLD_STATUS
        warm.lab("kill", warm.lab.id(), "KILL")
        assert process.wait(10 * SLOWER) == 137
    assert warm.daemon.process.wait(10 * SLOWER) == 0
    assert not warm.daemon.socket.exists()


def test_a_second_daemon_refuses(mine: Daemon) -> None:
    second = subprocess.run(mine.command(), env=mine.environment, capture_output=True, text=True, timeout=20 * SLOWER)
    assert second.returncode == 1
    assert "a daemon is listening" in second.stderr
    assert mine("--version").returncode == 0


def test_another_mount_namespace_goes_cold(mine: Daemon) -> None:
    words = ["unshare", "--mount", str(mine.front), "--version"]
    done = subprocess.run(words, env=mine.environment, capture_output=True, text=True, timeout=20 * SLOWER)
    assert (done.returncode, done.stderr) == (COLD_STATUS, "cold: --version\n")


def test_fewer_capabilities_go_cold(mine: Daemon) -> None:
    words = ["setpriv", "--bounding-set", "-net_admin", str(mine.front), "--version"]
    done = subprocess.run(words, env=mine.environment, capture_output=True, text=True, timeout=20 * SLOWER)
    assert done.returncode == COLD_STATUS


def test_a_daemon_that_does_not_answer_is_not_waited_for_long(mine: Daemon) -> None:
    os.kill(mine.process.pid, signal.SIGSTOP)
    wait_for(lambda: Path(f"/proc/{mine.process.pid}/stat").read_text().rpartition(") ")[2].startswith("T"))
    workers = mine.workers()  # who ends from now on is not reaped: no number is free before all are let go again
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert mine("--version", ok=None).returncode == COLD_STATUS
    finally:
        for pid in (mine.process.pid, *workers):
            os.kill(pid, signal.SIGCONT)
    assert mine("--version").returncode == 0


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"1LRO", b"1LRO" + b"\xff" * 20, b"\xff" * 100_000, b"1LRO" + b"\0" * 20 + b"a\0b\0"]
)
@pytest.mark.parametrize("fds", [0, 4, 100])
def test_hostile_bytes(daemon: Daemon, data: bytes, fds: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(10)
        client.connect(str(daemon.socket))
        assert client.recv(64).startswith(b"\1\0\0\0")
        socket.send_fds(client, [data], [0] * fds)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(64) in (b"", b"\2\0\0\0")
    assert daemon("--version").returncode == 0
