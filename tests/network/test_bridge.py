"""The built-in bridge, end to end: real namespaces, real packets."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from orlop.engine.config import NetworkRequest, PortBinding
from orlop.network.networks import Networks
from orlop.network.records import Attachment

if TYPE_CHECKING:
    from conftest import Box, Host

pytestmark = pytest.mark.root


def attach(networks: Networks, box: Box, owner: str = "web", **request: object) -> Attachment:
    attachment = networks.attach(owner, NetworkRequest(**request), box.pid, box.netlink_fd)  # type: ignore[arg-type]
    box.run("ip", "link", "set", "lo", "up")
    return attachment


def publish(*ports: str, address: str = "") -> tuple[PortBinding, ...]:
    """`8080:80/tcp` and the like."""
    found = []
    for text in ports:
        numbers, _, protocol = text.partition("/")
        outside, _, inside = numbers.partition(":")
        found.append(
            PortBinding(
                container_port=int(inside), host_port=int(outside), protocol=protocol or "tcp", host_address=address
            )
        )
    return tuple(found)


def test_container_gets_address_route_and_way_out(host: Host) -> None:
    networks, box = host.networks(), host.box()
    attachment = attach(networks, box)
    assert attachment.addresses[0] == "10.88.0.2/16"
    assert "default via 10.88.0.1 dev eth0" in box.run("ip", "route")
    host.neighbour.serve("tcp", 80)
    assert box.fetch("tcp", "192.0.2.2", 80) == "hello 192.0.2.1"
    host.neighbour.serve("udp", 80, 6)
    assert box.fetch("udp", "2001:db8::2", 80) == "hello 2001:db8::1"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_published_port_answers_to_everyone(host: Host, protocol: str) -> None:
    networks, web, other = host.networks(), host.box(), host.box()
    attach(networks, web, ports=publish(f"8080:80/{protocol}"))
    attach(networks, other, "other")
    web.serve(protocol, 80)
    assert host.fetch(protocol, "127.0.0.1", 8080).startswith("hello 10.88.0.1")
    assert host.fetch(protocol, host.address, 8080).startswith("hello")
    assert host.neighbour.fetch(protocol, host.address, 8080) == "hello 192.0.2.2"
    assert other.fetch(protocol, host.address, 8080) == "hello 10.88.0.1"
    assert web.fetch(protocol, host.address, 8080) == "hello 10.88.0.1"
    assert other.fetch(protocol, "10.88.0.2", 80) == "hello 10.88.0.3"


def test_nothing_is_left_behind(host: Host) -> None:
    networks, box, other = host.networks(), host.box(), host.box()
    before = host.devices()
    attach(networks, box, ports=publish("8080:80", "8080:80/udp"))
    attach(networks, other, "other", ports=publish("8081:80"))
    networks.detach("web")
    assert "8080" not in host.rules()
    assert "8081" in host.rules()
    networks.detach("other")
    networks.detach("other")
    assert host.devices() == before
    assert host.rules() == ""
    assert not list((host.tmp_path / "store" / "state" / "networks").glob("*.json"))


def test_timing(host: Host) -> None:
    networks = host.networks()
    for number in range(4):
        box = host.box()
        start = time.perf_counter()
        attach_only = networks.attach(
            f"c{number}", NetworkRequest(ports=publish(f"{8080 + number}:80")), box.pid, box.netlink_fd
        )
        print("attach", (time.perf_counter() - start) * 1e3, attach_only.addresses)
        if number % 2:
            box.kill()
        start = time.perf_counter()
        networks.detach(f"c{number}")
        print("detach", (time.perf_counter() - start) * 1e3)
