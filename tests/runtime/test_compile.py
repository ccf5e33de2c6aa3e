"""Configurations into plans: goldens, the order of steps, and what is refused. No privileges needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orlop.cgroups.facts import CgroupHost
from orlop.runtime import ops
from orlop.runtime.compile import CreateRequest, ExecRequest, compile_create, compile_exec
from orlop.runtime.compile_layout import AT_RECURSIVE
from orlop.runtime.compile_process import capability_sets, ungranted
from orlop.runtime.default_spec import default_spec
from orlop.runtime.facts import Host, Limit
from orlop.runtime.plan import Plan
from orlop.spec import capabilities
from orlop.spec.errors import FailedPrecondition, InvalidArgument, OrlopError, Unimplemented
from orlop.spec.runtime import Capabilities, RuntimeSpec

GOLDEN = Path(__file__).parent / "golden"
HYBRID = CgroupHost(
    mode="hybrid",
    mounts={
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "pids": "/sys/fs/cgroup/pids",
    },
    unified="/sys/fs/cgroup/unified",
    controllers=frozenset({"cpu", "cpuacct", "pids"}),
)
V2 = CgroupHost(mode="v2", mounts={}, unified="/sys/fs/cgroup", controllers=frozenset({"pids", "memory"}))
HOST = Host(
    kernel=(6, 1),
    bounding=capabilities.ALL,
    cgroups=V2,
    limits={"RLIMIT_NOFILE": Limit(1024, 4096)},
)
SMALL_HOST = msgspec.structs.replace(
    HOST, bounding=capabilities.ALL & ~(1 << capabilities.BITS["CAP_SYS_RESOURCE"]), cgroups=HYBRID
)
PROCS_V2 = ("/sys/fs/cgroup/orlop/c1/cgroup.procs",)
PROCS_HYBRID = (
    "/sys/fs/cgroup/cpu,cpuacct/orlop/c1/cgroup.procs",
    "/sys/fs/cgroup/pids/orlop/c1/cgroup.procs",
    "/sys/fs/cgroup/unified/orlop/c1/cgroup.procs",
)
USER = {
    "uidMappings": [
        {"containerID": 0, "hostID": 100000, "size": 1000},
        {"containerID": 1000, "hostID": 1000, "size": 1},
    ],
    "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 1000}],
}


class Filter(msgspec.Struct, frozen=True):
    code: bytes = b"\x06\0\0\0\0\0\xff\x7f"
    flags: int = 0


def config(**changes: Any) -> dict[str, Any]:
    """The default configuration without a terminal, with `changes` by path: `linux__sysctl={...}`."""
    result: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(default_spec()))
    result["process"]["terminal"] = False
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = result
        for name in parents:
            place = place.setdefault(name, {})
        place[last] = value
    return result


def spec(**changes: Any) -> RuntimeSpec:
    return msgspec.convert(config(**changes), RuntimeSpec)


def plan(
    given: RuntimeSpec | None = None, host: Host = HOST, request: CreateRequest | None = None, **changes: Any
) -> Plan:
    return compile_create(given or spec(**changes), host, request or CreateRequest(id="c1", bundle="/bundle"))


def names(found: Plan, stage: int = 1) -> list[str]:
    return [type(step.op).__name__ for step in found.stages[stage].steps]


def all_ops(found: Plan, kind: type[Any]) -> list[Any]:
    return [step.op for stage in found.stages for step in stage.steps if isinstance(step.op, kind)]


def compare(name: str, found: Plan) -> None:
    """With the file of that name; ORLOP_GOLDEN=write writes it instead."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("ORLOP_GOLDEN") == "write":
        path.write_text(found.render())
    assert found.render() == path.read_text(), f"{name} differs; ORLOP_GOLDEN=write accepts it"


def namespaces(*types: str, **paths: str) -> list[dict[str, str]]:
    return [{"type": t} for t in types] + [{"type": t, "path": p} for t, p in paths.items()]


# --- goldens


def test_default_configuration() -> None:
    request = CreateRequest(id="c1", bundle="/bundle", cgroup_procs=PROCS_V2, await_start_slot=0)
    compare("default", plan(request=request))


def test_hybrid_control_groups_without_a_namespace_of_their_own() -> None:
    request = CreateRequest(id="c1", bundle="/bundle", cgroup_procs=PROCS_HYBRID, clamp=True)
    compare(
        "hybrid",
        plan(
            host=SMALL_HOST,
            request=request,
            linux__namespaces=namespaces("mount", "pid"),
            hostname="",
            process__oomScoreAdj=-500,
        ),
    )


def test_user_namespace() -> None:
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "source": "/srv", "options": ["rbind", "rprivate", "ro"]},
    ]
    linux = {"namespaces": namespaces("user", "mount", "pid", "network", "cgroup"), **USER}
    request = CreateRequest(id="c1", bundle="/bundle", cgroup_procs=PROCS_V2)
    compare("user_namespace", plan(request=request, linux=linux, mounts=mounts, hostname=""))


def test_engine_request_with_handed_over_root_and_network() -> None:
    request = CreateRequest(
        id="c1",
        rootfs_slot=0,
        netlink_slot=1,
        seccomp=Filter(),
        cgroup_procs=PROCS_V2,
        terminal="inherit",
        parent_death_signal=9,
    )
    given = spec(linux__seccomp={"defaultAction": "SCMP_ACT_ALLOW"}, process__noNewPrivileges=False, root__path="/")
    compare("engine", plan(given, request=request))


@pytest.mark.parametrize(
    ("changes", "before"),
    [
        ({}, "Dup"),
        ({"linux__sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"}}, "Dup"),
        ({"linux__sysctl": {"net.ipv4.conf.eth0.rp_filter": "0"}}, "Symlink"),
        ({"hooks": {"createContainer": [{"path": "/bin/hook"}]}}, "Symlink"),
    ],
)
def test_the_network_is_waited_for_only_where_it_is_needed(changes: dict[str, Any], before: str) -> None:
    """Until then the file system is made, while the parent attaches the network."""
    request = CreateRequest(id="c1", rootfs_slot=0, netlink_slot=1, null_streams=(0,))
    found = plan(spec(root__path="/", **changes), request=request)
    at = [step.op for step in found.stages[1].steps].index(ops.Sync("network", ()))
    passed = [name for name in names(found)[:at] if name in ("Symlink", "PivotRoot", "Dup")]
    assert passed[-1] == before
    assert ops.Sync("network", ()) not in all_ops(plan(spec(**changes)), ops.Sync)


def test_all_of_it() -> None:
    mounts = [
        {"destination": "/a", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "tmpcopyup", "size=1m", "rnodev"]},
        {"destination": "b/../c", "source": "rel", "options": ["bind", "nosuid", "rro", "shared"]},
        {"destination": "/d", "source": "/d", "options": ["rbind", "noatime", "rprivate"]},
    ]
    hook = {"path": "/bin/hook", "args": ["hook", "x"], "env": ["A=b"], "timeout": 3}
    compare(
        "everything",
        plan(
            request=CreateRequest(
                id="c1",
                bundle="/bundle",
                seccomp=Filter(flags=8),
                terminal="socket",
                console_slot=0,
                await_start_slot=1,
                preserve={3: 2, 4: 3},
                pivot=False,
                keyring=False,
            ),
            mounts=mounts,
            hooks={name: [hook] for name in ("createRuntime", "createContainer", "startContainer")},
            domainname="example",
            process__terminal=True,
            process__consoleSize={"height": 24, "width": 80},
            process__cwd="/work",
            process__user={"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 63},
            process__scheduler={"policy": "SCHED_BATCH", "nice": 5},
            process__ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 3},
            linux__namespaces=namespaces("mount", "uts", "time", "ipc", network="/run/netns/x", pid="/proc/1/ns/pid"),
            linux__timeOffsets={"monotonic": {"secs": 5}, "boottime": {"secs": 1, "nanosecs": 7}},
            linux__devices=[{"type": "b", "path": "/dev/loop0", "major": 7, "minor": 0, "fileMode": 432, "gid": 6}],
            linux__sysctl={"kernel.shmmax": "1", "fs/mqueue/msg_max": "9", "net.ipv4.conf.eth0/1.x": "1"},
            linux__personality={"domain": "LINUX32"},
            linux__memoryPolicy={"mode": "MPOL_BIND", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]},
            linux__rootfsPropagation="shared",
            linux__seccomp={"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent"},
        ),
    )


def test_exec() -> None:
    given = spec(linux__seccomp={"defaultAction": "SCMP_ACT_ALLOW"})
    assert given.process is not None
    process = msgspec.structs.replace(given.process, args=("/bin/ls", "-l"), terminal=True)
    request = ExecRequest(id="c1", seccomp=Filter(), cgroup_procs=PROCS_V2, terminal="sync")
    compare("exec", compile_exec(given, process, HOST, request))


# --- order


def test_seccomp_without_no_new_privileges_keeps_one_capability_for_its_installation() -> None:
    request = CreateRequest(id="c1", bundle="/bundle", seccomp=Filter())
    changes = {"linux__seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}
    loose = plan(request=request, process__noNewPrivileges=False, **changes)
    order = names(loose)
    first, last = (op.effective for op in all_ops(loose, ops.Capset))
    assert first & ~last == 1 << capabilities.BITS["CAP_SYS_ADMIN"]
    assert order.index("SetIds") < order.index("Capset") < order.index("Seccomp")
    assert order[order.index("Seccomp") :] == ["Seccomp", "Capset", "Execve"]
    strict = plan(request=request, process__noNewPrivileges=True, **changes)
    assert names(strict)[-2:] == ["Seccomp", "Execve"]


def test_user_changes_after_bounding_set_and_before_capabilities() -> None:
    order = names(plan(process__user={"uid": 1, "gid": 1}))
    assert [n for n in order if n in ("BoundingSet", "Groups", "SetIds", "Capset", "Ambient", "Execve")] == [
        "BoundingSet", "Groups", "SetIds", "Capset", "Capset", "Ambient", "Execve",
    ]  # fmt: skip


def test_the_user_namespace_is_joined_last_by_root_and_first_by_others() -> None:
    linux = {"namespaces": namespaces("mount", user="/proc/1/ns/user", network="/proc/1/ns/net")}
    joined = [op.nstype for op in all_ops(plan(linux=linux, mounts=[], hostname=""), ops.Setns)]
    assert joined == [0x40000000, 0x10000000]
    host = msgspec.structs.replace(HOST, uid=1000, effective=0, may_mount=False)
    assert [op.nstype for op in all_ops(plan(host=host, linux=linux, mounts=[], hostname=""), ops.Setns)] == joined[
        ::-1
    ]


def test_bind_sources_are_opened_outside_only_with_a_user_namespace() -> None:
    mounts = [{"destination": "/x", "source": "/y", "options": ["bind"]}]
    assert "OpenTree" not in names(plan(mounts=mounts), 0)
    linux = {"namespaces": namespaces("user", "mount"), **USER}
    assert names(plan(mounts=mounts, linux=linux, hostname=""), 0).count("OpenTree") == 2  # and the root


def test_no_new_mount_namespace_means_chroot() -> None:
    given = plan(linux={"namespaces": []}, mounts=[], hostname="", root={"path": "rootfs"})
    assert "Chroot" in names(given)
    assert not {"PivotRoot", "MoveMount", "Mknod"} & set(names(given))


def test_a_read_only_tmpfs_is_closed_after_all_mounts_in_it() -> None:
    mounts = [
        {"destination": "/t", "type": "tmpfs", "options": ["ro"]},
        {"destination": "/t/x", "type": "tmpfs"},
    ]
    steps = plan(mounts=mounts, root={"path": "r"}).stages[1].steps
    closed = [
        i
        for i, s in enumerate(steps)
        if isinstance(s.op, ops.MountSetattr) and s.op.set == 1 and "mounts[0]" in s.origin
    ]
    inner = next(i for i, s in enumerate(steps) if isinstance(s.op, ops.MoveMount) and s.op.target == "/t/x")
    assert closed
    assert closed[0] > inner


def test_limits_are_clamped_only_on_request_and_without_the_right() -> None:
    changes: dict[str, Any] = {"process__rlimits": [{"type": "RLIMIT_NOFILE", "soft": 9999, "hard": 9999}]}

    def limit(host: Host, clamp: bool) -> int:
        request = CreateRequest(id="c1", bundle="/b", clamp=clamp)
        return int(all_ops(plan(host=host, request=request, **changes), ops.Rlimit)[0].hard)

    assert limit(SMALL_HOST, True) == 4096
    assert limit(SMALL_HOST, False) == 9999
    assert limit(HOST, True) == 9999


def test_capabilities_the_host_lacks_are_left_out() -> None:
    names_ = ["CAP_SYS_RESOURCE", "CAP_KILL"]
    wanted = {"bounding": names_, "effective": names_, "permitted": names_}
    found = plan(host=SMALL_HOST, process__capabilities=wanted)
    assert all_ops(found, ops.Capset)[0].permitted == 1 << capabilities.BITS["CAP_KILL"]


def test_capabilities_that_no_kernel_has_are_left_out_and_told() -> None:
    """config.md, "Linux Process": a value that cannot be mapped is a warning, and no reason to fail."""
    wanted = Capabilities(bounding=("CAP_KILL", "CAP_NONE"), permitted=("CAP_NONE\n", "CAP_SYSLOG"))
    sets = capability_sets(wanted, capabilities.mask(["CAP_KILL"]))
    assert (sets.bounding, sets.permitted) == (capabilities.mask(["CAP_KILL"]), 0)
    assert ungranted(wanted, capabilities.mask(["CAP_KILL"])) == ("CAP_SYSLOG", "'CAP_NONE'", "'CAP_NONE\\n'")


def written(found: Plan, stage: int = 1) -> list[tuple[str, bytes]]:
    steps = found.stages[stage].steps
    return [(s.op.path, s.op.data) for s in steps if isinstance(s.op, ops.WriteFile) and "/attr/" in s.op.path]


LABELLED = msgspec.structs.replace(HOST, security_modules=frozenset({"apparmor", "selinux"}))


def test_labels_are_written_before_the_root_is_left_and_after_hooks_of_the_host() -> None:
    found = plan(
        host=LABELLED,
        process__apparmorProfile="cage",
        process__selinuxLabel="u:r:t:s0:c1,c2",
        hooks={"createContainer": [{"path": "/bin/true"}]},
    )
    assert written(found) == [
        ("/proc/self/attr/keycreate", b"u:r:t:s0:c1,c2"),
        ("/proc/self/attr/apparmor/exec", b"exec cage"),
        ("/proc/self/attr/exec", b"u:r:t:s0:c1,c2"),
    ]
    order = names(found)
    steps = [s.op.path if isinstance(s.op, ops.WriteFile) else type(s.op).__name__ for s in found.stages[1].steps]
    assert steps.index("/proc/self/attr/keycreate") < order.index("Keyring")
    assert order.index("Hook") < steps.index("/proc/self/attr/exec") < order.index("PivotRoot")


def test_labels_of_a_further_process_are_written_while_the_hosts_proc_is_there() -> None:
    process = spec(process__selinuxLabel="label", process__apparmorProfile="cage").process
    assert process is not None
    found = compile_exec(spec(), process, LABELLED, ExecRequest(id="c1"))
    assert [path for path, _ in written(found, 0)] == [
        "/proc/self/attr/apparmor/exec",
        "/proc/self/attr/exec",
        "/proc/self/attr/keycreate",
    ]


def test_mount_label_goes_where_selinux_takes_it() -> None:
    label = "u:object_r:f:s0:c1,c2"
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
        {"destination": "/data", "type": "none", "source": "/data", "options": ["bind"]},
        {"destination": "/up", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]},
        {"destination": "/own", "type": "tmpfs", "source": "tmpfs", "options": ['context="mine"']},
    ]
    found = plan(host=LABELLED, linux__mountLabel=label, mounts=mounts)
    assert {op.target: op.data for op in all_ops(found, ops.Mount)} == {
        "/proc": "",
        "/sys": "",
        "/dev": f'mode=755,context="{label}"',
        "/dev/mqueue": "",
    }
    assert [(op.path, op.name, op.value) for op in all_ops(found, ops.Setxattr)] == [
        ("/dev/mqueue", "security.selinux", label.encode())
    ]
    assert [op.value for op in all_ops(found, ops.Fsconfig) if op.key == "context"] == [label, "mine"]


@pytest.mark.parametrize("label", ['a"b', "a\nb"])
def test_what_can_be_no_label_is_refused(label: str) -> None:
    with pytest.raises(InvalidArgument, match=r"linux\.mountLabel: "):
        plan(host=LABELLED, linux__mountLabel=label)


def test_no_capabilities_field_means_none() -> None:
    given = config()
    del given["process"]["capabilities"]
    found = plan(msgspec.convert(given, RuntimeSpec))
    assert all_ops(found, ops.Capset)[0].permitted == all_ops(found, ops.BoundingSet)[0].keep == 0


def test_program_is_searched_in_the_containers_path() -> None:
    found = plan(process__args=["ls"], process__env=["PATH=/a::/b"])
    assert all_ops(found, ops.Execve)[0].candidates == ("/a/ls", "./ls", "/b/ls")
    assert all_ops(plan(process__args=["./x/ls"]), ops.Execve)[0].candidates == ("./x/ls",)


def test_every_step_says_where_it_comes_from() -> None:
    for stage in plan().stages:
        for step in stage.steps:
            assert step.origin, step


def test_working_directory_is_entered_with_the_rights_of_root_and_of_the_user() -> None:
    order = [n for n in names(plan(process__user={"uid": 1, "gid": 1})) if n in ("SetIds", "Capset", "Chdir")]
    assert order == ["SetIds", "Capset", "Chdir", "Capset"]
    both = all_ops(plan(process__user={"uid": 1, "gid": 1}), ops.Capset)
    assert [bool(op.effective & 1 << capabilities.BITS["CAP_DAC_OVERRIDE"]) for op in both] == [True, False]
    assert [n for n in names(plan()) if n in ("SetIds", "Chdir")] == ["Chdir", "SetIds"]


def test_ptmx_is_the_link_where_a_node_would_be_mounted() -> None:
    device = {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2}
    inside = {"linux__namespaces": namespaces("user", "mount"), "hostname": "", "linux__devices": [device]}
    inside |= {f"linux__{name}": value for name, value in USER.items()}
    found = plan(**inside)
    assert not [op for op in all_ops(found, ops.OpenTree) if op.path == "/dev/ptmx"]
    assert [op.target for op in all_ops(found, ops.Symlink) if op.path == "/dev/ptmx"] == ["pts/ptmx"]
    assert "/dev/ptmx" in [op.path for op in all_ops(plan(linux__devices=[device]), ops.Mknod)]


def test_sysfs_without_a_network_namespace_is_the_hosts() -> None:
    """With all that is mounted on it where that can't be left out."""
    mounts = [{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}]
    changes = {"linux__namespaces": namespaces("user", "mount"), "hostname": "", "mounts": mounts}
    changes |= {f"linux__{name}": value for name, value in USER.items()}
    for host, flags in ((HOST, 0), (msgspec.structs.replace(HOST, user_namespace=True), AT_RECURSIVE)):
        trees = [op for op in all_ops(plan(host=host, **changes), ops.OpenTree) if op.path == "/sys"]
        assert [op.flags & AT_RECURSIVE for op in trees] == [flags]


# --- refusals

_BIND = {"destination": "/x", "source": "/y"}
_CPU = {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}
_NO_NET = namespaces("mount", "uts")
_PAGES = {"pageSize": "64kB", "limit": 1}
_ON_HOST = {"linux__namespaces": namespaces("uts"), "linux__rootfsPropagation": "private"}
WRONG: list[tuple[dict[str, Any], type[OrlopError], str]] = [
    ({"ociVersion": "abc"}, InvalidArgument, "ociVersion: "),
    ({"ociVersion": "2.0.0"}, Unimplemented, "ociVersion: "),
    ({"root": None}, InvalidArgument, "root.path: "),
    ({"process": None}, InvalidArgument, "process: is missing"),
    ({"windows": {}}, InvalidArgument, "windows: "),
    ({"process__args": []}, InvalidArgument, "process.args: "),
    ({"process__cwd": "tmp"}, InvalidArgument, "process.cwd: "),
    ({"process__env": ["A=1", "novalue"]}, InvalidArgument, "process.env[1]: "),
    ({"process__args": ["a\0b"]}, InvalidArgument, "process.args: "),
    ({"process__capabilities": {"effective": ["CAP_CHOWN"]}}, InvalidArgument, "process.capabilities.effective: "),
    ({"process__rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}, InvalidArgument, "process.rlimits[0].type: "),
    ({"process__rlimits": [_CPU | {"soft": 2}]}, InvalidArgument, "process.rlimits[0].soft: "),
    ({"process__rlimits": [_CPU] * 2}, InvalidArgument, "process.rlimits[1].type: "),
    ({"process__user": {"uid": -1}}, InvalidArgument, "process.user.uid: "),
    ({"process__oomScoreAdj": 2000}, InvalidArgument, "process.oomScoreAdj: "),
    ({"process__apparmorProfile": "x"}, FailedPrecondition, "process.apparmorProfile: "),
    ({"process__selinuxLabel": "x"}, FailedPrecondition, "process.selinuxLabel: "),
    ({"process__scheduler": {"policy": "SCHED_X"}}, InvalidArgument, "process.scheduler.policy: "),
    ({"process__scheduler": {"policy": "SCHED_OTHER", "priority": 3}}, InvalidArgument, "process.scheduler.priority: "),
    ({"process__ioPriority": {"class": "X"}}, InvalidArgument, "process.ioPriority.class: "),
    ({"process__commandLine": "x"}, InvalidArgument, "process.commandLine: "),
    ({"mounts": [{"destination": "/x"}]}, InvalidArgument, "mounts[0].type: "),
    ({"mounts": [{"destination": "/"}]}, InvalidArgument, "mounts[0].destination: "),
    ({"mounts": [{"destination": "/x", "options": ["bind"]}]}, InvalidArgument, "mounts[0].source: "),
    ({"mounts": [_BIND | {"options": ["bind", "size=3"]}]}, InvalidArgument, "mounts[0].options[1]: "),
    ({"mounts": [_BIND | {"type": "proc", "options": ["tmpcopyup"]}]}, InvalidArgument, "mounts[0].options: "),
    ({"mounts": [_BIND | {"options": ["bind", "idmap"]}]}, InvalidArgument, "mounts[0].options: "),
    ({"linux__namespaces": [{"type": "x"}]}, InvalidArgument, "linux.namespaces[0].type: "),
    ({"linux__namespaces": namespaces("pid", "pid")}, InvalidArgument, "linux.namespaces[1].type: "),
    ({"linux__namespaces": namespaces("mount", pid="x")}, InvalidArgument, "linux.namespaces[1].path: "),
    ({"linux__namespaces": namespaces("mount")}, InvalidArgument, "hostname: "),
    (_ON_HOST, InvalidArgument, "linux.rootfsPropagation: "),
    ({"linux__namespaces": namespaces("mount", "uts", "user")}, InvalidArgument, "linux.uidMappings: "),
    ({"linux__uidMappings": USER["uidMappings"]}, InvalidArgument, "linux.uidMappings: "),
    ({"linux__timeOffsets": {"monotonic": {"secs": 1}}}, InvalidArgument, "linux.timeOffsets: "),
    ({"linux__devices": [{"type": "x", "path": "/dev/x"}]}, InvalidArgument, "linux.devices[0].type: "),
    ({"linux__devices": [{"type": "c", "path": "dev"}]}, InvalidArgument, "linux.devices[0].path: "),
    ({"linux__sysctl": {"vm.swappiness": "1"}}, InvalidArgument, "linux.sysctl['vm.swappiness']: "),
    ({"linux__sysctl": {"net.x": "1"}, "linux__namespaces": _NO_NET}, InvalidArgument, "linux.sysctl['net.x']: "),
    ({"linux__sysctl": {"net/../kernel/x": "1"}}, InvalidArgument, "linux.sysctl['net/../kernel/x']: "),
    ({"linux__sysctl": {"kernel.hostname": "x"}}, InvalidArgument, "linux.sysctl['kernel.hostname']: "),
    ({"linux__rootfsPropagation": "x"}, InvalidArgument, "linux.rootfsPropagation: "),
    ({"linux__maskedPaths": ["proc"]}, InvalidArgument, "linux.maskedPaths[0]: "),
    ({"linux__personality": {"domain": "X"}}, InvalidArgument, "linux.personality.domain: "),
    ({"linux__memoryPolicy": {"mode": "X"}}, InvalidArgument, "linux.memoryPolicy.mode: "),
    ({"linux__intelRdt": {}}, FailedPrecondition, "linux.intelRdt: no resctrl file system is mounted on this host"),
    ({"linux__intelRdt": {"closID": "a/b"}}, InvalidArgument, "linux.intelRdt.closID: "),
    ({"linux__intelRdt": {"closID": "info"}}, InvalidArgument, "linux.intelRdt.closID: "),
    ({"linux__intelRdt": {"memBwSchema": "L3:0=1"}}, InvalidArgument, "linux.intelRdt.memBwSchema: "),
    ({"linux__intelRdt": {"schemata": ["L3:0=1", "L3:0=1\n"]}}, InvalidArgument, "linux.intelRdt.schemata[1]: "),
    ({"linux__netDevices": {"eth0": {}}, "linux__namespaces": _NO_NET}, InvalidArgument, "linux.netDevices.eth0: "),
    ({"linux__netDevices": {"": {}}}, InvalidArgument, "linux.netDevices.'': "),
    ({"linux__netDevices": {"a\n": {}}}, InvalidArgument, "linux.netDevices.'a\\n': "),
    ({"linux__netDevices": {"eth0": {"name": "x" * 16}}}, InvalidArgument, "linux.netDevices.eth0: "),
    ({"linux__netDevices": {"eth0": {"name": "n%s"}}}, InvalidArgument, "linux.netDevices.eth0: "),
    ({"linux__netDevices": {"a": {}, "b": {"name": "a"}}}, InvalidArgument, "linux.netDevices.b.name: "),
    ({"linux__resources": {"hugepageLimits": [_PAGES]}}, InvalidArgument, "linux.resources.hugepageLimits[0]."),
    ({"linux__mountLabel": "x"}, FailedPrecondition, "linux.mountLabel: "),
    ({"linux__seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}, FailedPrecondition, "linux.seccomp: "),
    ({"hooks": {"poststop": [{"path": "x"}]}}, InvalidArgument, "hooks.poststop[0].path: "),
    ({"hooks": {"createRuntime": [{"path": "/x", "timeout": 0}]}}, InvalidArgument, "hooks.createRuntime[0].timeout: "),
    ({"hostname": "x" * 65}, InvalidArgument, "hostname: "),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "kind", "text"), WRONG, ids=lambda v: v if isinstance(v, str) else "")
def test_refuses_by_json_path(changes: dict[str, Any], kind: type[OrlopError], text: str) -> None:
    with pytest.raises(kind) as caught:
        plan(**changes)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)
