"""Reading control files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from orlop.cgroups.facts import CgroupHost, Group
from orlop.cgroups.files import read, read_keys, write_file


def test_a_group_that_goes_between_open_and_read_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(fd: int, size: int) -> bytes:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(os, "read", gone)
    with pytest.raises(FileNotFoundError):
        read("/proc/self/status")
    assert read_keys("/proc/self/status") == {}


@pytest.mark.root
@pytest.mark.parametrize("use", [read, lambda path: write_file(path, "0")], ids=["read", "write"])
def test_a_group_that_goes_while_its_file_is_open_is_missing(
    host: CgroupHost, path: str, monkeypatch: pytest.MonkeyPatch, use: Callable[[str], object]
) -> None:
    directory = Group(host, path).tracker
    os.makedirs(directory)
    real = os.open

    def then_gone(*words: Any, **more: Any) -> int:
        fd = real(*words, **more)
        os.rmdir(directory)
        return fd

    monkeypatch.setattr(os, "open", then_gone)
    with pytest.raises(FileNotFoundError):
        use(f"{directory}/cgroup.procs")
