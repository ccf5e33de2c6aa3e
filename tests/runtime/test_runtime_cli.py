"""`orlop-runtime` on a real kernel: the life of a container, what it sees, what it is refused, what is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness import SLOWER

from orlop.runtime.default_spec import default_spec

pytestmark = pytest.mark.root
SOURCE = Path(__file__).parents[2] / "src"
APPLETS = "sh ls cat echo id stat readlink sleep mount pwd true touch hostname grep tty stty mkdir test kill wc ip"


class Lab:
    """A bundle of busybox, and the command line on a root of its own."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "state"
        self.bundle = directory / "bundle"
        self.rootfs = self.bundle / "rootfs"
        self.prefix = f"t{os.getpid()}-{os.urandom(3).hex()}-"
        for name in ("bin", "etc", "tmp"):
            (self.rootfs / name).mkdir(parents=True)
        os.link("/bin/busybox", self.rootfs / "bin/busybox") if _same_device(self.rootfs) else self._copy()
        for name in APPLETS.split():
            (self.rootfs / "bin" / name).symlink_to("busybox")

    def _copy(self) -> None:
        (self.rootfs / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
        (self.rootfs / "bin/busybox").chmod(0o755)

    def id(self, name: str = "c") -> str:
        return self.prefix + name

    def configure(self, *args: str, **changes: Any) -> None:
        """Write config.json: the default one without terminal, `args`, and `changes` by path (`linux__sysctl`)."""
        config: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(default_spec()))
        config["process"]["terminal"] = False
        config["root"]["readonly"] = False
        if args:
            config["process"]["args"] = list(args)
        for path, value in changes.items():
            *parents, last = path.split("__")
            place = config
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        (self.bundle / "config.json").write_text(json.dumps(config))

    def config(self) -> dict[str, Any]:
        return dict(json.loads((self.bundle / "config.json").read_text()))

    def command(self, *words: str, log: str = "") -> list[str]:
        options = ["--root", str(self.root), *(["--log", log, "--log-format", "json"] if log else [])]
        return [sys.executable, "-m", "orlop.cli.runtime", *options, *words]

    def __call__(self, *words: str, ok: bool | None = True, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a verb. The streams are files: a detached container keeps them."""
        out, err = self.bundle / "out", self.bundle / "err"
        with out.open("w") as output, err.open("w") as errors:
            done = subprocess.run(
                self.command(*words),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": str(SOURCE)} | more.pop("env", {}),
                timeout=60 * SLOWER,
                check=False,
                **more,
            )
        result = subprocess.CompletedProcess(words, done.returncode, out.read_text(), err.read_text())
        assert ok is None or (result.returncode == 0) == ok, (
            f"{words}: {result.returncode}\n{result.stdout}{result.stderr}"
        )
        return result

    def run(self, *args: str, ok: bool | None = True, **changes: Any) -> subprocess.CompletedProcess[str]:
        self.configure(*args, **changes)
        return self("run", "-b", str(self.bundle), self.id(), ok=ok)

    def sh(self, script: str, ok: bool | None = True, **changes: Any) -> str:
        return self.run("sh", "-c", script, ok=ok, **changes).stdout

    def up(self, *args: str, name: str = "c", **changes: Any) -> str:
        """A container that runs in the background."""
        self.configure(*(args or ("sleep", "1000")), **changes)
        self("run", "-d", "-b", str(self.bundle), self.id(name))
        return self.id(name)

    def state(self, name: str = "c") -> dict[str, Any]:
        return dict(json.loads(self("state", self.id(name)).stdout))


def _same_device(path: Path) -> bool:
    return os.stat("/bin/busybox").st_dev == path.stat().st_dev


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Whatever a test does: no container, group or mount of it is left."""
    found = Lab(tmp_path)
    yield found
    for identifier in found("list", "-q").stdout.split():
        found("delete", "--force", identifier)
    assert not groups_of(found.prefix)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert not found.root.exists() or set(os.listdir(found.root)) <= {".seccomp"}


def groups_of(prefix: str) -> list[str]:
    """Control groups whose names begin so; those of others come and go meanwhile, which os.walk does not mind."""
    found = ((where, name) for where, names, _ in os.walk("/sys/fs/cgroup") for name in names)
    return [f"{where}/{name}" for where, name in found if name.startswith(prefix)]


def wait_for(condition: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds * SLOWER
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that others have to take notice of."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the second while it is being read
        return True


# --- life


def test_life_from_create_to_delete(lab: Lab) -> None:
    lab.configure("sleep", "1000")
    pid_file = lab.bundle / "pid"
    lab("create", "-b", str(lab.bundle), "--pid-file", str(pid_file), lab.id())
    state = lab.state()
    assert state["status"] == "created"
    assert state["pid"] == int(pid_file.read_text())
    assert state["bundle"] == str(lab.bundle)
    lab("start", lab.id())
    assert lab.state()["status"] == "running"
    assert Path(f"/proc/{state['pid']}/cmdline").read_bytes() == b"sleep\x001000\0"
    assert "running" in lab("start", lab.id(), ok=False).stderr
    assert "is not stopped" in lab("delete", lab.id(), ok=False).stderr
    lab("pause", lab.id())
    assert lab.state()["status"] == "paused"
    assert "paused" in lab("exec", lab.id(), "true", ok=False).stderr
    lab("resume", lab.id())
    lab("kill", lab.id(), "KILL")
    wait_for(lambda: lab.state()["status"] == "stopped")
    assert "container not running" in lab("kill", lab.id(), ok=False).stderr
    lab("delete", lab.id())
    assert "does not exist" in lab("state", lab.id(), ok=False).stderr
    lab("delete", "--force", lab.id())


def test_run_ends_as_the_process_did_and_leaves_nothing(lab: Lab) -> None:
    assert lab.run("sh", "-c", "exit 7", ok=False).returncode == 7
    assert lab.run("sh", "-c", "kill -9 $$", ok=None).returncode in (0, 137)  # the first process ignores its own
    assert lab("list", "-q").stdout == ""


def test_run_keep(lab: Lab) -> None:
    lab.configure("true")
    lab("run", "--keep", "-b", str(lab.bundle), lab.id())
    assert lab.state()["status"] == "stopped"


def test_signals_are_passed_on(lab: Lab) -> None:
    lab.configure("sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done")
    with subprocess.Popen(
        lab.command("run", "-b", str(lab.bundle), lab.id()),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.terminate()
        assert process.wait(20 * SLOWER) == 9


def test_a_program_that_is_missing_fails_create_with_one_line(lab: Lab) -> None:
    lab.configure("nosuch")
    done = lab("create", "-b", str(lab.bundle), lab.id(), ok=False)
    assert done.stderr.count("\n") == 1
    assert "nosuch" in done.stderr
    assert "not found" in done.stderr or "no such file" in done.stderr


def test_names_are_taken_once_and_checked(lab: Lab) -> None:
    lab.up()
    assert "already exists" in lab("create", "-b", str(lab.bundle), lab.id(), ok=False).stderr
    for name in ("../x", "a/b", "", ".x", "a b"):
        assert "invalid container id" in lab("create", "-b", str(lab.bundle), name, ok=False).stderr


def test_failed_creation_leaves_nothing(lab: Lab) -> None:
    lab.configure("true", mounts=[{"destination": "/x", "source": "/nosuch", "options": ["bind"]}])
    done = lab("create", "-b", str(lab.bundle), lab.id(), ok=False)
    assert done.stderr == "orlop-runtime: mounts[0] (/nosuch -> /x): open_tree: ENOENT\n"


def test_errors_go_to_the_log_as_engines_read_it(lab: Lab, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = lab.command("state", "nosuch", log=str(log))
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(SOURCE)}, capture_output=True, check=False)
    entry = json.loads(log.read_text())
    assert entry["level"] == "error"
    assert "does not exist" in entry["msg"]


def test_steps_are_told_where_asked_for(lab: Lab, tmp_path: Path) -> None:
    lab.configure("true")
    done = lab("--debug", "run", "-b", str(lab.bundle), lab.id())
    assert 'level=debug msg="nsexec container setup: process ' in done.stderr
    for words in ("child process in init(): ", "init: closing the pipe to signal completion: ", "became the program"):
        assert words in done.stderr
    assert "level=debug" not in lab("run", "-b", str(lab.bundle), lab.id()).stderr
    log = tmp_path / "log"
    lab.up()
    cpus = {"initial": "0", "final": "0"}
    (tmp_path / "process").write_text(json.dumps({"args": ["true"], "cwd": "/", "execCPUAffinity": cpus}))
    options = ("--debug", "--log", str(log), "--log-format", "json", "exec", "-p", str(tmp_path / "process"))
    done = lab(*options, lab.id(), ok=True)
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert done.stderr == ""
    assert {entry["level"] for entry in entries} == {"debug"}
    assert "nsexec: affinity: 0x1 (initial)" in [entry["msg"] for entry in entries]


def test_help_about_an_unknown_command_is_an_error(lab: Lab) -> None:
    assert lab("foo", "-h", ok=False).stderr == "orlop-runtime: No help topic for 'foo'\n"


def test_container_without_a_process_can_be_created_but_not_started(lab: Lab) -> None:
    """config.md: `process` is required when start is called, not before."""
    lab.configure()
    config = lab.config()
    del config["process"]
    (lab.bundle / "config.json").write_text(json.dumps(config))
    lab("create", "-b", str(lab.bundle), lab.id())
    assert lab.state()["status"] == "created"
    assert "process: is missing" in lab("start", lab.id(), ok=False).stderr
    assert lab.state()["status"] == "created"
    lab("delete", lab.id())
    assert "process: is missing" in lab("run", "-b", str(lab.bundle), lab.id(), ok=False).stderr


def test_wrong_types_are_told_by_path(lab: Lab) -> None:
    lab.configure("true", process__user={"uid": "root"})
    assert "process.user.uid" in lab("create", "-b", str(lab.bundle), lab.id(), ok=False).stderr


def test_list_and_ps(lab: Lab) -> None:
    lab.up()
    pid = lab.state()["pid"]
    assert json.loads(lab("ps", "-f", "json", lab.id()).stdout) == [pid]
    assert str(pid) in lab("ps", lab.id()).stdout
    assert [c["id"] for c in json.loads(lab("list", "-f", "json").stdout)] == [lab.id()]
    assert lab("list").stdout.split()[:6] == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]


def test_plan_and_features_and_spec(lab: Lab, tmp_path: Path) -> None:
    lab.configure("true")
    assert "PivotRoot" in lab("plan", str(lab.bundle)).stdout
    assert "recursive" in json.loads(lab("features").stdout) or "rro" in lab("features").stdout
    lab("spec", "-b", str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["ociVersion"].startswith("1.")
    assert "exists" in lab("spec", "-b", str(tmp_path), ok=False).stderr


# --- what the container sees


def test_namespaces_are_its_own(lab: Lab) -> None:
    kinds = ("mnt", "pid", "net", "ipc", "uts", "cgroup")
    links = lab.sh("cd /proc/self/ns; for n in mnt pid net ipc uts cgroup; do readlink $n; done").split()
    assert all(found != os.readlink(f"/proc/self/ns/{kind}") for kind, found in zip(kinds, links, strict=True))


def test_namespaces_can_be_joined(lab: Lab) -> None:
    lab.up(name="one")
    pid = lab.state("one")["pid"]
    kinds = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
    namespaces = [{"type": kind, "path": f"/proc/{pid}/ns/{file}"} for kind, file in kinds.items()]
    links = lab.sh(
        "cd /proc/self/ns; for n in net ipc uts pid; do readlink $n; done",
        linux__namespaces=[*namespaces, {"type": "mount"}],
        hostname="",
    )
    assert links.split() == [os.readlink(f"/proc/{pid}/ns/{file}") for file in kinds.values()]


def test_a_path_that_is_no_namespace_is_refused(lab: Lab) -> None:
    done = lab.run("true", ok=False, linux__namespaces=[{"type": "mount"}, {"type": "uts", "path": "/etc/passwd"}])
    assert "linux.namespaces (uts at /etc/passwd)" in done.stderr


def test_user_namespace_with_several_ranges(lab: Lab) -> None:
    """Its root need not be able to reach the bundle."""
    os.chown(lab.rootfs, 100000, 100000)
    maps = [{"containerID": 0, "hostID": 100000, "size": 1000}, {"containerID": 1000, "hostID": 200000, "size": 10}]
    names = ("pid", "ipc", "uts", "mount", "cgroup", "network", "user")
    changes: dict[str, Any] = {
        "linux__namespaces": [{"type": n} for n in names],
        "linux__uidMappings": maps,
        "linux__gidMappings": maps,
        "process__user": {"uid": 1001, "gid": 1002, "additionalGids": [5]},
    }
    output = lab.sh("id; cat /proc/self/uid_map; ls -l /dev/null; echo x >/dev/null && echo wrote", **changes)
    assert "uid=1001 gid=1002 groups=5" in output
    assert output.split("\n")[1].split() == ["0", "100000", "1000"]
    assert "wrote" in output


def test_time_namespace(lab: Lab) -> None:
    names = ("pid", "mount", "uts", "time")
    output = lab.sh(
        "cat /proc/uptime",
        linux__namespaces=[{"type": n} for n in names],
        linux__timeOffsets={"boottime": {"secs": 1000000}},
    )
    assert float(output.split()[0]) > 1000000


def test_host_identity(lab: Lab) -> None:
    output = lab.sh("hostname; cat /proc/sys/kernel/domainname", hostname="deck", domainname="sea")
    assert output.split() == ["deck", "sea"]


def test_loopback_is_up(lab: Lab) -> None:
    assert "LOWER_UP" in lab.sh("ip link show lo")


def test_masked_and_read_only_paths(lab: Lab) -> None:
    (lab.rootfs / "secret").mkdir()
    (lab.rootfs / "secret/file").write_text("x")
    (lab.rootfs / "plain").write_text("x")
    (lab.rootfs / "fixed").mkdir()
    output = lab.sh(
        "ls /secret | wc -l; cat /plain | wc -c; touch /fixed/x; touch /ok; echo 1 > /proc/sys/kernel/shmmax; ls /ok",
        ok=None,
        linux__maskedPaths=["/secret", "/plain", "/missing"],
        linux__readonlyPaths=["/fixed", "/missing", "/proc/sys"],
    )
    assert output.split() == ["0", "0", "/ok"]
    assert not (lab.rootfs / "fixed/x").exists()
    assert (lab.rootfs / "ok").exists()


def test_read_only_root(lab: Lab) -> None:
    assert lab.run("touch", "/x", ok=False, root={"path": "rootfs", "readonly": True}).returncode == 1
    assert not (lab.rootfs / "x").exists()


def test_devices_and_links(lab: Lab) -> None:
    device = {"type": "c", "path": "/dev/sub/mine", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4}
    output = lab.sh(
        "cd /dev; stat -c '%n %t:%T %a %u:%g' null zero full random urandom tty sub/mine; "
        "for n in fd stdin stdout stderr; do readlink $n; done",
        linux__devices=[device],
    )
    assert output.splitlines() == [
        "null 1:3 666 0:0", "zero 1:5 666 0:0", "full 1:7 666 0:0", "random 1:8 666 0:0", "urandom 1:9 666 0:0",
        "tty 5:0 666 0:0", "sub/mine 1:5 640 3:4", "/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1",
        "/proc/self/fd/2",
    ]  # fmt: skip


def test_mount_options(lab: Lab, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "file").write_text("hello")
    mounts = [
        *lab_mounts(),
        {"destination": "/ro", "source": str(source), "options": ["rbind", "ro", "nosuid", "rprivate"]},
        {"destination": "/file", "source": str(source / "file"), "options": ["bind"]},
        {"destination": "/t", "type": "tmpfs", "options": ["size=1m", "noexec", "mode=700"]},
        {"destination": "/rro", "source": str(source), "options": ["rbind", "rro", "rnoexec"]},
        {"destination": "/etc", "type": "tmpfs", "options": ["tmpcopyup"]},
    ]
    (lab.rootfs / "etc/kept").write_text("kept")
    output = lab.sh(
        "cat /file /etc/kept; echo; mount | grep -E ' /(ro|t|rro|etc) '; touch /ro/x", ok=False, mounts=mounts
    )
    first, *rest = output.splitlines()
    assert first == "hellokept"
    found = {line.split()[2]: line.split("(")[1].rstrip(")").split(",") for line in rest}
    assert {"ro", "nosuid"} <= set(found["/ro"])
    assert {"noexec", "size=1024k", "mode=700"} <= set(found["/t"])
    assert {"ro", "noexec"} <= set(found["/rro"])
    assert sorted(os.listdir(source)) == ["file", "inner"]


def lab_mounts() -> list[dict[str, Any]]:
    return [{"destination": "/proc", "type": "proc"}]


def test_mounts_reach_neither_host_nor_through_links(lab: Lab, tmp_path: Path) -> None:
    """A hostile image: its directories are links that lead out of it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (lab.rootfs / "evil").symlink_to(outside)
    (lab.rootfs / "up").symlink_to("../../../../../.." + str(outside))
    source = tmp_path / "source"
    source.mkdir()
    mounts = [
        *lab_mounts(),
        {"destination": "/evil/a", "source": str(source), "options": ["bind"]},
        {"destination": "/up/b", "type": "tmpfs"},
    ]
    lab.run("true", mounts=mounts)
    assert os.listdir(outside) == []
    assert (lab.rootfs / str(outside)[1:] / "a").is_dir()


def test_proc_is_not_mounted_through_a_link(lab: Lab) -> None:
    (lab.rootfs / "elsewhere").mkdir()
    (lab.rootfs / "proc").symlink_to("elsewhere")
    assert "mounts[0] (proc -> /proc): must be mounted on ordinary directory" in lab.run("true", ok=False).stderr


def test_a_working_directory_outside_is_refused(lab: Lab) -> None:
    fd = os.open("/", os.O_RDONLY)
    os.set_inheritable(fd, True)
    try:
        lab.configure("true", process__cwd=f"/proc/self/fd/{fd}")
        done = lab("run", "-b", str(lab.bundle), lab.id(), ok=False, pass_fds=(fd,))
    finally:
        os.close(fd)
    assert "process.cwd" in done.stderr


def test_no_descriptor_leaks(lab: Lab) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        lab.configure("sh", "-c", "ls /proc/self/fd")
        done = lab("run", "-b", str(lab.bundle), lab.id(), pass_fds=(write,))
    finally:
        os.close(read)
        os.close(write)
    assert done.stdout.split() == ["0", "1", "2", "3"]  # the last is ls's own


def test_preserved_descriptors(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("from outside")
    lab.configure("sh", "-c", "cat <&3")
    script = f'exec 3<"{tmp_path}/note"; exec "$@"'
    command = ["sh", "-c", script, "sh", *lab.command("run", "--preserve-fds", "1", "-b", str(lab.bundle), lab.id())]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(SOURCE)}, check=True
    )
    assert done.stdout == "from outside"
    lab.configure("true")
    lab("run", "--preserve-fds", "30", "-b", str(lab.bundle), lab.id())  # none of them is open


def test_process_identity_and_limits(lab: Lab) -> None:
    output = lab.sh(
        "id; umask; pwd; grep -E 'Cap|NoNew' /proc/self/status; grep 'open files' /proc/self/limits",
        process__user={"uid": 1000, "gid": 1001, "additionalGids": [7, 8], "umask": 0o27},
        process__cwd="/work/here",
        process__capabilities={
            name: ["CAP_KILL", "CAP_CHOWN"] for name in ("bounding", "permitted", "effective", "inheritable", "ambient")
        },
        process__rlimits=[{"type": "RLIMIT_NOFILE", "soft": 33, "hard": 44}],
    )
    assert "uid=1000 gid=1001 groups=7,8" in output
    assert "0027\n/work/here" in output
    sets = dict(line.split(":\t") for line in output.splitlines() if ":\t" in line)
    assert {int(sets[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0x21}
    assert sets["NoNewPrivs"] == "1"
    assert output.splitlines()[-1].split()[3:5] == ["33", "44"]


def test_oom_score_and_sysctl(lab: Lab) -> None:
    output = lab.sh(
        "cat /proc/self/oom_score_adj /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_forward",
        process__oomScoreAdj=500,
        linux__sysctl={"kernel.msgmax": "4321", "net/ipv4/ip_forward": "1"},
    )
    assert output.split() == ["500", "4321", "1"]


def test_what_this_host_forbids_is_told_by_its_field(lab: Lab) -> None:
    with open("/proc/self/status") as status:
        bounding = next(int(line.split()[1], 16) for line in status if line.startswith("CapBnd"))
    if bounding >> 24 & 1:
        pytest.skip("this host lets us raise limits")
    done = lab.run("true", ok=False, process__oomScoreAdj=-1000)
    assert "process.oomScoreAdj (-1000): write_file: EACCES" in done.stderr


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_seccomp(lab: Lab, no_new_privileges: bool) -> None:
    rules = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]
    done = lab.run(
        "sh", "-c", "grep Seccomp: /proc/self/status; mkdir /x", ok=False,
        process__noNewPrivileges=no_new_privileges,
        linux__seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules},
    )  # fmt: skip
    assert "Seccomp:\t2" in done.stdout
    assert "not supported" in done.stderr


def test_limits_of_the_control_group(lab: Lab) -> None:
    lab.up(linux__resources={"pids": {"limit": 1}, "memory": {"limit": 32 << 20}})
    pid = lab.state()["pid"]
    groups = dict(line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    assert set(groups.values()) == {f"/orlop/{lab.id()}"}
    assert lab("exec", lab.id(), "true", ok=None).returncode in (0, 255)  # a limit of one leaves no room


def test_control_groups_are_seen_from_inside(lab: Lab) -> None:
    output = lab.sh("cat /proc/self/cgroup; ls /sys/fs/cgroup; touch /sys/fs/cgroup/x", ok=False)
    assert {line.split(":", 2)[2] for line in output.splitlines() if line[:1].isdigit()} == {"/"}


def test_a_capability_that_no_kernel_has_is_a_warning(lab: Lab) -> None:
    sets = {name: ["CAP_KILL", "CAP_NONE"] for name in ("bounding", "effective", "permitted")}
    done = lab.run("grep", "CapEff", "/proc/self/status", process__capabilities=sets)
    assert done.stdout == "CapEff:\t0000000000000020\n"
    told = "warning: process.capabilities: 'CAP_NONE' cannot be granted here and is left out\n"
    assert done.stderr == f"orlop-runtime: {told}"
    lab.up(process__capabilities={"bounding": ["CAP_KILL"]})
    assert lab("exec", "--cap", "CAP_NONE", lab.id(), "true").stderr == f"orlop-runtime: {told}"


# --- hooks


def hook(path: Path, name: str) -> dict[str, Any]:
    script = f'cat >> "{path}"; echo " {name} $MARK" >> "{path}"'
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["MARK=m", "PATH=/bin:/usr/bin"]}


def test_hooks_run_in_order_with_state_on_stdin(lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "hooks"
    inside = lab.rootfs / "inside"
    names = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    hooks = {name: [hook(out, name)] for name in names}
    hooks["startContainer"] = [hook(Path("/inside"), "startContainer")]
    lab.configure("sleep", "1000", hooks=hooks, annotations={"a": "b"})
    lab("create", "-b", str(lab.bundle), lab.id())
    pid = lab.state()["pid"]
    lab("start", lab.id())
    lab("delete", "-f", lab.id())
    lines = [line.rsplit(" ", 2) for line in out.read_text().splitlines()]
    assert [line[1] for line in lines] == list(names)
    states = [json.loads(line[0]) for line in lines]
    assert [s["status"] for s in states] == ["creating", "creating", "creating", "running", "stopped"]
    assert states[0]["pid"] == pid
    assert states[0]["annotations"] == {"a": "b"}
    assert json.loads(inside.read_text().rsplit(" ", 2)[0])["status"] == "created"


def test_poststart_hooks_are_told_of_a_running_container_however_soon_it_ends(lab: Lab, tmp_path: Path) -> None:
    lab.configure("true", hooks={"poststart": [hook(tmp_path / "hooks", "poststart")]})
    lab("create", "-b", str(lab.bundle), lab.id())
    pid = lab.state()["pid"]
    lab("start", lab.id())
    told = json.loads((tmp_path / "hooks").read_text().rsplit(" ", 2)[0])
    assert (told["status"], told["pid"]) == ("running", pid)


@pytest.mark.parametrize("name", ["prestart", "createRuntime", "createContainer"])
def test_a_failing_hook_fails_create_and_runs_poststop(lab: Lab, tmp_path: Path, name: str) -> None:
    out = tmp_path / "hooks"
    lab.configure("true", hooks={name: [{"path": "/bin/false"}], "poststop": [hook(out, "poststop")]})
    done = lab("create", "-b", str(lab.bundle), lab.id(), ok=False)
    assert f"hooks.{name}[0]" in done.stderr
    assert ("exit status 1" if name == "createContainer" else "hook failed with exit code 1") in done.stderr
    assert "poststop" in out.read_text()


def test_a_failing_start_container_hook_fails_start_and_destroys_the_container(lab: Lab, tmp_path: Path) -> None:
    """runtime.md, "Lifecycle", steps 7, 12 and 13. `start` and `run` say the same."""
    out, ran = tmp_path / "hooks", lab.rootfs / "ran"
    failing = [{"path": "/bin/true"}, {"path": "/bin/sh", "args": ["sh", "-c", "exit 7"]}]
    lab.configure("touch", "/ran", hooks={"startContainer": failing, "poststop": [hook(out, "poststop")]})
    lab("create", "-b", str(lab.bundle), lab.id())
    where = "orlop-runtime: hooks.startContainer[1]: error running startContainer hook #1"
    text = f"{where}: hook: ECHILD: /bin/sh: exit status 7\n"
    done = lab("start", lab.id(), ok=False)
    assert (done.returncode, done.stderr) == (1, text)
    assert "poststop" in out.read_text()
    assert "does not exist" in lab("state", lab.id(), ok=False).stderr
    assert lab("run", "-b", str(lab.bundle), lab.id(), ok=False).stderr == done.stderr
    assert not ran.exists()


def test_a_container_that_is_killed_while_it_starts_has_not_started(lab: Lab) -> None:
    waiting = {"path": "/bin/sh", "args": ["sh", "-c", "touch /waits; while true; do sleep 1; done"]}
    lab.configure("true", hooks={"startContainer": [waiting]})
    lab("create", "-b", str(lab.bundle), lab.id())
    pid = lab.state()["pid"]
    own = {**os.environ, "PYTHONPATH": str(SOURCE)}
    with subprocess.Popen(lab.command("start", lab.id()), stderr=subprocess.PIPE, env=own) as starting:
        wait_for((lab.rootfs / "waits").exists)
        again = lab("start", lab.id(), ok=False)
        assert again.stderr == f"orlop-runtime: cannot start container {lab.id()}: it is being started already\n"
        os.kill(pid, signal.SIGKILL)
        said = starting.communicate(timeout=20 * SLOWER)[1].decode()
    assert starting.returncode == 1
    assert said == f"orlop-runtime: cannot start container {lab.id()}: it ended before its program ran\n"
    assert lab.state()["status"] == "stopped"


def test_a_program_that_is_gone_when_it_is_to_start_fails_start(lab: Lab) -> None:
    (lab.rootfs / "own").symlink_to("/bin/busybox")
    lab.configure("/own", "true")
    lab("create", "-b", str(lab.bundle), lab.id())
    (lab.rootfs / "own").unlink()
    done = lab("start", lab.id(), ok=False)
    assert (done.returncode, done.stderr) == (1, 'orlop-runtime: exec: "/own": no such file or directory\n')
    assert lab.state()["status"] == "stopped"


def test_a_hook_that_takes_too_long_is_killed(lab: Lab) -> None:
    lab.configure("true", hooks={"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]})
    assert "timed out after 1 s" in lab("create", "-b", str(lab.bundle), lab.id(), ok=False).stderr


# --- terminals


def receive_master(listener: socket.socket, found: list[Any]) -> None:
    connection, _ = listener.accept()
    with connection:
        text, fds, _, _ = socket.recv_fds(connection, 4096, 4)
        found.append((text, fds))


def test_console_socket(lab: Lab, tmp_path: Path) -> None:
    lab.configure(
        "sh",
        "-c",
        "tty; stty size; test -c /dev/console && echo console; read x; echo got $x",
        process__terminal=True,
        process__consoleSize={"height": 33, "width": 99},
        process__user={"uid": 1000, "gid": 1000},
    )
    path = str(tmp_path / "console")
    found: list[Any] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=receive_master, args=(listener, found))
        thread.start()
        lab("run", "-d", "--console-socket", path, "-b", str(lab.bundle), lab.id())
        thread.join(10)
    ((text, (master,)),) = found
    assert text == b"/dev/ptmx"
    os.write(master, b"hello\n")
    output = read_all(master)
    # what is typed is echoed at once, which may be before the program's own words
    assert sorted(output.split()) == sorted("/dev/pts/0 33 99 console hello got hello".split())


def read_all(master: int) -> str:
    output = b""
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:  # EIO: nobody has the other end any more
            break
        if not data:
            break
        output += data
    os.close(master)
    return output.decode()


def test_terminal_rules(lab: Lab, tmp_path: Path) -> None:
    lab.configure("true", process__terminal=True)
    assert "--console-socket" in lab("create", "-b", str(lab.bundle), lab.id(), ok=False).stderr
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "c"))
        listener.listen()
        lab.configure("true")
        done = lab("create", "--console-socket", str(tmp_path / "c"), "-b", str(lab.bundle), lab.id(), ok=False)
        assert "process.terminal is not set" in done.stderr


def test_run_on_a_terminal_in_the_foreground(lab: Lab) -> None:
    import pty

    lab.configure("sh", "-c", "test -t 0 && tty; read line; echo line=$line; exit 3", process__terminal=True)
    pid, master = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = str(SOURCE)
        command = lab.command("run", "-b", str(lab.bundle), lab.id())
        os.execv(command[0], command)
    os.write(master, b"typed\n")
    output = read_all(master)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert "/dev/pts/0" in output
    assert "line=typed" in output


# --- exec


def test_exec_joins_and_returns_the_exit_status(lab: Lab) -> None:
    identifier = lab.up()
    pid = lab.state()["pid"]
    script = "cd /proc/self/ns; for n in mnt pid net uts cgroup; do readlink $n; done"
    links = lab("exec", identifier, "sh", "-c", script)
    assert links.stdout.split() == [os.readlink(f"/proc/{pid}/ns/{n}") for n in ("mnt", "pid", "net", "uts", "cgroup")]
    assert lab("exec", identifier, "sh", "-c", "exit 5", ok=False).returncode == 5
    assert lab("exec", identifier, "cat", "/proc/self/cgroup").stdout.count(":/\n") > 0
    assert "nosuch" in lab("exec", identifier, "nosuch", ok=False).stderr


def test_exec_flags(lab: Lab) -> None:
    identifier = lab.up()
    script = "id; echo $A; pwd; grep -E 'CapEff|NoNew' /proc/self/status"
    output = lab(
        "exec",
        "-e",
        "A=b",
        "--cwd",
        "/etc",
        "-u",
        "5:6",
        "-g",
        "7",
        "--cap",
        "CAP_CHOWN",
        identifier,
        "sh",
        "-c",
        script,
    ).stdout
    assert "uid=5 gid=6 groups=7" in output
    assert "\nb\n/etc\n" in output


def test_exec_from_a_file_detached_with_a_pid_file(lab: Lab, tmp_path: Path) -> None:
    identifier = lab.up()
    process = lab.config()["process"] | {"args": ["sleep", "1000"]}
    (tmp_path / "process.json").write_text(json.dumps(process))
    lab("exec", "-p", str(tmp_path / "process.json"), "-d", "--pid-file", str(tmp_path / "pid"), identifier)
    pid = int((tmp_path / "pid").read_text())
    assert sorted(json.loads(lab("ps", "-f", "json", identifier).stdout)) == sorted([pid, lab.state()["pid"]])
    lab("kill", "--all", identifier, "KILL")
    wait_for(lambda: has_ended(pid))


def test_exec_in_a_user_namespace(lab: Lab) -> None:
    names = ("pid", "ipc", "uts", "mount", "cgroup", "network", "user")
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    os.chown(lab.rootfs, 100000, 100000)
    identifier = lab.up(
        linux__namespaces=[{"type": n} for n in names], linux__uidMappings=maps, linux__gidMappings=maps
    )
    output = lab("exec", identifier, "sh", "-c", "id; cat /proc/self/uid_map").stdout
    assert "uid=0 gid=0" in output
    assert output.splitlines()[-1].split() == ["0", "100000", "65536"]


def test_exec_in_a_container_that_is_gone(lab: Lab) -> None:
    identifier = lab.up("true")
    wait_for(lambda: lab.state()["status"] == "stopped")
    assert "container not running" in lab("exec", identifier, "true", ok=False).stderr


# --- records that stay true


def test_a_creation_killed_in_the_middle_can_be_deleted(lab: Lab, tmp_path: Path) -> None:
    gate, there = tmp_path / "gate", tmp_path / "there"
    os.mkfifo(gate)
    script = f"touch {there}; cat {gate}"
    lab.configure("true", hooks={"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]})
    process = subprocess.Popen(
        lab.command("create", "-b", str(lab.bundle), lab.id()),
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stderr=subprocess.DEVNULL,
    )
    wait_for(there.exists)
    assert lab.state()["pid"]
    assert lab.state()["status"] == "creating"
    process.kill()
    process.wait()
    with open(gate, "w"):
        pass  # lets the hook end
    wait_for(lambda: lab.state()["status"] == "stopped")
    lab("delete", lab.id())


def test_a_caller_that_ignores_its_childrens_ends_gets_the_status(lab: Lab) -> None:
    lab.configure("sh", "-c", "exit 7")
    done = subprocess.run(
        lab.command("run", "-b", str(lab.bundle), lab.id()),
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
        timeout=30 * SLOWER,
    )
    assert done.returncode == 7


def test_an_interrupted_removal_is_finished_by_force(lab: Lab) -> None:
    (lab.root / lab.id()).mkdir(parents=True)
    (lab.root / lab.id() / "exec.fifo").touch()
    assert "does not exist" in lab("delete", lab.id(), ok=False).stderr
    lab("delete", "-f", lab.id())


def test_a_pid_taken_by_another_process_is_not_the_containers(lab: Lab) -> None:
    lab.up()
    path = lab.root / lab.id() / "state.json"
    record = json.loads(path.read_text())
    pid = record["init_process_pid"]
    path.write_text(json.dumps(record | {"init_process_start": record["init_process_start"] - 1}))
    assert lab.state()["status"] == "stopped"
    assert "not running" in lab("kill", lab.id(), "KILL", ok=False).stderr
    assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep")


def test_kill_of_every_process_where_pids_are_shared(lab: Lab) -> None:
    namespaces = [{"type": n} for n in ("mount", "uts", "ipc")]
    mounts = [{"destination": "/proc", "type": "proc"}]
    identifier = lab.up("sh", "-c", "sleep 1000 & sleep 1000", linux__namespaces=namespaces, mounts=mounts)
    wait_for(lambda: len(json.loads(lab("ps", "-f", "json", identifier).stdout)) >= 2)
    pids = json.loads(lab("ps", "-f", "json", identifier).stdout)
    lab("kill", identifier, "KILL")
    wait_for(lambda: all(_gone(pid) for pid in pids))


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# --- rarer fields


def test_mapped_mount(lab: Lab, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").touch()
    os.chown(source / "file", 1000, 1000)
    maps = [{"containerID": 1000, "hostID": 5000, "size": 1}, {"containerID": 0, "hostID": 0, "size": 1}]
    mount = {"destination": "/m", "source": str(source), "options": ["bind", "idmap"]}
    mounts = [*lab_mounts(), mount | {"uidMappings": maps, "gidMappings": maps}]
    assert lab.sh("stat -c %u:%g /m/file", mounts=mounts).split() == ["5000:5000"]
    assert os.stat(source / "file").st_uid == 1000


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("user", [False, True])
def test_what_earlier_mounts_put_in_the_root_can_be_bound(lab: Lab, tmp_path: Path, user: bool, mapped: bool) -> None:
    """Also where the container's own rights don't reach it: its ids are not mapped, its directory is for them alone."""
    inner = tmp_path / "source/closed/inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("from there")
    inner.parent.chmod(0o700)
    (lab.rootfs / "final").mkdir()
    changes: dict[str, Any] = {}
    ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    if user:
        os.chown(lab.rootfs, 100000, 100000)
        names = ("pid", "ipc", "uts", "mount", "cgroup", "network", "user")
        changes = {"linux__namespaces": [{"type": n} for n in names]}
        changes |= {"linux__uidMappings": ids, "linux__gidMappings": ids}
    maps = {"uidMappings": ids, "gidMappings": ids} if mapped else {}
    mounts = [
        *lab_mounts(),
        {"destination": str(lab.rootfs / "mnt"), "source": str(inner.parents[1]), "options": ["rbind"]},
        {"destination": "/final", "source": str(lab.rootfs / "mnt/closed/inner"), "options": ["bind", "ro"], **maps},
    ]
    script = "cat /final/file; echo; stat -c %u /final/file; grep /final /proc/self/mountinfo; touch /final/new 2>&1"
    lines = lab.sh(script, ok=False, mounts=mounts, **changes).splitlines()
    owner = {(False, False): "0", (False, True): "100000", (True, False): "65534", (True, True): "0"}[user, mapped]
    assert lines[:2] == ["from there", owner]
    assert " ro," in lines[2]
    assert "Read-only file system" in lines[3]
    assert not list((lab.rootfs / "mnt").iterdir())
    assert ("stage 0: mounts\n" in lab("plan", str(lab.bundle)).stdout) == user


def test_what_is_bound_into_a_user_namespace_from_the_root_is_in_the_root(lab: Lab, tmp_path: Path) -> None:
    """It is opened with the rights of root on the machine: an image's link must not lead that out of the image."""
    (tmp_path / "secret").mkdir()
    (lab.rootfs / "way").symlink_to(tmp_path / "secret")
    (lab.rootfs / "up").symlink_to("../" * 20 + str(tmp_path / "secret"))
    os.chown(lab.rootfs, 100000, 100000)
    ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    changes: dict[str, Any] = {"linux__uidMappings": ids, "linux__gidMappings": ids}
    changes["linux__namespaces"] = [{"type": n} for n in ("pid", "ipc", "uts", "mount", "network", "user")]
    for name in ("way", "up"):
        mount = {"destination": "/bin", "source": str(lab.rootfs / name), "options": ["bind"]}
        done = lab.run("true", ok=False, mounts=[*lab_mounts(), mount], **changes)
        assert f"mounts[1] ({lab.rootfs}/{name} -> /bin): open_tree: ENOENT" in done.stderr


def test_scheduling(lab: Lab) -> None:
    output = lab.sh(
        "cat /proc/self/stat; cat /proc/self/personality",
        process__scheduler={"policy": "SCHED_BATCH", "nice": 7},
        process__ioPriority={"class": "IOPRIO_CLASS_IDLE"},
        linux__personality={"domain": "LINUX32"},
        linux__memoryPolicy={"mode": "MPOL_INTERLEAVE", "nodes": "0"},
    )
    fields = output.splitlines()[0].rpartition(")")[2].split()
    assert fields[16] == "7"  # nice
    assert fields[38] == "3"  # policy
    assert output.splitlines()[1] == "00000008"


@pytest.mark.parametrize("propagation", ["private", "slave", "rshared", "unbindable"])
def test_root_propagation(lab: Lab, propagation: str) -> None:
    mounts = [*lab_mounts(), {"destination": "/t", "type": "tmpfs"}]
    output = lab.sh("cat /proc/self/mountinfo", linux__rootfsPropagation=propagation, mounts=mounts)
    line = next(line for line in output.splitlines() if line.split()[4] == "/")
    words = {"rshared": "shared:", "unbindable": "unbindable"}
    assert (words.get(propagation, "shared:") in line) == (propagation in words), output


def test_without_pivot(lab: Lab) -> None:
    lab.configure("ls", "/")
    output = lab("run", "--no-pivot", "-b", str(lab.bundle), lab.id()).stdout
    assert "bin" in output.split()
    assert "root" not in output.split()


def test_without_any_namespace(lab: Lab) -> None:
    changes: dict[str, Any] = {"hostname": "", "mounts": [], "linux": {}}
    assert "bin" in lab.run("ls", "/", **changes).stdout.split()
    identifier = lab.up(name="d", **changes)
    assert lab("exec", identifier, "ls", "/").stdout.split() == sorted(os.listdir(lab.rootfs))


def test_seccomp_listener_is_handed_over(lab: Lab, tmp_path: Path) -> None:
    path = str(tmp_path / "agent")
    found: list[Any] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=receive_master, args=(listener, found))
        thread.start()
        rules = [{"names": ["sethostname"], "action": "SCMP_ACT_NOTIFY"}]
        seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "m", "syscalls": rules}
        lab.up(linux__seccomp=seccomp)
        thread.join(10)
    text, fds = found[0]
    message = json.loads(text)
    assert message["fds"] == ["seccompFd"]
    assert message["metadata"] == "m"
    assert message["pid"] == message["state"]["pid"] == lab.state()["pid"]
    assert "seccomp notify" in os.readlink(f"/proc/self/fd/{fds[0]}")
    os.close(fds[0])
