"""Making, listing and removing networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orlop.engine.config import NetworkRequest
from orlop.network.records import Subnet
from orlop.spec.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OrlopError

if TYPE_CHECKING:
    from conftest import Host

pytestmark = pytest.mark.root


def test_made_listed_inspected_removed(host: Host) -> None:
    networks = host.networks()
    made = networks.create("front", labels={"a": "b"}, ipv6=True, mtu=1400)
    gateways = [s.gateway for s in made.subnets]
    assert gateways[0] == "10.89.0.1"
    assert gateways[1].startswith("fd")
    assert networks.inspect("front") == made
    assert networks.create("back").subnets[0].subnet == "10.89.1.0/24"
    assert [n.name for n in networks.list()] == ["back", "front"]
    networks.remove("front")
    with pytest.raises(NotFound, match="network front not found"):
        networks.inspect("front")
    with pytest.raises(NotFound):
        networks.remove("front")


def test_device_has_what_was_asked_for(host: Host) -> None:
    networks, box = host.networks(), host.box()
    networks.create("front", mtu=1400)
    attachment = networks.attach("web", NetworkRequest(mode="front"), box.pid, box.netlink_fd)
    assert "mtu 1400" in box.run("ip", "link", "show", "eth0")
    assert networks.attachments("front") == (attachment,)
    networks.check("web")
    with pytest.raises(FailedPrecondition, match="network front has active endpoints: web"):
        networks.remove("front")
    assert networks.prune() == ()
    networks.detach("web")
    assert networks.prune() == ("front",)


def test_unused_networks_are_pruned_and_the_default_one_stays(host: Host) -> None:
    networks, box = host.networks(), host.box()
    networks.create("front")
    networks.attach("web", NetworkRequest(), box.pid, box.netlink_fd)
    networks.detach("web")
    assert networks.prune() == ("front",)
    assert [n.name for n in networks.list()] == ["bridge"]


@pytest.mark.parametrize("name", ["", "-x", ".x", "a b", "a/b", "../a", "ä", "x" * 129, "a\n", "container:x"])
def test_refuses_names_that_are_none(host: Host, name: str) -> None:
    with pytest.raises(InvalidArgument):
        host.networks().create(name)


@pytest.mark.parametrize("name", ["none", "host", "bridge", "default"])
def test_predefined_names_are_taken(host: Host, name: str) -> None:
    with pytest.raises(FailedPrecondition):
        host.networks().create(name)
    with pytest.raises(FailedPrecondition):
        host.networks().remove(name)


def test_refuses_what_is_taken(host: Host) -> None:
    networks = host.networks()
    networks.create("front", subnets=(Subnet(subnet="10.1.0.0/24"),))
    with pytest.raises(AlreadyExists, match="network with name front already exists"):
        networks.create("front")
    for subnet in ("10.1.0.128/25", "192.0.2.0/24"):
        with pytest.raises(FailedPrecondition, match="overlaps"):
            networks.create("back", subnets=(Subnet(subnet=subnet),))
    with pytest.raises(InvalidArgument, match="at most one subnet"):
        networks.create("back", subnets=tuple(Subnet(subnet=f"10.{n}.0.0/24") for n in (2, 3)))
    with pytest.raises(InvalidArgument, match="mtu"):
        networks.create("back", mtu=10)


@pytest.mark.parametrize("owner", ["", "../../etc/passwd", "a b", "x" * 500])
def test_owner_is_no_path(host: Host, owner: str) -> None:
    with pytest.raises(OrlopError):
        host.networks().detach(owner)
