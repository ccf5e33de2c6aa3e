"""What `--verbose` shows: JSON texts by name, for people and for crictl."""

from __future__ import annotations

from typing import Any

import msgspec

from orlop.cri import answers
from orlop.engine.engine import Engine
from orlop.engine.records import Container


def sandbox_info(engine: Engine, sandbox: Container) -> dict[str, str]:
    request = answers.pod_request(sandbox)
    return {"info": _json(_common(engine, sandbox) | {"config": _plain(request.config)})}


def container_info(engine: Engine, container: Container) -> dict[str, str]:
    request = answers.container_request(container)
    sandbox = {"sandboxID": request.pod_sandbox_id}
    return {"info": _json(_common(engine, container) | sandbox | {"config": _plain(request.config)})}


def _common(engine: Engine, container: Container) -> dict[str, Any]:
    from orlop.engine.exec import read_spec
    from orlop.spec.errors import NotFound

    try:
        spec: Any = msgspec.to_builtins(read_spec(engine, container))
    except NotFound:
        spec = None  # not started yet
    return {
        "pid": container.record.pid,
        "state": container.state,
        "cgroup": container.record.cgroup,
        "snapshotKey": container.record.snapshot,
        "runtimeSpec": spec,
    }


def _plain(message: Any) -> dict[str, Any]:
    """A message of the interface as its JSON has it."""
    from google.protobuf.json_format import MessageToDict

    found: dict[str, Any] = MessageToDict(message)
    return found


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
