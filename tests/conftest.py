"""Fixtures of the tests that run whole commands on real images; see `harness`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.harness import lab, orlop, registry, store  # noqa: F401
from tests.pulls import filled, fresh, source  # noqa: F401

_WHOLE = tuple(Path(__file__).parent / name for name in ("real", "crash", "bad"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long") and not os.environ.get("ORLOP_LONG"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: set ORLOP_LONG to run it"))
        if any(directory in item.path.parents for directory in _WHOLE):
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.peers)
            # images are made, which takes minutes, by the fixtures of the first test
            item.add_marker(pytest.mark.timeout(120, func_only=True))
