"""Every test of the command line again, with its work done by the daemon: the same results, or it fails.

The front end of these tests has no cold program to fall back on, so that what passes has passed through the daemon.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.daemon.conftest import Daemon
from tests.runtime import test_runtime_cli
from tests.runtime.test_runtime_cli import *  # noqa: F403 - the tests themselves

pytestmark = pytest.mark.root


class WarmLab(test_runtime_cli.Lab):
    daemon: Daemon

    def command(self, *words: str, log: str = "") -> list[str]:
        cold = super().command(*words, log=log)
        return [str(self.daemon.front), *cold[cold.index("orlop.cli.runtime") + 1 :]]


@pytest.fixture
def lab(tmp_path: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[test_runtime_cli.Lab]:
    monkeypatch.setenv("ORLOP_RUNTIME_SOCKET", str(daemon.socket))
    found = WarmLab(tmp_path)
    found.daemon = daemon
    yield found
    for identifier in found("list", "-q").stdout.split():
        found("delete", "--force", identifier)
    assert not test_runtime_cli.groups_of(found.prefix)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert not found.root.exists() or set(os.listdir(found.root)) <= {".seccomp"}
