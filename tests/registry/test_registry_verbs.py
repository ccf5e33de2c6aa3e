"""The distribution-spec's end points, spoken to in plain HTTP."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.registry.server import Registry
from orlop.registry.storage import DirectoryStorage, MemoryStorage
from orlop.registry.verbs import requested_range
from orlop.spec.digest import Digest
from orlop.spec.image import OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_LAYER, OCI_MANIFEST

BLOB = b"0123456789" * 10
DIGEST = Digest.of(BLOB)


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return self.json["errors"][0]["code"]


class Caller:
    def __init__(self, registry: Registry) -> None:
        self.connection = http.client.HTTPConnection(registry.address, timeout=10)

    def __call__(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body=body, headers=sent)
        return Answer(self.connection.getresponse())

    def push(self, name: str, data: bytes) -> Digest:
        digest = Digest.of(data)
        location = self("POST", f"/v2/{name}/blobs/uploads/").headers["Location"]
        assert self("PUT", f"{location}?digest={digest}", data).status == 201
        return digest


@pytest.fixture(params=["memory", "directory"])
def call(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Caller]:
    storage = MemoryStorage() if request.param == "memory" else DirectoryStorage(tmp_path)
    with Registry(storage) as registry:
        caller = Caller(registry)
        yield caller
        caller.connection.close()


def descriptor(data: bytes, media_type: str) -> dict:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}


def image(call: Caller, name: str, **more: object) -> bytes:
    """Push config and layer; the manifest's bytes."""
    call.push(name, b"{}")
    call.push(name, BLOB)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(b"{}", OCI_CONFIG),
        "layers": [descriptor(BLOB, OCI_LAYER)],
    }
    return json.dumps(manifest | more).encode()


def test_the_base_says_which_protocol_is_spoken(call: Caller) -> None:
    answer = call("GET", "/v2/")
    assert (answer.status, answer.body) == (200, b"{}")
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


def test_whole_upload_in_one_post(call: Caller) -> None:
    answer = call("POST", f"/v2/a/blobs/uploads/?digest={DIGEST}", BLOB)
    assert answer.status == 201
    assert call("GET", answer.headers["Location"]).body == BLOB


def test_chunked_upload_continues_where_it_stands(call: Caller) -> None:
    location = call("POST", "/v2/a/b/blobs/uploads/").headers["Location"]
    first = call("PATCH", location, BLOB[:40], Content_Range="0-39")
    assert (first.status, first.headers["Range"]) == (202, "0-39")
    assert call("PATCH", location, BLOB[50:], Content_Range="50-99").status == 416
    status = call("GET", location)
    assert (status.status, status.headers["Range"]) == (204, "0-39")
    assert call("PATCH", location, BLOB[40:90], Content_Range="40-89").status == 202
    assert call("PUT", f"{location}?digest={DIGEST}", BLOB[90:], Content_Range="90-99").status == 201
    assert call("GET", f"/v2/a/b/blobs/{DIGEST}").body == BLOB
    assert call("GET", location).code == "BLOB_UPLOAD_UNKNOWN"


def test_transfer_coding_chunked_is_read(call: Caller) -> None:
    location = call("POST", "/v2/a/blobs/uploads/").headers["Location"]
    assert call("PATCH", location, iter([BLOB[:7], BLOB[7:]])).status == 202
    assert call("PUT", f"{location}?digest={DIGEST}").status == 201


def test_an_upload_can_be_cancelled(call: Caller) -> None:
    location = call("POST", "/v2/a/blobs/uploads/").headers["Location"]
    assert call("DELETE", location).status == 204
    assert call("PUT", f"{location}?digest={DIGEST}", BLOB).status == 404


def test_content_with_the_wrong_digest_is_refused(call: Caller) -> None:
    answer = call("POST", f"/v2/a/blobs/uploads/?digest={DIGEST}", b"something else")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert call("HEAD", f"/v2/a/blobs/{DIGEST}").status == 404


def test_blobs_are_seen_only_where_they_were_pushed_or_mounted(call: Caller) -> None:
    call.push("a", BLOB)
    assert call("GET", f"/v2/b/blobs/{DIGEST}").status == 404
    assert call("POST", f"/v2/b/blobs/uploads/?mount={DIGEST}&from=none").status == 202
    mounted = call("POST", f"/v2/b/blobs/uploads/?mount={DIGEST}&from=a")
    assert (mounted.status, mounted.headers["Location"]) == (201, f"/v2/b/blobs/{DIGEST}")
    assert call("GET", f"/v2/b/blobs/{DIGEST}").body == BLOB


def test_parts_of_a_blob(call: Caller) -> None:
    call.push("a", BLOB)
    part = call("GET", f"/v2/a/blobs/{DIGEST}", Range="bytes=95-")
    assert (part.status, part.body, part.headers["Content-Range"]) == (206, b"56789", "bytes 95-99/100")
    assert call("GET", f"/v2/a/blobs/{DIGEST}", Range="bytes=3-5").body == b"345"
    assert call("GET", f"/v2/a/blobs/{DIGEST}", Range="bytes=100-").status == 416
    assert call("GET", f"/v2/a/blobs/{DIGEST}", Range="lines=1-2").body == BLOB
    head = call("HEAD", f"/v2/a/blobs/{DIGEST}")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, "100", b"")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-", (0, 9)),
        ("bytes=-3", (7, 9)),
        ("bytes=-30", (0, 9)),
        ("bytes=2-100", (2, 9)),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("", None),
    ],
)
def test_range_headers(header: str, expected: tuple[int, int] | None) -> None:
    assert requested_range(header, 10) == expected


def test_manifests_come_back_byte_for_byte_by_tag_and_digest(call: Caller) -> None:
    raw = image(call, "a/b")
    put = call("PUT", "/v2/a/b/manifests/v1", raw, Content_Type=OCI_MANIFEST)
    assert (put.status, put.headers["Docker-Content-Digest"]) == (201, Digest.of(raw))
    for reference in ("v1", Digest.of(raw)):
        answer = call("GET", f"/v2/a/b/manifests/{reference}")
        assert (answer.body, answer.headers["Content-Type"]) == (raw, OCI_MANIFEST)
        assert call("HEAD", f"/v2/a/b/manifests/{reference}").headers["Content-Length"] == str(len(raw))
    assert call("PUT", f"/v2/a/b/manifests/{DIGEST}", raw, Content_Type=OCI_MANIFEST).code == "DIGEST_INVALID"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"no json", "MANIFEST_INVALID"),
        (b'{"schemaVersion":2}', "MANIFEST_INVALID"),
        (
            json.dumps(
                {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(b"?", OCI_CONFIG), "layers": []}
            ).encode(),
            "MANIFEST_BLOB_UNKNOWN",
        ),
    ],
)
def test_manifests_that_could_not_be_pulled_are_refused(call: Caller, raw: bytes, code: str) -> None:
    assert call("PUT", "/v2/a/manifests/x", raw, Content_Type=OCI_MANIFEST).code == code


def test_an_index_needs_its_manifests(call: Caller) -> None:
    raw = image(call, "a")
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor(raw, OCI_MANIFEST)]})
    assert call("PUT", "/v2/a/manifests/x", index, Content_Type=OCI_INDEX).code == "MANIFEST_BLOB_UNKNOWN"
    call("PUT", f"/v2/a/manifests/{Digest.of(raw)}", raw, Content_Type=OCI_MANIFEST)
    assert call("PUT", "/v2/a/manifests/x", index, Content_Type=OCI_INDEX).status == 201


def test_tags_come_in_pages(call: Caller) -> None:
    raw = image(call, "a")
    for tag in ("b", "a", "d", "c"):
        call("PUT", f"/v2/a/manifests/{tag}", raw, Content_Type=OCI_MANIFEST)
    assert call("GET", "/v2/a/tags/list").json == {"name": "a", "tags": ["a", "b", "c", "d"]}
    page = call("GET", "/v2/a/tags/list?n=3")
    assert page.json["tags"] == ["a", "b", "c"]
    following = page.headers["Link"].partition(">")[0].lstrip("<")
    last = call("GET", following)
    assert (last.json["tags"], last.headers["Link"]) == (["d"], None)
    assert call("GET", "/v2/a/tags/list?n=x").code == "PAGINATION_NUMBER_INVALID"
    assert call("GET", "/v2/none/tags/list").code == "NAME_UNKNOWN"


def test_referrers_are_found_by_subject_and_kind(call: Caller) -> None:
    raw = image(call, "a")
    subject = descriptor(raw, OCI_MANIFEST)
    call.push("a", b"{}")
    artifact = image(call, "a", subject=subject, artifactType="example/sbom", annotations={"k": "v"})
    # The subject need not be there yet.
    put = call("PUT", f"/v2/a/manifests/{Digest.of(artifact)}", artifact, Content_Type=OCI_MANIFEST)
    assert put.headers["OCI-Subject"] == Digest.of(raw)
    listed = call("GET", f"/v2/a/referrers/{Digest.of(raw)}")
    assert listed.headers["Content-Type"] == OCI_INDEX
    expected = descriptor(artifact, OCI_MANIFEST) | {"artifactType": "example/sbom", "annotations": {"k": "v"}}
    assert listed.json["manifests"] == [expected]
    other = call("GET", f"/v2/a/referrers/{Digest.of(raw)}?artifactType=other/kind")
    assert (other.json["manifests"], other.headers["OCI-Filters-Applied"]) == ([], "artifactType")
    call("DELETE", f"/v2/a/manifests/{Digest.of(artifact)}")
    assert call("GET", f"/v2/a/referrers/{Digest.of(raw)}").json["manifests"] == []


def test_a_referrer_without_a_kind_has_its_configs(call: Caller) -> None:
    raw = image(call, "a")
    artifact = image(call, "a", subject=descriptor(raw, OCI_MANIFEST), config=descriptor(b"{}", OCI_EMPTY))
    call("PUT", "/v2/a/manifests/s", artifact, Content_Type=OCI_MANIFEST)
    assert call("GET", f"/v2/a/referrers/{Digest.of(raw)}").json["manifests"][0]["artifactType"] == OCI_EMPTY


def test_deleting_a_tag_leaves_the_manifest_and_deleting_the_manifest_leaves_no_tag(call: Caller) -> None:
    raw = image(call, "a")
    for tag in ("x", "y"):
        call("PUT", f"/v2/a/manifests/{tag}", raw, Content_Type=OCI_MANIFEST)
    assert call("DELETE", "/v2/a/manifests/x").status == 202
    assert call("GET", "/v2/a/manifests/x").code == "MANIFEST_UNKNOWN"
    assert call("GET", "/v2/a/manifests/y").status == 200
    assert call("DELETE", f"/v2/a/manifests/{Digest.of(raw)}").status == 202
    assert call("GET", "/v2/a/manifests/y").status == 404
    assert call("DELETE", f"/v2/a/blobs/{DIGEST}").status == 202
    assert call("DELETE", f"/v2/a/blobs/{DIGEST}").status == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/../../etc/passwd", 400),
        ("GET", "/v2/a/../b/tags/list", 400),
        ("GET", "/v2/UPPER/tags/list", 400),
        ("GET", "/v2/a/manifests/%2e%2e%2fx", 400),
        ("GET", "/v2/a/blobs/sha256:..", 400),
        ("GET", f"/v2/{'a' * 256}/tags/list", 400),
        ("POST", "/v2/a/tags/list", 405),
        ("GET", "/", 400),
    ],
)
def test_paths_that_are_none(call: Caller, method: str, path: str, status: int) -> None:
    answer = call(method, path)
    assert answer.status == status
    assert answer.code


def test_a_manifest_beyond_the_limit_is_refused(call: Caller) -> None:
    assert call("PUT", "/v2/a/manifests/x", b" " * (4 << 20) + b"{}", Content_Type=OCI_MANIFEST).status == 413


def test_leaving_the_block_breaks_open_connections_and_drops_uploads(tmp_path: Path) -> None:
    with Registry(DirectoryStorage(tmp_path)) as registry:
        call = Caller(registry)
        assert call("POST", "/v2/a/blobs/uploads/").status == 202
    with pytest.raises((OSError, http.client.HTTPException)):
        call("GET", "/v2/")
    assert list((tmp_path / "uploads").iterdir()) == []
