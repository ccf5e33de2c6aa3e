"""What scripts and engines written for runc rely on, each as a behaviour of `orlop-runtime` on a real kernel."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.test_runtime_cli import SOURCE, Lab, has_ended, lab, lab_mounts, wait_for  # noqa: F401 - a fixture

from orlop.cgroups import apply as cgroups
from orlop.cgroups.facts import points

pytestmark = pytest.mark.root
IDS = [{"containerID": 0, "hostID": 100000, "size": 65536}]
USER = {
    "linux__namespaces": [{"type": n} for n in ("pid", "ipc", "uts", "mount", "cgroup", "network", "user")],
    "linux__uidMappings": IDS,
    "linux__gidMappings": IDS,
}


# --- environment, capabilities, JSON


def test_of_a_variable_given_twice_the_last_value_counts(lab: Lab) -> None:  # noqa: F811
    env = ["PATH=/bin", "ONE=two", "HOME=/over", "ONE=three", "HOME="]
    assert sorted(lab.run("busybox", "env", process__env=env).stdout.splitlines()) == [
        "HOME=/",
        "ONE=three",
        "PATH=/bin",
    ]


def test_a_null_is_a_field_that_is_absent(lab: Lab) -> None:  # noqa: F811
    assert lab.run("echo", "on", linux__timeOffsets=None, linux__devices=None, annotations=None).stdout == "on\n"


def test_an_unknown_capability_is_told_and_left_out(lab: Lab) -> None:  # noqa: F811
    capabilities = {"bounding": ["CAP_WINGS", "CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]}
    done = lab.run("grep", "CapBnd", "/proc/self/status", process__capabilities=capabilities)
    assert done.stdout.split()[1] == f"{1 << 5:016x}"
    assert "process.capabilities: 'CAP_WINGS' cannot be granted here and is left out" in done.stderr


def test_an_ambient_capability_without_its_sets_is_told(lab: Lab) -> None:  # noqa: F811
    kill = ["CAP_KILL", "CAP_CHOWN"]
    sets = {"bounding": kill, "permitted": kill, "effective": kill, "inheritable": kill[:1], "ambient": kill}
    done = lab.run("grep", "CapAmb", "/proc/self/status", process__capabilities=sets)
    assert done.stdout.split()[1] == f"{1 << 5:016x}"
    assert "can't raise ambient capability CAP_CHOWN: " in done.stderr


def test_exec_adds_capabilities_to_the_ambient_set_where_something_is_inheritable(lab: Lab) -> None:  # noqa: F811
    kill = ["CAP_KILL"]
    inherits = {"bounding": kill, "permitted": kill, "effective": kill, "inheritable": [*kill, "CAP_CHOWN"]}
    identifier = lab.up(process__capabilities=inherits | {"bounding": [*kill, "CAP_CHOWN"]})
    status = lab("exec", "--cap", "CAP_CHOWN", identifier, "grep", "CapAmb", "/proc/self/status").stdout
    assert status.split()[1] == f"{1:016x}"


# --- what is asked about the program


def test_help_and_version_have_the_lines_that_are_looked_for(lab: Lab) -> None:  # noqa: F811
    for words, name in ((("-h",), "orlop-runtime"), (("exec", "-h"), "orlop-runtime exec")):
        page = lab(*words).stdout.splitlines()
        assert page[0] == "NAME:"
        assert page[1].startswith(f"   {name} - ")
        assert page[3].startswith("Usage: orlop-runtime [OPTION...] ")
    version = lab("--version", env={"ORLOP_RUNTIME_NAME": "runc"}).stdout.splitlines()
    project = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text())["project"]
    assert version[0] == f"runc version {project['version']}"
    assert {line.split()[0] for line in version[1:-1]} - {"commit:"} == {"spec:"}


def test_features_names_the_annotations_that_change_what_is_done(lab: Lab) -> None:  # noqa: F811
    named = json.loads(lab("features").stdout)["potentiallyUnsafeConfigAnnotations"]
    assert {"org.criu.config", "org.systemd.property.", "run.oci.hooks.stdout"} <= set(named)


def test_the_state_directory_has_the_file_that_crun_has(lab: Lab) -> None:  # noqa: F811
    identifier = lab.up()
    found, state = json.loads((lab.root / identifier / "status").read_text()), lab.state()
    assert (found["pid"], found["bundle"]) == (state["pid"], state["bundle"])
    assert found["rootfs"] == str(lab.rootfs)
    assert found["cgroup-path"].endswith(identifier)
    assert json.loads(found["external_descriptors"])[0] == "/dev/null"


# --- exit codes and signals


def test_an_error_of_exec_is_told_from_the_status_of_its_process(lab: Lab) -> None:  # noqa: F811
    identifier = lab.up()
    assert lab("exec", identifier, "sh", "-c", "exit 1", ok=False).returncode == 1
    assert lab("exec", identifier, "/nosuch", ok=False).returncode == 255
    assert lab("exec", "nobody", "true", ok=False).returncode == 255
    lab("pause", identifier)
    refused = lab("exec", identifier, "true", ok=False)
    assert refused.returncode == 255
    assert "cannot exec in a paused container" in refused.stderr


def test_signal_zero_finds_out_whether_there_is_a_process(lab: Lab) -> None:  # noqa: F811
    identifier = lab.up()
    lab("kill", identifier, "0")
    lab("kill", identifier, "KILL")
    wait_for(lambda: lab.state()["status"] == "stopped")
    assert "container not running" in lab("kill", identifier, "0", ok=False).stderr
    lab("kill", "-a", identifier, "0")


@pytest.mark.parametrize("name", ["HUP", "INT", "TERM"])
def test_a_container_that_waits_for_start_ends_by_the_usual_signals(lab: Lab, name: str) -> None:  # noqa: F811
    """Process 1 of a namespace has only the signals that it has handlers for (pid_namespaces(7))."""
    lab.configure("true")
    lab("create", "-b", str(lab.bundle), lab.id())
    lab("kill", lab.id(), name)
    wait_for(lambda: lab.state()["status"] == "stopped")
    assert lab("start", lab.id(), ok=False).returncode == 1


def test_kill_reaches_those_who_have_outlived_the_first_process(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    own = [{"type": n} for n in ("ipc", "uts", "mount", "cgroup", "network")]
    identifier = lab.up(linux__namespaces=own)
    lab("exec", "-d", "--pid-file", str(tmp_path / "pid"), identifier, "sleep", "1000")
    os.kill(lab.state()["pid"], 9)
    wait_for(lambda: lab.state()["status"] == "stopped")
    assert "container not running" in lab("kill", identifier, "TERM", ok=False).stderr
    lab("kill", identifier, "KILL")
    wait_for(lambda: has_ended(int((tmp_path / "pid").read_text())))
    assert "container not running" in lab("kill", identifier, "KILL", ok=False).stderr


def test_a_script_whose_interpreter_is_missing_is_told_as_that(lab: Lab) -> None:  # noqa: F811
    (lab.rootfs / "run.sh").write_text("#!/no/such/shell\n")
    (lab.rootfs / "run.sh").chmod(0o755)
    told = "exec /run.sh: no such file or directory: the interpreter of /run.sh is missing"
    assert told in lab.run("/run.sh", ok=False).stderr


# --- descriptors


def test_a_pidfd_is_sent_to_a_socket(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        lab.configure("sleep", "1000")
        lab("create", "-b", str(lab.bundle), "--pidfd-socket", str(tmp_path / "s"), lab.id())
        assert _received_pid(server) == lab.state()["pid"]
        lab("start", lab.id())
        file = tmp_path / "pid"
        lab("exec", "-d", "--pidfd-socket", str(tmp_path / "s"), "--pid-file", str(file), lab.id(), "sleep", "9")
        assert _received_pid(server) == int(file.read_text())
    done = lab("exec", "--pidfd-socket", str(tmp_path / "none"), lab.id(), "true", ok=False)
    assert f"--pidfd-socket: connect to {tmp_path / 'none'}" in done.stderr


def _received_pid(server: socket.socket) -> int:
    connection, _ = server.accept()
    with connection:
        _, (pidfd,), _, _ = socket.recv_fds(connection, 64, 1)
    try:
        lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    finally:
        os.close(pidfd)
    return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))


def test_what_waits_for_start_holds_nothing_of_its_making(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        (lab.rootfs / "hidden").mkdir()
        lab.configure("true", process__terminal=True, linux__maskedPaths=["/hidden", "/proc/kcore"])
        lab("create", "-b", str(lab.bundle), "--console-socket", str(tmp_path / "s"), lab.id())
        pid = lab.state()["pid"]
        held = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    assert all(target.startswith(("/dev/pts/0", "socket:", "/memfd:")) or "exec.fifo" in target for target in held)


# --- control groups


@pytest.fixture
def group(lab: Lab) -> Iterator[str]:  # noqa: F811
    """A group that is there before its container."""
    path = f"/orlop/{lab.id('before')}"
    cgroups.create(cgroups.probe(), path)
    yield path
    cgroups.thaw(cgroups.probe(), path)
    cgroups.remove(cgroups.probe(), path)


def test_a_frozen_group_is_refused(lab: Lab, group: str) -> None:  # noqa: F811
    """Its first process would stand still for ever."""
    cgroups.freeze(cgroups.probe(), group)
    done = lab.run("true", ok=False, linux__cgroupsPath=group)
    assert f"container's cgroup unexpectedly frozen: {group}" in done.stderr


def test_a_group_that_others_use_is_refused_and_left_to_them(lab: Lab) -> None:  # noqa: F811
    """Also where they are in one hierarchy only, and the container's process is born in its group in another."""
    host = cgroups.probe()
    point = host.mounts.get("pids") or host.unified
    path = f"/orlop/{lab.id('others')}"
    theirs = Path(point + path)
    theirs.mkdir(parents=True)
    with subprocess.Popen(["sleep", "1000"]) as other:
        try:
            (theirs / "cgroup.procs").write_text(str(other.pid))
            done = lab.run("true", ok=False, linux__cgroupsPath=path)
            assert f"container's cgroup is not empty: {theirs}" in done.stderr
            assert other.poll() is None
            assert [each for each in points(host) if Path(each + path).exists()] == [point]
        finally:
            other.kill()
            other.wait()
            cgroups.remove(host, path)


def test_no_limit_on_memory_takes_off_that_on_swap_too(lab: Lab) -> None:  # noqa: F811
    identifier = lab.up(linux__resources={"memory": {"limit": 32 << 20, "swap": 64 << 20}})
    lab("update", "--memory", "-1", identifier)
    found = json.loads(lab("events", "--stats", identifier).stdout)["data"]["memory"]
    assert found["usage"]["limit"] > 1 << 60


# --- processors


def test_the_affinity_of_the_caller_is_not_the_containers(lab: Lab) -> None:  # noqa: F811
    whole = os.sched_getaffinity(0)
    if len(whole) < 2:
        pytest.skip("one processor")
    script = ["grep", "Cpus_allowed_list", "/proc/self/status"]
    expected = next(line for line in Path("/proc/self/status").read_text().splitlines() if "Cpus_allowed_list" in line)
    lab.configure("sleep", "1000")
    os.sched_setaffinity(0, {min(whole)})
    try:
        lab("run", "-d", "-b", str(lab.bundle), lab.id())
        assert lab("exec", lab.id(), *script).stdout.strip() == expected
        lab.configure(*script)
        assert lab("run", "-b", str(lab.bundle), lab.id("other")).stdout.strip() == expected
    finally:
        os.sched_setaffinity(0, whole)


# --- mounts


def options_of(lab: Lab, path: str, **changes: Any) -> set[str]:  # noqa: F811
    line = lab.sh(f"grep ' {path} ' /proc/mounts | tail -1", **changes)
    return set(line.split()[3].split(","))


def test_a_tmpfs_has_the_mode_of_what_it_hides(lab: Lab) -> None:  # noqa: F811
    (lab.rootfs / "private").mkdir(mode=0o710)
    mounts = [
        *lab_mounts(),
        {"destination": "/private", "type": "tmpfs", "options": ["nosuid", "lazytime"]},
        {"destination": "/own", "type": "tmpfs", "options": ["mode=1500"]},
        {"destination": "/new/one", "type": "tmpfs"},
    ]
    assert lab.sh("stat -c %a /private /own /new/one", mounts=mounts).split() == ["710", "1500", "1777"]
    assert {"mode=710", "nosuid"} <= options_of(lab, "/private", mounts=mounts)


def test_masked_directories_share_one_file_system(lab: Lab) -> None:  # noqa: F811
    names = ("/a", "/b", "/c")
    for name in names:
        (lab.rootfs / name[1:]).mkdir()
        (lab.rootfs / name[1:] / "secret").touch()
    script = "stat -c %d /a /b /c; ls -A /a /b /c; touch /b/x"
    output = lab.sh(script, ok=False, linux__maskedPaths=list(names)).split()
    assert len(set(output[:3])) == 1
    assert output[3:] == ["/a:", "/b:", "/c:"]


@pytest.mark.parametrize("link", ["/tmp/hosts", "/tmp/far/away/hosts", "../tmp/hosts", "/jump/hosts"])
def test_a_file_is_bound_where_a_link_to_nothing_leads(lab: Lab, tmp_path: Path, link: str) -> None:  # noqa: F811
    (tmp_path / "source").write_text("source")
    (lab.rootfs / "etc/hosts").symlink_to(link)
    (lab.rootfs / "jump").symlink_to("/tmp/not/yet")
    mounts = [*lab_mounts(), {"destination": "/etc/hosts", "source": str(tmp_path / "source"), "options": ["bind"]}]
    assert lab.sh("cat /etc/hosts", mounts=mounts) == "source"


@pytest.fixture
def strict_source(tmp_path: Path) -> Iterator[Path]:
    """A directory that is mounted with all that a bind may keep or take off."""
    source = tmp_path / "strict"
    source.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "nosuid,nodev,noexec,noatime", "tmpfs", source],
        check=True,
    )
    yield source
    subprocess.run(["umount", source], check=True)


@pytest.mark.parametrize(
    ("options", "there", "gone"),
    [
        (["bind", "rprivate"], {"nosuid", "nodev", "noexec", "noatime", "rw"}, {"ro"}),
        (["bind", "ro"], {"ro", "noatime"}, {"nosuid", "nodev", "noexec"}),
        (["bind", "nosuid", "dev"], {"nosuid", "rw", "noatime"}, {"nodev", "noexec"}),
        (["bind", "atime"], {"noatime", "rw"}, {"nosuid"}),
        (["bind", "relatime"], {"relatime"}, {"noatime", "nosuid"}),
        (["bind", "nodiratime"], {"nodiratime", "relatime"}, {"noatime"}),
        (["bind", "strictatime"], {"rw"}, {"noatime", "relatime"}),
    ],
)
def test_a_bind_with_options_has_these_and_no_others(
    lab: Lab,  # noqa: F811
    strict_source: Path,
    options: list[str],
    there: set[str],
    gone: set[str],
) -> None:
    mounts = [*lab_mounts(), {"destination": "/bound", "source": str(strict_source), "options": options}]
    found = options_of(lab, "/bound", mounts=mounts)
    assert there <= found
    assert not gone & found


def test_in_a_user_namespace_a_bind_keeps_what_is_not_taken_off_by_name(
    lab: Lab,  # noqa: F811
    strict_source: Path,
) -> None:
    os.chown(lab.rootfs, 100000, 100000)
    mount = {"destination": "/bound", "source": str(strict_source), "options": ["bind", "ro"]}
    found = options_of(lab, "/bound", mounts=[*lab_mounts(), mount], **USER)
    assert {"ro", "nosuid", "nodev", "noexec", "noatime"} <= found


def test_without_pivoting_no_whole_proc_of_the_host_is_left(lab: Lab) -> None:  # noqa: F811
    """With one in the namespace the kernel would let a user namespace below mount another, with nothing masked."""
    lab.configure("sh", "-c", "unshare -mrpf sh -c 'mount -t proc none /proc && echo exposed'")
    config = lab.config()
    config["linux"]["maskedPaths"] = ["/proc/kcore"]
    config["process"]["capabilities"] = {k: ["CAP_SETFCAP"] for k in ("bounding", "permitted", "effective")}
    (lab.bundle / "config.json").write_text(json.dumps(config))
    (lab.rootfs / "bin/unshare").exists() or (lab.rootfs / "bin/unshare").symlink_to("busybox")
    done = lab("run", "--no-pivot", "-b", str(lab.bundle), lab.id(), ok=False)
    assert "exposed" not in done.stdout
    assert "ermission denied" in done.stderr or "not permitted" in done.stderr


def test_a_mount_has_the_mappings_of_a_user_namespace_that_is_joined(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").touch()
    os.chown(lab.rootfs, 100000, 100000)
    lab.up(**USER)
    pid = lab.state()["pid"]
    joined = [n | ({"path": f"/proc/{pid}/ns/user"} if n["type"] == "user" else {}) for n in USER["linux__namespaces"]]
    mount = {"destination": "/data", "source": str(source), "options": ["bind", "idmap"]}
    lab.configure("stat", "-c", "%u:%g", "/data/file", linux__namespaces=joined, mounts=[*lab_mounts(), mount])
    assert lab("run", "-b", str(lab.bundle), lab.id("two")).stdout == "0:0\n"


# --- hooks


def test_hooks_in_the_container_work_in_its_root(lab: Lab) -> None:  # noqa: F811
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "touch ./bin/made; test -e ./proc/self"]}
    lab.run("true", hooks={"createContainer": [hook]})
    assert (lab.rootfs / "bin/made").exists()


def test_a_start_hook_has_the_environment_of_the_process(lab: Lab) -> None:  # noqa: F811
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "echo $ONE $HOME > /told"]}
    lab.run("true", hooks={"startContainer": [hook]}, process__env=["PATH=/bin", "ONE=two"])
    assert (lab.rootfs / "told").read_text() == "two /\n"


@pytest.mark.parametrize("name", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"])
def test_a_failed_hook_is_named_by_kind_and_number(lab: Lab, name: str) -> None:  # noqa: F811
    done = lab.run("sleep", "5", ok=False, hooks={name: [{"path": "/bin/true"}, {"path": "/bin/false"}]})
    assert f"hooks.{name}[1]: error running {name} hook #1: " in done.stderr


# --- templates


def test_the_template_names_the_users_ids(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    lab("spec", "-b", str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["process"]["user"] == {"uid": 0, "gid": 0}
    assert ({"type": "cgroup"} in config["linux"]["namespaces"]) == (cgroups.probe().mode == "v2")
