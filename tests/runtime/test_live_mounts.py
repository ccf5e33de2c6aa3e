"""`mounts add` and `mounts remove`: the plans, and what a container in being sees of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.runtime.test_as_runc import USER
from tests.runtime.test_runtime_cli import Lab, lab  # noqa: F401 - a fixture

from orlop.runtime.compile_live import attached, compile_add, compile_remove
from orlop.runtime.default_spec import default_spec
from orlop.runtime.ops import MoveMount, Setns, Umount
from orlop.spec.errors import FailedPrecondition, InvalidArgument
from orlop.spec.runtime import Linux, Mount, Namespace

BIND = Mount(destination="/foo/bar", type="bind", source="/etc", options=("bind", "ro"))
TMPFS = Mount(destination="/foo/tmpfs", type="tmpfs", source="tmpfs")


# --- plans


def test_sources_are_opened_before_the_namespace_is_joined_and_attached_after() -> None:
    names = [type(step.op).__name__ for step in compile_add(default_spec(), (BIND,), "/b").stages[0].steps]
    assert names.index("OpenTree") < names.index("Setns") < names.index("MoveMount")
    assert names[-1] == "Exit"


def test_what_has_been_mounted_is_known_from_the_step_that_failed() -> None:
    plan = compile_add(default_spec(), (BIND, TMPFS), "/b")
    steps = plan.stages[0].steps
    first = next(i for i, step in enumerate(steps) if isinstance(step.op, MoveMount))
    assert attached(plan, first) == ()
    assert attached(plan, first + 1) == ("/foo/bar",)
    assert attached(plan, len(steps)) == ("/foo/bar", "/foo/tmpfs")


def test_the_last_is_removed_first() -> None:
    steps = compile_remove(default_spec(), ("/a", "/a/b")).stages[0].steps
    assert [step.op.path for step in steps if isinstance(step.op, Umount)] == ["/a/b", "/a"]
    assert isinstance(steps[0].op, Setns)


@pytest.mark.parametrize(
    ("mount", "text"),
    [
        (Mount(destination="/sys/fs/cgroup", type="cgroup"), "mounts[0].type: cgroup can be mounted only when"),
        (Mount(destination="/p", type="proc"), "mounts[0].type: proc can be mounted only when"),
        (Mount(destination="/p", type="tmpfs", options=("shared",)), "mounts[0].options: propagation is for"),
        (Mount(destination="/", type="bind", source="/etc", options=("bind",)), "mounts[0].destination: the root"),
        (Mount(destination="/x", options=("remount", "bind", "ro")), "mounts[0].options: changes of what is there"),
        (Mount(destination="/x", type="bind", source="/x", options=("bind", "copy-symlink")), "copy-symlink is for"),
        (Mount(destination="/x", type="bind", source="/x", options=("bind", "dest-nofollow")), "dest-nofollow is for"),
    ],
)
def test_refuses_what_is_no_addition(mount: Mount, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        compile_add(default_spec(), (mount,), "/b")
    assert text in str(caught.value)


def test_refuses_more_bind_mounts_than_can_be_held_at_once() -> None:
    with pytest.raises(InvalidArgument, match="too many at once"):
        compile_add(default_spec(), (BIND,) * 64, "/b")


def test_refuses_a_container_without_a_mount_namespace() -> None:
    spec = msgspec.structs.replace(default_spec(), linux=Linux(namespaces=(Namespace(type="pid"),)))
    for compiled in (lambda: compile_add(spec, (BIND,), "/b"), lambda: compile_remove(spec, ("/x",))):
        with pytest.raises(FailedPrecondition, match="no mount namespace"):
            compiled()


# --- on a kernel


def write(path: Path, *mounts: dict[str, Any]) -> str:
    path.write_text(json.dumps(mounts))
    return str(path)


@pytest.mark.root
@pytest.mark.parametrize("changes", [{}, USER], ids=["plain", "user namespace"])
def test_mounts_come_and_go(lab: Lab, tmp_path: Path, changes: dict[str, Any]) -> None:  # noqa: F811
    (tmp_path / "data").mkdir()
    (tmp_path / "data/test").write_text("here\n")
    tmpfs = {"destination": "/foo", "type": "tmpfs", "source": "tmpfs"}
    for name in ("proc", "foo"):
        (lab.rootfs / name).mkdir()
    if changes:
        os.chown(lab.rootfs, 100000, 100000)
    identifier = lab.up(mounts=[{"destination": "/proc", "type": "proc", "source": "proc"}, tmpfs], **changes)
    bind = {"destination": "/foo/bar", "type": "bind", "source": str(tmp_path / "data"), "options": ["bind", "ro"]}
    file = write(tmp_path / "mounts.json", bind, {**tmpfs, "destination": "/foo/tmpfs"})
    lab("mounts", "add", identifier, file)
    assert lab("exec", identifier, "cat", "/foo/bar/test").stdout == "here\n"
    assert lab("exec", identifier, "touch", "/foo/bar/new", ok=False).stderr != ""
    assert "/foo/tmpfs tmpfs" in lab("exec", identifier, "cat", "/proc/mounts").stdout
    lab("mounts", "remove", identifier, file)
    assert "/foo/" not in lab("exec", identifier, "cat", "/proc/mounts").stdout
    assert "umount: EINVAL" in lab("mounts", "remove", identifier, file, ok=False).stderr


@pytest.mark.root
def test_of_a_failure_nothing_is_left(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    identifier = lab.up()
    good = {"destination": "/tmp/a", "type": "tmpfs", "source": "tmpfs"}
    bad = {"destination": "/tmp/b", "type": "nosuchfs", "source": "none"}
    refused = lab("mounts", "add", identifier, write(tmp_path / "m", good, bad), ok=False)
    assert "mounts[1] (nosuchfs -> /tmp/b): fsopen: ENODEV" in refused.stderr
    assert "/tmp/a" not in lab("exec", identifier, "cat", "/proc/mounts").stdout
    assert "does not exist" in lab("mounts", "add", "nosuch", str(tmp_path / "m"), ok=False).stderr
    assert "neither add nor remove" in lab("mounts", "show", identifier, str(tmp_path / "m"), ok=False).stderr
