"""`Networks`: containers come into networks and leave them; networks are made and removed.

Life of an attachment to a bridge network. Under the store's network lock: (1) one transaction takes addresses and
ports for the owner; (2) the attachment's record is written to the state directory; (3) the steps of its plan are
performed, in two halves, since the first needs nothing of the container (`prepare`, `join`). Detaching goes backward:
kernel, record, transaction. So whatever the kernel has, a record describes; a process that dies between leaves a
record, and `detach` with the owner's name alone, at any later time, removes everything. Both may be repeated. With a
CNI network the plugins stand in for the steps.

The bridge of a network and the nftables table exist only while containers use them: they come with the first and go
with the last. Forwarding (net.ipv4.ip_forward and its IPv6 twin) is switched on at first use and left on, since others
may have come to rely on it.
"""

from __future__ import annotations

import sqlite3
from _thread import start_new_thread  # without what else is in threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from orlop.metadata.database import Database
from orlop.network import ipam, plan, store
from orlop.network.bridge import Hands, await_gone, delete_veth, device_index
from orlop.network.facts import read_facts
from orlop.network.records import INTERFACE, Attachment, AttachRequest, Network, Subnet
from orlop.network.rules import make_table
from orlop.network.state import State
from orlop.spec.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OrlopError, Unavailable
from orlop.sys.libnftables import Nft
from orlop.sys.netlink import Netlink

if TYPE_CHECKING:
    from orlop.network.cni import ConfList
    from orlop.network.records import PublishedPort

DEFAULT = store.DEFAULT
CNI = "cni:"  # before a name: of a conflist, whatever else has the name
RESERVED = ("none", "host", "default", DEFAULT)
_LONGEST_NAME = 128


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A place in a bridge network, with the network's own side made: the container's is missing."""

    network: Network
    attachment: Attachment
    facts: plan.Facts


class Networks:
    """The networks of one store. `directory` belongs to the store, `state` does not outlive a reboot; both are made
    when needed. Safe for several processes and threads at once.

    `cni_config` and `cni_plugins` are where conflists and plugins are looked for; None: where everybody does.
    """

    def __init__(
        self,
        database: Database,
        directory: Path,
        state: Path,
        *,
        cni_config: Path | None = None,
        cni_plugins: Sequence[Path] | None = None,
    ) -> None:
        self._database = database
        self._state = State(Path(directory), Path(state))
        self._nft = Nft()  # used under the lock alone
        self._keeps = False
        self._standing: dict[str, int] = {}  # see `Hands`
        self._leaving: dict[str, int] = {}  # indexes of devices that `unplug` has begun to delete
        self._cni_config, self._cni_plugins = cni_config, cni_plugins
        self.names = plan.names_for(str(Path(directory).absolute()))

    # containers

    def attach(self, owner: str, request: AttachRequest, pid: int, netlink_fd: int) -> Attachment:
        """Bring a container into the network that `request.mode` names and publish its ports.

        `pid` is a process in the container's network namespace, `netlink_fd` a NETLINK_ROUTE socket made there. On
        failure nothing is left. What an earlier attachment of the same owner left is removed first.
        """
        if (prepared := self.prepare(owner, request)) is not None:
            self.join(prepared, pid, netlink_fd)
            return prepared.attachment
        return self._attach_cni(owner, _asked(request).removeprefix(CNI), request, pid)

    def prepare(self, owner: str, request: AttachRequest, fresh: bool = False) -> Prepared | None:
        """The first half of `attach`, for which the container need not be there: `join` is the second. None where it is
        a CNI network, whose plugins do all at once: `attach` then does. `fresh`: the owner has never been attached."""
        _check_name(owner, "owner")
        name = _asked(request)
        if not fresh:
            self.detach(owner)
        if name.startswith(CNI) or (name != DEFAULT and self._record(name) is None):
            return None
        with self._state.lock(), Netlink() as host:
            facts = read_facts(host)
            with self._database.transaction() as connection:
                network = self._load(host, connection, name)
                attachment = store.reserve(connection, network, self.names, owner, request, facts)
            try:
                self._state.write(attachment)
                steps = plan.network_steps(network, attachment, self.names, facts)
                Hands(self.names, host, None, self._nft, self._table, self._standing).perform(steps)
            except BaseException:
                self._undo(host, owner, None)
                raise
        return Prepared(network=network, attachment=attachment, facts=facts)

    def join(self, prepared: Prepared, pid: int, netlink_fd: int) -> None:
        """The second half of `attach`. On failure nothing is left of the first one either."""
        with self._state.lock(), Netlink() as host, Netlink(netlink_fd) as inside:
            try:
                steps = plan.join_steps(prepared.network, prepared.attachment, pid, prepared.facts)
                Hands(self.names, host, inside, self._nft, self._table, self._standing).perform(steps)
            except BaseException:
                self._undo(host, prepared.attachment.owner, prepared.attachment)
                raise

    def detach(self, owner: str, attachment: Attachment | None = None) -> None:
        """Remove all that `attach` made for this owner; nothing happens if there is nothing. The record of the state
        directory is what counts; `attachment` serves where that is lost."""
        _check_name(owner, "owner")
        if (cached := self._state.read_cached(owner)) is not None:
            from orlop.network import cni

            with _plugins_at_fault():
                cni.delete(cni.at(cached, self._state.pinned(owner)))
            self._forget_cni(owner)
        elif self._state.read(owner) or attachment or self._holds(owner):
            with self._state.lock(), Netlink() as host:
                self._undo(host, owner, attachment)

    def attachment(self, owner: str) -> Attachment | None:
        """What an owner has, or had before it was given back."""
        return self._state.read(owner)

    def unplug(self, attachment: Attachment) -> bool:
        """Begin to delete the device of a container whose processes have been killed, in a thread: the kernel has it
        off its list when `detach` comes. False where networks are not kept (see `keep`): then nothing has begun."""
        if not self._keeps or attachment.driver != "bridge":
            return False
        name = attachment.host_device
        if index := device_index(name):
            self._leaving[name] = index
            start_new_thread(delete_veth, (name,))
        return True

    def check(self, owner: str) -> None:
        """Raises if what the record says of an owner's attachment is no longer so."""
        attachment = self._state.read(owner)
        if attachment is None:
            raise NotFound(f"{owner[:64]} is attached to no network")
        if (cached := self._state.read_cached(owner)) is not None:
            from orlop.network import cni

            cni.check(cni.at(cached, self._state.pinned(owner)))
            return
        with Netlink() as host:
            for device in (attachment.bridge, attachment.host_device):
                if not host.index(device):
                    raise FailedPrecondition(f"{owner[:64]}: network device {device} is gone")

    def leftovers(self, live_owners: Collection[str]) -> tuple[str, ...]:
        """Owners with addresses, ports or a record here who are not among the living."""
        rows = self._database.read("SELECT owner FROM addresses UNION SELECT owner FROM ports")
        known = {str(row[0]) for row in rows} | {a.owner for a in self._state.all()} | {*self._state.cached_owners()}
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
        with self._state.lock(), Netlink() as host:
            for network in self._records():
                self._withdraw(host, network)

    def attachments(self, network: str = "") -> tuple[Attachment, ...]:
        """Who is attached, to one network or to any."""
        return tuple(a for a in self._state.all() if network in ("", a.network))

    def keep(self) -> None:
        """Leave devices and rules of networks there from now on when their last container goes: a daemon's next one
        comes soon, and to make a bridge takes longer than to join one. `sweep` is for its end."""
        self._keeps = True

    def sweep(self) -> None:
        """Withdraw the devices and rules of networks that nobody uses."""
        self._keeps = False
        with self._state.lock(), Netlink() as host:
            for network in self._records():
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
        if name in RESERVED:
            raise FailedPrecondition(f"network {name}: the name is predefined")
        if mtu and not 68 <= mtu <= 65535:
            raise InvalidArgument(f"network {name}: mtu {mtu} is not in 68 to 65535")
        device = plan.bridge_name(self.names, name)
        network = Network(
            name=name, device=device, internal=internal, mtu=mtu, labels=labels or {}, options=options or {}
        )
        with self._state.lock(), Netlink() as host, self._database.transaction() as connection:
            if store.load(connection, name) is not None or name in self._conflists():
                raise AlreadyExists(f"network with name {name} already exists")
            network = store.with_subnets(network, subnets, ipv6, store.used_ranges(host, connection))
            store.save(connection, network)
        return network

    def remove(self, name: str) -> None:
        """Remove a network that nobody uses."""
        if name in RESERVED:
            raise FailedPrecondition(f"{name} is a pre-defined network and cannot be removed")
        with self._state.lock(), Netlink() as host:
            with self._database.transaction() as connection:
                network = store.load(connection, name)
                if network is None:
                    raise self._not_removable(name)
                rows = connection.execute("SELECT DISTINCT owner FROM addresses WHERE network = ?", (name,))
                if users := ", ".join(str(row[0])[:12] for row in rows):
                    raise FailedPrecondition(f"network {name} has active endpoints: {users[:200]}")
                connection.execute("DELETE FROM networks WHERE name = ?", (name,))
            self._withdraw(host, network)

    def prune(self) -> tuple[str, ...]:
        """Remove all user-defined networks that nobody uses; returns their names."""
        used = {str(row[0]) for row in self._database.read("SELECT DISTINCT network FROM addresses")}
        unused = tuple(n.name for n in self._records() if n.name not in used and n.name not in RESERVED)
        for name in unused:
            self.remove(name)
        return unused

    def list(self) -> tuple[Network, ...]:
        """All networks by name: the built-in one (once it was used), user-defined ones, those of CNI conflists."""
        from orlop.network.cni import as_network

        found = {name: as_network(conflist) for name, conflist in self._conflists().items()}
        found |= {network.name: network for network in self._records()}
        return tuple(found[name] for name in sorted(found))

    def inspect(self, name: str) -> Network:
        if (network := self._record(name)) is not None:
            return network
        from orlop.network import cni

        return cni.as_network(cni.find(name, self._cni_config))

    # records

    def _records(self) -> tuple[Network, ...]:
        rows = self._database.read("SELECT record FROM networks ORDER BY name")
        return tuple(store.decode(row[0]) for row in rows)

    def _record(self, name: str) -> Network | None:
        rows = self._database.read("SELECT record FROM networks WHERE name = ?", (name,))
        return store.decode(rows[0][0]) if rows else None

    def _load(self, host: Netlink, connection: sqlite3.Connection, name: str) -> Network:
        """A network's record; the default one needs none."""
        network = store.load(connection, name)
        if name == DEFAULT and (network is None or not host.index(network.device)):
            # its range is one of our choice, and somebody else may have taken it since
            used = store.used_ranges(host, connection, without=name)
            if network is None or ipam.overlapping(network, used):
                return store.default_network(self.names, used)
        if network is None:
            raise NotFound(f"network {name} not found")
        return network

    def _holds(self, owner: str) -> bool:
        query = "SELECT 1 FROM addresses WHERE owner = ?1 UNION SELECT 1 FROM ports WHERE owner = ?1"
        return bool(self._database.read(query, (owner,)))

    def _conflists(self) -> dict[str, ConfList]:
        from orlop.network import cni

        return cni.read(self._cni_config)[0]

    def _not_removable(self, name: str) -> OrlopError:
        if conflist := self._conflists().get(name):
            return FailedPrecondition(f"network {name} is defined by {conflist.path}: remove that file")
        return NotFound(f"network {name} not found")

    # bridge networks

    def _undo(self, host: Netlink, owner: str, fallback: Attachment | None) -> None:
        """Kernel, record, transaction: each may be gone already."""
        attachment = self._state.read(owner) or fallback
        if attachment is not None and attachment.driver == "bridge":
            network_used, table_used = self._used(attachment.network, owner)
            steps = plan.detach_steps(
                attachment,
                self._record(attachment.network),
                self.names,
                network_used=network_used,
                table_used=table_used,
            )
            if index := self._leaving.pop(attachment.host_device, 0):
                await_gone(attachment.host_device, index)
            Hands(self.names, host, None, self._nft, lambda: self._table(owner)).perform(steps)
        self._state.forget(owner)
        self._release(owner)

    def _withdraw(self, host: Netlink, network: Network) -> None:
        network_used, table_used = self._used(network.name)
        if network_used or not host.index(network.device):
            return
        steps = plan.withdraw_steps(network, self.names, table_used=table_used)
        Hands(self.names, host, None, self._nft, self._table).perform(steps)

    def _used(self, network: str, without: str = "") -> tuple[bool, bool]:
        """Whether anybody, one owner left out, is in this network, and whether anybody is in any."""
        if self._keeps:
            return True, True
        found = any(other.network == network for other in self._state.others(without))
        return found, found or any(True for _ in self._state.others(without))

    def _table(self, without: str = "") -> str:
        """The whole table as it ought to be now, one owner left out."""
        present = tuple(self._state.others(without))
        used = {attachment.network for attachment in present}
        return make_table(self.names, tuple(n for n in self._records() if n.name in used), present)

    def _release(self, owner: str) -> None:
        with self._database.transaction() as connection:
            ipam.release(connection, owner)

    # CNI networks

    def _attach_cni(self, owner: str, name: str, request: AttachRequest, pid: int) -> Attachment:
        from orlop.network import cni

        conflist = cni.find(name, self._cni_config)
        bindings = ipam.expand(request.ports, request.publish_all, request.expose)
        wanted = [address for address in (request.address, request.address6) if address]
        with self._database.transaction() as connection:
            ports = ipam.reserve(connection, owner, bindings, {4, 6}, ipam.probe)
        try:
            cached = cni.Cached(
                conflist=conflist,
                owner=owner,
                interface=INTERFACE,
                netns=str(self._state.namespace(owner)),
                runtime=_runtime(conflist, request, ports, wanted),
                arguments=cni.arguments(owner, request.pod),
                plugin_path=tuple(str(path) for path in cni.plugin_directories(self._cni_plugins)),
            )
            self._state.write_cached(cached)
            self._state.pin_namespace(owner, pid)
            with _plugins_at_fault():
                cached = cni.add(cached)
                self._state.write_cached(cached)
                attachment = cni.attachment_of(cached, ports)
            self._state.write(attachment)
        except BaseException:
            self._forget_cni(owner)
            raise
        return attachment

    def _forget_cni(self, owner: str) -> None:
        self._state.unpin_namespace(owner)
        self._state.forget_cached(owner)
        self._state.forget(owner)
        self._release(owner)


def _runtime(
    conflist: ConfList, request: AttachRequest, ports: Sequence[PublishedPort], wanted: Sequence[str]
) -> dict[str, Any]:
    """What the plugins are given by capability. A pod's ports may be left to others, as some networks publish them by
    means of their own."""
    from orlop.network import cni

    if request.pod is not None and not conflist.capable("portMappings"):
        ports = ()
    found = cni.runtime_arguments(conflist, ports, wanted, request.mac_address)
    return found | {name: value for name, value in request.capabilities.items() if conflist.capable(name)}


@contextmanager
def _plugins_at_fault() -> Iterator[None]:
    """It is the plugins, or their configuration, which don't find something or don't like it: not what the caller has
    asked for."""
    try:
        yield
    except (NotFound, InvalidArgument, FailedPrecondition) as error:
        raise Unavailable(str(error)) from error


def _asked(request: AttachRequest) -> str:
    return DEFAULT if request.mode in ("", "default") else request.mode


def _check_name(name: str, what: str) -> None:
    plain = name.replace("_", "").replace(".", "").replace("-", "")
    if not (name[:1].isalnum() and plain.isalnum() and name.isascii() and len(name) <= _LONGEST_NAME):
        raise InvalidArgument(f"{what} {name[:64]!r}: only letters, digits, and _.- behind the first are allowed")
