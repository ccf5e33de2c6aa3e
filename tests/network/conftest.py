"""A host of one's own for the tests of the network: a network namespace that plays the machine, with an uplink to a
second one that plays its neighbour, and namespaces that play containers. What a test leaves dies with them."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orlop.metadata.database import Database
from orlop.network.networks import Networks

CLONE_NEWNET = 0x40000000

# Runs inside a namespace: hands over a netlink socket from there, then runs small servers and clients on request
AGENT = Path(__file__).with_name("agent.py")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class Box:
    """A process in a network namespace of its own."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                ["unshare", "-n", sys.executable, "-I", "-S", str(AGENT), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
            )
        message, fds, _, _ = socket.recv_fds(self.control, 100, 1)
        assert message == b"ready"
        self.netlink_fd = fds[0]

    @property
    def pid(self) -> int:
        return self.process.pid

    def run(self, *command: str) -> str:
        return run("nsenter", "-t", str(self.pid), "-n", *command)

    def ask(self, *words: object) -> str:
        """One command of the agent, and its answer."""
        self.control.send(" ".join(map(str, words)).encode())
        return self.control.recv(65536).decode()

    def serve(self, protocol: str, port: int, family: int = 4) -> None:
        assert self.ask("serve", protocol, family, port) == "ok"

    def fetch(self, protocol: str, address: str, port: int, own_port: int = 0) -> str:
        return self.ask("fetch", protocol, address, port, own_port)

    def kill(self) -> None:
        """End the process; its namespace goes with it."""
        if self.netlink_fd >= 0:
            os.close(self.netlink_fd)
            self.netlink_fd = -1
        self.control.close()
        self.process.kill()
        self.process.wait()


class Host:
    """The namespace that plays the machine (this thread is in it) and its neighbour."""

    address, address6 = "192.0.2.1", "2001:db8::1"

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.boxes: list[Box] = []
        run("ip", "link", "set", "lo", "up")
        self.neighbour = self.box()
        run("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "wire", "netns", str(self.neighbour.pid))
        self._side(run, "uplink", "1")
        self._side(self.neighbour.run, "wire", "2")

    def _side(self, do: Callable[..., str], device: str, number: str) -> None:
        do("ip", "addr", "add", f"192.0.2.{number}/24", "dev", device)
        do("ip", "-6", "addr", "add", f"2001:db8::{number}/64", "dev", device, "nodad")
        do("ip", "link", "set", device, "up")

    def box(self) -> Box:
        self.boxes.append(Box())
        return self.boxes[-1]

    def networks(self, name: str = "store", **options: Any) -> Networks:
        root = self.tmp_path / name
        root.mkdir(exist_ok=True)
        options.setdefault("cni_config", root / "net.d")
        return Networks(Database(root / "orlop.db"), root / "networks", root / "state", **options)

    def fetch(self, protocol: str, address: str, port: int) -> str:
        return run(sys.executable, "-I", "-S", str(AGENT), "fetch", protocol, address, str(port)).strip()

    def pour(self, address: str, port: int, size: int) -> str:
        return run(sys.executable, "-I", "-S", str(AGENT), "pour", address, str(port), str(size)).strip()

    def devices(self) -> set[str]:
        return {line.split()[1].split("@")[0].rstrip(":") for line in run("ip", "-o", "link").splitlines()}

    def rules(self) -> str:
        return run("nft", "list", "ruleset")

    def kill(self) -> None:
        for box in self.boxes:
            box.kill()
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if (where := line.split()[4]).startswith(str(self.tmp_path)):
                run("umount", where)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """This thread, and what it starts, live in the machine's part until the test is over."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert libc.unshare(CLONE_NEWNET) == 0
    machine = None
    try:
        machine = Host(tmp_path)
        yield machine
    finally:
        if machine is not None:
            machine.kill()
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)
