"""Basic and token authentication against our own registry, and what a hostile challenge may not get."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.distribution.conftest import Image, Sink

from orlop.distribution.auth import refresh_form, token_url
from orlop.distribution.client import Registry as Client
from orlop.distribution.credentials import Credential
from orlop.registry.access import Basic, Token
from orlop.registry.faults import Fault, Garbage, Header, Html, Redirect, Status
from orlop.registry.server import Registry
from orlop.spec.errors import OrlopError, PermissionDenied, Unavailable
from orlop.spec.reference import Reference, parse_reference

USERS = {"ann": "secret"}
ANN = Credential("ann", "secret")
MakeClient = Callable[..., Client]


def named(registry: Registry) -> Reference:
    return parse_reference(f"{registry.address}/lib/app:1")


@pytest.mark.parametrize("auth", [Basic(USERS), Token(USERS)], ids=["basic", "token"])
def test_push_and_pull_with_credentials(make_client: MakeClient, image: Image, auth: Basic | Token) -> None:
    with Registry(auth=auth) as registry:
        client, reference = make_client(ANN), named(registry)
        image.push(client, reference)
        assert client.resolve(reference).raw == image.manifest
        sink = Sink()
        client.fetch_blob(reference, image.blob, sink)
        assert sink.data == image.layer
        for credential in (None, Credential("ann", "wrong")):
            with pytest.raises(PermissionDenied, match=r"pull access denied for .*may require `orlop login`"):
                make_client(credential).resolve(reference)
        with pytest.raises(PermissionDenied, match="push access denied for "):
            image.push(make_client(), reference)


def test_the_header_is_remembered(make_client: MakeClient, image: Image) -> None:
    with Registry(auth=Basic(USERS)) as registry:
        client, reference = make_client(ANN), named(registry)
        image.push(client, reference)
        registry.seen.clear()
        for _ in range(3):
            client.resolve(reference)
        # Pushing and pulling are different scopes: one more challenge.
        assert [seen.status for seen in registry.seen] == [401, 200, 200, 200]


def test_one_token_serves_many_fetches_at_once(make_client: MakeClient, image: Image) -> None:
    with Registry(auth=Token(USERS)) as registry:
        reference = named(registry)
        image.push(make_client(ANN), reference)
        registry.seen.clear()
        client = make_client(ANN)
        sinks = [Sink() for _ in range(6)]
        threads = [threading.Thread(target=client.fetch_blob, args=(reference, image.blob, s)) for s in sinks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(sink.data == image.layer for sink in sinks)
        assert sum(seen.target.startswith("/token") for seen in registry.seen) == 1


def test_a_token_that_ran_out_is_replaced(make_client: MakeClient, image: Image) -> None:
    auth = Token(USERS, lifetime=100)
    with Registry(auth=auth) as registry:
        client, reference = make_client(ANN), named(registry)
        image.push(client, reference)
        client.resolve(reference)
        auth._key = b"another"  # every token that was given is void now
        assert client.resolve(reference).raw == image.manifest


def test_a_refresh_token_needs_no_password(make_client: MakeClient, image: Image) -> None:
    with Registry(auth=Token(USERS)) as registry:
        reference = named(registry)
        login = make_client(ANN, offline=True)
        login.ping(registry.address)
        refresh = login.refresh_token(registry.address)
        assert refresh
        registry.seen.clear()
        client = make_client(Credential(identity_token=refresh))
        image.push(client, reference)
        assert client.resolve(reference).raw == image.manifest
        assert all(seen.method == "POST" for seen in registry.seen if seen.target.startswith("/token"))
        with pytest.raises(PermissionDenied):
            make_client(Credential(identity_token="made up")).resolve(reference)


def test_a_mount_asks_for_both_repositories(make_client: MakeClient, image: Image) -> None:
    with Registry(auth=Token(USERS)) as registry:
        client = make_client(ANN)
        image.push(client, named(registry))
        other = parse_reference(f"{registry.address}/other:1")
        assert client.push_blob(other, image.blob, lambda: io.BytesIO(b""), mount_from=("lib/app",)) == "mounted"


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault("GET /token", Html()), "the answer is not a token document"),
        (Fault("GET /token", Garbage(b'HTTP/1.0 200 OK\r\n\r\n{"token":""}')), "the answer holds no token"),
        (Fault("GET /token", Garbage(b'HTTP/1.0 200 OK\r\n\r\n{"token":"a\\r\\nx: y"}')), "characters that no token"),
        (Fault("GET /token", Garbage(b'HTTP/1.0 200 OK\r\n\r\n{"token":7}')), "not a token document"),
        (Fault("GET /token", Status(500)), "failed on a token: 500"),
        (Fault("GET /token", Garbage(b"HTTP/1.0 200 OK\r\n\r\n" + b" " * (2 << 20))), "more than the limit"),
        (Fault("/v2/", Header("www-authenticate", "Bearer")), "names no usable token server"),
        (Fault("/v2/", Header("www-authenticate", 'Bearer realm="file:///etc/shadow"')), "no usable token server"),
        (Fault("/v2/", Header("www-authenticate", 'Bearer realm="http://u:p@x/"')), "no usable token server"),
        (Fault("/v2/", Header("www-authenticate", 'Bearer realm="http://[x"')), "no usable token server"),
        (Fault("/v2/", Header("www-authenticate", "Digest realm=x")), "pull access denied"),
        (Fault("/v2/", Header("www-authenticate", "")), "pull access denied"),
    ],
    ids=lambda value: str(value)[-60:],
)
def test_bad_challenges_and_tokens_are_one_line(make_client: MakeClient, fault: Fault, text: str) -> None:
    with Registry(auth=Token(USERS), faults=[Fault(fault.where, fault.action, count=None)]) as registry:
        with pytest.raises(OrlopError) as caught:
            make_client(ANN).resolve(named(registry))
        assert text in str(caught.value)
        assert str(caught.value).isprintable()


def test_credentials_do_not_follow_a_redirect_to_another_host(make_client: MakeClient, image: Image) -> None:
    with Registry() as elsewhere, Registry(auth=Basic(USERS)) as registry:
        client = make_client(ANN)
        image.push(make_client(), named(elsewhere))
        image.push(client, named(registry))
        target = f"{elsewhere.url}/v2/lib/app/blobs/{image.blob.digest}"
        registry.faults.add(Fault("GET .*/blobs/", Redirect(target), skip=1))
        elsewhere.seen.clear()
        sink = Sink()
        client.fetch_blob(named(registry), image.blob, sink)
        assert sink.data == image.layer
        assert [("authorization" in seen.headers) for seen in elsewhere.seen] == [False]


def test_another_hosts_challenge_is_not_answered(make_client: MakeClient, image: Image) -> None:
    with Registry(auth=Token(USERS)) as elsewhere, Registry(auth=Basic(USERS)) as registry:
        client = make_client(ANN)
        image.push(client, named(registry))
        registry.faults.add(Fault("GET .*/blobs/", Redirect(f"{elsewhere.url}/v2/lib/app/blobs/x"), count=None))
        with pytest.raises(PermissionDenied):
            client.fetch_blob(named(registry), image.blob, Sink())
        assert all("authorization" not in seen.headers for seen in elsewhere.seen)
        assert not any(seen.target.startswith("/token") for seen in elsewhere.seen)


def test_credentials_stay_on_the_host_through_its_own_redirect(make_client: MakeClient, image: Image) -> None:
    with Registry(auth=Basic(USERS)) as registry:
        client = make_client(ANN)
        image.push(client, named(registry))
        client.resolve(named(registry))
        registry.faults.add(Fault("manifests/1", Redirect(f"/v2/lib/app/manifests/{image.descriptor.digest}")))
        assert client.resolve(named(registry)).raw == image.manifest


def test_the_url_and_the_form_of_a_token_request() -> None:
    url = token_url("https://a/token?x=1", "reg istry", ("repository:a/b:pull,push", "repository:c:pull"), "ann")
    assert parse_qs(urlsplit(url).query) == {
        "x": ["1"],
        "service": ["reg istry"],
        "scope": ["repository:a/b:pull,push", "repository:c:pull"],
        "account": ["ann"],
    }
    assert "+" not in url
    form = parse_qs(refresh_form("s", ("a", "b"), "tok").decode())
    assert form["scope"] == ["a b"]
    assert form["grant_type"] == ["refresh_token"]


def test_https_credentials_are_not_sent_to_a_plain_token_server() -> None:
    from orlop.distribution.auth import _checked_realm
    from orlop.distribution.hosts import Endpoint

    endpoint = Endpoint("https", "r.example")
    assert _checked_realm(endpoint, "https://auth.example/token")
    with pytest.raises(PermissionDenied, match=r"its token server auth\.example is not https"):
        _checked_realm(endpoint, "http://auth.example/token")
    with pytest.raises(Unavailable):
        _checked_realm(endpoint, "")
