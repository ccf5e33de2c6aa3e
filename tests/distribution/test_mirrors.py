"""hosts.toml at work: mirrors in order, what they may do, TLS with our own CA and client certificates."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.distribution.conftest import Image, Sink

from orlop.distribution.client import Registry as Client
from orlop.registry.faults import Corrupt, Cut, Fault, Status
from orlop.registry.server import Registry
from orlop.spec.errors import FailedPrecondition, NotFound, Unavailable
from orlop.spec.reference import Reference, parse_reference

MakeClient = Callable[..., Client]
NAME = "registry.example"


def hosts_toml(certs: Path, text: str, name: str = NAME) -> None:
    (certs / name).mkdir(parents=True, exist_ok=True)
    (certs / name / "hosts.toml").write_text(text)


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    return tmp_path / "certs.d"


@pytest.fixture
def mirrored(registry: Registry, reference: Reference, certs: Path) -> Reference:
    """A registry under another name, whose server is `registry`, with two mirrors before it."""
    return parse_reference(f"{NAME}/lib/app:1")


def test_the_first_mirror_that_can_answers(
    registry: Registry, mirrored: Reference, certs: Path, make_client: MakeClient, image: Image
) -> None:
    with Registry() as empty, Registry() as full:
        image.push(make_client(), parse_reference(f"{full.address}/lib/app:1"))
        full.seen.clear()
        hosts_toml(
            certs,
            f'server = "{registry.url}"\n[host."http://127.0.0.1:1"]\n[host."{empty.url}"]\n[host."{full.url}"]\n',
        )
        client = make_client(certs=certs)
        assert client.resolve(mirrored).raw == image.manifest
        sink = Sink()
        client.fetch_blob(mirrored, image.blob, sink)
        assert sink.data == image.layer
        assert [seen.status for seen in empty.seen] == [404, 404]
        assert all("ns=registry.example" in seen.target for seen in full.seen)
        assert not registry.seen


def test_a_mirror_that_breaks_off_is_continued_elsewhere(
    registry: Registry, mirrored: Reference, certs: Path, make_client: MakeClient, image: Image
) -> None:
    with Registry(faults=[Fault("GET .*/blobs/", Cut(1000), count=None)]) as broken:
        image.push(make_client(), parse_reference(f"{broken.address}/lib/app:1"))
        hosts_toml(certs, f'server = "{registry.url}"\n[host."{broken.url}"]')
        sink = Sink()
        make_client(certs=certs).fetch_blob(mirrored, image.blob, sink)
        assert sink.data == image.layer
        assert registry.seen[0].headers["range"] == "bytes=4000-"


def test_a_mirror_that_lies_is_passed_over(
    registry: Registry, mirrored: Reference, certs: Path, make_client: MakeClient, image: Image
) -> None:
    with Registry(faults=[Fault("manifests/", Corrupt(), count=None, skip=1)]) as liar:
        image.push(make_client(), parse_reference(f"{liar.address}/lib/app:1"))
        hosts_toml(certs, f'server = "{registry.url}"\n[host."{liar.url}"]')
        assert make_client(certs=certs).resolve(mirrored).raw == image.manifest


def test_a_mirror_is_asked_only_for_what_it_may(
    registry: Registry, mirrored: Reference, certs: Path, make_client: MakeClient, image: Image
) -> None:
    with Registry() as mirror:
        hosts_toml(certs, f'server = "{registry.url}"\n[host."{mirror.url}"]\ncapabilities = ["pull"]')
        client = make_client(certs=certs)
        image.push(client, mirrored)
        client.resolve(mirrored)
        client.tags(mirrored)
        assert not mirror.seen
        client.fetch_blob(mirrored, image.blob, Sink())
        assert len(mirror.seen) == 1


def test_the_error_shown_is_the_servers(
    registry: Registry, certs: Path, make_client: MakeClient, mirrored: Reference
) -> None:
    with Registry(faults=[Fault(".", Status(500), count=None)]) as mirror:
        hosts_toml(certs, f'server = "{registry.url}"\n[host."{mirror.url}"]')
        with pytest.raises(NotFound, match=f"not found in registry {registry.address}"):
            make_client(certs=certs).resolve(parse_reference(f"{NAME}/none:1"))


def test_nobody_may_push(registry: Registry, certs: Path, make_client: MakeClient, image: Image) -> None:
    hosts_toml(certs, f'server = "{registry.url}"\ncapabilities = ["pull", "resolve"]')
    with pytest.raises(FailedPrecondition, match=r"registry registry\.example: no host .*may push"):
        image.push(make_client(certs=certs), parse_reference(f"{NAME}/lib/app:1"))


def test_headers_of_the_file_are_sent(
    registry: Registry, mirrored: Reference, certs: Path, make_client: MakeClient
) -> None:
    hosts_toml(certs, f'[host."{registry.url}"]\n[host."{registry.url}".header]\nx-key = "k"')
    make_client(certs=certs).resolve(mirrored)
    assert registry.seen[0].headers["x-key"] == "k"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return cert, key


def test_https_is_spoken_where_it_is_spoken(
    certificate: tuple[Path, Path], make_client: MakeClient, image: Image
) -> None:
    with Registry(tls=certificate) as registry:
        named = parse_reference(f"{registry.address}/lib/app:1")
        client = make_client()
        image.push(client, named)
        assert client.resolve(named).raw == image.manifest


def test_an_unknown_certificate_is_refused_and_a_known_ca_is_not(
    certificate: tuple[Path, Path], make_client: MakeClient, image: Image, certs: Path
) -> None:
    with Registry(tls=certificate) as registry:
        image.push(make_client(), parse_reference(f"{registry.address}/lib/app:1"))
        # With a scheme in hosts.toml even loopback has to be verified.
        hosts_toml(certs, f'server = "{registry.url}"')
        named = parse_reference(f"{NAME}/lib/app:1")
        with pytest.raises(Unavailable, match=r"certificate not trusted: .*; put its CA into /etc/orlop/certs\.d/"):
            make_client(certs=certs).resolve(named)
        hosts_toml(certs, f'server = "{registry.url}"\nca = "{certificate[0]}"')
        assert make_client(certs=certs).resolve(named).raw == image.manifest
        hosts_toml(certs, f'server = "{registry.url}"\nskip_verify = true')
        assert make_client(certs=certs).resolve(named).raw == image.manifest
        hosts_toml(certs, f'server = "{registry.url}"\nca = "/no/such.pem"')
        with pytest.raises(FailedPrecondition, match=r"cannot load certificates from /no/such\.pem"):
            make_client(certs=certs).resolve(named)


def test_plain_http_is_not_fallen_back_to_where_https_was_asked(
    registry: Registry, reference: Reference, certs: Path, make_client: MakeClient
) -> None:
    hosts_toml(certs, f'server = "https://{registry.address}"')
    with pytest.raises(Unavailable, match="no TLS"):
        make_client(certs=certs).resolve(parse_reference(f"{NAME}/lib/app:1"))
