"""What a process becomes before the program runs: credentials, limits, filters, terminal, names."""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import select
import struct
import termios
from pathlib import Path

import pytest

from orlop.runtime.launch import LaunchFailed
from orlop.runtime.ops import (
    Affinity,
    Ambient,
    BoundingSet,
    Capset,
    Clone,
    Ctty,
    Dup,
    Exit,
    Groups,
    IoPriority,
    Keyring,
    LinkUp,
    MemoryPolicy,
    Mount,
    Open,
    Personality,
    Prctl,
    Pty,
    Rlimit,
    Scheduler,
    Seccomp,
    SetDomainname,
    SetHostname,
    SetIds,
    Setsid,
    Sync,
    Unshare,
    WriteFile,
)
from orlop.runtime.optable import SKIP_DENIED, SKIP_UNSUPPORTED
from orlop.runtime.plan import Step

pytestmark = pytest.mark.root

CLONE_NEWUTS, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWTIME = 0x04000000, 0x40000000, 0x20000000, 0x80
PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS = 8, 38
PROC_MAGIC = 0x9FA0
TIOCGPTN = 0x80045430


def status(helper, *ops, fields: str) -> dict[str, str]:
    """Fields of /proc/self/status in the program."""
    ended = helper.run([Clone(0, -1)], [*ops, helper.sh(f"grep -E '^({fields}):' /proc/self/status")])
    return {line.split(":")[0]: line.split(":")[1].strip() for line in ended.output.splitlines()}


# --- credentials


def test_all_ids_are_those_of_the_user(helper):
    ops = [Groups((5, 6)), SetIds(1234, 1235)]
    found = status(helper, *ops, fields="Uid|Gid|Groups")
    assert found == {"Uid": "\t".join(["1234"] * 4), "Gid": "\t".join(["1235"] * 4), "Groups": "5 6"}


def test_capabilities_in_five_sets(helper):
    chown, kill, bind = 1, 1 << 5, 1 << 10
    ops = [
        BoundingSet(chown | kill | bind),
        Prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0),
        SetIds(1234, 1234),
        Capset(chown | kill, chown, kill),
        Ambient(kill),
    ]
    found = status(helper, *ops, fields="Cap...")
    expected = {"CapBnd": chown | kill | bind, "CapAmb": kill, "CapInh": kill}
    # after execve without file capabilities a user has the ambient ones alone
    expected |= {"CapPrm": kill, "CapEff": kill}
    assert {name: int(value, 16) for name, value in found.items()} == expected


def test_the_ambient_set_is_cleared_first(helper):
    ops = [Prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), SetIds(1234, 1234), Capset(3, 3, 3), Ambient(3), Ambient(1)]
    assert int(status(helper, *ops, fields="CapAmb")["CapAmb"], 16) == 1


def test_no_new_privileges(helper):
    assert status(helper, Prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), fields="NoNewPrivs") == {"NoNewPrivs": "1"}


def test_a_capability_that_is_not_permitted_is_refused(helper):
    with pytest.raises(LaunchFailed, match="capset: EPERM"):
        helper.run([SetIds(1234, 1234), Capset(1, 1, 0)])


def test_more_groups_than_are_possible_are_refused(helper):
    with pytest.raises(LaunchFailed, match="groups: EINVAL"):
        helper.run([Groups(tuple(range(70000)))])
    assert status(helper, Groups(tuple(range(2000))), fields="Groups")["Groups"].split()[-1] == "1999"


# --- limits and scheduling


def test_limits(helper):
    ended = helper.run([Rlimit(7, 100, 200), Rlimit(4, 0, 0), helper.sh("ulimit -Sn; ulimit -Hn; ulimit -c")])
    assert ended.output.split() == ["100", "200", "0"]


def test_a_limit_of_64_bits_passes_whole(helper):
    unlimited = (1 << 64) - 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    ended = helper.run([Rlimit(1, 1 << 40, unlimited), helper.sh("grep 'Max file size' /proc/self/limits")])
    assert ended.output.split()[3:5] == [str(1 << 40), "unlimited"]


def test_scheduling(helper):
    ops = [Scheduler(3, 0, 5, 0, 0, 0, 0), IoPriority(3 << 13 | 2), Affinity(b"\x01")]
    script = "cut -d' ' -f19,41 /proc/self/stat; grep Cpus_allowed: /proc/self/status; ionice -p $$"
    ended = helper.run([Clone(0, -1)], [*ops, helper.sh(script)])
    lines = ended.output.splitlines()
    assert lines[0] == "5 3"  # nice, policy (SCHED_BATCH)
    assert int(lines[1].split()[1].replace(",", ""), 16) == 1
    assert lines[2].startswith("idle")


def test_personality_and_memory_policy(helper):
    ops = [Personality(0x0040000), Step(MemoryPolicy(1, b"\x01", 64), "", SKIP_UNSUPPORTED | SKIP_DENIED)]
    assert helper.run([*ops, helper.sh("cat /proc/self/personality")]).output == "00040000\n"


def test_a_session_keyring_of_its_own(helper):
    step = Step(Keyring("_ses.test"), "", SKIP_UNSUPPORTED)
    assert helper.run([Clone(0, -1)], [step, helper.sh("true")]).code == 0


# --- names and the network


def test_names_of_the_host(helper):
    ops = [SetHostname("inside"), SetDomainname("example"), helper.sh("hostname; cat /proc/sys/kernel/domainname")]
    assert helper.run([Clone(CLONE_NEWUTS, -1)], ops).output.split() == ["inside", "example"]


def test_brings_an_interface_up(helper):
    ended = helper.run([Clone(CLONE_NEWNET, -1)], [LinkUp("lo"), helper.sh("ip -o link show lo")])
    assert "UP" in ended.output
    with pytest.raises(LaunchFailed, match="link_up: ENODEV"):
        helper.run([Clone(CLONE_NEWNET, -1)], [LinkUp("none0")])
    with pytest.raises(LaunchFailed, match="link_up: ENAMETOOLONG"):
        helper.run([LinkUp("x" * 16)])


def test_the_clock_of_a_time_namespace(helper):
    offset = WriteFile(-1, "/proc/self/timens_offsets", 0, PROC_MAGIC, b"boottime 1000000 0\n")
    ended = helper.run([Unshare(CLONE_NEWTIME), offset, Clone(0, -1)], [helper.sh("cat /proc/uptime")])
    assert float(ended.output.split()[0]) > 1000000


# --- seccomp


def bpf(*instructions: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions)


def returns(number: int, answer: int) -> bytes:
    """A filter that answers one system call so, and allows all others."""
    return bpf((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, answer), (0x06, 0, 0, 0x7FFF0000))


UNAME = {"x86_64": 63, "aarch64": 160}[platform.machine()]


def test_a_filter_is_in_force(helper):
    ended = helper.run(
        [Clone(0, -1)],
        [Seccomp(0, -1, returns(UNAME, 0x00050000 | 13)), helper.sh("uname; grep ^Seccomp: /proc/self/status")],
    )
    assert "Permission denied" in ended.output
    assert ended.output.endswith("Seccomp:\t2\n")


def test_a_listener_goes_to_the_parent(helper):
    names: list[str] = []

    def on_sync(name: str, pid: int, fds: list[int]) -> None:
        names.append(os.readlink(f"/proc/self/fd/{fds[0]}"))

    ops = [Seccomp(8, 9, returns(UNAME, 0x7FC00000)), Sync("seccomp", (9,)), Exit(0)]
    helper.run([Clone(0, -1)], ops, on_sync=on_sync)
    assert names == ["anon_inode:seccomp notify"]


@pytest.mark.parametrize("program", [b"", b"1234567", bytes(8), bytes(8 * 65536)])
def test_a_filter_that_is_none_is_refused(helper, program):
    with pytest.raises(LaunchFailed, match="seccomp: EINVAL"):
        helper.run([Seccomp(0, -1, program)])


# --- terminals


def read_all(master: int) -> str:
    data = b""
    while select.select([master], [], [], 5)[0]:
        try:
            piece = os.read(master, 4096)
        except OSError:  # EIO: the last slave is closed
            break
        data += piece
    return data.decode().replace("\r\n", "\n")


def terminal(rows: int = 0, columns: int = 0, uid: int = 0xFFFFFFFF, path: str = "/dev/ptmx") -> Pty:
    return Pty(10, 11, -1, path, rows, columns, uid)


def test_a_terminal_of_its_own(helper):
    masters: list[int] = []

    def keep(name: str, pid: int, fds: list[int]) -> None:
        masters.append(os.dup(fds[0]))
        assert not fcntl.fcntl(fds[0], fcntl.F_GETFL) & os.O_NONBLOCK

    ops = [
        Setsid(),
        terminal(24, 81, 1234),
        Sync("console", (10,)),
        *(Dup(11, fd) for fd in (0, 1, 2)),
        Ctty(11),
        helper.sh("tty; stty size; stat -c %u $(tty); echo here >/dev/tty; ls /proc/self/fd; exec 0<&- 1>&- 2>&-"),
    ]
    helper.run([Clone(0, -1)], ops, on_sync=keep)
    tty, size, owner, *rest = read_all(masters[0]).split()
    os.close(masters[0])
    assert tty.startswith("/dev/pts/")
    assert f"{size} {owner}" == "24 81"
    assert rest == ["1234", "here", "0", "1", "2", "3"]


def test_a_terminal_of_the_containers_own_devpts(helper, rootfs):
    (rootfs / "dev/pts").mkdir()
    (rootfs / "dev/ptmx").symlink_to("pts/ptmx")
    numbers: list[bytes] = []

    def look(name: str, pid: int, fds: list[int]) -> None:
        numbers.append(fcntl.ioctl(fds[0], TIOCGPTN, bytes(4)))

    ops = [
        *helper.private_mounts(),
        Open(0, -1, str(rootfs), os.O_PATH, 0, 0),
        Mount("devpts", 0, "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666"),
        Pty(10, 11, 0, "/dev/ptmx", 0, 0, 0xFFFFFFFF),
        Sync("console", (10,)),
        Exit(0),
    ]
    helper.run([Clone(0, -1)], ops, on_sync=look)
    assert numbers == [bytes(4)]  # the first of a new instance


@pytest.mark.parametrize("kind", ["file", "fifo", "zero", "missing"])
def test_only_a_ptmx_makes_terminals(helper, rootfs, kind):
    path = rootfs / "dev/ptmx"
    if kind == "file":
        path.touch()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "zero":
        os.mknod(path, 0o020666, os.makedev(1, 5))
    ops = [Open(0, -1, str(rootfs), os.O_PATH, 0, 0), Pty(10, 11, 0, "/dev/ptmx", 0, 0, 0)]
    with pytest.raises(LaunchFailed, match="pty: ENOENT" if kind == "missing" else "pty: ENOTTY"):
        helper.run(ops)


def test_an_inherited_terminal_becomes_the_sessions(helper):
    master, slave = os.openpty()
    termios.tcsetwinsize(master, (30, 90)) if hasattr(termios, "tcsetwinsize") else None
    try:
        ended = helper.run([Clone(0, -1)], [Setsid(), Ctty(-1), helper.sh("tty; echo on >/dev/tty")], stdin=slave)
        assert ended.output == os.ttyname(slave) + "\n"
        assert os.read(master, 100) == b"on\r\n"
    finally:
        os.close(master)
        os.close(slave)


def test_what_is_no_terminal_can_not_control(helper):
    with pytest.raises(LaunchFailed, match="ctty: ENOTTY"):
        helper.run([Clone(0, -1)], [Setsid(), Ctty(-1)])


def test_oom_score_and_labels_are_files_of_proc(helper):
    before = Path("/proc/self/oom_score_adj").read_text()
    write = WriteFile(-1, "/proc/self/oom_score_adj", 0, PROC_MAGIC, b"500")
    assert helper.run([write, Clone(0, -1)], [helper.sh("cat /proc/self/oom_score_adj")]).output == "500\n"
    assert Path("/proc/self/oom_score_adj").read_text() == before
