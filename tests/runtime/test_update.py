"""`update` and `events`: what is decided, and in force on a real container."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.runtime.test_runtime_cli import SOURCE, Lab, lab  # noqa: F401

from orlop.cgroups.pressure import Line, Pressure
from orlop.cgroups.stats import CpusetUsage, CpuUsage, DeviceIO, HugepageUsage, MemoryUsage, Statistics
from orlop.network.counters import parse
from orlop.runtime.events import data
from orlop.runtime.update import named, overlaid
from orlop.spec.runtime import CPU, Memory, Pids, Resources


def test_an_update_keeps_what_it_does_not_name() -> None:
    old = Resources(memory=Memory(limit=1000, swap=2000), cpu=CPU(shares=5, cpus="0"), unified={"a": "1"})
    new = overlaid(old, Resources(memory=Memory(limit=1500), pids=Pids(limit=7), unified={"b": "2"}))
    assert new.memory == Memory(limit=1500, swap=2000)
    assert new.cpu == CPU(shares=5, cpus="0")
    assert new.pids == Pids(limit=7)
    assert new.unified == {"a": "1", "b": "2"}


def test_zeros_of_engines_name_nothing() -> None:
    assert named(Resources(memory=Memory(limit=0, swap=5), cpu=CPU(shares=0, idle=0))) == Resources(
        memory=Memory(swap=5), cpu=CPU(idle=0)
    )


def test_statistics_have_the_words_engines_read() -> None:
    found = data(Statistics(memory=MemoryUsage(usage=5, limit=9), block_io=(DeviceIO(major=8, minor=1, reads=3),)))
    assert found["memory"]["usage"] == {"limit": 9, "usage": 5, "max": 0, "failcnt": 0}
    assert found["memory"]["swap"]["limit"] == 2**64 - 1
    assert {"major": 8, "minor": 1, "op": "Read", "value": 3} in found["blkio"]["ioServicedRecursive"]


def test_statistics_of_pages_processors_pressure_and_devices() -> None:
    found = data(
        Statistics(
            cpu=CpuUsage(total=5, each=(2, 3)),
            hugepages={"2MB": HugepageUsage(usage=4096, peak=8192, failures=2)},
            cpuset=CpusetUsage(cpus="0-2,7", mems="0", settings={"sched_relax_domain_level": -1}),
        ),
        {"cpu": Pressure(some=Line(1.5, 0.0, 0.0, 7000))},
        parse(f"x\ny\n  eth0: {' '.join(map(str, range(1, 17)))}\n"),
    )
    assert found["hugetlb"] == {"2MB": {"usage": 4096, "max": 8192, "failcnt": 2}}
    assert found["cpuset"]["cpus"] == [0, 1, 2, 7]
    assert (found["cpuset"]["mems"], found["cpuset"]["sched_relax_domain_level"]) == ([0], -1)
    assert found["cpu"]["psi"] == {"some": {"avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total": 7}}
    assert found["cpu"]["usage"]["percpu"] == (2, 3)
    assert found["network_interfaces"] == [
        {
            "Name": "eth0", "RxBytes": 1, "RxPackets": 2, "RxErrors": 3, "RxDropped": 4,
            "TxBytes": 9, "TxPackets": 10, "TxErrors": 11, "TxDropped": 12,
        }
    ]  # fmt: skip
    assert data(Statistics())["network_interfaces"] is None


@pytest.mark.root
class TestOnARealContainer:
    def test_limits_change_and_are_kept(self, lab: Lab, tmp_path: Path) -> None:  # noqa: F811
        lab.up("sleep", "60", linux__resources={"memory": {"limit": 64 << 20}, "pids": {"limit": 50}})
        lab("update", "--memory", "32M", "--pids-limit", "20", "--cpu-share", "512", lab.id())
        changes = tmp_path / "resources.json"
        changes.write_text(json.dumps({"cpu": {"quota": 50000, "period": 100000}, "memory": {"limit": 0}}))
        lab("update", "-r", str(changes), lab.id())
        kept = json.loads((lab.root / lab.id() / "config.json").read_text())["linux"]["resources"]
        assert kept["memory"]["limit"] == 32 << 20
        assert kept["cpu"] == {"shares": 512, "quota": 50000, "period": 100000}
        event = json.loads(lab("events", "--stats", lab.id()).stdout)
        assert (event["type"], event["id"]) == ("stats", lab.id())
        assert event["data"]["memory"]["usage"]["limit"] == 32 << 20
        assert event["data"]["pids"] == {"current": 1, "limit": 20}
        assert event["data"]["cpuset"]["cpus"][0] == 0
        assert [device["Name"] for device in event["data"]["network_interfaces"]] == ["lo"]

    def test_events_tell_of_kills_and_end_with_the_container(self, lab: Lab) -> None:  # noqa: F811
        greedy = "x=aaaaaaaa; while true; do x=$x$x; done"
        script = f"until [ -e /tmp/go ]; do sleep 0.1; done; sh -c '{greedy}' 2>/dev/null; sleep 3"
        lab.up("sh", "-c", script, linux__resources={"memory": {"limit": 16 << 20, "swap": 16 << 20}})
        words = lab.command("events", "--interval", "500ms", lab.id())
        environment = os.environ | {"PYTHONPATH": str(SOURCE)}
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as events:
            assert events.stdout is not None
            first = events.stdout.readline()  # it looks now
            (lab.rootfs / "tmp/go").touch()
            kinds = [json.loads(line)["type"] for line in (first, *events.stdout)]
        assert kinds[0] == "stats"
        assert "oom" in kinds
        assert events.returncode == 0

    @pytest.mark.parametrize(
        "words", [("--memory", "much"), ("--pids-limit", "2k"), ("--cpu-share", "-5"), ("--resources", "/none")]
    )
    def test_refuses_what_is_no_limit(self, lab: Lab, words: tuple[str, str]) -> None:  # noqa: F811
        lab.up("sleep", "60")
        assert words[0] in lab("update", *words, lab.id(), ok=False).stderr
