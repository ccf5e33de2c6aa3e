"""linux.netDevices: devices of the runtime's network namespace move into the container's (config-linux.md, "Network
Devices").

The kernel takes a device down and its addresses away when it moves; those that someone has set for good (permanent, of
global scope) are set again. The container's end of a veth dies with the namespace; hardware comes back by itself.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence

import msgspec

from orlop.spec.errors import AlreadyExists, NotFound, OrlopError, from_os
from orlop.spec.runtime import NetDevice
from orlop.sys.netlink import Netlink, Refused
from orlop.wire import rtnetlink as rt


class Moved(msgspec.Struct, frozen=True):
    """A device that moves: its name here, the one there, what it was here, and the addresses that it keeps."""

    source: str
    name: str
    index: int
    up: bool
    addresses: tuple[rt.Address, ...]


def move(devices: Mapping[str, NetDevice], pid: int, netlink_fd: int) -> tuple[Moved, ...]:
    """Move all into the namespace that the process is in and `netlink_fd`, a NETLINK_ROUTE socket, is of; they are up
    there. If one can't be, those before it come back. Raises with `linux.netDevices.<name>` in front."""
    with Netlink() as here, Netlink(netlink_fd) as there:
        addresses = [rt.address_of(message) for message in here.dump(rt.address_dump())]
        found = [_found(here, source, device, addresses) for source, device in devices.items()]
        _check_free(there, found)
        done: list[Moved] = []
        for device in found:
            try:
                done.append(_moved(here, there, device, pid))
                _furnish(there, done[-1].name, done[-1], up=True)
            except OSError as error:
                for moved in reversed(done):
                    _bring_back(here, there, moved)
                raise _refused(device, error) from error
    return tuple(done)


def bring_back(devices: tuple[Moved, ...], netlink_fd: int) -> None:
    """Move all back to where this process is, as far as that goes."""
    with Netlink() as here, Netlink(netlink_fd) as there:
        for device in reversed(devices):
            _bring_back(here, there, device)


def _moved(here: Netlink, there: Netlink, device: Moved, pid: int) -> Moved:
    """Move one. With `%d` in its name the kernel counts up to one that is free: it is what is new there."""
    before = _names(there) if "%d" in device.name else {}
    here.perform(rt.link_set(device.index, name=device.name, up=False, netns_pid=pid))
    if "%d" not in device.name:
        return device
    new = [name for index, name in _names(there).items() if index not in before]
    return msgspec.structs.replace(device, name=new[0] if new else device.name)


def _names(netlink: Netlink) -> dict[int, str]:
    links = (rt.link_of(message) for message in netlink.dump(rt.link_dump()))
    return {link.index: link.name for link in links}


def _found(here: Netlink, source: str, device: NetDevice, addresses: Sequence[rt.Address]) -> Moved:
    link = here.link(source)
    if link is None:
        raise NotFound(f"linux.netDevices.{source}: the host has no such device")
    kept = tuple(address for address in addresses if address.index == link.index and _lasts(address))
    return Moved(source, device.name or source, link.index, link.up, kept)


def _check_free(there: Netlink, devices: Sequence[Moved]) -> None:
    """Before any of them moves: kernels of old move a device first and then fail to rename it."""
    for device in devices:
        if "%d" not in device.name and there.link(device.name) is not None:
            raise AlreadyExists(f"linux.netDevices.{device.source}: the container has a device {device.name} already")


def _lasts(address: rt.Address) -> bool:
    """Others are bound to the network that the device was in."""
    return bool(address.flags & rt.IFA_F_PERMANENT) and address.scope == rt.RT_SCOPE_UNIVERSE


def _furnish(netlink: Netlink, name: str, device: Moved, up: bool) -> None:
    link = netlink.link(name)  # the index may have been taken in the other namespace
    if link is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    netlink.perform(*(rt.address_new(link.index, address.address, address.prefix) for address in device.addresses))
    netlink.perform(rt.link_set(link.index, up=up))


def _bring_back(here: Netlink, there: Netlink, device: Moved) -> None:
    """As far as it goes: the reason to do so is what the user is told."""
    try:
        link = there.link(device.name)
        if link is not None and here.link(device.source) is None:
            there.perform(rt.link_set(link.index, name=device.source, up=False, netns_pid=os.getpid()))
            _furnish(here, device.source, device, device.up)
    except OSError:
        pass


def _refused(device: Moved, error: OSError) -> OrlopError:
    said = error.strerror if isinstance(error, Refused) and error.strerror != os.strerror(error.errno or 0) else ""
    doing = f"linux.netDevices.{device.source}: move it into the container as {device.name}"
    return from_os(error, f"{doing} ({said})" if said else doing)
