"""The host's resolver configuration, which a container's is made from."""

from __future__ import annotations

from orlop.sys.files import read_text

RESOLV_CONF = "/etc/resolv.conf"
# systemd-resolved's list of the real nameservers; resolv.conf then names its stub on loopback alone
RESOLVED_RESOLV_CONF = "/run/systemd/resolve/resolv.conf"
_STUB = "127.0.0.53"


def read_resolv_conf() -> str:
    """The text of resolv.conf; where it only names systemd-resolved's stub, of the list behind that."""
    text = host_file(RESOLV_CONF)
    servers = [line.split()[1:2] for line in text.splitlines() if line.startswith("nameserver")]
    return host_file(RESOLVED_RESOLV_CONF) or text if servers == [[_STUB]] else text


def host_file(path: str) -> str:
    """A text file of the host; nothing where it is missing."""
    try:
        return read_text(path)
    except FileNotFoundError:
        return ""
