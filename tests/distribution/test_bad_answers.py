"""A registry that answers badly: one line, of the right kind, whatever it says."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from tests.distribution.conftest import Image, Sink

from orlop.distribution.client import Registry as Client
from orlop.distribution.errors import Interrupted, Throttled
from orlop.registry.faults import (
    Action,
    Corrupt,
    Cut,
    FalseLength,
    Fault,
    Garbage,
    Hang,
    Header,
    Html,
    Redirect,
    Status,
    WrongDigest,
    WrongLength,
)
from orlop.registry.server import Registry
from orlop.spec.errors import (
    DataLoss,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    OrlopError,
    PermissionDenied,
    Unavailable,
)
from orlop.spec.reference import Reference, parse_reference

ANSWERS: list[tuple[Action, type[OrlopError], str]] = [
    (
        Status(401),
        PermissionDenied,
        "pull access denied for HOST/lib/app, repository does not exist or may require `orlop login`: "
        "authentication required",
    ),
    (Status(403), PermissionDenied, "pull access denied for HOST/lib/app by registry HOST: requested access to"),
    (Status(404), NotFound, "manifest HOST/lib/app:1 not found in registry HOST: blob unknown"),
    (Status(404, "x\n\x1b[31mred.\u202e"), NotFound, r"not found in registry HOST: x\n\x1b[31mred.\u202e"),
    (Status(404, "y" * 5000), NotFound, "y" * 200 + "..."),
    (Status(429), Throttled, "registry HOST limits the rate of requests: too many requests"),
    (Status(429, retry_after="3600"), Throttled, "registry HOST limits the rate of requests, asks to wait 3600 s"),
    (Status(500), Unavailable, "registry HOST failed on manifest HOST/lib/app:1: 500 Internal Server Error: unknown"),
    (Status(503), Unavailable, "503 Service Unavailable"),
    (Status(418), InvalidArgument, "registry HOST refuses manifest HOST/lib/app:1: 418 I'm a Teapot"),
    (Html(), Unavailable, "HOST answered with text/html: not a registry, or something stands between"),
    (Html(404), NotFound, "not found in registry HOST: a web page, not a registry's answer"),
    (Html(502), Unavailable, "502 Bad Gateway: a web page"),
    (Garbage(b""), Interrupted, "registry HOST: the connection broke"),
    (Garbage(), Interrupted, "registry HOST: the connection broke"),
    (Garbage(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000 + b"\r\n\r\n"), Interrupted, "the connection broke"),
    (Garbage(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000 + b"\r\n"), Interrupted, "the connection broke"),
    (Hang(5), DeadlineExceeded, "registry HOST: no answer in time"),
    (Cut(10), Interrupted, "registry HOST: the connection broke"),
    (FalseLength(10), Interrupted, "registry HOST: the connection broke"),
    (WrongDigest(), DataLoss, "the registry calls it sha256:000"),
    (WrongDigest("nonsense\x07"), DataLoss, r"the registry calls it 'nonsense"),
    (Corrupt(), DataLoss, "the registry calls it sha256:"),
    (Header("content-type", "text/csv"), Unavailable, "HOST answered with text/csv: not a registry"),
    (Header("content-type", "application/vnd.oci.image.index.v1+json"), InvalidArgument, "$.mediaType says"),
    (Redirect("file:///etc/passwd"), Unavailable, "redirect to 'file:///etc/passwd'"),
    (Redirect("http://[x"), Unavailable, "redirect to 'http://[x'"),
    (Redirect("http://x:99999/"), Unavailable, "redirect to 'http://x:99999/'"),
    (Redirect("/v2/lib/app/manifests/1"), Unavailable, "more than 10 redirects"),
    (WrongLength(5 << 20), Unavailable, "sends more than the limit of 4194304 bytes"),
]


@pytest.mark.parametrize(("action", "kind", "text"), ANSWERS, ids=lambda value: str(value)[:40])
def test_pull_says_in_one_line_what_is_wrong(
    registry: Registry, client: Client, reference: Reference, action: Action, kind: type[OrlopError], text: str
) -> None:
    registry.faults.add(Fault(r"manifests/", action, count=None))
    with pytest.raises(kind) as caught:
        client.resolve(reference)
    message = str(caught.value)
    assert text.replace("HOST", registry.address) in message
    assert message.isprintable()
    assert len(message) < 500
    assert not message.endswith(".") or message.endswith("...")


def test_nobody_listens(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unavailable, match=f"registry 127.0.0.1:{port}: connection refused"):
        client.resolve(parse_reference(f"127.0.0.1:{port}/x:1"))


def test_a_listener_that_says_nothing(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(DeadlineExceeded, match=f"registry 127.0.0.1:{port}: no answer in time"):
            client.resolve(parse_reference(f"127.0.0.1:{port}/x:1"))


def test_a_name_that_resolves_to_nothing(client: Client) -> None:
    with pytest.raises(Unavailable, match=r"registry nowhere\.invalid: cannot resolve the host name"):
        client.resolve(parse_reference("nowhere.invalid/x:1"))


@pytest.mark.parametrize("action", [Status(500), Status(429), Garbage(b""), Cut(3)], ids=str)
def test_what_passes_is_tried_again(
    registry: Registry, client: Client, reference: Reference, image: Image, action: Action
) -> None:
    registry.faults.add(Fault(r"manifests/|blobs/", action, count=2))
    if isinstance(action, Cut):
        sink = Sink()
        client.fetch_blob(reference, image.blob, sink)
        assert sink.data == image.layer
    else:
        assert client.resolve(reference).raw == image.manifest


@pytest.mark.parametrize("action", [Status(401), Status(404), Status(400), Html()], ids=str)
def test_what_stays_is_not_asked_again(
    registry: Registry, client: Client, reference: Reference, action: Action
) -> None:
    registry.faults.add(Fault(r"manifests/", action, count=None))
    with pytest.raises(OrlopError):
        client.resolve(reference)
    assert len(registry.seen) == 1


def test_a_short_retry_after_is_waited_for(
    registry: Registry, reference: Reference, make_client: Callable[..., Client]
) -> None:
    from orlop.distribution.session import Retry

    slept: list[float] = []
    client = make_client(retry=Retry(sleep=slept.append))
    registry.faults.add(Fault(r"manifests/", Status(429, retry_after="7")))
    client.resolve(reference)
    assert slept == [7]
