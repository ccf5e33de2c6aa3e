"""Which network pods get, and whether it can be had now.

The first conflist of CNI's directory, by file name, is the network of pods; where there is none, the built-in bridge.
`cri.network` of the configuration names one instead: a conflist's or a network of the engine's own. The directory is
looked at for every pod, so that a changed file counts at once; it is read again only when it has changed.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from pathlib import Path

import msgspec

from orlop.engine.config import ContainerConfig
from orlop.engine.engine import Engine
from orlop.network import cni
from orlop.network.networks import CNI, DEFAULT
from orlop.network.records import Subnet
from orlop.spec.errors import AlreadyExists, InvalidArgument, NotFound, OrlopError, Unavailable, os_errors

log = logging.getLogger("orlop.cri.network")
_ASKED_AGAIN = 5.0  # seconds for which the plugins' word that they are ready is taken


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A network for pods: `mode` as the engine has it. `problem` says why it can't be had; then there is no mode."""

    mode: str = ""
    message: str = ""
    problem: str = ""
    conflist: cni.ConfList | None = None

    @property
    def reason(self) -> str:
        """One word for a condition of the node; kubelet's own for a network that is not ready."""
        if self.problem:
            return "NetworkPluginNotReady"
        return "CNI" if self.conflist is not None else "BuiltIn"


def choose(
    wanted: str, found: Sequence[cni.ConfList | OrlopError], directory: Path, own: Sequence[str], pods: str
) -> Choice:
    """Pure. `wanted` is what the configuration names, `found` the files in order, `own` the engine's networks by name,
    `pods` the one of them that pods are in where nothing else is said."""
    if wanted:
        return _named(wanted, found, directory, own, pods)
    if not found:
        return Choice(mode=pods, message=f"built-in bridge: there is no conflist in {directory}")
    first = found[0]
    if isinstance(first, OrlopError):
        return Choice(problem=f"{first}; mend the file, or remove it")
    return _conflist(first)


def _named(
    wanted: str, found: Sequence[cni.ConfList | OrlopError], directory: Path, own: Sequence[str], pods: str
) -> Choice:
    if wanted == DEFAULT:
        return Choice(mode=pods, message="built-in bridge: cri.network names it")
    if wanted in own:
        return Choice(mode=wanted, message=f"network {wanted}: cri.network names it")
    for entry in found:
        if isinstance(entry, cni.ConfList) and entry.name == wanted:
            return _conflist(entry)
    broken = next((f" ({entry})" for entry in found if isinstance(entry, OrlopError)), "")
    return Choice(problem=f"network {wanted}, which cri.network names, is not in {directory}{broken}")


def _conflist(entry: cni.ConfList) -> Choice:
    return Choice(mode=CNI + entry.name, message=f"network {entry.name} from {entry.path}", conflist=entry)


class PodNetwork:
    """The network of a node's pods. Safe for several threads."""

    def __init__(self, engine: Engine, wanted: str = "") -> None:
        self._engine = engine
        self._wanted = wanted
        self._directory = engine.cni_config or cni.CONFIG_DIRECTORY
        self._read: tuple[object, list[cni.ConfList | OrlopError]] = (None, [])
        self._asked: tuple[cni.ConfList | None, float] = (None, 0.0)

    def ready(self, pod: ContainerConfig) -> str:
        """The mode of the network that a pod is to get now. Raises Unavailable where it can't be had."""
        choice = self.look()
        if choice.problem:
            raise Unavailable(f"network is not ready: {choice.problem}")
        for left in _left(pod, choice):
            log.warning("pod sandbox %s: %s", pod.name, left)
        return choice.mode

    def look(self) -> Choice:
        """The network of pods as it is now, its plugins asked whether they are ready."""
        choice = choose(self._wanted, self._files(), self._directory, self._own(), self.pods_name())
        try:
            if choice.conflist is not None:
                self._ask(choice.conflist)
            elif choice.mode:
                self._ensure(choice.mode)
        except OrlopError as error:
            return Choice(problem=f"{choice.message}: {error}")
        return choice

    def _own(self) -> tuple[str, ...]:
        """Names are of interest only where one is wanted."""
        if not self._wanted or self._wanted == DEFAULT:
            return ()
        return tuple(network.name for network in self._engine.networks.list() if network.driver != "cni")

    def _files(self) -> list[cni.ConfList | OrlopError]:
        state = _state(self._directory)
        before, found = self._read
        if state != before:
            found = cni.files(self._directory)
            self._read = (state, found)
        return found

    def _ask(self, conflist: cni.ConfList) -> None:
        """The programs are looked for every time; those that can tell whether they are ready are asked now and then."""
        directories = cni.plugin_directories(self._engine.cni_plugins)
        cni.programs(conflist, directories)
        asked, when = self._asked
        if asked is not conflist or time.monotonic() > when + _ASKED_AGAIN:
            cni.status(conflist, directories)
            self._asked = (conflist, time.monotonic())

    # the built-in bridge

    def pods_name(self) -> str:
        """The built-in network that pods are in: one with the node's own range, once that is known."""
        ranges = self._ranges()
        return _name(ranges) if ranges else DEFAULT

    def take_ranges(self, text: str) -> None:
        """The range of this node's pods, as UpdateRuntimeConfig has it: one of IPv4, of IPv6, or both with a comma
        between. New pods get addresses from it; those that are there keep theirs. Where a conflist rules, it says which
        addresses there are, and the range is kept for when it does not any more."""
        ranges = _parse(text)
        if ranges == self._ranges():
            return
        self._make(ranges)
        path = self._path()
        with os_errors("keep the range of pods"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            fresh.write_text(",".join(ranges))
            fresh.rename(path)
        log.info("pods have addresses from %s where no conflist says otherwise", ", ".join(ranges))

    def _path(self) -> Path:
        return self._engine.paths.networks / "pod-ranges"

    def _ranges(self) -> tuple[str, ...]:
        try:
            return tuple(self._path().read_text().split(","))
        except OSError:  # none was told
            return ()

    def _ensure(self, name: str) -> None:
        """The network of the pods' ranges goes with `network prune`."""
        ranges = self._ranges()
        if not ranges or name != _name(ranges):
            return
        try:
            self._engine.networks.inspect(name)
        except NotFound:
            self._make(ranges)

    def _make(self, ranges: tuple[str, ...]) -> None:
        subnets = [Subnet(subnet=text) for text in ranges]
        try:
            self._engine.networks.create(_name(ranges), subnets=subnets, labels={"orlop.pods": "true"})
        except AlreadyExists:
            return


def _left(pod: ContainerConfig, choice: Choice) -> Iterator[str]:
    """What a pod asks of its network and this one does not do itself."""
    able = choice.conflist.capable if choice.conflist is not None else ({"portMappings", "bandwidth"}.__contains__)
    if pod.network.ports and not able("portMappings"):
        yield f"its host ports are left to others: no plugin of {choice.message} has capability portMappings"
    if "bandwidth" in pod.network.capabilities and not able("bandwidth"):
        yield f"its bandwidth is not limited: nothing in {choice.message} has capability bandwidth"


def _state(directory: Path) -> object:
    """What changes when a file of the directory does."""
    try:
        with os.scandir(directory) as entries:
            found = [(e.name, e.stat()) for e in entries if e.name.endswith(cni.SUFFIXES)]
    except OSError:
        return ()
    return sorted((name, info.st_mtime_ns, info.st_size, info.st_ino) for name, info in found)


def _parse(text: str) -> tuple[str, ...]:
    try:
        ranges = [ip_network(part.strip()) for part in text.split(",")]
    except ValueError as error:
        raise InvalidArgument(f"runtime_config.network_config.pod_cidr {text[:128]!r}: {error}") from None
    if len({found.version for found in ranges}) != len(ranges):
        raise InvalidArgument(f"runtime_config.network_config.pod_cidr {text[:128]!r}: at most one of each IP version")
    return tuple(str(found) for found in sorted(ranges, key=lambda found: found.version))


def _name(ranges: tuple[str, ...]) -> str:
    """A network's name has no slash and no colon."""
    return "pods-" + "_".join(ranges).replace("/", "-").replace(":", "-")
