"""The units of packaging/ under Debian's systemd; for `scripts/qemu --systemd`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tests.cri.conftest import Client, pod_config, wait_for
from tests.harness import SLOWER

from orlop._stubs.cri import api_pb2 as api

from .test_systemd import shown

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(5000),
    pytest.mark.skipif(os.environ.get("ORLOP_QEMU") != "systemd", reason="runs in scripts/qemu --systemd"),
]
REPOSITORY = Path(__file__).parents[2]
PACKAGED = ("orlop.service", "orlop.socket")
UNITS = ("node.service", "node.socket")  # the same by another name: the machine's own service has that one
PROGRAM = Path("/usr/local/bin/orlop")
HOME = Path("/run/systemd/system")  # of units that are there until the next boot
SOCKET = Path("/run/orlop/orlop.sock")


def systemctl(*words: str) -> str:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, timeout=100 * SLOWER)
    assert done.returncode == 0, done.stderr + _status()
    return done.stdout


def _status() -> str:
    return subprocess.run(["systemctl", "status", "-n", "50", *UNITS], capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def units() -> Iterator[None]:
    """As an administrator has them."""
    PROGRAM.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY}/src exec {sys.executable} -m orlop "$@"\n')
    PROGRAM.chmod(0o755)
    Path("/etc/orlop").mkdir(exist_ok=True)
    Path("/etc/orlop/config.toml").write_text("[cri]\ncgroup_driver = 'systemd'\n")
    for packaged, name in zip(PACKAGED, UNITS, strict=True):
        text = (REPOSITORY / "packaging" / packaged).read_text()
        text = text.replace("=orlop.", "=node.")
        text = text.replace("WatchdogSec=60\n", "WatchdogSec=600\nTimeoutStartSec=infinity\n")
        (HOME / name).write_text(text)  # the machine's clock is fast, and it is slow
    yield
    systemctl("stop", *UNITS)
    for name in UNITS:
        (HOME / name).unlink()
    systemctl("daemon-reload")
    shutil.rmtree("/etc/orlop")
    PROGRAM.unlink()
    assert not SOCKET.exists()


def test_the_units_are_well_formed(units: None, tmp_path: Path) -> None:
    for name in PACKAGED:
        shutil.copy(REPOSITORY / "packaging" / name, tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name in PACKAGED)], capture_output=True, text=True
    )
    ours = [line for line in done.stderr.splitlines() if "orlop" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_socket_starts_the_daemon_and_pods_outlive_it(units: None) -> None:
    systemctl("daemon-reload")
    systemctl("start", "node.socket")
    assert SOCKET.stat().st_mode & 0o777 == 0o600
    assert shown("node.service", "ActiveState") == {"ActiveState": "inactive"}
    client = Client(SOCKET)
    try:  # the kernel accepts, systemd starts the daemon
        grpc.channel_ready_future(client.channel).result(50 * SLOWER)
    except grpc.FutureTimeoutError:
        pytest.fail(_status())
    assert client.RuntimeConfig().linux.cgroup_driver == api.SYSTEMD
    told = shown("node.service", "ActiveState", "NotifyAccess", "WatchdogUSec", "MainPID")
    first = told.pop("MainPID")
    assert told == {"ActiveState": "active", "NotifyAccess": "main", "WatchdogUSec": "10min"}
    config = pod_config()
    config.linux.security_context.namespace_options.network = api.NODE
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    systemctl("reload", "node.service")
    assert shown("node.service", "MainPID") == {"MainPID": first}
    client.channel.close()
    systemctl("restart", "node.service")
    assert shown("node.service", "ActiveState")["ActiveState"] == "active"
    assert shown("node.service", "MainPID") != {"MainPID": first}
    again = Client(SOCKET)
    assert again.PodSandboxStatus(pod_sandbox_id=pod).status.state == api.SANDBOX_READY
    assert shown(f"orlop-{pod}.scope", "ActiveState") == {"ActiveState": "active"}
    again.RemovePodSandbox(pod_sandbox_id=pod)


def test_a_daemon_that_hangs_is_started_anew(units: None) -> None:
    """The watchdog, with less patience than the unit has."""
    extra = HOME / "node.service.d"
    extra.mkdir()
    (extra / "short.conf").write_text("[Service]\nWatchdogSec=90\n")
    systemctl("daemon-reload")
    systemctl("restart", "node.service")
    first = shown("node.service", "MainPID")["MainPID"]
    os.kill(int(first), 19)
    wait_for(lambda: shown("node.service", "MainPID")["MainPID"] not in (first, "0"), "another daemon", 200)
    wait_for(lambda: shown("node.service", "ActiveState")["ActiveState"] == "active", "its start", 200)
    assert shown("node.service", "NRestarts")["NRestarts"] == "1"
    assert Client(SOCKET).Version().runtime_name == "orlop"
    systemctl("stop", "node.service")
    shutil.rmtree(extra)
