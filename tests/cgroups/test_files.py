"""Reading control files."""

from __future__ import annotations

import errno
import os

import pytest

from orlop.cgroups.files import read, read_keys


def test_a_group_that_goes_between_open_and_read_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(fd: int, size: int) -> bytes:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(os, "read", gone)
    with pytest.raises(FileNotFoundError):
        read("/proc/self/status")
    assert read_keys("/proc/self/status") == {}
