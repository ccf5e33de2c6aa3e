"""Where in a plan a process comes into its control groups, and into their namespace."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orlop.cgroups.facts import CgroupHost
from orlop.runtime.compile import CreateRequest, ExecRequest, compile_create, compile_exec
from orlop.runtime.compile_cgroups import born_inside, joins_early
from orlop.runtime.default_spec import default_spec
from orlop.runtime.facts import Host
from orlop.runtime.namespaces import FLAGS
from orlop.runtime.ops import Clone, Op, Setns, Unshare
from orlop.runtime.plan import Plan
from orlop.spec import capabilities
from orlop.spec.runtime import IDMapping, Namespace, RuntimeSpec

HOST = Host(kernel=(6, 1), bounding=capabilities.ALL)
PROCS = ("/sys/fs/cgroup/orlop/c1/cgroup.procs",)


def spec(*more: Namespace, without: tuple[str, ...] = ("cgroup",), **linux: Any) -> RuntimeSpec:
    given = default_spec()
    assert given.linux
    assert given.process
    kept = tuple(one for one in given.linux.namespaces if one.type not in without)
    process = replace(given.process, terminal=False)
    return replace(given, process=process, linux=replace(given.linux, namespaces=(*kept, *more), **linux))


def touches(plan: Plan) -> list[tuple[int, type[Op]]]:
    """Operations on control group namespaces and births, with their stages."""
    flag = FLAGS["cgroup"]
    return [
        (number, type(step.op))
        for number, stage in enumerate(plan.stages)
        for step in stage.steps
        if (isinstance(step.op, Setns) and step.op.nstype & flag)
        or (isinstance(step.op, Unshare) and step.op.flags & flag)
        or isinstance(step.op, Clone)
    ]


def create(given: RuntimeSpec, procs: tuple[str, ...] = PROCS) -> Plan:
    return compile_create(given, HOST, CreateRequest(id="c1", bundle="/bundle", cgroup_procs=procs))


def test_a_namespace_is_made_after_birth_in_the_group() -> None:
    assert touches(create(spec(Namespace(type="cgroup")))) == [(0, Clone), (1, Unshare)]


def test_a_namespace_is_joined_after_birth_in_the_group() -> None:
    """From inside of it, the kernel finds no group to be born out of."""
    assert touches(create(spec(Namespace(type="cgroup", path="/proc/7/ns/cgroup")))) == [(0, Clone), (1, Setns)]


@pytest.mark.parametrize("procs", [PROCS, ()])
def test_a_namespace_is_joined_before_the_rights_to_it_are_gone(procs: tuple[str, ...]) -> None:
    joined = (Namespace(type="user"), Namespace(type="cgroup", path="/proc/7/ns/cgroup"))
    maps = (IDMapping(container_id=0, host_id=100000, size=1000),)
    assert touches(create(spec(*joined, uid_mappings=maps, gid_mappings=maps), procs)) == [(0, Setns), (0, Clone)]


@pytest.mark.parametrize(("procs", "order"), [(PROCS, [(0, Clone), (1, Setns)]), ((), [(0, Setns), (0, Clone)])])
def test_a_further_process_joins_after_birth_in_the_group(procs: tuple[str, ...], order: list[Any]) -> None:
    given = spec(Namespace(type="cgroup"))
    assert given.process
    assert touches(compile_exec(given, given.process, HOST, ExecRequest(id="c1", cgroup_procs=procs))) == order


@pytest.mark.parametrize("joined", [(), (Namespace(type="pid", path="/proc/7/ns/pid"),)])
@pytest.mark.parametrize(
    ("cgroups", "procs", "early"),
    [
        (CgroupHost(mode="v1", mounts={"pids": "/cg/pids"}), ("/cg/pids/orlop/c1/cgroup.procs",), False),
        (CgroupHost(mode="v2", mounts={}, unified="/cg"), ("/cg/orlop/c1/cgroup.procs",), True),
    ],
)
def test_only_a_process_born_in_its_group_needs_that_before(
    joined: tuple[Namespace, ...], cgroups: CgroupHost, procs: tuple[str, ...], early: bool
) -> None:
    given = spec(*joined, without=tuple(one.type for one in joined))
    plan = compile_create(
        given, replace(HOST, cgroups=cgroups), CreateRequest(id="c1", bundle="/b", cgroup_procs=procs)
    )
    assert born_inside(plan) is early
    assert not joins_early(plan)


def test_a_container_with_a_user_namespace_needs_all_its_groups_before_its_first_process() -> None:
    maps = (IDMapping(container_id=0, host_id=100000, size=1000),)
    given = spec(Namespace(type="user"), uid_mappings=maps, gid_mappings=maps)
    host = replace(HOST, cgroups=CgroupHost(mode="v1", mounts={"pids": "/cg/pids"}))
    request = CreateRequest(id="c1", bundle="/b", cgroup_procs=("/cg/pids/orlop/c1/cgroup.procs",))
    assert joins_early(compile_create(given, host, request))
