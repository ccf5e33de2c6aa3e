"""Calls of the interface as they are counted, timed and traced."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Protocol

from orlop.spec import trace
from orlop.spec.trace import Trace

log = logging.getLogger("orlop.cri.calls")
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds


class Tracer(Protocol):
    """Where traces begin and end."""

    def begin(self, name: str, traceparent: str) -> Trace | None:
        """None for a call that is not traced."""

    def end(self, trace: Trace) -> None: ...

    def close(self) -> None:
        """Send what is left."""


class Durations:
    """How many of a call's durations were at most as long as each bound; the last is all of them."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.sum += seconds
        for index, bound in enumerate(BOUNDS):
            if seconds <= bound:
                self.counts[index] += 1
        self.counts[-1] += 1


class Call:
    """One call. `code` is gRPC's name of how it ends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.code = "OK"
        self.message = ""


class Calls:
    """Belongs to the loop's thread."""

    def __init__(self) -> None:
        self.ended: Counter[tuple[str, str]] = Counter()  # by name and code
        self.durations: dict[str, Durations] = {}
        self.in_flight: Counter[str] = Counter()
        self.exits: Counter[str] = Counter()  # of containers, by why
        self.tracer: Tracer | None = None
        self.after: Callable[[], None] | None = None  # called at the end of each

    @contextmanager
    def call(self, name: str, traceparent: Callable[[], str], timed: bool = True) -> Iterator[Call]:
        """Around the whole of a call. A stream is not `timed`: it lasts as long as its caller likes."""
        call = Call(name)
        begun = time.perf_counter()
        traced = self.tracer.begin(name, traceparent()) if self.tracer is not None else None
        self.in_flight[name] += 1
        try:
            with trace.tracing(traced) if traced is not None else nullcontext():
                yield call
        except asyncio.CancelledError:
            call.code = "CANCELLED"
            raise
        finally:
            self.in_flight[name] -= 1
            self.ended[name, call.code] += 1
            seconds = time.perf_counter() - begun
            if timed:
                self.durations.setdefault(name, Durations()).add(seconds)
            if log.isEnabledFor(logging.DEBUG):
                _note(call, seconds)
            if traced is not None and self.tracer is not None:
                traced.root.attributes = {"rpc.system": "grpc", "rpc.method": name, "rpc.grpc.status_code": call.code}
                traced.root.error = call.message if call.code != "OK" else ""
                self.tracer.end(traced)
            if self.after is not None:
                self.after()


def _note(call: Call, seconds: float) -> None:
    fields = {"method": call.name, "code": call.code, "seconds": round(seconds, 6)}
    said = f": {call.message}" if call.message else ""
    log.debug("%s: %s%s", call.name, call.code, said, extra={"fields": fields})
