"""Attacks by a container's processes on those that start, join, watch and end them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.hardening.conftest import SOURCE_PATH, Box, until
from tests.harness import SLOWER

from orlop.spec import capabilities

pytestmark = pytest.mark.root
ALL = list(capabilities.names(capabilities.ALL))
SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
USERNS: dict[str, Any] = {
    "linux__uidMappings": [{"containerID": 0, "hostID": 200000, "size": 65536}],
    "linux__gidMappings": [{"containerID": 0, "hostID": 200000, "size": 65536}],
}


def all_capabilities() -> dict[str, Any]:
    return {"process__capabilities": dict.fromkeys(SETS[:-1], ALL)}


def helper_digest() -> str:
    return hashlib.sha256((SOURCE_PATH / "orlop/_native/orlop-launch").read_bytes()).hexdigest()


def test_the_helper_is_not_overwritten_through_proc_exe(box: Box) -> None:
    """CVE-2019-5736, with every capability: a program that is `#!/proc/self/exe` makes the helper run again inside."""
    before = helper_digest()
    (box.rootfs / "bin/trap").write_text("#!/proc/self/exe\n")
    (box.rootfs / "bin/trap").chmod(0o755)
    box.watch("overwrite", str(60 * SLOWER), **all_capabilities())
    for _ in range(8):
        box("exec", box.id(), "/bin/trap", ok=None)
        box("exec", box.id(), "/bin/true", ok=None)
    found = box.found()
    assert any("memfd" in line for line in found), found  # it was there to be attacked
    assert not [line for line in found if "write ok" in line or "truncate ok" in line]
    assert all("memfd" in line for line in found if "found" in line), found
    assert helper_digest() == before
    assert "orlop-runtime" in box("--help").stdout


@pytest.mark.parametrize("kind", ["root", "user namespace"])
def test_the_joining_process_is_closed_to_those_inside(box: Box, kind: str) -> None:
    """Until it runs the container's program: no ptrace, no memory, no descriptors, no root, no environment."""
    changes: dict[str, Any] = {}
    if kind == "user namespace":
        changes = USERNS | all_capabilities()
        box.configure()
        changes["linux__namespaces"] = [*box.config()["linux"]["namespaces"], {"type": "user"}]
    for name in ("proc", "sys", "dev"):
        (box.rootfs / name).mkdir()
    box.watch("join", str(60 * SLOWER), "true", **changes)
    for _ in range(12):
        box("exec", box.id(), "/bin/true")
    found = box.found()
    assert not [line for line in found if "LEAK" in line]
    assert int(found[-1].split()[1]) > 0, found  # it was there to be attacked


def test_no_descriptor_passes(box: Box) -> None:
    """Whatever the caller had open."""
    leaked = [os.open("/", os.O_RDONLY | os.O_DIRECTORY) for _ in range(3)]
    leaked.append(os.dup2(leaked[0], 77))
    try:
        for fd in leaked:
            os.set_inheritable(fd, True)
        box.configure("/attack", "fds")
        assert box("run", "-b", str(box.bundle), box.id(), pass_fds=leaked).stdout == "0 1 2 \n"
        identifier = box.up()
        assert box("exec", identifier, "/attack", "fds", pass_fds=leaked).stdout == "0 1 2 \n"
    finally:
        for fd in leaked:
            os.close(fd)


@pytest.mark.parametrize("form", ["/proc/self/fd/{}", "/link{}", "/proc/self/fd/{}/..", "/proc/thread-self/fd/{}"])
def test_no_working_directory_by_a_descriptor(box: Box, form: str) -> None:
    """CVE-2024-21626: no number leads out, for `run` and `exec`, with a directory of the host open in the caller."""
    for number in range(16):
        (box.rootfs / f"link{number}").symlink_to(f"/proc/self/fd/{number}")
    leaked = [os.open("/", os.O_RDONLY | os.O_DIRECTORY) for _ in range(2)]
    try:
        identifier = box.up()
        for number in range(3, 13, 2 if "link" in form else 3):
            words = ("exec", "--cwd", form.format(number), identifier, "sh", "-c", "ls -d etc/hostname; pwd")
            done = box(*words, ok=False, pass_fds=leaked)
            assert not done.stdout
        for number in range(3, 13, 4):
            box.configure("pwd", process__cwd=form.format(number))
            assert not box("run", "-b", str(box.bundle), box.id("r"), ok=False, pass_fds=leaked).stdout
    finally:
        for fd in leaked:
            os.close(fd)


def test_a_directory_as_standard_input_is_no_way_out(box: Box) -> None:
    """The one descriptor that does pass: as a working directory it is refused all the same."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE_PATH)}
    host = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        identifier = box.up()
        for cwd in ("/proc/self/fd/0", "/link"):
            (box.rootfs / "link").unlink(missing_ok=True)
            (box.rootfs / "link").symlink_to("/proc/self/fd/0")
            command = box.command("exec", "--cwd", cwd, identifier, "pwd")
            done = subprocess.run(
                command, stdin=host, capture_output=True, text=True, env=environment, timeout=30 * SLOWER
            )
            assert done.returncode, done
            assert not done.stdout
    finally:
        os.close(host)


# --- files that exec looks at


@pytest.mark.parametrize("name", ["passwd", "group"])
@pytest.mark.parametrize("kind", ["fifo", "directory", "endless", "garbage", "link out", "link to device"])
def test_exec_with_hostile_files_of_users(box: Box, name: str, kind: str) -> None:
    """They neither stop `exec`, nor make it read a file of the host."""
    file = box.rootfs / "etc" / name
    (box.outside / "canary").write_text("canary")
    secret = box.bundle / "secret"
    secret.write_text("root:x:0:0::/of-the-host:/bin/sh\n")
    match kind:
        case "fifo":
            os.mkfifo(file)
        case "directory":
            file.mkdir()
        case "endless":
            with file.open("wb") as stream:
                stream.truncate(1 << 40)
        case "garbage":
            file.write_bytes(b"root:x:0:0\n\xff\xfe:::::\nroot:x:-1:99999999999999999999:::\n" + b"a" * 100_000)
        case "link out":
            file.symlink_to(secret)
        case "link to device":
            file.symlink_to("/dev/zero")
    started = time.monotonic()
    identifier = box.up()
    done = box("exec", identifier, "sh", "-c", "echo home=$HOME", ok=None)
    assert time.monotonic() - started < 15 * SLOWER
    assert "of-the-host" not in done.stdout
    assert done.returncode == 0 or done.stderr.count("\n") == 1


def test_exec_where_the_shell_is_a_link_out(box: Box) -> None:
    script = box.outside.parent / "evil"
    script.write_bytes(Path("/bin/busybox").read_bytes())
    script.chmod(0o755)
    (box.rootfs / "bin/evil").symlink_to(f"../../../../../../../..{script}")
    identifier = box.up()
    assert box("exec", identifier, "/bin/evil", "true", ok=False).returncode != 0


def test_exec_where_proc_is_covered(box: Box) -> None:
    """Nothing that exec needs is looked up in the container's /proc."""
    mounts = [*box.mounts(), {"destination": "/proc", "type": "tmpfs", "source": "tmpfs"}]
    identifier = box.up(mounts=mounts, linux__maskedPaths=[], linux__readonlyPaths=[])
    assert box("exec", identifier, "echo", "joined").stdout == "joined\n"


# --- fork bombs


@pytest.mark.parametrize("verb", ["kill", "delete"])
def test_a_fork_bomb_ends(box: Box, verb: str) -> None:
    limits = {"pids": {"limit": 150}, "devices": [{"allow": False, "access": "rwm"}]}
    identifier = box.up("/attack", "bomb", linux__resources=limits)
    until(lambda: len(processes(identifier)) > 100)
    started = time.monotonic()
    box(*(("kill", "--all", identifier, "KILL") if verb == "kill" else ("delete", "--force", identifier)))
    until(lambda: not processes(identifier), 10)
    assert time.monotonic() - started < 15 * SLOWER


@pytest.mark.parametrize("verb", ["kill", "delete"])
def test_a_fork_bomb_without_a_pid_namespace_ends(box: Box, verb: str) -> None:
    """Here the first process's end takes nobody with it."""
    limits = {"pids": {"limit": 150}, "devices": [{"allow": False, "access": "rwm"}]}
    box.configure()
    kept = [n for n in box.config()["linux"]["namespaces"] if n["type"] != "pid"]
    identifier = box.up("/attack", "bomb", linux__resources=limits, linux__namespaces=kept)
    until(lambda: len(processes(identifier)) > 100)
    box(*(("kill", "--all", identifier, "KILL") if verb == "kill" else ("delete", "--force", identifier)))
    until(lambda: not processes(identifier), 10)


def processes(identifier: str) -> list[str]:
    """Living processes in the control groups of a container."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if not entry.isdigit() or identifier not in Path(f"/proc/{entry}/cgroup").read_text():
                continue
            if Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(entry)
        except OSError:
            continue
    return found


# --- secrets


def test_secrets_of_caller_and_container_stay_theirs(box: Box) -> None:
    """The caller's environment does not reach container or hooks; the container's is in no process title or open
    file of the state."""
    hook = {"path": "/bin/busybox", "args": ["sh", "-c", f"tr '\\0' '\\n' </proc/self/environ >>{box.bundle}/hooked"]}
    box.configure(
        "sh", "-c", "cat /proc/self/environ; sleep 1000", process__env=["PATH=/bin", "TOKEN=inside-secret"],
        hooks={"createRuntime": [hook], "createContainer": [hook], "poststart": [hook]},
    )  # fmt: skip
    box("run", "-d", "-b", str(box.bundle), box.id(), env={"SECRET": "outside-secret"})
    hooked = (box.bundle / "hooked").read_text()
    assert "outside-secret" not in hooked
    assert "inside-secret" not in hooked
    done = box("exec", box.id(), "sh", "-c", "cat /proc/self/environ /proc/1/environ", env={"SECRET": "outside-secret"})
    assert "inside-secret" in done.stdout
    assert "outside-secret" not in done.stdout
    titles = [title(entry) for entry in os.listdir("/proc") if entry.isdigit() and int(entry) != os.getpid()]
    assert not [one for one in titles if "inside-secret" in one]
    readable = [path for path in (box.root, *box.root.rglob("*")) if path.stat().st_mode & 0o066]
    assert not [path for path in readable if path.suffix != ".bpf"], readable


def title(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""
