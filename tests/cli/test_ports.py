from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.cli.docker.ports import parse_publish
from orlop.cli.docker.status import ports_text
from orlop.engine.config import PortBinding
from orlop.network.records import PublishedPort
from orlop.spec.errors import InvalidArgument, OrlopError, Unimplemented


def binding(container: int, host: int = 0, protocol: str = "tcp", address: str = "") -> PortBinding:
    return PortBinding(container_port=container, host_port=host, protocol=protocol, host_address=address)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("80", [binding(80)]),
        ("8080:80", [binding(80, 8080)]),
        ("8080:80/udp", [binding(80, 8080, "udp")]),
        ("8080:80/TCP", [binding(80, 8080)]),
        ("127.0.0.1:8080:80", [binding(80, 8080, "tcp", "127.0.0.1")]),
        ("127.0.0.1::80", [binding(80, 0, "tcp", "127.0.0.1")]),
        ("[::1]:8080:80", [binding(80, 8080, "tcp", "::1")]),
        ("[::1]::80", [binding(80, 0, "tcp", "::1")]),
        ("8000-8001:80-81", [binding(80, 8000), binding(81, 8001)]),
        ("80-81", [binding(80), binding(81)]),
    ],
)
def test_published_ports(text: str, wanted: list[PortBinding]) -> None:
    assert parse_publish(text) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("99999:80", "invalid port '99999'"),
        ("80:99999", "invalid port '99999'"),
        ("0:80", "invalid port '0'"),
        ("", "invalid port"),
        (":80:", "invalid"),
        ("a:80", "invalid port 'a'"),
        ("80/icmp", "invalid proto: icmp"),
        ("1.2.3:80:80", "invalid IP address"),
        ("[::1:80:80", "invalid IP address"),
        ("1:2:3:4", "invalid publish specification"),
        ("8000-8002:80-81", "invalid ranges"),
        ("81-80", "invalid port range"),
        ("٨٠:80", "invalid port"),
    ],
)
def test_wrong_ports_are_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        parse_publish(text)


def test_what_is_not_there_yet_is_named() -> None:
    with pytest.raises(Unimplemented, match="range of host ports"):
        parse_publish("8000-8010:80")


@given(st.text(alphabet="0123456789:-/.[]tcpudx", max_size=30) | st.text(max_size=20))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        found = parse_publish(text)
    except OrlopError:
        return
    assert all(0 < b.container_port < 65536 and 0 <= b.host_port < 65536 for b in found)


def published(host: int, container: int, address: str = "", protocol: str = "tcp") -> PublishedPort:
    return PublishedPort(protocol=protocol, host_address=address, host_port=host, container_port=container)


def test_ports_column() -> None:
    assert ports_text([published(8080, 80)], []) == "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
    assert ports_text([published(8080, 80, "127.0.0.1")], ["443/tcp"]) == "127.0.0.1:8080->80/tcp, 443/tcp"
    assert ports_text([published(8080, 80, "127.0.0.1")], ["80/tcp"]) == "127.0.0.1:8080->80/tcp"
    assert ports_text([], ["6379", "53/udp"]) == "6379/tcp, 53/udp"
    assert ports_text([], []) == ""


def test_neighbouring_ports_are_drawn_together() -> None:
    ports = [published(8000 + n, 80 + n, "127.0.0.1") for n in range(3)]
    assert ports_text(ports, ["90/tcp", "91/tcp"]) == "127.0.0.1:8000-8002->80-82/tcp, 90-91/tcp"
