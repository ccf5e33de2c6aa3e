"""Whether every descriptor that a plan uses can be there. Pure.

An operation that reads an empty slot does nothing, which is right after one that was skipped; a slot that nothing fills
at all would silently leave out, say, what hides a path. So such a plan is never run.
"""

from __future__ import annotations

from orlop.runtime.ops import CODES, Op, Sync
from orlop.runtime.plan import Plan, Step
from orlop.spec.errors import Internal


def _fields(type_: str) -> dict[type[Op], tuple[str, ...]]:
    """Which of an operation's fields are of this type."""
    return {kind: tuple(name for name, found in fields if found == type_) for kind, fields in CODES.values()}


_READ, _FILL = _fields("slot"), _fields("fill")


def check(plan: Plan, inherited: int) -> None:
    """Raise Internal for an operation that reads a slot which neither the parent nor a step before it fills."""
    filled = {-1, *range(inherited)}
    for stage in plan.stages:
        for step in stage.steps:
            op, kind = step.op, type(step.op)
            for slot in op.fds if isinstance(op, Sync) else [getattr(op, name) for name in _READ[kind]]:
                if slot not in filled:
                    raise Internal(f"plan: {_where(step)}nothing fills slot {slot} of {step}")
            for name in _FILL[kind]:
                filled.add(getattr(op, name))


def _where(step: Step) -> str:
    return f"{step.origin}: " if step.origin else ""
