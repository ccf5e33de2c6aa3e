"""`orlop-runtime` beneath Debian's Docker."""

from __future__ import annotations

import os
import pty
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.under.daemons import V2, Daemon, Done, limit, quota, run, wait_for

from orlop.cgroups.compile import weight_of_shares


class Docker:
    def __init__(self, place: Path) -> None:
        self.place = place

    def words(self, *words: str) -> tuple[str, ...]:
        return ("docker", "--config", f"{self.place}/client", "--host", f"unix://{self.place}/docker.sock", *words)

    def __call__(self, *words: str, code: int | None = 0, stdin: str | None = None) -> Done:
        return run(*self.words(*words), code=code, stdin=stdin)

    def run(self, *words: str, code: int | None = 0) -> Done:
        return self("run", "--rm", "--network", "none", *words, code=code)

    def up(self, *words: str) -> str:
        return self("run", "-d", "--network", "none", *words).stdout.strip()

    def field(self, name: str, template: str) -> str:
        return self("inspect", "--format", "{{" + template + "}}", name).stdout.strip()


@pytest.fixture(scope="module")
def engine(place: Path, runtime: Path, images: Path) -> Iterator[Docker]:
    words = ["dockerd", "--host", f"unix://{place}/docker.sock", "--data-root", f"{place}/data"]
    words += ["--exec-root", f"{place}/exec", "--pidfile", f"{place}/pid", "--config-file", f"{place}/daemon.json"]
    words += ["--add-runtime", f"orlop={runtime}", "--default-runtime", "orlop", "--cgroup-parent", f"/{place.name}"]
    words += ["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver", "vfs"]
    (place / "daemon.json").write_text("{}")
    daemon = Daemon(words, place / "dockerd.log")
    try:
        daemon.ready(place / "docker.sock")
        docker = Docker(place)
        wait_for(lambda: docker("version", code=None).returncode == 0, "Docker's answer")
        archive = place / "busybox.tar"
        run("skopeo", "copy", "-q", f"oci:{images}:busybox", f"docker-archive:{archive}:busybox:latest")
        docker("load", "-i", str(archive))
        yield docker
    finally:
        daemon.stop()
        for path, names, _ in os.walk("/sys/fs/cgroup"):
            if place.name in names:
                os.rmdir(f"{path}/{place.name}")


@pytest.fixture
def docker(engine: Docker) -> Iterator[Docker]:
    yield engine
    for name in engine("ps", "-aq").stdout.split():
        engine("rm", "-f", name)


def test_it_is_our_runtime_that_runs(docker: Docker) -> None:
    assert docker.run("--runtime", "orlop", "busybox", "echo", "from within").stdout == "from within\n"
    calls = (docker.place / "calls").read_text()
    assert " create " in calls
    assert " delete " in calls


@pytest.mark.parametrize(
    ("command", "code"), [(["sh", "-c", "exit 7"], 7), (["/not/there"], 127), (["/etc/passwd"], 126)]
)
def test_exit_codes(docker: Docker, command: list[str], code: int) -> None:
    docker.run("busybox", *command, code=code)


def test_exec_with_and_without_a_terminal(docker: Docker) -> None:
    name = docker.up("busybox", "sleep", "1000")
    assert docker("exec", "-e", "X=5", name, "sh", "-c", "echo $X; hostname").stdout.split() == ["5", name[:12]]
    docker("exec", name, "sh", "-c", "exit 9", code=9)
    assert docker("exec", "-i", name, "cat", stdin="through").stdout == "through"
    peer = docker.up("--runtime", "runc", "busybox", "sleep", "1000")
    absent = docker("exec", peer, "/not/there", code=None)
    docker("exec", name, "/not/there", code=absent.returncode)
    docker("exec", "-u", "1000", name, "sh", "-c", "test $(id -u) = 1000")
    master, slave = pty.openpty()
    with subprocess.Popen(docker.words("exec", "-it", name, "tty"), stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        text = os.read(master, 4096).decode()
    os.close(master)
    assert process.returncode == 0
    assert "/dev/pts/" in text


def test_a_terminal_of_the_container_itself(docker: Docker) -> None:
    name = docker.up("-t", "busybox", "sh", "-c", "tty; sleep 1000")
    wait_for(lambda: "/dev/pts/" in docker("logs", name).stdout, "the terminal's name")


def test_stop_logs_and_restart(docker: Docker) -> None:
    name = docker.up("busybox", "sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while true; do sleep 0.1; done")
    wait_for(lambda: "up" in docker("logs", name).stdout, "the first line")
    docker("stop", "-t", "10", name)
    assert docker("logs", name).stdout == "up\nbye\n"
    assert docker.field(name, ".State.ExitCode") == "3"
    docker("start", name)
    wait_for(lambda: docker("logs", name).stdout.count("up") == 2, "the second start")
    docker("restart", "-t", "10", name)
    wait_for(lambda: docker("logs", name).stdout.count("up") == 3, "the third start")
    docker("kill", name)
    wait_for(lambda: docker.field(name, ".State.Status") == "exited", "the end")
    assert docker.field(name, ".State.ExitCode") == "137"


def test_a_restart_policy_starts_anew(docker: Docker) -> None:
    name = docker.up("--restart", "on-failure:2", "busybox", "sh", "-c", "echo again; exit 1")
    wait_for(lambda: docker.field(name, ".RestartCount") == "2", "two more starts")
    wait_for(lambda: docker("logs", name).stdout.count("again") == 3, "three lines")


def _shares(shares: int) -> str:
    """As the kernel has them; weights are the second hierarchy's."""
    return str(weight_of_shares(shares)) if V2 else str(shares)


def test_limits_and_their_update(docker: Docker) -> None:
    flags = ("--memory", "64m", "--memory-swap", "64m", "--cpus", "0.5", "--pids-limit", "30", "--cpu-shares", "512")
    name = docker.up(*flags, "busybox", "sleep", "1000")
    group = f"/{docker.place.name}/{docker.field(name, '.Id')}"
    memory = ("memory", "memory.limit_in_bytes", "memory.max")
    shares = ("cpu", "cpu.shares", "cpu.weight")
    assert limit(group, *memory) == str(64 << 20)
    assert quota(group) == "50000"
    assert limit(group, *shares) == _shares(512)
    assert limit(group, "pids", "pids.max") == "30"
    docker("update", "--memory", "96m", "--memory-swap", "128m", "--cpu-shares", "256", name)
    assert limit(group, *memory) == str(96 << 20)
    # the second hierarchy counts swap alone
    swap = str((32 if V2 else 128) << 20)
    assert limit(group, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max") == swap
    assert limit(group, *shares) == _shares(256)
    assert quota(group) == "50000"
    assert " update " in (docker.place / "calls").read_text()


def test_pause_and_unpause(docker: Docker) -> None:
    name = docker.up("busybox", "sh", "-c", "while true; do echo x; sleep 0.05; done")
    docker("pause", name)
    assert docker.field(name, ".State.Status") == "paused"
    before = 0

    def stands() -> bool:  # what it wrote just before may come to the log a moment later
        nonlocal before
        before = len(docker("logs", name).stdout)
        time.sleep(0.3)
        return len(docker("logs", name).stdout) == before

    wait_for(stands, "the log to end")
    docker("unpause", name)
    wait_for(lambda: len(docker("logs", name).stdout) > before, "more lines")


def test_top_stats_and_signals(docker: Docker) -> None:
    name = docker.up("busybox", "sh", "-c", "trap 'echo got it' USR1; echo up; while true; do sleep 0.1; done")
    wait_for(lambda: "up" in docker("logs", name).stdout, "the trap")
    assert "trap" in docker("top", name).stdout
    stats = msgspec.json.decode(docker("stats", "--no-stream", "--format", "{{json .}}", name).stdout)
    assert int(stats["PIDs"]) >= 1
    docker("kill", "-s", "USR1", name)
    wait_for(lambda: "got it" in docker("logs", name).stdout, "the signal")


def test_security_is_as_docker_asks(docker: Docker) -> None:
    script = "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status"
    fields = docker.run("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "busybox", "sh", "-c", script)
    assert fields.stdout.split() == ["CapEff:", "0000000000000000", "NoNewPrivs:", "1", "Seccomp:", "2"]
    docker.run("--read-only", "busybox", "touch", "/x", code=1)
    docker.run("--tmpfs", "/scratch", "--read-only", "busybox", "touch", "/scratch/x")


def test_volumes_and_health(docker: Docker) -> None:
    docker("volume", "create", "kept")
    docker.run("-v", "kept:/data", "busybox", "sh", "-c", "echo here > /data/file")
    assert docker.run("-v", "kept:/data:ro", "busybox", "cat", "/data/file").stdout == "here\n"
    docker("volume", "rm", "kept")
    name = docker.up("--health-cmd", "true", "--health-interval", "1s", "busybox", "sleep", "1000")
    wait_for(lambda: docker.field(name, ".State.Health.Status") == "healthy", "health")
