"""What the tests of pulling share: a registry in this process that holds the lab's images, and roots of their own."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.harness import IMAGES, Orlop, needs_in_machine

from orlop.registry.messages import Content, Reply
from orlop.registry.server import Registry
from orlop.spec.digest import Digest


@pytest.fixture(scope="session")
def filled(lab: Path) -> Iterator[Registry]:
    """The lab's images as lab/NAME:1."""
    needs_in_machine("skopeo")
    with Registry() as registry:
        for name in IMAGES:
            there = f"docker://{registry.address}/lab/{name}:1"
            copy = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{lab}:{name}", there]
            subprocess.run(copy, check=True, capture_output=True, timeout=120)
        yield registry


@pytest.fixture
def source(filled: Registry) -> Iterator[Registry]:
    """The filled registry, with no faults and nothing seen yet."""
    filled.seen.clear()
    yield filled
    filled.faults.clear()


@pytest.fixture
def fresh() -> Iterator[Orlop]:
    """An empty root of its own."""
    tag = f"orlop-pull-{os.getpid()}"
    orlop = Orlop(Path("/dev/shm") / tag, Path("/run") / tag)
    yield orlop
    if orlop.root.exists():
        orlop.remove_all()
    shutil.rmtree(orlop.root, ignore_errors=True)
    shutil.rmtree(orlop.state, ignore_errors=True)


class Stall:
    """A fault: send `after` bytes of the body, then stand still until `go` is set. `reached` says that it is there."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.reached = threading.Event()
        self.go = threading.Event()

    def __call__(self, reply: Reply) -> Reply:
        if isinstance(reply.body, bytes):
            return reply
        reply.body.file.seek(reply.body.offset)
        data = reply.body.file.read(reply.body.length)
        return msgspec.structs.replace(reply, body=Content(_Stalling(data, self), 0, len(data)))


class _Stalling(io.RawIOBase):
    """No BytesIO to the server, which so reads piece by piece."""

    def __init__(self, data: bytes, stall: Stall) -> None:
        self._data = data
        self._stall = stall
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset
        return offset

    def read(self, count: int = -1) -> bytes:
        if self._at >= self._stall.after:
            self._stall.reached.set()
            self._stall.go.wait(60)
            raise ConnectionResetError
        piece = self._data[self._at : min(self._at + count, self._stall.after)]
        self._at += len(piece)
        return piece


def check_store(root: Path) -> None:
    """Every blob is what its name says, nothing is half there, and other tools read the layout."""
    content = root / "content"
    for blob in (content / "blobs/sha256").iterdir():
        assert Digest.of(blob.read_bytes()) == f"sha256:{blob.name}"
    assert not [one for one in (content / "ingest").iterdir() if not one.name.startswith(".")]
    index = msgspec.json.decode((content / "index.json").read_bytes())
    for entry in index["manifests"]:
        name = entry["annotations"]["org.opencontainers.image.ref.name"]
        done = subprocess.run(["skopeo", "inspect", f"oci:{content}:{name}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
