"""kill -9 of the processes around a container: shim, launch helper, on-exit, the command that is attached."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.crash.test_steps import look
from tests.harness import Orlop, kill, wait_for

from orlop.engine import settle, stop
from orlop.engine.config import ContainerConfig, NetworkRequest, RestartPolicy
from orlop.engine.engine import Engine
from orlop.engine.locks import start_time
from orlop.engine.records import Container
from orlop.shim.client import ShimClient
from orlop.spec.errors import OrlopError, Unavailable


def shim_of(orlop: Orlop, identifier: str) -> int:
    return next(int(line.split()[0]) for line in orlop.processes() if "orlop-shim" in line and identifier in line)


def test_killed_shim_takes_its_container_along(orlop: Orlop) -> None:
    identifier = orlop.out("run", "-d", "--name", "victim", "-v", "/etc", "busybox", "sleep", "300")
    kill(shim_of(orlop, identifier))
    wait_for(lambda: not orlop.processes(), "the container's processes to end")
    found = look(orlop)
    assert found is not None
    assert (found.state, found.record.exit_code) == ("exited", 137)
    assert "supervisor was killed" in found.record.error
    assert re.search(r"Exited \(137\)", orlop.out("ps", "-a"))
    orlop("start", "victim")
    assert look(orlop).state == "running"  # type: ignore[union-attr]


def test_killed_shim_of_a_container_to_be_removed(orlop: Orlop) -> None:
    identifier = orlop.out("run", "-d", "--rm", "--name", "victim", "-v", "/etc", "busybox", "sleep", "300")
    kill(shim_of(orlop, identifier))
    wait_for(lambda: look(orlop) is None, "--rm")


def test_killed_shim_of_a_container_to_be_restarted(orlop: Orlop) -> None:
    identifier = orlop.out("run", "-d", "--restart", "always", "--name", "victim", "busybox", "sleep", "300")
    kill(shim_of(orlop, identifier))
    wait_for(lambda: (found := look(orlop)) and found.state == "running" and found.record.restart_count == 1, "restart")
    orlop("rm", "-f", "victim")


def test_every_command_copes_with_a_killed_shim(orlop: Orlop) -> None:
    for words in (("stop",), ("rm", "-f"), ("kill",), ("exec", "victim", "true"), ("restart", "-t", "1"), ("logs",)):
        identifier = orlop.out("run", "-d", "--name", "victim", "--network", "none", "busybox", "sleep", "300")
        kill(shim_of(orlop, identifier))
        done = orlop(*words, *(() if "victim" in words else ("victim",)), code=None)
        assert done.stderr.count("\n") <= 1
        assert "internal" not in done.stderr
        orlop("rm", "-f", "victim", code=None)
        assert orlop.out("ps", "-aq") == ""


@pytest.mark.parametrize("network", ["none", "bridge"])
def test_helper_killed_while_it_sets_up(orlop: Orlop, network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from orlop.engine import start

    engine = Engine(str(orlop.root), str(orlop.state))
    original = start.follow

    def follow(control: Any, plan: Any, on_sync: Any) -> Any:
        def act(name: str, pid: int, fds: list[int]) -> None:
            on_sync(name, pid, fds)
            kill(pid)
            wait_for(lambda: start_time(pid) is None, "the helper to be dead")

        return original(control, plan, act)

    monkeypatch.setattr(start, "follow", follow)
    config = ContainerConfig(image="busybox", name="victim", command=("true",), network=NetworkRequest(mode=network))
    engine.containers.create(config)
    with pytest.raises(OrlopError, match="launch helper"):
        engine.containers.start("victim")
    found = engine.containers.get("victim")
    assert (found.state, found.record.exit_code, found.record.cgroup) == ("exited", 128, "")
    assert "launch helper" in found.record.error
    monkeypatch.undo()
    engine.containers.start("victim")
    assert engine.containers.wait("victim") == 0
    engine.close()


@pytest.mark.parametrize("moment", ["created", "network"])
def test_shim_killed_while_the_helper_sets_up(orlop: Orlop, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    from orlop.engine import start

    engine = Engine(str(orlop.root), str(orlop.state))
    original = start.follow

    def follow(control: Any, plan: Any, on_sync: Any) -> Any:
        def act(name: str, pid: int, fds: list[int]) -> Any:
            if name == moment:
                kill(shim_of(orlop, identifier))
            return on_sync(name, pid, fds)

        return original(control, plan, act)

    monkeypatch.setattr(start, "follow", follow)
    identifier = engine.containers.create(ContainerConfig(image="busybox", name="victim", command=("sleep", "300"))).id
    with contextlib.suppress(OrlopError):  # it may fail, or come to run for a moment
        engine.containers.start("victim")
    wait_for(lambda: engine.containers.get("victim").state == "exited", "the record to say so")
    found = engine.containers.get("victim")
    assert found.record.exit_code != 0
    assert found.record.error
    wait_for(lambda: not orlop.processes(), "processes to end")
    monkeypatch.undo()
    engine.containers.start("victim")
    engine.containers.remove("victim", force=True)
    engine.close()


@pytest.mark.parametrize("flags", [(), ("--rm",)], ids=["kept", "rm"])
def test_killed_on_exit_process_loses_nothing(orlop: Orlop, flags: tuple[str, ...]) -> None:
    identifier = orlop.out("run", "-d", "--name", "victim", *flags, "busybox", "sh", "-c", "sleep 2; exit 5")
    with open(orlop.state / "locks" / identifier) as lock:  # on-exit has to wait, and is met there
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting: list[int] = []

        def on_exit() -> bool:
            lines = [line for line in orlop.processes() if "on-exit" in line and "shim" not in line]
            waiting[:] = [int(line.split()[0]) for line in lines]
            return bool(waiting)

        wait_for(on_exit, "on-exit to be started")
        kill(waiting[0])
    wait_for(lambda: not orlop.processes(), "the shim to leave")
    if flags:
        assert orlop.out("ps", "-aq") == ""
    else:
        assert orlop.out("wait", "victim") == "5"
        assert look(orlop).record.cgroup == ""  # type: ignore[union-attr]


def test_container_outlives_the_command_that_is_attached(orlop: Orlop) -> None:
    attached = orlop.start("run", "--rm", "--name", "victim", "busybox", "sh", "-c", "echo up; sleep 3; echo done")
    assert attached.stdout is not None
    assert attached.stdout.readline() == "up\n"
    attached.kill()
    attached.communicate()
    assert look(orlop).state == "running"  # type: ignore[union-attr]
    wait_for(lambda: look(orlop) is None, "the container to end and be removed")


def test_killed_attached_command_leaves_log_and_status(orlop: Orlop) -> None:
    attached = orlop.start("run", "-i", "--name", "victim", "busybox", "sh", "-c", "echo up; cat; echo eof; exit 3",
                           stdin=subprocess.PIPE)  # fmt: skip
    assert attached.stdout is not None
    assert attached.stdout.readline() == "up\n"
    attached.kill()
    attached.communicate()
    assert orlop.out("wait", "victim") == "3"  # its standard input ends with the only client
    assert orlop.out("logs", "victim") == "up\neof"


def test_killed_exec_leaves_a_container_that_can_go(orlop: Orlop) -> None:
    orlop("run", "-d", "--name", "victim", "busybox", "sleep", "300")
    inside = orlop.start("exec", "victim", "sh", "-c", "echo up; sleep 300")
    assert inside.stdout is not None
    assert inside.stdout.readline() == "up\n"
    inside.kill()
    inside.wait()
    orlop("rm", "-f", "victim")
    wait_for(lambda: not orlop.processes(), "the exec's process to end")
    assert inside.stdout.read() == ""
    inside.communicate()


def test_supervisor_and_machine_forgotten(orlop: Orlop) -> None:
    """After a reboot nothing of /run is there: what ran is said to have ended with the machine."""
    orlop("run", "-d", "--name", "victim", "--network", "none", "busybox", "sleep", "300")
    found = look(orlop)
    assert found is not None
    engine = Engine(str(orlop.root), str(orlop.state))
    engine.containers.store.change(found.id, "", boot_id="another boot")
    engine.close()
    found = look(orlop)
    assert found is not None
    assert (found.state, found.record.exit_code) == ("exited", 255)
    assert "restarted" in found.record.error
    wait_for(lambda: not orlop.processes(), "processes to leave")


def test_stopped_client_does_not_hold_the_end_up(orlop: Orlop) -> None:
    """A command that is attached and stands still (Ctrl-Z) must not keep the container from being collected."""
    attached = orlop.start("run", "--rm", "--name", "victim", "busybox", "sh", "-c", "echo up; sleep 0.3")
    assert attached.stdout is not None
    assert attached.stdout.readline() == "up\n"
    os.kill(attached.pid, signal.SIGSTOP)
    try:
        wait_for(lambda: look(orlop) is None, "the container to be settled by whoever looks")
    finally:
        os.kill(attached.pid, signal.SIGCONT)
    attached.communicate(timeout=20)
    assert attached.returncode == 0
    assert not Path(f"/proc/{attached.pid}").exists()


def test_late_end_of_an_earlier_run_does_not_end_the_next(orlop: Orlop) -> None:
    from orlop.engine.exit import on_exit

    engine = Engine(str(orlop.root), str(orlop.state))
    engine.containers.create(ContainerConfig(image="busybox", name="again", command=("sleep", "60")))
    container = engine.containers.start("again").container
    on_exit(engine, container.id)  # what the shim of an earlier start has begun, and what comes only now
    assert engine.containers.get("again").record.pid == container.record.pid
    engine.containers.remove("again", force=True)


@contextlib.contextmanager
def ended_with_policy(orlop: Orlop) -> Iterator[tuple[Engine, Container]]:
    """A container whose end is recorded, and the restart by its policy not begun."""
    orlop("run", "--name", "victim", "busybox", "true")
    engine = Engine(str(orlop.root), str(orlop.state))
    try:
        ended = engine.containers.get("victim")
        config = msgspec.structs.replace(ended.config, restart=RestartPolicy(name="always"))
        yield engine, engine.containers.store.reconfigure(ended.id, ended.name, config)
        found = engine.containers.store.get(ended.id)
        assert found is not None
        assert not settle.wants_restart(found)
    finally:
        engine.close()
    orlop("rm", "victim")


def test_stop_holds_between_an_end_and_the_restart_that_follows(orlop: Orlop) -> None:
    with ended_with_policy(orlop):
        orlop("stop", "victim")


def test_stop_holds_over_a_start_that_its_policy_made_meanwhile(orlop: Orlop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start forgets that there was a stop, and has ended when the stop looks for its supervisor."""
    with ended_with_policy(orlop) as (engine, ended):

        def started_and_ended(_directory: Path) -> ShimClient:
            engine.containers.store.change(ended.id, "", stopped_by_user=False)
            raise Unavailable("no shim")

        monkeypatch.setattr(stop, "ShimClient", started_and_ended)
        stop.end(engine, msgspec.structs.replace(ended, state="running"))
