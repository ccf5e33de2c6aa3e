"""Which hosts serve a registry's name, and how to speak to each: `certs.d/<host>/hosts.toml` as containerd has it.

A registry's name (`docker.io`) leads to a list of `Endpoint`s: the mirrors of its hosts.toml in the file's order, then
its server. Without a hosts.toml the directory may hold Docker's form: `*.crt` are CA certificates, `NAME.cert` with
`NAME.key` a client certificate.

    server = "https://registry-1.docker.io"
    [host."https://mirror.example:5000"]
      capabilities = ["pull", "resolve"]
      ca = "mirror.crt"

Loopback hosts, and those named in `insecure`, are tried with HTTPS whose certificate is not checked, and with plain
HTTP where they don't speak TLS, as Docker does it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from orlop.spec.errors import InvalidArgument, os_errors
from orlop.standins import deferred

with deferred():
    import tomllib

DIRECTORIES = (Path("/etc/orlop/certs.d"), Path("/etc/containerd/certs.d"), Path("/etc/docker/certs.d"))
# Names whose registry answers elsewhere
SERVERS = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
CAPABILITIES = frozenset({"pull", "resolve", "push"})
AUTHORITY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_KNOWN = {"capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout"}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


class Tls(msgspec.Struct, frozen=True):
    """How to trust and be trusted: files of CA certificates, and (certificate, key) pairs; "" as the key means that
    the certificate's file holds it too."""

    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False


class Endpoint(msgspec.Struct, frozen=True):
    """One host to ask. `path` is the API's root, usually `/v2`. `namespace` is the registry's name where this host
    is a mirror of it, else "". `plain_fallback` allows HTTP where HTTPS is not spoken. `dial` is in seconds."""

    scheme: str
    authority: str
    path: str = "/v2"
    capabilities: frozenset[str] = CAPABILITIES
    tls: Tls = Tls()
    headers: tuple[tuple[str, str], ...] = ()
    plain_fallback: bool = False
    namespace: str = ""
    dial: float | None = None

    @property
    def hostname(self) -> str:
        return hostname(self.authority)


class Hosts(msgspec.Struct, frozen=True):
    """The configuration of a client: where certs.d directories are, and which hosts or CIDR nets may be insecure."""

    directories: tuple[Path, ...] = DIRECTORIES
    insecure: tuple[str, ...] = ()

    def endpoints(self, domain: str) -> tuple[Endpoint, ...]:
        """Endpoints for a registry's name, in the order to be tried. Reads files; at least one endpoint comes back."""
        if not AUTHORITY.fullmatch(domain):
            raise InvalidArgument(f"registry {domain[:80]!r}: want a host name or address, and a port where needed")
        server = self._default(domain)
        for directory in self._candidates(domain):
            hosts_file = directory / "hosts.toml"
            if hosts_file.is_file():
                with os_errors("read"):
                    text = hosts_file.read_text("utf-8", "replace")
                return parse_hosts(text, domain, server, directory, self.insecure)
            if directory.is_dir():
                return (msgspec.structs.replace(server, tls=_docker_form(directory, server.tls)),)
        return (server,)

    def _default(self, domain: str) -> Endpoint:
        return endpoint_of(SERVERS.get(domain, domain), self.insecure)

    def _candidates(self, domain: str) -> Iterable[Path]:
        """`host_port_` stands for `host:port` in containerd, for file systems that know no colon."""
        host, colon, port = domain.rpartition(":")
        spellings = [f"{host}_{port}_"] if colon and port.isdigit() else []
        for directory in self.directories:
            for name in (*spellings, domain, "_default"):
                yield directory / name


def endpoint_of(
    url: str, insecure: tuple[str, ...] = (), *, override_path: bool = False, what: str = "registry"
) -> Endpoint:
    """The endpoint for a `server` or `host` entry: a URL, or a host without a scheme. `what` names it in errors."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "https", url
    authority, _, path = rest.partition("/")
    if scheme not in ("http", "https") or not AUTHORITY.fullmatch(authority):
        raise InvalidArgument(f"{what}: {url[:120]!r}: want http:// or https:// and a host")
    path = "/" + path.strip("/") if path.strip("/") else ""
    if not override_path and not path.endswith("/v2"):
        path += "/v2"
    lenient = not separator and is_insecure(authority, insecure)
    return Endpoint(scheme=scheme, authority=authority, path=path, tls=Tls(skip_verify=lenient), plain_fallback=lenient)


def is_insecure(authority: str, insecure: Iterable[str] = ()) -> bool:
    """Loopback addresses, `localhost`, and what was named: `host`, `host:port`, or a net such as `10.0.0.0/8`."""
    host = hostname(authority)
    if host == "localhost" or host.endswith(".localhost") or authority in insecure or host in insecure:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or any(_in_net(address, net) for net in insecure if "/" in net)


def _in_net(address: ipaddress.IPv4Address | ipaddress.IPv6Address, net: str) -> bool:
    try:
        return address in ipaddress.ip_network(net, strict=False)
    except ValueError:
        raise InvalidArgument(f"insecure registry {net[:80]!r}: not a network") from None


def hostname(authority: str) -> str:
    """`[::1]:5000` gives `::1`."""
    return (urlsplit("//" + authority).hostname or authority).lower()


def parse_hosts(
    text: str, domain: str, server: Endpoint, directory: Path, insecure: tuple[str, ...] = ()
) -> tuple[Endpoint, ...]:
    """Read a hosts.toml; relative file names in it are beneath `directory`. `server` is used where it names none."""
    what = f"{directory / 'hosts.toml'}"
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidArgument(f"{what}: {str(error)[:200].lower()}") from None
    hosts = table.get("host", {})
    if not isinstance(hosts, dict) or not all(isinstance(entry, dict) for entry in hosts.values()):
        raise InvalidArgument(f"{what}: host: want tables")
    mirrors = [
        _configured(f'{what}: host."{url[:120]}"', url, entry, domain, directory, insecure)
        for url, entry in hosts.items()
    ]
    return (*mirrors, _server(what, table, server, directory, insecure))


def _server(
    what: str, table: Mapping[str, Any], default: Endpoint, directory: Path, insecure: tuple[str, ...]
) -> Endpoint:
    """The root of the file configures the server, with the same fields as a host."""
    own = {key: value for key, value in table.items() if key not in ("server", "host")}
    url = table.get("server", "")
    if not isinstance(url, str):
        raise InvalidArgument(f"{what}: server: want a string")
    override = _override(what, own)
    named = endpoint_of(url, insecure, override_path=override, what=f"{what}: server") if url else default
    return _apply(what, named, own, directory)


def _configured(
    what: str, url: str, entry: Mapping[str, Any], domain: str, directory: Path, insecure: tuple[str, ...]
) -> Endpoint:
    endpoint = endpoint_of(url, insecure, override_path=_override(what, entry), what=what)
    # A mirror may serve several registries: `?ns=` tells it which one is meant.
    namespace = domain if endpoint.authority not in (domain, SERVERS.get(domain)) else ""
    return _apply(what, msgspec.structs.replace(endpoint, namespace=namespace), entry, directory)


def _override(what: str, entry: Mapping[str, Any]) -> bool:
    return _flag(what, entry, "override_path")


def _apply(what: str, endpoint: Endpoint, entry: Mapping[str, Any], directory: Path) -> Endpoint:
    for key in entry:
        if key not in _KNOWN:
            raise InvalidArgument(f"{what}: {key[:60]!r} is not a known field")
    tls = Tls(
        ca=tuple(_path(directory, name) for name in _strings(what, entry, "ca")),
        client=_clients(what, entry.get("client"), directory),
        skip_verify=_flag(what, entry, "skip_verify") or endpoint.tls.skip_verify,
    )
    capabilities = frozenset(_strings(what, entry, "capabilities")) or CAPABILITIES
    if unknown := capabilities - CAPABILITIES:
        raise InvalidArgument(f"{what}: capabilities: {min(unknown)[:40]!r} is not pull, resolve or push")
    return msgspec.structs.replace(
        endpoint, tls=tls, capabilities=capabilities, headers=_headers(what, entry), dial=_dial(what, entry)
    )


def _flag(what: str, entry: Mapping[str, Any], key: str) -> bool:
    value = entry.get(key, False)
    if not isinstance(value, bool):
        raise InvalidArgument(f"{what}: {key}: want true or false")
    return value


def _strings(what: str, entry: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A string, or an array of strings."""
    value = entry.get(key, ())
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not all(isinstance(one, str) for one in values):
        raise InvalidArgument(f"{what}: {key}: want a string or an array of strings")
    return tuple(values)


def _clients(what: str, value: Any, directory: Path) -> tuple[tuple[str, str], ...]:
    """A file with certificate and key, an array of such files, or an array of [certificate, key] pairs."""
    entries = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise InvalidArgument(f"{what}: client: want a file, or an array of files or pairs")
    return tuple(_client(what, one, directory) for one in entries)


def _client(what: str, one: Any, directory: Path) -> tuple[str, str]:
    parts = [one, ""] if isinstance(one, str) else one
    if not isinstance(parts, list) or len(parts) not in (1, 2) or not all(isinstance(p, str) for p in parts):
        raise InvalidArgument(f"{what}: client: want [certificate, key]")
    cert, key = (*parts, "")[:2]
    return _path(directory, cert), _path(directory, key) if key else ""


def _headers(what: str, entry: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    table = entry.get("header", {})
    if not isinstance(table, dict):
        raise InvalidArgument(f"{what}: header: want a table")
    headers = tuple((name, ", ".join(_strings(f"{what}: header", table, name))) for name in table)
    if not all(_HEADER_NAME.fullmatch(name) and value.isprintable() and value.isascii() for name, value in headers):
        raise InvalidArgument(f"{what}: header: a name or value holds characters that no header has")
    return headers


def _dial(what: str, entry: Mapping[str, Any]) -> float | None:
    value = entry.get("dial_timeout")
    if value is None:
        return None
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InvalidArgument(f"{what}: dial_timeout: want a duration such as '3s'")
    return float(match[1]) * _SECONDS[match[2]]


def _path(directory: Path, name: str) -> str:
    return str(directory / name)


def _docker_form(directory: Path, tls: Tls) -> Tls:
    with os_errors("list"):
        names = sorted(directory.iterdir())
    authorities = tuple(str(path) for path in names if path.suffix == ".crt")
    pairs = tuple((str(path), str(path.with_suffix(".key"))) for path in names if path.suffix == ".cert")
    return msgspec.structs.replace(tls, ca=authorities, client=pairs)
