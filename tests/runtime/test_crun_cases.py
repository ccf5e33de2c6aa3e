"""What crun's suite tries and Podman's users know of crun: each as a behaviour of `orlop-runtime`, on a real kernel."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.test_runtime_cli import SOURCE, Lab, lab  # noqa: F401 - a fixture

pytestmark = pytest.mark.root
USER = [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount", "user")]
ALL_IDS = [{"containerID": 0, "hostID": 0, "size": 4294967295}]


def _bind(lab: Lab, source: Path, target: str, *options: str, **changes: Any) -> None:  # noqa: F811
    lab.configure(**changes)
    mounts = lab.config()["mounts"]
    lab.configure(
        *changes.pop("args", ("sh", "-c", f"readlink {target} || cat {target}")),
        mounts=[*mounts, {"destination": target, "type": "bind", "source": str(source), "options": list(options)}],
        **changes,
    )


def _run(lab: Lab, ok: bool = True) -> subprocess.CompletedProcess[str]:  # noqa: F811
    return lab("run", "-b", str(lab.bundle), lab.id(), ok=ok)


# --- user namespaces


def test_a_user_namespace_without_mappings_has_the_callers_id_as_root(lab: Lab) -> None:  # noqa: F811
    proc = {"destination": "/proc", "type": "proc", "source": "proc"}
    lab.up(linux__namespaces=USER, mounts=[proc])  # the default devpts has group 5, which is not mapped
    script = "cat /proc/self/uid_map /proc/self/gid_map"
    lines = [line.split() for line in lab("exec", lab.id(), "sh", "-c", script).stdout.splitlines()]
    assert lines.count(["0", "0", "1"]) == 2


def test_a_user_namespace_leaks_no_mount_to_a_host_with_shared_mounts(lab: Lab) -> None:  # noqa: F811
    """As systemd makes it: everything shared. The root, copied outside, would still be a peer of the host's."""
    lab.configure("true", linux__namespaces=USER, linux__uidMappings=ALL_IDS, linux__gidMappings=ALL_IDS)
    command = " ".join(lab.command("run", "-b", str(lab.bundle), lab.id()))
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"mount --make-rshared / && {command} && grep {lab.rootfs} /proc/self/mountinfo"],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 1)


@pytest.mark.parametrize(("option", "sign"), [("rslave", "master:"), ("rshared", "shared:")])
def test_a_mount_with_its_own_propagation_keeps_the_hosts_peers(
    lab: Lab,  # noqa: F811
    tmp_path: Path,
    option: str,
    sign: str,
) -> None:
    args = ("cat", "/proc/self/mountinfo")
    _bind(lab, tmp_path, "/mnt", "bind", option, args=args, linux__rootfsPropagation="rprivate")
    command = " ".join(lab.command("run", "-b", str(lab.bundle), lab.id()))
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"mount --make-rshared / && {command}"],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    line = next(line for line in done.stdout.splitlines() if line.split()[4] == "/mnt")
    assert any(field.startswith(sign) for field in line.partition(" - ")[0].split())


def test_sysfs_is_the_hosts_where_the_network_is(lab: Lab) -> None:  # noqa: F811
    namespaces = [entry for entry in USER if entry["type"] != "network"]
    ids = {"linux__uidMappings": ALL_IDS, "linux__gidMappings": ALL_IDS}
    out = lab.sh("ls /sys/class/net; touch /sys/x 2>/dev/null || echo read-only", linux__namespaces=namespaces, **ids)
    assert {"lo", "read-only"} <= set(out.split())


# --- mounts


def test_a_link_is_bound_as_a_link_and_covers_one(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "file").write_text("inside the file")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (lab.rootfs / "target").symlink_to("points-to-nowhere")
    _bind(lab, tmp_path / "link", "/target", "bind", "dest-nofollow", "src-nofollow")
    assert _run(lab).stdout.strip() == str(tmp_path / "file")
    _bind(lab, tmp_path / "link", "/target", "bind", "dest-nofollow")
    assert _run(lab).stdout == "inside the file"
    assert not (lab.rootfs / "points-to-nowhere").exists()


def test_no_link_covers_what_the_kernel_says_in_proc(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "link").symlink_to("/anywhere")
    _bind(lab, tmp_path / "link", "/proc/self", "bind", "dest-nofollow", "src-nofollow")
    assert "dest-nofollow is not for /proc/self" in _run(lab, ok=False).stderr


def test_a_link_is_copied(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "link").symlink_to("points-to-nowhere")
    _bind(lab, tmp_path / "link", "/a/link", "rbind", "copy-symlink")
    assert _run(lab).stdout.strip() == "points-to-nowhere"


def test_a_file_is_made_where_a_link_points_to_nothing(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "file").write_text("through")
    (lab.rootfs / "etc/link").symlink_to("../foo/bar/not/here")
    _bind(lab, tmp_path / "file", "/etc/link", "bind", args=("cat", "/foo/bar/not/here"))
    assert _run(lab).stdout == "through"


def test_a_bind_mount_becomes_the_root(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "bin").mkdir()
    for name in ("busybox", "cat", "sh"):
        (tmp_path / "bin" / name).write_bytes((lab.rootfs / "bin/busybox").read_bytes())
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "note").write_text("another root")
    lab.configure()
    first = {"destination": "/", "type": "bind", "source": str(tmp_path), "options": ["bind"]}
    lab.configure("cat", "/note", mounts=[first, *lab.config()["mounts"]])
    assert _run(lab).stdout == "another root"


@pytest.mark.parametrize(("options", "mode"), [([], "712"), (["mode=1750"], "1750")])
def test_a_tmpfs_has_the_mode_of_its_directory(lab: Lab, options: list[str], mode: str) -> None:  # noqa: F811
    (lab.rootfs / "data").mkdir()
    (lab.rootfs / "data").chmod(0o712)
    lab.configure()
    tmpfs = {"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["ro", *options]}
    out = lab.run("stat", "-c", "%a", "/data", mounts=[*lab.config()["mounts"], tmpfs]).stdout
    assert out.strip() == mode


def test_ids_are_mapped_by_an_option(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "file").write_text("")
    tmp_path.chmod(0o755)
    option = "idmap=uids=0-1000-10;gids=0-2000-10"
    _bind(lab, tmp_path, "/mnt", "bind", option, args=("stat", "-c", "%u:%g", "/mnt/file"))
    assert _run(lab).stdout.strip() == "1000:2000"
    _bind(lab, tmp_path, "/mnt", "bind", "idmap=uids=0-1000")
    assert "mounts[7].options[1]" in _run(lab, ok=False).stderr


def test_the_same_file_system_twice_at_one_place(lab: Lab) -> None:  # noqa: F811
    lab.configure()
    queues = {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"}
    lab.run("true", mounts=[*lab.config()["mounts"], queues, queues])


# --- descriptors, annotations, command line


def test_a_descriptor_of_the_caller_is_not_taken_for_the_helpers(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    lab.configure("sh", "-c", "test ! -e /proc/self/fd/5")
    words = " ".join(lab.command("run", "-b", str(lab.bundle), lab.id()))
    subprocess.run(
        ["/bin/sh", "-c", f"exec {words} 5>{tmp_path}/log 6</dev/null"],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=True,
    )
    assert (tmp_path / "log").read_text() == ""


def test_the_callers_groups_are_kept_by_annotation(lab: Lab) -> None:  # noqa: F811
    lab.configure("grep", "Groups", "/proc/self/status", annotations={"run.oci.keep_original_groups": "1"})
    done = lab("run", "-b", str(lab.bundle), lab.id(), extra_groups=[1, 2, 345])
    assert done.stdout.split()[1:] == ["1", "2", "345"]


def test_hooks_write_to_the_files_that_annotations_name(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "echo out; echo err >&2"]}
    names = {"run.oci.hooks.stdout": str(tmp_path / "out"), "run.oci.hooks.stderr": str(tmp_path / "err")}
    done = lab.run("true", hooks={"prestart": [hook], "poststop": [hook]}, annotations=names)
    assert ((tmp_path / "out").read_text(), (tmp_path / "err").read_text()) == ("out\n" * 2, "err\n" * 2)
    assert (done.stdout, done.stderr) == ("", "")
    names["run.oci.hooks.stdout"] = str(tmp_path / "none/out")
    failed = lab.run("true", ok=False, hooks={"prestart": [hook]}, annotations=names)
    assert "annotations['run.oci.hooks.stdout']" in failed.stderr


def test_hooks_in_the_containers_namespaces_write_there_too(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "echo out; echo err >&2"]}
    names = {"run.oci.hooks.stdout": str(tmp_path / "out")}
    hooks = {"createContainer": [hook], "startContainer": [hook]}
    done = lab.run("sh", "-c", "echo own", hooks=hooks, annotations=names)
    assert (tmp_path / "out").read_text() == "out\n" * 2
    assert (done.stdout, done.stderr) == ("own\n", "err\n" * 2)


def test_unknown_system_calls_are_refused_by_annotation(lab: Lab) -> None:  # noqa: F811
    rule = {"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"}
    seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    lab.run("true", linux__seccomp=seccomp)
    strict = {"run.oci.seccomp_fail_unknown_syscall": "1"}
    done = lab.run("true", ok=False, linux__seccomp=seccomp, annotations=strict)
    assert "linux.seccomp.syscalls[0].names[1]: unknown system call 'no_such_call'" in done.stderr


def test_containers_are_deleted_by_a_regular_expression(lab: Lab) -> None:  # noqa: F811
    for name in ("one", "two", "other-three"):
        lab.up(name=name)
    assert "not stopped" in lab("delete", "--regex", f"^{lab.prefix}(one|two)$", ok=False).stderr
    lab("delete", "--force", "--regex", f"^{lab.prefix}(one|two)$")
    assert lab("list", "-q").stdout.split() == [lab.id("other-three")]
    assert "no regular expression" in lab("delete", "--regex", "(", ok=False).stderr


@pytest.mark.parametrize(
    ("scheduler", "error"),
    [
        ({"deadline": 20, "period": 20}, "runtime: sched_setattr: `SCHED_DEADLINE` requires `runtime`"),
        ({"runtime": 0, "deadline": 20}, "runtime must be greater than 0"),
        ({"runtime": 1023, "deadline": 2000}, "runtime (1023) must be between 1024 and"),
        ({"runtime": 3000, "deadline": 2000}, "runtime (3000) must be <= deadline (2000)"),
        ({"runtime": 2000, "deadline": 3000, "period": 2500}, "deadline (3000) must be <= period (2500)"),
    ],
)
def test_what_the_deadline_scheduler_takes_is_told(lab: Lab, scheduler: dict[str, int], error: str) -> None:  # noqa: F811
    done = lab.run("true", ok=False, process__scheduler={"policy": "SCHED_DEADLINE", **scheduler})
    assert "process.scheduler." in done.stderr
    assert error in done.stderr


# --- control groups, devices


def _without_groups(lab: Lab, *words: str, ok: bool = True) -> subprocess.CompletedProcess[str]:  # noqa: F811
    return lab("--cgroup-manager=disabled", *words, ok=ok)


def test_a_container_without_control_groups(lab: Lab) -> None:  # noqa: F811
    before = Path("/proc/self/cgroup").read_text()
    lab.configure()
    mounts = [mount for mount in lab.config()["mounts"] if mount["type"] != "cgroup"]
    bare = {
        "mounts": mounts,
        "linux__resources": {},
        "linux__namespaces": [{"type": name} for name in ("pid", "mount")],
        "hostname": "",
    }
    lab.configure("cat", "/proc/self/cgroup", **bare)
    assert _without_groups(lab, "run", "-b", str(lab.bundle), lab.id()).stdout == before
    lab.configure("sleep", "1000", **bare)
    _without_groups(lab, "run", "-d", "-b", str(lab.bundle), lab.id())
    assert lab.state()["status"] == "running"
    assert lab("exec", lab.id(), "cat", "/proc/self/cgroup").stdout == before
    for words in (("pause", lab.id()), ("events", "--stats", lab.id())):
        assert "has no control groups" in lab(*words, ok=False).stderr
    assert "has no control groups" in lab("update", "--memory", "1000000", lab.id(), ok=False).stderr
    lab("kill", "--all", lab.id(), "KILL")
    lab("delete", "--force", lab.id())
    assert not list(Path("/sys/fs/cgroup").glob(f"*/orlop/{lab.id()}"))


def test_without_control_groups_nothing_is_limited_in_silence(lab: Lab) -> None:  # noqa: F811
    words = ("run", "-b", str(lab.bundle), lab.id())
    lab.configure("true", linux__resources={"pids": {"limit": 5}})
    assert "linux.resources: cannot be without control groups" in _without_groups(lab, *words, ok=False).stderr
    lab.configure("true", linux__resources={"devices": [{"allow": False, "access": "rwm"}]})
    assert "warning: linux.resources.devices" in _without_groups(lab, *words).stderr
    namespaces = [{"type": name} for name in ("pid", "mount")]
    lab.configure("true", linux__resources={}, linux__namespaces=namespaces, hostname="")  # it mounts them
    assert "give it a cgroup namespace" in _without_groups(lab, *words, ok=False).stderr


@pytest.mark.skipif(
    tuple(map(int, os.uname().release.split(".")[:2])) < (6, 15), reason="mounts can't be copied from detached ones"
)
def test_a_device_that_the_host_lacks_is_made_in_a_user_namespace(lab: Lab) -> None:  # noqa: F811
    device = {"path": "/dev/foo", "type": "c", "major": 1, "minor": 5, "uid": 10, "gid": 11, "fileMode": 0o157}
    ids = [{"containerID": first, "hostID": host, "size": size} for first, host, size in ((0, 0, 10), (10, 2010, 100))]
    owned = {"linux__uidMappings": ids, "linux__gidMappings": ids, "linux__namespaces": USER}
    out = lab.sh("stat -c %u:%g:%a:%F /dev/foo; head -c 3 /dev/foo | wc -c", linux__devices=[device], **owned)
    assert out.split("\n")[:2] == ["10:11:157:character special file", "3"]
    done = lab.run("true", ok=False, linux__devices=[{**device, "uid": 70000}], **owned)
    assert "linux.devices[0].uid: 70000 is not mapped" in done.stderr
    assert not Path("/dev/foo").exists()


@pytest.mark.skipif(not Path("/sys/fs/cgroup/pids").is_dir(), reason="hierarchies of cgroup v1")
def test_exec_joins_a_group_that_is_in_one_hierarchy_only(lab: Lab) -> None:  # noqa: F811
    identifier = lab.up()
    group = Path(f"/sys/fs/cgroup/pids/orlop/{identifier}/foo")
    group.mkdir()
    lines = lab("exec", "--cgroup=foo", identifier, "cat", "/proc/self/cgroup").stdout.splitlines()
    assert [line for line in lines if line.endswith("/foo")] == [line for line in lines if ":pids:" in line]
    refused = lab("exec", "--cgroup=foo/../../outside", identifier, "true", ok=False)
    assert "foo/../../outside is not a sub cgroup path: `..` components are not allowed" in refused.stderr
