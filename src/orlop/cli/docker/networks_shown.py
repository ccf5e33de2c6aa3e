"""The networks that users see: the recorded ones, and those that are always there."""

from __future__ import annotations

from orlop.engine.engine import Engine
from orlop.network.records import Network
from orlop.spec.errors import NotFound

# name: driver, as Docker lists them; the bridge's record is made with its first container
PREDEFINED = {"bridge": "bridge", "host": "host", "none": "null"}


def networks(engine: Engine) -> list[Network]:
    """All of them, by name."""
    found = {network.name: network for network in engine.networks.list()}
    always = {name: Network(name=name, driver=driver) for name, driver in PREDEFINED.items()}
    return [network for _, network in sorted((always | found).items())]


def network(engine: Engine, name: str) -> Network:
    """The one with this name."""
    for each in networks(engine):
        if each.name == name:
            return each
    raise NotFound(f"network {name} not found")
