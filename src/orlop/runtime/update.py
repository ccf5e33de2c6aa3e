"""`update`: other limits for a container in being."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from orlop.cgroups import driver
from orlop.runtime import groups
from orlop.runtime.kill import frozen
from orlop.runtime.state import CONFIG, Store, status
from orlop.spec.document import merged
from orlop.spec.errors import FailedPrecondition, InvalidArgument, from_os
from orlop.spec.runtime import IntelRdt, Linux, Resources, parse_runtime_spec

S = TypeVar("S", bound=msgspec.Struct)
# numbers of which zero is a limit; with all others it is how engines say "as it is"
_ZERO_COUNTS = frozenset({"idle", "burst", "swappiness", "leaf_weight"})


def update(store: Store, identifier: str, changes: Resources, rdt: IntelRdt = IntelRdt()) -> None:  # noqa: B008 - frozen
    """Put `changes`, and the schemata of `rdt`, in force; what they do not name stays as it is. The kept configuration
    tells the new limits."""
    record = store.load(identifier)
    groups.hierarchies(record, "update")
    now = status(record, frozen(record))
    if now not in ("created", "running", "paused"):
        raise FailedPrecondition(f"cannot update container {identifier}: it is {now} (container not running)")
    raw = _configuration(store, identifier)
    spec = parse_runtime_spec(raw).value
    linux = spec.linux or Linux()
    changes = _unlimited(named(changes))
    whole = overlaid(linux.resources or Resources(), changes)
    driver.update(groups.hierarchies(record, "update"), record.place, _complete(changes, whole))
    new = msgspec.structs.replace(linux, resources=whole, intel_rdt=_schemata(linux, identifier, rdt))
    spec = msgspec.structs.replace(spec, linux=new)
    store.write(identifier, CONFIG, merged(raw, spec))


def _schemata(linux: Linux, identifier: str, changes: IntelRdt) -> IntelRdt | None:
    """The container's class gets the schemata of `changes`."""
    named = {n: v for n in ("l3_cache_schema", "mem_bw_schema") if (v := getattr(changes, n))}
    if not named:
        return linux.intel_rdt
    from orlop.runtime import resctrl

    root = resctrl.mounted()
    if linux.intel_rdt is None or not root:
        raise FailedPrecondition(f"linux.intelRdt: container {identifier} was created without it")
    resctrl.change(msgspec.structs.replace(changes, clos_id=linux.intel_rdt.clos_id), identifier, root)
    return msgspec.structs.replace(linux.intel_rdt, **named)


def _configuration(store: Store, identifier: str) -> bytes:
    try:
        with open(store.path(identifier, CONFIG), "rb") as file:
            return file.read()
    except OSError as error:
        raise from_os(error, "read configuration") from error


def named(changes: Resources) -> Resources:
    """`changes` without numbers that are zero and so name nothing."""
    parts = {
        name: _without_zeros(part)
        for name in ("memory", "cpu", "pids", "block_io")
        if (part := getattr(changes, name)) is not None
    }
    return msgspec.structs.replace(changes, **parts)


def _unlimited(changes: Resources) -> Resources:
    """Without a limit on memory one on memory and swap together makes no sense, and the kernel refuses it."""
    memory = changes.memory
    if memory is None or memory.limit != -1 or memory.swap is not None:
        return changes
    return msgspec.structs.replace(changes, memory=msgspec.structs.replace(memory, swap=-1))


def _without_zeros(part: S) -> S:
    zeros = {
        name: None
        for name in part.__struct_fields__
        if name not in _ZERO_COUNTS and type(getattr(part, name)) is int and getattr(part, name) == 0
    }
    return msgspec.structs.replace(part, **zeros)


def overlaid(old: Resources, changes: Resources) -> Resources:
    """The limits that hold once `changes` are in force over `old`."""
    whole: Resources = _over(old, changes)
    return whole


def _over(old: Any, new: Any) -> Any:
    if old is None or new is None:
        return old if new is None else new
    if isinstance(new, msgspec.Struct):
        return type(new)(**{name: _over(getattr(old, name), getattr(new, name)) for name in new.__struct_fields__})
    if isinstance(new, dict):
        return {**old, **new}
    return old if new in ("", ()) else new


def _complete(changes: Resources, whole: Resources) -> Resources:
    """Limits that are meant in relation to another go with that one: swap is counted on top of memory on v2, and a
    quota is a part of its period."""
    memory, cpu = changes.memory, changes.cpu
    if memory is not None and whole.memory is not None and (memory.swap is None) != (memory.limit is None):
        if memory.limit is not None and whole.memory.swap is not None and 0 < whole.memory.swap < memory.limit:
            raise InvalidArgument(
                f"linux.resources.memory.limit: {memory.limit} is more than the limit of memory and swap,"
                f" {whole.memory.swap}; change both"
            )
        memory = msgspec.structs.replace(memory, limit=whole.memory.limit, swap=whole.memory.swap)
    if cpu is not None and whole.cpu is not None and (cpu.quota is None) != (cpu.period is None):
        cpu = msgspec.structs.replace(cpu, quota=whole.cpu.quota, period=whole.cpu.period)
    return msgspec.structs.replace(changes, memory=memory, cpu=cpu)
