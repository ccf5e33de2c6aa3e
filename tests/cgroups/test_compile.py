from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.cgroups.blkio import io_weight
from orlop.cgroups.compile import weight_of_shares, writes
from orlop.cgroups.facts import CgroupHost
from orlop.cgroups.write import Write
from orlop.spec.errors import FailedPrecondition, InvalidArgument
from orlop.spec.runtime import (
    CPU,
    BlockIO,
    HugepageLimit,
    InterfacePriority,
    Memory,
    NetworkResources,
    Pids,
    Rdma,
    Resources,
    ThrottleDevice,
    WeightDevice,
)

ALL_V1 = "cpu cpuacct cpuset memory devices freezer blkio pids hugetlb net_cls net_prio rdma".split()
V1 = CgroupHost(mode="v1", mounts={name: f"/cg/{name}" for name in ALL_V1}, controllers=frozenset(ALL_V1))
V2 = CgroupHost(
    mode="v2",
    mounts={},
    unified="/cg",
    controllers=frozenset("cpu cpuset memory io pids hugetlb rdma devices freezer unified".split()),
)


def compiled(host: CgroupHost, **parts: Any) -> dict[str, str]:
    """{file: value} without the device rules."""
    result = writes(Resources(**parts), host)
    return {write.file: write.value for write in result if write.controller != "devices"}


def refusal(host: CgroupHost, **parts: Any) -> str:
    with pytest.raises((InvalidArgument, FailedPrecondition)) as caught:
        writes(Resources(**parts), host)
    return str(caught.value)


def test_nothing_asked_only_denies_devices() -> None:
    assert {write.controller for write in writes(None, V1)} == {"devices"}
    assert writes(None, V2) == ()
    assert writes(Resources(), V1, update=True) == ()


def test_memory_v1_limit_goes_before_memory_and_swap() -> None:
    got = compiled(V1, memory=Memory(limit=100, swap=200, reservation=50, swappiness=10, disable_oom_killer=True))
    assert list(got.items()) == [
        ("memory.limit_in_bytes", "100"),
        ("memory.memsw.limit_in_bytes", "200"),
        ("memory.soft_limit_in_bytes", "50"),
        ("memory.swappiness", "10"),
        ("memory.oom_control", "1"),
    ]


def test_memory_v2_counts_swap_alone() -> None:
    got = compiled(V2, memory=Memory(limit=100, swap=250, reservation=50))
    assert got == {"memory.max": "100", "memory.swap.max": "150", "memory.low": "50"}


@pytest.mark.parametrize(
    ("memory", "v1", "v2"),
    [
        (Memory(limit=-1), {"limit_in_bytes": "-1", "memsw.limit_in_bytes": "-1"}, {"max": "max", "swap.max": "max"}),
        (
            Memory(limit=100, swap=-1),
            {"limit_in_bytes": "100", "memsw.limit_in_bytes": "-1"},
            {"max": "100", "swap.max": "max"},
        ),
        (Memory(limit=100), {"limit_in_bytes": "100"}, {"max": "100"}),
        (
            Memory(limit=100, swap=100),
            {"limit_in_bytes": "100", "memsw.limit_in_bytes": "100"},
            {"max": "100", "swap.max": "0"},
        ),
    ],
)
def test_unlimited_memory_and_swap(memory: Memory, v1: dict[str, str], v2: dict[str, str]) -> None:
    assert compiled(V1, memory=memory) == {f"memory.{name}": value for name, value in v1.items()}
    assert compiled(V2, memory=memory) == {f"memory.{name}": value for name, value in v2.items()}


def test_check_before_update_guards_the_limit() -> None:
    result = writes(Resources(memory=Memory(limit=100, check_before_update=True)), V2, update=True)
    assert [(write.file, write.guard) for write in result] == [("memory.max", "memory.current")]


@pytest.mark.parametrize(
    ("shares", "weight"),
    [(0, 1), (1, 1), (2, 1), (3, 2), (512, 59), (1024, 100), (2048, 174), (262144, 10000), (1 << 40, 10000)],
)
def test_shares_become_weight(shares: int, weight: int) -> None:
    assert weight_of_shares(shares) == weight


@given(st.integers(2, 262144), st.integers(2, 262144))
def test_more_shares_never_weigh_less(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert 1 <= weight_of_shares(low) <= weight_of_shares(high) <= 10000


def test_cpu() -> None:
    cpu = CPU(shares=1024, quota=50000, period=100000, burst=1000, cpus="0-1,3", mems="0", idle=1)
    assert compiled(V1, cpu=cpu) == {
        "cpu.shares": "1024",
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "50000",
        "cpu.cfs_burst_us": "1000",
        "cpu.idle": "1",
        "cpuset.cpus": "0-1,3",
        "cpuset.mems": "0",
    }
    assert compiled(V2, cpu=cpu) == {  # an idle group takes no weight
        "cpu.max": "50000 100000",
        "cpu.max.burst": "1000",
        "cpu.idle": "1",
        "cpuset.cpus": "0-1,3",
        "cpuset.mems": "0",
    }


def test_cpu_max_fills_in_what_is_not_given() -> None:
    assert compiled(V2, cpu=CPU(quota=50000)) == {"cpu.max": "50000 100000"}
    assert compiled(V2, cpu=CPU(period=20000)) == {"cpu.max": "max 20000"}
    assert compiled(V2, cpu=CPU(quota=-1)) == {"cpu.max": "max 100000"}


@pytest.mark.parametrize(("limit", "value"), [(10, "10"), (-1, "max"), (0, "max")])
def test_pids(limit: int, value: str) -> None:
    assert compiled(V1, pids=Pids(limit=limit)) == compiled(V2, pids=Pids(limit=limit)) == {"pids.max": value}


def test_block_io() -> None:
    block_io = BlockIO(
        weight=500,
        weight_device=(WeightDevice(major=8, minor=0, weight=1000),),
        throttle_read_bps_device=(ThrottleDevice(major=8, minor=0, rate=1000),),
        throttle_write_iops_device=(ThrottleDevice(major=8, minor=16, rate=0),),
    )
    assert compiled(V1, block_io=block_io) == {
        "blkio.weight": "500",
        "blkio.weight_device": "8:0 1000",
        "blkio.throttle.read_bps_device": "8:0 1000",
        "blkio.throttle.write_iops_device": "8:16 0",
    }
    v2 = [write for write in writes(Resources(block_io=block_io), V2) if write.controller == "io"]
    assert [(write.file, write.value) for write in v2] == [
        ("io.bfq.weight", "500"),
        ("io.bfq.weight", "8:0 1000"),
        ("io.max", "8:0 rbps=1000"),
        ("io.max", "8:16 wiops=max"),
    ]
    assert [(w.alternative.file, w.alternative.value) for w in v2 if w.alternative] == [
        ("io.weight", "default 4950"),
        ("io.weight", "8:0 10000"),
    ]


def test_io_weight_spans_the_range() -> None:
    assert (io_weight(10), io_weight(1000)) == (1, 10000)


def test_hugetlb_also_counts_reservations_where_it_can() -> None:
    limits = (HugepageLimit(page_size="2MB", limit=4 << 20),)
    v1 = [w for w in writes(Resources(hugepage_limits=limits), V1) if w.controller == "hugetlb"]
    assert [(w.file, w.optional) for w in v1] == [
        ("hugetlb.2MB.limit_in_bytes", False),
        ("hugetlb.2MB.rsvd.limit_in_bytes", True),
    ]
    assert compiled(V2, hugepage_limits=limits) == {"hugetlb.2MB.max": "4194304", "hugetlb.2MB.rsvd.max": "4194304"}


def test_network_and_rdma() -> None:
    network = NetworkResources(class_id=1048577, priorities=(InterfacePriority(name="eth0", priority=5),))
    rdma = {"mlx5_1": Rdma(hca_handles=3, hca_objects=10000)}
    assert compiled(V1, network=network, rdma=rdma) == {
        "net_cls.classid": "1048577",
        "net_prio.ifpriomap": "eth0 5",
        "rdma.max": "mlx5_1 hca_handle=3 hca_object=10000",
    }


def test_unified_writes_each_line_by_itself() -> None:
    result = writes(Resources(unified={"io.max": "8:0 rbps=1\n8:16 rbps=2", "cgroup.max.depth": "3"}), V2)
    assert [(w.controller, w.file, w.value) for w in result] == [
        ("io", "io.max", "8:0 rbps=1"),
        ("io", "io.max", "8:16 rbps=2"),
        ("unified", "cgroup.max.depth", "3"),
    ]


@pytest.mark.parametrize(
    ("host", "parts", "start"),
    [
        (V1, {"memory": Memory(limit=-2)}, "linux.resources.memory.limit: -2 is not between"),
        (V1, {"memory": Memory(limit=200, swap=100)}, "linux.resources.memory.swap: 100 is less than"),
        (V1, {"memory": Memory(limit=100, reservation=200)}, "linux.resources.memory.reservation: 200 is more"),
        (V1, {"memory": Memory(swappiness=101)}, "linux.resources.memory.swappiness: 101 is not between 0 and 100"),
        (V2, {"memory": Memory(swap=100)}, "linux.resources.memory.swap: needs memory.limit"),
        (V2, {"memory": Memory(swappiness=1)}, "linux.resources.memory.swappiness: cgroup v2 has no such limit"),
        (V2, {"memory": Memory(disable_oom_killer=True)}, "linux.resources.memory.disableOOMKiller: cgroup v2"),
        (V2, {"memory": Memory(kernel_tcp=1)}, "linux.resources.memory.kernelTCP: cgroup v2"),
        (V2, {"cpu": CPU(realtime_runtime=1)}, "linux.resources.cpu.realtimeRuntime: cgroup v2"),
        (V1, {"cpu": CPU(cpus="a-b")}, "linux.resources.cpu.cpus: 'a-b' is not a list"),
        (V1, {"cpu": CPU(mems="0\n1")}, "linux.resources.cpu.mems: "),
        (V1, {"block_io": BlockIO(weight=5)}, "linux.resources.blockIO.weight: 5 is not between 10 and 1000"),
        (V1, {"block_io": BlockIO(leaf_weight=50)}, "linux.resources.blockIO.leafWeight: no kernel"),
        (
            V1,
            {"block_io": BlockIO(throttle_read_iops_device=(ThrottleDevice(major=1, minor=1, rate=-1),))},
            "linux.resources.blockIO.throttleReadIOPSDevice[0].rate: -1 is negative",
        ),
        (
            V1,
            {"hugepage_limits": (HugepageLimit(page_size="../x", limit=1),)},
            "linux.resources.hugepageLimits[0].pageSize",
        ),
        (V2, {"network": NetworkResources(class_id=1)}, "linux.resources.network.classID: cgroup v2"),
        (
            V1,
            {"network": NetworkResources(priorities=(InterfacePriority(name="a b", priority=1),))},
            "linux.resources.network",
        ),
        (V1, {"rdma": {"a": Rdma()}}, "linux.resources.rdma.a: needs"),
        (
            V1,
            {"unified": {"memory.max": "1"}},
            "linux.resources.unified.memory.max: invalid configuration: needs cgroup v2",
        ),
        (V2, {"unified": {"../memory.max": "1"}}, "linux.resources.unified"),
        (V2, {"unified": {"perf_event.x": "1"}}, "linux.resources.unified.perf_event.x: this host has no perf_event"),
        (V2, {"unified": {"nodot": "1"}}, "linux.resources.unified.nodot: not the name"),
    ],
)
def test_what_cannot_be_done_is_refused_by_path(host: CgroupHost, parts: dict[str, Any], start: str) -> None:
    assert refusal(host, **parts).startswith(start)


@pytest.mark.parametrize("size", ["64kB", "0MB", "02MB", "MB", "2M", "2mb", "٢MB", "2 MB", ""])
def test_a_page_size_is_named_as_the_kernel_names_it(size: str) -> None:
    limits = (HugepageLimit(page_size=size, limit=1),)
    text = f"linux.resources.hugepageLimits[0].pageSize: {size!r} is not a size such as 2MB"
    assert refusal(V1, hugepage_limits=limits) == refusal(V2, hugepage_limits=limits) == text


def test_a_missing_controller_is_named_with_the_field() -> None:
    bare = CgroupHost(mode="v1", mounts={"cpu": "/cg/cpu"}, controllers=frozenset({"cpu"}))
    assert refusal(bare, memory=Memory(limit=100)) == (
        "linux.resources.memory.limit: this host has no memory controller (cgroup v1)"
    )
    assert writes(None, bare) == ()


def test_a_write_renders_as_one_line() -> None:
    assert str(Write("pids", "pids.max", "5", "linux.resources.pids.limit")) == (
        "pids: pids.max = 5  # linux.resources.pids.limit"
    )
