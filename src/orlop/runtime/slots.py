"""Whether every descriptor that a plan uses can be there. Pure.

An operation that reads an empty slot does nothing, which is right after one that was skipped; a slot that nothing fills
at all would silently leave out, say, what hides a path. So such a plan is never run.
"""

from __future__ import annotations

import msgspec

from orlop.runtime.ops import CODES, Op, Sync
from orlop.runtime.plan import Plan, Step
from orlop.spec.errors import Internal


def _places(type_: str) -> dict[type[Op], tuple[int, ...]]:
    """Which of an operation's fields are of this type."""
    return {kind: tuple(i for i, field in enumerate(fields) if field[1] == type_) for kind, fields in CODES.values()}


_READ, _FILL = _places("slot"), _places("fill")


def check(plan: Plan, inherited: int) -> None:
    """Raise Internal for an operation that reads a slot which neither the parent nor a step before it fills."""
    filled = {-1, *range(inherited)}
    for stage in plan.stages:
        for step in stage.steps:
            kind, values = type(step.op), msgspec.structs.astuple(step.op)
            for slot in step.op.fds if isinstance(step.op, Sync) else [values[i] for i in _READ[kind]]:
                if slot not in filled:
                    raise Internal(f"plan: {_where(step)}nothing fills slot {slot} of {step}")
            for i in _FILL[kind]:
                filled.add(values[i])


def _where(step: Step) -> str:
    return f"{step.origin}: " if step.origin else ""
