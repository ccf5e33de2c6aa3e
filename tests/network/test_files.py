"""The texts of /etc/hosts and /etc/resolv.conf."""

from __future__ import annotations

import pytest

from orlop.network.files import hostname_file, hosts_file, resolv_conf
from orlop.spec.errors import InvalidArgument

HOST = """\
# made by hand
nameserver 127.0.0.53
nameserver 192.0.2.53
nameserver 2001:db8::53
search example.org corp.example.org
options edns0 trust-ad
"""


def test_hostname() -> None:
    assert hostname_file("web") == "web\n"


def test_container_finds_itself() -> None:
    text = hosts_file("web", "example.org", ("10.88.0.2/16", "fd00::2/64"), aliases=("www",))
    assert text.endswith("10.88.0.2\tweb.example.org web www\nfd00::2\tweb.example.org web www\n")
    assert text.startswith("127.0.0.1\tlocalhost\n::1\tlocalhost")


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ("db:192.0.2.7", "192.0.2.7\tdb"),
        ("db=192.0.2.7", "192.0.2.7\tdb"),
        ("db:2001:db8::7", "2001:db8::7\tdb"),
        ("db=[2001:db8::7]", "2001:db8::7\tdb"),
        ("host.docker.internal:host-gateway", "10.88.0.1\thost.docker.internal"),
    ],
)
def test_extra_hosts(entry: str, line: str) -> None:
    assert line in hosts_file("web", extra_hosts=(entry,), gateway="10.88.0.1").splitlines()


@pytest.mark.parametrize(
    "entry", ["db", ":192.0.2.1", "db:nowhere", "a b:192.0.2.1", "db:192.0.2.1\n6.6.6.6 bank", "db:"]
)
def test_refuses_extra_hosts_that_are_none(entry: str) -> None:
    with pytest.raises(InvalidArgument):
        hosts_file("web", extra_hosts=(entry,))


def test_host_gateway_needs_a_gateway() -> None:
    with pytest.raises(InvalidArgument, match="no gateway"):
        hosts_file("web", extra_hosts=("h:host-gateway",))


def test_loopback_nameservers_stay_on_the_host() -> None:
    assert resolv_conf(HOST) == (
        "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch example.org corp.example.org\noptions edns0 trust-ad\n"
    )
    assert "127.0.0.53" in resolv_conf(HOST, own_namespace=False)
    assert "2001:db8::53" not in resolv_conf(HOST, ipv6=False)


def test_public_nameservers_stand_in() -> None:
    assert resolv_conf("nameserver 127.0.0.1\n", ipv6=False) == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
    assert "nameserver 2001:4860:4860::8888" in resolv_conf("")


def test_flags_replace_the_hosts_lines() -> None:
    text = resolv_conf(HOST, nameservers=("1.1.1.1",), search=("a.example",), options=("ndots:2",))
    assert text == "nameserver 1.1.1.1\nsearch a.example\noptions ndots:2\n"
    assert "search" not in resolv_conf(HOST, search=(".",))
    assert resolv_conf(HOST, nameservers=("127.0.0.11",)).startswith("nameserver 127.0.0.11\n")


@pytest.mark.parametrize("bad", [{"nameservers": ("dns.example",)}, {"search": ("a b",)}, {"options": ("x\ny",)}])
def test_refuses_what_resolv_conf_cannot_hold(bad: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(InvalidArgument):
        resolv_conf(HOST, **bad)  # type: ignore[arg-type]
