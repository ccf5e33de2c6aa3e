"""`/metrics` for Prometheus: what the daemon does, in the text format of version 0.0.4.

Figures of pods and containers themselves are CRI's (`orlop.cri.metrics`); here is the daemon.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

import orlop
from orlop.cri.calls import BOUNDS, Calls
from orlop.cri.node import Node
from orlop.engine.records import is_sandbox
from orlop.spec.errors import InvalidArgument, OrlopError, from_os

if TYPE_CHECKING:
    import h11

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PATIENCE = 10.0  # seconds for a request to come and its answer to go
_REQUEST_MAX = 16 << 10

log = logging.getLogger("orlop.daemon")

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]  # what is added to the family's name, labels, value


class Family(msgspec.Struct, frozen=True):
    """One metric: its name, type and help, and its samples."""

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]


def render(families: Iterable[Family]) -> str:
    """The exposition format. Pure."""
    lines = []
    for family in families:
        lines.append(f"# HELP {family.name} {family.help}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for suffix, labels, value in family.samples:
            inner = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            lines.append(f"{family.name}{suffix}{f'{{{inner}}}' if inner else ''} {_number(value)}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def of_calls(calls: Calls) -> list[Family]:
    """Calls by name and code, how long they took, how many are under way, and the ends of containers."""
    buckets: list[Sample] = []
    for name, durations in sorted(calls.durations.items()):
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), durations.counts, strict=True):
            buckets.append(("_bucket", {"method": name, "le": bound}, count))
        buckets.append(("_sum", {"method": name}, durations.sum))
        buckets.append(("_count", {"method": name}, durations.counts[-1]))
    ended: tuple[Sample, ...] = tuple(
        ("", {"method": name, "code": code}, n) for (name, code), n in sorted(calls.ended.items())
    )
    flying: tuple[Sample, ...] = tuple(("", {"method": name}, n) for name, n in sorted(calls.in_flight.items()))
    exits: tuple[Sample, ...] = tuple(("", {"reason": why}, n) for why, n in sorted(calls.exits.items()))
    return [
        Family("orlop_cri_calls_total", "counter", "Calls that have ended, by gRPC code.", ended),
        Family("orlop_cri_call_duration_seconds", "histogram", "How long calls took; no streams.", tuple(buckets)),
        Family("orlop_cri_calls_in_flight", "gauge", "Calls that are under way.", flying),
        Family("orlop_container_exits_total", "counter", "Containers and sandboxes that ended, by reason.", exits),
    ]


def of_store(node: Node) -> list[Family]:
    """Pods and containers by state, and images."""
    pods: Counter[str] = Counter()
    containers: Counter[str] = Counter()
    for container in node.containers():
        (pods if is_sandbox(container) else containers)[container.state] += 1
    return [
        Family("orlop_pods", "gauge", "Pod sandboxes by state.", _by_state(pods)),
        Family("orlop_containers", "gauge", "Containers by state.", _by_state(containers)),
        _one("orlop_images", "gauge", "Images.", len(node.engine.images.list())),
    ]


def _by_state(found: Counter[str]) -> tuple[Sample, ...]:
    return tuple(("", {"state": state}, n) for state, n in sorted(found.items()))


def of_process() -> list[Family]:
    """This process, by the names that are usual."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b") ")[2].split()
    with open("/proc/stat", "rb") as file:
        booted = next((int(line.split()[1]) for line in file if line.startswith(b"btime ")), 0)
    ticks = os.sysconf("SC_CLK_TCK")
    page = os.sysconf("SC_PAGE_SIZE")
    return [
        _one("process_cpu_seconds_total", "counter", "CPU time.", (int(fields[11]) + int(fields[12])) / ticks),
        _one("process_virtual_memory_bytes", "gauge", "Virtual memory.", int(fields[20])),
        _one("process_resident_memory_bytes", "gauge", "Resident memory.", int(fields[21]) * page),
        _one("process_start_time_seconds", "gauge", "Start, since the epoch.", booted + int(fields[19]) / ticks),
        _one("process_threads", "gauge", "Threads.", int(fields[17])),
        _one("process_open_fds", "gauge", "Open descriptors.", len(os.listdir("/proc/self/fd"))),
        _one("process_max_fds", "gauge", "Limit of descriptors.", resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        Family("orlop_build_info", "gauge", "Version.", (("", {"version": orlop.__version__}, 1),)),
    ]


def _one(name: str, kind: str, help: str, value: float) -> Family:
    return Family(name, kind, help, (("", {}, value),))


def split_address(text: str) -> tuple[str, int]:
    """`host:port`, `[::1]:port` or `:port`. Raises InvalidArgument."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise InvalidArgument(f"metrics.address: {text[:128]!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


class Server:
    """Answers GET /metrics, and nothing else; a connection serves one request."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._server: asyncio.Server | None = None
        self.address = ""

    async def start(self, address: str) -> None:
        """Raises an error of the system's, as where the port is taken."""
        host, port = split_address(address)
        try:
            self._server = await asyncio.start_server(self._serve, host or None, port)
        except OSError as error:
            raise from_os(error, f"metrics.address: listen on {address}") from error
        name = self._server.sockets[0].getsockname()
        self.address = f"{name[0]}:{name[1]}"

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import h11  # with the first who asks

        try:
            async with asyncio.timeout(_PATIENCE):
                await self._answer(reader, writer)
        except (OSError, TimeoutError, h11.ProtocolError):
            pass  # whoever asked is gone, too slow, or speaks no HTTP
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import h11

        http = h11.Connection(h11.SERVER, max_incomplete_event_size=_REQUEST_MAX)
        while (event := http.next_event()) is h11.NEED_DATA:
            http.receive_data(await reader.read(_REQUEST_MAX))
        if not isinstance(event, h11.Request):
            return
        status, text = await self._page(event)
        body = text.encode()
        headers = [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(body))), ("Connection", "close")]
        writer.write(http.send(h11.Response(status_code=status, headers=headers)) or b"")
        if event.method != b"HEAD":
            writer.write(body)
        await writer.drain()

    async def _page(self, request: h11.Request) -> tuple[int, str]:
        if request.method not in (b"GET", b"HEAD"):
            return 405, "only GET is answered\n"
        if request.target.split(b"?")[0] != b"/metrics":
            return 404, "the page is /metrics\n"
        try:
            return 200, await self._node.call(self._whole)
        except OrlopError as error:
            log.error("/metrics: %s", error)
            return 500, f"{error}\n"

    def _whole(self) -> str:
        return render([*of_calls(self._node.calls), *of_store(self._node), *of_process()])
