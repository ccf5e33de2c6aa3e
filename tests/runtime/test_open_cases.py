"""Cases of crun's suite that were open once: each as a behaviour of `orlop-runtime`, on a real kernel."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from tests.runtime.test_runtime_cli import SOURCE, Lab, lab  # noqa: F401 - a fixture

pytestmark = pytest.mark.root


def _run_with_descriptor(lab: Lab, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:  # noqa: F811
    """Run the container with descriptor 3 open; what a socket would be, /dev/zero is here."""
    words = " ".join(lab.command("run", *flags, "-b", str(lab.bundle), lab.id()))
    return subprocess.run(
        ["/bin/sh", "-c", f"exec {words} 3</dev/zero"],
        env={**os.environ, "PYTHONPATH": str(SOURCE)} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_streams_that_are_files_get_the_users_group_too(lab: Lab) -> None:  # noqa: F811
    done = lab.run("stat", "-Lc", "%u:%g", "/proc/self/fd/1", process__user={"uid": 65, "gid": 66})
    assert done.stdout == "65:66\n"
    assert Path("/dev/null").stat().st_uid == 0


@pytest.mark.parametrize(("named", "wanted"), [({}, "1 1\n"), ({"LISTEN_PID": "1"}, "unset unset\n")])
def test_sockets_are_passed_on_unless_they_are_another_process_s(lab: Lab, named: dict[str, str], wanted: str) -> None:  # noqa: F811
    lab.configure("sh", "-c", "echo ${LISTEN_FDS-unset} ${LISTEN_PID-unset}; test -c /proc/self/fd/3")
    done = _run_with_descriptor(lab, LISTEN_FDS="1", **named)
    assert (done.stdout, done.stderr) == (wanted, "")
    assert done.returncode == (1 if named else 0)


def test_descriptors_that_are_not_there_are_never_those_of_the_runtime(lab: Lab) -> None:  # noqa: F811
    lab.configure("sh", "-c", "echo ${LISTEN_FDS-unset}; ! test -e /proc/self/fd/4")
    assert _run_with_descriptor(lab, LISTEN_FDS="2").stdout == "unset\n"
    lab.configure("sh", "-c", "test -c /proc/self/fd/3 && ! test -e /proc/self/fd/4 && echo only 3")
    assert _run_with_descriptor(lab, "--preserve-fds=100").stdout == "only 3\n"


def test_devices_bound_in_a_user_namespace_give_no_privileges(lab: Lab) -> None:  # noqa: F811
    ids = [{"containerID": 0, "hostID": 0, "size": 65536}]
    namespaces = [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount", "user")]
    done = lab.run(
        "cat", "/proc/self/mountinfo",
        linux__uidMappings=ids, linux__gidMappings=ids, linux__namespaces=namespaces,
    )  # fmt: skip
    options = {line.split()[4]: line.split()[5].split(",") for line in done.stdout.splitlines()}
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        assert {"rw", "nosuid", "noexec"} <= set(options[f"/dev/{name}"])
        assert "nodev" not in options[f"/dev/{name}"]


def test_a_seccomp_agent_is_told_of_a_container_without_a_rule_that_notifies_too(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    """config-linux.md has it sent "when the SCMP_ACT_NOTIFY action is used"; an agent that counts containers, as with
    crun, would wait for ever."""
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        agent.listen()
        agent.settimeout(10)
        lab.run("true", linux__seccomp={"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": str(tmp_path / "agent")})
        connection, _ = agent.accept()
        with connection:
            message, fds, _, _ = socket.recv_fds(connection, 4096, 1)
        os.close(fds[0])
        assert json.loads(message)["state"]["id"] == lab.id()


def test_events_tell_the_limit_on_memory_and_swap(lab: Lab) -> None:  # noqa: F811
    lab.up(linux__resources={"memory": {"limit": 64 << 20, "swap": 96 << 20}})
    found = json.loads(lab("events", "--stats", lab.id()).stdout)["data"]["memory"]
    assert (found["usage"]["limit"], found["swap"]["limit"]) == (64 << 20, 96 << 20)


@pytest.mark.skipif(not Path("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists(), reason="no realtime groups of cgroup v1")
def test_realtime_runtime_that_the_group_above_lacks_is_told_as_that(lab: Lab) -> None:  # noqa: F811
    cpu = {"realtimeRuntime": 99000, "realtimePeriod": 100000}  # more than the root has
    done = lab.run("true", ok=False, linux__resources={"cpu": cpu}, linux__cgroupsPath=f"/orlop/{lab.id()}/inner")
    assert "cpu.realtimeRuntime: cannot set cpu.rt_runtime_us to '99000'" in done.stderr
    assert "the group above has less realtime runtime left" in done.stderr
    for group in Path("/sys/fs/cgroup").glob(f"*/orlop/{lab.id()}"):
        group.rmdir()


@pytest.mark.skipif(not Path("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists(), reason="no realtime groups of cgroup v1")
def test_realtime_runtime_is_given_to_the_groups_between(lab: Lab) -> None:  # noqa: F811
    cpu = {"realtimeRuntime": 1000, "realtimePeriod": 100000}
    inner = f"/orlop/{lab.id()}/inner"
    script = "cat /sys/fs/cgroup/cpu/cpu.rt_runtime_us"
    for _ in range(2):  # and not more each time
        done = lab.run("sh", "-c", script, linux__resources={"cpu": cpu}, linux__cgroupsPath=inner)
        assert done.stdout == "1000\n"
    assert Path(f"/sys/fs/cgroup/cpu/orlop/{lab.id()}/cpu.rt_runtime_us").read_text() == "10000\n"
    lab.run("true", process__scheduler={"policy": "SCHED_FIFO", "priority": 10}, linux__resources={"cpu": cpu})
    for group in Path("/sys/fs/cgroup").glob(f"*/orlop/{lab.id()}"):
        group.rmdir()
