"""The Container Network Interface: networks that conflists define and plugins make (specification 0.3.0 to 1.1.0).

A conflist is a chain of plugins. ADD runs them in order, each with the result of the one before; DEL runs them
backward. What ADD was given and what came of it is kept until DEL, which thus works even after the conflist changed
or vanished.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from orlop.network import plugin
from orlop.network.records import Attachment, Network, Pod, PublishedPort
from orlop.spec import cancel
from orlop.spec.document import known
from orlop.spec.errors import FailedPrecondition, InvalidArgument, NotFound, OrlopError, Unavailable, os_errors

CONFIG_DIRECTORY = Path("/etc/cni/net.d")
PLUGIN_DIRECTORIES = (Path("/opt/cni/bin"), Path("/usr/lib/cni"), Path("/usr/libexec/cni"))
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SUFFIXES = (".conflist", ".conf", ".json")
MAX_CONFIG = 1 << 20
STATUS_TIMEOUT = 10.0  # seconds for one plugin
CLEAN_UP_TIMEOUT = 10.0
_WITH_STATUS = ("1.1.0",)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_PLUGINS = 64
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


class ConfList(msgspec.Struct, frozen=True, kw_only=True):
    """A network as a file defines it. The plugins' configurations are kept as they are."""

    name: str
    version: str
    plugins: tuple[dict[str, Any], ...]
    disable_check: bool = False
    path: str = ""

    def capable(self, capability: str) -> bool:
        return any(_capabilities(p).get(capability) is True for p in self.plugins)


class Cached(msgspec.Struct, frozen=True, kw_only=True):
    """What was added, and how: all that CHECK and DEL need. `result` is the last plugin's, as it came."""

    conflist: ConfList
    owner: str
    interface: str
    netns: str
    runtime: dict[str, Any]
    plugin_path: tuple[str, ...]
    arguments: str = ""  # CNI_ARGS
    result: dict[str, Any] | None = None


class _Interface(msgspec.Struct, frozen=True):
    name: str = ""
    mac: str = ""
    sandbox: str = ""


class _Ip(msgspec.Struct, frozen=True):
    address: str = ""
    gateway: str = ""
    interface: int | None = None


class _Dns(msgspec.Struct, frozen=True):
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


class _Result(msgspec.Struct, frozen=True):
    """The parts of a result that are of interest here (section 5, "Success"); null stands for nothing."""

    interfaces: tuple[_Interface, ...] | None = None
    ips: tuple[_Ip, ...] | None = None
    dns: _Dns | None = None


# conflists


def _capabilities(config: dict[str, Any]) -> dict[str, Any]:
    found = config.get("capabilities")
    return found if isinstance(found, dict) else {}


def parse(raw: bytes, path: str = "") -> ConfList:
    """A conflist, or a single plugin's configuration as a chain of one."""
    try:
        document = msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidArgument(f"{path}: {str(error)[:200]}") from None
    plugins = document.get("plugins", [document] if "type" in document else [])
    name, version = document.get("name"), document.get("cniVersion")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgument(f"{path}: $.name: {str(name)[:64]!r} is not the name of a network")
    if version not in VERSIONS:
        raise InvalidArgument(f"{path}: $.cniVersion: {str(version)[:32]!r} is none of {', '.join(VERSIONS)}")
    if not isinstance(plugins, list) or not 1 <= len(plugins) <= MAX_PLUGINS:
        raise InvalidArgument(f"{path}: $.plugins: want a list of 1 to {MAX_PLUGINS} plugins")
    for position, entry in enumerate(plugins):
        if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
            raise InvalidArgument(f"{path}: $.plugins[{position}].type: want the name of a plugin")
    return ConfList(
        name=name,
        version=version,
        plugins=tuple(plugins),
        disable_check=document.get("disableCheck") in (True, "true"),
        path=path,
    )


def read(directory: Path | None = None) -> tuple[dict[str, ConfList], tuple[str, ...]]:
    """All conflists of a directory by name, and a line about each file that is none. Of two with the same name the
    first file counts."""
    found: dict[str, ConfList] = {}
    problems = []
    for entry in files(directory):
        if isinstance(entry, ConfList):
            found.setdefault(entry.name, entry)
        else:
            problems.append(str(entry))
    return found, tuple(problems)


def files(directory: Path | None = None) -> list[ConfList | OrlopError]:
    """What each file of a directory defines, by file name; for one that is no conflist, why."""
    try:
        paths = sorted(p for p in (directory or CONFIG_DIRECTORY).iterdir() if p.suffix in SUFFIXES)
    except OSError:  # none installed
        return []
    return [_file(path) for path in paths]


def _file(path: Path) -> ConfList | OrlopError:
    try:
        with os_errors("read"), path.open("rb") as file:
            return parse(file.read(MAX_CONFIG), str(path))
    except OrlopError as error:
        return error


def find(name: str, directory: Path | None = None) -> ConfList:
    found, problems = read(directory)
    if name not in found:
        hint = f" ({problems[0]})" if problems else ""
        raise NotFound(f"network {name} not found{hint}")
    return found[name]


def plugin_directories(chosen: Sequence[Path] | None = None) -> tuple[Path, ...]:
    """Where plugins are: what the caller chose, else $CNI_PATH, else the usual places."""
    if chosen is not None:
        return tuple(chosen)
    named = tuple(Path(part) for part in os.environ.get("CNI_PATH", "").split(":") if part.startswith("/"))
    return named or tuple(path for path in PLUGIN_DIRECTORIES if path.is_dir())


def as_network(conflist: ConfList) -> Network:
    options = {"plugins": ",".join(p["type"] for p in conflist.plugins), "cniVersion": conflist.version}
    return Network(name=conflist.name, driver="cni", conflist=conflist.path, options=options)


def runtime_arguments(
    conflist: ConfList, ports: Sequence[PublishedPort], addresses: Sequence[str], mac: str
) -> dict[str, Any]:
    """What the container wants, by capability. It is an error if no plugin of the chain takes it."""
    wanted: dict[str, Any] = {}
    if ports:
        wanted["portMappings"] = [
            {
                "hostPort": p.host_port,
                "containerPort": p.container_port,
                "protocol": p.protocol,
                **({"hostIP": p.host_address} if p.host_address else {}),
            }
            for p in ports
        ]
    if addresses:
        wanted["ips"] = list(addresses)
    if mac:
        wanted["mac"] = mac
    for capability in wanted:
        if not conflist.capable(capability):
            raise InvalidArgument(f"network {conflist.name}: no plugin in {conflist.path} has capability {capability}")
    return wanted


def arguments(owner: str, pod: Pod | None) -> str:
    """CNI_ARGS, as kubelet's plugins expect them of every runtime (CNI, CONVENTIONS.md); "" for what is no pod."""
    if pod is None:
        return ""
    pairs = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": pod.namespace,
        "K8S_POD_NAME": pod.name,
        "K8S_POD_INFRA_CONTAINER_ID": owner,
        "K8S_POD_UID": pod.uid,
    }
    for name, value in pairs.items():
        if ";" in value or "=" in value or not value.isprintable():
            raise InvalidArgument(f"pod: {value[:64]!r} can't be told to CNI's plugins as {name}")
    return ";".join(f"{name}={value}" for name, value in pairs.items())


# the verbs


def _request(cached: Cached, config: dict[str, Any], previous: dict[str, Any] | None) -> bytes:
    """A plugin's configuration as it goes to its standard input (section 4, "Deriving execution configuration")."""
    runtime = {k: v for k, v in cached.runtime.items() if _capabilities(config).get(k) is True}
    more = {"runtimeConfig": runtime} if runtime else {}
    if previous is not None:
        more["prevResult"] = previous
    return _derived(cached.conflist, config, more)


def _derived(conflist: ConfList, config: dict[str, Any], more: dict[str, Any] | None = None) -> bytes:
    derived = {k: v for k, v in config.items() if k not in ("capabilities", "runtimeConfig", "prevResult")}
    return msgspec.json.encode(derived | {"cniVersion": conflist.version, "name": conflist.name} | (more or {}))


def _run(
    cached: Cached,
    verb: str,
    config: dict[str, Any],
    previous: dict[str, Any] | None,
    timeout: float = plugin.TIMEOUT,
) -> bytes:
    environment = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": cached.owner,
        "CNI_NETNS": cached.netns,
        "CNI_IFNAME": cached.interface,
        "CNI_PATH": ":".join(cached.plugin_path),
        "PATH": _PATH,
    }
    if cached.arguments:
        environment["CNI_ARGS"] = cached.arguments
    program = plugin.find(config["type"], [Path(p) for p in cached.plugin_path])
    return plugin.run(program, _request(cached, config, previous), environment, timeout)


def programs(conflist: ConfList, directories: Sequence[Path]) -> None:
    """Raises NotFound where a plugin of the chain, or one that gives it addresses, is not there."""
    for config in conflist.plugins:
        plugin.find(config["type"], directories)
        ipam = config.get("ipam")
        if isinstance(ipam, dict) and isinstance(kind := ipam.get("type"), str) and kind:
            plugin.find(kind, directories)


def status(conflist: ConfList, directories: Sequence[Path]) -> None:
    """Ask every plugin whether it could serve an ADD now; raises what the first that can't says. Versions before 1.1.0
    cannot tell (section 2, "STATUS")."""
    if conflist.version not in _WITH_STATUS:
        return
    environment = {"CNI_COMMAND": "STATUS", "CNI_PATH": ":".join(map(str, directories)), "PATH": _PATH}
    for config in conflist.plugins:
        program = plugin.find(config["type"], directories)
        plugin.run(program, _derived(conflist, config), environment, STATUS_TIMEOUT)


def at(cached: Cached, netns: str) -> Cached:
    """With the path under which the namespace is now to be found, "" if it is gone."""
    return msgspec.structs.replace(cached, netns=netns)


def add(cached: Cached) -> Cached:
    """Run the chain; returns what is to be kept. On failure what was made is removed again."""
    result: dict[str, Any] | None = None
    try:
        for config in cached.conflist.plugins:
            output = _run(cached, "ADD", config, result)
            try:
                result = msgspec.json.decode(output, type=dict[str, Any])
            except (msgspec.MsgspecError, RecursionError) as error:
                raise Unavailable(f"cni plugin {config['type']} ADD: its answer: {str(error)[:200]}") from None
    except BaseException:
        _clean_up(msgspec.structs.replace(cached, result=result))
        raise
    return msgspec.structs.replace(cached, result=result)


def _clean_up(cached: Cached) -> None:
    """DEL after an ADD that failed, whose error is the one to show."""
    try:
        with cancel.under(None):
            delete(cached, CLEAN_UP_TIMEOUT)
    except OrlopError:
        return


def check(cached: Cached) -> None:
    """Raises if a plugin finds that the attachment is not what it made. Versions before 0.4.0 cannot tell."""
    if cached.conflist.disable_check or VERSIONS.index(cached.conflist.version) < VERSIONS.index("0.4.0"):
        return
    for config in cached.conflist.plugins:
        _run(cached, "CHECK", config, cached.result)


def delete(cached: Cached, timeout: float = plugin.TIMEOUT) -> None:
    """Run the chain backward. Every plugin gets its chance; the first error is raised at the end."""
    first: OrlopError | None = None
    # plugins of versions before 0.4.0 do not expect a result here
    old = VERSIONS.index(cached.conflist.version) < VERSIONS.index("0.4.0")
    for config in reversed(cached.conflist.plugins):
        try:
            _run(cached, "DEL", config, None if old else cached.result, timeout)
        except OrlopError as error:
            first = first or error
    if first is not None:
        raise first


def attachment_of(cached: Cached, ports: tuple[PublishedPort, ...]) -> Attachment:
    """As `attachment_for`; what was added with a result that can't be read is removed again."""
    try:
        return attachment_for(cached, ports)
    except OrlopError:
        _clean_up(cached)
        raise


def attachment_for(cached: Cached, ports: tuple[PublishedPort, ...]) -> Attachment:
    """What the chain's last result says of the container's interface."""
    try:
        result = msgspec.convert(cached.result, known(_Result))
    except msgspec.ValidationError as error:
        raise Unavailable(f"network {cached.conflist.name}: cni result: {str(error)[:200]}") from None
    interfaces = result.interfaces or ()
    inside = [n for n, i in enumerate(interfaces) if i.sandbox and i.name == cached.interface]
    ips = [ip for ip in result.ips or () if ip.interface is None or not inside or ip.interface in inside]
    if not ips and not interfaces:
        raise FailedPrecondition(f"network {cached.conflist.name}: its plugins made no interface")
    dns = result.dns or _Dns()
    return Attachment(
        owner=cached.owner,
        network=cached.conflist.name,
        driver="cni",
        interface=cached.interface,
        mac=next((interfaces[n].mac for n in inside), ""),
        addresses=tuple(ip.address for ip in ips),
        gateways=tuple(ip.gateway for ip in ips if ip.gateway),
        bridge=next((i.name for i in interfaces if not i.sandbox), ""),
        ports=ports,
        dns=dns.nameservers,
        dns_search=dns.search,
    )
