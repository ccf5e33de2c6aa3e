"""`orlop-runtime` beneath Debian's containerd, used by `ctr`."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.under.daemons import Daemon, Done, run, wait_for

IMAGE = "example.com/busybox:latest"
CONFIG = """version = 2
root = "{0}/root"
state = "{0}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{0}/sock"
[ttrpc]
  address = "{0}/sock.ttrpc"
"""


class Containerd:
    def __init__(self, place: Path, runtime: Path) -> None:
        self.place = place
        self.runtime = runtime
        self.count = 0

    def words(self, *words: str) -> tuple[str, ...]:
        return ("ctr", "--address", f"{self.place}/sock", *words)

    def __call__(self, *words: str, code: int | None = 0) -> Done:
        return run(*self.words(*words), code=code)

    def run(self, *words: str, code: int | None = 0) -> Done:
        self.count += 1
        flags = ("--runc-binary", str(self.runtime), "--runc-root", f"{self.place}/runc")
        return self("run", *flags, "--cgroup", f"/{self.place.name}/{self.count}", *words, code=code)

    def status(self, name: str) -> str:
        lines = [line.split() for line in self("task", "ls").stdout.splitlines()]
        return next((line[2] for line in lines if line[0] == name), "")

    def up(self, name: str, *command: str, flags: tuple[str, ...] = ()) -> None:
        self.run("-d", *flags, IMAGE, name, *(command or ("sleep", "1000")))

    def down(self, name: str) -> None:
        if self.status(name) in ("RUNNING", "PAUSED"):
            if self.status(name) == "PAUSED":
                self("task", "resume", name)
            self("task", "kill", "-s", "KILL", name)
            wait_for(lambda: self.status(name) == "STOPPED", "the end")
        self("task", "rm", name, code=None)
        self("container", "rm", name)


@pytest.fixture(scope="module")
def containerd(place: Path, runtime: Path, images: Path) -> Iterator[Containerd]:
    config = place / "config.toml"
    config.write_text(CONFIG.format(place))
    daemon = Daemon(["containerd", "--config", str(config)], place / "containerd.log")
    try:
        daemon.ready(place / "sock")
        ctr = Containerd(place, runtime)
        archive = place / "busybox.tar"
        run("skopeo", "copy", "-q", f"oci:{images}:busybox", f"docker-archive:{archive}:{IMAGE}")
        ctr("images", "import", str(archive))
        yield ctr
    finally:
        daemon.stop()
        _remove_parents(place.name)


def _remove_parents(name: str) -> None:
    """The group that all containers here were put below; the runtime leaves parents alone."""
    for path, names, _ in os.walk("/sys/fs/cgroup"):
        if name in names:
            os.rmdir(f"{path}/{name}")


def test_it_is_our_runtime_that_runs(containerd: Containerd) -> None:
    assert containerd.run("--rm", IMAGE, "hello", "echo", "from within").stdout == "from within\n"
    assert "create" in (containerd.place / "calls").read_text()


def test_the_exit_code_is_the_process_s(containerd: Containerd) -> None:
    containerd.run("--rm", IMAGE, "code", "sh", "-c", "exit 7", code=7)


def test_what_cannot_be_run_is_told_in_the_runtime_s_words(containerd: Containerd) -> None:
    done = containerd.run("--rm", IMAGE, "none", "/not/there", code=1)
    assert "/not/there" in done.stderr
    containerd("container", "rm", "none", code=None)


def test_exec_stop_and_removal(containerd: Containerd) -> None:
    containerd.up("life")
    try:
        assert containerd.status("life") == "RUNNING"
        assert containerd("task", "exec", "--exec-id", "a", "life", "hostname").stdout.strip()
        containerd("task", "exec", "--exec-id", "b", "life", "sh", "-c", "exit 5", code=5)
        assert "sleep" in containerd("task", "exec", "--exec-id", "c", "life", "ps").stdout
        pids = containerd("task", "ps", "life").stdout.splitlines()
        assert len(pids) == 2
    finally:
        containerd.down("life")
    assert containerd.status("life") == ""


def test_a_terminal(containerd: Containerd) -> None:
    containerd.up("terminal")
    try:
        master, slave = pty.openpty()
        words = containerd.words("task", "exec", "-t", "--exec-id", "t", "terminal", "sh", "-c", "tty; stty size")
        with subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave) as process:
            os.close(slave)
            text = _read(master)
        assert process.returncode == 0
        assert "/dev/pts/" in text
    finally:
        containerd.down("terminal")


def _read(master: int) -> str:
    text = b""
    try:
        while chunk := os.read(master, 4096):
            text += chunk
    except OSError:
        pass  # EIO: the last process has closed its end
    os.close(master)
    return text.decode(errors="replace")


def test_a_paused_container_stands_still(containerd: Containerd) -> None:
    containerd.up("still")
    try:
        containerd("task", "pause", "still")
        assert containerd.status("still") == "PAUSED"
        containerd("task", "resume", "still")
        assert containerd.status("still") == "RUNNING"
    finally:
        containerd.down("still")


def test_limits_and_metrics(containerd: Containerd) -> None:
    containerd.up("limits", flags=("--memory-limit", str(48 << 20), "--cpus", "0.5"))
    try:
        text = containerd("task", "metrics", "limits").stdout
        assert str(48 << 20) in text
    finally:
        containerd.down("limits")


def test_a_container_killed_for_lack_of_memory_ends_with_137(containerd: Containerd) -> None:
    script = "x=aaaaaaaa; while true; do x=$x$x; done"
    containerd.run("--rm", "--memory-limit", str(16 << 20), IMAGE, "oom", "sh", "-c", script, code=137)
