"""The daemon's log: a line on standard error for each event, as text or as JSON."""

from __future__ import annotations

import logging
import time
import traceback

import msgspec

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class TextFormatter(logging.Formatter):
    """`2026-11-21T14:00:00.123Z info orlop.cri: message`."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{moment(record)} {record.levelname.lower()} {record.name}: {one_line(record.getMessage())}"
        return line + (f"\n{_trace(record)}" if record.exc_info else "")


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, and what the caller gave as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["trace"] = _trace(record)
        return msgspec.json.encode(entry).decode()


def moment(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03}Z"


def one_line(text: str) -> str:
    return text.replace("\n", "\\n")


def _trace(record: logging.LogRecord) -> str:
    assert record.exc_info is not None
    return "".join(traceback.format_exception(*record.exc_info)).rstrip()


def configure(level: str, kind: str) -> None:
    """Log to standard error from now on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if kind == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
