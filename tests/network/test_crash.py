"""A process that is killed between any two steps leaves what the next one can remove, or go on from."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from orlop.engine.config import NetworkRequest, PortBinding
from orlop.sys.netlink import Netlink
from orlop.wire import rtnetlink as rt

if TYPE_CHECKING:
    from conftest import Box, Host

pytestmark = pytest.mark.root

REQUEST = NetworkRequest(ports=(PortBinding(container_port=80, host_port=8080),))

# attach or detach, and die before the step whose number is given
VICTIM = """
import os, signal, sys
from pathlib import Path
from orlop.engine.config import NetworkRequest, PortBinding
from orlop.metadata.database import Database
from orlop.network.bridge import Hands
from orlop.network.networks import Networks

root, verb, last, pid, fd = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
perform, count = Hands._perform, 0

def fatal(self, group):
    global count
    if count == last:
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    perform(self, group)

Hands._perform = fatal
networks = Networks(Database(root / "orlop.db"), root / "networks", root / "state")
request = NetworkRequest(ports=(PortBinding(container_port=80, host_port=8080),))
networks.attach("web", request, pid, fd) if verb == "attach" else networks.detach("web")
"""


def die_at(host: Host, verb: str, step: int, box: Box) -> bool:
    """Whether there was such a step to die at."""
    command = [sys.executable, "-c", VICTIM, str(host.tmp_path / "store"), verb]
    fd = box.netlink_fd
    done = subprocess.run([*command, str(step), str(box.pid), str(fd)], pass_fds=[fd], check=False)
    assert done.returncode in (0, -9)
    return done.returncode == -9


def test_killed_while_attaching(host: Host) -> None:
    networks, before, step = host.networks(), host.devices(), 0
    box = host.box()
    while die_at(host, "attach", step, box):
        assert networks.leftovers(()) == ("web",)
        networks.detach("web")
        assert (host.devices(), host.rules(), networks.leftovers(())) == (before, "", ())
        step += 1
    assert step >= 8


def test_attach_goes_on_from_what_a_killed_one_left(host: Host) -> None:
    networks, step = host.networks(), 0
    box = host.box()
    box.serve("tcp", 80)
    while die_at(host, "attach", step, box):
        networks.attach("web", REQUEST, box.pid, box.netlink_fd)
        assert host.neighbour.fetch("tcp", host.address, 8080) == "hello 192.0.2.2"
        networks.detach("web")
        step += 1


def test_killed_while_detaching(host: Host) -> None:
    networks, before, step = host.networks(), host.devices(), 0
    while True:
        box = host.box()
        networks.attach("web", REQUEST, box.pid, box.netlink_fd)
        died = die_at(host, "detach", step, box)
        networks.detach("web")
        assert (host.devices(), host.rules(), networks.leftovers(())) == (before, "", ())
        if not died:
            break
        step += 1
    assert step == 2  # rules, devices


def test_killed_before_devices_in_a_group_were_deleted(host: Host) -> None:
    networks, before = host.networks(), host.devices()
    box = host.box()
    attachment = networks.attach("web", REQUEST, box.pid, box.netlink_fd)
    with Netlink() as netlink:
        link = netlink.link(attachment.host_device)
        assert link is not None
        netlink.perform(rt.link_set(link.index, group=0x4F000000 | link.index))
    networks.detach("web")
    assert (host.devices(), host.rules(), networks.leftovers(())) == (before, "", ())


def test_reboot_forgets_the_state_directory(host: Host) -> None:
    """After a reboot the kernel and the state directory are empty; the database still has the allocations."""
    networks, box = host.networks(), host.box()
    attachment = networks.attach("web", REQUEST, box.pid, box.netlink_fd)
    networks.detach("web")
    with networks._database.transaction() as connection:
        connection.execute("INSERT INTO addresses VALUES ('bridge', '10.88.0.2', 'web')")
        connection.execute("INSERT INTO ports VALUES ('tcp', '0.0.0.0', 8080, 'web')")
    assert networks.leftovers(()) == ("web",)
    networks.detach("web", attachment)
    assert networks.leftovers(()) == ()
    assert host.rules() == ""
