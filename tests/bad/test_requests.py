"""Requests that make no sense: one line, Docker's exit code, nothing left; the library says the same."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.harness import Orlop, wait_for

from orlop.engine.config import ContainerConfig, DeviceRequest, Limits, MountRequest, NetworkRequest, PortBinding
from orlop.engine.engine import Engine
from orlop.spec.errors import OrlopError

# what is wrong in itself
RUN = [
    (("-p", "99999:80", "busybox"), "99999"),
    (("-p", "80:99999", "busybox"), "99999"),
    (("-p", "a:b", "busybox"), ""),
    (("-p", "1-3:1-2", "busybox"), ""),
    (("-p", "1.2.3.4.5:80:80", "busybox"), ""),
    (("--memory", "1", "busybox"), "minimum memory"),
    (("--memory", "much", "busybox"), ""),
    (("--memory", "-5m", "busybox"), ""),
    (("--cpus", "1000", "busybox"), "CPUs"),
    (("--cpuset-cpus", "77", "busybox"), "77"),
    (("--pids-limit", "many", "busybox"), ""),
    (("--shm-size", "0x", "busybox"), ""),
    (("--ulimit", "nonsense=1", "busybox"), "ulimit"),
    (("--ulimit", "nofile=5:1", "busybox"), "limit"),
    (("--cap-add", "NO_SUCH_CAP", "busybox"), "NO_SUCH_CAP"),
    (("--cap-add", "\x1b[2JALL", "busybox"), ""),
    (("--security-opt", "nonsense", "busybox"), "security-opt"),
    (("--security-opt", "seccomp=/does/not/exist", "busybox"), "/does/not/exist"),
    (("--ipc", "nonsense", "busybox"), "ipc"),
    (("--userns", "nonsense", "busybox"), "userns"),
    (("--name", "has space", "busybox"), "has space"),
    (("--name", "-x", "busybox"), ""),
    (("--name", "\x1b[31mred", "busybox"), "name"),
    (("--name", "", "--hostname", "-bad-", "busybox"), "hostname"),
    (("-v", "relative/path:/x", "busybox"), ""),
    (("-v", "/tmp:relative", "busybox"), "absolute"),
    (("-v", "/tmp:/", "busybox"), "'/'"),
    (("-v", "aa:/x", "-v", "bb:/x", "busybox"), "duplicate"),
    (("--mount", "type=nonsense,target=/x", "busybox"), "nonsense"),
    (("--mount", "type=bind,source=/does/not/exist,target=/x", "busybox"), "does not exist"),
    (("--tmpfs", "/x:nonsense", "busybox"), "nonsense"),
    (("--sysctl", "kernel.panic=1", "busybox"), "kernel.panic"),
    (("--restart", "nonsense", "busybox"), "restart"),
    (("--restart", "always", "--rm", "busybox"), "conflicting"),
    (("--stop-signal", "NONSENSE", "busybox"), "NONSENSE"),
    (("-e", "=x", "busybox"), "environment"),
    (("--env-file", "/does/not/exist", "busybox"), "/does/not/exist"),
    (("-w", "relative", "busybox"), "absolute"),
    (("--add-host", "nonsense", "busybox"), "add-host"),
    (("--log-driver", "nonsense", "busybox"), "nonsense"),
    (("--platform", "windows/amd64", "--pull", "never", "busybox"), "windows"),
    (("--pull", "never", "no-such-image"), "no-such-image"),
    (("has space",), "has space"),
    (("bus\x1b[31mybox",), ""),
    (("bus\nybox",), ""),
    (("some/UPPER",), "lower case"),
    (("x" * 5000,), ""),
    (("busybox:bad tag",), ""),
    (("busybox@sha256:12",), ""),
    (("--no-such-flag", "busybox"), "--no-such-flag"),
    (("--link", "a:b", "busybox"), "--link"),
    (("--isolation", "x", "busybox"), ""),
    (("-d", "-a", "stdout", "busybox"), "-a and -d"),
    ((), "at least 1 argument"),
]
# what shows when the container starts: as with Docker it stays, with the reason, to be looked at
START = [
    (("--network", "nowhere", "busybox"), "nowhere"),
    (("--network", "container:nobody", "busybox"), "nobody"),
    (("--pid", "container:nobody", "busybox"), "nobody"),
    (("--device", "/does/not/exist", "busybox"), "/does/not/exist"),
    (("-u", "nobody-such", "busybox"), "nobody-such"),
]


def _identifier(words: object) -> str | None:
    return " ".join(words)[:40].encode("unicode_escape").decode() if isinstance(words, tuple) else ""


@pytest.mark.parametrize(("words", "says"), RUN, ids=_identifier)
def test_run_refuses(orlop: Orlop, words: tuple[str, ...], says: str) -> None:
    line = orlop.refused("run", *words, code=125)
    assert says in line
    assert len(line) < 600
    assert orlop.out("ps", "-aq") == ""


@pytest.mark.parametrize(("words", "says"), START, ids=_identifier)
def test_container_that_cannot_start_can_be_looked_at(orlop: Orlop, words: tuple[str, ...], says: str) -> None:
    line = orlop.refused("run", "--name", "dud", *words, code=125)
    assert says in line
    state = orlop.state_of("dud")
    assert state["Running"] is False
    assert says in state["Error"]
    wait_for(lambda: not orlop.processes(), "its supervisor to leave")
    orlop("rm", "dud")
    orlop.refused("run", "--rm", *words, code=125)
    assert orlop.out("ps", "-aq") == ""


OTHER = [
    (("rm", "nobody"), 1, "no such container"),
    (("start", "nobody"), 1, "no such container"),
    (("stop", "nobody"), 1, "no such container"),
    (("kill", "-s", "NONSENSE", "nobody"), 1, ""),
    (("exec", "nobody", "true"), 1, "no such container"),
    (("logs", "nobody"), 1, "no such container"),
    (("inspect", "nobody"), 1, "no such"),
    (("wait", "nobody"), 1, "no such container"),
    (("attach", "nobody"), 1, "no such container"),
    (("rm", "bad\x1b[31mname"), 1, "no such container"),
    (("rm", ""), 1, ""),
    (("rmi", "no-such-image"), 1, "no such image"),
    (("tag", "no-such-image", "x"), 1, "no such image"),
    (("tag", "busybox", "Bad Name"), 1, ""),
    (("pull", "has space"), 1, ""),
    (("save", "-o", "/does/not/exist/x", "busybox"), 1, ""),
    (("load", "-i", "/does/not/exist"), 1, "/does/not/exist"),
    (("load", "-i", "/etc/passwd"), 1, ""),
    (("volume", "rm", "nobody"), 1, "no such volume"),
    (("volume", "create", "bad name"), 1, "bad name"),
    (("nonsense",), 125, "nonsense"),
    (("compose", "up"), 125, "not implemented"),
    (("-n", "bad namespace", "ps"), 1, "namespace"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "code", "says"), OTHER, ids=_identifier)
def test_commands_refuse(orlop: Orlop, words: tuple[str, ...], code: int, says: str) -> None:
    done = orlop(*words, code=None)
    if words[0] == "inspect":  # prints what it has found, as Docker does
        assert done.stdout == "[]\n"
    line = orlop.refused(*words, code=code)
    assert says in line.lower()


def test_two_containers_with_one_name(orlop: Orlop) -> None:
    orlop("create", "--name", "twin", "busybox")
    assert "already in use" in orlop.refused("create", "--name", "twin", "busybox", code=1)
    assert "already in use" in orlop.refused("run", "--name", "twin", "busybox", code=125)
    assert len(orlop.out("ps", "-aq").split()) == 1


def test_running_container_is_not_removed(orlop: Orlop) -> None:
    orlop("run", "-d", "--name", "busy", "--network", "none", "busybox", "sleep", "100")
    assert "stop" in orlop.refused("rm", "busy", code=1)
    assert orlop.state_of("busy")["Running"] is True
    orlop.refused("rename", "busy", "bad name", code=1)


def test_stopped_container_takes_no_exec_pause_or_kill(orlop: Orlop) -> None:
    orlop("create", "--name", "idle", "busybox")
    for name, *more in (("exec", "true"), ("pause",), ("unpause",), ("kill",), ("attach",), ("top",)):
        orlop.refused(name, "idle", *more, code=1)


def test_port_that_is_taken(orlop: Orlop) -> None:
    port = str(_taken())
    orlop("run", "-d", "--name", "first", "-p", f"{port}:80", "busybox", "sleep", "100")
    line = orlop.refused("run", "-d", "--name", "second", "-p", f"{port}:80", "busybox", "sleep", "100", code=125)
    assert port in line
    orlop("rm", "-f", "second")


def _taken() -> int:
    from tests.harness import free_port

    return free_port()


def test_without_root(orlop: Orlop, tmp_path: Path) -> None:
    """Somebody without root is told that root is needed, in one line."""
    tmp_path.chmod(0o755)
    command = orlop.command("run", "--rm", "busybox", "true")
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *command],
        capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    if "Errno 13" in done.stderr or "can't open file" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip("the checkout is not readable for others")
    assert done.returncode in (1, 125)
    assert done.stderr.count("\n") == 1
    assert "root" in done.stderr


LIBRARY = [
    ContainerConfig(image="busybox", name="has space"),
    ContainerConfig(image="has space"),
    ContainerConfig(image="busybox", limits=Limits(memory=1)),
    ContainerConfig(image="busybox", cap_add=("NONSENSE",)),
    ContainerConfig(image="busybox", network=NetworkRequest(ports=(PortBinding(container_port=99999),))),
    ContainerConfig(image="busybox", mounts=(MountRequest(type="bind", source="/does/not/exist", target="/x"),)),
    ContainerConfig(image="busybox", command=("nul\0",)),
    ContainerConfig(image="busybox", env=("=",)),
    ContainerConfig(image="busybox", platform="windows/amd64"),
]


@pytest.mark.parametrize("config", LIBRARY, ids=range(len(LIBRARY)))
def test_library_refuses_the_same(orlop: Orlop, config: ContainerConfig) -> None:
    engine = Engine(str(orlop.root), str(orlop.state))
    try:
        with pytest.raises(OrlopError) as caught:
            engine.containers.create(config, pull="never")
        assert "\n" not in str(caught.value)
        assert engine.containers.list(all=True) == []
        limits = Limits(devices=(DeviceRequest(source="/does/not/exist", target="/x"),))
        with pytest.raises(OrlopError, match="no such device"):
            engine.run("busybox", ["true"], limits=limits)
        assert engine.containers.list(all=True) == []
    finally:
        engine.close()


def test_configuration_that_was_tampered_with(orlop: Orlop) -> None:
    """config.json of a running container is read again by exec: wrong types are refused by name."""
    identifier = orlop.out("run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "100")
    path = orlop.root / "containers" / identifier / "config.json"
    path.write_text(path.read_text().replace('"cwd":"/"', '"cwd":7'))
    line = orlop.refused("exec", "box", "true", code=1)
    assert "process.cwd" in line
    assert os.path.exists(path)
