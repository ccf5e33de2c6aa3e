"""Who a process is: the user, group and home that a name means inside an image. Pure: works on the texts of the
image's own /etc/passwd and /etc/group, which are hostile input (passwd(5), group(5)).

The rules are Docker's: a number is always an ID, whether the file knows it or not; a name must be in the file; a group
given with the user replaces the user's own and its supplementary groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from orlop.spec.errors import InvalidArgument

Policy = Literal["docker", "merge", "strict"]
_MAX_ID = (1 << 31) - 1


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A resolved user. `groups` are the supplementary ones, with the primary group first."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


class _User(msgspec.Struct, frozen=True):
    name: str
    uid: int
    gid: int
    home: str


class _Group(msgspec.Struct, frozen=True):
    name: str
    gid: int
    members: tuple[str, ...]


def resolve(user: str, passwd: str, group: str, additional: Iterable[str] = (), policy: Policy = "docker") -> Identity:
    """The identity for `user` (`name`, `uid`, `name:group`, `uid:gid`, or empty for root) and for `--group-add`.

    `policy` says when the groups are added that /etc/group has the user in: without a group of its own in `user`
    (docker), always (merge), never (strict); the latter two are those of the Container Runtime Interface.

    Raises InvalidArgument for a name that is in neither file, and for a number out of range.
    """
    name, _, group_name = user.partition(":")
    entry = _find_user(name, passwd)
    groups = tuple(_groups(group))
    gid, extra = entry.gid, list[int]()
    if group_name:
        gid = _group_id(group_name, groups)
    if entry.name and (policy == "merge" or (policy == "docker" and not group_name)):
        extra = [found.gid for found in groups if entry.name in found.members]
    extra += [_group_id(wanted, groups) for wanted in additional]
    # the primary group is listed too: some programs drop groups that are not (CVE-2022-36109)
    return Identity(uid=entry.uid, gid=gid, groups=tuple(dict.fromkeys((gid, *extra))), home=entry.home or "/")


def _find_user(name: str, passwd: str) -> _User:
    number = _number(name) if name else 0
    for entry in _users(passwd):
        if entry.uid == number if number is not None else entry.name == name:
            return entry
    if number is None:
        raise InvalidArgument(f"unable to find user {name[:64]}: no matching entries in passwd file")
    return _User("", number, 0, "/")


def _group_id(name: str, groups: tuple[_Group, ...]) -> int:
    number = _number(name)
    for group in groups:
        if group.gid == number if number is not None else group.name == name:
            return group.gid
    if number is None:
        raise InvalidArgument(f"unable to find group {name[:64]}: no matching entries in group file")
    return number


def _number(text: str) -> int | None:
    """The ID that a text spells, or None for a name."""
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not (digits.isascii() and digits.isdigit()):
        return None
    value = int(text) if len(text) < 16 else _MAX_ID + 1
    if not 0 <= value <= _MAX_ID:
        raise InvalidArgument(f"user {text[:32]}: uids and gids must be in range 0-{_MAX_ID}")
    return value


def _users(text: str) -> Iterator[_User]:
    """The well-formed lines of a passwd file. A line with a broken number is no user: it must not become root."""
    for parts in _lines(text, 6):
        if _is_id(parts[2]) and _is_id(parts[3]):
            yield _User(parts[0], int(parts[2]), int(parts[3]), parts[5])


def _groups(text: str) -> Iterator[_Group]:
    for parts in _lines(text, 3):
        if _is_id(parts[2]):
            members = parts[3].split(",") if len(parts) > 3 else []
            yield _Group(parts[0], int(parts[2]), tuple(member.strip() for member in members if member.strip()))


def _lines(text: str, fields: int) -> Iterator[list[str]]:
    for line in text.split("\n"):
        parts = line.strip().split(":")
        if len(parts) >= fields and parts[0] and parts[0][0] not in "#+-":
            yield parts


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= _MAX_ID
