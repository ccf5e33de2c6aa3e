"""The client against Debian's docker-registry, open and with htpasswd."""

from __future__ import annotations

import http.client
import io
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from tests.distribution.conftest import CONFIG, Image, Sink, describe
from tests.harness import free_port

from orlop.distribution.client import Registry as Client
from orlop.distribution.credentials import Credential, DockerConfig
from orlop.distribution.hosts import Hosts
from orlop.engine.images.login import login
from orlop.spec.errors import InvalidArgument, NotFound, PermissionDenied
from orlop.spec.image import DOCKER_CONFIG, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, OCI_INDEX, Index, Manifest
from orlop.spec.reference import Reference, parse_reference

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed"),
]
# bcrypt of "secret", cost 4
HTPASSWD = "ann:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n"
CONFIGURATION = """
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {directory}/data}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}
"""


def wait_until_it_answers(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
                connection.request("GET", "/v2/")
                connection.getresponse().close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("docker-registry did not start")


def run(directory: Path, auth: str = "") -> Iterator[str]:
    port = free_port()
    configuration = directory / "config.yml"
    configuration.write_text(CONFIGURATION.format(directory=directory, port=port, auth=auth))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", configuration], stdout=log, stderr=log)
        try:
            wait_until_it_answers(port, process)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(scope="module")
def open_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from run(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def locked_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("locked")
    (directory / "htpasswd").write_text(HTPASSWD)
    yield from run(directory, f"auth: {{htpasswd: {{realm: r, path: {directory}/htpasswd}}}}")


def named(address: str, path: str = "lib/app", tag: str = "1") -> Reference:
    return parse_reference(f"{address}/{path}:{tag}")


@pytest.mark.parametrize("chunk", [0, 100_000])
def test_there_and_back(open_registry: str, client: Client, image: Image, chunk: int) -> None:
    reference = named(open_registry, f"chunk{chunk}")
    client.push_blob(reference, image.blob, lambda: io.BytesIO(image.layer), chunk=chunk)
    image.push(client, reference)
    assert client.resolve(reference) == (image.descriptor, image.manifest)
    assert client.head(reference) == image.descriptor
    assert client.tags(reference) == ["1"]
    for start in (0, 1000):
        sink = Sink(image.layer[:start])
        client.fetch_blob(reference, image.blob, sink)
        assert sink.data == image.layer


def test_docker_schema_2_and_an_index(open_registry: str, client: Client, image: Image) -> None:
    reference = named(open_registry, "docker")
    image.push(client, reference)
    manifest = Manifest(
        schema_version=2,
        media_type=DOCKER_MANIFEST,
        config=describe(CONFIG, DOCKER_CONFIG),
        layers=(describe(image.layer, DOCKER_LAYER_GZIP),),
    )
    raw = msgspec.json.encode(manifest)
    assert client.push_manifest(named(open_registry, "docker", "v2"), raw, DOCKER_MANIFEST).digest
    index = msgspec.json.encode(
        Index(schema_version=2, media_type=OCI_INDEX, manifests=(image.descriptor, describe(raw, DOCKER_MANIFEST)))
    )
    client.push_manifest(named(open_registry, "docker", "all"), index, OCI_INDEX)
    assert client.resolve(named(open_registry, "docker", "all")).raw == index
    assert client.fetch_manifest(reference, describe(raw, DOCKER_MANIFEST)) == raw


def test_a_blob_is_mounted(open_registry: str, client: Client, image: Image) -> None:
    image.push(client, named(open_registry))
    mounted = client.push_blob(
        named(open_registry, "other"), image.blob, lambda: io.BytesIO(b""), mount_from=("lib/app",)
    )
    assert mounted == "mounted"


def test_what_is_not_there(open_registry: str, client: Client) -> None:
    with pytest.raises(NotFound, match=r"manifest .*/none:1 not found in registry .*: manifest unknown"):
        client.resolve(named(open_registry, "none"))
    with pytest.raises(NotFound, match="repository name not known"):
        client.tags(named(open_registry, "none"))
    blob = describe(b"right", DOCKER_LAYER_GZIP)
    with pytest.raises(InvalidArgument, match="digest did not match"):
        client.push_blob(named(open_registry), blob, lambda: io.BytesIO(b"wrong"))


def test_htpasswd(locked_registry: str, make_client: Callable[..., Client], image: Image, tmp_path: Path) -> None:
    reference = named(locked_registry)
    for credential in (None, Credential("ann", "wrong")):
        with pytest.raises(PermissionDenied, match=r"pull access denied for .*may require `orlop login`"):
            make_client(credential).resolve(reference)
    config = DockerConfig(tmp_path)
    with pytest.raises(PermissionDenied, match="incorrect username or password"):
        login(locked_registry, "ann", "wrong", config=config, hosts=Hosts(()))
    login(locked_registry, "ann", "secret", config=config, hosts=Hosts(()))
    client = make_client(credentials=config)
    image.push(client, reference)
    assert client.resolve(reference).raw == image.manifest
