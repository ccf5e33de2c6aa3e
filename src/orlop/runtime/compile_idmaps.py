"""How the maps of a new user namespace get written, and what follows for its groups (user_namespaces(7)). Pure.

write    by this process, with CAP_SETUID and CAP_SETGID
own      by this process without them: one id, its own. The kernel wants setgroups(2) forbidden first
helper   by newuidmap and newgidmap, which look into /etc/subuid and /etc/subgid
"""

from __future__ import annotations

from typing import Literal

import msgspec

from orlop.runtime.facts import Host
from orlop.spec.errors import FailedPrecondition
from orlop.spec.runtime import IDMapping

Way = Literal["write", "own", "helper"]
Mappings = tuple[IDMapping, ...]


class Ways(msgspec.Struct, frozen=True):
    """Of the two maps."""

    uids: Way
    gids: Way

    @property
    def groups(self) -> bool:
        """Whether processes in the namespace may set their groups."""
        return self.gids != "own"


def ways(host: Host, uids: Mappings, gids: Mappings) -> Ways:
    """Raises FailedPrecondition for a map that this user can't have."""
    return Ways(
        _way(host, uids, "CAP_SETUID", host.uid, "newuidmap", "linux.uidMappings"),
        _way(host, gids, "CAP_SETGID", host.gid, "newgidmap", "linux.gidMappings"),
    )


def _way(host: Host, mappings: Mappings, capability: str, own: int, helper: str, where: str) -> Way:
    if host.has(capability):
        return "write"
    if len(mappings) == 1 and mappings[0].size == 1 and mappings[0].host_id == own:
        return "own"
    if helper in host.id_helpers:
        return "helper"
    raise FailedPrecondition(
        f"{where}: {helper} is needed to map more than this user's own id {own}, and is not installed (package uidmap)"
    )
