"""Limits as systemd counts them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.cgroups.compile_systemd import INFINITY, annotated, mask, needs_version, properties, start_properties
from orlop.cgroups.units import Unit
from orlop.spec.errors import InvalidArgument
from orlop.spec.runtime import CPU, BlockIO, DeviceCgroup, Memory, Pids, Resources, ThrottleDevice, WeightDevice
from orlop.wire.dbus import Variant

NONE = (DeviceCgroup(allow=False, access="rwm"),)
DEFAULT = [
    ("char-*", "m"),
    ("block-*", "m"),
    *((f"/dev/char/1:{minor}", "rwm") for minor in (3, 5, 7, 8, 9)),
    *((f"/dev/char/5:{minor}", "rwm") for minor in (0, 1, 2)),
    ("char-136", "rwm"),
]


def told(resources: Resources, v2: bool = True, version: int = 252) -> dict[str, Any]:
    """What an update says: without devices, and a later value in place of an earlier one."""
    return {name: value.value for name, value in properties(resources, v2, version, update=True)}


def test_a_scope_is_started_with_its_process_and_left_alone() -> None:
    found = dict(start_properties(Unit("p-n.scope", "a.slice"), 7, True))
    assert found["Slice"] == Variant("s", "a.slice")
    assert found["PIDs"] == Variant("au", [7])
    assert found["Delegate"] == found["IOAccounting"] == Variant("b", True)
    assert found["DefaultDependencies"] == Variant("b", False)
    assert "BlockIOAccounting" in dict(start_properties(Unit("p-n.scope", "a.slice"), 7, False))


def test_a_slice_has_no_process_and_no_delegation() -> None:
    found = dict(start_properties(Unit("a-b.slice", "a.slice"), 7, True))
    assert found["Wants"] == Variant("as", ["a.slice"])
    assert not {"Slice", "PIDs", "Delegate"} & set(found)


def test_limits_v2() -> None:
    resources = Resources(
        memory=Memory(limit=64 << 20, swap=96 << 20, reservation=32 << 20),
        cpu=CPU(shares=1024, quota=50_000, period=200_000, cpus="0-1,8", mems="0"),
        pids=Pids(limit=77),
        block_io=BlockIO(
            weight=500,
            weight_device=(WeightDevice(major=8, minor=0, weight=10),),
            throttle_read_bps_device=(ThrottleDevice(major=8, minor=0, rate=1000),),
            throttle_write_iops_device=(ThrottleDevice(major=8, minor=0, rate=0),),
        ),
    )
    assert told(resources) == {
        "MemoryMax": 64 << 20,
        "MemoryLow": 32 << 20,
        "MemorySwapMax": 32 << 20,
        "CPUWeight": 100,
        "CPUQuotaPeriodUSec": 200_000,
        "CPUQuotaPerSecUSec": 250_000,
        "AllowedCPUs": b"\x03\x01",
        "AllowedMemoryNodes": b"\x01",
        "TasksMax": 77,
        "IOWeight": 4950,
        "IODeviceWeight": [("/dev/block/8:0", 1)],
        "IOReadBandwidthMax": [("/dev/block/8:0", 1000)],
        "IOWriteIOPSMax": [("/dev/block/8:0", INFINITY)],
    }


def test_limits_v1() -> None:
    resources = Resources(
        memory=Memory(limit=5000, swap=9000), cpu=CPU(shares=512, cpus="0"), block_io=BlockIO(weight=50)
    )
    assert told(resources, v2=False) == {"MemoryLimit": 5000, "CPUShares": 512, "BlockIOWeight": 50}


def test_no_limit_is_the_largest_number() -> None:
    resources = Resources(memory=Memory(limit=-1), cpu=CPU(quota=-1), pids=Pids(limit=-1))
    assert told(resources) == dict.fromkeys(("MemoryMax", "MemorySwapMax", "CPUQuotaPerSecUSec", "TasksMax"), INFINITY)
    assert told(Resources(cpu=CPU(period=5000))) == {"CPUQuotaPeriodUSec": 5000, "CPUQuotaPerSecUSec": INFINITY}


@pytest.mark.parametrize(
    ("quota", "period", "share"),
    [(100_000, 100_000, 1_000_000), (1000, 100_000, 10_000), (1001, 100_000, 20_000), (33_333, 100_000, 340_000)],
)
def test_a_quota_is_rounded_up_to_what_systemd_keeps(quota: int, period: int, share: int) -> None:
    assert told(Resources(cpu=CPU(quota=quota, period=period)))["CPUQuotaPerSecUSec"] == share


def test_an_idle_group_has_the_weight_of_none() -> None:
    idle = Resources(cpu=CPU(idle=1, shares=1024))
    assert told(idle) == {"CPUWeight": 0}
    assert told(idle, version=251) == {}
    assert told(Resources(cpu=CPU(idle=0))) == {"CPUWeight": 100}
    assert needs_version(idle)
    assert not needs_version(Resources(cpu=CPU(shares=5)))


def test_unified_files_that_systemd_knows() -> None:
    values = {
        "memory.max": "1M", "memory.high": "max", "cpu.max": "max 50000", "pids.max": "9", "cpuset.cpus": "1",
        "cpu.weight": "idle", "memory.oom.group": "1", "hugetlb.2MB.max": "0",
    }  # fmt: skip
    assert told(Resources(unified=values)) == {
        "MemoryMax": 1 << 20,
        "MemoryHigh": INFINITY,
        "CPUQuotaPeriodUSec": 50_000,
        "CPUQuotaPerSecUSec": INFINITY,
        "TasksMax": 9,
        "AllowedCPUs": b"\x02",
    }
    with pytest.raises(InvalidArgument, match=r"^linux\.resources\.unified\.pids\.max: 'x' is neither"):
        told(Resources(unified={"pids.max": "x"}))


def devices(*rules: DeviceCgroup) -> tuple[Any, Any]:
    found = [(name, value.value) for name, value in properties(Resources(devices=rules), True)]
    assert found[1] == ("DeviceAllow", [])
    return found[0][1], found[2][1] if len(found) > 2 else None


def test_devices_that_are_allowed_are_named() -> None:
    null = DeviceCgroup(allow=True, type="c", major=10, minor=229, access="rw")
    every = DeviceCgroup(allow=True, type="b", major=8, access="r")
    assert devices() == ("strict", DEFAULT)
    assert devices(*NONE, null, every) == ("strict", [("/dev/char/10:229", "rw"), ("block-8", "r"), *DEFAULT])
    assert devices(null, *NONE) == ("strict", DEFAULT)


def test_systemd_is_told_no_less_than_the_rules_allow() -> None:
    """What it has no word for is left to the group's own program."""
    every = DeviceCgroup(allow=True, access="rwm")
    one = DeviceCgroup(allow=False, type="c", major=1, minor=3, access="w")
    whole = DeviceCgroup(allow=True, type="c", major=1, access="rw")
    assert devices(every, one) == ("auto", None)
    assert devices(*NONE, whole, one) == ("strict", [("char-1", "rw"), *DEFAULT])
    assert devices(*NONE, whole, DeviceCgroup(allow=False, type="c", major=1, access="rw")) == ("strict", DEFAULT)


def test_an_update_without_devices_tells_of_none() -> None:
    assert properties(Resources(pids=Pids(limit=5)), True, update=True) == (("TasksMax", Variant("t", 5)),)


@given(st.sets(st.integers(0, 200), min_size=1))
def test_a_list_is_a_bit_for_each(numbers: set[int]) -> None:
    found = mask(",".join(map(str, numbers)))
    assert {i for i in range(len(found) * 8) if found[i // 8] >> i % 8 & 1} == numbers
    assert found[-1]


def test_a_list_may_have_a_stride() -> None:
    assert mask("0-7:2/4") == b"\x33"
    for text in ("", "a", "3-1", "0-7:0/4", "0-9999999", "1,,2"):
        with pytest.raises(InvalidArgument):
            mask(text)


def test_annotations_are_properties() -> None:
    prefix = "org.systemd.property."
    found = annotated(
        {
            "other": "x",
            prefix + "TimeoutStopUSec": "uint64 123456789",
            prefix + "CollectMode": "'inactive-or-failed'",
            prefix + "RuntimeMaxSec": "1.5",
        }
    )
    assert found == (
        ("TimeoutStopUSec", Variant("t", 123456789)),
        ("CollectMode", Variant("s", "inactive-or-failed")),
        ("RuntimeMaxUSec", Variant("t", 1500000)),
    )


@pytest.mark.parametrize(
    ("name", "text"), [("x", "1"), ("a.b", "1"), ("Foo1", "1"), ("Foo", "["), ("FooSec", "'x'"), ("FooSec", "-1")]
)
def test_annotations_that_are_none(name: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^annotations\.org\.systemd\.property\."):
        annotated({f"org.systemd.property.{name}": text})
