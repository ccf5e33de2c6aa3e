"""The built-in bridge, end to end: real namespaces, real packets."""

from __future__ import annotations

import socket
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from orlop.engine.config import NetworkRequest, PortBinding
from orlop.network.bridge import delete_veth
from orlop.network.networks import Networks
from orlop.network.records import Attachment, Subnet
from orlop.spec.errors import FailedPrecondition, InvalidArgument, OrlopError, Unimplemented
from orlop.wire import rtnetlink as rt
from orlop.wire import traffic

if TYPE_CHECKING:
    from conftest import Box, Host

pytestmark = pytest.mark.root


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


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


def test_bandwidth_is_bounded_both_ways(host: Host) -> None:
    """8 Mbit a second take a second and more for two megabytes; without bounds it is a matter of milliseconds."""
    networks, web, free = host.networks(), host.box(), host.box()
    before = host.devices()
    rates = {"ingressRate": 8_000_000, "ingressBurst": 2**32 - 1, "egressRate": 8_000_000, "egressBurst": 2**32 - 1}
    attachment = attach(networks, web, capabilities={"bandwidth": rates})
    attach(networks, free, "free")
    assert attachment.shaper in host.devices()
    assert "tbf" in run("tc", "qdisc", "show", "dev", attachment.host_device)
    for box in (web, free, host.neighbour):
        assert box.ask("sink", 90) == "ok"
    for box, lower in ((web, 1.2), (free, 0.0)):
        address = "10.88.0.2" if box is web else "10.88.0.3"
        sent, received = float(box.ask("pour", "192.0.2.2", 90, 2_000_000)), float(host.pour(address, 90, 2_000_000))
        assert min(sent, received) > lower
        assert max(sent, received) < (6.0 if box is web else 1.0)
    # a second attempt finds what the first has left
    attach(networks, web, capabilities={"bandwidth": {"ingressRate": 100 * 10**9, "egressRate": 1000}})
    assert "rate 100Gbit" in run("tc", "qdisc", "show", "dev", attachment.host_device)
    assert "rate 1Kbit" in run("tc", "qdisc", "show", "dev", attachment.shaper)
    networks.detach("web")
    networks.detach("free")
    assert host.devices() == before


def test_a_kernel_that_can_t_bound_bandwidth_says_so(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    networks, web = host.networks(), host.box()
    before = host.devices()
    monkeypatch.setattr(traffic, "_kind", lambda name, kind=1: rt.attribute(kind, b"nothing\0"))
    with pytest.raises(Unimplemented, match=r"sends at most 1000 bits a second: this kernel has no tbf \(CONFIG"):
        attach(networks, web, capabilities={"bandwidth": {"ingressRate": 1000}})
    with pytest.raises(Unimplemented, match=r"goes through ori.*: this kernel has no ingress"):
        attach(networks, web, capabilities={"bandwidth": {"egressRate": 1000}})
    assert host.devices() == before


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


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_published_port_answers_on_ipv6(host: Host, protocol: str) -> None:
    networks, web, other = host.networks(), host.box(), host.box()
    attachment = attach(networks, web, ports=publish(f"8080:80/{protocol}"))
    attach(networks, other, "other")
    web.serve(protocol, 80, 6)
    gateway = attachment.gateways[1]
    assert host.neighbour.fetch(protocol, host.address6, 8080) == "hello 2001:db8::2"
    assert host.fetch(protocol, host.address6, 8080).startswith("hello")
    assert other.fetch(protocol, host.address6, 8080) == f"hello {gateway}"
    assert web.fetch(protocol, host.address6, 8080) == f"hello {gateway}"
    # the kernel cannot carry ::1 over the bridge: refused at once, so that clients go on to 127.0.0.1
    assert "refused" in host.fetch(protocol, "::1", 8080)


def test_associations_of_sctp_reach_a_published_port(host: Host) -> None:
    """One of the host's own, from elsewhere and from a neighbouring container, with the ports translated."""
    networks, web, other, next_one = host.networks(), host.box(), host.box(), host.box()
    attachment = attach(networks, web, ports=publish("8080:80/sctp"))
    attach(networks, other, "other")
    for family, address, gateway in ((4, host.address, "10.88.0.1"), (6, host.address6, attachment.gateways[1])):
        web.serve("sctp", 80, family)
        assert host.neighbour.fetch("sctp", address, 8080, 5000) == f"hello {address[:-1]}2"
        assert other.fetch("sctp", address, 8080, 5001) == f"hello {gateway}"
    assert other.fetch("sctp", "10.88.0.2", 80, 5002) == "hello 10.88.0.3"
    networks.detach("web")
    attach(networks, next_one, "next", ports=publish("8080:80/sctp"))
    next_one.serve("sctp", 80)
    assert host.neighbour.fetch("sctp", host.address, 8080, 5000) == "hello 192.0.2.2"


def test_udp_client_meets_the_container_that_is_there_now(host: Host) -> None:
    networks, first, second = host.networks(), host.box(), host.box()
    for family, address in ((4, host.address), (6, host.address6)):
        assert "refused" in host.neighbour.fetch("udp", address, 8080, 5000)
        attach(networks, first, ports=publish("8080:80/udp"))
        first.serve("udp", 80, family)
        assert host.neighbour.fetch("udp", address, 8080, 5000).startswith("hello")
        networks.detach("web")
        attach(networks, second, "two", ports=publish("8080:80/udp"))
        second.serve("udp", 80, family)
        assert host.neighbour.fetch("udp", address, 8080, 5000).startswith("hello")
        networks.detach("two")


def test_port_published_on_one_address_answers_there_alone(host: Host) -> None:
    networks, web = host.networks(), host.box()
    attach(networks, web, ports=publish("8080:80", address="127.0.0.1") + publish("8081:80", address=host.address))
    web.serve("tcp", 80)
    assert host.fetch("tcp", "127.0.0.1", 8080).startswith("hello")
    assert host.fetch("tcp", host.address, 8080).startswith("failed")
    assert host.neighbour.fetch("tcp", host.address, 8081).startswith("hello")
    assert host.fetch("tcp", "127.0.0.1", 8081).startswith("failed")


def test_refuses_the_loopback_address_of_ipv6(host: Host) -> None:
    with pytest.raises(Unimplemented, match="::1"):
        attach(host.networks(), host.box(), ports=publish("8080:80", address="::1"))


def test_neighbour_cannot_reach_loopback_ports_of_the_host(host: Host) -> None:
    networks, web = host.networks(), host.box()
    attach(networks, web, ports=publish("8080:80", address="127.0.0.1"))
    web.serve("tcp", 80)
    host.neighbour.run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    host.neighbour.run("ip", "route", "add", "127.0.0.1", "via", host.address, "src", "192.0.2.2")
    assert host.neighbour.fetch("tcp", "127.0.0.1", 8080).startswith("failed")


def test_container_cannot_reach_loopback_of_the_host(host: Host) -> None:
    networks, box = host.networks(), host.box()
    attach(networks, box)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as local:
        local.bind(("127.0.0.1", 9000))
        local.settimeout(0.2)
        box.run("ip", "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
        box.run("ip", "route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local")
        box.run("ip", "route", "add", "127.0.0.1", "via", "10.88.0.1", "src", "10.88.0.2")
        box.fetch("udp", "127.0.0.1", 9000)
        with pytest.raises(TimeoutError):
            local.recv(100)


def test_unpublished_ports_stay_closed_to_neighbours(host: Host) -> None:
    networks, web = host.networks(), host.box()
    attach(networks, web)
    web.serve("tcp", 80)
    host.neighbour.run("ip", "route", "add", "10.88.0.0/16", "via", host.address)
    assert host.neighbour.fetch("tcp", "10.88.0.2", 80) == "failed: timed out"
    assert host.fetch("tcp", "10.88.0.2", 80) == "hello 10.88.0.1"


def test_networks_are_isolated_but_for_published_ports(host: Host) -> None:
    networks, web, other = host.networks(), host.box(), host.box()
    networks.create("front")
    attachment = attach(networks, web, mode="front", ports=publish("8080:80"))
    attach(networks, other, "other")
    web.serve("tcp", 80)
    address = attachment.addresses[0].partition("/")[0]
    assert address == "10.89.0.2"
    assert other.fetch("tcp", address, 80) == "failed: timed out"
    assert other.fetch("tcp", host.address, 8080).startswith("hello")


def test_internal_network_has_no_way_out(host: Host) -> None:
    networks, one, two = host.networks(), host.box(), host.box()
    networks.create("inner", internal=True)
    attach(networks, one, mode="inner")
    attach(networks, two, "two", mode="inner")
    host.neighbour.serve("tcp", 80)
    two.serve("tcp", 80)
    assert "unreachable" in one.fetch("tcp", "192.0.2.2", 80)
    one.run("ip", "route", "add", "default", "via", "10.89.0.1")
    run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    host.neighbour.run("ip", "route", "add", "10.89.0.0/16", "via", host.address)
    assert one.fetch("tcp", "192.0.2.2", 80) == "failed: timed out"
    assert one.fetch("tcp", "10.89.0.3", 80) == "hello 10.89.0.2"
    with pytest.raises(InvalidArgument, match="internal"):
        attach(networks, host.box(), "three", mode="inner", ports=publish("8080:80"))


def test_flushed_rules_come_back_with_the_next_container(host: Host) -> None:
    networks, web, other = host.networks(), host.box(), host.box()
    attach(networks, web, ports=publish("8080:80"))
    web.serve("tcp", 80)
    run("nft", "flush", "ruleset")
    assert host.fetch("tcp", host.address, 8080).startswith("failed")
    attach(networks, other, "other")
    assert host.fetch("tcp", host.address, 8080).startswith("hello")
    run("nft", "flush", "ruleset")
    networks.detach("other")
    networks.detach("web")
    assert host.rules() == ""


def test_foreign_rules_stay_untouched(host: Host) -> None:
    run("nft", "add table inet mine; add chain inet mine c; add rule inet mine c counter")
    before = host.rules()
    networks = host.networks()
    attach(networks, host.box(), ports=publish("8080:80"))
    networks.teardown()
    assert host.rules() == before


def test_detach_with_the_owner_alone_after_the_namespace_died(host: Host) -> None:
    networks, box = host.networks(), host.box()
    before = host.devices()
    attach(networks, box, ports=publish("8080:80"))
    box.kill()
    host.networks().detach("web")
    assert host.devices() == before
    assert host.rules() == ""
    attach(networks, host.box(), "next", ports=publish("8080:80"))


def test_a_device_may_go_before_the_rest(host: Host) -> None:
    networks, first, second = host.networks(), host.box(), host.box()
    networks.keep()
    attach(networks, first, "first")
    before = host.devices()
    attachment = attach(networks, second, "second")
    assert networks.unplug(attachment)
    networks.detach("second", attachment)
    assert host.devices() == before
    assert networks.leftovers(["first"]) == ()
    networks.unplug(attachment)  # of which nothing is left
    networks.detach("first")
    networks.sweep()
    assert host.rules() == ""


def test_a_device_of_another_kind_is_not_deleted_for_its_name(host: Host) -> None:
    networks, box = host.networks(), host.box()
    networks.keep()
    attachment = attach(networks, box)
    run("ip", "link", "delete", attachment.host_device)
    run("ip", "link", "add", attachment.host_device, "type", "bridge")
    before = host.devices()
    delete_veth(attachment.host_device)
    assert host.devices() == before
    run("ip", "link", "delete", attachment.host_device)
    delete_veth(attachment.host_device)


def test_only_who_keeps_networks_takes_devices_early(host: Host) -> None:
    networks, box = host.networks(), host.box()
    attachment = attach(networks, box)
    before = host.devices()
    assert not networks.unplug(attachment)
    assert host.devices() == before


def test_recover_removes_all_but_the_living(host: Host) -> None:
    networks, one, two = host.networks(), host.box(), host.box()
    attach(networks, one, "one", ports=publish("8080:80"))
    attach(networks, two, "two", ports=publish("8081:80"))
    assert networks.leftovers({"one"}) == ("two",)
    assert networks.recover({"one"}) == ("two",)
    assert "8081" not in host.rules()
    assert networks.leftovers({"one"}) == ()


def test_failed_attach_leaves_nothing(host: Host) -> None:
    networks, box = host.networks(), host.box()
    before = host.devices()
    with pytest.raises(OrlopError, match="make veth"):
        networks.attach("web", NetworkRequest(ports=publish("8080:80")), 2**22 + 1, box.netlink_fd)
    assert (host.devices(), host.rules()) == (before, "")
    assert networks.leftovers(()) == ()


def test_attach_again_starts_afresh(host: Host) -> None:
    networks, first, second = host.networks(), host.box(), host.box()
    attach(networks, first, ports=publish("8080:80"))
    attachment = attach(networks, second, ports=publish("8080:80"))
    second.serve("tcp", 80)
    assert attachment.addresses[0] == "10.88.0.3/16"
    assert host.neighbour.fetch("tcp", host.address, 8080).startswith("hello")


def test_listener_of_the_host_keeps_its_port(host: Host) -> None:
    networks = host.networks()
    with socket.create_server(("127.0.0.1", 8080)):
        with pytest.raises(FailedPrecondition, match=r"listen tcp4 0.0.0.0:8080: bind: address already in use"):
            attach(networks, host.box(), ports=publish("8080:80"))
        attach(networks, host.box(), ports=publish("8080:80", address=host.address))


def test_requested_addresses(host: Host) -> None:
    networks, box = host.networks(), host.box()
    networks.create("front", subnets=(Subnet(subnet="10.90.0.0/24", gateway="10.90.0.254"),), ipv6=True)
    attach(networks, box, mode="front", address="10.90.0.7", mac_address="02:00:00:00:00:07")
    assert "inet 10.90.0.7/24" in box.run("ip", "addr", "show", "eth0")
    assert "02:00:00:00:00:07" in box.run("ip", "link", "show", "eth0")
    assert "via 10.90.0.254" in box.run("ip", "route")
    with pytest.raises(FailedPrecondition, match="already in use"):
        attach(networks, host.box(), "two", mode="front", address="10.90.0.7")


def test_default_network_avoids_the_hosts_routes(host: Host) -> None:
    run("ip", "route", "add", "10.80.0.0/12", "via", "192.0.2.2")
    attachment = attach(host.networks(), host.box())
    assert attachment.addresses[0] == "10.96.0.2/16"


def test_default_network_moves_out_of_the_way_while_nobody_is_in_it(host: Host) -> None:
    networks, box = host.networks(), host.box()
    attach(networks, box)
    run("ip", "route", "add", "10.88.7.0/24", "via", "192.0.2.2")
    assert attach(networks, host.box(), "two").addresses[0] == "10.88.0.3/16"
    networks.teardown()
    assert attach(networks, box).addresses[0] == "10.89.0.2/16"


def test_two_stores_do_not_meet(host: Host) -> None:
    one, two = host.networks("one"), host.networks("two")
    web, other = host.box(), host.box()
    first = attach(one, web, ports=publish("8080:80"))
    second = attach(two, other, ports=publish("8081:80"))
    assert first.bridge != second.bridge
    assert first.addresses != second.addresses
    web.serve("tcp", 80)
    other.serve("tcp", 80)
    one.teardown()
    assert host.fetch("tcp", "127.0.0.1", 8081).startswith("hello")
    two.teardown()
    assert host.rules() == ""


def test_host_without_ipv6(host: Host) -> None:
    run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    box = host.box()
    attachment = attach(host.networks(), box, ports=publish("8080:80"))
    assert [a for a in attachment.addresses if ":" in a] == []


def test_many_at_once(host: Host) -> None:
    boxes = [host.box() for _ in range(8)]
    networks = [host.networks() for _ in boxes]
    networks[0].list()
    seen: list[Attachment] = []

    def one(number: int) -> None:
        for turn in range(3):
            owner = f"c{number}x{turn}"
            request = NetworkRequest(ports=(PortBinding(container_port=80),))
            seen.append(networks[number].attach(owner, request, boxes[number].pid, boxes[number].netlink_fd))
            networks[number].detach(owner)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({a.addresses for a in seen}) == 24
    assert host.rules() == ""
    assert networks[0].leftovers(()) == ()
