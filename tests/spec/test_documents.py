"""Documents of the standards: JSON paths in errors, unknown fields and raw bytes kept."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.spec import image, runtime
from orlop.spec.digest import Digest
from orlop.spec.document import merged
from orlop.spec.errors import InvalidArgument, Unimplemented
from orlop.spec.platform import Platform, parse_platform, rank
from orlop.spec.signals import NAMES, parse_signal, signal_name

D = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"ociVersion":"1.3.0","process":{"cwd":3}}', "$.process.cwd: expected `str`, got `int`"),
        (b'{"ociVersion":1}', "$.ociVersion"),
        (b"{}", "ociVersion"),
        (b'{"ociVersion":"1.3.0","mounts":[{"destination":"/a"},{"source":"x"}]}', "$.mounts[1]"),
        (b'{"ociVersion":"1.3.0","linux":{"resources":{"memory":{"limit":"1G"}}}}', "$.linux.resources.memory.limit"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "config.json: "),
    ],
)
def test_wrong_config_json_is_refused_with_its_path(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        runtime.parse_runtime_spec(raw)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_fields_and_raw_bytes_survive() -> None:
    raw = (
        b'{"ociVersion": "1.3.0", "x": {"y": 1}, "process": {"cwd": "/", "new": [1]}, '
        b'"mounts": [{"destination": "/a", "z": 1}]}'
    )
    document = runtime.parse_runtime_spec(raw)
    assert document.raw == raw
    changed = msgspec.structs.replace(document.value, hostname="h")
    again = msgspec.json.decode(merged(raw, changed))
    assert again["x"] == {"y": 1}
    assert again["process"] == {"cwd": "/", "new": [1]}
    assert again["mounts"] == [{"destination": "/a", "z": 1}]
    assert again["hostname"] == "h"


@pytest.mark.parametrize(
    ("raw", "media_type", "error", "message"),
    [
        (b'{"schemaVersion":2,"config":{},"layers":[]}', image.OCI_MANIFEST, InvalidArgument, "$.config"),
        (b'{"schemaVersion":1,"layers":[]}', image.OCI_MANIFEST, Unimplemented, "schema 1"),
        (b'{"schemaVersion":2,"manifests":[],"layers":[]}', image.OCI_INDEX, InvalidArgument, "both"),
        (
            b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % image.OCI_INDEX.encode(),
            image.OCI_MANIFEST,
            InvalidArgument,
            "served as",
        ),
        (b'{"schemaVersion":2}', "text/html", InvalidArgument, "not an image manifest"),
        (
            b'{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":"x","size":1}]}',
            image.OCI_INDEX,
            InvalidArgument,
            "$.manifests[0]",
        ),
        (
            b'{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":"%s","size":-1}]}' % D.encode(),
            image.OCI_INDEX,
            InvalidArgument,
            "size is negative",
        ),
    ],
)
def test_wrong_manifests_are_refused(raw: bytes, media_type: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        image.parse_manifest(raw, media_type, "manifest of x")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "A" * 64, "md5:" + "0" * 32, "sha256:" + "0" * 63, D + "0"]
)
def test_refuses_what_is_no_digest(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Digest(text)


@pytest.mark.parametrize(
    ("have", "want", "fits"),
    [
        ("linux/amd64", "linux/amd64", 0),
        ("linux/x86_64", "linux/amd64", 0),
        ("linux/arm64/v8", "linux/arm64", 0),
        ("linux/arm/v6", "linux/arm/v7", 1),
        ("linux/arm/v7", "linux/arm/v6", None),
        ("linux/amd64/v2", "linux/amd64", None),
        ("linux/amd64", "linux/amd64/v3", 2),
        ("windows/amd64", "linux/amd64", None),
        ("linux/arm/v7", "linux/arm64", 93),
    ],
)
def test_platforms_match_with_variants(have: str, want: str, fits: int | None) -> None:
    host = Platform(os="linux", architecture="amd64")
    assert rank(parse_platform(have, host), parse_platform(want, host)) == fits


@given(st.text(max_size=20))
def test_signals_parse_or_are_refused(text: str) -> None:
    try:
        number = parse_signal(text)
    except InvalidArgument:
        return
    assert parse_signal(signal_name(number)) == number


def test_signal_names() -> None:
    assert [parse_signal(t) for t in ("KILL", "sigterm", "9", "RTMIN+3", "RTMAX-1")] == [9, 15, 9, 37, 63]
    assert all(parse_signal(name) == number for number, name in enumerate(NAMES) if name)
