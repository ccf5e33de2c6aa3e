"""kill -9 of a command at each of its named steps: the next command finds a true record, and everything can go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.harness import Orlop, free_port, wait_for

from orlop.engine.engine import Engine
from orlop.engine.records import Container
from orlop.engine.steps import STEPS

CREATE = [name for name in STEPS if name.startswith("create.")]
START = [name for name in STEPS if name.startswith("start.")]
EXIT = [name for name in STEPS if name.startswith("exit.")]
REMOVE = [name for name in STEPS if name.startswith("remove.")]
DAEMON = [name for name in STEPS if name.startswith(("pods.", "exits."))]  # killed in tests/cri/test_crash.py
RUNS_ON = {"start.launched", "start.running"}  # the container's own process is there already


def test_every_step_is_killed_in_one_of_these_tests() -> None:
    assert set(CREATE + START + EXIT + REMOVE + DAEMON) == set(STEPS)


def look(orlop: Orlop, name: str = "victim") -> Container | None:
    """The settled record, as any command would meet it."""
    engine = Engine(str(orlop.root), str(orlop.state))
    try:
        return next((one for one in engine.containers.list(all=True) if one.name == name), None)
    finally:
        engine.close()


def killed(orlop: Orlop, step: str, *words: str) -> None:
    orlop(*words, env={"ORLOP_KILL_AT": step}, code=-9)


def victim(port: int) -> tuple[str, ...]:
    """A container that takes one of everything: published port, named and anonymous volume, shared memory, log."""
    return (
        "--name", "victim", "-p", f"{port}:80", "-v", "kept:/kept", "-v", "/etc", "--ipc", "shareable",
        "busybox", "sleep", "300",
    )  # fmt: skip


@pytest.mark.parametrize("step", CREATE)
def test_killed_create_is_undone(orlop: Orlop, step: str) -> None:
    killed(orlop, step, "create", *victim(free_port()))
    assert orlop.out("ps", "-aq") == ""
    orlop("create", *victim(free_port()))


@pytest.mark.parametrize("step", CREATE)
def test_name_of_a_killed_create_is_free_at_once(orlop: Orlop, step: str) -> None:
    killed(orlop, step, "create", "--name", "victim", "busybox")
    orlop("create", "--name", "victim", "busybox")


@pytest.mark.parametrize("step", START)
def test_killed_start_leaves_a_true_record(orlop: Orlop, step: str) -> None:
    port = free_port()
    orlop("create", *victim(port))
    killed(orlop, step, "start", "victim")
    if step in RUNS_ON:
        wait_for(lambda: (found := look(orlop)) and found.state == "running", "the record to say running")
        found = look(orlop)
        assert found is not None
        assert found.record.pid
        assert found.record.attachment
        assert found.record.attachment.addresses
        assert found.id in Path(f"/proc/{found.record.pid}/cgroup").read_text()
        assert orlop.out("exec", "victim", "echo", "alive") == "alive"
    else:
        wait_for(lambda: (found := look(orlop)) and found.state == "exited", "the record to say exited")
        found = look(orlop)
        assert found is not None
        assert found.record.exit_code != 0
        assert not found.record.cgroup
        wait_for(lambda: not orlop.processes(), "processes to leave")
        orlop("start", "victim")  # nothing of the first attempt stands in the way
        assert look(orlop).state == "running"  # type: ignore[union-attr]
    orlop("rm", "-f", "-v", "victim")
    assert orlop.out("ps", "-aq") == ""
    orlop("create", "--name", "victim", "-p", f"{port}:80", "busybox")


@pytest.mark.parametrize("step", START)
def test_killed_run_with_rm_can_be_removed_or_is(orlop: Orlop, step: str) -> None:
    killed(orlop, step, "run", "-d", "--rm", *victim(free_port()))
    orlop("rm", "-f", "victim", code=None)
    wait_for(lambda: look(orlop) is None, "the container to be gone")


@pytest.mark.parametrize("step", EXIT)
@pytest.mark.parametrize("flags", [(), ("--rm",)], ids=["kept", "rm"])
def test_killed_collection_of_an_exit_loses_no_status(orlop: Orlop, step: str, flags: tuple[str, ...]) -> None:
    killed(orlop, step, "run", "--name", "victim", *flags, "-v", "/etc", "busybox", "sh", "-c", "exit 7")
    if flags:
        wait_for(lambda: look(orlop) is None, "--rm")
        return
    found = look(orlop)
    assert found is not None
    assert (found.state, found.record.exit_code, found.record.cgroup) == ("exited", 7, "")
    assert orlop.out("wait", "victim") == "7"


@pytest.mark.parametrize("step", REMOVE)
@pytest.mark.parametrize("running", [False, True], ids=["ended", "running"])
def test_killed_removal_is_finished(orlop: Orlop, step: str, running: bool) -> None:
    orlop("run" if running else "create", *(("-d",) if running else ()), *victim(free_port()))
    killed(orlop, step, "rm", "-f", "-v", "victim")
    assert orlop.out("ps", "-aq") == ""
    assert orlop.rows("SELECT count(*) FROM volume_users") == [(0,)]
    orlop("create", "--name", "victim", "busybox")


@pytest.mark.parametrize("step", REMOVE)
def test_killed_removal_keeps_volumes_that_were_to_be_kept(orlop: Orlop, step: str) -> None:
    orlop("create", *victim(free_port()))
    killed(orlop, step, "rm", "victim")
    assert orlop.out("ps", "-aq") == ""
    assert len(os.listdir(orlop.root / "volumes")) == 2
