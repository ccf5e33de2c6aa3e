"""Pods and containers that another OCI runtime runs."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from orlop._stubs.cri import api_pb2 as api
from orlop.cgroups.probe import probe
from orlop.engine.foreign import end_exec
from orlop.sys.procfs import start_time

from .conftest import Client, Daemon, container_config, pod_config, serving, wait_for
from .test_life import refused

pytestmark = [pytest.mark.root, pytest.mark.peers]
HANDLERS = ("runc", "crun", "bare")  # the last makes no control groups


def one_version(base: Path, crun: str) -> str:
    """A program that shows crun control groups of v1 alone: it refuses v1 beside a v2 that has controllers."""
    script = base / "crun"
    inner = f'umount -l /sys/fs/cgroup/unified; exec {crun} "$@"'
    script.write_text(f"#!/bin/sh\nexec unshare --mount sh -c '{inner}' crun \"$@\"\n")
    script.chmod(0o755)
    return str(script)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with runc, crun, a program that is not there, and one that fails."""
    base = tmp_path_factory.mktemp("handlers")
    bad = base / "bad"
    bad.write_text("#!/bin/sh\necho nonsense >&2\nexit 1\n")
    bad.chmod(0o755)
    paths = {name: shutil.which(name) or f"/usr/bin/{name}" for name in ("runc", "crun")}
    if probe().mode != "v2":
        paths["crun"] = one_version(base, paths["crun"])
    paths |= {"gone": "/no/such/runtime", "bad": str(bad)}
    text = "\n".join(f'[cri.handlers.{name}]\npath = "{path}"' for name, path in paths.items())
    text += f'\n[cri.handlers.bare]\npath = "{paths["crun"]}"\noptions = ["--cgroup-manager=disabled"]'
    with serving(config=text) as found:
        yield found


def known(daemon: Daemon, handler: str) -> set[str]:
    """What the runtime itself knows: a directory each."""
    root = daemon.state / "handlers" / handler
    return {path.name for path in root.iterdir()} if root.is_dir() else set()


@pytest.mark.parametrize("handler", HANDLERS)
def test_the_whole_life_of_a_pod(daemon: Daemon, client: Client, busybox: str, tmp_path: Path, handler: str) -> None:
    config = pod_config(hostname="my-pod", log_directory=str(tmp_path))
    pod = client.RunPodSandbox(config=config, runtime_handler=handler).pod_sandbox_id
    status = client.PodSandboxStatus(pod_sandbox_id=pod).status
    assert status.state == api.SANDBOX_READY
    assert status.runtime_handler == handler
    assert status.network.ip
    assert pod in known(daemon, handler)

    limits = api.LinuxContainerResources(memory_limit_in_bytes=64 << 20)
    wanted = container_config(
        busybox,
        "sh",
        "-c",
        "trap 'exit 7' TERM; echo out; echo err >&2; while :; do sleep 0.1; done",
        log_path="main/0.log",
        linux=api.LinuxContainerConfig(resources=limits),
    )
    container = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
    client.StartContainer(container_id=container)
    assert client.ContainerStatus(container_id=container).status.state == api.CONTAINER_RUNNING
    assert container in known(daemon, handler)
    answer = client.ExecSync(container_id=container, cmd=["sh", "-c", "hostname; echo no >&2; exit 3"])
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"my-pod\n", b"no\n", 3)
    answer = client.ExecSync(container_id=container, cmd=["ip", "-4", "addr", "show", "eth0"])
    assert status.network.ip in answer.stdout.decode()
    wait_for(lambda: (tmp_path / "main/0.log").read_text().count("\n") == 2, "the log")
    stats = client.ContainerStats(container_id=container).stats
    assert stats.memory.available_bytes.value + stats.memory.working_set_bytes.value == 64 << 20

    client.StopContainer(container_id=container, timeout=10)
    ended = client.ContainerStatus(container_id=container).status
    assert (ended.state, ended.exit_code) == (api.CONTAINER_EXITED, 7)
    client.RemovePodSandbox(pod_sandbox_id=pod)
    assert known(daemon, handler) == set()
    assert str(daemon.state) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_command_that_takes_too_long_is_ended(client: Client, busybox: str, handler: str) -> None:
    config = pod_config()
    pod = client.RunPodSandbox(config=config, runtime_handler=handler).pod_sandbox_id
    wanted = container_config(busybox, "sleep", "1000")
    container = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
    client.StartContainer(container_id=container)
    call = lambda: client.ExecSync(container_id=container, cmd=["sleep", "777"], timeout=1)  # noqa: E731
    refused(call, grpc.StatusCode.DEADLINE_EXCEEDED)
    wait_for(lambda: b"777" not in client.ExecSync(container_id=container, cmd=["ps"]).stdout, "the command to go", 5)
    client.RemovePodSandbox(pod_sandbox_id=pod)


@pytest.mark.parametrize("told", [False, True])
def test_a_command_that_its_runtime_has_not_told_of_is_ended(tmp_path: Path, told: bool) -> None:
    """A slow `RUNTIME exec` may be called off between the command's start and the file that has its number."""
    script = f"sleep 777 & echo $! > {tmp_path}/started; wait"
    runtime = subprocess.Popen(["sh", "-c", script])
    try:
        started = tmp_path / "started"
        wait_for(lambda: started.exists() and started.read_text().endswith("\n"), "the command")
        if told:
            started.rename(tmp_path / "exec.pid")
            started = tmp_path / "exec.pid"
        command = int(started.read_text())
        end_exec(str(tmp_path / "exec"), runtime.pid)
    finally:
        runtime.kill()
        runtime.wait()
    wait_for(lambda: start_time(command) is None, "the command's end")


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_terminal(daemon: Daemon, client: Client, busybox: str, tmp_path: Path, handler: str) -> None:
    config = pod_config(log_directory=str(tmp_path))
    pod = client.RunPodSandbox(config=config, runtime_handler=handler).pod_sandbox_id
    wanted = container_config(busybox, "sh", "-c", "tty; sleep 1000", tty=True, stdin=True, log_path="0.log")
    container = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
    client.StartContainer(container_id=container)
    wait_for(lambda: "/dev/pts/0" in (tmp_path / "0.log").read_text(), "the terminal")
    client.RemovePodSandbox(pod_sandbox_id=pod)


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_command_that_is_not_there(client: Client, busybox: str, handler: str) -> None:
    config = pod_config()
    pod = client.RunPodSandbox(config=config, runtime_handler=handler).pod_sandbox_id
    wanted = container_config(busybox, "/no/such/program")
    container = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
    with pytest.raises(grpc.RpcError) as caught:
        client.StartContainer(container_id=container)
    assert "no such file" in caught.value.details().lower()
    client.RemovePodSandbox(pod_sandbox_id=pod)


@pytest.mark.parametrize(
    ("handler", "code", "text"),
    [
        ("gone", grpc.StatusCode.FAILED_PRECONDITION, "/no/such/runtime is missing"),
        ("bad", grpc.StatusCode.UNAVAILABLE, "runtime handler bad: create: "),
        ("other", grpc.StatusCode.INVALID_ARGUMENT, "not configured; known are orlop, bad, bare, crun, gone, runc"),
    ],
)
def test_a_handler_that_can_not(client: Client, handler: str, code: grpc.StatusCode, text: str) -> None:
    assert text in refused(lambda: client.RunPodSandbox(config=pod_config(), runtime_handler=handler), code)
    assert list(client.ListPodSandbox().items) == []


def test_status_lists_the_handlers(client: Client) -> None:
    found = {handler.name: handler.features for handler in client.Status().runtime_handlers}
    assert set(found) == {"", "orlop", "runc", "crun", "bare", "gone", "bad"}
    assert found["runc"].recursive_read_only_mounts
    assert not found["gone"].recursive_read_only_mounts


def test_exits_while_the_daemon_is_away(daemon: Daemon, client: Client, busybox: str) -> None:
    config = pod_config()
    pod = client.RunPodSandbox(config=config, runtime_handler="runc").pod_sandbox_id
    wanted = container_config(busybox, "sh", "-c", "sleep 1; exit 7")
    container = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
    client.StartContainer(container_id=container)
    daemon.end(signal.SIGKILL)
    time.sleep(1.5)
    client = daemon.start()
    wait_for(lambda: client.ContainerStatus(container_id=container).status.exit_code == 7, "the exit")
    assert client.PodSandboxStatus(pod_sandbox_id=pod).status.state == api.SANDBOX_READY
    client.RemovePodSandbox(pod_sandbox_id=pod)


@pytest.mark.parametrize("step", ["start.shim", "start.network", "start.launched"])
def test_a_daemon_that_dies_while_it_starts_one(daemon: Daemon, step: str) -> None:
    daemon.end()
    client = daemon.start(ORLOP_KILL_AT=step)
    with pytest.raises(grpc.RpcError):
        client.RunPodSandbox(config=pod_config(), runtime_handler="runc")
    assert daemon.process is not None
    daemon.process.wait(30)
    client = daemon.start()
    for item in client.ListPodSandbox().items:  # one that runs is whole
        client.RemovePodSandbox(pod_sandbox_id=item.id)
    wait_for(lambda: known(daemon, "runc") == set(), "nothing of it left")
