from __future__ import annotations

from typing import Any

import pytest

from orlop.engine.config import ContainerConfig, DeviceRequest, Limits
from orlop.engine.oci.facts import ContainerFacts
from orlop.engine.oci.resources import check_limits, resources
from orlop.spec.errors import InvalidArgument
from orlop.spec.runtime import CPU, BlockIO, Memory, Pids, Resources

MIB = 1 << 20


def made(**limits: Any) -> Resources:
    config = ContainerConfig(image="x", limits=Limits(**limits))
    check_limits(config.limits)
    return resources(config, ContainerFacts(id="ab" * 32, processors=2))


@pytest.mark.parametrize(
    ("limits", "memory"),
    [
        ({}, None),
        ({"memory": 64 * MIB}, Memory(limit=64 * MIB, swap=128 * MIB)),
        ({"memory": 64 * MIB, "memory_swap": 64 * MIB}, Memory(limit=64 * MIB, swap=64 * MIB)),
        ({"memory": 64 * MIB, "memory_swap": -1}, Memory(limit=64 * MIB, swap=-1)),
        ({"memory": 64 * MIB, "memory_swap": 0}, Memory(limit=64 * MIB, swap=128 * MIB)),
        ({"memory_swap": -1}, Memory(swap=-1)),
        ({"memory": 1 << 62}, Memory(limit=1 << 62, swap=(1 << 63) - 1)),
        ({"memory_swappiness": -1}, None),
        ({"memory_swappiness": 0, "oom_kill_disable": True}, Memory(swappiness=0, disable_oom_killer=True)),
    ],
)
def test_memory_and_swap(limits: dict[str, Any], memory: Memory | None) -> None:
    assert made(**limits).memory == memory


@pytest.mark.parametrize(
    ("limits", "cpu"),
    [
        ({}, None),
        ({"nano_cpus": 1_500_000_000}, CPU(quota=150_000, period=100_000)),
        ({"nano_cpus": 10_000_000}, CPU(quota=1000, period=100_000)),
        ({"cpu_shares": 512, "cpuset_cpus": "0-1"}, CPU(shares=512, cpus="0-1")),
        ({"cpu_period": 50_000, "cpu_quota": 25_000}, CPU(quota=25_000, period=50_000)),
        ({"cpu_quota": -1}, CPU(quota=-1)),
        ({"cpu_shares": 0, "cpu_quota": 0}, None),
    ],
)
def test_cpu(limits: dict[str, Any], cpu: CPU | None) -> None:
    assert made(**limits).cpu == cpu


@pytest.mark.parametrize(("limit", "want"), [(None, None), (100, 100), (0, -1), (-1, -1)])
def test_pids(limit: int | None, want: int | None) -> None:
    assert made(pids=limit).pids == (None if want is None else Pids(limit=want))


def test_blkio_weight() -> None:
    assert made(blkio_weight=300).block_io == BlockIO(weight=300)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"memory": 1}, "^minimum memory limit allowed is 6MB$"),
        ({"memory": 6 * MIB - 1}, "^minimum memory limit allowed is 6MB$"),
        ({"memory": -5}, "invalid memory limit"),
        ({"memory": 1 << 63}, "invalid memory limit"),
        ({"memory": 64 * MIB, "memory_swap": 32 * MIB}, "minimum memoryswap limit should be larger than memory limit"),
        ({"memory_swap": 64 * MIB}, "you should always set the Memory limit when using Memoryswap limit"),
        ({"memory_swappiness": 101}, "valid memory swappiness range is 0-100"),
        ({"memory_reservation": 1}, "minimum memory reservation allowed is 6MB"),
        ({"memory": 8 * MIB, "memory_reservation": 9 * MIB}, "can not be less than memory reservation limit"),
        ({"nano_cpus": 10**9, "cpu_quota": 5000}, "conflicting options: Nano CPUs and CPU Quota cannot both be set"),
        ({"nano_cpus": 10**9, "cpu_period": 5000}, "conflicting options: Nano CPUs and CPU Period cannot both be set"),
        ({"nano_cpus": 3 * 10**9}, r"range of CPUs is from 0\.01 to 2\.00, as there are only 2 CPUs available"),
        ({"nano_cpus": 1}, "the least is 0.01"),
        ({"nano_cpus": -1}, "invalid value for --cpus"),
        ({"cpu_period": 999}, "CPU cfs period can not be less than 1ms"),
        ({"cpu_quota": 999}, "CPU cfs quota can not be less than 1ms"),
        ({"cpu_shares": -1}, "cpu shares"),
        ({"cpuset_cpus": "zero"}, "invalid value zero for cpuset cpus"),
        ({"cpuset_mems": "0-"}, "invalid value 0- for cpuset mems"),
        ({"cpuset_cpus": "0,7"}, "requested CPUs are not available - requested 0,7, available: 0-1"),
        ({"blkio_weight": 5}, "range of blkio weight is from 10 to 1000"),
        ({"shm_size": -1}, "SHM size can not be less than 0"),
        ({"oom_score_adj": 1001}, r"range for oom score adj is \[-1000, 1000\]"),
        ({"device_cgroup_rules": ("c 1:1 x",)}, "invalid device cgroup rule format: 'c 1:1 x'"),
        ({"device_cgroup_rules": ("c 1:1 r\n",)}, "invalid device cgroup rule format"),
        ({"devices": (DeviceRequest(source="/dev/x", target="/dev/x", access="q"),)}, "invalid device mode: q"),
        ({"devices": (DeviceRequest(source="x", target="/dev/x"),)}, "invalid device specification"),
    ],
)
def test_wrong_limits_are_refused_in_dockers_words(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        made(**limits)
