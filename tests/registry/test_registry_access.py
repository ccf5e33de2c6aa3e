"""Basic and token access, and the rules of faults."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.parse

import pytest

from orlop.distribution.challenge import parse_challenges
from orlop.registry.access import Basic, Token
from orlop.registry.faults import Cut, Fault, Faults, Html, Status, WrongLength
from orlop.registry.messages import Reply
from orlop.registry.server import Registry

USERS = {"ann": "secret"}


def call(
    registry: Registry, method: str, path: str, body: str | None = None, **headers: str
) -> tuple[int, dict, bytes]:
    connection = http.client.HTTPConnection(registry.address, timeout=10)
    try:
        connection.request(method, path, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()})
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (basic("ann", "secret"), 200),
        (basic("ann", "wrong"), 401),
        (basic("bob", ""), 401),
        ("Basic !!!", 401),
        ("Bearer x.y", 401),
        ("", 401),
    ],
)
def test_basic(header: str, status: int) -> None:
    with Registry(auth=Basic(USERS)) as registry:
        got, headers, _ = call(registry, "GET", "/v2/", Authorization=header)
        assert got == status
        if status == 401:
            assert headers["www-authenticate"] == 'Basic realm="orlop registry"'


def token(registry: Registry, scope: str, **headers: str) -> tuple[int, dict]:
    status, _, body = call(registry, "GET", f"/token?service=s&scope={scope}", **headers)
    return status, json.loads(body)


def test_a_token_opens_what_its_scope_says() -> None:
    with Registry(auth=Token(USERS)) as registry:
        status, headers, _ = call(registry, "GET", "/v2/a/b/tags/list")
        challenge = parse_challenges(headers["www-authenticate"])[0]
        assert (status, challenge.scheme, challenge.scopes) == (401, "bearer", ("repository:a/b:pull",))
        assert challenge.realm == f"http://{registry.address}/token"
        assert token(registry, "repository:a/b:pull", Authorization=basic("ann", "wrong"))[0] == 401
        _, nothing = token(registry, "repository:a/b:pull")
        bearer = f"Bearer {nothing['token']}"
        assert call(registry, "GET", "/v2/a/b/tags/list", Authorization=bearer)[0] == 401
        _, granted = token(registry, "repository:a/b:pull", Authorization=basic("ann", "secret"))
        bearer = f"Bearer {granted['token']}"
        assert call(registry, "GET", "/v2/a/b/tags/list", Authorization=bearer)[0] == 404
        assert call(registry, "POST", "/v2/a/b/blobs/uploads/", Authorization=bearer)[0] == 401
        assert call(registry, "GET", "/v2/other/tags/list", Authorization=bearer)[0] == 401
        assert call(registry, "GET", "/v2/", Authorization=bearer)[0] == 200


def test_nobody_may_pull_where_that_is_allowed() -> None:
    with Registry(auth=Token(USERS, anonymous_pull=True)) as registry:
        bearer = f"Bearer {token(registry, 'repository:a:pull,push')[1]['token']}"
        assert call(registry, "GET", "/v2/a/tags/list", Authorization=bearer)[0] == 404
        assert call(registry, "POST", "/v2/a/blobs/uploads/", Authorization=bearer)[0] == 401


def test_a_refresh_token_stands_for_the_password_and_runs_out() -> None:
    with Registry(auth=Token(USERS, lifetime=0)) as registry:
        form = {"grant_type": "password", "username": "ann", "password": "secret", "access_type": "offline"}
        _, _, body = call(registry, "POST", "/token", urllib.parse.urlencode(form))
        refresh = json.loads(body)["refresh_token"]
        form = {"grant_type": "refresh_token", "refresh_token": refresh, "scope": "repository:a:pull"}
        status, _, body = call(registry, "POST", "/token", urllib.parse.urlencode(form))
        assert status == 200
        expired = f"Bearer {json.loads(body)['token']}"
        assert call(registry, "GET", "/v2/a/tags/list", Authorization=expired)[0] == 401
        form["refresh_token"] = refresh + "x"
        assert call(registry, "POST", "/token", urllib.parse.urlencode(form))[0] == 401


def test_a_fault_strikes_where_and_as_often_as_it_is_told() -> None:
    faults = Faults([Fault(r"GET .*/blobs/", Status(500), count=2, skip=1), Fault("HEAD", Html(), count=None)])
    fine = Reply(200, {}, b"body")
    statuses = [faults.change("GET /v2/a/blobs/x", fine).status for _ in range(4)]
    assert statuses == [200, 500, 500, 200]
    assert faults.change("GET /v2/a/manifests/x", fine) == fine
    assert all(b"<html>" in faults.change("HEAD /", fine).body for _ in range(3))
    faults.clear()
    assert faults.change("HEAD /", fine) == fine


def test_faults_add_up() -> None:
    faults = Faults([Fault(".", WrongLength(-1)), Fault(".", Cut(2))])
    assert faults.change("GET /", Reply(200, {}, b"body")) == Reply(200, {}, b"bod", cut=2)
