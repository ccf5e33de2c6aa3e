"""Whether every descriptor that a plan uses can be there. Pure.

An operation that reads an empty slot does nothing, which is right after one that was skipped; a slot that nothing fills
at all would silently leave out, say, what hides a path. So such a plan is never run.
"""

from __future__ import annotations

from orlop.runtime.ops import CODES, Op, Sync
from orlop.runtime.plan import Plan, Step
from orlop.spec.errors import Internal

_READ = {kind: tuple(name for name, type_ in fields if type_ == "slot") for kind, fields in CODES.values()}
_FILL = {kind: tuple(name for name, type_ in fields if type_ == "fill") for kind, fields in CODES.values()}


def check(plan: Plan, inherited: int) -> None:
    """Raise Internal for an operation that reads a slot which neither the parent nor a step before it fills."""
    filled = {-1, *range(inherited)}
    for stage in plan.stages:
        for step in stage.steps:
            for slot in _read(step.op):
                if slot not in filled:
                    raise Internal(f"plan: {_where(step)}nothing fills slot {slot} of {step}")
            filled.update(getattr(step.op, name) for name in _FILL[type(step.op)])


def _read(op: Op) -> tuple[int, ...]:
    if isinstance(op, Sync):
        return op.fds
    return tuple(getattr(op, name) for name in _READ[type(op)])


def _where(step: Step) -> str:
    return f"{step.origin}: " if step.origin else ""
