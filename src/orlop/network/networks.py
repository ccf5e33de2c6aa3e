"""`Networks`: containers come into networks and leave them; networks are made and removed.

Life of an attachment. Under the store's network lock: (1) one transaction takes addresses and ports for the owner;
(2) the attachment's record is written to the state directory; (3) the steps of its plan are performed. Detaching goes
backward: kernel, record, transaction. So whatever the kernel has, a record describes; a process that dies between
leaves a record, and `detach` with the owner's name alone, at any later time, removes everything. Both may be repeated.

The bridge of a network and the nftables table exist only while containers use them: they come with the first and go
with the last. Forwarding (net.ipv4.ip_forward and its IPv6 twin) is switched on at first use and left on, since others
may have come to rely on it.
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec

from orlop.metadata.database import Database
from orlop.network import ipam, plan
from orlop.network.bridge import Hands
from orlop.network.plan import Facts
from orlop.network.records import Attachment, AttachRequest, Network, PublishedPort, Subnet
from orlop.network.rules import make_table
from orlop.spec.errors import (
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    from_os,
    os_errors,
)
from orlop.sys.libnftables import Nft
from orlop.sys.netlink import Netlink
from orlop.wire import rtnetlink as rt

DEFAULT = "bridge"
RESERVED = ("none", "host", "default", DEFAULT)
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")

_network_json = msgspec.json.Decoder(Network)
_attachment_json = msgspec.json.Decoder(Attachment)
_encode = msgspec.json.Encoder().encode


class Networks:
    """The networks of one store. `directory` belongs to the store, `state` does not outlive a reboot; both are made
    when needed. Safe for several processes and threads at once."""

    def __init__(self, database: Database, directory: Path, state: Path) -> None:
        self._database = database
        self._state = Path(state) / "networks"
        self._nft = Nft()  # used under the lock alone
        self.names = plan.names_for(str(Path(directory).absolute()))

    # containers

    def attach(self, owner: str, request: AttachRequest, pid: int, netlink_fd: int) -> Attachment:
        """Bring a container into the network that `request.mode` names and publish its ports.

        `pid` is a process in the container's network namespace, `netlink_fd` a NETLINK_ROUTE socket made there. On
        failure nothing is left. What an earlier attachment of the same owner left is removed first.
        """
        _check_name(owner, "owner")
        with self._lock(), Netlink() as host, Netlink(netlink_fd) as inside:
            self._undo(host, owner)
            facts = read_facts()
            network, attachment = self._reserve(host, owner, request, facts)
            try:
                self._write(attachment)
                steps = plan.attach_steps(network, attachment, self.names, pid, facts)
                Hands(self.names, host, inside, self._nft, self._table).perform(steps)
            except BaseException:
                self._undo(host, owner)
                raise
            return attachment

    def detach(self, owner: str, attachment: Attachment | None = None) -> None:
        """Remove all that `attach` made for this owner; nothing happens if there is nothing. The record of the state
        directory is what counts; `attachment` serves where that is lost."""
        _check_name(owner, "owner")
        with self._lock(), Netlink() as host:
            self._undo(host, owner, attachment)

    def leftovers(self, live_owners: Collection[str]) -> tuple[str, ...]:
        """Owners with addresses, ports or a record here who are not among the living."""
        rows = self._database.read("SELECT owner FROM addresses UNION SELECT owner FROM ports")
        known = {str(row[0]) for row in rows} | {attachment.owner for attachment in self._attachments()}
        return tuple(sorted(known - set(live_owners)))

    def recover(self, live_owners: Collection[str]) -> tuple[str, ...]:
        """Detach every leftover; returns them."""
        found = self.leftovers(live_owners)
        for owner in found:
            self.detach(owner)
        return found

    def teardown(self) -> None:
        """Detach everybody and remove all devices and rules of this store; the records of networks stay."""
        self.recover(())
        with self._lock(), Netlink() as host:
            for network in self.all():
                self._withdraw(host, network)

    # networks

    def create(
        self,
        name: str,
        *,
        subnets: Sequence[Subnet] = (),
        ipv6: bool = False,
        internal: bool = False,
        mtu: int = 0,
        labels: dict[str, str] | None = None,
        options: dict[str, str] | None = None,
    ) -> Network:
        """Make a user-defined bridge network. Without subnets it gets a free one; with `ipv6` also one of IPv6. Its
        device comes with the first container."""
        _check_name(name, "network name")
        if name in RESERVED or name.startswith("container:"):
            raise FailedPrecondition(f"network {name}: the name is predefined")
        if mtu and not 68 <= mtu <= 65535:
            raise InvalidArgument(f"network {name}: mtu {mtu} is not in 68 to 65535")
        device = plan.bridge_name(self.names, name)
        network = Network(
            name=name, device=device, internal=internal, mtu=mtu, labels=labels or {}, options=options or {}
        )
        with self._lock(), Netlink() as host, self._database.transaction() as connection:
            if _load(connection, name) is not None:
                raise AlreadyExists(f"network with name {name} already exists")
            network = _with_subnets(network, subnets, ipv6, self._used_ranges(host, connection))
            _store(connection, network)
        return network

    def remove(self, name: str) -> None:
        """Remove a network that nobody uses."""
        if name in RESERVED and name != DEFAULT:
            raise FailedPrecondition(f"{name} is a pre-defined network and cannot be removed")
        with self._lock(), Netlink() as host:
            with self._database.transaction() as connection:
                network = _load(connection, name)
                if network is None:
                    raise NotFound(f"network {name} not found")
                users = connection.execute("SELECT DISTINCT owner FROM addresses WHERE network = ?", (name,)).fetchall()
                if users:
                    raise FailedPrecondition(f"network {name} has active endpoints: {_some(str(u[0]) for u in users)}")
                connection.execute("DELETE FROM networks WHERE name = ?", (name,))
            self._withdraw(host, network)

    def all(self) -> tuple[Network, ...]:
        """All networks that have a record, by name; the default one once it was used."""
        rows = self._database.read("SELECT record FROM networks ORDER BY name")
        return tuple(_network_json.decode(row[0]) for row in rows)

    def inspect(self, name: str) -> Network:
        rows = self._database.read("SELECT record FROM networks WHERE name = ?", (name,))
        if not rows:
            raise NotFound(f"network {name} not found")
        return _network_json.decode(rows[0][0])

    def attachments(self, network: str = "") -> tuple[Attachment, ...]:
        """Who is attached, to one network or to any."""
        return tuple(a for a in self._attachments() if network in ("", a.network))

    # reservation

    def _reserve(self, host: Netlink, owner: str, request: AttachRequest, facts: Facts) -> tuple[Network, Attachment]:
        name = DEFAULT if request.mode in ("", "default") else request.mode
        bindings = ipam.expand(request.ports, request.publish_all, request.expose)
        with self._database.transaction() as connection:
            network = _load(connection, name)
            if network is None and name == DEFAULT:
                network = self._default(host, connection)
            if network is None:
                raise NotFound(f"network {name} not found")
            if network.internal and bindings:
                raise InvalidArgument(f"network {name} is internal: ports cannot be published from it")
            families = {4, 6} if facts.ipv6 else {4}
            wanted = {4: request.address, 6: request.address6}
            addresses, moved = ipam.allocate(connection, network, owner, wanted, families)
            has = {plan.version(address) for address in addresses}
            ports = ipam.reserve(connection, owner, _reachable(bindings, has), has, ipam.probe)
            attachment = plan.attachment_for(
                owner, network, self.names, addresses=addresses, mac=request.mac_address, ports=ports
            )
            _store(connection, moved)
        return moved, attachment

    def _default(self, host: Netlink, connection: sqlite3.Connection) -> Network:
        used = self._used_ranges(host, connection)
        subnets = (
            ipam.subnet_for(str(ipam.pick_subnet(ipam.default_candidates(), used))),
            ipam.subnet_for(str(ipam.unique_local(os.urandom(7)))),
        )
        return Network(name=DEFAULT, device=self.names.bridge, subnets=subnets, created=time.time())

    def _used_ranges(self, host: Netlink, connection: sqlite3.Connection) -> list[ipam.AnyNetwork]:
        """What the host has routes to, and what other networks were given."""
        records = connection.execute("SELECT record FROM networks").fetchall()
        own = [ip_network(s.subnet) for row in records for s in _network_json.decode(row[0]).subnets]
        return own + host_routes(host)

    # kernel

    def _undo(self, host: Netlink, owner: str, fallback: Attachment | None = None) -> None:
        """Kernel, record, transaction: each may be gone already."""
        attachment = self._read(owner) or fallback
        if attachment is not None:
            # the record goes first out of what `_table` sees, so that a repair does not bring its rules back
            others = [other for other in self._attachments() if other.owner != owner]
            self._release_kernel(host, attachment, others)
            with os_errors("remove"):
                self._path(owner).unlink(missing_ok=True)
        if attachment is not None or self._database.read("SELECT 1 FROM addresses WHERE owner = ? LIMIT 1", (owner,)):
            with self._database.transaction() as connection:
                ipam.release(connection, owner)

    def _release_kernel(self, host: Netlink, attachment: Attachment, others: Sequence[Attachment]) -> None:
        network = next((n for n in self.all() if n.name == attachment.network), None)
        used = any(other.network == attachment.network for other in others)
        steps = plan.detach_steps(attachment, network, self.names, network_used=used, table_used=bool(others))
        Hands(self.names, host, None, self._nft, lambda: self._table(others)).perform(steps)

    def _withdraw(self, host: Netlink, network: Network) -> None:
        others = self._attachments()
        if any(other.network == network.name for other in others) or host.link(network.device) is None:
            return
        steps = plan.withdraw_steps(network, self.names, table_used=bool(others))
        Hands(self.names, host, None, self._nft, lambda: self._table(others)).perform(steps)

    def _table(self, attachments: Sequence[Attachment] | None = None) -> str:
        """The whole table as it ought to be now."""
        present = tuple(self._attachments() if attachments is None else attachments)
        used = {attachment.network for attachment in present}
        return make_table(self.names, tuple(n for n in self.all() if n.name in used), present)

    # state directory

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One change to the networks at a time, whatever thread or process makes it; ends with the process."""
        with os_errors("lock networks"):
            self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _path(self, owner: str) -> Path:
        return self._state / f"{owner}.json"

    def _write(self, attachment: Attachment) -> None:
        path = self._path(attachment.owner)
        new = path.with_suffix(".new")
        with os_errors("write"):
            new.write_bytes(_encode(attachment))
            new.rename(path)

    def _read(self, owner: str) -> Attachment | None:
        try:
            return _attachment_json.decode(self._path(owner).read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise from_os(error, "read") from error
        except msgspec.MsgspecError as error:
            raise Internal(f"{self._path(owner)}: {str(error)[:200]}") from error

    def _attachments(self) -> list[Attachment]:
        owners = sorted(path.stem for path in self._state.glob("*.json"))
        return [found for owner in owners if (found := self._read(owner)) is not None]


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"{what} {name[:64]!r}: only letters, digits, and _.- behind the first are allowed")


def _some(items: Iterator[str]) -> str:
    return ", ".join(item[:12] for item in items)[:200]


def _load(connection: sqlite3.Connection, name: str) -> Network | None:
    row = connection.execute("SELECT record FROM networks WHERE name = ?", (name,)).fetchone()
    return _network_json.decode(row[0]) if row else None


def _store(connection: sqlite3.Connection, network: Network) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO networks (name, driver, record) VALUES (?, ?, ?)",
        (network.name, network.driver, _encode(network)),
    )


def _with_subnets(network: Network, subnets: Sequence[Subnet], ipv6: bool, used: Sequence[ipam.AnyNetwork]) -> Network:
    """The network with checked subnets, one missing IPv4 (and, if wanted, IPv6) subnet picked; at most one of each."""
    chosen = [ipam.subnet_for(s.subnet, s.gateway, s.range) for s in subnets]
    for subnet in chosen:
        for other in used:
            mine = ip_network(subnet.subnet)
            if mine.version == other.version and mine.overlaps(other):
                raise FailedPrecondition(f"subnet {subnet.subnet}: overlaps {other}, which the host or a network has")
    families = [ip_network(s.subnet).version for s in chosen]
    if len(set(families)) != len(families):
        raise InvalidArgument(f"network {network.name}: at most one subnet of each IP version")
    if 4 not in families:
        chosen.insert(0, ipam.subnet_for(str(ipam.pick_subnet(ipam.user_candidates(), used))))
    if ipv6 and 6 not in families:
        chosen.append(ipam.subnet_for(str(ipam.unique_local(os.urandom(7)))))
    return msgspec.structs.replace(network, subnets=tuple(chosen), created=time.time())


def _reachable(bindings: Sequence[PublishedPort], families: set[int]) -> Sequence[PublishedPort]:
    for binding in bindings:
        if binding.host_address and plan.version(binding.host_address) not in families:
            raise InvalidArgument(f"host address {binding.host_address}: not of an IP version that the container has")
    return bindings


def host_routes(host: Netlink) -> list[ipam.AnyNetwork]:
    """Every range that the host has a unicast route to, default routes left out."""
    found = []
    for family in (rt.AF_INET, rt.AF_INET6):
        for route in map(rt.route_of, host.dump(rt.route_dump(family))):
            if route.destination and route.kind == rt.RTN_UNICAST:
                found.append(ip_network((ip_address(route.destination), route.prefix), strict=False))
    return found


def read_facts() -> Facts:
    """What the host says of itself."""
    return Facts(
        ipv6=_sysctl("net/ipv6/conf/all/disable_ipv6") == "0",
        bridge_filter="1" in (_sysctl(f"net/bridge/bridge-nf-call-{t}tables") for t in ("ip", "ip6")),
    )


def _sysctl(path: str) -> str:
    try:
        with open(f"/proc/sys/{path}") as file:
            return file.read().strip()
    except OSError:  # not there: the kernel lacks the feature
        return ""
