"""An image as `docker image inspect` shows it (Engine API, ImageInspect). Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from orlop.cli.docker.moments import rfc3339
from orlop.engine.images.image import Image
from orlop.snapshots.mounts import Mount, Overlay

Json = dict[str, Any]


def image_json(image: Image, driver: str, layers: tuple[Mount, ...] = ()) -> Json:
    """All of it. `layers` is what a container's root would be mounted from."""
    config = image.config
    return {
        "Id": image.id,
        "RepoTags": list(image.tags),
        "RepoDigests": list(image.repository_digests),
        "Parent": "",
        "Comment": next((h.comment for h in reversed(config.history or ()) if h.comment), ""),
        "Created": image.created,
        "DockerVersion": "",
        "Author": config.author,
        "Config": _defaults(image),
        "Architecture": config.architecture,
        "Variant": config.variant,
        "Os": config.os,
        "Size": image.size,
        "GraphDriver": {"Data": _directories(layers), "Name": driver},
        "RootFS": {"Type": "layers", "Layers": list(config.rootfs.diff_ids)},
        "Metadata": {"LastTagTime": rfc3339(image.updated)},
        "Descriptor": msgspec.to_builtins(image.target),
    }


def _defaults(image: Image) -> Json:
    defaults = image.config.defaults
    return {
        "User": defaults.user,
        "ExposedPorts": defaults.exposed_ports,
        "Env": list(defaults.env) if defaults.env is not None else None,
        "Cmd": list(defaults.cmd) if defaults.cmd is not None else None,
        "Volumes": defaults.volumes,
        "WorkingDir": defaults.working_dir,
        "Entrypoint": list(defaults.entrypoint) if defaults.entrypoint is not None else None,
        "OnBuild": list(defaults.on_build) if defaults.on_build is not None else None,
        "Labels": defaults.labels,
        "StopSignal": defaults.stop_signal,
        "Shell": list(defaults.shell) if defaults.shell is not None else None,
        "Healthcheck": msgspec.to_builtins(defaults.healthcheck),
    }


def _directories(layers: tuple[Mount, ...]) -> Json | None:
    for mount in layers:
        return {"LowerDir": ":".join(mount.lower)} if isinstance(mount, Overlay) else {"Dir": mount.source}
    return None
