"""The nameservers behind systemd-resolved's stub are what a container can use."""

from __future__ import annotations

from pathlib import Path

import pytest

from orlop.network import resolv


@pytest.mark.parametrize(
    ("conf", "behind", "read"),
    [
        ("nameserver 127.0.0.53\n", "nameserver 10.0.0.1\n", "nameserver 10.0.0.1\n"),
        ("nameserver 127.0.0.53\n", None, "nameserver 127.0.0.53\n"),
        ("nameserver 9.9.9.9\n", "nameserver 10.0.0.1\n", "nameserver 9.9.9.9\n"),
        (None, None, ""),
    ],
)
def test_reads_what_stands_behind_the_stub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conf: str | None, behind: str | None, read: str
) -> None:
    for name, text in (("RESOLV_CONF", conf), ("RESOLVED_RESOLV_CONF", behind)):
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(resolv, name, str(path))
    assert resolv.read_resolv_conf() == read
