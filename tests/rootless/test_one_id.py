"""An ordinary user with one id, its own, and no rights to control groups."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.harness import SLOWER, Terminal, wait_for
from tests.rootless.conftest import GID, UID, User


def test_runs_as_root_of_a_namespace_that_maps_its_own_id(user: User) -> None:
    out = user.sh("id; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups")
    assert out.split() == f"uid=0 gid=0 0 {UID} 1 0 {GID} 1 deny".split()


def test_devices_are_bound_and_usable(user: User) -> None:
    out = user.sh("echo x > /dev/null; test -c /dev/zero -a -c /dev/full -a -c /dev/urandom && readlink /dev/ptmx")
    assert out == "pts/ptmx"
    assert "nosuid,noexec" in user.sh("grep ' /dev/null ' /proc/mounts")


def test_a_terminal_where_ptmx_is_asked_for(user: User) -> None:
    ptmx = {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2}
    assert user.sh("readlink /dev/ptmx; echo x > /dev/ptmx", linux__devices=[ptmx]) == "pts/ptmx"


def test_sysfs_in_the_hosts_network_is_what_the_host_has(user: User) -> None:
    """A new one would take rights over the network namespace, and its mounts can't be left out."""
    spec = user.configure("sh", "-c", "ls -d /sys/class/net; grep -c ' /sys[/ ].* rw,' /proc/mounts")
    spec["mounts"] = [
        {"destination": "/proc", "type": "proc"},
        {"destination": "/sys", "type": "sysfs", "options": ["ro"]},
    ]
    spec["linux"]["namespaces"] = [one for one in spec["linux"]["namespaces"] if one["type"] != "network"]
    user.write(spec)
    done = user("run", user.id(), code=1)
    assert done.stdout == "/sys/class/net\n0\n"


def test_a_life_in_the_users_runtime_directory(user: User) -> None:
    user.configure("sleep", "1000")
    user("create", user.id())
    assert (user.runtime_directory / "orlop-runtime" / user.id() / "state.json").stat().st_uid == UID
    state = user.state()
    assert state["status"] == "created"
    assert state["owner"] == f"#{UID}"
    assert "created, and only root gets in" in user.refused("exec", user.id(), "true")
    user("start", user.id())
    assert user.state()["status"] == "running"
    assert user.out("exec", user.id(), "id") == "uid=0 gid=0"
    assert json.loads(user.out("ps", "--format", "json", user.id())) == [state["pid"]]
    assert user.refused("delete", user.id()).startswith("cannot delete")
    user("kill", user.id(), "KILL")
    wait_for(lambda: user.state()["status"] == "stopped", "the end")
    user("delete", user.id())
    assert user.identifiers() == []


def test_a_created_container_is_killed_and_deleted(user: User) -> None:
    user.configure("true")
    user("create", user.id())
    assert len(json.loads(user.out("ps", "--format", "json", user.id()))) == 1
    user("kill", user.id(), "KILL")
    wait_for(lambda: user.state()["status"] == "stopped", "the end")
    user("delete", user.id())


def test_exit_status_and_signals_of_the_foreground(user: User) -> None:
    user.configure("sh", "-c", "exit 7")
    user("run", user.id(), code=7)
    user.configure("/missing")
    assert "/missing" in user("run", user.id(), code=1).stderr
    user.configure("sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done")
    process = subprocess.Popen(
        user.as_user(*user.command("run", user.id())),
        env=user.environment,
        cwd=user.bundle,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10 * SLOWER) == 9


def test_all_processes_are_found_without_a_control_group(user: User) -> None:
    user.up("sh", "-c", "sleep 1000 & sleep 1000 & wait")
    wait_for(lambda: len(json.loads(user.out("ps", "-f", "json", user.id()))) == 3, "the processes")
    user("exec", "-d", user.id(), "sleep", "1000")
    found = json.loads(user.out("ps", "-f", "json", user.id()))
    assert len(found) == 4
    lines = user.out("ps", user.id(), "-o", "pid,args").splitlines() if Path("/bin/ps").exists() else []
    assert not lines or sum("sleep 1000" in line for line in lines) >= 3
    user("kill", "--all", user.id(), "KILL")
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in found), "the end of all")


def test_processes_that_nothing_tells_apart_are_not_guessed(user: User) -> None:
    names = [{"type": name} for name in ("user", "mount", "ipc", "uts", "cgroup")]
    mounts = [{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}]
    user.up(linux__namespaces=names, mounts=mounts, linux__maskedPaths=[], linux__readonlyPaths=[])
    assert "no control group or PID namespace of its own" in user.refused("ps", user.id())
    assert "no control group or PID namespace" in user.refused("kill", "--all", user.id(), "TERM")
    user("delete", "--force", user.id())


@pytest.mark.parametrize(
    ("words", "act"),
    [(["pause"], "pause"), (["update", "--memory", "10m"], "update"), (["events", "--stats"], "watch")],
)
def test_what_needs_a_control_group_says_so(user: User, words: list[str], act: str) -> None:
    user.up()
    assert (
        user.refused(*words, user.id())
        == f"cannot {act} container {user.id()}: it has no control groups of its own"
    )  # fmt: skip
    assert user.state()["status"] == "running"


def test_limits_that_cannot_be_had_are_refused_by_name(user: User) -> None:
    user.configure("true", linux__resources={"memory": {"limit": 1 << 26}})
    said = user.refused("run", user.id())
    assert said.startswith("linux.resources.memory.limit: this user has no rights to a control group")
    user.configure("true", linux__resources={"pids": {"limit": 10}})
    assert user.refused("create", user.id()).startswith("linux.resources.pids.limit: ")
    assert user.identifiers() == []


def test_a_group_that_is_named_and_cannot_be_had_is_refused(user: User) -> None:
    user.configure("true", linux__cgroupsPath="/orlop/elsewhere")
    said = user.refused("run", user.id())
    assert re.match(r"linux\.cgroupsPath: this user may not make /orlop/elsewhere in /sys/fs/cgroup", said)


def test_device_rules_alone_are_no_limit(user: User) -> None:
    assert user.run("echo", "x", linux__resources={"devices": [{"allow": False, "access": "rwm"}]}) == "x"


def test_rootless_false_does_without_nothing(user: User) -> None:
    user.configure("echo", "x")
    assert user.refused("--rootless=false", "run", user.id()).startswith("create cgroup /sys/fs/cgroup/")
    for word in ("true", "auto", "1"):
        assert user.out("--rootless", word, "run", user.id()) == "x"
    assert user.refused("--rootless=perhaps", "list") == "--rootless: 'perhaps' is not true, false or auto"


def test_state_needs_a_place_of_the_users_own(user: User) -> None:
    assert user.refused("list", env={"XDG_RUNTIME_DIR": ""}) == "--root: is needed where $XDG_RUNTIME_DIR is not set"


def test_the_state_of_another_user_is_refused(user: User) -> None:
    """What a user writes into its state could name any process, group or hook: not for root to act on."""
    user.up()
    root = user.runtime_directory / "orlop-runtime"
    for words in (["state"], ["kill"], ["delete", "--force"], ["exec"]):
        done = subprocess.run(
            [sys.executable, "-m", "orlop.cli.runtime", "--root", str(root), *words, user.id(), "TERM"][
                : None if words[0] in ("kill", "exec") else -1
            ],
            env=os.environ | {"PYTHONPATH": str(user.program)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == (255 if words[0] == "exec" else 1)
        assert f"belongs to the user with the id {UID}; act as that one" in done.stderr
    assert user.state()["status"] == "running"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"linux__namespaces": [{"type": "mount"}, {"type": "uts"}]},
            f"linux.namespaces: the user {UID} has no rights of root",
        ),
        ({"process__user": {"uid": 1, "gid": 0}}, "process.user.uid: 1 is not mapped in linux.uidMappings"),
        ({"process__user": {"uid": 0, "gid": 7}}, "process.user.gid: 7 is not mapped in linux.gidMappings"),
        ({"process__user": {"uid": 0, "gid": 0, "additionalGids": [0]}}, "process.user.additionalGids: groups can't"),
        (
            {"mounts": [{"destination": "/dev/pts", "type": "devpts", "options": ["gid=5"]}]},
            "mounts[0].options: gid=5 is not mapped in linux.gidMappings; leave it out",
        ),
        (
            {"mounts": [{"destination": "/tmp", "source": "/tmp", "type": "bind", "options": ["bind", "idmap"]}]},
            "mounts[0]: to map ids of a mount takes root's rights",
        ),
    ],
)
def test_what_a_user_cannot_have_is_refused_by_name(user: User, changes: dict[str, object], said: str) -> None:
    maps = {"linux__uidMappings": [], "linux__gidMappings": []} if "linux__namespaces" in changes else {}
    user.configure("true", **changes, **maps)
    assert user.refused("run", user.id()).startswith(said)


def test_the_ids_of_others_are_not_to_be_had(user: User) -> None:
    """Nor does newuidmap give them: it knows no subordinate ids of this user."""
    for host in (0, UID + 1):
        user.configure("true", linux__uidMappings=[{"containerID": 0, "hostID": host, "size": 1}])
        said = user.refused("run", user.id())
        assert said.startswith("linux.uidMappings: newuidmap"), said
    user.configure("true", linux__gidMappings=[{"containerID": 0, "hostID": 0, "size": 1}])
    assert user.refused("run", user.id()).startswith("linux.gidMappings: newgidmap")
    assert user.identifiers() == []


def test_without_newuidmap_the_error_names_it(user: User) -> None:
    maps = [{"containerID": 0, "hostID": UID, "size": 2}]
    user.configure("true", linux__uidMappings=maps)
    said = user.refused("run", user.id(), env={"PATH": "/nowhere"})
    assert said.startswith(f"linux.uidMappings: newuidmap is needed to map more than this user's own id {UID}")


def test_a_terminal_in_the_foreground(user: User) -> None:
    user.configure("sh", "-c", "tty; stty size", process__terminal=True)
    words = ["env", "-i", *(f"{k}={v}" for k, v in user.environment.items()), *user.command("run", user.id())]
    terminal = Terminal(["/usr/bin/env", "-C", str(user.bundle), *user.as_user(*words)], rows=33, columns=77)
    try:
        assert "/dev/pts/0" in terminal.expect("33 77")
        assert terminal.wait() == 0
    finally:
        terminal.close()


def test_a_terminal_for_a_console_socket(user: User) -> None:
    user.configure("sh", "-c", "tty; ls -ln /dev/console; sleep 1000", process__terminal=True)
    path = str(user.directory / "console")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, 0o777)
        listener.listen()
        user("run", "-d", "--console-socket", path, user.id())
        connection, _ = listener.accept()
        with connection:
            _, fds, _, _ = socket.recv_fds(connection, 100, 1)
    seen = b""
    while b"console" not in seen:
        seen += os.read(fds[0], 1000)
    os.close(fds[0])
    assert b"/dev/pts/0" in seen
    with socket.socket(socket.AF_UNIX) as listener:
        os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o777)
        listener.listen()
        user("exec", "-d", "-t", "--console-socket", path, user.id(), "tty")
        connection, _ = listener.accept()
        with connection:
            _, fds, _, _ = socket.recv_fds(connection, 100, 1)
    assert os.read(fds[0], 1000).strip() == b"/dev/pts/1"
    os.close(fds[0])


def test_hooks_run_as_the_user(user: User) -> None:
    points = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    log = user.directory / "hooks"
    log.touch()
    os.chown(log, UID, GID)

    def hook(name: str) -> list[dict[str, object]]:
        place = "/log" if name == "startContainer" else log
        return [{"path": "/bin/sh", "args": ["sh", "-c", f"echo {name} $(id -u) >> {place}"]}]

    bind = {"destination": "/log", "type": "bind", "source": str(log), "options": ["bind"]}
    spec = user.configure("true", hooks={name: hook(name) for name in points})
    spec["mounts"].append(bind)
    user.write(spec)
    user("run", user.id())
    inside = ("createContainer", "startContainer")
    assert log.read_text().splitlines() == [f"{name} {0 if name in inside else UID}" for name in points]


def test_what_is_the_processs_own(user: User) -> None:
    limits = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]
    out = user.sh(
        "cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn; hostname; cat /proc/self/sessionid",
        process__oomScoreAdj=500,
        process__rlimits=limits,
    )
    assert out.split()[:4] == ["500", "100", "200", "orlop"]


def test_what_takes_root_is_refused_in_one_line(user: User) -> None:
    user.configure("true", process__oomScoreAdj=-500)
    assert user.refused("run", user.id()).startswith("process.oomScoreAdj (-500): write_file: EACCES")
    limits = [{"type": "RLIMIT_NICE", "soft": 40, "hard": 40}]
    user.configure("true", process__rlimits=limits)
    assert user.refused("run", user.id()).startswith("process.rlimits[0] (RLIMIT_NICE): ")
    assert user.identifiers() == []


def test_a_session_keyring_of_its_own(user: User) -> None:
    assert f"_ses.{user.id()}" in user.sh("cat /proc/keys", linux__maskedPaths=[])


def test_the_helper_is_closed_while_it_waits(user: User) -> None:
    """Its memory has what it was started with, and who shares a PID namespace with the container might be hostile."""
    user.configure("true")
    user("create", user.id())
    pid = user.state()["pid"]
    for name in ("environ", "mem", "fd/0", "root"):
        assert user.do("cat", f"/proc/{pid}/{name}", code=1).returncode == 1


def test_resources_of_a_plan_are_shown(user: User) -> None:
    user.configure("true")
    plan = user.out("plan")
    assert plan.index("PR_SET_DUMPABLE") < plan.index("Unshare(flags=CLONE_NEWUSER") < plan.index('Sync(name="idmaps"')
    assert plan.index('Sync(name="idmaps"') < plan.index("Unshare(flags=CLONE_NEWNS") < plan.index("OpenTree")
    assert "tasks" not in plan
