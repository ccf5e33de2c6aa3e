from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.engine.users import Identity, resolve
from orlop.spec.errors import InvalidArgument

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
# comment:x:5:5::/:
redis:x:999:998::/var/lib/redis:/usr/sbin/nologin
broken:x:abc:1::/broken:/bin/sh
huge:x:99999999999:1::/huge:/bin/sh
nohome:x:7:7:::
+nis
short:x:1
"""
GROUP = """\
root:x:0:
adm:x:4:redis,other
redis:x:998:
tty:x:5:redis
audio:x:29:
wrong:x:zz:redis
"""


@pytest.mark.parametrize(
    ("user", "want"),
    [
        ("", Identity(uid=0, gid=0, groups=(0,), home="/root")),
        ("root", Identity(uid=0, gid=0, groups=(0,), home="/root")),
        ("redis", Identity(uid=999, gid=998, groups=(998, 4, 5), home="/var/lib/redis")),
        ("999", Identity(uid=999, gid=998, groups=(998, 4, 5), home="/var/lib/redis")),
        ("redis:audio", Identity(uid=999, gid=29, groups=(29,), home="/var/lib/redis")),
        ("redis:29", Identity(uid=999, gid=29, groups=(29,), home="/var/lib/redis")),
        ("redis:12345", Identity(uid=999, gid=12345, groups=(12345,), home="/var/lib/redis")),
        ("4321", Identity(uid=4321, gid=0, groups=(0,), home="/")),
        ("4321:4321", Identity(uid=4321, gid=4321, groups=(4321,), home="/")),
        (":audio", Identity(uid=0, gid=29, groups=(29,), home="/root")),
        ("nohome", Identity(uid=7, gid=7, groups=(7,), home="/")),
        ("2147483647", Identity(uid=2147483647, gid=0, groups=(0,), home="/")),
    ],
)
def test_users_as_docker_reads_them(user: str, want: Identity) -> None:
    assert resolve(user, PASSWD, GROUP) == want


def test_group_add_takes_names_and_numbers_once() -> None:
    assert resolve("redis", PASSWD, GROUP, ["audio", "77", "tty"]).groups == (998, 4, 5, 29, 77)


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("nobody", "unable to find user nobody: no matching entries in passwd file"),
        ("broken", "unable to find user broken: no matching entries in passwd file"),
        ("huge", "unable to find user huge"),
        ("root:staff", "unable to find group staff: no matching entries in group file"),
        ("root:wrong", "unable to find group wrong"),
        ("-1", "uids and gids must be in range 0-2147483647"),
        ("2147483648", "must be in range"),
        ("9" * 5000, "must be in range"),
        ("0:-5", "must be in range"),
    ],
)
def test_unknown_names_and_numbers_out_of_range_are_refused(user: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        resolve(user, PASSWD, GROUP)


def test_an_image_without_the_files_knows_numbers_only() -> None:
    assert resolve("", "", "") == Identity(uid=0, gid=0, groups=(0,), home="/")
    assert resolve("5:6", "", "").gid == 6
    with pytest.raises(InvalidArgument, match="unable to find user root"):
        resolve("root", "", "")


@given(st.text(max_size=20), st.text(max_size=200), st.text(max_size=200))
def test_any_texts_give_an_identity_in_range_or_one_line(user: str, passwd: str, group: str) -> None:
    try:
        found = resolve(user, passwd, group)
    except InvalidArgument as error:
        assert len(str(error)) < 400  # noqa: PT017
    else:
        assert 0 <= found.uid < 1 << 31
        assert all(0 <= gid < 1 << 31 for gid in found.groups)


@given(st.text(alphabet=st.characters(exclude_characters=":"), min_size=1, max_size=10))
def test_a_broken_line_never_makes_a_root(number: str) -> None:
    if number.strip().isascii() and number.strip().isdigit():
        return
    with pytest.raises(InvalidArgument):
        resolve("evil", f"evil:x:{number}:0::/:/bin/sh", "")
