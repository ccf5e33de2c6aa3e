"""Attacks by a root file system: links that lead out, nodes that are not what they are called, and races."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.hardening.conftest import Box
from tests.harness import Terminal

pytestmark = pytest.mark.root
OUT = "../../../../../../../../../.."
RENAME_EXCHANGE = 2


def out(box: Box) -> list[str]:
    """Links that lead to the directory outside, if anything follows them there."""
    return ["../../outside", str(box.outside), f"{OUT}{box.outside}", f"/proc/self/root{box.outside}"]


@pytest.mark.parametrize("way", range(4))
@pytest.mark.parametrize("name", ["proc", "sys"])
def test_a_linked_proc_or_sys_is_refused(box: Box, name: str, way: int) -> None:
    (box.rootfs / name).symlink_to(out(box)[way])
    assert box.run("true", ok=False).stderr.endswith((f"ENOTDIR: /{name}\n", f"ELOOP: /{name}\n"))
    box.untouched()


@pytest.mark.parametrize("way", range(4))
def test_a_linked_dev_is_never_filled_outside(box: Box, way: int) -> None:
    (box.rootfs / "dev").symlink_to(out(box)[way])
    done = box.run("sh", "-c", "echo x >/dev/null && ls /dev", ok=None)  # the tmpfs is where the link leads inside
    assert done.returncode or "null" in done.stdout
    box.untouched()


@pytest.mark.parametrize("way", range(4))
def test_nodes_are_not_made_through_a_linked_dev(box: Box, way: int) -> None:
    (box.rootfs / "dev").symlink_to(out(box)[way])
    before = sorted(os.listdir(box.rootfs))
    assert "default devices (/dev)" in box.run("true", mounts=box.mounts("/dev"), ok=False).stderr
    assert set(os.listdir(box.rootfs)) - set(before) <= {"proc", "sys"}
    box.untouched()


@pytest.mark.parametrize("target", ["/outside", "/../outside/x", "/link/new", "/link/a/b/c"])
def test_a_mount_through_a_link_stays_inside(box: Box, target: str) -> None:
    (box.rootfs / "link").symlink_to(f"{OUT}{box.outside}")
    mounts = [*box.mounts(), {"destination": target, "type": "tmpfs", "source": "tmpfs"}]
    box.run("true", mounts=mounts, ok=None)
    box.untouched()


@pytest.mark.parametrize("link", ["null", "console", "ptmx", "fd", "stdin"])
def test_a_node_that_is_a_link_is_not_followed_outside(box: Box, link: str) -> None:
    """CVE-2025-31133 and its relatives: the image's own /dev with links for nodes."""
    (box.rootfs / "dev").mkdir()
    (box.rootfs / "dev" / link).symlink_to(f"../../../outside/{link}")
    mounts = box.mounts("/dev")
    box.configure("sh", "-c", "echo started", mounts=mounts, process__terminal=True)
    terminal = Terminal(box.command("run", "-b", str(box.bundle), box.id()))
    try:
        terminal.wait(20)
    finally:
        terminal.close()
    box.untouched()


@pytest.mark.parametrize("fake", ["file", "link", "other device"])
def test_what_masks_is_the_real_null_device(box: Box, fake: str) -> None:
    null = box.rootfs / "dev/null"
    null.parent.mkdir()
    if fake == "file":
        null.write_text("not null")
    elif fake == "link":
        null.symlink_to("/proc/sys/kernel/core_pattern")
    else:
        os.mknod(null, 0o020666, os.makedev(1, 5))
    done = box.run("/attack", "masked", "/proc/interrupts", "/proc/timer_list", mounts=box.mounts("/dev"), ok=None)
    assert "OPEN" not in done.stdout
    assert done.returncode or done.stdout.count("empty") + done.stdout.count("absent") == 2
    if fake == "file":
        assert null.read_text() == "not null"


def test_masks_follow_links_inside_only(box: Box) -> None:
    (box.rootfs / "secret").write_text("inside")
    (box.rootfs / "link").symlink_to("/secret")
    (box.rootfs / "far").symlink_to(f"{OUT}{box.outside}/canary")
    done = box.run("/attack", "masked", "/secret", linux__maskedPaths=["/link", "/far"], linux__readonlyPaths=["/far"])
    assert done.stdout == "/secret empty\n"
    box.untouched()


# --- races


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Exchange two names for each other as fast as the kernel can, with pauses that let others run."""
    libc, stop = ctypes.CDLL(None, use_errno=True), threading.Event()

    def swap() -> None:
        turn = 0
        while not stop.is_set():
            libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), RENAME_EXCHANGE)
            turn += 1
            stop.wait((turn % 7) * 0.0001)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("place", ["data", "dev", "etc"])
def test_a_directory_swapped_for_a_link_leads_nowhere(box: Box, place: str) -> None:
    for name in ("dev", "data"):
        (box.rootfs / name).mkdir()
    (box.rootfs / "swap").symlink_to("../../outside")
    mounts = [
        *box.mounts("/dev"),
        {"destination": f"/{place}/deep/er", "type": "bind", "source": str(box.bundle), "options": ["bind"]},
        {"destination": f"/{place}/tmpfs", "type": "tmpfs", "source": "tmpfs"},
    ]
    with swapping(box.rootfs / place, box.rootfs / "swap"):
        for _ in range(12):
            box.run("true", mounts=mounts, process__cwd=f"/{place}/cwd", ok=None)
            box.untouched()


def test_a_proc_that_is_swapped_stays_masked(box: Box) -> None:
    """Were /proc exchanged between its mount and its masks, these would miss it."""
    for name in ("proc", "swap"):
        (box.rootfs / name).mkdir()
    with swapping(box.rootfs / "proc", box.rootfs / "swap"):
        for _ in range(20):
            done = box.run(
                "/attack", "masked", *(f"/{d}/{f}" for d in ("proc", "swap") for f in ("interrupts", "keys")), ok=None
            )
            assert "OPEN" not in done.stdout
