"""`login` and `logout`: credentials for a registry, tried out and then kept as Docker keeps them.

They go to the credential helper that config.json names for the registry, else into config.json itself (mode 0600).
Where the registry's token server gives a refresh token, that is kept and the password is not.
"""

from __future__ import annotations

import msgspec

from orlop.distribution.client import Registry
from orlop.distribution.credentials import Credential, DockerConfig, FixedCredentials
from orlop.distribution.errors import Unauthorized
from orlop.distribution.hosts import AUTHORITY, Hosts
from orlop.spec.errors import InvalidArgument, PermissionDenied
from orlop.spec.reference import DEFAULT_DOMAIN


class LoggedIn(msgspec.Struct, frozen=True):
    """`server` is the registry's name, `where` the file or helper that now holds the credentials; `encrypted` says
    whether a helper does. A client warns where it is false, as Docker does."""

    server: str
    where: str
    encrypted: bool


def server_name(text: str) -> str:
    """What a user may type for a registry: "" (Docker Hub), a host, or a URL with a path, of which the host counts."""
    host = text.strip().partition("://")[2] or text.strip()
    host = host.partition("/")[0]
    if host in ("", "index.docker.io", "registry-1.docker.io", DEFAULT_DOMAIN):
        return DEFAULT_DOMAIN
    if not AUTHORITY.fullmatch(host):
        raise InvalidArgument(f"registry {text[:80]!r}: want a host name or address, and a port where needed")
    return host


def login(
    server: str,
    username: str,
    password: str,
    *,
    config: DockerConfig | None = None,
    hosts: Hosts | None = None,
    insecure: tuple[str, ...] = (),
) -> LoggedIn:
    """Try the credentials on the registry and keep them. Wrong ones are `PermissionDenied`, and nothing is kept."""
    if not username or not password:
        raise InvalidArgument("login: want a user name and a password")
    if ":" in username or any(ord(c) < 32 for c in username):
        raise InvalidArgument("login: a user name holds neither colons nor control characters")
    name = server_name(server)
    credential = Credential(username, password)
    with Registry(hosts, FixedCredentials(credential), insecure=insecure, offline=True) as registry:
        try:
            registry.ping(name)
        except Unauthorized:
            raise PermissionDenied(f"login to {name}: incorrect username or password") from None
        token = registry.refresh_token(name)
    if token:
        credential = Credential(username, identity_token=token)
    where = (config or DockerConfig()).put(name, credential)
    return LoggedIn(name, where, where.startswith("docker-credential-"))


def logout(server: str, *, config: DockerConfig | None = None) -> bool:
    """Forget the credentials of a registry. False when none were kept."""
    return (config or DockerConfig()).remove(server_name(server))
