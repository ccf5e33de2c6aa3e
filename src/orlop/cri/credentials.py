"""The credentials that come with PullImage: for whom they are, and that nobody else reads them. Pure but for what the
machine's own credentials do."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import TypeVar

from orlop._stubs.cri import api_pb2 as api
from orlop.content.ingest import BlobWriter
from orlop.distribution.credentials import Credential, Credentials, DockerConfig, host_of
from orlop.distribution.hosts import Hosts
from orlop.spec.errors import InvalidArgument, OrlopError
from orlop.spec.image import Descriptor
from orlop.spec.reference import Reference

T = TypeVar("T")
_SECRET = 6  # characters from which on a secret can be told from words that are there by chance


def credential_of(auth: api.AuthConfig) -> Credential | None:
    """What a request's AuthConfig holds; None where that is nothing. `auth` is `user:password` in base64, as in
    Docker's config.json, and counts where there is no user name."""
    username, password = auth.username, auth.password
    if auth.auth and not username:
        username, password = _decoded(auth.auth)
    found = Credential(username, password, auth.identity_token, auth.registry_token)
    if found != Credential():
        return found
    if auth.server_address:
        raise InvalidArgument("auth: has a server_address, but no credentials")
    return None


def _decoded(text: str) -> tuple[str, str]:
    try:
        username, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise InvalidArgument("auth.auth is not base64") from None
    if not colon:
        raise InvalidArgument("auth.auth holds no colon")
    return username, password.rstrip("\0")


class RequestCredentials:
    """The credentials of a request for the hosts that they are meant for, else those of the machine.

    They are meant for the server that the request names, or where it names none, for the image's registry: by its own
    name or that of the server in its hosts.toml. A mirror is another host, with credentials of its own.
    """

    def __init__(self, credential: Credential, hosts: frozenset[str], machine: Credentials | None = None) -> None:
        self._credential = credential
        self._hosts = hosts
        self._machine = machine or DockerConfig()

    def get(self, host: str) -> Credential | None:
        return self._credential if host_of(host) in self._hosts else self._machine.get(host)


def meant_for(auth: api.AuthConfig, reference: Reference, hosts: Hosts) -> frozenset[str]:
    """The hosts that a request's credentials may be shown to. Reads hosts.toml."""
    if auth.server_address:
        return frozenset({host_of(auth.server_address)})
    server = hosts.endpoints(reference.domain)[-1]
    return frozenset({host_of(reference.domain), host_of(server.authority)})


class PrivateSource:
    """A registry, asked with the credentials of one request. Close it. No error that it raises holds a secret of them,
    whatever a registry or token server says."""

    def __init__(self, auth: api.AuthConfig, credential: Credential, reference: Reference, hosts: Hosts) -> None:
        from orlop.distribution.client import Registry  # with urllib3, which a node that pulls nothing need not carry

        self._registry = Registry(hosts, RequestCredentials(credential, meant_for(auth, reference, hosts)))
        secrets = (auth.auth, credential.password, credential.identity_token, credential.registry_token)
        self._secrets = [secret for secret in secrets if len(secret) >= _SECRET]

    def resolve(self, reference: Reference) -> tuple[Descriptor, bytes]:
        return self._discreet(lambda: self._registry.resolve(reference))

    def fetch_blob(self, reference: Reference, descriptor: Descriptor, writer: BlobWriter) -> None:
        self._discreet(lambda: self._registry.fetch_blob(reference, descriptor, writer))

    def close(self) -> None:
        self._registry.close()

    def _discreet(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except OrlopError as error:
            text = discreet(str(error), self._secrets)
            if text == str(error):
                raise
            raise type(error)(text) from None


def discreet(text: str, secrets: list[str]) -> str:
    """`text` with every secret struck out."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
