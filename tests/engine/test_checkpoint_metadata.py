"""What an archive of a checkpoint says beside CRIU's images."""

from __future__ import annotations

import json

import pytest

from orlop.engine.checkpoints import metadata
from orlop.engine.checkpoints.metadata import Config
from orlop.spec.document import encode
from orlop.spec.errors import InvalidArgument


def test_config_has_the_names_that_checkpointctl_reads() -> None:
    config = Config(
        id="1f", name="main", rootfs_image="sha256:1", rootfs_image_ref="r@sha256:2", rootfs_image_name="r:1"
    )
    said = json.loads(encode(config))
    assert (said["id"], said["name"]) == ("1f", "main")
    assert (said["rootfsImage"], said["rootfsImageRef"], said["rootfsImageName"]) == ("sha256:1", "r@sha256:2", "r:1")
    assert said["runtime"] == "orlop"
    assert said["restored"] is False
    assert {"createdTime", "checkpointedTime", "restoredTime"} <= said.keys()  # Go's decoder refuses an empty time
    assert metadata.parse_config(encode(config)) == config


def test_what_others_write_beside_it_is_no_error() -> None:
    raw = b'{"id":"1","name":"n","rootfsImageName":"r:1","restoredTime":"0001-01-01T00:00:00Z","networks":{"a":1}}'
    assert metadata.parse_config(raw).rootfs_image_name == "r:1"


@pytest.mark.parametrize("raw", [b"{}", b"[]", b"not", b'{"id":"1","name":"n"}', b'{"id":1,"name":"n"}'])
def test_a_config_that_tells_nothing_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"^config\.dump: "):
        metadata.parse_config(raw)


def test_times_are_written_as_go_reads_them() -> None:
    assert metadata.moment(0.5) == "1970-01-01T00:00:00.500000000Z"


def test_removals_are_the_whiteouts_of_a_layer() -> None:
    paths = [b"etc/", b"etc/.wh.group", b".wh.top", b"new/.wh..wh..opq", b"etc/passwd", b"a/.wh.\xff"]
    assert metadata.removals(paths) == ["/etc/group", "/top", "/a/\ufffd"]


def test_removals_of_others_become_whiteouts() -> None:
    found = metadata.parse_removals(b'["/etc/group", "top", "/a/b/"]')
    assert [metadata.whiteout(path) for path in found] == [b"etc/.wh.group", b".wh.top", b"a/.wh.b"]


@pytest.mark.parametrize("path", ["", "/", "../x", "/a/../b", "a//b", "a/./b", "a\\u0000"])
def test_removals_that_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^deleted\.files: "):
        metadata.parse_removals(f'["{path}"]'.encode())


def test_a_pod_says_where_its_containers_are() -> None:
    options = metadata.PodOptions(containers={"main": metadata.pod_directory("main")})
    assert metadata.parse_pod(encode(options)) == options


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b'{"version":2,"containers":{"a":"containers/a"}}',
        b'{"version":1,"containers":{"a":"/etc"}}',
        b'{"version":1,"containers":{"../a":"containers/../a"}}',
        b'{"version":1,"containers":{"..":"containers/.."}}',
    ],
)
def test_a_pod_whose_containers_are_elsewhere_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"^pod\.options: "):
        metadata.parse_pod(raw)
