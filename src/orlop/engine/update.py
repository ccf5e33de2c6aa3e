"""Other limits for a container in being."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from orlop.engine import groups, settle
from orlop.engine.config import ContainerConfig
from orlop.engine.oci.resources import check_limits, check_processors, limits_of
from orlop.engine.records import Container
from orlop.spec.errors import NotFound

if TYPE_CHECKING:
    from orlop.engine.engine import Engine


def update(engine: Engine, container: Container, config: ContainerConfig) -> Container:
    """Give a container the limits of `config`, now if it runs, and from its next start on. Devices stay as they are.

    On failure the kernel may have taken a part of them; the record then tells the old ones.
    """
    from orlop.cgroups import driver

    check_limits(config.limits, config.pod is not None)
    check_processors(config.limits, os.cpu_count() or 0)
    with settle.held(engine, container.id) as now:
        if now is None:
            raise NotFound(f"no such container: {container.name}")
        if now.running:
            resources = limits_of(config, os.cpu_count() or 0)
            driver.update(engine.cgroups, groups.place(now.record), msgspec.structs.replace(resources, devices=()))
        return engine.containers.store.reconfigure(now.id, now.name, config)
