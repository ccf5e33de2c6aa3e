"""Credentials that come with a request."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from orlop._stubs.cri import api_pb2 as api
from orlop.cri.credentials import RequestCredentials, credential_of, discreet, meant_for
from orlop.distribution.credentials import Credential, FixedCredentials
from orlop.distribution.hosts import Hosts
from orlop.spec.errors import InvalidArgument
from orlop.spec.reference import parse_reference


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, None),
        ({"username": "ann", "password": "pw"}, Credential("ann", "pw")),
        ({"auth": coded("ann:p:w")}, Credential("ann", "p:w")),
        ({"auth": coded("ann:pw\0\0")}, Credential("ann", "pw")),
        ({"auth": coded("x:y"), "username": "ann", "password": "pw"}, Credential("ann", "pw")),
        ({"identity_token": "t"}, Credential(identity_token="t")),
        ({"registry_token": "t"}, Credential(registry_token="t")),
        ({"auth": coded("ann:pw"), "identity_token": "t"}, Credential("ann", "pw", "t")),
    ],
)
def test_forms_of_credentials(fields: dict[str, str], wanted: Credential | None) -> None:
    assert credential_of(api.AuthConfig(**fields)) == wanted


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"auth": "no base64, but Secret"}, "auth.auth is not base64"),
        ({"auth": base64.b64encode(b"\xff\xfe").decode()}, "auth.auth is not base64"),
        ({"auth": coded("no colon, but Secret")}, "auth.auth holds no colon"),
        ({"server_address": "reg.example"}, "auth: has a server_address, but no credentials"),
    ],
)
def test_credentials_that_are_none_are_refused_without_being_shown(fields: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        credential_of(api.AuthConfig(**fields))
    assert str(caught.value) == text


MIRRORED = """
server = "https://origin.example:5000"
[host."https://mirror.example"]
"""


@pytest.mark.parametrize(
    ("server", "name", "shown", "hidden"),
    [
        ("", "busybox", {"docker.io", "registry-1.docker.io"}, {"mirror.example", "reg.example"}),
        ("https://index.docker.io/v1/", "busybox", {"docker.io"}, {"reg.example"}),
        ("", "reg.example:5000/app", {"reg.example:5000"}, {"reg.example", "docker.io"}),
        ("reg.example:5000", "reg.example:5000/app", {"reg.example:5000"}, {"reg.example"}),
        ("https://other.example", "reg.example/app", {"other.example"}, {"reg.example"}),
        ("", "mirrored.example/app", {"mirrored.example", "origin.example:5000"}, {"mirror.example"}),
        ("mirror.example", "mirrored.example/app", {"mirror.example"}, {"mirrored.example", "origin.example:5000"}),
    ],
)
def test_credentials_go_to_those_they_are_meant_for(
    tmp_path: Path, server: str, name: str, shown: set[str], hidden: set[str]
) -> None:
    (tmp_path / "mirrored.example").mkdir()
    (tmp_path / "mirrored.example/hosts.toml").write_text(MIRRORED)
    given, own = Credential("ann", "pw"), Credential("machine", "x")
    hosts = meant_for(api.AuthConfig(server_address=server), parse_reference(name), Hosts((tmp_path,)))
    credentials = RequestCredentials(given, hosts, FixedCredentials(own))
    assert {credentials.get(host) for host in shown} == {given}
    assert {credentials.get(host) for host in hidden} == {own}


def test_secrets_are_struck_out() -> None:
    assert discreet("token server: bad password hunter22 for ann", ["hunter22"]) == (
        "token server: bad password *** for ann"
    )
