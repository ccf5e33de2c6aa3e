"""`checkpoint` and `restore` with the real CRIU: what runs, runs on; what fails, leaves things as they were."""

from __future__ import annotations

import array
import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests import criu
from tests.harness import free_port
from tests.runtime.test_runtime_cli import SOURCE, Lab, groups_of, wait_for
from tests.runtime.test_runtime_cli import lab as plain  # noqa: F401 - a fixture

from orlop.runtime.criu import config_file
from orlop.sys.procfs import start_time

pytestmark = pytest.mark.root
COUNTER = "i=0; while true; do i=$((i+1)); echo $i >/tmp/count; sleep 0.02; done"
NETWORK = 0x40000000


class Criu:
    """A bundle, the command line, and CRIU in its path. Standard streams of containers are the null device."""

    def __init__(self, lab: Lab, path: str) -> None:
        self.lab = lab
        self.environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}", "PYTHONPATH": str(SOURCE)}
        self.image = lab.bundle.parent / "image"
        self.work = lab.bundle.parent / "work"

    @property
    def places(self) -> list[str]:
        return ["--image-path", str(self.image), "--work-path", str(self.work)]

    def __call__(self, *words: str, ok: bool = True, **streams: Any) -> str:
        """Run a verb; what it says on standard error where it is to fail."""
        with (self.lab.bundle.parent / "messages").open("w+") as log:
            command = self.lab.command(*words)
            command[command.index("--root") : command.index("--root")] = ["--log", log.name]
            null = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
            done = subprocess.run(
                command, env=self.environment, cwd=self.lab.bundle.parent, check=False, timeout=90, **null | streams
            )
            text = log.read()
        assert (done.returncode == 0) == ok, f"{words}: {done.returncode}\n{text}{self.logs()}"
        return text

    def logs(self) -> str:
        lines = [
            line for path in self.work.glob("*.log") for line in path.read_text(errors="replace").splitlines()[-400:]
        ]
        return "\n".join(line for line in lines if "Error" in line or "Warn" in line)

    def up(self, script: str = COUNTER, **changes: Any) -> str:
        self.lab.configure("sh", "-c", script, **changes)
        self("run", "-d", "-b", str(self.lab.bundle), self.lab.id())
        return self.lab.id()

    def dump(self, *flags: str, ok: bool = True) -> str:
        return self("checkpoint", *self.places, *flags, self.lab.id(), ok=ok)

    def restore(self, *flags: str, name: str = "c", ok: bool = True, **streams: Any) -> str:
        words = ("restore", "-d", "-b", str(self.lab.bundle), *self.places, *flags, self.lab.id(name))
        return self(*words, ok=ok, **streams)

    def count(self) -> int:
        return int((self.lab.rootfs / "tmp/count").read_text() or 0)

    def counts_on(self, least: int = 0) -> None:
        wait_for(lambda: (self.lab.rootfs / "tmp/count").exists() and self.count() > least)

    def exec(self, *words: str, name: str = "c") -> str:
        return self.lab("exec", self.lab.id(name), *words, env=self.environment).stdout


@pytest.fixture
def it(plain: Lab) -> Criu:  # noqa: F811
    return Criu(plain, criu.find())


def test_a_container_goes_on_where_it_was(it: Criu) -> None:
    it.up()
    it.counts_on(10)
    before = it.lab.state()
    it.dump()
    reached = it.count()
    assert it.lab("list", "-q").stdout == ""
    assert start_time(before["pid"]) is None
    assert not groups_of(it.lab.prefix)
    it.restore("--pid-file", str(it.lab.bundle / "pid"))
    it.counts_on(reached)  # a new container would begin at 1
    now = it.lab.state()
    assert now["status"] == "running"
    assert now["pid"] == int((it.lab.bundle / "pid").read_text()) != before["pid"]


def test_a_restored_container_is_a_full_one(it: Criu) -> None:
    identifier = it.up(linux__resources={"memory": {"limit": 64 << 20}, "pids": {"limit": 50}})
    it.counts_on()
    it.dump()
    it.restore()
    groups = Path(f"/proc/{it.lab.state()['pid']}/cgroup").read_text().splitlines()
    assert all(line.endswith(f"/{identifier}") for line in groups), groups
    files = (Path(group, name) for group in groups_of(identifier) for name in ("memory.limit_in_bytes", "memory.max"))
    assert [int(path.read_text()) for path in files if path.exists()] == [64 << 20]
    it.lab("pause", identifier)
    assert it.lab.state()["status"] == "paused"
    stands = it.count()
    it.lab("resume", identifier)
    it.counts_on(stands)
    assert len(json.loads(it.lab("ps", "-f", "json", identifier).stdout)) >= 1
    it.lab("kill", identifier, "KILL")
    wait_for(lambda: it.lab.state()["status"] == "stopped")
    it.lab("delete", identifier)


def test_a_paused_container_can_be_checkpointed(it: Criu) -> None:
    identifier = it.up()
    it.counts_on()
    it.lab("pause", identifier)
    stands = it.count()
    it.dump()
    it.restore()
    if it.lab.state()["status"] == "paused":
        it.lab("resume", identifier)
    it.counts_on(stands)


def test_leave_running_writes_a_copy(it: Criu) -> None:
    it.up()
    it.counts_on(5)
    pid = it.lab.state()["pid"]
    it.dump("--leave-running")
    assert it.lab.state() | {"pid": pid, "status": "running"} == it.lab.state()
    it.counts_on(it.count())
    assert (it.image / "inventory.img").exists()


def test_what_another_process_started_is_there_after_two_rounds(it: Criu) -> None:
    it.up()
    pid = it.exec("sh", "-c", "sleep 1000 </dev/null >/dev/null 2>&1 & echo $!").strip()
    for _ in range(2):
        it.dump()
        it.restore()
        assert it.exec("cat", f"/proc/{pid}/comm").strip() == "sleep"
        assert it.exec("readlink", "/proc/self/ns/time") == it.exec("readlink", "/proc/1/ns/time")


def test_pipes_are_those_of_whoever_restores(it: Criu) -> None:
    it.lab.configure("sh", "-c", "while read word; do echo got $word; done; exit 7")
    first_in, first_out = os.pipe(), os.pipe()
    it("run", "-d", "-b", str(it.lab.bundle), it.lab.id(), stdin=first_in[0], stdout=first_out[1], stderr=first_out[1])
    os.write(first_in[1], b"one\n")
    assert os.read(first_out[0], 100) == b"got one\n"
    it.dump()
    words = ("restore", "-b", str(it.lab.bundle), *it.places, it.lab.id())
    there = subprocess.Popen(
        it.lab.command(*words),
        env=it.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = there.communicate(b"two\n", timeout=60)
    assert (output, errors, there.returncode) == (b"got two\n", b"", 7)
    assert it.lab("list", "-q").stdout == ""
    for fd in (*first_in, *first_out):
        os.close(fd)


def test_a_terminal_comes_back(it: Criu) -> None:
    with _Consoles(it.lab.bundle.parent / "console") as consoles:
        it.lab.configure("sh", process__terminal=True)
        it("run", "-d", "--console-socket", consoles.path, "-b", str(it.lab.bundle), it.lab.id())
        first = consoles.master()
        os.write(first, b"x=4; stty -echo\n")
        _expect(first, rb"# ")
        it.dump()
        os.close(first)
        it.restore("--console-socket", consoles.path)
        second = consoles.master()
        os.write(second, b"echo $((x+1))-$(tty)\n")
        _expect(second, rb"5-/dev/(pts/0|console)")
        os.close(second)
        assert "--console-socket" in it.restore(name="d", ok=False)


def test_a_connection_goes_on(it: Criu) -> None:
    """Both ends are in the container, whose network namespace is one that it has made."""
    server, send = "nc -l -p 5000 -e cat", "while sleep 0.05; do echo $((i=i+1)); done"
    client = f"({send}) | nc 127.0.0.1 5000 | while read n; do echo $n >/tmp/count; done"
    (it.lab.rootfs / "bin/nc").symlink_to("busybox")
    it.up(f"{server} & sleep 0.3; {client}")
    it.counts_on(3)
    assert "connected TCP socket" in it.dump(ok=False) or "tcp" in it.logs().lower()
    it.counts_on(it.count())  # it failed, so the container runs on
    it.dump("--tcp-established")
    reached = it.count()
    it.restore("--tcp-established")
    it.counts_on(reached + 3)


def test_mounts_of_the_host_are_bound_again(it: Criu) -> None:
    """A link as the destination, a mount inside a mount, a file, a tree that is read-only; nothing prepared."""
    here = it.lab.bundle.parent
    for name in ("one", "two", "three"):
        (here / name).mkdir()
        (here / name / "is").write_text(name)
    (it.lab.rootfs / "real").mkdir()
    (it.lab.rootfs / "link").symlink_to("/real")
    binds = [
        {"destination": "/link", "source": str(here / "one"), "options": ["bind"]},
        {"destination": "/deep", "source": str(here / "two"), "options": ["rbind", "rw"]},
        {"destination": "/deep/er", "source": str(here / "three"), "options": ["bind", "ro"]},
        {"destination": "/file", "source": str(here / "three/is"), "options": ["bind"]},
    ]
    it.lab.configure()
    mounts = it.lab.config()["mounts"] + binds
    it.up(mounts=mounts)
    it.dump()
    (here / "two/er").rmdir()
    (it.lab.rootfs / "file").unlink()
    it.restore()
    mounted = Path("/proc/self/mountinfo").read_text().splitlines()  # others mount and unmount meanwhile
    assert not [line for line in mounted if str(here) in line or it.lab.prefix in line]
    assert it.exec("cat", "/real/is", "/deep/is", "/deep/er/is", "/file") == "onetwothreethree"
    assert "read-only" in it.lab("exec", it.lab.id(), "touch", "/deep/er/x", ok=False).stderr.lower()
    it.exec("touch", "/deep/x")
    assert (here / "two/x").exists()
    assert it.exec("sh", "-c", "cat /proc/kcore | head -c 1 | wc -c").strip() == "0"  # masked, as before


def test_a_mount_of_the_host_may_come_from_elsewhere_afterwards(it: Criu) -> None:
    here = it.lab.bundle.parent
    for name in ("one", "two"):
        (here / name).mkdir()
        (here / name / "is").write_text(name)
    it.lab.configure()
    mount = {"destination": "/data", "source": str(here / "one"), "options": ["bind"]}
    config = it.lab.config()["mounts"]
    it.up(mounts=[*config, mount])
    it.dump()
    it.lab.configure("sh", "-c", COUNTER, mounts=[mount | {"source": str(here / "two")}, *config])
    it.restore(name="other")
    assert it.exec("cat", "/data/is", name="other") == "two"


def test_a_joined_network_namespace_is_joined_again(it: Criu, request: pytest.FixtureRequest) -> None:
    name = it.lab.prefix + "net"
    subprocess.run(["ip", "netns", "add", name], check=True)
    request.addfinalizer(lambda: subprocess.run(["ip", "netns", "delete", name], check=True))
    it.lab.configure()
    others = [n for n in it.lab.config()["linux"]["namespaces"] if n["type"] != "network"]
    path = f"/run/netns/{name}"
    it.up(linux__namespaces=[*others, {"type": "network", "path": path}])
    it.dump()
    it.restore()
    assert Path(f"/proc/{it.lab.state()['pid']}/ns/net").stat().st_ino == Path(path).stat().st_ino


def test_an_own_network_namespace_has_its_loopback_up(it: Criu) -> None:
    it.up()
    it.dump()
    it.restore()
    assert "UP" in it.exec("ip", "link", "show", "lo").split("<")[1].split(">")[0].split(",")


def test_user_namespaces(it: Criu) -> None:
    it.lab.configure()
    namespaces = [*it.lab.config()["linux"]["namespaces"], {"type": "user"}]
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    for path in (it.lab.rootfs, *it.lab.rootfs.rglob("*")):
        os.chown(path, 100000, 100000, follow_symlinks=False)
    it.lab.bundle.parent.chmod(0o755)
    it.up(linux__namespaces=namespaces, linux__uidMappings=maps, linux__gidMappings=maps)
    it.counts_on(3)
    it.dump()
    assert (it.image.stat().st_gid, it.image.stat().st_mode & 0o777) == (100000, 0o710)
    reached = it.count()
    it.restore()
    it.counts_on(reached)
    assert it.exec("cat", "/proc/self/uid_map").split() == ["0", "100000", "65536"]
    it.exec("sh", "-c", "echo x >/dev/null")


def test_hooks_of_a_restore(it: Criu) -> None:
    trace = it.lab.bundle / "trace"
    hook = it.lab.bundle / "hook"
    hook.write_text(f'#!/bin/sh\necho "$1 $(cat)" >>{trace}\n')
    hook.chmod(0o755)
    hooks = {name: [{"path": str(hook), "args": ["hook", name]}] for name in ("prestart", "createRuntime", "poststop")}
    it.up(hooks=hooks)
    trace.unlink()
    it.dump()
    assert [line.split()[0] for line in trace.read_text().splitlines()] == ["poststop"]
    trace.unlink()
    it.restore()
    lines = trace.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["prestart", "createRuntime"]
    assert json.loads(lines[0].partition(" ")[2])["pid"] == it.lab.state()["pid"]


def test_a_dump_that_fails_leaves_the_container_running(it: Criu) -> None:
    """A stream that is a file of the host is nothing that CRIU could find again."""
    with (it.lab.bundle / "stream").open("w") as file:
        it.lab.configure("sh", "-c", COUNTER)
        it("run", "-d", "-b", str(it.lab.bundle), it.lab.id(), stdout=file)
    it.counts_on()
    message = it.dump(ok=False)
    assert f"cannot checkpoint container {it.lab.id()}: Can't lookup mount=" in message
    assert f"(more in {it.work}/" in message
    assert it.lab.state()["status"] == "running"
    it.counts_on(it.count())


def test_a_restore_that_fails_leaves_nothing(it: Criu) -> None:
    it.up()
    it.dump()
    (it.image / "core-1.img").write_bytes(b"\0" * 16)
    message = it.restore(ok=False)
    assert f"cannot restore container {it.lab.id()}: " in message
    assert f"(more in {it.work}/" in message
    assert it.lab("list", "-q").stdout == ""
    assert not groups_of(it.lab.prefix)


def test_memory_in_two_steps(it: Criu) -> None:
    it.up()
    it.counts_on()
    first = it.image.with_name("first")
    checked = subprocess.run(["criu", "check", "--feature", "mem_dirty_track"], env=it.environment, capture_output=True)
    words = ("checkpoint", "--pre-dump", "--image-path", str(first), "--work-path", str(it.work), it.lab.id())
    if checked.returncode:
        first.mkdir()
        assert "--pre-dump: this kernel or criu cannot track memory" in it(*words, ok=False)
        refused = it.dump("--parent-path", "../first", ok=False)
        assert "--parent-path: this kernel or criu cannot track memory" in refused
    else:
        it(*words)
        it.counts_on(it.count())
        it.dump("--parent-path", "../first")
        assert (it.image / "parent").exists()
        reached = it.count()
        it.restore()
        it.counts_on(reached)
    assert it.lab.state()["status"] == "running"


def test_memory_is_fetched_while_it_runs_again(it: Criu, request: pytest.FixtureRequest) -> None:
    checked = subprocess.run(["criu", "check", "--feature", "uffd-noncoop"], env=it.environment, capture_output=True)
    it.up()
    it.counts_on()
    told, status = os.pipe()
    port = free_port()
    flags = ("--lazy-pages", "--page-server", f"127.0.0.1:{port}", "--status-fd", str(status))
    words = ("checkpoint", *it.places, *flags, it.lab.id())
    if checked.returncode:
        assert "--lazy-pages: this kernel" in it(*words, ok=False, pass_fds=[status])
        return
    serving = subprocess.Popen(it.lab.command(*words), env=it.environment, pass_fds=[status], stderr=subprocess.PIPE)
    request.addfinalizer(serving.kill)
    os.close(status)
    assert os.read(told, 10) == b"\0"
    assert os.read(told, 10) == b""  # closed, for whoever waits for its end
    os.close(told)
    reached = it.count()
    lazy = ["criu", "lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", str(port), "-D", str(it.image)]
    fetching = subprocess.Popen(["timeout", "30", *lazy, "-W", str(it.image)], env=it.environment)
    request.addfinalizer(fetching.kill)
    wait_for(lambda: (it.image / "lazy-pages.socket").exists())
    words = ("restore", "-d", "-b", str(it.lab.bundle), "--image-path", str(it.image), "--lazy-pages", it.lab.id("d"))
    null = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    restoring = subprocess.Popen(it.lab.command(*words), env=it.environment, **null)
    request.addfinalizer(restoring.kill)
    _, errors = serving.communicate(timeout=30)
    if b"page-pipe: splice: -1: Bad file descriptor" in errors:
        restoring.kill()
        pytest.skip("criu cannot serve pages on this kernel, for no runtime: page-pipe: splice: EBADF")
    assert (serving.returncode, restoring.wait(30), fetching.wait(30)) == (0, 0, 0), it.logs()
    it.counts_on(reached)
    assert it.lab("list", "-q").stdout.split() == [it.lab.id("d")]


def test_a_file_of_options_for_criu(it: Criu) -> None:
    """What the annotation names counts, also for where the log is."""
    options = it.lab.bundle / "criu.conf"
    options.write_text("log-file=own.log\n")
    it.up(annotations={"org.criu.config": str(options)})
    it.dump()
    assert (it.work / "own.log").exists()
    (it.image / "core-1.img").write_bytes(b"\0" * 16)
    assert f"(more in {it.work}/own.log)" in it.restore(ok=False)


def test_of_the_files_of_options_the_nearest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"/etc/criu/runc.conf", "/etc/criu/crun.conf", "/etc/criu/orlop.conf"}
    monkeypatch.setattr(os.path, "exists", there.__contains__)
    for name in ("orlop", "crun", "runc"):
        assert config_file({}) == f"/etc/criu/{name}.conf"
        there.remove(f"/etc/criu/{name}.conf")
    assert config_file({}) == ""
    assert config_file({"org.criu.config": "/own"}) == "/own"


# --- refused


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--manage-cgroups-mode", "hard"], "--manage-cgroups-mode: 'hard' is unknown"),
        (["--empty-ns", "pid"], "--empty-ns: 'pid' is not supported"),
        (["--page-server", "nowhere"], "--page-server: 'nowhere' is not ADDRESS:PORT"),
        (["--status-fd", "1"], "--status-fd: is for --lazy-pages"),
        (["--lazy-pages", "--status-fd", "99"], "--status-fd: '99' is no open descriptor"),
        (["--parent-path", "/tmp"], "--parent-path: must be relative"),
        (["--parent-path", "../nothing"], "--parent-path: ../nothing is no directory"),
    ],
)
def test_wrong_flags_of_checkpoint(it: Criu, flags: list[str], text: str) -> None:
    it.up("sleep 1000")
    assert text in it.dump(*flags, ok=False)


def test_what_cannot_be_checkpointed_is_refused_by_name(it: Criu) -> None:
    it.lab.configure("sh")
    it("create", "-b", str(it.lab.bundle), it.lab.id())
    assert f"cannot checkpoint container {it.lab.id()}: it is created" in it.dump(ok=False)
    it.lab("delete", it.lab.id())
    assert "does not exist" in it.dump(ok=False)
    others = [n for n in it.lab.config()["linux"]["namespaces"] if n["type"] != "mount"]
    hidden = {"linux__maskedPaths": [], "linux__readonlyPaths": [], "mounts": []}
    it.up("sleep 1000", linux__namespaces=others, **hidden)
    assert "linux.namespaces: criu needs a mount namespace" in it.dump(ok=False)


def test_what_cannot_be_restored_is_refused_by_name(it: Criu) -> None:
    it.lab.configure("sh")
    assert f"--image-path: {it.image} holds no checkpoint" in it.restore(ok=False)
    assert "--no-pivot: criu restores with pivot_root only" in it.restore("--no-pivot", ok=False)
    it.up()
    it.dump("--leave-running")
    assert f"container {it.lab.id()} already exists" in it.restore(ok=False)
    assert it.lab.state()["status"] == "running"


def test_without_criu(it: Criu) -> None:
    it.up("sleep 1000")
    assert _checkpoints(it) == "true"
    it.environment["PATH"] = "/nowhere"
    assert _checkpoints(it) == "false"
    assert "the program criu is not installed, or not in $PATH" in it.dump(ok=False)
    broken = it.lab.bundle / "bin"
    broken.mkdir()
    (broken / "criu").write_text("#!/bin/sh\necho 'Error (criu/x.c:1): no such luck' >&2\nexit 1\n")
    (broken / "criu").chmod(0o755)
    it.environment["PATH"] = f"{broken}:/bin:/usr/bin"
    assert "criu ended without an answer: no such luck (see `criu check`)" in it.dump(ok=False)
    assert it.lab.state()["status"] == "running"


def _checkpoints(it: Criu) -> str:
    features = json.loads(it.lab("features", env=it.environment).stdout)
    return str(features["annotations"]["org.opencontainers.runc.checkpoint.enabled"])


# --- consoles


class _Consoles:
    """A socket that terminals are sent to."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen()
        self._socket.settimeout(20)

    def __enter__(self) -> _Consoles:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def master(self) -> int:
        with self._socket.accept()[0] as connection:
            _, ancillary, _, _ = connection.recvmsg(100, socket.CMSG_SPACE(4))
        fds = array.array("i")
        fds.frombytes(ancillary[0][2])
        return fds[0]


def _expect(fd: int, pattern: bytes) -> None:
    seen = b""
    signal.alarm(20)
    try:
        while not re.search(pattern, seen):
            seen += os.read(fd, 4096)
    finally:
        signal.alarm(0)
