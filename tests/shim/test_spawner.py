"""Shims that a spawner forks are as those that are started one by one."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.shim.conftest import Lab

from orlop.shim import spawn
from orlop.shim.client import ShimClient
from orlop.shim.spawn import LogFile
from orlop.shim.spawner import Spawner
from orlop.spec.errors import FailedPrecondition, InvalidArgument
from orlop.sys.procfs import start_time

pytestmark = pytest.mark.root


@pytest.fixture
def spawner(lab: Lab) -> Iterator[Spawner]:
    found = Spawner()
    yield found
    found.close()


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def descriptors(pid: int) -> set[str]:
    return {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}


def test_shim_of_a_spawner_supervises_and_logs(lab: Lab, spawner: Spawner) -> None:
    shim = lab.start("echo hello; exit 7", spawner=spawner)
    assert lab.exit().status == 7
    assert '"hello\\n"' in lab.log.read_text()
    lab.until(lambda: lab.gone(shim))


def test_client_that_is_connected_from_the_start_owns_the_end(lab: Lab, spawner: Spawner, tmp_path: Path) -> None:
    script = f"while ! test -e {tmp_path}/go; do sleep 0.01; done; echo hello; exit 3"
    shim = lab.start(script, spawner=spawner, connect=True)
    assert shim.client is not None
    with shim.client as client:
        client.attach()
        (tmp_path / "go").touch()
        assert lab.read_all(client)[0] == b"hello\n"
        client.done()
    lab.until(lambda: lab.gone(shim))


def test_shim_shows_what_it_is_for_and_holds_nothing_else(lab: Lab, spawner: Spawner) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    one, two = (lab.start("sleep 100", name=name, spawner=spawner) for name in ("one", "two"))
    os.close(write)
    assert os.read(read, 1) == b""  # nobody has kept the other end
    os.close(read)
    for shim, name in ((one, b"one"), (two, b"two")):
        assert command_line(shim.pid).startswith(b"orlop-shim --id " + name + b" --state ")
        assert parent(shim.pid) == spawner.pid
        assert os.getsid(shim.pid) == shim.pid
        with lab.client(name.decode()) as client:
            client.signal(signal.SIGKILL)
    assert command_line(spawner.pid) == b"orlop-shim --spawner"
    assert {path.partition(":")[0] for path in descriptors(spawner.pid)} == {"/dev/null", "socket"}
    lab.until(lambda: lab.gone(one) and lab.gone(two))  # reaped, too
    assert Path(f"/proc/{spawner.pid}/task/{spawner.pid}/children").read_text() == ""


def test_what_fails_is_told_as_by_a_shim_alone(lab: Lab, spawner: Spawner) -> None:
    lab.start("sleep 100", spawner=spawner)
    with pytest.raises(FailedPrecondition, match="another shim runs the container"):
        lab.start("true", spawner=spawner)
    with pytest.raises(InvalidArgument, match="--log-max-files"):
        lab.start("true", name="d", spawner=spawner, log=LogFile(path="/nowhere/log", max_files=5000))
    with lab.client() as client:
        client.signal(signal.SIGKILL)


def test_shims_outlive_their_spawner_and_the_next_one_is_made(lab: Lab, spawner: Spawner) -> None:
    before = lab.start("sleep 100", spawner=spawner)
    killed = spawner.pid
    os.kill(killed, signal.SIGKILL)
    lab.until(lambda: start_time(killed) is None)
    after = lab.start("sleep 100", name="d", spawner=spawner)
    assert spawner.pid not in (0, killed)
    pid = spawner.pid
    spawner.close()
    assert start_time(pid) is None
    for shim, name in ((before, "c"), (after, "d")):
        with ShimClient(lab.directory / name) as client:
            client.signal(signal.SIGTERM)
        assert lab.exit(name).status == 143
        lab.until(lambda shim=shim: lab.gone(shim))


def test_spawner_ends_with_whoever_has_started_it(lab: Lab) -> None:
    """Closed without a word, as where the daemon is killed."""
    spawner = Spawner()
    lab.start("exit 0", spawner=spawner)
    assert spawner._socket is not None
    spawner._socket.close()
    assert os.waitpid(spawner.pid, 0)[1] == 0


def test_request_that_is_too_long_is_left_to_an_ordinary_start(lab: Lab, spawner: Spawner) -> None:
    lab.start("exit 5", spawner=spawner, on_exit=("/bin/true", "x" * 20000))
    assert lab.exit().status == 5
    assert spawner.pid == 0  # was not needed


def test_malformed_requests_start_nothing_and_do_no_harm(lab: Lab, spawner: Spawner) -> None:
    lab.start("exit 0", spawner=spawner)
    assert spawner._socket is not None
    null = os.open("/dev/null", os.O_RDWR)
    for request, fds in (
        (b"orlop-shim\0", []),
        (b"orlop-shim\0", [null]),
        (b"no end", [null] * 5),
        (b"x\0" * 65, [null] * 5),
        (b"y" * 16383 + b"\0", [null] * 2),
        (b"z" * 20000 + b"\0", [null] * 5),
    ):
        socket.send_fds(spawner._socket, [request], fds)
    os.close(null)
    pid = spawner.pid
    lab.start("exit 9", name="d", spawner=spawner)
    assert lab.exit("d").status == 9
    assert spawner.pid == pid
    assert {path.partition(":")[0] for path in descriptors(pid)} == {"/dev/null", "socket"}


def test_many_at_once(lab: Lab, spawner: Spawner) -> None:
    def start(number: int) -> None:
        lab.start(f"exit {number}", name=f"c{number}", spawner=spawner, connect=True).client.close()  # type: ignore[union-attr]

    threads = [threading.Thread(target=start, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [lab.exit(f"c{number}").status for number in range(24)] == list(range(24))


def test_spawner_that_cannot_be_had_costs_nothing_but_time(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> int:
        raise BlockingIOError(11, "no process to be had")

    spawner, original = Spawner(), os.posix_spawn
    monkeypatch.setattr(os, "posix_spawn", refused)
    assert not spawner.spawn(["orlop-shim"], [0, 1, 2])
    monkeypatch.setattr(os, "posix_spawn", original)
    lab.start("exit 4", spawner=spawner)
    assert lab.exit().status == 4
    assert spawn.PROGRAM.endswith("orlop-shim")
    spawner.close()
