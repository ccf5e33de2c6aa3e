"""What a container finds in /etc/hosts, /etc/hostname and /etc/resolv.conf. Pure: texts in, texts out.

The rules are Docker's: resolv.conf is the host's, less what makes no sense in another network namespace, with each
of `--dns`, `--dns-search` and `--dns-option` in place of the host's lines of that kind.
"""

from __future__ import annotations

from collections.abc import Sequence

from orlop.spec.errors import InvalidArgument

FALLBACK_NAMESERVERS = ("8.8.8.8", "8.8.4.4")
FALLBACK_NAMESERVERS6 = ("2001:4860:4860::8888", "2001:4860:4860::8844")
HOST_GATEWAY = "host-gateway"
_OCTETS = frozenset(map(str, range(256)))
_LIMIT = 256  # characters of a name or an option

_LOCAL = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def hostname_file(hostname: str) -> str:
    return f"{hostname}\n"


def hosts_file(
    hostname: str,
    domainname: str = "",
    addresses: Sequence[str] = (),
    aliases: Sequence[str] = (),
    extra_hosts: Sequence[str] = (),
    gateway: str = "",
) -> str:
    """/etc/hosts: the usual names of this machine, `extra_hosts` (`name:address` or `name=address`), then the
    container's own names at its addresses (with or without prefix length).

    The address `host-gateway` stands for `gateway`, which is the host as the container sees it.
    """
    extra = [_extra_host(entry, gateway) for entry in extra_hosts]
    names = [f"{hostname}.{domainname}", hostname] if domainname else [hostname]
    own = " ".join(_checked(name) for name in (*names, *aliases) if name)
    lines = [f"{address}\t{name}\n" for address, name in extra]
    lines += [f"{address.partition('/')[0]}\t{own}\n" for address in addresses if own]
    return _LOCAL + "".join(lines)


def _extra_host(entry: str, gateway: str) -> tuple[str, str]:
    # an IPv6 address has colons too: the name ends at the first separator
    cut = min((entry.index(mark) for mark in ":=" if mark in entry), default=0)
    name, address = entry[:cut], entry[cut + 1 :].removeprefix("[").removesuffix("]")
    if not name:
        raise InvalidArgument(f"extra host {entry[:64]!r}: want name:address")
    if address == HOST_GATEWAY:
        if not gateway:
            raise InvalidArgument(f"extra host {entry[:64]}: this network has no gateway to the host")
        address = gateway
    from ipaddress import ip_address

    try:
        return str(ip_address(address)), _checked(name)
    except ValueError:
        raise InvalidArgument(f"extra host {entry[:64]!r}: {address[:64]!r} is not an IP address") from None


def _checked(name: str) -> str:
    """A name that is one word of one line."""
    if len(name) > _LIMIT or not name.isprintable() or any(c.isspace() or c == "#" for c in name):
        raise InvalidArgument(f"name {name[:64]!r}: not one that a hosts file or resolv.conf can hold")
    return name


def resolv_conf(
    host: str,
    *,
    nameservers: Sequence[str] = (),
    search: Sequence[str] = (),
    options: Sequence[str] = (),
    own_namespace: bool = True,
    ipv6: bool = True,
) -> str:
    """/etc/resolv.conf for a container, made of the text of the host's.

    In a network namespace of its own (`own_namespace`) nameservers on loopback are out of reach and left out, as are
    IPv6 ones where the container has no `ipv6`; if none is left, public ones stand in. `search` of `.` alone means
    no search domain.
    """
    theirs = _parsed(host)
    servers = [_nameserver(text) for text in nameservers]
    if not servers:
        servers = theirs["nameserver"]
        if own_namespace:
            servers = [s for s in servers if _reachable(s, ipv6)]
            servers = servers or [*FALLBACK_NAMESERVERS, *(FALLBACK_NAMESERVERS6 if ipv6 else ())]
    domains = [_checked(domain) for domain in search] or theirs["search"]
    chosen = [_checked(option) for option in options] or theirs["options"]
    lines = [f"nameserver {server}\n" for server in servers]
    if domains and domains != ["."]:
        lines.append(f"search {' '.join(domains)}\n")
    if chosen:
        lines.append(f"options {' '.join(chosen)}\n")
    return "".join(lines)


def _nameserver(text: str) -> str:
    from ipaddress import ip_address

    try:
        return str(ip_address(text))
    except ValueError:
        raise InvalidArgument(f"dns {text[:64]!r}: not an IP address") from None


def _parsed(text: str) -> dict[str, list[str]]:
    """The host's nameservers, search domains and options (resolv.conf(5): of several search lines the last counts)."""
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    for line in text.splitlines():
        key, *values = line.partition("#")[0].partition(";")[0].split() or [""]
        if key == "nameserver" and values:
            found[key].append(values[0])
        elif key in ("search", "domain") and values:
            found["search"] = values
        elif key == "options":
            found[key] += values
    return found


def _reachable(server: str, ipv6: bool) -> bool:
    octets = server.split(".")
    if len(octets) == 4 and _OCTETS.issuperset(octets):  # as nearly always: nothing to import for that
        return octets[0] != "127"
    from ipaddress import ip_address

    try:
        address = ip_address(server)
    except ValueError:
        return False
    return not address.is_loopback and (ipv6 or address.version == 4)
