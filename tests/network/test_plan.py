"""Plans read as what they do."""

from __future__ import annotations

import pytest

from orlop.network import plan
from orlop.network.plan import Facts
from orlop.network.records import Names, Network, PublishedPort, Subnet
from orlop.network.rules import make_table
from orlop.spec.errors import InvalidArgument

NAMES = Names()
NETWORK = Network(
    name="bridge",
    device="orlop0",
    subnets=(
        Subnet(subnet="10.88.0.0/16", gateway="10.88.0.1"),
        Subnet(subnet="fd00:88::/64", gateway="fd00:88::1"),
    ),
)
PORTS = (
    PublishedPort(protocol="tcp", host_address="", host_port=8080, container_port=80),
    PublishedPort(protocol="udp", host_address="127.0.0.1", host_port=53, container_port=53),
)
ATTACHMENT = plan.attachment_for(
    "web", NETWORK, NAMES, addresses=("10.88.0.2/16", "fd00:88::2/64"), mac="", ports=PORTS
)


def test_attach() -> None:
    veth = ATTACHMENT.host_device
    assert plan.render(plan.attach_steps(NETWORK, ATTACHMENT, NAMES, 42, Facts(advertised=("wlan0",)))) == (
        "host: make bridge orlop0, address 02:42:0a:58:00:01\n"
        "host: sysctl net/ipv4/conf/orlop0/route_localnet = 1\n"
        "host: sysctl net/ipv4/ip_forward = 1\n"
        "host: sysctl net/ipv6/conf/orlop0/accept_ra = 0\n"
        "host: sysctl net/ipv6/conf/orlop0/accept_dad = 0\n"
        "host: sysctl net/ipv6/conf/wlan0/accept_ra = 2\n"
        "host: sysctl net/ipv6/conf/all/forwarding = 1\n"
        "host: orlop0 has 10.88.0.1/16\n"
        "host: orlop0 has fd00:88::1/64\n"
        "host: orlop0 up\n"
        'nft: add element inet orlop bridges { "orlop0" }; add element inet orlop within { "orlop0" . "orlop0" }; '
        "add element inet orlop subnets4 { 10.88.0.0/16 }; add element inet orlop subnets6 { fd00:88::/64 }\n"
        "nft: add element inet orlop any4 { tcp . 8080 : 10.88.0.2 . 80 }; "
        "add element inet orlop ports4 { 127.0.0.1 . udp . 53 : 10.88.0.2 . 53 }; "
        "add element inet orlop any6 { tcp . 8080 : fd00:88::2 . 80 }\n"
        f"host: make veth {veth} on orlop0 to eth0 of process 42, address 02:42:0a:58:00:02\n"
        "container: eth0 has 10.88.0.2/16\n"
        "container: eth0 has fd00:88::2/64\n"
        "container: eth0 up\n"
        "container: default route via 10.88.0.1 on eth0\n"
        "container: default route via fd00:88::1 on eth0\n"
        "host: forget udp flows to 127.0.0.1 port 53\n"
    )


def test_detach_while_others_stay() -> None:
    steps = plan.detach_steps(ATTACHMENT, NETWORK, NAMES, network_used=True, table_used=True)
    assert plan.render(steps) == (
        "nft: delete element inet orlop any4 { tcp . 8080 }; "
        "delete element inet orlop ports4 { 127.0.0.1 . udp . 53 }; delete element inet orlop any6 { tcp . 8080 }\n"
        "host: forget udp flows to 127.0.0.1 port 53\n"
        f"host: delete {ATTACHMENT.host_device}\n"
    )


def test_last_one_takes_all_along() -> None:
    steps = plan.detach_steps(ATTACHMENT, NETWORK, NAMES, network_used=False, table_used=False)
    assert plan.render(steps) == (
        "nft: add table inet orlop; delete table inet orlop\n"
        "host: forget udp flows to 127.0.0.1 port 53\n"
        f"host: delete {ATTACHMENT.host_device}\n"
        "host: delete orlop0\n"
    )


def test_bandwidth_is_bounded_at_the_host_s_end() -> None:
    rates = {"ingressRate": 1_000_000, "egressRate": 2_000_000, "egressBurst": 9}
    bounded = plan.attachment_for("web", NETWORK, NAMES, addresses=("10.88.0.2/16",), mac="", ports=(), bandwidth=rates)
    veth, shaper = bounded.host_device, bounded.shaper
    assert len(shaper) <= 15
    assert plan.render(plan.join_steps(NETWORK, bounded, 42, Facts())).endswith(
        f"host: {veth} sends at most 1000000 bits a second\n"
        f"host: what {veth} receives goes through {shaper}\n"
        f"host: {shaper} sends at most 2000000 bits a second\n"
    )
    gone = plan.render(plan.detach_steps(bounded, NETWORK, NAMES, network_used=True, table_used=True))
    assert gone.endswith(f"host: delete {veth}\nhost: delete {shaper}\n")


def test_internal_network_has_neither_gateway_nor_forwarding() -> None:
    inner = Network(name="inner", device="orl-1", subnets=NETWORK.subnets, internal=True)
    attachment = plan.attachment_for("web", inner, NAMES, addresses=("10.88.0.2/16",), mac="", ports=())
    text = plan.render(plan.attach_steps(inner, attachment, NAMES, 42, Facts()))
    assert attachment.gateways == ()
    assert "forward" not in text
    assert "internal" in text


def test_host_without_ipv6() -> None:
    attachment = plan.attachment_for("web", NETWORK, NAMES, addresses=("10.88.0.2/16",), mac="", ports=PORTS)
    text = plan.render(plan.attach_steps(NETWORK, attachment, NAMES, 42, Facts(ipv6=False)))
    assert "ipv6" not in text
    assert "has fd00" not in text


def test_whole_table_is_only_made_where_none_is() -> None:
    script = make_table(NAMES, (NETWORK,), (ATTACHMENT,))
    assert script.startswith("create table inet orlop\n")
    assert "any4 { tcp . 8080 : 10.88.0.2 . 80 }" in script


def test_device_names_fit() -> None:
    names = plan.names_for("/somewhere/else")
    assert names.table != "orlop"
    for name in (names.bridge, plan.bridge_name(names, "x" * 100), plan.veth_name(names, "y" * 64)):
        assert len(name) <= 15
    assert plan.names_for("/var/lib/orlop/networks") == Names()


@pytest.mark.parametrize(
    "text", ["", "02:42", "02:42:0a:58:00:zz", "01:00:5e:00:00:01", "00:00:00:00:00:00", "2:42:a:58:0:1"]
)
def test_refuses_macs_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument):
        plan.mac_bytes(text)
