"""A volume as `docker volume inspect` shows it (Engine API, Volume). Pure."""

from __future__ import annotations

from typing import Any

from orlop.cli.docker.moments import rfc3339
from orlop.engine.records import Volume


def volume_json(volume: Volume) -> dict[str, Any]:
    """All of it."""
    return {
        "CreatedAt": rfc3339(volume.created),
        "Driver": volume.driver,
        "Labels": volume.labels or None,
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": volume.options or None,
        "Scope": "local",
    }
