"""What a service manager is told (sd_notify(3)); nothing where none listens."""

from __future__ import annotations

import logging
import os
import socket
import time

log = logging.getLogger("orlop.daemon")


def send(state: str) -> None:
    """Send lines such as `READY=1`. The manager is not waited for; one that is gone is noted in the log."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.connect(address)
            manager.sendall(state.encode())
    except OSError as error:
        log.warning("the service manager at %s can't be told %s: %s", address, state, error)


def ready() -> None:
    send("READY=1")


def reloading() -> None:
    """`ready` follows."""
    send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    send("STOPPING=1")


def alive() -> None:
    send("WATCHDOG=1")


def watchdog() -> float:
    """Seconds between two words of life, half of what the manager waits (sd_watchdog_enabled(3)); 0 where none are
    waited for."""
    period, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not os.environ.get("NOTIFY_SOCKET") or not period.isdecimal() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(period) / 2e6
