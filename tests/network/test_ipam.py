"""Who gets which address and port."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.engine.config import PortBinding
from orlop.metadata.database import Database
from orlop.network import ipam
from orlop.network.records import Network, PublishedPort, Subnet
from orlop.spec.errors import (
    FailedPrecondition,
    InvalidArgument,
    OrlopError,
    OutOfRange,
    ResourceExhausted,
    Unimplemented,
)

SMALL = Network(name="net", subnets=(Subnet(subnet="10.1.0.0/29", gateway="10.1.0.1"),))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "db")
    yield database
    database.close()


def take(database: Database, network: Network, owner: str, wanted: str = "") -> tuple[str, Network]:
    with database.transaction() as connection:
        (address,), network = ipam.allocate(connection, network, owner, {4: wanted}, {4, 6})
    return address, network


def give_back(database: Database, owner: str) -> None:
    with database.transaction() as connection:
        ipam.release(connection, owner)


def test_addresses_go_round_before_one_is_used_again(database: Database) -> None:
    network, seen = SMALL, []
    for turn in range(6):
        address, network = take(database, network, f"c{turn}")
        seen.append(address)
        give_back(database, f"c{turn}")
    assert seen == [f"10.1.0.{n}/29" for n in (2, 3, 4, 5, 6, 2)]


def test_exhaustion_is_said_and_ends_with_a_release(database: Database) -> None:
    network = SMALL
    for number in range(5):
        _, network = take(database, network, f"c{number}")
    with pytest.raises(ResourceExhausted, match=r"network net: no free address in 10.1.0.0/29"):
        take(database, network, "late")
    give_back(database, "c3")
    assert take(database, network, "late")[0] == "10.1.0.5/29"


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        ("10.1.0.1", FailedPrecondition),
        ("10.1.0.0", InvalidArgument),
        ("10.1.0.7", InvalidArgument),
        ("10.2.0.2", InvalidArgument),
        ("fd00::2", InvalidArgument),
        ("nonsense", InvalidArgument),
    ],
)
def test_requested_address_must_be_a_containers(database: Database, wanted: str, kind: type[OrlopError]) -> None:
    with pytest.raises(kind):
        take(database, SMALL, "web", wanted)


def test_requested_address_is_given_once(database: Database) -> None:
    assert take(database, SMALL, "web", "10.1.0.4")[0] == "10.1.0.4/29"
    with pytest.raises(FailedPrecondition, match="already in use"):
        take(database, SMALL, "two", "10.1.0.4")


@given(st.data())
def test_an_address_never_has_two_owners(data: st.DataObject) -> None:
    subnet = Subnet(subnet="10.1.0.0/28", gateway="10.1.0.1", range=data.draw(st.sampled_from(["", "10.1.0.8/29"])))
    network = Network(name="net", subnets=(subnet,))
    pool = ip_network(subnet.range or subnet.subnet)
    taken: set[str] = set()
    for _ in range(40):
        if taken and data.draw(st.booleans()):
            taken.remove(data.draw(st.sampled_from(sorted(taken))))
            continue
        try:
            address = str(ipam.next_free(network, subnet, taken))
        except ResourceExhausted:
            assert len(taken) == (7 if subnet.range else 13)
            continue
        assert address not in taken
        assert ip_address(address) in pool
        assert address not in ("10.1.0.0", "10.1.0.1", "10.1.0.15")
        taken.add(address)


def test_subnets_are_picked_clear_of_each_other() -> None:
    used = [ip_network("10.88.0.0/15"), ip_network("fd00::/8")]
    assert str(ipam.pick_subnet(ipam.default_candidates(), used)) == "10.90.0.0/16"
    with pytest.raises(ResourceExhausted, match="--subnet"):
        ipam.pick_subnet(ipam.default_candidates(), [ip_network("0.0.0.0/0")])


@given(st.binary(min_size=7, max_size=7))
def test_unique_local_networks(random: bytes) -> None:
    network = ipam.unique_local(random)
    assert network.prefixlen == 64
    assert network.subnet_of(ip_network("fd00::/8"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [("x",), ("10.0.0.1/24",), ("10.0.0.0/31",), ("10.0.0.0/24", "10.0.1.1"), ("10.0.0.0/24", "10.0.0.255"),
     ("10.0.0.0/24", "fd00::1"), ("10.0.0.0/24", "", "10.0.1.0/25"), ("10.0.0.0/24", "", "fd00::/64")],
)  # fmt: skip
def test_refuses_subnets_that_are_none(arguments: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument):
        ipam.subnet_for(*arguments)


# ports


def free(protocol: str, address: str, port: int) -> OSError | None:
    return None


def publish(database: Database, owner: str, *bindings: PortBinding, probe: ipam.Probe = free) -> list[int]:
    with database.transaction() as connection:
        ports = ipam.reserve(connection, owner, ipam.expand(bindings, False, ()), {4, 6}, probe)
    return [port.host_port for port in ports]


def test_port_is_given_once(database: Database) -> None:
    publish(database, "web", PortBinding(container_port=80, host_port=8080))
    for address in ("", "127.0.0.1", "::"):
        with pytest.raises(FailedPrecondition, match=r"^bind for .*:8080 failed: port is already allocated$"):
            publish(database, "two", PortBinding(container_port=80, host_port=8080, host_address=address))
    publish(database, "udp", PortBinding(container_port=80, host_port=8080, protocol="udp"))


def test_addresses_of_the_host_have_ports_of_their_own(database: Database) -> None:
    publish(database, "web", PortBinding(container_port=80, host_port=8080, host_address="127.0.0.1"))
    publish(database, "two", PortBinding(container_port=80, host_port=8080, host_address="127.0.0.2"))
    publish(database, "six", PortBinding(container_port=80, host_port=8080, host_address="::"))
    with pytest.raises(FailedPrecondition, match=r"0\.0\.0\.0:8080"):
        publish(database, "all", PortBinding(container_port=80, host_port=8080, host_address="0.0.0.0"))


def test_failed_reservation_takes_nothing(database: Database) -> None:
    with pytest.raises(FailedPrecondition):
        publish(database, "web", *(PortBinding(container_port=80, host_port=n) for n in (8080, 8081, 8080)))
    publish(database, "two", PortBinding(container_port=80, host_port=8080))


def test_any_port_comes_from_the_ephemeral_range(database: Database) -> None:
    def busy(protocol: str, address: str, port: int) -> OSError | None:
        return OSError(errno.EADDRINUSE, "in use") if port == 32769 else None

    any_port = PortBinding(container_port=80)
    assert publish(database, "web", any_port, any_port, probe=busy) == [32768, 32770]
    give_back(database, "web")
    assert publish(database, "web", any_port) == [32768]


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (errno.EADDRINUSE, FailedPrecondition, "listen tcp4 192.0.2.9:80: bind: address already in use"),
        (errno.EADDRNOTAVAIL, InvalidArgument, "listen tcp4 192.0.2.9:80: bind: cannot assign requested address"),
    ],
)
def test_what_the_host_says_of_a_port(database: Database, code: int, kind: type[OrlopError], text: str) -> None:
    binding = PortBinding(container_port=80, host_port=80, host_address="192.0.2.9")
    with pytest.raises(kind) as error:
        publish(database, "web", binding, probe=lambda *_: OSError(code, "?"))
    assert str(error.value) == text


def test_publish_all_takes_what_is_exposed_and_not_bound() -> None:
    bound = PortBinding(container_port=80, host_port=8080)
    found = ipam.expand((bound,), True, ("80/tcp", "53/udp", "8000-8001", "8001/tcp"))
    assert [(p.protocol, p.host_port, p.container_port) for p in found] == [
        ("tcp", 8080, 80),
        ("udp", 0, 53),
        ("tcp", 0, 8000),
        ("tcp", 0, 8001),
    ]


@pytest.mark.parametrize(
    ("binding", "kind"),
    [
        (PortBinding(container_port=0), OutOfRange),
        (PortBinding(container_port=80, host_port=99999), OutOfRange),
        (PortBinding(container_port=80, protocol="icmp"), InvalidArgument),
        (PortBinding(container_port=80, host_address="example.org"), InvalidArgument),
        (PortBinding(container_port=80, host_address="1.1.1.1 . tcp . 80 : 6.6.6.6 }"), InvalidArgument),
        (PortBinding(container_port=80, host_address="::1"), Unimplemented),
    ],
)
def test_refuses_bindings_that_are_none(binding: PortBinding, kind: type[OrlopError]) -> None:
    with pytest.raises(kind):
        ipam.expand((binding,), False, ())


def test_sctp_needs_one_that_tracks_it(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipam, "_CONNTRACK", str(tmp_path))
    binding = PortBinding(container_port=80, host_port=8080, protocol="sctp")
    with pytest.raises(Unimplemented, match=r"listen sctp4 0\.0\.0\.0:8080: bind: this kernel does not track sctp"):
        publish(database, "web", binding, probe=ipam.probe)
    (tmp_path / "nf_conntrack_sctp_timeout_established").touch()
    assert publish(database, "web", binding, probe=ipam.probe) == [8080]
    with pytest.raises(FailedPrecondition, match="already allocated"):
        publish(database, "two", binding, probe=ipam.probe)
    publish(database, "two", PortBinding(container_port=80, host_port=8080, protocol="tcp"))


@pytest.mark.parametrize("entry", ["", "x", "80/", "0/tcp", "70000", "9-8", "²", "80/dccp", "1" * 5000])
def test_exposed_ports_that_are_none(entry: str) -> None:
    if entry == "80/":
        assert ipam.expand((), True, (entry,))[0] == PublishedPort(
            protocol="tcp", host_address="", host_port=0, container_port=80
        )
        return
    with pytest.raises(OrlopError):
        ipam.expand((), True, (entry,))
