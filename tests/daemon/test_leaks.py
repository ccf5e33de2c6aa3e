"""Many commands in a row leave nothing behind: neither on the machine, nor in the daemon."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.daemon.conftest import Daemon
from tests.harness import descriptors, left_behind, wait_for
from tests.runtime.test_runtime_cli import Lab, groups_of

pytestmark = pytest.mark.root
MAPPINGS = 8  # that the daemon may have more, over any number of commands
GROWTH = 4096  # KiB that the daemon may gain, over any number of commands; forking moves some hundreds about


class Ground:
    """The commands, cold or by the daemon, and all that they might leave."""

    def __init__(self, daemon: Daemon, lab: Lab) -> None:
        self.daemon, self.lab = daemon, lab
        self.environment = daemon.environment

    def run(self, warm: bool, *words: str) -> None:
        command = [str(self.daemon.front), "--root", str(self.lab.root), *words] if warm else self.lab.command(*words)
        with (self.lab.bundle / "messages").open("w+") as log:  # no pipe: a container keeps its streams
            null = subprocess.DEVNULL
            done = subprocess.run(command, env=self.environment, stdin=null, stdout=null, stderr=log, timeout=60)
            log.seek(0)
            assert done.returncode == 0, (words, log.read(), self.daemon.log.read_text())

    def traces(self) -> dict[str, object]:
        """What is there of ours. Others are at work on the machine: only what bears our name, or is the daemon's."""
        pid = self.daemon.process.pid
        return {
            "groups": groups_of(self.lab.prefix),
            "mounts": [m for m in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.lab.bundle) in m],
            "state": sorted(os.listdir(self.lab.root)) if self.lab.root.exists() else [],
            "shared memory": sorted(n for n in os.listdir("/dev/shm") if self.lab.prefix in n),
            "processes": self._processes(),
            "daemon's descriptors": [each.partition(" ")[2].partition(":[")[0] for each in descriptors(pid)],
        }

    def mappings(self) -> int:
        return len(Path(f"/proc/{self.daemon.process.pid}/maps").read_text().splitlines())

    def _processes(self) -> list[str]:
        """With our paths or our container's names in the command line, or in a namespace that only they have."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            except OSError:
                continue
            if self.lab.prefix.encode() in words or str(self.lab.bundle).encode() in words:
                found.append(words.decode(errors="replace"))
        return found

    def resident(self) -> int:
        """KiB of the daemon alone that are its own."""
        text = Path(f"/proc/{self.daemon.process.pid}/smaps_rollup").read_text()
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))


@pytest.fixture
def ground(mine: Daemon, tmp_path: Path) -> Iterator[Ground]:
    lab = Lab(tmp_path)
    yield Ground(mine, lab)
    for identifier in lab("list", "-q").stdout.split():
        lab("delete", "--force", identifier)


def _namespaces() -> int:
    """Network namespaces in use by processes, the kernel's count of all being nobody's to see."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            found.add(os.readlink(entry / "ns/net") if entry.name.isdigit() else "")
        except OSError:
            continue
    return len(found)


MANY = pytest.param(1000, marks=[pytest.mark.long, pytest.mark.timeout(3000)])


@pytest.mark.parametrize("rounds", [20, MANY])
def test_nothing_is_left(ground: Ground, rounds: int) -> None:
    """So many `run`s cold and as many by the daemon, so many lives from create to delete, and a fifth of `exec`s."""
    bundle, identifier = str(ground.lab.bundle), ground.lab.id()
    for _ in range(3):  # what is kept once and for all: filters, the pool of workers
        ground.lab.configure("true")
        ground.run(True, "run", "-b", bundle, identifier)
        ground.run(False, "run", "-b", bundle, identifier)
    before, mappings, memory = ground.traces(), ground.mappings(), ground.resident()
    for warm in (False, True):
        for _ in range(rounds):
            ground.run(warm, "run", "-b", bundle, identifier)
    ground.lab.configure("sleep", "1000")
    for _ in range(rounds):
        ground.run(True, "create", "-b", bundle, identifier)
        ground.run(True, "start", identifier)
        ground.run(True, "kill", identifier, "KILL")
        ground.run(True, "delete", "--force", identifier)
    ground.run(True, "run", "-d", "-b", bundle, identifier)
    for _ in range(rounds // 5):
        ground.run(True, "exec", identifier, "true")
    ground.run(True, "delete", "--force", identifier)
    with suppress(AssertionError):  # the last front end is forgotten a moment after it has gone
        wait_for(lambda: not left_behind(before, ground.traces()), "everything to be gone")
    left, grown = left_behind(before, ground.traces()), ground.resident() - memory
    print(f"{rounds} rounds: the daemon holds {memory} KiB, and {grown} more than before; {_namespaces()} namespaces")
    assert left == {}
    assert ground.mappings() < mappings + MAPPINGS
    assert grown < GROWTH
