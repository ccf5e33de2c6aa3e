"""Credentials as Docker's clients keep them: `config.json` with `auths`, `credsStore` and `credHelpers`.

The order is Docker's: the helper named for the host, else the store, else the file. A helper is a program
`docker-credential-NAME` that speaks JSON on its standard input and output.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from orlop.distribution.errors import clean
from orlop.spec.document import known
from orlop.spec.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound, os_errors

DOCKER_HUB = "https://index.docker.io/v1/"
_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HELPER_SECONDS = 60
_MAX_CONFIG = 4 << 20
_TOKEN_USER = "<token>"  # a helper's user name that marks its secret as an identity token


class Credential(msgspec.Struct, frozen=True):
    """What a registry is shown: a name and password, or a token in their place."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        """Secrets never reach a log."""
        return f"Credential(username={self.username!r}, ...)"


class Credentials(Protocol):
    """Where credentials come from. `host` is the host that is asked, with its port."""

    def get(self, host: str) -> Credential | None: ...


class FixedCredentials:
    """The same credential for one host, or for every host ("")."""

    def __init__(self, credential: Credential | None, host: str = "") -> None:
        self._credential, self._host = credential, host

    def get(self, host: str) -> Credential | None:
        return self._credential if self._host in ("", host) else None


class _Auth(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class _Config(msgspec.Struct, rename="camel"):
    auths: dict[str, _Auth] = {}
    creds_store: str = ""
    cred_helpers: dict[str, str] = {}


class DockerConfig:
    """`config.json` in `directory` (default: $DOCKER_CONFIG, else ~/.docker). Read at each call, never cached: a
    login in another terminal counts at once. A file that is not there is an empty one."""

    def __init__(self, directory: Path | None = None) -> None:
        named = os.environ.get("DOCKER_CONFIG", "")
        self.path = (directory or (Path(named) if named else Path.home() / ".docker")) / "config.json"

    def get(self, host: str) -> Credential | None:
        config = self._typed()
        if helper := helper_for(config.cred_helpers, config.creds_store, host):
            return ask_helper(helper, server_key(host))
        entry = find_entry(config.auths, host)
        return None if entry is None else _from_entry(entry, f"{self.path}: auths of {host}")

    def put(self, host: str, credential: Credential) -> str:
        """Keep a credential. Returns where: `docker-credential-NAME`, or the file's path."""
        config = self._typed()
        if helper := helper_for(config.cred_helpers, config.creds_store, host):
            user, secret = credential.username, credential.password
            if credential.identity_token:
                user, secret = _TOKEN_USER, credential.identity_token
            stored = {"ServerURL": server_key(host), "Username": user, "Secret": secret}
            _run_helper(helper, "store", msgspec.json.encode(stored))
            self._change(lambda auths: auths.setdefault(server_key(host), {}))
            return f"docker-credential-{helper}"
        self._change(lambda auths: auths.__setitem__(server_key(host), to_entry(credential)))
        return str(self.path)

    def remove(self, host: str) -> bool:
        """Forget a credential, in the helper and in the file. False when there was none."""
        config = self._typed()
        found = False
        if helper := helper_for(config.cred_helpers, config.creds_store, host):
            found = ask_helper(helper, server_key(host)) is not None
            if found:
                _run_helper(helper, "erase", server_key(host).encode())
        keys = [key for key in config.auths if host_of(key) == host_of(server_key(host))]
        if keys:
            self._change(lambda auths: [auths.pop(key, None) for key in keys])
        return found or bool(keys)

    def _raw(self) -> bytes:
        try:
            with os_errors("read"):
                with self.path.open("rb") as file:
                    data = file.read(_MAX_CONFIG + 1)
        except NotFound:
            return b"{}"
        if len(data) > _MAX_CONFIG:
            raise InvalidArgument(f"{self.path}: more than {_MAX_CONFIG} bytes")
        return data if data.strip() else b"{}"

    def _typed(self) -> _Config:
        # Not spec.document.decode: an error may not quote a secret, so only the path of the field is shown.
        try:
            return msgspec.json.decode(self._raw(), type=known(_Config))
        except msgspec.ValidationError as error:
            where = str(error).partition(" - at ")[2].strip("`") or "$"
            raise InvalidArgument(f"{self.path}: {clean(where, 120)}: wrong type") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise InvalidArgument(f"{self.path}: not valid JSON") from None

    def _change(self, edit: Any) -> None:
        """Rewrite the file with `auths` edited and everything else kept; mode 0600, old or new but never half."""
        whole = msgspec.json.decode(self._raw())
        edit(whole.setdefault("auths", {}))
        # Where the file is a link (dotfiles in a repository), its target is what changes.
        target = Path(os.path.realpath(self.path))
        aside = target.with_name(f".{target.name}.{os.getpid()}")
        text = msgspec.json.format(msgspec.json.encode(whole), indent=8)
        with os_errors("write"):
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(text + b"\n")
                file.flush()
                os.fchmod(file.fileno(), 0o600)
                os.fsync(file.fileno())
            os.replace(aside, target)


def server_key(host: str) -> str:
    """The name under which Docker files a host's credentials."""
    return DOCKER_HUB if host in _HUB_HOSTS else host


def host_of(key: str) -> str:
    """The host of an `auths` key, which may be a URL with a path (old Docker clients wrote those)."""
    host = key.partition("://")[2] or key
    host = host.partition("/")[0]
    return "docker.io" if host in _HUB_HOSTS else host


def find_entry(auths: Mapping[str, _Auth], host: str) -> _Auth | None:
    """The entry of a host: by its own key, else by a key that is a URL on that host."""
    exact = auths.get(server_key(host))
    if exact is not None:
        return exact
    return next((entry for key, entry in auths.items() if host_of(key) == host_of(host)), None)


def helper_for(helpers: Mapping[str, str], store: str, host: str) -> str:
    """Name of the helper in charge of a host, or ""."""
    name = helpers.get(host) or helpers.get(server_key(host)) or helpers.get(host_of(host)) or store
    if name and not _HELPER.fullmatch(name):
        raise InvalidArgument(f"credential helper {name[:60]!r}: bad name")
    return name


def _from_entry(entry: _Auth, what: str) -> Credential | None:
    username, password = entry.username, entry.password
    if entry.auth:
        try:
            decoded = base64.b64decode(entry.auth, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise InvalidArgument(f"{what}: auth is not base64") from None
        username, colon, password = decoded.partition(":")
        if not colon:
            raise InvalidArgument(f"{what}: auth holds no colon")
        password = password.rstrip("\0")
    found = Credential(username, password, entry.identitytoken, entry.registrytoken)
    return None if found == Credential() else found


def to_entry(credential: Credential) -> dict[str, str]:
    """An `auths` entry as Docker writes it: with an identity token, the password is not kept."""
    secret = "" if credential.identity_token else credential.password
    entry = {"auth": base64.b64encode(f"{credential.username}:{secret}".encode()).decode()}
    return entry | ({"identitytoken": credential.identity_token} if credential.identity_token else {})


class _Answer(msgspec.Struct, rename="pascal"):
    username: str = ""
    secret: str = ""


def ask_helper(helper: str, server: str) -> Credential | None:
    """What a helper has for a server, or None."""
    output = _run_helper(helper, "get", server.encode(), missing_is_empty=True)
    if not output:
        return None
    try:
        answer = msgspec.json.decode(output, type=known(_Answer))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise FailedPrecondition(f"docker-credential-{helper}: get: the answer is not what helpers say") from None
    if answer.username == _TOKEN_USER:
        return Credential(identity_token=answer.secret)
    return Credential(answer.username, answer.secret) if answer.username or answer.secret else None


def _run_helper(helper: str, verb: str, data: bytes, *, missing_is_empty: bool = False) -> bytes:
    """Run a helper. One that fails says why on its standard output, by the protocol's custom."""
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, verb], input=data, capture_output=True, timeout=_HELPER_SECONDS, check=False)
    except FileNotFoundError:
        raise NotFound(f"credential helper {program} is not in the path") from None
    except subprocess.TimeoutExpired:
        raise DeadlineExceeded(f"{program}: {verb}: no answer in {_HELPER_SECONDS} s") from None
    except OSError as error:
        raise FailedPrecondition(f"{program}: {os.strerror(error.errno or 0).lower()}") from error
    if done.returncode == 0:
        return done.stdout
    said = done.stdout.decode(errors="replace").strip()
    if missing_is_empty and "credentials not found" in said:
        return b""
    words = clean(said or done.stderr.decode(errors="replace"))
    raise FailedPrecondition(f"{program}: {verb}: {words or f'exit status {done.returncode}'}")
