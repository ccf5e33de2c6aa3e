"""Perform the steps that bound how much a container sends and receives."""

from __future__ import annotations

import errno
from collections.abc import Callable

from orlop.network.plan import Divert, Limit
from orlop.spec.errors import Unimplemented
from orlop.sys.netlink import Netlink, Refused
from orlop.wire import rtnetlink as rt
from orlop.wire import traffic

_LATENCY = 0.05  # seconds that a packet may wait
_BURST_TIME = 0.02  # seconds whose bytes may go at once: more than a tick of any kernel's clock
_LEAST_BURST = 128 << 10  # bytes; more than any device's MTU, which else would never pass
_MOST_BURST = 1 << 30


def limit(host: Netlink, step: Limit, device: int) -> None:
    """Raises Unimplemented where the kernel can't."""
    rate, burst, queue = bucket(step.rate)
    _asked(host, step, "tbf (CONFIG_NET_SCH_TBF)", traffic.token_bucket(device, rate, burst, queue))


def bucket(rate: int) -> tuple[int, int, int]:
    """From bits a second: bytes a second, bytes at once, bytes that wait."""
    rate = max(1, rate // 8)
    burst = min(_MOST_BURST, max(_LEAST_BURST, int(rate * _BURST_TIME)))
    return rate, burst, burst + min(_MOST_BURST, int(rate * _LATENCY))


def divert(host: Netlink, step: Divert, device: int, drop: Callable[[str], None]) -> None:
    """Raises Unimplemented where the kernel can't. `drop` deletes what an earlier attempt has left."""
    if host.link(step.through) is not None:
        drop(step.through)
    _asked(host, step, "ifb (CONFIG_IFB)", rt.link_new(step.through, "ifb", up=True))
    through = host.link(step.through)
    assert through is not None
    _asked(host, step, "ingress (CONFIG_NET_SCH_INGRESS)", traffic.ingress(device))
    needed = "u32 and mirred (CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED)"
    _asked(host, step, needed, traffic.redirected(device, through.index))


def _asked(host: Netlink, step: Limit | Divert, what: str, request: rt.Request) -> None:
    """What a kernel has no word for, it does not find."""
    try:
        host.perform(request)
    except Refused as error:
        if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP):
            raise
        raise Unimplemented(f"{step}: this kernel has no {what}") from error
