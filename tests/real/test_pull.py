"""Pulls as the world has them: two at once, cut and resumed, on a full disk; and other tools on the store."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.harness import Orlop, kill
from tests.pulls import Stall, check_store

from orlop.registry.faults import Fault
from orlop.registry.server import Registry


def _largest_layer(lab: Path, name: str) -> tuple[str, int]:
    """Digest and size."""
    done = subprocess.run(["skopeo", "inspect", f"oci:{lab}:{name}"], capture_output=True, text=True, check=True)
    digests: list[str] = msgspec.json.decode(done.stdout)["Layers"]
    sizes = {digest: (lab / "blobs" / digest.replace(":", "/")).stat().st_size for digest in digests}
    return max(sizes.items(), key=lambda item: item[1])


def test_two_processes_pull_the_same_image(source: Registry, fresh: Orlop) -> None:
    reference = f"{source.address}/lab/debian:1"
    both = [fresh.start("pull", "-q", reference) for _ in range(2)]
    for one in both:
        out, err = one.communicate(timeout=100)
        assert (one.returncode, err) == (0, "")
        assert out == f"{reference}\n"
    served = Counter(seen.target for seen in source.seen if seen.method == "GET" and "/blobs/" in seen.target)
    assert max(served.values()) == 1, "a blob was fetched twice"
    check_store(fresh.root)
    assert fresh.out("run", "--rm", "--network", "none", reference, "python3", "-c", "print(6 * 7)") == "42"


def test_killed_pull_goes_on_where_it_was(source: Registry, fresh: Orlop, lab: Path) -> None:
    reference = f"{source.address}/lab/debian:1"
    layer, size = _largest_layer(lab, "debian")
    stall = Stall(size // 2)
    source.faults.add(Fault(f"GET .*/blobs/{layer}", stall))  # type: ignore[arg-type]
    pulling = fresh.start("pull", "-q", reference)
    assert stall.reached.wait(60)
    kill(pulling.pid)
    pulling.communicate()
    stall.go.set()
    source.seen.clear()
    assert fresh.out("images", "-q") == ""
    assert fresh.out("pull", "-q", reference, timeout=100) == reference
    again = [seen for seen in source.seen if layer in seen.target and seen.method == "GET"]
    assert len(again) == 1
    begun = re.fullmatch(r"bytes=(\d+)-.*", again[0].headers["range"])
    assert begun is not None
    assert size - int(begun[1]) < size * 0.75, "most of what had arrived was fetched again"
    check_store(fresh.root)
    fresh("run", "--rm", "--network", "none", reference, "true")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 64 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "small", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk_is_said_and_leaves_a_valid_store(source: Registry, small_disk: Path) -> None:
    orlop = Orlop(small_disk / "root", small_disk / "state")
    small, large = f"{source.address}/lab/busybox:1", f"{source.address}/lab/debian:1"
    orlop("pull", "-q", small)
    line = orlop.refused("pull", "-q", large, code=1)
    assert "no space left" in line
    for part in (orlop.root / "content/ingest").glob("[!.]*"):  # what is kept for the next attempt
        part.unlink()
    check_store(orlop.root)
    assert orlop.out("images", "--format", "{{.Repository}}").split() == [small.removesuffix(":1")]
    assert orlop.out("run", "--rm", "--network", "none", small, "echo", "goes on") == "goes on"
    left = os.statvfs(small_disk)
    orlop("rmi", small)
    assert os.statvfs(small_disk).f_bavail > left.f_bavail


def test_container_that_fills_the_disk(source: Registry, small_disk: Path) -> None:
    orlop = Orlop(small_disk / "root", Path(f"/run/orlop-full-{os.getpid()}"))
    small = f"{source.address}/lab/busybox:1"
    orlop("pull", "-q", small)
    try:
        words = ("run", "--name", "full", "--network", "none", small, "dd", "if=/dev/zero", "of=/fill", "bs=1M")
        assert "No space left" in orlop(*words, code=1).stderr
        assert orlop.state_of("full")["ExitCode"] == 1
        orlop.refused("run", "-v", "/bin", "--network", "none", small, "true", code=125)
        orlop("rm", "full")
        assert orlop.out("run", "--rm", "--network", "none", small, "echo", "room") == "room"
        assert orlop.out("ps", "-aq") == ""
    finally:
        orlop.remove_all()
        shutil.rmtree(orlop.state)


def test_other_tools_read_the_store(orlop: Orlop, registry: str, tmp_path: Path) -> None:
    layout = orlop.root / "content"
    names = [entry["annotations"]["org.opencontainers.image.ref.name"]
             for entry in msgspec.json.decode((layout / "index.json").read_bytes())["manifests"]]  # fmt: skip
    name = next(one for one in names if "lab/redis" in one or one.startswith("docker.io/library/redis"))
    copied = tmp_path / "copied"
    subprocess.run(["skopeo", "copy", "-q", f"oci:{layout}:{name}", f"oci:{copied}:redis"], check=True)
    assert (copied / "index.json").exists()
    unpack = ["umoci", "unpack", "--image", f"{layout}:{names[0]}", str(tmp_path / "bundle")]
    done = subprocess.run(unpack, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_platform_that_is_not_there(source: Registry, fresh: Orlop) -> None:
    line = fresh.refused("pull", "--platform", "linux/s390x", f"{source.address}/lab/busybox:1", code=1)
    assert "linux/s390x" in line
    line = fresh.refused("run", "--platform", "windows/amd64", f"{source.address}/lab/busybox:1", code=125)
    assert "windows" in line


def test_save_and_load_between_roots(orlop: Orlop, fresh: Orlop, tmp_path: Path) -> None:
    orlop("save", "-o", str(tmp_path / "image.tar"), "busybox")
    assert "busybox" in fresh.out("load", "-i", str(tmp_path / "image.tar"))
    assert fresh.out("run", "--rm", "--network", "none", "busybox", "echo", "hello") == "hello"


def test_push_and_pull_back(orlop: Orlop, registry: str, fresh: Orlop) -> None:
    orlop("tag", "busybox", f"{registry}/pushed/busybox:2")
    try:
        orlop("push", "-q", f"{registry}/pushed/busybox:2")
        fresh("pull", "-q", f"{registry}/pushed/busybox:2")
        assert fresh.out("images", "-q", "--no-trunc") == orlop.out("images", "-q", "--no-trunc", "busybox")
    finally:
        orlop("rmi", f"{registry}/pushed/busybox:2")
