"""The shim with the real launch helper."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness import children, nothing_more_open, wait_for

from orlop.runtime.launch import LaunchFailed, follow, launch_program, prepare, send_plan
from orlop.runtime.ops import Chdir, Clone, Ctty, Execve, Op, Prctl, Setsid, Sync
from orlop.runtime.plan import Plan, Stage, Step
from orlop.shim import spawn
from orlop.shim.client import ShimClient
from orlop.shim.spawn import LogFile, Shim
from orlop.shim.state import ShimState, read_state
from orlop.spec.errors import ContainerExit
from orlop.wire import frames

pytestmark = pytest.mark.root

NEWNS, NEWPID = 0x20000, 0x20000000
ENVIRONMENT = ("PATH=/usr/bin:/bin",)


def plan(
    script: str, *steps: Op, flags: int = NEWNS | NEWPID, program: str = "/bin/sh", init: Path | None = None
) -> Plan:
    arguments: tuple[str, ...] = ("sh", "-c", script)
    if init is not None:
        program, arguments = str(init), ("orlop-init", "--", *arguments)
    inside = (
        Sync("created", ()),
        Prctl(1, 9, 0, 0, 0),
        Setsid(),
        *steps,
        Execve((program,), arguments, ENVIRONMENT),
    )
    stages = (Stage("make", (Step(Clone(flags, -1)),)), Stage("init", tuple(Step(op, "process.args") for op in inside)))
    return Plan(stages)


@pytest.fixture
def started(tmp_path: Path, native: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Shim]]:
    monkeypatch.setattr(spawn, "PROGRAM", str(native / "orlop-shim"))
    shims: list[Shim] = []
    yield shims
    for shim in shims:
        if read_state(shim.directory).alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(shim.pid, signal.SIGKILL)


def start(tmp_path: Path, started: list[Shim], what: Plan, **options: object) -> tuple[Shim, ShimClient]:
    """A container whose client was attached before anything ran."""
    encoded, program = prepare(what), launch_program()
    try:
        control, shim = spawn.start(
            "c",
            tmp_path,
            encoded,
            program,
            log=LogFile(path=str(tmp_path / "log")),
            connect=True,
            **options,  # type: ignore[arg-type]
        )
    finally:
        os.close(encoded)
        os.close(program)
    started.append(shim)
    assert shim.client is not None
    shim.client.attach(stdin=True)
    with control:
        follow(control, what)
    return shim, shim.client


def outcome(client: ShimClient) -> tuple[bytes, int]:
    out = b""
    while (frame := client.receive()) and frame.type == frames.OUTPUT:
        out += frame.payload
    assert frame is not None
    ended = frames.decode_exit(frame)
    client.done()
    client.close()
    return out, ended.status


def known(directory: Path) -> ShimState:
    state = read_state(directory)
    while not state.pid:
        state = read_state(directory)
    return state


def test_runs_a_process_in_a_pid_namespace(tmp_path: Path, started: list[Shim]) -> None:
    _, client = start(tmp_path, started, plan("echo $$; exit 4"))
    assert outcome(client) == (b"1\n", 4)


def test_init_is_the_shims_child(tmp_path: Path, started: list[Shim]) -> None:
    shim, client = start(tmp_path, started, plan("read -r x"), stdin=True)
    state = known(tmp_path)
    assert f"PPid:\t{shim.pid}\n" in Path(f"/proc/{state.pid}/status").read_text()
    assert client.status().pid == state.pid
    client.end_stdin()
    assert outcome(client) == (b"", 1)


def test_no_descriptor_of_the_shim_reaches_the_container(tmp_path: Path, started: list[Shim]) -> None:
    _, client = start(tmp_path, started, plan("echo /proc/self/fd/*", flags=NEWNS), stdin=True)
    assert outcome(client) == (
        b"/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3\n",
        0,
    )  # 3: the glob's own


def test_terminal_controls_its_session(tmp_path: Path, started: list[Shim]) -> None:
    _, client = start(
        tmp_path, started, plan("stty size; exec sleep 60", Ctty(-1), flags=NEWNS), tty=(30, 90), stdin=True
    )
    said = b""
    while not said.endswith(b"\n"):  # a line may come in pieces
        frame = client.receive()
        assert frame is not None
        said += frame.payload
    assert said == b"30 90\r\n"
    client.send_stdin(b"\x03")
    assert outcome(client) == (b"^C", 130)


def test_plan_that_fails_ends_the_shim_with_a_status(tmp_path: Path, started: list[Shim]) -> None:
    with pytest.raises(LaunchFailed, match="chdir: ENOENT"):
        start(tmp_path, started, plan("true", Chdir(-1, "/none")))
    client = started[0].client if started else None
    assert client is not None
    assert outcome(client)[1] != 0
    assert read_state(tmp_path).reality == "stopped"


def test_missing_program_is_told(tmp_path: Path, started: list[Shim]) -> None:
    with pytest.raises(ContainerExit) as caught:
        start(tmp_path, started, plan("true", program="/none"))
    assert caught.value.code == 127


def test_caller_that_dies_in_the_handshake_leaves_nothing_running(tmp_path: Path, started: list[Shim]) -> None:
    what = plan("echo never")
    encoded, program = prepare(what), launch_program()
    control, shim = spawn.start(
        "c", tmp_path, encoded, program, connect=True, on_exit=["/bin/touch", str(tmp_path / "cleaned")]
    )
    started.append(shim)
    os.close(encoded)
    os.close(program)
    assert socket.recv_fds(control, 4096, 4)[0]
    control.close()
    assert shim.client is not None
    shim.client.close()
    while not (tmp_path / "cleaned").exists():
        pass
    assert read_state(tmp_path).reality == "stopped"


def test_the_plan_may_come_while_the_shim_starts(tmp_path: Path, started: list[Shim]) -> None:
    what, program = plan("echo late"), launch_program()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:

        def meanwhile() -> None:
            theirs.close()
            send_plan(ours, what)

        control, shim = spawn.start("c", tmp_path, theirs.fileno(), program, connect=True, meanwhile=meanwhile)
    os.close(program)
    started.append(shim)
    assert shim.client is not None
    shim.client.attach()
    with control:
        follow(control, what)
    assert outcome(shim.client) == (b"late\n", 0)


@pytest.mark.parametrize("connect", [True, False])
def test_what_fails_meanwhile_leaves_nothing_running(tmp_path: Path, started: list[Shim], connect: bool) -> None:
    """And nobody else is called to clean up what the caller undoes."""
    program, own = launch_program(), children()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def meanwhile() -> None:
        theirs.close()
        raise KeyboardInterrupt

    on_exit = ["/bin/touch", str(tmp_path / "cleaned")]
    with nothing_more_open(), ours, theirs, pytest.raises(KeyboardInterrupt):
        spawn.start("c", tmp_path, theirs.fileno(), program, connect=connect, on_exit=on_exit, meanwhile=meanwhile)
    os.close(program)
    wait_for(lambda: read_state(tmp_path).reality == "stopped", "the end to be recorded")
    wait_for(lambda: not (tmp_path / "shim.sock").exists(), "the shim to leave")
    assert not (tmp_path / "cleaned").exists()
    assert children() <= own


def test_killed_shim_takes_a_pid_namespace_along(tmp_path: Path, started: list[Shim]) -> None:
    shim, client = start(tmp_path, started, plan("sleep 60 & sleep 60"))
    pid = known(tmp_path).pid
    os.kill(shim.pid, signal.SIGKILL)
    while read_state(tmp_path).process:
        pass
    assert read_state(tmp_path).reality == "lost"
    client.close()
    assert pid


def test_detached_exec(tmp_path: Path, started: list[Shim]) -> None:
    shim, client = start(tmp_path, started, plan("read -r x"), stdin=True)
    what = plan(f"echo $PPID > {tmp_path}/ran", flags=0)
    for round in range(20):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        encoded, program = prepare(what), launch_program()
        with ours, ShimClient(tmp_path) as other:
            with theirs:
                pid = other.exec_detached(encoded, theirs.fileno(), program)
            assert follow(ours, what).pid == pid
        os.close(encoded)
        os.close(program)
        while not (tmp_path / "ran").exists() or not (tmp_path / "ran").read_text():
            pass
        assert (tmp_path / "ran").read_text() == f"{shim.pid}\n", round
        (tmp_path / "ran").unlink()
    client.end_stdin()
    outcome(client)


# --- orlop-init


def test_init_gives_back_the_programs_status(tmp_path: Path, started: list[Shim], native: Path) -> None:
    _, client = start(tmp_path, started, plan("echo $$; exit 7", init=native / "orlop-init"))
    assert outcome(client) == (b"2\n", 7)


def test_init_passes_signals_on_and_reaps(tmp_path: Path, started: list[Shim], native: Path) -> None:
    script = "trap 'exit 5' TERM; for i in 1 2 3; do (sleep 0 & exec true); done; echo up; while :; do sleep 0.05; done"
    _, client = start(tmp_path, started, plan(script, init=native / "orlop-init"))
    assert client.receive() is not None
    pid = known(tmp_path).pid
    below = Path(f"/proc/{pid}/task/{pid}/children")
    # the program; orphans and their zombies go
    wait_for(lambda: len(below.read_text().split()) == 1, "orphans to be waited for")
    client.signal(signal.SIGTERM)
    assert outcome(client) == (b"", 5)


def test_init_reports_a_program_killed_by_a_signal(tmp_path: Path, started: list[Shim], native: Path) -> None:
    _, client = start(tmp_path, started, plan("kill -9 $$", init=native / "orlop-init"))
    assert outcome(client) == (b"", 137)


@pytest.mark.parametrize(("program", "code"), [("/none", 127), ("/etc/passwd", 126)])
def test_init_reports_what_it_cannot_execute(native: Path, program: str, code: int) -> None:
    done = subprocess.run([native / "orlop-init", program], capture_output=True)
    assert done.returncode == code
    assert done.stderr.startswith(b"orlop-init: " + program.encode())


def test_ctrl_c_reaches_the_program_beneath_init(tmp_path: Path, started: list[Shim], native: Path) -> None:
    what = plan(
        "trap 'echo got; exit 3' INT; echo up; while :; do sleep 0.05; done", Ctty(-1), init=native / "orlop-init"
    )
    _, client = start(tmp_path, started, what, tty=(30, 90), stdin=True)
    assert client.receive() is not None
    client.send_stdin(b"\x03")
    out, status = outcome(client)
    assert out.count(b"got") == 1
    assert status == 3
