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


class _Device(msgspec.Struct, frozen=True):
    """A device before it moves: its name here, the one there, and the addresses that it keeps."""

    source: str
    name: str
    index: int
    up: bool
    addresses: tuple[rt.Address, ...]


def move(devices: Mapping[str, NetDevice], pid: int, netlink_fd: int) -> None:
    """Move all into the namespace that the process is in and `netlink_fd`, a NETLINK_ROUTE socket, is of; they are up
    there. If one can't be, those before it come back. Raises with `linux.netDevices.<name>` in front."""
    with Netlink() as here, Netlink(netlink_fd) as there:
        addresses = [rt.address_of(message) for message in here.dump(rt.address_dump())]
        found = [_found(here, source, device, addresses) for source, device in devices.items()]
        _check_free(there, found)
        for position, device in enumerate(found):
            try:
                here.perform(rt.link_set(device.index, name=device.name, up=False, netns_pid=pid))
                _furnish(there, device.name, device, up=True)
            except OSError as error:
                for moved in reversed(found[: position + 1]):
                    _bring_back(here, there, moved)
                raise _refused(device, error) from error


def _found(here: Netlink, source: str, device: NetDevice, addresses: Sequence[rt.Address]) -> _Device:
    link = here.link(source)
    if link is None:
        raise NotFound(f"linux.netDevices.{source}: the host has no such device")
    kept = tuple(address for address in addresses if address.index == link.index and _lasts(address))
    return _Device(source, device.name or source, link.index, link.up, kept)


def _check_free(there: Netlink, devices: Sequence[_Device]) -> None:
    """Before any of them moves: kernels of old move a device first and then fail to rename it."""
    for device in devices:
        if there.link(device.name) is not None:
            raise AlreadyExists(f"linux.netDevices.{device.source}: the container has a device {device.name} already")


def _lasts(address: rt.Address) -> bool:
    """Others are bound to the network that the device was in."""
    return bool(address.flags & rt.IFA_F_PERMANENT) and address.scope == rt.RT_SCOPE_UNIVERSE


def _furnish(netlink: Netlink, name: str, device: _Device, up: bool) -> None:
    link = netlink.link(name)  # the index may have been taken in the other namespace
    if link is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    netlink.perform(*(rt.address_new(link.index, address.address, address.prefix) for address in device.addresses))
    netlink.perform(rt.link_set(link.index, up=up))


def _bring_back(here: Netlink, there: Netlink, device: _Device) -> None:
    """As far as it goes: the reason to do so is what the user is told."""
    try:
        link = there.link(device.name)
        if link is not None and here.link(device.source) is None:
            there.perform(rt.link_set(link.index, name=device.source, up=False, netns_pid=os.getpid()))
            _furnish(here, device.source, device, device.up)
    except OSError:
        pass


def _refused(device: _Device, error: OSError) -> OrlopError:
    said = error.strerror if isinstance(error, Refused) and error.strerror != os.strerror(error.errno or 0) else ""
    doing = f"linux.netDevices.{device.source}: move it into the container as {device.name}"
    return from_os(error, f"{doing} ({said})" if said else doing)
