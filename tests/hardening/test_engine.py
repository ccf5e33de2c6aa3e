"""The same kinds of attack through the engine and its command line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.harness import SLOWER, Orlop, wait_for

pytestmark = pytest.mark.root
BOMB = "f() { f & f & wait; exec sleep 1000; }; f"  # a shell that can't fork ends; the others stay


def test_a_fork_bomb_is_removed(orlop: Orlop) -> None:
    identifier = orlop.out("run", "-d", "--pids-limit", "150", "busybox", "sh", "-c", BOMB)
    wait_for(lambda: len([p for p in orlop.processes() if "shim" not in p]) > 40, "the bomb")
    started = time.monotonic()
    orlop("rm", "-f", identifier)
    assert time.monotonic() - started < 15 * SLOWER
    wait_for(lambda: not orlop.processes(), "its processes to end")


@pytest.mark.parametrize("cwd", ["/proc/self/fd/3", "/proc/self/fd/6", "/proc/self/fd/7", "/proc/self/fd/9/..", "/way"])
def test_no_working_directory_by_a_descriptor(orlop: Orlop, cwd: str) -> None:
    name = orlop.out("run", "-d", "busybox", "sh", "-c", "ln -s /proc/self/fd/6 /way; exec sleep 1000")
    wait_for(lambda: orlop("exec", name, "test", "-L", "/way", code=None).returncode == 0, "the link")
    for words in (("exec", "-w", cwd, name), ("run", "--rm", "-w", cwd, "busybox")):
        done = orlop(*words, "pwd", code=None)
        assert done.returncode or done.stdout == cwd + "\n"  # `run` makes a directory that is missing


def test_no_descriptor_passes(orlop: Orlop) -> None:
    assert orlop.out("run", "--rm", "busybox", "ls", "/proc/self/fd").split() == ["0", "1", "2", "3"]  # 3: ls's own
    name = orlop.out("run", "-d", "busybox", "sleep", "1000")
    assert orlop.out("exec", name, "ls", "/proc/self/fd").split() == ["0", "1", "2", "3"]
    assert orlop.out("exec", name, "ls", "/proc/1/fd").split() == ["0", "1", "2"]


def test_users_are_not_looked_up_outside(orlop: Orlop, tmp_path: Path) -> None:
    """An image's /etc/passwd may be a link, to the host's or to what never ends."""
    secret = tmp_path / "passwd"
    secret.write_text("intruder:x:0:0::/of-the-host:/bin/sh\n")
    for target in (str(secret), "/dev/zero", "/proc/self/fd/0"):
        script = f"rm /etc/passwd; ln -s {target} /etc/passwd; exec sleep 1000"
        name = orlop.out("run", "-d", "busybox", "sh", "-c", script)
        wait_for(lambda n=name: orlop("exec", n, "test", "-L", "/etc/passwd", code=None).returncode == 0, "the link")
        done = orlop("exec", "-u", "intruder", name, "id", code=None, timeout=20)
        assert done.returncode, target
        assert "uid=" not in done.stdout


def test_secrets_are_in_no_process_title(orlop: Orlop) -> None:
    orlop("run", "-d", "-e", "TOKEN=inside-secret", "busybox", "sleep", "1000")
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        assert b"inside-secret" not in line
    assert orlop.state.stat().st_mode & 0o006 == 0
