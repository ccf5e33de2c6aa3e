"""What is written down about networks, and the shape of what is asked of them.

Addresses are text in their canonical form; one with a prefix length (`10.88.0.2/16`) is an interface's. A network's
record stands in the database, an attachment's in the state directory for as long as the kernel has what it describes.
"""

# No `from __future__ import annotations`: what msgspec decodes into it would have to compile at every start.

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

INTERFACE = "eth0"  # the name of the one interface inside a container


class Port(Protocol):
    """A port to publish; engine.config.PortBinding is one."""

    @property
    def container_port(self) -> int: ...
    @property
    def protocol(self) -> str: ...
    @property
    def host_port(self) -> int: ...
    @property
    def host_address(self) -> str: ...


class Pod(Protocol):
    """What Kubernetes calls a pod; engine.config.PodName is one."""

    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...


class AttachRequest(Protocol):
    """What a container asks of its network; engine.config.NetworkRequest is one."""

    @property
    def mode(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def address6(self) -> str: ...
    @property
    def mac_address(self) -> str: ...
    @property
    def ports(self) -> Sequence[Port]: ...
    @property
    def publish_all(self) -> bool: ...
    @property
    def expose(self) -> Sequence[str]: ...
    @property
    def pod(self) -> Pod | None: ...
    @property
    def capabilities(self) -> dict[str, Any]: ...


class _Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class Subnet(_Record, frozen=True, kw_only=True):
    """A range of addresses. `last` is where the search for a free one goes on, so that a released address rests as
    long as possible before it is given to someone else. `range` narrows what is given out by itself."""

    subnet: str
    gateway: str = ""  # always there in a network's record
    range: str = ""
    last: str = ""


class Network(_Record, frozen=True, kw_only=True):
    """A network. `driver` is `bridge`, or `cni` for one that a conflist in the CNI directory defines (never stored).
    An `internal` one has no way out and none in. `mtu` 0: the kernel's default."""

    name: str
    driver: str = "bridge"
    device: str = ""
    subnets: tuple[Subnet, ...] = ()
    internal: bool = False
    mtu: int = 0
    created: float = 0.0
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    conflist: str = ""  # cni: the file


class PublishedPort(_Record, frozen=True, kw_only=True):
    """`host_address` "" stands for every address of the host, of both families."""

    protocol: str
    host_address: str
    host_port: int
    container_port: int


class Attachment(_Record, frozen=True, kw_only=True):
    """A container's place in a network."""

    owner: str
    network: str
    driver: str = "bridge"
    interface: str = INTERFACE
    mac: str = ""
    addresses: tuple[str, ...] = ()  # with prefix length
    gateways: tuple[str, ...] = ()
    bridge: str = ""
    host_device: str = ""  # the host's end of the veth pair
    ports: tuple[PublishedPort, ...] = ()
    dns: tuple[str, ...] = ()  # nameservers that a CNI plugin named
    dns_search: tuple[str, ...] = ()
    ingress_rate: int = 0  # bits a second that it may receive, and send; 0: no bound
    egress_rate: int = 0
    shaper: str = ""  # the device through which goes what it sends, where that is bounded


class Names(_Record, frozen=True, kw_only=True):
    """What this store's things are called in the kernel. The store under /var/lib has the plain names; every other
    one has a tag in them, so that stores do not meet."""

    table: str = "orlop"
    bridge: str = "orlop0"
    tag: str = ""
