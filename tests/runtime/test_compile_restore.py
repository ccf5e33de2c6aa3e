"""What CRIU is told of a container's mounts, and the plans that start it."""

from __future__ import annotations

import msgspec
import pytest

from orlop.cgroups.facts import CgroupHost
from orlop.runtime import compile_external as external
from orlop.runtime.compile_restore import Program, compile_loopback, compile_restore, compile_service
from orlop.runtime.criu import first_error, log_path
from orlop.runtime.default_spec import default_spec
from orlop.runtime.facts import Host
from orlop.runtime.namespaces import FLAGS
from orlop.runtime.ops import Clone, Execve, MoveMount, Target, WriteFile
from orlop.runtime.slots import check
from orlop.spec.errors import FailedPrecondition
from orlop.spec.runtime import IDMapping, Mount, Namespace, RuntimeSpec

V1 = CgroupHost(mode="hybrid", mounts={"cpu": "/cg/cpu", "pids": "/cg/pids"}, unified="/cg/unified")
V2 = CgroupHost(mode="v2", mounts={}, unified="/cg")
MOUNTINFO = """\
100 90 8:1 /roots/c / rw - ext4 /dev/sda rw
101 100 0:5 / /proc rw - proc proc rw
102 101 0:6 /null /proc/kcore rw - devtmpfs dev rw
103 101 0:7 / /proc/acpi ro - tmpfs tmpfs rw
104 100 8:1 /srv/one /real\\040place rw - ext4 /dev/sda rw
105 104 8:2 / /real\\040place/below rw - ext4 /dev/sdb rw
106 104 8:1 /srv/two /real\\040place/two rw - ext4 /dev/sda rw
107 100 0:8 /orlop/c /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
"""


def spec(*mounts: Mount, without: str = "", namespaces: tuple[Namespace, ...] = ()) -> RuntimeSpec:
    found = default_spec()
    assert found.linux is not None
    kept = tuple(n for n in found.linux.namespaces if n.type not in ("cgroup", without))
    linux = msgspec.structs.replace(
        found.linux, namespaces=kept + namespaces, masked_paths=("/proc/kcore", "/proc/acpi")
    )
    return msgspec.structs.replace(found, linux=linux, mounts=found.mounts + mounts)


def bind(source: str, destination: str, *options: str) -> Mount:
    return Mount(destination=destination, source=source, options=options or ("bind",))


def test_a_dump_names_what_is_the_hosts() -> None:
    wanted = spec(bind("/srv/one", "/link", "rbind"), bind("/srv/two", "/link/two"), bind("/gone", "/gone"))
    first = len(wanted.mounts) - 3
    places = external.parse_mountinfo(MOUNTINFO)
    standing = {
        first: (104, "/real place"),
        first + 1: (106, "/real place/two"),
        first + 2: (100, "/gone"),  # unmounted: what is found there is the root's
    }
    found = external.dumped(wanted, "/bundle", places, standing)
    assert dict(found) == {
        "/real place": "/link",
        "/real place/below": "/link/below",  # came with the tree; the other one is an entry of its own
        "/real place/two": "/link/two",
        "/proc/kcore": "/dev/null",  # a hidden file; a hidden directory is a tmpfs, and CRIU's
        "/sys/fs/cgroup/cpu": "/sys/fs/cgroup/cpu",
    }


def test_a_restore_finds_them_on_the_host() -> None:
    host = external.parse_mountinfo("1 0 8:1 / / rw - ext4 a rw\n2 1 8:2 / /srv/one/below rw - ext4 b rw\n")
    wanted = spec(bind("data", "/relative"), bind("/srv/one", "/link", "rbind"), bind("/srv/one", "/flat"))
    found = dict(external.restored(wanted, "/bundle", V1, "/orlop/c", host))
    assert found == {
        "/dev/null": "/dev/null",
        "/relative": "/bundle/data",
        "/link": "/srv/one",
        "/link/below": "/srv/one/below",
        "/flat": "/srv/one",
        "/sys/fs/cgroup/cpu": "/cg/cpu/orlop/c",
        "/sys/fs/cgroup/pids": "/cg/pids/orlop/c",
        "/sys/fs/cgroup/unified": "/cg/unified/orlop/c",
    }
    assert dict(external.restored(spec(), "/bundle", V2, "/orlop/c", ()))["/sys/fs/cgroup"] == "/cg/orlop/c"
    own = spec(namespaces=(Namespace(type="cgroup"),))
    assert dict(external.restored(own, "/bundle", V1, "/orlop/c", ())) == {"/dev/null": "/dev/null"}


def test_bound_devices_of_a_user_namespace_are_the_hosts() -> None:
    wanted = spec(namespaces=(Namespace(type="user"),))
    found = dict(external.dumped(wanted, "/bundle", (), {}))
    assert found["/dev/tty"] == "/dev/tty"
    assert found.keys() <= dict(external.restored(wanted, "/bundle", V1, "/orlop/c", ())).keys()


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (spec(without="mount"), "linux.namespaces: criu needs a mount namespace"),
        (spec(namespaces=(Namespace(type="cgroup", path="/proc/1/ns/cgroup"),)), r"linux.namespaces \(cgroup\)"),
    ],
)
def test_namespaces_that_criu_cannot_do(wanted: RuntimeSpec, text: str) -> None:
    with pytest.raises(FailedPrecondition, match=text):
        external.check(wanted)


def test_mapped_mounts_are_refused() -> None:
    ids = (IDMapping(container_id=0, host_id=1000, size=1),)
    mount = msgspec.structs.replace(bind("/srv", "/srv"), uid_mappings=ids, gid_mappings=ids)
    wanted = spec(mount)
    with pytest.raises(FailedPrecondition, match=rf"mounts\[{len(wanted.mounts) - 1}\]: criu cannot restore"):
        external.mounts(wanted, "/bundle")


def test_a_restore_prepares_a_root_in_a_namespace_of_its_own() -> None:
    wanted = spec(bind("/srv/one", "/one"), bind("/srv/two", "/dev/two"))
    program = Program(path="/usr/sbin/criu", environment=("A=b",), more=2)
    host = Host(kernel=(6, 1), uid=0, bounding=0, last_capability=40, cgroups=V1)
    plan = compile_restore(
        program,
        "/roots/c",
        "/run/state/c",
        ("/images", "/work"),
        external.mounts(wanted, "/bundle"),
        ("/cg/cpu/orlop/c/cgroup.procs", "/cg/unified/orlop/c/cgroup.procs"),
        host,
    )
    check(plan, 3)
    outside, inside = ([step.op for step in stage.steps] for stage in plan.stages)
    assert outside[-1] == Clone(FLAGS["mount"], outside[-2].slot)  # type: ignore[attr-defined]
    assert any(isinstance(op, WriteFile) and op.path == "/cg/cpu/orlop/c/tasks" for op in outside)
    moved = [op.target for op in inside if isinstance(op, MoveMount)]
    assert moved == ["/run/state/c/root", "/one", "/run/state/c/root"]  # furnished, then once more without mounts
    made = [op.path for op in inside if isinstance(op, Target)]
    assert "/one" in made
    assert "/dev/two" not in made  # on a tmpfs, which comes with the image
    assert inside[-1] == Execve(("/usr/sbin/criu",), ("criu", "swrk", "3"), ("A=b",))


def test_the_plans_hold_together() -> None:
    check(compile_service(Program(path="/criu", environment=())), 1)
    check(compile_loopback("/proc/1/ns/net"), 0)


def test_the_first_error_of_a_log_is_the_reason() -> None:
    log = """\
(00.01) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.02) Warn  (criu/x.c:1): never mind
(00.03)      1: Error (criu/files.c:9): mnt: \x1b[31mthis): it is
(00.04) Error (criu/cr-dump.c:1): Dumping FAILED.
"""
    assert first_error(log) == "mnt: ?[31mthis): it is"
    assert first_error("all is well\n") == ""


def test_the_log_may_be_elsewhere(tmp_path: object) -> None:
    path = f"{tmp_path}/conf"
    with open(path, "w") as file:
        file.write("# log-file no\nlog-file=one\ntcp-established\nlog-file /var/two\n")
    assert log_path("/work", "dump.log", path) == "/var/two"
    assert log_path("/work", "dump.log", f"{tmp_path}/none") == "/work/dump.log"
