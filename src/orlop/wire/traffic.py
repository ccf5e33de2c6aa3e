"""Traffic control in rtnetlink's messages, without input or output: shape what a device sends, send what it receives
through another one (tc(8), linux/pkt_sched.h, linux/pkt_cls.h).

Rates are bytes a second, sizes bytes.
"""

from __future__ import annotations

import struct

from orlop.wire.rtnetlink import (
    AF_UNSPEC,
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Request,
    attribute,
)

RTM_NEWQDISC, RTM_NEWTFILTER = 36, 44
_ROOT, _INGRESS = 0xFFFFFFFF, 0xFFFFFFF1  # TC_H_ROOT, TC_H_INGRESS
_INGRESS_HANDLE = 0xFFFF0000  # ffff:
_KIND, _OPTIONS = 1, 2  # TCA_KIND, TCA_OPTIONS
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_U32_SELECTOR, _U32_ACTION = 5, 7
_ACTION_KIND, _ACTION_OPTIONS = 1, 2
_MIRRED_PARMS = 2
_ETHERNET = 1  # TC_LINKLAYER_ETHERNET
_TERMINAL = 1  # TC_U32_TERMINAL
_STOLEN, _EGRESS_REDIRECT = 4, 1  # TC_ACT_STOLEN, TCA_EGRESS_REDIR
_ALL_PROTOCOLS = 3  # ETH_P_ALL
_MOST_U32 = (1 << 32) - 1

_BODY = struct.Struct("=BxxxiIII")  # tcmsg: family, index, handle, parent, info
_RATE = struct.Struct("=BBHhHI")  # tc_ratespec: cell log, link layer, overhead, cell align, mpu, rate
_TBF = struct.Struct(f"={_RATE.size}s{_RATE.size}sIII")  # rate, peak rate, limit, buffer, mtu
_SELECTOR = struct.Struct("=BBBxHHhHI")  # flags, offset shift, keys, masks and offsets
_KEY = struct.Struct("=IIii")  # mask, value, offset, offset mask
_MIRRED = struct.Struct("=IIiiiiI")  # index, capabilities, action, references, bindings, what to do, device


def _nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def _kind(name: str, kind: int = _KIND) -> bytes:
    return attribute(kind, name.encode() + b"\0")


def token_bucket(device: int, rate: int, burst: int, queue: int) -> Request:
    """Have a device send no more than `rate`, but for `burst` at once; `queue` is how much may wait (tc-tbf(8)). Takes
    the place of what the device has."""
    whole = _RATE.pack(0, _ETHERNET, 0, 0, 0, min(rate, _MOST_U32))
    options = [attribute(_TBF_PARMS, _TBF.pack(whole, _RATE.pack(0, 0, 0, 0, 0, 0), queue, 0, 0))]
    if rate > _MOST_U32:
        options.append(attribute(_TBF_RATE64, struct.pack("=Q", rate)))
    options.append(attribute(_TBF_BURST, struct.pack("=I", burst)))
    body = _BODY.pack(AF_UNSPEC, device, 0, _ROOT, 0) + _kind("tbf") + _nested(_OPTIONS, *options)
    return Request(RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, body)


def ingress(device: int) -> Request:
    """Where filters for what a device receives can be put."""
    body = _BODY.pack(AF_UNSPEC, device, _INGRESS_HANDLE, _INGRESS, 0) + _kind("ingress")
    return Request(RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)


def redirected(device: int, through: int) -> Request:
    """All that `device` receives is sent by `through`, of kind ifb, which then hands it back as received by `device`.
    `ingress` comes before."""
    action = _MIRRED.pack(0, 0, _STOLEN, 0, 0, _EGRESS_REDIRECT, through)
    mirred = _nested(1, _kind("mirred", _ACTION_KIND), _nested(_ACTION_OPTIONS, attribute(_MIRRED_PARMS, action)))
    everything = _SELECTOR.pack(_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + _KEY.pack(0, 0, 0, 0)
    options = _nested(_OPTIONS, attribute(_U32_SELECTOR, everything), _nested(_U32_ACTION, mirred))
    info = 1 << 16 | int.from_bytes(struct.pack(">H", _ALL_PROTOCOLS), "little")  # priority, protocol
    body = _BODY.pack(AF_UNSPEC, device, 0, _INGRESS_HANDLE, info) + _kind("u32") + options
    return Request(RTM_NEWTFILTER, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)
