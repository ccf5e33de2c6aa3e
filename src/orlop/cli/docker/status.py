"""A container's state in Docker's words: the STATUS column, and its ports. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orlop.cli.docker.units import human_duration
from orlop.engine import lifecycle
from orlop.engine.records import Container
from orlop.network.records import PublishedPort

# Docker's word for each state
STATES = {
    lifecycle.CREATING: "created",
    lifecycle.STARTING: "created",
    lifecycle.REMOVING: "removing",
}
ALL_STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")


def state(container: Container) -> str:
    """`created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`."""
    return STATES.get(container.state, container.state)


def status(container: Container, now: float) -> str:
    """`Up 3 minutes`, `Exited (0) 2 hours ago`, ..."""
    record, word = container.record, state(container)
    if word in ("running", "paused"):
        return f"Up {human_duration(now - record.started)}" + (" (Paused)" if word == "paused" else "")
    if word == "restarting":
        return f"Restarting ({record.exit_code}) {human_duration(now - record.finished)} ago"
    if word == "exited":
        return f"Exited ({record.exit_code}) {human_duration(now - record.finished)} ago"
    return {"created": "Created", "removing": "Removal In Progress"}.get(word, "Dead")


def hosts(port: PublishedPort) -> tuple[str, ...]:
    """The host's addresses that a port is published on: without one, all of both families."""
    return (port.host_address,) if port.host_address else ("0.0.0.0", "::")


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def ports_text(published: Sequence[PublishedPort], exposed: Iterable[str]) -> str:
    """The PORTS column: `0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 443/tcp`; neighbours are drawn together."""
    taken = {f"{port.container_port}/{port.protocol}" for port in published}
    rows = [
        (address, port.host_port, port.container_port, port.protocol) for port in published for address in hosts(port)
    ]
    for text in exposed:
        number, _, protocol = text.partition("/")
        if number.isdigit() and f"{number}/{protocol or 'tcp'}" not in taken:
            rows.append(("", 0, int(number), protocol or "tcp"))
    return ", ".join(_span(first, last) for first, last in _spans(sorted(rows, key=_order)))


_Row = tuple[str, int, int, str]


def _order(row: _Row) -> tuple[str, bool, str, int, int]:
    address, outside, inside, protocol = row
    return (protocol, not address, address, inside, outside)


def _spans(rows: list[_Row]) -> list[tuple[_Row, _Row]]:
    """Runs in which both ports go up by one."""
    spans: list[tuple[_Row, _Row]] = []
    for row in rows:
        if spans and row == _next(spans[-1][1]):
            spans[-1] = (spans[-1][0], row)
        else:
            spans.append((row, row))
    return spans


def _next(row: _Row) -> _Row:
    address, outside, inside, protocol = row
    return (address, outside + 1 if address else 0, inside + 1, protocol)


def _span(first: _Row, last: _Row) -> str:
    address, outside, inside, protocol = first
    text = f"{inside}-{last[2]}" if last[2] != inside else str(inside)
    if address:
        front = f"{outside}-{last[1]}" if last[1] != outside else str(outside)
        text = f"{bracketed(address)}:{front}->{text}"
    return f"{text}/{protocol}"
