"""Daemons for a module, and the check that they and their containers leave nothing."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import lab as maker
from tests.harness import SLOWER
from tests.under.daemons import groups_with, mounts_below, runtime_program, with_words


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.peers)
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def images() -> Path:
    """The OCI layout with the images of the tests."""
    directory = maker.default_directory()
    maker.main(directory)
    return directory / "images"


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory on tmpfs, with a short path as sockets need; afterwards nothing is left that knows of it."""
    path = Path(tempfile.mkdtemp(prefix="under", dir="/dev/shm"))
    yield path
    deadline = time.monotonic() + 10 * SLOWER
    while (left := with_words(str(path))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    assert mounts_below(path) == []
    assert groups_with(path.name) == []
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def runtime(place: Path) -> Path:
    return runtime_program(place)
