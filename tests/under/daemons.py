"""Debian's daemons, each started for one test module with files, sockets and network of its own, and `orlop-runtime`
beneath. Nothing of them is shared with daemons that may run on the machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.harness import SLOWER

ROOT = Path(__file__).parents[2]
Done = subprocess.CompletedProcess[str]
V2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()


def wait_for(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds * SLOWER
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def run(*words: str, code: int | None = 0, stdin: str | None = None, timeout: float = 60) -> Done:
    """Run a client to its end; `code` is the exit status it must have, None for any."""
    done = subprocess.run(
        words,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
    )
    assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def runtime_program(directory: Path) -> Path:
    """The runtime as a program, from this checkout; it keeps a journal of the verbs that it was called with."""
    path = directory / "orlop-runtime"
    path.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >> {directory}/calls\n'
        f'PYTHONPATH={ROOT}/src exec {sys.executable} -m orlop.cli.runtime "$@"\n'
    )
    path.chmod(0o755)
    return path


class Daemon:
    """A process of ours, in a network namespace of its own, with what it prints in `log`."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                ["unshare", "--net", *words], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def ready(self, socket: Path) -> None:
        def answered() -> bool:
            assert self.process.poll() is None, f"the daemon ended:\n{self.log.read_text()[-3000:]}"
            return socket.exists()

        wait_for(answered, str(socket))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def with_words(text: str) -> dict[int, str]:
    """Processes whose command line has `text` in it."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line and int(name) != os.getpid():
            found[int(name)] = line
    return found


def groups_with(text: str) -> list[str]:
    """Control groups whose path has `text` in it."""
    return [path for path, _, _ in os.walk("/sys/fs/cgroup") if text in path]


def limit(group: str, controller: str, v1: str, v2: str = "") -> str:
    """What a group has as a limit: of the file `v1` in its controller's hierarchy, or `v2` (the same name where it is
    not given) where there is but one."""
    if V2:
        return Path(f"/sys/fs/cgroup{group}/{v2 or v1}").read_text().strip()
    return Path(f"/sys/fs/cgroup/{controller}{group}/{v1}").read_text().strip()


def quota(group: str) -> str:
    """The microseconds of a period that a group may run."""
    return limit(group, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0]


def mounts_below(directory: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if line.split()[4].startswith(str(directory))]
