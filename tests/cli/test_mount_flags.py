from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.cli.docker.mounts import parse_mount, parse_tmpfs, parse_volume
from orlop.engine.config import MountRequest
from orlop.spec.errors import InvalidArgument, OrlopError, Unimplemented


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/data", MountRequest(type="volume", target="/data")),
        ("vol:/data", MountRequest(type="volume", source="vol", target="/data")),
        (
            "vol:/data:ro,nocopy",
            MountRequest(type="volume", source="vol", target="/data", read_only=True, no_copy=True),
        ),
        ("/a:/b", MountRequest(type="bind", source="/a", target="/b", create_source=True)),
        (
            "/a/../c//d:/b:rslave",
            MountRequest(type="bind", source="/c/d", target="/b", create_source=True, propagation="rslave"),
        ),
        ("./x:/b", MountRequest(type="bind", source="/here/x", target="/b", create_source=True)),
        ("..:/b", MountRequest(type="bind", source="/", target="/b", create_source=True)),
    ],
)
def test_volume_flag(text: str, wanted: MountRequest) -> None:
    assert parse_volume(text, "/here") == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "invalid volume specification"),
        ("a:b:c:d", "invalid volume specification"),
        ("vol:data", "mount path must be absolute"),
        ("vol:/", "destination can't be '/'"),
        ("vol:/x/..", "destination can't be '/'"),
        ("v/w:/data", "includes invalid characters"),
        ("/a:/b:nope", "invalid mode"),
        ("vol:/data:rshared", "propagation is for host directories"),
    ],
)
def test_wrong_volume_flags_are_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        parse_volume(text, "/here")


def test_mount_flag() -> None:
    assert parse_mount("type=bind,source=/a,target=/b,readonly,bind-propagation=rshared") == MountRequest(
        type="bind", source="/a", target="/b", read_only=True, propagation="rshared"
    )
    assert parse_mount('type=volume,src=v,"dst=/a,b",volume-nocopy=true') == MountRequest(
        type="volume", source="v", target="/a,b", no_copy=True
    )
    assert parse_mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770") == MountRequest(
        type="tmpfs", target="/t", size=1 << 20, mode=0o1770
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("type=bind", "target is required"),
        ("type=bind,dst=/b", "source of a bind mount"),
        ("type=bind,src=a,dst=/b", "absolute path"),
        ("type=tmpfs,src=/a,dst=/b", "source must not be specified"),
        ("type=nope,dst=/b", "unknown mount type"),
        ("type=tmpfs,dst=/b,nope=1", "unexpected key 'nope'"),
        ("type=volume,dst=/b,tmpfs-size=1", "tmpfs-size|size is not an option"),
        ("type=tmpfs,dst=/b,tmpfs-mode=9", "tmpfs-mode"),
        ("type=bind,src=/a,dst=/b,readonly=maybe", "invalid value"),
        ('type=bind,"src=/a', "invalid argument"),
    ],
)
def test_wrong_mount_flags_are_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        parse_mount(text)


@pytest.mark.parametrize("text", ["type=npipe,dst=/b", "type=bind,src=/a,dst=/b,bind-recursive=readonly"])
def test_what_is_not_there_yet_is_named(text: str) -> None:
    with pytest.raises(Unimplemented):
        parse_mount(text)


def test_tmpfs_flag() -> None:
    assert parse_tmpfs("/run:noexec,uid=1") == MountRequest(type="tmpfs", target="/run", options=("noexec", "uid=1"))
    with pytest.raises(InvalidArgument, match="absolute"):
        parse_tmpfs("run")


@given(st.text(alphabet="abv/.:,=\"'typedstsrc\x00\n ", max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for parse in (lambda t: parse_volume(t, "/here"), parse_mount, parse_tmpfs):
        try:
            request = parse(text)
        except OrlopError:
            continue
        assert request.target.startswith("/")
