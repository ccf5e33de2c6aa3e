"""The end points of the distribution-spec: a table of routes, one function each, from `Request` to `Reply`."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

import msgspec

from orlop.registry.messages import Content, Refused, Reply, Request, json_reply
from orlop.registry.repository import Repositories, digest_or_refuse
from orlop.registry.storage import Upload
from orlop.spec.image import MAX_DOCUMENT, OCI_INDEX

_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
NAME = rf"(?P<name>{_PART}(?:/{_PART})*)"
_CHUNK = 1 << 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?(\d+)-(\d+)(?:/.*)?")

Verb = Callable[[Repositories, Request, re.Match[str]], Reply]


class Route(msgspec.Struct, frozen=True):
    """Method and path of an end point, and what the caller must be allowed to do in the repository."""

    method: str
    pattern: re.Pattern[str]
    action: str
    verb: Verb


def base(_: Repositories, request: Request, match: re.Match[str]) -> Reply:
    return json_reply(200, {})


def get_manifest(repositories: Repositories, request: Request, match: re.Match[str]) -> Reply:
    stored = repositories.manifest(match["name"], match["reference"])
    headers = {"content-type": stored.media_type, "docker-content-digest": stored.digest, "etag": f'"{stored.digest}"'}
    return Reply(200, headers, stored.raw)


def put_manifest(repositories: Repositories, request: Request, match: re.Match[str]) -> Reply:
    raw = _whole(request)
    media_type = request.header("content-type").partition(";")[0].strip()
    digest, subject = repositories.put_manifest(match["name"], match["reference"], raw, media_type)
    headers = {"location": f"/v2/{match['name']}/manifests/{digest}", "docker-content-digest": digest}
    return Reply(201, headers | ({"oci-subject": subject} if subject else {}))


def delete_manifest(repositories: Repositories, request: Request, match: re.Match[str]) -> Reply:
    repositories.delete_manifest(match["name"], match["reference"])
    return Reply(202)


def get_blob(repositories: Repositories, request: Request, match: re.Match[str]) -> Reply:
    digest = digest_or_refuse(match["digest"])
    size = repositories.blob_size(match["name"], digest)
    content = None if size is None else repositories.storage.open(digest)
    if size is None or content is None:
        raise Refused("BLOB_UNKNOWN", digest)
    headers = {
        "content-type": "application/octet-stream",
        "docker-content-digest": digest,
        "etag": f'"{digest}"',
        "accept-ranges": "bytes",
    }
    part = requested_range(request.header("range"), size)
    if part is None:
        return Reply(200, headers, Content(content, 0, size))
    first, last = part
    if first >= size:
        content.close()
        return Reply(416, {"content-range": f"bytes */{size}"})
    return Reply(
        206, headers | {"content-range": f"bytes {first}-{last}/{size}"}, Content(content, first, last - first + 1)
    )


def requested_range(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte that a Range header asks for (RFC 9110, 14.1.2), or None for the whole."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or match[0] == "bytes=-":
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size - 1
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    return (first, last) if last >= first or first >= size else None


def delete_blob(repositories: Repositories, request: Request, match: re.Match[str]) -> Reply:
    repositories.delete_blob(match["name"], digest_or_refuse(match["digest"]))
    return Reply(202)


def begin_upload(repositories: Repositories, request: Request, match: re.Match[str]) -> Reply:
    """A mount, a whole blob in one request, or the start of a chunked upload; a failed mount becomes the last."""
    name = match["name"]
    if mount := request.parameter("mount"):
        digest = digest_or_refuse(mount)
        if repositories.mount(name, digest, request.parameter("from")):
            return _created(name, digest)
    key = repositories.begin(name)
    if whole := request.parameter("digest"):
        return _complete(repositories, request, name, key, whole)
    return _progress(name, key, 0, 202)


def upload_status(repositories: Repositories, request: Request, match: re.Match[str]) -> Reply:
    upload = repositories.upload(match["name"], match["key"])
    return _progress(match["name"], match["key"], upload.offset, 204)


def upload_chunk(repositories: Repositories, request: Request, match: re.Match[str]) -> Reply:
    upload = repositories.upload(match["name"], match["key"])
    _receive(request, upload)
    return _progress(match["name"], match["key"], upload.offset, 202)


def finish_upload(repositories: Repositories, request: Request, match: re.Match[str]) -> Reply:
    return _complete(repositories, request, match["name"], match["key"], request.parameter("digest"))


def cancel_upload(repositories: Repositories, request: Request, match: re.Match[str]) -> Reply:
    repositories.cancel(match["name"], match["key"])
    return Reply(204)


def _complete(repositories: Repositories, request: Request, name: str, key: str, text: str) -> Reply:
    digest = digest_or_refuse(text)
    _receive(request, repositories.upload(name, key))
    repositories.finish(name, key, digest)
    return _created(name, digest)


def _created(name: str, digest: str) -> Reply:
    return Reply(201, {"location": f"/v2/{name}/blobs/{digest}", "docker-content-digest": digest})


def _progress(name: str, key: str, offset: int, status: int) -> Reply:
    # "0-0" also for an empty upload: that is what Docker's registry says and clients expect.
    headers = {
        "location": f"/v2/{name}/blobs/uploads/{key}",
        "range": f"0-{max(0, offset - 1)}",
        "docker-upload-uuid": key,
        "oci-chunk-min-length": "0",
    }
    return Reply(status, headers)


def _receive(request: Request, upload: Upload) -> None:
    """Append the body; a Content-Range must continue where the upload stands."""
    if given := request.header("content-range"):
        match = _CONTENT_RANGE.fullmatch(given.strip())
        if match is None or int(match[1]) != upload.offset:
            raise Refused("RANGE_INVALID", given[:80])
        if request.length is not None and int(match[2]) - int(match[1]) + 1 != request.length:
            raise Refused("SIZE_INVALID", given[:80])
    while data := request.read(_CHUNK):
        upload.write(data)


def _whole(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    while data := request.read(_CHUNK):
        parts.append(data)
        size += len(data)
        if size > MAX_DOCUMENT:
            raise Refused("SIZE_INVALID", f"a manifest has at most {MAX_DOCUMENT} bytes")
    return b"".join(parts)


def list_tags(repositories: Repositories, request: Request, match: re.Match[str]) -> Reply:
    """Tags in order, `n` at a time after `last`, with a Link header while there are more (RFC 8288)."""
    name = match["name"]
    tags = repositories.tags(name)
    if last := request.parameter("last"):
        tags = [tag for tag in tags if tag > last]
    count = request.parameter("n")
    if not count:
        return json_reply(200, {"name": name, "tags": tags})
    if not count.isdigit():
        raise Refused("PAGINATION_NUMBER_INVALID", count[:40])
    page = tags[: int(count)]
    more = {}
    if page and len(page) < len(tags):
        more = {"link": f'</v2/{name}/tags/list?n={count}&last={quote(page[-1])}>; rel="next"'}
    return json_reply(200, {"name": name, "tags": page}, more)


def list_referrers(repositories: Repositories, request: Request, match: re.Match[str]) -> Reply:
    found = repositories.referrers(match["name"], digest_or_refuse(match["digest"]))
    headers = {"content-type": OCI_INDEX}
    if kind := request.parameter("artifactType"):
        found = [one for one in found if one.get("artifactType") == kind]
        headers["oci-filters-applied"] = "artifactType"
    return json_reply(200, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}, headers)


_TAG_OR_DIGEST = r"(?P<reference>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|[a-z0-9]+:[a-f0-9]{32,128})"
_DIGEST = r"(?P<digest>[^/]{1,200})"
_UPLOAD = r"blobs/uploads/(?P<key>[0-9a-f]{32})"


def _route(method: str, path: str, action: str, verb: Verb) -> Route:
    return Route(method, re.compile(path), action, verb)


ROUTES: tuple[Route, ...] = (
    _route("GET", r"/v2/?", "", base),
    _route("GET", rf"/v2/{NAME}/manifests/{_TAG_OR_DIGEST}", "pull", get_manifest),
    _route("PUT", rf"/v2/{NAME}/manifests/{_TAG_OR_DIGEST}", "push", put_manifest),
    _route("DELETE", rf"/v2/{NAME}/manifests/{_TAG_OR_DIGEST}", "delete", delete_manifest),
    _route("POST", rf"/v2/{NAME}/blobs/uploads/?", "push", begin_upload),
    _route("GET", rf"/v2/{NAME}/{_UPLOAD}", "push", upload_status),
    _route("PATCH", rf"/v2/{NAME}/{_UPLOAD}", "push", upload_chunk),
    _route("PUT", rf"/v2/{NAME}/{_UPLOAD}", "push", finish_upload),
    _route("DELETE", rf"/v2/{NAME}/{_UPLOAD}", "push", cancel_upload),
    _route("GET", rf"/v2/{NAME}/blobs/{_DIGEST}", "pull", get_blob),
    _route("DELETE", rf"/v2/{NAME}/blobs/{_DIGEST}", "delete", delete_blob),
    _route("GET", rf"/v2/{NAME}/tags/list", "pull", list_tags),
    _route("GET", rf"/v2/{NAME}/referrers/{_DIGEST}", "pull", list_referrers),
)


class Matched(msgspec.Struct, frozen=True):
    route: Route
    match: re.Match[str]

    @property
    def name(self) -> str:
        return self.match.groupdict().get("name") or ""


def find(method: str, path: str) -> Matched:
    """The route for a request. HEAD is GET without a body."""
    wanted = "GET" if method == "HEAD" else method
    known = False
    for route in ROUTES:
        match = route.pattern.fullmatch(path)
        if match is not None and len(match.groupdict().get("name") or "") <= 255:
            known = True
            if route.method == wanted:
                return Matched(route, match)
    raise Refused("UNSUPPORTED" if known else "NAME_INVALID", path[:200])
