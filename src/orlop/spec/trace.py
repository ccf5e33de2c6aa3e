"""What happened in a call, and when: spans as OpenTelemetry has them, collected where the work is done.

    with trace.span("start"):           # a stretch of work, and what is noted within it
        trace.step("start.files")       # from the last note until now

Nothing is collected, and nothing is computed, where the caller has set no trace. Pure: clock and numbers are the only
things looked at.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count

import msgspec

Value = str | int | bool | tuple[str, ...]
MOST = 2000  # spans of one trace


class Span(msgspec.Struct, kw_only=True):
    """Times are nanoseconds since the epoch; `parent` 0 means none."""

    trace_id: int  # 128 bits
    span_id: int  # 64 bits
    parent: int
    name: str
    start: int
    end: int = 0
    attributes: dict[str, Value] = {}
    error: str = ""
    server: bool = False


class Trace:
    """One call's spans. `trace_id` and `span_id` are random numbers, never 0."""

    def __init__(self, name: str, trace_id: int, span_id: int, parent: int = 0) -> None:
        begun = time.time_ns()
        self.root = Span(trace_id=trace_id, span_id=span_id, parent=parent, name=name, start=begun, server=True)
        self.spans = [self.root]
        self._numbers = count(1)

    def add(self, name: str, parent: Span, start: int, attributes: dict[str, Value]) -> Span:
        identifier = (self.root.span_id + next(self._numbers)) & (1 << 64) - 1 or 1
        span = Span(
            trace_id=self.root.trace_id,
            span_id=identifier,
            parent=parent.span_id,
            name=name,
            start=start,
            attributes=attributes,
        )
        if len(self.spans) < MOST:
            self.spans.append(span)
        return span


class _Scope:
    """Where in a trace the work stands: beneath which span, and when the last note was made."""

    __slots__ = ("mark", "span", "trace")

    def __init__(self, trace: Trace, span: Span, mark: int) -> None:
        self.trace, self.span, self.mark = trace, span, mark


_scope: ContextVar[_Scope | None] = ContextVar("orlop-trace", default=None)


@contextmanager
def tracing(trace: Trace) -> Iterator[None]:
    """What is noted within the block, and in contexts copied from it, belongs to this trace."""
    token = _scope.set(_Scope(trace, trace.root, trace.root.start))
    try:
        yield
    finally:
        _scope.reset(token)


def active() -> bool:
    """Whether notes are collected: for what takes work to note."""
    return _scope.get() is not None


def step(name: str, **attributes: Value) -> None:
    """Something has been done: a span from the last note in this stretch of work until now."""
    scope = _scope.get()
    if scope is None:
        return
    span = scope.trace.add(name, scope.span, scope.mark, attributes)
    span.end = scope.mark = time.time_ns()


def failed(error: BaseException) -> None:
    """The stretch of work has ended with an error."""
    scope = _scope.get()
    if scope is not None:
        scope.span.error = str(error) or type(error).__name__


@contextmanager
def span(name: str, **attributes: Value) -> Iterator[None]:
    """A stretch of work; what is noted within it is part of it."""
    outer = _scope.get()
    if outer is None:
        yield
        return
    now = time.time_ns()
    mine = outer.trace.add(name, outer.span, now, attributes)
    token = _scope.set(_Scope(outer.trace, mine, now))
    try:
        yield
    except BaseException as error:
        failed(error)
        raise
    finally:
        _scope.reset(token)
        mine.end = outer.mark = time.time_ns()


def traceparent(text: str) -> tuple[int, int, bool] | None:
    """Trace, parent and whether it is sampled, of a `traceparent` (W3C Trace Context, 3.2); None for what is none."""
    parts = text.strip().split("-")
    if len(parts) < 4 or [len(part) for part in parts[:4]] != [2, 32, 16, 2] or parts[0] == "ff":
        return None
    if any(c not in "0123456789abcdef" for part in parts[:4] for c in part):
        return None
    trace_id, parent, flags = (int(part, 16) for part in parts[1:4])
    return (trace_id, parent, bool(flags & 1)) if trace_id and parent else None
