"""`orlop-runtime` beneath Debian's Podman, which has no daemon: conmon is the parent of the container."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.under.daemons import Done, limit, quota, run, wait_for


class Podman:
    def __init__(self, place: Path, runtime: Path) -> None:
        self.place = place
        self.runtime = runtime

    def words(self, *words: str) -> tuple[str, ...]:
        at = self.place
        files = ("--root", f"{at}/root", "--runroot", f"{at}/run", "--tmpdir", f"{at}/tmp", "--storage-driver", "vfs")
        engine = ("--runtime", str(self.runtime), "--cgroup-manager", "cgroupfs", "--events-backend", "file")
        return ("unshare", "--net", "podman", *files, *engine, *words)

    def __call__(self, *words: str, code: int | None = 0, stdin: str | None = None) -> Done:
        return run(*self.words(*words), code=code, stdin=stdin)

    def run(self, *words: str, code: int | None = 0) -> Done:
        return self("run", "--rm", *self.flags(), *words, code=code)

    def flags(self) -> tuple[str, ...]:
        # Podman would raise limits, for which not every machine that runs tests has the right
        limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")
        return ("--network", "none", *limits, "--cgroup-parent", f"/{self.place.name}")

    def up(self, *words: str) -> str:
        return self("run", "-d", *self.flags(), *words).stdout.strip()

    def field(self, name: str, template: str) -> str:
        return self("inspect", "--format", "{{" + template + "}}", name).stdout.strip()


@pytest.fixture(scope="module")
def engine(place: Path, runtime: Path, images: Path) -> Iterator[Podman]:
    podman = Podman(place, runtime)
    archive = place / "busybox.tar"
    run("skopeo", "copy", "-q", f"oci:{images}:busybox", f"docker-archive:{archive}:localhost/busybox:latest")
    podman("load", "-q", "-i", str(archive))
    yield podman
    podman("rmi", "-af")
    run("umount", "-R", "-q", f"{place}/root/vfs", code=None)
    run("umount", "-R", "-q", f"{place}/root", code=None)
    for path, names, _ in os.walk("/sys/fs/cgroup"):
        if place.name in names:
            _empty(f"{path}/{place.name}")


def _empty(group: str) -> None:
    for path, _, _ in os.walk(group, topdown=False):
        os.rmdir(path)


@pytest.fixture
def podman(engine: Podman) -> Iterator[Podman]:
    yield engine
    engine("rm", "-af", "-t", "0")


def test_it_is_our_runtime_that_runs(podman: Podman) -> None:
    assert podman.run("busybox", "echo", "from within").stdout == "from within\n"
    assert "create " in (podman.place / "calls").read_text()


@pytest.mark.parametrize(
    ("command", "code"), [(["sh", "-c", "exit 7"], 7), (["/not/there"], 127), (["/etc/passwd"], 126)]
)
def test_exit_codes(podman: Podman, command: list[str], code: int) -> None:
    podman.run("busybox", *command, code=code)


def test_exec_with_and_without_a_terminal(podman: Podman) -> None:
    name = podman.up("busybox", "sleep", "1000")
    assert podman("exec", "-e", "X=5", name, "sh", "-c", "echo $X").stdout == "5\n"
    podman("exec", name, "sh", "-c", "exit 9", code=9)
    assert podman("exec", "-i", name, "cat", stdin="through").stdout == "through"
    podman("exec", name, "/not/there", code=127)
    master, slave = pty.openpty()
    with subprocess.Popen(podman.words("exec", "-it", name, "tty"), stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        text = os.read(master, 4096).decode()
    os.close(master)
    assert process.returncode == 0
    assert "/dev/pts/" in text


def test_stop_logs_and_restart(podman: Podman) -> None:
    name = podman.up("busybox", "sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while true; do sleep 0.1; done")
    wait_for(lambda: "up" in podman("logs", name).stdout, "the first line")
    podman("stop", "-t", "10", name)
    assert podman("logs", name).stdout == "up\nbye\n"
    assert podman.field(name, ".State.ExitCode") == "3"
    podman("restart", "-t", "10", name)
    wait_for(lambda: podman.field(name, ".State.Status") == "running", "the second start")
    podman("kill", name)
    assert podman("wait", name).stdout.strip() == "137"


def test_limits_and_their_update(podman: Podman) -> None:
    name = podman.up("--memory", "64m", "--pids-limit", "30", "--cpus", "0.5", "busybox", "sleep", "1000")
    group = f"/{podman.place.name}/libpod-{name}"
    memory = ("memory", "memory.limit_in_bytes", "memory.max")
    assert limit(group, *memory) == str(64 << 20)
    assert limit(group, "pids", "pids.max") == "30"
    assert quota(group) == "50000"
    podman("update", "--cpus", "0.25", "--memory", "48m", name)
    assert quota(group) == "25000"
    assert limit(group, *memory) == str(48 << 20)


def test_pause_and_unpause(podman: Podman) -> None:
    name = podman.up("busybox", "sleep", "1000")
    podman("pause", name)
    assert podman.field(name, ".State.Status") == "paused"
    podman("unpause", name)
    assert podman.field(name, ".State.Status") == "running"
    assert "sleep" in podman("top", name).stdout


def test_preserved_descriptors_reach_the_process(podman: Podman) -> None:
    reader, writer = os.pipe()
    name = podman.up("busybox", "sleep", "1000")
    script = 'exec "$@" 3>&"$0"'
    words = podman.words("exec", "--preserve-fds", "1", name, "sh", "-c", "echo through >&3")
    subprocess.run(["bash", "-c", script, str(writer), *words], pass_fds=(writer,), check=True, timeout=60)
    os.close(writer)
    with open(reader) as pipe:
        assert pipe.read() == "through\n"
