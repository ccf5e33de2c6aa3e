"""Hostile and broken images: one line says what is wrong, nothing is left, nothing outside the root is touched."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.bad.images import entry, layer, publish
from tests.harness import Orlop, wait_for
from tests.pulls import check_store

from orlop.registry.faults import Corrupt, Cut, Fault, Garbage, Hang, Html, Status, WrongDigest, WrongLength
from orlop.registry.server import Registry

OUTSIDE = Path("/tmp/orlop-outside")

BAD_CONFIGS = {
    "wrong-type": b'{"os": "linux", "architecture": "amd64", "config": {"Env": 7}, '
    b'"rootfs": {"type": "layers", "diff_ids": []}}',
    "no-json": b"<html>",
    "nothing": b"",
    "deep": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "wrong-diff-id": b'{"os": "linux", "architecture": "amd64", "config": {}, "rootfs": {"type": "layers", '
    b'"diff_ids": ["sha256:%s"]}}' % (b"0" * 64),
    "layers-missing": b'{"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}}',
}
ESCAPES = {
    "dot-dot": [entry("../../../../../../../../tmp/orlop-outside")],
    "absolute": [entry("/tmp/orlop-outside")],
    "through-a-link": [entry("l", tarfile.SYMTYPE, "/tmp"), entry("l/orlop-outside")],
    "through-a-relative-link": [entry("l", tarfile.SYMTYPE, "../../../../../../../../tmp"), entry("l/orlop-outside")],
    "through-a-link-of-links": [
        entry("a", tarfile.SYMTYPE, "b"),
        entry("b", tarfile.SYMTYPE, "/"),
        entry("a/tmp/orlop-outside"),
    ],
    "whiteout-outside": [entry("l", tarfile.SYMTYPE, "/tmp"), entry("l/.wh.orlop-outside-kept", data=b"")],
    "opaque-outside": [entry("l", tarfile.SYMTYPE, "/tmp/orlop-outside-dir"), entry("l/.wh..wh..opq", data=b"")],
    "hard-link-outside": [entry("h", tarfile.LNKTYPE, "../../../../../../../../etc/passwd")],
    "hard-link-absolute": [entry("h", tarfile.LNKTYPE, "/etc/shadow")],
    "hard-link-through-link": [entry("l", tarfile.SYMTYPE, "/etc"), entry("h", tarfile.LNKTYPE, "l/passwd")],
}


@pytest.fixture
def outside() -> Iterator[None]:
    """What an image may try to reach. It has to be still as it was."""
    kept, directory = Path("/tmp/orlop-outside-kept"), Path("/tmp/orlop-outside-dir")
    kept.write_text("kept")
    directory.mkdir(exist_ok=True)
    (directory / "file").write_text("kept")
    try:
        yield
        assert not OUTSIDE.exists()
        assert kept.read_text() == "kept"
        assert (directory / "file").read_text() == "kept"
    finally:
        kept.unlink(missing_ok=True)
        OUTSIDE.unlink(missing_ok=True)
        (directory / "file").unlink(missing_ok=True)
        directory.rmdir()


def nothing_left(orlop: Orlop) -> None:
    assert orlop.out("images", "-aq") == ""
    for table in ("images", "snapshots", "leases"):
        assert orlop.rows(f"SELECT * FROM {table}") == [], table
    assert [one for one in os.listdir(orlop.root / "snapshots") if one.isdigit()] == []


@pytest.mark.parametrize("case", ESCAPES)
def test_layer_that_would_escape(source: Registry, fresh: Orlop, outside: None, case: str) -> None:
    """Such an entry is refused, or lands inside, as it would in a chroot; either way outside nothing changes."""
    reference = publish(source, case, layer(ESCAPES[case]))
    done = fresh("pull", "-q", reference, code=None)
    if done.returncode:
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        nothing_left(fresh)
    else:
        fresh("rmi", reference)


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_broken_configuration(source: Registry, fresh: Orlop, case: str) -> None:
    reference = publish(source, f"config-{case}", layer([entry("file")]), config=BAD_CONFIGS[case])
    fresh.refused("pull", "-q", reference, code=1)
    nothing_left(fresh)


def _bomb() -> bytes:
    """Twelve megabytes that become twelve thousand."""
    block = gzip.compress(bytes(1 << 24), 9, mtime=0)
    return block * 768


@pytest.mark.parametrize(
    ("case", "tar", "packed"),
    [
        ("no-gzip", b"", b"this is no gzip"),
        ("cut-gzip", b"", gzip.compress(layer([entry("file", data=os.urandom(100000))]), mtime=0)[:-200]),
        ("no-tar", b"", gzip.compress(b"this is no tar" * 1000, mtime=0)),
        ("bomb", b"", None),
        ("deep", b"", gzip.compress(layer([entry("d/" * 5000 + "f")]), mtime=0)),
        ("nul", b"", gzip.compress(layer([entry("file")]).replace(b"0000755", b"9999999", 1), mtime=0)),
    ],
)
def test_broken_layer(source: Registry, fresh: Orlop, case: str, tar: bytes, packed: bytes | None) -> None:
    reference = publish(source, case, tar, packed=_bomb() if packed is None else packed)
    fresh.refused("pull", "-q", reference, code=1, timeout=110)
    nothing_left(fresh)
    done = subprocess.run(["du", "-sm", fresh.root], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[0]) < 64


def test_a_million_entries(source: Registry, fresh: Orlop) -> None:
    many = layer([entry(".wh..wh.plnk", tarfile.DIRTYPE)])[:512] * 10_100
    reference = publish(source, "million", b"", packed=gzip.compress(many, 1, mtime=0) * 100)
    line = fresh.refused("pull", "-q", reference, code=1, timeout=110)
    assert "1000000 entries" in line
    nothing_left(fresh)


REGISTRY: dict[str, tuple[str, Any, str]] = {
    "unauthorized": ("/manifests/", Status(401), "unauthorized|denied|authentication"),
    "not-found": ("/manifests/", Status(404), "not found|unknown"),
    "too-many": ("/manifests/", Status(429), "429|too many"),
    "broken": ("/manifests/", Status(500), "500"),
    "html": ("/manifests/", Html(), "html|manifest"),
    "html-blob": ("/blobs/", Html(), "size|digest|bytes"),
    "nothing": ("/manifests/", Garbage(b""), ""),
    "garbage": ("/manifests/", Garbage(), ""),
    "wrong-digest": ("/manifests/", WrongDigest(), "digest"),
    "changed-blob": ("/blobs/", Corrupt(), "digest"),
    "short-blob": ("/blobs/", WrongLength(-10), ""),
    "long-blob": ("/blobs/", WrongLength(10), ""),
    "cut-blob": ("/blobs/", Cut(100), ""),
}


@pytest.mark.parametrize("case", REGISTRY)
def test_registry_that_misbehaves(source: Registry, fresh: Orlop, case: str) -> None:
    where, action, says = REGISTRY[case]
    reference = publish(source, "fine", layer([entry("file", data=os.urandom(3000))]))
    source.faults.add(Fault(f"GET .*{where}", action, count=None))
    line = fresh.refused("pull", "-q", reference, code=1, timeout=110)
    assert re.search(says, line.lower()), line
    nothing_left(fresh)
    assert "<h1>" not in line
    fresh.refused("run", "-q", "--rm", reference, code=125, timeout=110)
    assert fresh.out("ps", "-aq") == ""
    source.faults.clear()
    fresh("pull", "-q", reference)
    check_store(fresh.root)


def test_nobody_listens(fresh: Orlop) -> None:
    line = fresh.refused("pull", "127.0.0.1:1/lab/busybox", code=1)
    assert "refused" in line


def test_slow_registry_can_be_interrupted(source: Registry, fresh: Orlop) -> None:
    source.faults.add(Fault("GET .*/manifests/", Hang(30)))
    pulling = fresh.start("pull", "-q", f"{source.address}/lab/busybox:1")
    asked = lambda: any(seen.method == "GET" and "/manifests/" in seen.target for seen in source.seen)  # noqa: E731
    wait_for(asked, "the request that hangs")
    pulling.send_signal(signal.SIGINT)
    _, err = pulling.communicate(timeout=20)
    assert pulling.returncode == 130
    assert "Traceback" not in err
    nothing_left(fresh)


def test_link_in_the_image_does_not_lead_a_mount_outside(orlop: Orlop, tmp_path: Path, outside: None) -> None:
    """A mount on a link's path is made inside the container's root, wherever the link points to."""
    orlop("run", "--name", "linked", "--network", "none", "busybox", "true")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_text("mounted\n")
    words = ("--network", "none", "-v", "links:/data", "busybox", "ln", "-s", "/tmp/orlop-outside-dir", "/data/link")
    orlop("run", "--rm", *words)
    mounts = ("-v", "links:/data", "-v", f"{tmp_path}/in:/data/link/deep")
    done = orlop("run", "--rm", "--network", "none", *mounts, "busybox", "cat", "/data/link/deep/file", code=None)
    if done.returncode == 0:
        assert done.stdout == "mounted\n"
    assert sorted(os.listdir("/tmp/orlop-outside-dir")) == ["file"]
