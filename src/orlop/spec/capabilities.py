"""Linux capabilities (capabilities(7)): names, bits, Docker's default set, and what --cap-add and --cap-drop do to it.

A set of capabilities is either a tuple of names such as `CAP_CHOWN`, ordered by bit, or a mask of bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from orlop.spec.errors import InvalidArgument

# include/uapi/linux/capability.h; the index is the bit
NAMES: tuple[str, ...] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
BITS: dict[str, int] = {name: bit for bit, name in enumerate(NAMES)}
ALL: int = (1 << len(NAMES)) - 1

# what a container gets when nothing is asked for (Docker's documentation, "Runtime privilege and Linux capabilities")
DEFAULT: tuple[str, ...] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
)


def mask(names: Iterable[str], what: str = "capabilities") -> int:
    """The bits of exact names. `what` is the JSON path of the list, for the error."""
    return _mask(tuple(names), what)


@lru_cache(64)
def _mask(names: tuple[str, ...], what: str) -> int:
    bits = 0
    for index, name in enumerate(names):
        bit = BITS.get(name)
        if bit is None:
            raise InvalidArgument(f"{what}[{index}]: unknown capability {name[:64]!r}")
        bits |= 1 << bit
    return bits


def names(bits: int) -> tuple[str, ...]:
    """The names of a mask, ordered by bit; bits without a name are left out."""
    return tuple(name for bit, name in enumerate(NAMES) if bits >> bit & 1)


def normalize(name: str, what: str) -> str:
    """`CAP_CHOWN` for chown, CHOWN or cap_chown, and `ALL` for all; `what` names the flag in the error."""
    upper = name.strip().upper()
    if upper in ("ALL", "CAP_ALL"):
        return "ALL"
    full = upper if upper.startswith("CAP_") else "CAP_" + upper
    if full not in BITS:
        raise InvalidArgument(f"invalid {what}: unknown capability: {full[:64]!r}")
    return full


def resolve(
    add: Iterable[str] = (), drop: Iterable[str] = (), privileged: bool = False, available: int = ALL
) -> tuple[str, ...]:
    """The set that a container gets, by Docker's rules.

    With ALL among the added ones: everything but what is dropped. Else with ALL among the dropped ones: only what is
    added. Else the default set without the dropped ones, and then the added ones (so adding wins).

    `available` is the mask of what this host can give (its own bounding set): ALL and the default mean as much of
    them as there is, but naming one that is not there is an error.
    """
    added = [normalize(name, "CapAdd") for name in add]
    dropped = [normalize(name, "CapDrop") for name in drop]
    if privileged:
        return names(available & ALL)
    explicit = mask(name for name in added if name != "ALL")
    if explicit & ~available:
        missing = names(explicit & ~available)[0]
        raise InvalidArgument(
            f"invalid CapAdd: capability not supported by your kernel or not available in the current environment: "
            f"{missing!r}"
        )
    removed = mask(name for name in dropped if name != "ALL")
    if "ALL" in added:
        return names(available & ALL & ~removed)
    if "ALL" in dropped:
        return names(explicit)
    return names(mask(DEFAULT) & available & ~removed | explicit)
