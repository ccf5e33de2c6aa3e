"""Fixtures of the tests that run whole commands on real images; see `harness`."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tests.harness import SLOWER, every_image, lab, orlop, registry, store  # noqa: F401
from tests.pulls import filled, fresh, source  # noqa: F401

# Tests fork (preexec_fn) in a process that has gRPC's threads: its handlers must not begin new ones in the child, whose
# descriptors are about to be others. The daemon itself never forks.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


class _Patient(subprocess.Popen[Any]):
    """In the machine of scripts/qemu, what a test runs is given as much longer as it takes there."""

    def wait(self, timeout: float | None = None) -> int:
        return super().wait(_stretched(timeout))

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        return super().communicate(input, _stretched(timeout))


def _stretched(timeout: float | None) -> float | None:
    """No more than the time-out of a test, as some have reckoned with the machine themselves."""
    return None if timeout is None else max(timeout, min(timeout * SLOWER, 1200))


if SLOWER > 1:
    subprocess.Popen = _Patient  # type: ignore[misc]

if len(tempfile.gettempdir()) > 24:  # a socket's path has at most 107 bytes, and pytest's directories have long names
    os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"

os.umask(0o022)  # the tests' own files and roots are to be had by others, whatever their caller's are

_WHOLE = tuple(Path(__file__).parent / name for name in ("real", "crash", "bad"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long") and not os.environ.get("ORLOP_LONG"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: set ORLOP_LONG to run it"))
        if any(directory in item.path.parents for directory in _WHOLE):
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.peers)
            # images are made, which takes minutes, by the fixtures of the first test
            item.add_marker(pytest.mark.timeout(120 * SLOWER, func_only=True))
