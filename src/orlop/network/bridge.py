"""Perform the steps of a plan: the built-in bridge driver's hands."""

from __future__ import annotations

import errno
import os
import socket
import time
from _thread import start_new_thread  # without what else is in threading
from collections.abc import Callable, Sequence
from itertools import takewhile

from orlop.network import plan
from orlop.network.addresses import ip_address
from orlop.network.plan import (
    AddAddress,
    AddRoute,
    Divert,
    DropLink,
    ForgetFlows,
    Limit,
    LinkUp,
    MakeBridge,
    MakeVeth,
    Rules,
    Step,
    Sysctl,
)
from orlop.network.records import Names
from orlop.network.rules import drop_table
from orlop.spec.errors import AlreadyExists, Internal, NotFound, OrlopError, from_os
from orlop.sys.files import overwrite, read_text
from orlop.sys.libnftables import Nft, NftError
from orlop.sys.netlink import NETLINK_NETFILTER, Netlink, Refused
from orlop.wire import rtnetlink as rt

DELETE_TIMEOUT = 30.0  # seconds
_LEAVING = 1.0  # seconds that a deletion which has begun may take before another one is tried
_GROUP = 0x4F000000  # devices that are deleted together: this, and the index of one of them
IP_PROGRAMS = ("/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip")

Inside = AddAddress | LinkUp | AddRoute


class Hands:
    """Performs steps with a netlink socket of the host's namespace and, where steps lead there, one of the
    container's. `table` gives the script that makes the whole rule table from what is written down; it is needed at
    first use, and to repair one that was tampered with. `standing` are indexes of bridges that were furnished before,
    and is added to: what is seen to be as it was needs none of the kernel's locks."""

    def __init__(
        self,
        names: Names,
        host: Netlink,
        inside: Netlink | None,
        nft: Nft,
        table: Callable[[], str],
        standing: dict[str, int] | None = None,
    ) -> None:
        self._names, self._host, self._inside, self._nft, self._table = names, host, inside, nft, table
        self._standing = {} if standing is None else standing
        self._indexes: dict[tuple[bool, str], int] = {}

    def perform(self, steps: Sequence[Step]) -> None:
        """All steps in order. Raises an error that begins with the step's own line."""
        position = 0
        while position < len(steps):
            step = steps[position]
            group = [step]
            if isinstance(step, AddAddress | LinkUp | AddRoute):
                group = _alike(steps[position:])
            elif isinstance(step, DropLink):
                group = list(takewhile(lambda s: isinstance(s, DropLink), steps[position:]))
            position += len(group)
            try:
                self._perform(group)
            except Refused as error:
                raise _explained(error, str(group[error.position])) from error
            except OSError as error:
                raise from_os(error, str(step)) from error

    def _perform(self, group: Sequence[Step]) -> None:
        step = group[0]
        if isinstance(step, MakeBridge):
            self._make_bridge(step)
        elif isinstance(step, MakeVeth):
            self._make_veth(step)
        elif isinstance(step, Sysctl):
            _sysctl(step)
        elif isinstance(step, Rules):
            self._rules(step)
        elif isinstance(step, ForgetFlows):
            forget_flows(self._host, step)
        elif isinstance(step, Limit | Divert):
            self._shape(step)
        elif isinstance(step, DropLink):
            drop_links(self._host, [s for s in group if isinstance(s, DropLink)])
        else:
            self._configure([s for s in group if isinstance(s, AddAddress | LinkUp | AddRoute)])

    def _make_bridge(self, step: MakeBridge) -> None:
        if self._stands(step.device):
            return
        link = self._host.link(step.device)
        if link is None:
            self._host.perform(rt.link_new(step.device, "bridge", address=plan.mac_bytes(step.mac), mtu=step.mtu))
            link = self._host.link(step.device)
        if link is None:
            raise Internal(f"{step}: it vanished at once")
        if link.kind != "bridge":
            raise AlreadyExists(f"{step}: the host has a device of that name, of kind {link.kind or 'physical'}")
        self._indexes[False, step.device] = link.index

    def _stands(self, device: str) -> bool:
        return self._standing.get(device, 0) == self._index(device, inside=False, missing=-1)

    def _make_veth(self, step: MakeVeth) -> None:
        request = rt.link_new(
            step.device,
            "veth",
            master=self._index(step.bridge, inside=False),
            mtu=step.mtu,
            up=True,
            peer=rt.Peer(step.peer, plan.mac_bytes(step.mac), netns_pid=step.pid),
        )
        try:
            self._host.perform(request)
        except Refused as error:
            # what an attempt that was cut short left behind
            if error.errno != errno.EEXIST or not self._host.index(step.device):
                raise
            drop_links(self._host, [DropLink(step.device, "veth")])
            self._host.perform(request)
        if step.hairpin:
            self._host.perform(rt.link_hairpin(self._index(step.device, inside=False)))

    def _shape(self, step: Limit | Divert) -> None:
        from orlop.network import shape

        device = self._index(step.device, inside=False)
        if isinstance(step, Limit):
            shape.limit(self._host, step, device)
        else:
            shape.divert(self._host, step, device, lambda name: drop_links(self._host, [DropLink(name, "ifb")]))

    def _configure(self, steps: Sequence[Inside]) -> None:
        """Steps of one namespace in one datagram. What is there already is as good as made."""
        netlink = self._socket(steps[0].inside)
        left = [(position, step) for position, step in enumerate(steps) if not self._is_done(step)]
        outcomes = netlink.outcomes([self._request(step) for _, step in left])
        for (position, step), outcome in zip(left, outcomes, strict=True):
            if outcome.errno not in (0, errno.EEXIST):
                raise Refused(outcome, position)
            if isinstance(step, LinkUp) and not step.inside:
                self._standing[step.device] = self._index(step.device, inside=False)

    def _is_done(self, step: Inside) -> bool:
        """Whether a bridge that stands still has what it was given."""
        if step.inside or isinstance(step, AddRoute) or not self._stands(step.device):
            return False
        return self._host.is_up(step.device) if isinstance(step, LinkUp) else _is_local(step.address)

    def _request(self, step: Inside) -> rt.Request:
        index = self._index(step.device, step.inside)
        if isinstance(step, LinkUp):
            return rt.link_set(index, up=True)
        if isinstance(step, AddRoute):
            gateway = ip_address(step.gateway).packed
            return rt.route_new(rt.AF_INET if len(gateway) == 4 else rt.AF_INET6, gateway=gateway, oif=index)
        text, _, prefix = step.address.partition("/")
        address = ip_address(text)
        # without NODAD an IPv6 address is of no use for its first second
        return rt.address_new(index, address.packed, int(prefix), rt.IFA_F_NODAD if address.version == 6 else 0)

    def _socket(self, inside: bool) -> Netlink:
        if not inside:
            return self._host
        if self._inside is None:
            raise Internal("a step inside a container, and no netlink socket from there")
        return self._inside

    def _index(self, device: str, inside: bool, missing: int = 0) -> int:
        """A device's index. Raises NotFound, unless something is to stand for one that is missing."""
        if (inside, device) not in self._indexes:
            index = self._socket(inside).index(device)
            if not index and missing:
                return missing
            if not index:
                raise NotFound(f"no network device {device} in the {'container' if inside else 'host'}")
            self._indexes[inside, device] = index
        return self._indexes[inside, device]

    def _rules(self, step: Rules) -> None:
        try:
            (self._nft.ensure if step.lasting else self._nft.run)(step.script)
        except NftError as error:
            # the first use, or somebody flushed or changed the table
            if error.errno not in (errno.ENOENT, errno.EEXIST):
                raise
            self._make_table()

    def _make_table(self) -> None:
        script = self._table()
        try:
            self._nft.run(script)
        except NftError as error:
            if error.errno != errno.EEXIST:
                raise
            self._nft.run(drop_table(self._names) + script)


def _is_local(address: str) -> bool:
    """Whether an address is the host's own: then a socket can be bound to it. (Where net.ipv4.ip_nonlocal_bind is set
    it always can; there an address that somebody took away comes back with the bridge.)"""
    text = address.partition("/")[0]
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as attempt:
        try:
            attempt.bind((text, 0))
        except OSError:
            return False
    return True


def _alike(steps: Sequence[Step]) -> list[Step]:
    """The steps from the first one on that go to the kernel together with it: those of the same namespace."""
    group: list[Step] = []
    for step in steps:
        if not isinstance(step, AddAddress | LinkUp | AddRoute) or step.inside != getattr(steps[0], "inside", None):
            break
        group.append(step)
    return group


def _explained(error: Refused, step: str) -> OrlopError:
    kind = type(from_os(error, step))
    return kind(f"{step}: {(error.strerror or '').lower().rstrip('.')}")


def _sysctl(step: Sysctl) -> None:
    path = f"/proc/sys/{step.path}"
    if read_text(path).strip() != step.value:
        overwrite(path, step.value.encode())


def forget_flows(host: Netlink, step: ForgetFlows) -> None:
    """Only flows to addresses of the host: those that it merely passes on are none of ours."""
    from orlop.wire import conntrack

    local = {rt.address_of(message).address for message in host.dump(rt.address_dump())}
    wanted = local & {ip_address(step.address).packed} if step.address else local
    with Netlink(protocol=NETLINK_NETFILTER) as tracker:
        for family in (rt.AF_INET, rt.AF_INET6):
            answers = tracker.dump(conntrack.flows_to(family, conntrack.PROTOCOLS[step.protocol], step.port))
            flows = [flow for flow in map(conntrack.flow_of, answers) if flow.destination in wanted]
            for outcome in tracker.outcomes([conntrack.forget(flow) for flow in flows]):
                if outcome.errno not in (0, errno.ENOENT):  # it may have run out by itself
                    raise Refused(outcome, 0)


def drop_links(host: Netlink, steps: Sequence[DropLink]) -> None:
    """Delete devices and return when they are off the host's list of devices.

    The kernel takes a device off its list within some milliseconds and then waits some 20 to 50 ms, inside the call,
    until the last reader of its structures is gone; for most of that nobody else can change a device. Several devices
    wait together if they are deleted as one group, so they get a group of their own first. Nobody else needs to wait
    for the rest, nor should the end of this process: so the call is made by a process of its own, ip(8), or where that
    is missing, by a thread.
    """
    there = [step for step in steps if host.index(step.device)]
    found = [link for step in there if (link := host.link(step.device)) is not None and link.kind == step.kind]
    if not found:
        return
    group = 0
    if len(found) > 1:
        group = _GROUP | found[-1].index  # no other device's: the index is unique
        for outcome in host.outcomes([rt.link_set(link.index, group=group) for link in found]):
            if outcome.errno not in (0, errno.ENODEV):  # a veth goes by itself with its container's namespace
                raise Refused(outcome, 0)
    failures: list[BaseException] = []
    start_new_thread(_delete, (found[0], group, failures))
    deadline = time.monotonic() + DELETE_TIMEOUT
    for link in found:
        if not _gone(link, deadline, failures):
            raise Internal(f"network device {link.name}: still there {DELETE_TIMEOUT:g} s after its deletion")


def _gone(link: rt.Link, deadline: float, failures: Sequence[BaseException] = ()) -> bool:
    """Whether a device was gone in time."""
    while device_index(link.name) == link.index:
        if failures:
            raise failures[0]
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0002)
    return True


def delete_veth(name: str) -> None:
    """Delete a device, if it is of that kind. Whoever looks for it later speaks of what fails here."""
    try:
        with Netlink() as own:
            link = own.link(name)
            if link is not None and link.kind == "veth":
                own.outcomes((rt.link_delete(link.index),))
    except (OSError, OrlopError):
        return


def await_gone(name: str, index: int, patience: float = _LEAVING) -> None:
    """Wait until a device that somebody is deleting is off the list, for a while."""
    deadline = time.monotonic() + patience
    while device_index(name) == index and time.monotonic() < deadline:
        time.sleep(0.0002)


def device_index(name: str) -> int:
    """A device's index, 0 for none. Unlike a netlink request this never waits for another change to end."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _delete(link: rt.Link, group: int, failures: list[BaseException]) -> None:
    """Delete a device, or all of a group."""
    if _delete_by_program("group" if group else "dev", str(group) if group else link.name):
        return
    try:
        with Netlink() as own:
            request = rt.link_delete(group=group) if group else rt.link_delete(link.index)
            outcome = own.outcomes((request,))[0]
        if outcome.errno not in (0, errno.ENODEV):
            failures.append(OSError(outcome.errno, outcome.text or os.strerror(outcome.errno)))
    except Exception as error:
        failures.append(error)


def _delete_by_program(kind: str, name: str) -> bool:
    """Whether ip(8) did it. The process may outlive this one by the time that the kernel takes; so that nobody waits
    for it by accident, it holds none of our descriptors."""
    program = next((path for path in IP_PROGRAMS if os.access(path, os.X_OK)), "")
    if not program:
        return False
    nowhere = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in range(3)]
    arguments = [program, "link", "delete", kind, name]
    try:
        pid = os.posix_spawn(program, arguments, {}, file_actions=nowhere, setsigmask=[])
        return os.waitpid(pid, 0)[1] == 0
    except OSError:  # no process to be had; or somebody waits for all children, in which case netlink will tell
        return False
