"""Limits in force on cgroup v2 with real controllers, as the machine of scripts/qemu has them; skipped elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orlop.cgroups import apply
from orlop.cgroups.facts import CgroupHost, Group
from orlop.spec.errors import FailedPrecondition, InvalidArgument, OrlopError
from orlop.spec.runtime import CPU, BlockIO, DeviceCgroup, HugepageLimit, Memory, Pids, Resources, ThrottleDevice

pytestmark = pytest.mark.root
MIB = 1 << 20
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(autouse=True)
def _controllers(host: CgroupHost) -> None:
    if host.mode != "v2" or not {"memory", "pids", "cpu", "io", "cpuset"} <= host.controllers:
        pytest.skip("needs cgroup v2 with its controllers")


@pytest.fixture
def start(host: CgroupHost, path: str) -> Iterator[Start]:
    """Run a Python program that begins when it is in the group."""
    started: list[subprocess.Popen[bytes]] = []

    def run(code: str, group: str = path) -> subprocess.Popen[bytes]:
        text = f"import os, sys, time; sys.stdin.buffer.read(1)\n{code}"
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", text], stdin=-1, stdout=-1, stderr=-1)
        started.append(process)
        apply.attach(host, group, process.pid)
        assert process.stdin
        process.stdin.write(b"x")
        process.stdin.flush()
        return process

    yield run
    apply.kill(host, path)  # those that they forked have their output open
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def _removed(host: CgroupHost, path: str) -> Iterator[None]:
    yield
    apply.kill(host, path)
    apply.remove(host, path)


def content(host: CgroupHost, path: str, file: str) -> str:
    return Path(Group(host, path).directory("unified"), file).read_text().strip()


def line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout
    return process.stdout.readline().decode().strip()


def disk() -> tuple[str, int, int]:
    """A whole disk of this machine."""
    for name in sorted(os.listdir("/sys/block")):
        if not name.startswith(("loop", "ram", "zram", "dm", "md")):
            major, _, minor = Path(f"/sys/block/{name}/dev").read_text().strip().partition(":")
            return name, int(major), int(minor)
    pytest.skip("no disk here")


def test_every_limit_stands_in_its_file(host: CgroupHost, path: str) -> None:
    _, major, minor = disk()
    resources = Resources(
        memory=Memory(limit=64 * MIB, swap=96 * MIB, reservation=32 * MIB),
        cpu=CPU(shares=2048, quota=50_000, period=200_000, burst=10_000, cpus="0", mems="0"),
        pids=Pids(limit=77),
        block_io=BlockIO(
            weight=500,
            throttle_read_bps_device=(ThrottleDevice(major=major, minor=minor, rate=MIB),),
            throttle_write_iops_device=(ThrottleDevice(major=major, minor=minor, rate=50),),
        ),
        hugepage_limits=(HugepageLimit(page_size="2MB", limit=4 * MIB),),
        unified={"memory.high": str(48 * MIB), "cgroup.max.depth": "3"},
    )
    apply.create(host, path, resources)
    assert content(host, path, "memory.max") == str(64 * MIB)
    assert content(host, path, "memory.swap.max") == str(32 * MIB)
    assert content(host, path, "memory.low") == str(32 * MIB)
    assert content(host, path, "memory.high") == str(48 * MIB)
    assert content(host, path, "cgroup.max.depth") == "3"
    assert content(host, path, "cpu.weight") == "174"
    assert content(host, path, "cpu.max") == "50000 200000"
    assert content(host, path, "cpu.max.burst") == "10000"
    assert content(host, path, "cpuset.cpus.effective") == "0"
    assert content(host, path, "pids.max") == "77"
    assert content(host, path, "io.max") == f"{major}:{minor} rbps={MIB} wbps=max riops=max wiops=50"
    assert content(host, path, "io.weight") == "default 4950"
    assert content(host, path, "hugetlb.2MB.max") == str(4 * MIB)
    assert content(host, path, "hugetlb.2MB.rsvd.max") == str(4 * MIB)


def test_a_group_gets_every_controller_however_deep(host: CgroupHost, path: str) -> None:
    apply.create(host, f"{path}/a/b/c", Resources(pids=Pids(limit=5)))
    wanted = host.controllers - {"devices", "freezer", "unified"}
    assert set(content(host, f"{path}/a/b/c", "cgroup.controllers").split()) == wanted
    assert content(host, f"{path}/a/b/c", "cgroup.subtree_control") == ""


EAT = """
sizes = []
for _ in range({0}):
    sizes.append(bytearray(os.urandom(4096) * 256))
print('all', flush=True)
sys.stdin.buffer.read(1)
"""


def test_memory_beyond_the_limit_is_swapped_up_to_the_swap_limit(host: CgroupHost, path: str, start: Start) -> None:
    if not Path("/proc/swaps").read_text().count("\n") > 1:
        pytest.skip("no swap here")
    apply.create(host, path, Resources(memory=Memory(limit=24 * MIB, swap=88 * MIB)))
    assert line(start(EAT.format(48))) == "all"
    got = apply.statistics(host, path).memory
    assert got
    assert got.usage <= 24 * MIB
    assert got.limit == 24 * MIB
    assert (got.swap or 0) > 10 * MIB
    assert got.failures > 0
    assert apply.oom_kills(host, path) == 0


def test_memory_beyond_both_limits_is_death_and_counted(host: CgroupHost, path: str, start: Start) -> None:
    apply.create(host, path, Resources(memory=Memory(limit=24 * MIB, swap=24 * MIB)))
    process = start(EAT.format(48))
    assert process.wait(30) == -signal.SIGKILL
    assert apply.oom_kills(host, path) == 1


def test_a_kill_for_memory_in_a_group_below_counts(host: CgroupHost, path: str, start: Start) -> None:
    apply.create(host, path, Resources(memory=Memory(limit=24 * MIB, swap=24 * MIB)))
    apply.create(host, f"{path}/inner")
    assert start(EAT.format(48), f"{path}/inner").wait(30) == -signal.SIGKILL
    assert apply.oom_kills(host, path) == 1


def test_memory_limits_go_up_and_down_and_away(host: CgroupHost, path: str) -> None:
    apply.create(host, path, Resources(memory=Memory(limit=64 * MIB, swap=64 * MIB)))
    for limit in (512, 32):
        apply.update(host, path, Resources(memory=Memory(limit=limit * MIB, swap=3 * limit * MIB)))
        assert content(host, path, "memory.max") == str(limit * MIB)
        assert content(host, path, "memory.swap.max") == str(2 * limit * MIB)
    apply.update(host, path, Resources(memory=Memory(limit=-1)))
    assert (content(host, path, "memory.max"), content(host, path, "memory.swap.max")) == ("max", "max")


def test_a_memory_limit_below_what_is_in_use_is_refused_where_asked(host: CgroupHost, path: str, start: Start) -> None:
    apply.create(host, path)
    assert line(start(EAT.format(16))) == "all"
    with pytest.raises(InvalidArgument, match=r"^linux\.resources\.memory\.limit: 1048576 is less than the \d+ in use"):
        apply.update(host, path, Resources(memory=Memory(limit=MIB, check_before_update=True)))


def test_no_more_processes_than_allowed(host: CgroupHost, path: str, start: Start) -> None:
    apply.create(host, path, Resources(pids=Pids(limit=4)))
    code = """
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        made += 1
except OSError as error:
    print(made, error.errno, flush=True)
time.sleep(60)
"""
    assert line(start(code)) == "3 11"
    got = apply.statistics(host, path).pids
    assert got
    assert (got.current, got.limit) == (4, 4)
    apply.update(host, path, Resources(pids=Pids(limit=-1)))
    assert content(host, path, "pids.max") == "max"


def test_the_processor_quota_holds_back(host: CgroupHost, path: str, start: Start) -> None:
    apply.create(host, path, Resources(cpu=CPU(quota=10_000, period=100_000)))
    process = start("while True: pass")
    time.sleep(1)
    apply.kill(host, path)
    process.wait(5)
    got = apply.statistics(host, path).cpu
    assert got
    assert 0 < got.total < 400_000_000
    assert got.throttled_periods > 0
    assert got.throttled_time > 0


def test_processes_keep_to_their_processors(host: CgroupHost, path: str, start: Start) -> None:
    last = (os.cpu_count() or 1) - 1
    apply.create(host, path, Resources(cpu=CPU(cpus=str(last))))
    assert line(start("print(os.sched_getaffinity(0), flush=True)")) == f"{{{last}}}"


def test_reading_a_disk_is_throttled_and_counted(host: CgroupHost, path: str, start: Start) -> None:
    name, major, minor = disk()
    rate = ThrottleDevice(major=major, minor=minor, rate=2 * MIB)
    apply.create(host, path, Resources(block_io=BlockIO(throttle_read_bps_device=(rate,))))
    code = f"""
import mmap
page = mmap.mmap(-1, 1 << 18)
fd = os.open('/dev/{name}', os.O_RDONLY | os.O_DIRECT)
begin = time.monotonic()
for number in range(16):
    os.preadv(fd, [page], number << 18)
print(time.monotonic() - begin, flush=True)
"""
    apply.update(host, path, Resources(devices=(DeviceCgroup(allow=True, access="rwm"),)))
    assert float(line(start(code))) > 1
    got = apply.statistics(host, path).block_io
    assert got
    assert (got[0].major, got[0].minor) == (major, minor)
    assert got[0].read_bytes >= 4 * MIB
    assert got[0].reads >= 16


def test_a_device_that_no_rule_allows_is_out_of_reach(host: CgroupHost, path: str, start: Start) -> None:
    name, major, minor = disk()
    code = f"""
for mode in (os.O_RDONLY, os.O_WRONLY):
    try:
        os.close(os.open('/dev/{name}', mode))
        print('yes', end=' ')
    except OSError as error:
        print(error.errno, end=' ')
print(flush=True)
"""
    apply.create(host, path)
    assert line(start(code)) == "1 1"
    only_read = DeviceCgroup(allow=True, type="b", major=major, minor=minor, access="r")
    apply.update(host, path, Resources(devices=(only_read,)))
    assert line(start(code)) == "yes 1"
    apply.update(host, path, Resources(devices=(DeviceCgroup(allow=False, access="rwm"),)))
    assert line(start(code)) == "1 1"


def test_a_group_inside_cannot_allow_itself_devices(host: CgroupHost, path: str, start: Start) -> None:
    apply.create(host, path)
    apply.create(host, f"{path}/inner", Resources(devices=(DeviceCgroup(allow=True, access="rwm"),)))
    process = start("os.open('/dev/kmsg', os.O_RDONLY)", f"{path}/inner")
    assert process.wait(20) == 1
    assert process.stderr
    assert b"PermissionError" in process.stderr.read()


def test_a_failed_limit_leaves_nothing_behind(host: CgroupHost, path: str) -> None:
    bad = Resources(block_io=BlockIO(throttle_read_bps_device=(ThrottleDevice(major=4095, minor=1, rate=1),)))
    with pytest.raises(OrlopError, match=r"^linux\.resources\.blockIO\.throttleReadBpsDevice\[0\]: cannot set io\.max"):
        apply.create(host, path, bad)
    assert not apply.exists(host, path)


def test_what_v2_does_not_have_is_refused_by_name(host: CgroupHost, path: str) -> None:
    for resources, field in (
        (Resources(memory=Memory(swappiness=10)), "memory.swappiness"),
        (Resources(memory=Memory(kernel=MIB)), "memory.kernel"),
        (Resources(cpu=CPU(realtime_runtime=1000)), "cpu.realtimeRuntime"),
    ):
        with pytest.raises(FailedPrecondition, match=rf"^linux\.resources\.{field}: cgroup v2 has no such limit$"):
            apply.create(host, path, resources)
    assert not apply.exists(host, path)


def test_no_processes_between_a_group_and_the_root(host: CgroupHost, path: str, start: Start) -> None:
    """The kernel hands no controllers to groups below one that has processes itself; the error says which it is."""
    apply.create(host, path)
    start("time.sleep(60)")
    apply.create(host, f"{path}/free")  # without limits nothing is lost
    assert line(start("print('runs', flush=True)", f"{path}/free")) == "runs"
    assert content(host, path, "cgroup.type") == "domain"
    with pytest.raises(FailedPrecondition) as caught:
        apply.create(host, f"{path}/inner", Resources(memory=Memory(limit=64 * MIB)))
    assert str(caught.value) == (
        f"linux.resources.memory.limit: cgroup {host.unified}{path} has processes of its own, so that groups below "
        "it get no memory controller; move them into a group below it"
    )
    assert not apply.exists(host, f"{path}/inner")


def test_a_process_that_would_be_between_is_refused_with_the_reason(host: CgroupHost, path: str) -> None:
    apply.create(host, f"{path}/inner", Resources(pids=Pids(limit=5)))
    process = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(OrlopError, match=r"cannot put process \d+ into cgroup .*: .*controllers to groups below"):
            apply.attach(host, path, process.pid)
    finally:
        process.kill()
        process.wait()


def test_frozen_processes_are_listed_killed_and_gone(host: CgroupHost, path: str, start: Start) -> None:
    apply.create(host, path, Resources(pids=Pids(limit=30)))
    processes = [start("os.fork(); os.fork(); print('x', flush=True); time.sleep(60)") for _ in range(3)]
    for process in processes:
        for _ in range(4):
            assert line(process) == "x"
    apply.freeze(host, path)
    assert "frozen 1" in content(host, path, "cgroup.events").splitlines()
    assert len(apply.pids(host, path)) == 12
    apply.kill(host, path)
    assert [process.wait(5) for process in processes] == [-signal.SIGKILL] * 3
    apply.remove(host, path)
    assert not apply.exists(host, path)


def test_an_idle_group_takes_no_weight_and_gets_it_back(host: CgroupHost, path: str) -> None:
    apply.create(host, path, Resources(cpu=CPU(idle=1, shares=2048)))
    assert content(host, path, "cpu.idle") == "1"
    apply.update(host, path, Resources(cpu=CPU(idle=0, shares=2048)))
    assert (content(host, path, "cpu.idle"), content(host, path, "cpu.weight")) == ("0", "174")


def test_a_burst_goes_with_its_quota_in_either_order(host: CgroupHost, path: str) -> None:
    apply.create(host, path, Resources(cpu=CPU(quota=20_000, period=100_000, burst=20_000)))
    apply.update(host, path, Resources(cpu=CPU(quota=90_000, period=100_000, burst=80_000)))
    apply.update(host, path, Resources(cpu=CPU(quota=10_000, period=100_000, burst=5_000)))
    assert (content(host, path, "cpu.max"), content(host, path, "cpu.max.burst")) == ("10000 100000", "5000")


HUGE = """
import mmap
space = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)
space[0] = 1
print('one', flush=True)
sys.stdin.buffer.read(1)
try:
    mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)
except OSError as error:
    print(error.errno, flush=True)
"""


def test_huge_pages_are_counted_from_their_reservation_and_limited(host: CgroupHost, path: str, start: Start) -> None:
    if "ORLOP_QEMU" not in os.environ or "hugetlb" not in host.controllers:
        pytest.skip("takes huge pages of the machine: runs in scripts/qemu")
    pages = Path("/proc/sys/vm/nr_hugepages")
    pages.write_text("8")
    try:
        apply.create(host, path, Resources(hugepage_limits=(HugepageLimit(page_size="2MB", limit=4 * MIB),)))
        process = start(HUGE)
        assert line(process) == "one"
        got = (apply.statistics(host, path).hugepages or {})["2MB"]
        assert (got.usage, got.failures) == (4 * MIB, 0)  # one page is in use, two are reserved
        assert process.stdin
        process.stdin.write(b"x")
        process.stdin.flush()
        assert line(process) == "12"
    finally:
        apply.kill(host, path)
        pages.write_text("0")


def test_statistics_name_the_processors(host: CgroupHost, path: str) -> None:
    apply.create(host, path, Resources(cpu=CPU(cpus="0")))
    got = apply.statistics(host, path).cpuset
    assert got
    assert (got.cpus, got.mems, got.settings) == ("0", "0", {})
