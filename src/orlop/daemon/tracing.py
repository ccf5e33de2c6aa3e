"""Sends traces to a collector: OTLP over HTTP, as JSON (OpenTelemetry protocol, "JSON Protobuf Encoding").

One thread sends what calls have left, a batch at a time; a collector that is slow or away costs traces, never calls.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import msgspec
import urllib3

import orlop
from orlop.spec.errors import InvalidArgument
from orlop.spec.trace import Span, Trace, Value, traceparent

_WAITING = 1000  # traces that wait to be sent, at most
_BATCH = 64  # traces
_INTERVAL = 1.0  # seconds between batches
_TIMEOUT = 5.0  # seconds for the collector's answer
_SERVER, _INTERNAL = 2, 1
_ERROR = 2

log = logging.getLogger("orlop.daemon")


def check(endpoint: str) -> None:
    """Raises InvalidArgument for what is no address of a collector."""
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise InvalidArgument(f"tracing.endpoint: {endpoint[:128]!r} is no URL such as http://127.0.0.1:4318")


class Exporter:
    """See `orlop.cri.calls.Tracer`. `ratio` is which part is traced of the calls whose caller says nothing of it."""

    def __init__(self, endpoint: str, ratio: float = 1.0) -> None:
        check(endpoint)
        self._url = endpoint.rstrip("/") + ("" if endpoint.rstrip("/").endswith("/v1/traces") else "/v1/traces")
        self._ratio = ratio
        self._random = random.Random(os.urandom(16))
        self._queue: queue.Queue[Trace | None] = queue.Queue(_WAITING)
        self._http = urllib3.PoolManager(1, retries=False, timeout=_TIMEOUT)
        self._lost = 0
        self._broken = False
        self._thread = threading.Thread(target=self._work, name="orlop-traces", daemon=True)
        self._thread.start()

    def begin(self, name: str, parent: str) -> Trace | None:
        given = traceparent(parent) if parent else None
        span_id = self._random.getrandbits(63) + 1
        if given is not None:
            return Trace(name, given[0], span_id, given[1]) if given[2] else None
        if self._random.random() >= self._ratio:
            return None
        return Trace(name, self._random.getrandbits(127) + 1, span_id)

    def end(self, trace: Trace) -> None:
        trace.root.end = time.time_ns()
        try:
            self._queue.put_nowait(trace)
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """Send what is there, and stop."""
        try:
            self._queue.put(None, timeout=_TIMEOUT)
        except queue.Full:
            return
        self._thread.join(2 * _TIMEOUT)

    def _work(self) -> None:
        while True:
            first = self._queue.get()
            batch = [first] if first is not None else []
            last = first is None
            if not last:
                time.sleep(_INTERVAL if self._queue.empty() else 0)
            while len(batch) < _BATCH and not last:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                last = more is None
                batch += [more] if more is not None else []
            if batch:
                self._send(batch)
            if last:
                return

    def _send(self, batch: list[Trace]) -> None:
        body = msgspec.json.encode(message(span for trace in batch for span in trace.spans))
        try:
            answer = self._http.request("POST", self._url, body=body, headers={"Content-Type": "application/json"})
            wrong = "" if answer.status < 300 else f"status {answer.status}"
        except urllib3.exceptions.HTTPError as error:
            wrong = str(error)
        if wrong and not self._broken:
            log.warning("traces can't be sent to %s: %s", self._url, wrong)
        elif self._broken and not wrong:
            log.info("traces are sent to %s again", self._url)
        self._broken = bool(wrong)
        if self._lost:
            log.warning("%d traces were lost: too many waited to be sent", self._lost)
            self._lost = 0


def message(spans: Iterable[Span]) -> dict[str, Any]:
    """An ExportTraceServiceRequest. Pure but for the host's name."""
    resource = {"service.name": "orlop", "service.version": orlop.__version__, "host.name": socket.gethostname()}
    scope = {"name": "orlop", "version": orlop.__version__}
    inner = {"scope": scope, "spans": [_span(span) for span in spans]}
    return {"resourceSpans": [{"resource": {"attributes": _attributes(resource)}, "scopeSpans": [inner]}]}


def _span(span: Span) -> dict[str, Any]:
    found: dict[str, Any] = {
        "traceId": f"{span.trace_id:032x}",
        "spanId": f"{span.span_id:016x}",
        "name": span.name,
        "kind": _SERVER if span.server else _INTERNAL,
        "startTimeUnixNano": str(span.start),
        "endTimeUnixNano": str(span.end or span.start),
        "attributes": _attributes(span.attributes),
    }
    if span.parent:
        found["parentSpanId"] = f"{span.parent:016x}"
    if span.error:
        found["status"] = {"code": _ERROR, "message": span.error}
    return found


def _attributes(attributes: dict[str, Value] | dict[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Value) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, tuple):
        return {"arrayValue": {"values": [{"stringValue": each} for each in value]}}
    return {"stringValue": value}
