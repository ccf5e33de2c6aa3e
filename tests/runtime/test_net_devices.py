"""linux.netDevices on a real kernel. This thread, and what it starts, live in a network namespace of the test's own."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from tests.runtime.test_runtime_cli import Lab, lab  # noqa: F401

pytestmark = pytest.mark.root
CLONE_NEWNET = 0x40000000
SHOW = "ip -o addr show; ip -o link show"
USER = {
    "linux__uidMappings": [{"containerID": 0, "hostID": 100000, "size": 1000}],
    "linux__gidMappings": [{"containerID": 0, "hostID": 100000, "size": 1000}],
}


def ip(*words: str) -> str:
    done = subprocess.run(("ip", *words), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


@pytest.fixture
def wire() -> Iterator[None]:
    """A veth whose one end, `wire`, is up and has addresses."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert libc.unshare(CLONE_NEWNET) == 0
        hardware = ("address", "02:00:00:00:00:07", "mtu", "1400")
        ip("link", "add", "wire", *hardware, "type", "veth", "peer", "name", "other")
        ip("addr", "add", "192.0.2.7/24", "dev", "wire")
        ip("-6", "addr", "add", "2001:db8::7/64", "dev", "wire", "nodad")
        ip("addr", "add", "192.0.2.8/24", "dev", "wire", "valid_lft", "500", "preferred_lft", "400")
        ip("addr", "add", "198.51.100.9/24", "dev", "wire", "scope", "link")
        ip("link", "set", "other", "up")
        ip("link", "set", "wire", "up")
        yield
    finally:
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)


def test_device_moves_with_its_lasting_addresses_and_is_up(lab: Lab, wire: None) -> None:  # noqa: F811
    out = lab.sh(SHOW, linux__netDevices={"wire": {}})
    assert "wire    inet 192.0.2.7/24 brd 192.0.2.255" in out
    assert "inet6 2001:db8::7/64" in out
    assert "192.0.2.8" not in out
    assert "198.51.100.9" not in out
    link = next(line for line in out.splitlines() if "02:00:00:00:00:07" in line)
    assert "wire@" in link
    assert "mtu 1400" in link
    assert ",UP" in link


def test_device_is_renamed(lab: Lab, wire: None) -> None:  # noqa: F811
    out = lab.sh(SHOW, linux__netDevices={"wire": {"name": "eth0"}})
    assert "eth0    inet 192.0.2.7/24" in out
    assert "wire" not in out


def test_name_that_is_taken_in_the_host_namespace_is_free_in_the_container(lab: Lab, wire: None) -> None:  # noqa: F811
    assert "other    inet 192.0.2.7/24" in lab.sh(SHOW, linux__netDevices={"wire": {"name": "other"}})


def test_device_moves_into_the_namespace_of_a_container_with_its_own_users(lab: Lab, wire: None) -> None:  # noqa: F811
    os.chown(lab.rootfs, 100000, 100000)
    lab.configure()
    config = lab.config()
    namespaces = [*config["linux"]["namespaces"], {"type": "user"}]
    assert "eth0    inet 192.0.2.7/24" in lab.sh(
        SHOW, linux__netDevices={"wire": {"name": "eth0"}}, linux__namespaces=namespaces, **USER
    )


@pytest.mark.parametrize("users", [False, True])
def test_device_moves_into_a_namespace_that_is_joined(lab: Lab, wire: None, users: bool) -> None:  # noqa: F811
    with subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE) as keeper:
        try:
            assert keeper.stdout is not None
            keeper.stdout.readline()
            lab.configure()
            namespaces = [n for n in lab.config()["linux"]["namespaces"] if n["type"] != "network"]
            namespaces.append({"type": "network", "path": f"/proc/{keeper.pid}/ns/net"})
            more: dict[str, Any] = {}
            if users:
                os.chown(lab.rootfs, 100000, 100000)
                namespaces.append({"type": "user"})
                mounts = [mount for mount in lab.config()["mounts"] if mount["type"] != "sysfs"]
                more = USER | {"mounts": mounts}
            out = lab.sh(SHOW, linux__netDevices={"wire": {}}, linux__namespaces=namespaces, **more)
            assert "wire    inet 192.0.2.7/24" in out
            inside = subprocess.run(
                ["nsenter", "-t", str(keeper.pid), "-n", "ip", "addr"], capture_output=True, text=True, check=True
            ).stdout
            assert "192.0.2.7/24" in inside  # it stays: the namespace is not the container's
        finally:
            keeper.kill()


def test_device_that_is_not_there_is_named(lab: Lab, wire: None) -> None:  # noqa: F811
    result = lab.run("true", ok=False, linux__netDevices={"wire": {}, "nowhere": {}})
    assert "linux.netDevices.nowhere: the host has no such device" in result.stderr
    assert "192.0.2.7/24" in ip("addr", "show", "wire")


def test_name_that_the_container_has_is_refused(lab: Lab, wire: None) -> None:  # noqa: F811
    result = lab.run("true", ok=False, linux__netDevices={"wire": {"name": "lo"}})
    assert "linux.netDevices.wire: the container has a device lo already" in result.stderr
    assert "192.0.2.7/24" in ip("addr", "show", "wire")


def test_devices_come_back_when_one_can_not_move(lab: Lab, wire: None) -> None:  # noqa: F811
    result = lab.run("true", ok=False, linux__netDevices={"wire": {"name": "eth0"}, "lo": {"name": "lo2"}})
    assert "linux.netDevices.lo: move it into the container as lo2" in result.stderr
    shown = ip("addr", "show", "wire")
    assert "192.0.2.7/24" in shown
    assert "2001:db8::7/64" in shown
    assert ",UP" in shown


def test_devices_come_back_when_a_later_step_fails(lab: Lab, wire: None) -> None:  # noqa: F811
    hooks = {"createContainer": [{"path": "/bin/false"}]}
    result = lab.run("true", ok=False, linux__netDevices={"wire": {"name": "eth0"}}, hooks=hooks)
    assert "hooks.createContainer[0]" in result.stderr
    shown = ip("addr", "show", "wire")
    assert "192.0.2.7/24" in shown
    assert "2001:db8::7/64" in shown
    assert ",UP" in shown


def test_a_pattern_lets_the_kernel_find_a_name(lab: Lab, wire: None) -> None:  # noqa: F811
    """config-linux.md, "Network Devices": `%d` in the name, which may be taken."""
    ip("link", "add", "more", "type", "veth", "peer", "name", "end")
    both = {"wire": {"name": "net%d"}, "more": {"name": "net%d"}}
    shown = lab.sh(SHOW, linux__netDevices=both)
    names = sorted(line.split()[1] for line in shown.splitlines() if " net" in line and "link/ether" in line)
    assert len(names) == 2
    assert all(name.startswith("net") and name[3].isdigit() for name in names)
    assert " net" in next(line for line in shown.splitlines() if "192.0.2.7/24" in line)


@pytest.mark.parametrize("name", ["net%d%d", "net%s", "net%"])
def test_other_patterns_are_no_names(lab: Lab, name: str) -> None:  # noqa: F811
    result = lab.run("true", ok=False, linux__netDevices={"wire": {"name": name}})
    assert "is no name of a network device" in result.stderr
