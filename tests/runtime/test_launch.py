"""How a launch goes and ends: clones, sync points, what the program inherits, failures and their reports."""

from __future__ import annotations

import array
import errno
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.harness import wait_for

from orlop.runtime import launch as launcher
from orlop.runtime.encode import encode
from orlop.runtime.handshake import FAILED, Handshake, parse_message
from orlop.runtime.launch import LaunchFailed
from orlop.runtime.ops import (
    AwaitStart,
    Chdir,
    Chroot,
    Clone,
    Close,
    CloseRange,
    Connect,
    Dup,
    Execve,
    Exit,
    FindExec,
    Fsmount,
    Hook,
    Mkdir,
    Mount,
    MoveMount,
    MoveRoot,
    Open,
    OpenTree,
    PivotRoot,
    Prctl,
    Rlimit,
    SendFd,
    SetIds,
    Setns,
    Setsid,
    Socket,
    Sync,
    Umask,
    Unshare,
)
from orlop.runtime.optable import SKIP_DENIED, SKIP_EXISTS, SKIP_MISSING, SKIP_UNSUPPORTED
from orlop.runtime.plan import Step
from orlop.spec.errors import ContainerExit, Internal
from orlop.sys.memfd import sealed
from orlop.sys.procfs import start_time

pytestmark = pytest.mark.root

CLONE_NEWPID, CLONE_NEWUTS, CLONE_NEWNET, CLONE_NEWUSER = 0x20000000, 0x04000000, 0x40000000, 0x10000000
O_CLOEXEC, O_DIRECTORY, O_PATH = os.O_CLOEXEC, os.O_DIRECTORY, os.O_PATH
NSFS_MAGIC, PROC_MAGIC = 0x6E736673, 0x9FA0


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


# --- from the plan to the program


def test_runs_a_program_in_a_root_of_its_own(helper, rootfs):
    outside = [
        *helper.private_mounts(),
        OpenTree(0, -1, str(rootfs), 1),
        MoveMount(0, -1, "/"),
        Clone(CLONE_NEWPID, -1),
    ]
    inside = [
        Sync("created", ()),
        Mount("proc", 0, "/proc", "proc", 0, ""),
        PivotRoot(0),
        Chdir(-1, "/"),
        helper.sh("echo $$ $(pwd) $(umask); ls /; ls /proc/self/fd; echo /proc/[0-9]*"),
    ]
    ended = helper.run(outside, inside)
    assert ended.code == 0
    assert ended.output.splitlines() == ["1 / 0022", *"bin dev etc proc tmp 0 1 2 3".split(), "/proc/1"]


def test_a_plan_without_a_clone_becomes_the_program(helper):
    assert helper.run([helper.sh("echo here; exit 7")]) == (7, "here\n")


def test_each_stage_starts_the_next(helper):
    ended = helper.run([Clone(0, -1)], [Clone(CLONE_NEWPID, -1)], [helper.sh("echo $$")])
    assert ended == (0, "1\n")


def test_the_exit_operation_ends_a_plan(helper):
    assert helper.run([Clone(0, -1)], [Exit(3)]).code == 3


def test_a_plan_that_only_ends_is_a_failure(helper):
    with pytest.raises(LaunchFailed, match="the plan ends without Execve"):
        helper.run([Umask(0)])


def test_what_is_done_meanwhile_comes_before_the_first_answer_and_its_failure_ends_the_helper(helper):
    plan, order = helper.plan([Clone(0, -1)], [Sync("created", ()), helper.sh("exit 3")]), []
    launched = launcher.launch(
        plan, on_sync=lambda name, *_: order.append(name), meanwhile=lambda: order.append("mine")
    )
    assert os.waitstatus_to_exitcode(os.waitpid(launched.pid, 0)[1]) == 3
    assert order == ["mine", "created"]

    def fails() -> None:
        raise Internal("mine")

    with pytest.raises(Internal, match="mine"):
        launcher.launch(plan, on_sync=lambda name, *_: order.append(name), meanwhile=fails)
    assert order == ["mine", "created"]


@pytest.mark.parametrize("fails", [True, False])
def test_work_that_fails_as_the_helper_has_failed_is_not_what_is_spoken_of(helper, fails):
    def act(name: str, pid: int, fds: list[int]):
        def afterwards() -> None:
            if fails:
                wait_for(lambda: start_time(pid) is None, "the process to be gone")
            raise Internal(f"no device for process {pid}")

        return afterwards if name == "created" else None

    steps = [Sync("created", ()), *([Step(Chdir(-1, "/none"), "process.cwd")] if fails else []), Sync("network", ())]
    expected = (LaunchFailed, "process.cwd: .*chdir: ENOENT") if fails else (Internal, "no device for process")
    with pytest.raises(expected[0], match=expected[1]):
        helper.run([Clone(0, -1)], [*steps, helper.sh("true")], on_sync=act)


# --- what the program inherits


def test_no_descriptor_but_the_standard_ones_reaches_the_program(helper, tmp_path):
    mine = [os.open(tmp_path, O_PATH) for _ in range(5)]
    os.set_inheritable(mine[0], True)
    try:
        steps = [
            Open(10, -1, str(tmp_path), O_PATH, 0, 0),
            Open(11, -1, "/dev/null", os.O_RDWR, 0, 0),
            Socket(12, socket.AF_INET, socket.SOCK_STREAM, 0),
            Clone(0, -1),
        ]
        ended = helper.run(steps, [Sync("created", (0,)), helper.sh("ls /proc/self/fd")], inherit=mine)
    finally:
        for fd in mine:
            os.close(fd)
    assert ended.output.split() == ["0", "1", "2", "3"]  # 3 is the directory that ls reads


def test_descriptors_are_preserved_under_the_numbers_asked_for(helper):
    fds = [sealed("data", f"{i}".encode()) for i in range(6)]
    try:
        steps = [
            *(Dup(i, 3 + i) for i in range(6)),
            Sync("still heard", ()),
            helper.sh("cat <&3 <&4; for i in 3 4 5 6 7 8; do cat /proc/self/fd/$i; done"),
        ]
        ended = helper.run([Clone(0, -1)], steps, inherit=fds)
    finally:
        for fd in fds:
            os.close(fd)
    assert ended == (0, "1012345")


def test_a_failure_is_heard_after_descriptors_took_the_numbers_of_the_helper(helper):
    fd = sealed("data", b"")
    try:
        with pytest.raises(ContainerExit):
            helper.run(
                [Clone(0, -1)], [*(Dup(0, n) for n in range(3, 9)), Execve(("/none",), ("none",), ())], inherit=[fd]
            )
    finally:
        os.close(fd)


def test_closing_everything_does_not_pass_for_success(helper):
    with pytest.raises(ContainerExit):
        helper.run([CloseRange(3, 0xFFFFFFFF, 0), Execve(("/none",), ("none",), ())])


def test_signals_and_umask_are_fresh(helper):
    previous = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    mask = os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        ended = helper.run([Clone(0, -1)], [helper.sh("grep -E 'Sig(Blk|Ign)|Umask' /proc/self/status")])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGUSR1, previous)
        os.umask(mask)
    assert ended.output.split() == ["Umask:", "0022", "SigBlk:", f"{0:016x}", "SigIgn:", f"{0:016x}"]


def test_the_umask_is_the_programs_and_not_that_of_the_preparation(helper, tmp_path):
    steps = [Umask(0o077), Mkdir(-1, str(tmp_path / "made"), 0o777, 0, 0), helper.sh(f"umask; touch {tmp_path}/file")]
    assert helper.run(steps).output == "0077\n"
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o777
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_the_helper_runs_from_a_sealed_copy(helper):
    program = launcher.launch_program()
    try:
        with pytest.raises(OSError, match="not permitted"):
            os.write(program, b"x")
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(program, 0)
    finally:
        os.close(program)

    def look(name: str, pid: int, fds: list[int]) -> None:
        assert os.readlink(f"/proc/{pid}/exe").startswith("/memfd:orlop-launch")

    helper.run([Clone(0, -1)], [Sync("look", ()), helper.sh("true")], on_sync=look)


def test_the_copy_of_the_helper_is_made_once(monkeypatch):
    first = launcher.launch_program()
    monkeypatch.setattr("orlop.runtime.spawn.PROGRAM", "/nonexistent")
    second = launcher.launch_program()
    try:
        assert first != second
        assert os.path.samestat(os.stat(first), os.stat(second))
        os.close(first)
        assert os.pread(second, 4, 0) == b"\x7fELF"
    finally:
        os.close(second)


def test_the_helper_is_not_dumpable_before_the_program_runs(helper):
    owners = []

    def look(name: str, pid: int, fds: list[int]) -> None:
        owners.append(os.stat(f"/proc/{pid}/fd").st_uid)  # proc(5): root's while the process is not dumpable

    ended = helper.run(
        [Clone(0, -1)], [SetIds(1234, 1234), Sync("look", ()), helper.sh("stat -c %u /proc/self/fd")], on_sync=look
    )
    assert owners == [0]
    assert ended.output == "1234\n"


def test_a_new_session_is_made_once(helper):
    ended = helper.run([Setsid(), Setsid(), Clone(0, -1)], [Setsid(), helper.sh("cut -d' ' -f1,6 /proc/$$/stat")])
    pid, session = ended.output.split()
    assert pid == session


# --- sync points


def test_a_sync_point_brings_descriptors_and_the_pid(helper, tmp_path):
    seen = []

    def on_sync(name: str, pid: int, fds: list[int]) -> None:
        assert os.get_inheritable(fds[0]) is False
        seen.append((name, alive(pid), os.readlink(f"/proc/self/fd/{fds[0]}")))

    steps = [Open(3, -1, str(tmp_path), O_PATH, 0, 0), Sync("created", (3,)), helper.sh("true")]
    helper.run([Clone(CLONE_NEWPID, -1)], steps, on_sync=on_sync)
    assert seen == [("created", True, str(tmp_path))]


def test_the_pid_is_known_at_the_first_sync_point_every_time(helper):
    for _ in range(30):
        pids: list[int] = []
        helper.run([Clone(0, -1)], [Sync("a", ()), Exit(0)], on_sync=lambda name, pid, fds, pids=pids: pids.append(pid))
        assert pids[0] > 0


def test_the_pid_at_a_sync_point_before_the_clone_is_the_helper_s_own(helper):
    seen: list[tuple[str, int, str]] = []
    stages = [Sync("before", ()), Clone(0, -1)], [Sync("after", ()), Exit(0)]
    program = "/memfd:orlop-launch (deleted)"
    helper.run(*stages, on_sync=lambda name, pid, fds: seen.append((name, pid, os.readlink(f"/proc/{pid}/exe"))))
    assert [(name, exe) for name, _, exe in seen] == [("before", program), ("after", program)]
    assert seen[0][1] != seen[1][1]


def test_a_socket_of_the_new_network_namespace_is_handed_out(helper):
    names = []

    def on_sync(name: str, pid: int, fds: list[int]) -> None:
        with socket.socket(fileno=os.dup(fds[0])) as sock:
            names.append((sock.family, os.readlink(f"/proc/{pid}/ns/net")))

    steps = [Socket(1, socket.AF_NETLINK, socket.SOCK_RAW, 0), Sync("created", (1,)), Exit(0)]
    helper.run([Clone(CLONE_NEWNET, -1)], steps, on_sync=on_sync)
    assert names[0][0] == socket.AF_NETLINK
    assert names[0][1] != os.readlink("/proc/self/ns/net")


def test_what_a_sync_point_leaves_for_afterwards_is_done_while_the_helper_goes_on(helper, tmp_path):
    order: list[str] = []

    def on_sync(name: str, pid: int, fds: list[int]) -> Callable[[], None] | None:
        order.append(name)
        if name != "created":
            return None

        def afterwards() -> None:
            wait_for((tmp_path / "went-on").exists, "what the helper does next")
            os.fstat(fds[0])  # still open
            order.append("afterwards")

        return afterwards

    steps = [
        Socket(1, socket.AF_NETLINK, socket.SOCK_RAW, 0),
        Sync("created", (1,)),
        Mkdir(-1, f"{tmp_path}/went-on", 0o700, 0, 0),
        Sync("network", ()),
        Exit(0),
    ]
    helper.run([Clone(0, -1)], steps, on_sync=on_sync)
    assert order == ["created", "afterwards", "network"]


def test_an_error_of_what_is_done_afterwards_leaves_nothing(helper, tmp_path):
    started = []

    def refuse() -> None:
        raise KeyError("no")

    def on_sync(name: str, pid: int, fds: list[int]) -> Callable[[], None]:
        started.append(pid)
        return refuse

    steps = [Sync("created", ()), Sync("network", ()), helper.sh(f"touch {tmp_path}/ran")]
    with pytest.raises(KeyError):
        helper.run([Clone(CLONE_NEWPID, -1)], steps, on_sync=on_sync)
    assert not alive(started[0])
    assert not (tmp_path / "ran").exists()


def test_an_error_at_a_sync_point_leaves_nothing(helper, tmp_path):
    started = []

    def refuse(name: str, pid: int, fds: list[int]) -> None:
        started.append(pid)
        raise KeyError("no")

    with pytest.raises(KeyError):
        helper.run([Clone(CLONE_NEWPID, -1)], [Sync("a", ()), helper.sh(f"touch {tmp_path}/ran")], on_sync=refuse)
    assert not alive(started[0])
    assert not (tmp_path / "ran").exists()


def test_a_helper_whose_parent_is_gone_gives_up(helper, tmp_path):
    plan = helper.plan([Clone(0, -1)], [Sync("a", ()), helper.sh(f"touch {tmp_path}/ran")])
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program, encoded = launcher.launch_program(), launcher.prepare(plan)
    with theirs:
        pid = launcher.spawn(program, encoded, theirs.fileno(), (0, 1, 2), ())
    os.close(program)
    os.close(encoded)
    child = parse_message(control.recv(100)).value
    control.close()
    for process in (pid, child):
        os.waitpid(process, 0)
    assert not (tmp_path / "ran").exists()


def begun_without_a_plan() -> tuple[int, socket.socket, socket.socket]:
    """A helper that waits for its plan: its pid, the socket to give it by, and the control socket."""
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours, place = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program, stray = launcher.launch_program(), os.open("/dev/null", os.O_RDONLY)
    with theirs, place:
        pid = launcher.spawn(program, place.fileno(), theirs.fileno(), (0, 1, 2), (stray,))  # which is nobody's
    os.close(program)
    os.close(stray)
    return pid, ours, control


def test_a_plan_may_come_later_with_what_is_inherited(helper, tmp_path):
    names = [str(tmp_path / f"file{number}") for number in range(7)]
    inherit = [os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC) for name in names]
    writes = [step for slot in range(7) for step in (Dup(slot, 1), Hook("/bin/echo", ("echo", str(slot)), (), 0, b""))]
    plan = helper.plan([*writes, helper.sh("! ls -l /proc/self/fd | grep file")])
    pid, ours, control = begun_without_a_plan()
    with ours, control:
        launcher.send_plan(ours, plan, inherit)
        launcher.follow(control, plan, state=Handshake("cloned", (pid,)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for fd in inherit:
        os.close(fd)
    assert [Path(name).read_text() for name in names] == [f"{slot}\n" for slot in range(7)]


@pytest.mark.parametrize("how", ["nothing comes", "no descriptors come"])
def test_a_helper_whose_parent_gives_up_before_there_is_a_plan_ends(how):
    pid, ours, control = begun_without_a_plan()
    with control:
        if how == "no descriptors come":
            ours.send(b"\0")
        ours.close()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
        assert control.recv(100) == b""


def test_a_plan_for_a_helper_that_is_gone_is_nobodys_error_yet(helper):
    plan = helper.plan([helper.sh("true")])
    pid, ours, control = begun_without_a_plan()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with ours, control:
        launcher.send_plan(ours, plan)
        with pytest.raises(Internal, match="ended before the plan did"):
            launcher.follow(control, plan)


def test_a_killed_helper_is_told_apart_from_a_program_that_runs(helper):
    def kill(name: str, pid: int, fds: list[int]) -> None:
        os.kill(os.getpid() if pid == 0 else pid, signal.SIGKILL)
        time.sleep(0.05)

    with pytest.raises(Internal, match="ended before the plan did"):
        helper.run([Clone(0, -1)], [Sync("a", ()), helper.sh("true")], on_sync=kill)


def test_a_helper_that_is_killed_after_the_last_answer_has_not_become_the_program(helper):
    read, write = os.pipe()
    begun: list[int] = []

    def kill(name: str, pid: int, fds: list[int]) -> None:
        begun.append(os.fork())
        if not begun[0]:
            time.sleep(0.1)
            os.kill(pid, signal.SIGKILL)
            os._exit(0)

    try:
        with pytest.raises(Internal, match="ended before the plan did"):
            helper.run([Clone(0, -1)], [Sync("a", ()), AwaitStart(0), helper.sh("true")], inherit=[read], on_sync=kill)
    finally:
        os.waitpid(begun[0], 0)
        os.close(read)
        os.close(write)


def test_what_fails_after_the_start_is_told_through_the_fifo(helper, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)
    try:
        stage = [Sync("ready", ()), AwaitStart(0), Step(Chdir(-1, "/none"), "process.cwd"), helper.sh("true")]
        launched = launcher.launch(helper.plan([Clone(0, -1)], stage), inherit=[fifo], until="ready")
        os.write(fifo, b"00")
        assert os.waitstatus_to_exitcode(os.waitpid(launched.pid, 0)[1]) == 1
        said = os.read(fifo, 4096)
        assert said[:1] == b"0"  # the byte that Execve would have taken
        message = parse_message(said[1:])
        assert (message.kind, message.stage, message.index, message.value) == (FAILED, 1, 2, errno.ENOENT)
    finally:
        os.close(fifo)


def test_waits_for_the_start(helper, tmp_path):
    read, write = os.pipe()
    try:
        plan = helper.plan([Clone(0, -1)], [Sync("ready", ()), AwaitStart(0), helper.sh(f"touch {tmp_path}/ran")])
        launched = launcher.launch(plan, inherit=[read], until="ready")
        time.sleep(0.05)
        assert not (tmp_path / "ran").exists()
        os.write(write, b"00")
        assert os.waitpid(launched.pid, 0)[1] == 0
        assert (tmp_path / "ran").exists()
    finally:
        os.close(read)
        os.close(write)


def test_an_end_of_the_start_pipe_is_no_start(helper):
    read, write = os.pipe()
    os.close(write)
    with pytest.raises(LaunchFailed, match="await_start: EPIPE"):
        helper.run([Clone(0, -1)], [AwaitStart(0), helper.sh("true")], inherit=[read])
    os.close(read)


# --- failures


def test_a_failure_names_the_field_the_operation_and_the_error(helper):
    with pytest.raises(LaunchFailed) as caught:
        helper.run([Clone(0, -1)], [Umask(0), Step(Chdir(-1, "/none"), "process.cwd (/none)")])
    assert str(caught.value) == "process.cwd (/none): chdir: ENOENT"
    assert (caught.value.stage, caught.value.index, caught.value.errno) == (1, 1, errno.ENOENT)


def test_a_failure_in_the_first_stage_is_told_too(helper):
    with pytest.raises(LaunchFailed) as caught:
        helper.run([Umask(0), Unshare(0xFFFFFFFF), Clone(0, -1)], [helper.sh("true")])
    assert (caught.value.stage, caught.value.index, caught.value.errno) == (0, 1, errno.EINVAL)


def test_a_failure_is_one_printable_line(helper):
    with pytest.raises(LaunchFailed) as caught:
        helper.run([Step(Mkdir(-1, "/none\n\x1b[2J/\0".rstrip("\0") + "x" * 300, 0o755, 0, 0), "mounts[0]")])
    assert str(caught.value).isprintable()


def test_a_plan_that_is_damaged_is_refused_before_the_damage(helper, tmp_path):
    plan = encode(helper.plan([Mkdir(-1, str(tmp_path / "made"), 0o755, 0, 0), helper.sh("true")]))
    for data in (b"", b"ORLP", plan[:-1], plan[:30], b"X" + plan[1:]):
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program, encoded = launcher.launch_program(), sealed("plan", data)
        with theirs:
            pid = launcher.spawn(program, encoded, theirs.fileno(), (0, 1, 2), ())
        message = parse_message(control.recv(1000))
        assert (message.kind, message.value) == (FAILED, errno.EBADMSG)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
        for fd in (program, encoded):
            os.close(fd)
        control.close()


def test_slots_beyond_the_table_are_refused(helper):
    for op in (Open(64, -1, "/", O_PATH, 0, 0), Close(-1), Close(64), Open(-1, -1, "/", O_PATH, 0, 0)):
        with pytest.raises(LaunchFailed, match="EBADMSG"):
            helper.run([op])


@pytest.mark.parametrize(
    ("op", "skip"),
    [
        (Chdir(-1, "/none"), SKIP_MISSING),
        (Chdir(-1, "/bin/sh/x"), SKIP_MISSING),
        (Open(0, -1, "/proc/version", os.O_WRONLY, 0, PROC_MAGIC), SKIP_DENIED),
        (Prctl(99999, 0, 0, 0, 0), SKIP_UNSUPPORTED),
        (Open(0, -1, "/", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0, 0), SKIP_EXISTS),
    ],
)
def test_a_failure_that_does_not_count_is_passed_over(helper, op, skip):
    with pytest.raises(LaunchFailed):
        helper.run([SetIds(1234, 1234), op, helper.sh("true")])
    assert helper.run([SetIds(1234, 1234), Step(op, "", skip), helper.sh("echo on")]).output == "on\n"


def test_what_a_skipped_operation_did_not_bring_is_not_used(helper, tmp_path):
    steps = [
        Step(Open(5, -1, "/none", O_PATH, 0, 0), "", SKIP_MISSING),
        Mkdir(5, "/made", 0o755, 0, 0),
        OpenTree(6, 5, "", 0x1000),
        MoveMount(6, -1, "/"),
        Fsmount(7, 5, 0),
        Dup(5, 3),
        helper.sh("ls /proc/self/fd"),
    ]
    assert helper.run(steps).output.split() == ["0", "1", "2", "3"]


@pytest.mark.parametrize("op", [Setns(5, 0), Clone(0, 5), PivotRoot(5), MoveRoot(5), Chroot(5)])
def test_what_confines_the_program_is_never_left_out(helper, op):
    missing = Step(Open(5, -1, "/none", O_PATH, 0, 0), "", SKIP_MISSING)
    with pytest.raises(LaunchFailed, match="EBADF"):
        helper.run([missing, Step(op, "", SKIP_MISSING | SKIP_DENIED | SKIP_UNSUPPORTED), helper.sh("true")])


# --- programs


def executable(path: Path, data: bytes = b"#!/bin/sh\necho ran $0\n", mode: int = 0o755) -> str:
    path.write_bytes(data)
    path.chmod(mode)
    return str(path)


def test_the_first_candidate_that_exists_is_run(helper, tmp_path):
    candidates = (f"{tmp_path}/none", "/etc/passwd/x", executable(tmp_path / "b"), executable(tmp_path / "c"))
    ended = helper.run([FindExec(candidates), Execve(candidates, ("x",), ())])
    assert ended == (0, f"ran {tmp_path}/b\n")


def test_a_candidate_that_is_not_executable_is_passed_over(helper, tmp_path):
    candidates = (executable(tmp_path / "a", mode=0o644), executable(tmp_path / "b"))
    assert helper.run([FindExec(candidates), Execve(candidates, ("x",), ())]).output == f"ran {tmp_path}/b\n"


@pytest.mark.parametrize("kind", [FindExec, Execve])
def test_exit_codes_tell_missing_programs_from_those_that_are_not_executable(helper, tmp_path, kind):
    def attempt(*candidates: str) -> ContainerExit:
        op = FindExec(candidates) if kind is FindExec else Execve(candidates, (candidates[-1],), ())
        with pytest.raises(ContainerExit) as caught:
            helper.run([Clone(0, -1)], [op, helper.sh("true")])
        return caught.value

    assert attempt(f"{tmp_path}/none").code == 127
    assert attempt(f"{tmp_path}/none", "/etc/passwd/x").code == 127
    assert attempt(str(tmp_path)).code == 126
    assert attempt(executable(tmp_path / "plain", mode=0o644)).code == 126
    assert attempt(executable(tmp_path / "plain", mode=0o644), f"{tmp_path}/none").code == 126


def test_the_kernels_reason_is_told(helper, tmp_path):
    with pytest.raises(ContainerExit, match="exec format error") as caught:
        helper.run([Execve((executable(tmp_path / "x", b"\x7fELF nonsense"),), ("x",), ())])
    assert caught.value.code == 126
    with pytest.raises(ContainerExit, match=r"the interpreter of .* is missing") as caught:
        helper.run([Execve((executable(tmp_path / "y", b"#!/none\n"),), ("y",), ())])
    assert caught.value.code == 127


def test_a_user_who_may_not_execute_a_program_is_refused(helper, tmp_path):
    program = executable(tmp_path / "x", mode=0o700)
    with pytest.raises(ContainerExit) as caught:
        helper.run([SetIds(1234, 1234), FindExec((program,))])
    assert caught.value.code == 126


# --- hooks


def hook(script: str, timeout: int = 0, stdin: bytes = b"", env: tuple[str, ...] = ()) -> Hook:
    return Hook("/bin/sh", ("hook", "-c", script), ("PATH=/bin:/usr/bin", *env), timeout, stdin)


def test_a_hook_gets_the_state_its_arguments_and_its_environment(helper, tmp_path):
    state = b'{"pid": 1}' * 20000
    script = f"cat >{tmp_path}/state; echo $0 $GREETING; ls /proc/self/fd"
    ended = helper.run([Clone(0, -1)], [hook(script, stdin=state, env=("GREETING=hi",)), Exit(0)])
    assert (tmp_path / "state").read_bytes() == state
    assert ended.output.split() == ["hook", "hi", "0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("op", "text"),
    [
        (hook("exit 3"), "hook: ECHILD: /bin/sh: exit status 3"),
        (hook("kill -9 $$"), "hook: ECHILD: /bin/sh: killed by signal 9 (killed)"),
        (hook("exec sleep 20", timeout=100), "hook: ETIMEDOUT: /bin/sh: timed out after 100 ms"),
        (Hook("/none", ("x",), (), 0, b""), "hook: ENOENT: /none"),
        (Hook("/etc/passwd", (), (), 0, b""), "hook: EACCES: /etc/passwd"),
    ],
)
def test_a_hook_that_fails_ends_the_launch(helper, op, text):
    began = time.monotonic()
    with pytest.raises(LaunchFailed) as caught:
        helper.run([Clone(0, -1)], [Step(op, "hooks.createContainer[0]"), helper.sh("true")])
    assert str(caught.value) == f"hooks.createContainer[0]: error running createContainer hook #0: {text}"
    assert time.monotonic() - began < 5


def test_a_hook_that_ends_in_time_is_not_disturbed(helper):
    assert helper.run([hook("echo done", timeout=60000), helper.sh("echo on")]).output == "done\non\n"


# --- joining, sending


def test_joins_the_namespaces_of_a_process(helper):
    ready: list[str] = []

    def inside(name: str, pid: int, fds: list[int]) -> None:
        name = os.readlink(f"/proc/{pid}/ns/uts")
        by_path = [Open(0, -1, f"/proc/{pid}/ns/uts", O_CLOEXEC, 0, NSFS_MAGIC), Setns(0, CLONE_NEWUTS), Clone(0, -1)]
        ready.append(name)
        ready.append(read_link(by_path, ()))
        with os.fdopen(os.pidfd_open(pid), closefd=True) as pidfd:
            ready.append(read_link([Setns(0, CLONE_NEWUTS | CLONE_NEWPID), Clone(0, -1)], (pidfd.fileno(),)))

    def read_link(steps: list, inherit: tuple[int, ...]) -> str:
        return other.run(steps, [helper.sh("readlink /proc/self/ns/uts")], inherit=inherit).output.strip()

    other = type(helper)(helper.output.parent)
    other.output = helper.output.with_name("other")
    helper.run([Clone(CLONE_NEWUTS | CLONE_NEWPID, -1)], [Sync("go", ()), Exit(0)], on_sync=inside)
    assert ready[0] == ready[1] == ready[2] != os.readlink("/proc/self/ns/uts")


def test_a_namespace_is_taken_only_from_a_file_that_is_one(helper, tmp_path):
    (tmp_path / "ns").touch()
    with pytest.raises(LaunchFailed, match="open: EXDEV: not on the file system that it must be on"):
        helper.run([Open(0, -1, str(tmp_path / "ns"), O_CLOEXEC, 0, NSFS_MAGIC)])


def test_sends_a_descriptor_over_a_connection(helper, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        steps = [
            Connect(0, str(tmp_path / "socket")),
            Open(1, -1, str(tmp_path), O_PATH, 0, 0),
            SendFd(0, 1, b"name"),
            Exit(0),
        ]
        helper.run([Clone(0, -1)], steps)
        connection, _ = server.accept()
        with connection:
            data, ancillary, _, _ = connection.recvmsg(100, socket.CMSG_SPACE(4))
        fd = array.array("i", ancillary[0][2])[0]
        assert (data, os.readlink(f"/proc/self/fd/{fd}")) == (b"name", str(tmp_path))
        os.close(fd)


def test_starts_in_a_control_group(helper):
    group = Path("/sys/fs/cgroup/unified")
    group = (group if group.exists() else Path("/sys/fs/cgroup")) / "orlop"
    made_parent = not group.exists()
    group.mkdir(exist_ok=True)
    own = group / f"test-{os.getpid()}"
    own.mkdir()
    try:
        steps = [Open(0, -1, str(own), O_PATH | O_DIRECTORY, 0, 0), Clone(0, 0)]
        assert f"0::/orlop/{own.name}\n" in helper.run(steps, [helper.sh("cat /proc/self/cgroup")]).output
    finally:
        own.rmdir()
        if made_parent:
            group.rmdir()


def test_limits_lowered_before_the_program_do_not_hinder_the_helper(helper):
    steps = [Rlimit(7, 5, 5), Open(0, -1, "/", O_PATH, 0, 0), Close(0), helper.sh("ulimit -n")]
    assert helper.run(steps).output == "5\n"


def test_a_death_signal_arrives_when_the_parent_is_gone_already(helper, tmp_path):
    read, write = os.pipe()
    os.close(read)  # the parent's end of the report pipe
    plan = launcher.prepare(helper.plan([Prctl(1, 9, 0, 0, 0), helper.sh(f"touch {tmp_path}/ran")]))
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = launcher.launch_program()
    free = max(map(int, os.listdir("/proc/self/fd"))) + 1  # above what the test and its neighbours have open
    actions = [(os.POSIX_SPAWN_DUP2, fd, free + i) for i, fd in enumerate((plan, theirs.fileno(), write))]
    actions += [(os.POSIX_SPAWN_DUP2, free + i, 3 + i) for i in range(3)]
    pid = os.posix_spawn(f"/proc/self/fd/{program}", ["launch", "report"], {}, file_actions=actions)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert not (tmp_path / "ran").exists()
    for fd in (plan, program, write):
        os.close(fd)
    control.close()
    theirs.close()
