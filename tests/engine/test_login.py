"""login and logout against a registry of our own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orlop.distribution.client import Registry as Client
from orlop.distribution.credentials import DockerConfig
from orlop.distribution.hosts import Hosts
from orlop.engine.images.login import login, logout, server_name
from orlop.registry.access import Basic, Token
from orlop.registry.faults import Fault, Html
from orlop.registry.server import Registry
from orlop.spec.errors import InvalidArgument, PermissionDenied, Unavailable

USERS = {"ann": "secret"}


@pytest.fixture
def config(tmp_path: Path) -> DockerConfig:
    return DockerConfig(tmp_path)


def auths(config: DockerConfig) -> dict:
    return json.loads(config.path.read_text())["auths"]


def test_basic_credentials_are_kept_and_forgotten(config: DockerConfig) -> None:
    with Registry(auth=Basic(USERS)) as registry:
        done = login(registry.address, "ann", "secret", config=config, hosts=Hosts(()))
        assert (done.server, done.where, done.encrypted) == (registry.address, str(config.path), False)
        assert auths(config) == {registry.address: {"auth": "YW5uOnNlY3JldA=="}}
        with Client(Hosts(()), config) as client:
            client.ping(registry.address)
        assert logout(f"https://{registry.address}/v2/", config=config)
        assert auths(config) == {}
        assert not logout(registry.address, config=config)


def test_a_refresh_token_is_kept_in_the_passwords_place(config: DockerConfig) -> None:
    with Registry(auth=Token(USERS)) as registry:
        login(registry.address, "ann", "secret", config=config, hosts=Hosts(()))
        assert "identitytoken" in auths(config)[registry.address]
        assert config.get(registry.address).password == ""
        with Client(Hosts(()), config) as client:
            client.ping(registry.address)


@pytest.mark.parametrize("auth", [Basic(USERS), Token(USERS)], ids=["basic", "token"])
def test_wrong_ones_are_refused_and_not_kept(config: DockerConfig, auth: Basic | Token) -> None:
    with Registry(auth=auth) as registry:
        with pytest.raises(PermissionDenied, match=r"login to 127.*: incorrect username or password"):
            login(registry.address, "ann", "wrong", config=config, hosts=Hosts(()))
    assert not config.path.exists()


def test_a_web_server_is_no_registry(config: DockerConfig) -> None:
    with Registry(faults=[Fault(".", Html(), count=None)]) as registry:
        with pytest.raises(Unavailable, match="answered with text/html: not a registry"):
            login(registry.address, "ann", "secret", config=config, hosts=Hosts(()))
    assert not config.path.exists()


def test_nobody_there(config: DockerConfig) -> None:
    with pytest.raises(Unavailable, match="connection refused"):
        login("127.0.0.1:1", "ann", "secret", config=config, hosts=Hosts(()))


@pytest.mark.parametrize(("user", "password"), [("", "x"), ("x", ""), ("a:b", "x"), ("a\nb", "x")])
def test_names_that_cannot_be_sent(config: DockerConfig, user: str, password: str) -> None:
    with pytest.raises(InvalidArgument):
        login("127.0.0.1:1", user, password, config=config)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("ghcr.io", "ghcr.io"),
        ("https://r.example:5000/v2/", "r.example:5000"),
        ("registry", "registry"),
        ("[::1]:5000", "[::1]:5000"),
    ],
)
def test_what_a_user_types_for_a_registry(text: str, name: str) -> None:
    assert server_name(text) == name


@pytest.mark.parametrize("text", ["a b", "-x", "https://u:p@x", "../x"])
def test_what_is_no_registry(text: str) -> None:
    with pytest.raises(InvalidArgument):
        server_name(text)
