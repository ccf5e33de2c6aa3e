from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.cgroups import apply
from orlop.cgroups.facts import CgroupHost, Group

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def host() -> CgroupHost:
    return apply.probe()


@pytest.fixture
def path(host: CgroupHost) -> Iterator[str]:
    """A group's path of the test's own; afterwards nothing of it may be left."""
    name = f"/orlop/test-{os.getpid()}-{os.urandom(3).hex()}"
    yield name
    left = [directory for directory in Group(host, name).directories if os.path.exists(directory)]
    apply.kill(host, name)
    apply.remove(host, name)
    apply.sweep(host)
    assert not left
