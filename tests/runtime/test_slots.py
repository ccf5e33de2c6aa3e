from __future__ import annotations

import pytest

from orlop.runtime.ops import Clone, Close, Fsmount, Fsopen, Mask, Mkdir, MoveMount, Op, Open, OpenTree, Pty, Sync
from orlop.runtime.optable import SKIP_MISSING
from orlop.runtime.plan import Plan, Stage, Step
from orlop.runtime.slots import check
from orlop.spec.errors import Internal


def plan(*ops: Op | Step) -> Plan:
    return Plan((Stage("only", tuple(op if isinstance(op, Step) else Step(op, "mounts[0]") for op in ops)),))


def test_what_the_parent_hands_over_and_what_operations_make_may_be_used() -> None:
    ops = (
        Fsopen(5, "tmpfs"),
        Fsmount(6, 5, 0),
        MoveMount(6, 0, "/tmp"),
        Pty(7, 8, 0, "/dev/ptmx", 0, 0, 0),
        Sync("a", (7,)),
    )
    check(plan(*ops), inherited=1)


def test_a_slot_lives_on_in_the_next_stage() -> None:
    first = Stage("first", (Step(Open(3, -1, "/", 0, 0, 0)), Step(Clone(0, -1))))
    check(Plan((first, Stage("second", (Step(Mkdir(3, "/x", 0, 0, 0)),)))), inherited=0)


def test_a_skipped_operation_counts_as_one_that_fills() -> None:
    check(plan(Close(3), Step(OpenTree(3, -1, "/x", 0), "", SKIP_MISSING), MoveMount(3, -1, "/y")), inherited=0)


@pytest.mark.parametrize(
    "op", [Mkdir(1, "/x", 0, 0, 0), Mask(0, "/x", 7), MoveMount(2, 0, "/"), Sync("a", (0, 9)), Mkdir(-2, "/x", 0, 0, 0)]
)
def test_a_slot_that_nothing_fills_is_refused(op: Op) -> None:
    with pytest.raises(Internal, match=r"plan: mounts\[0\]: nothing fills slot"):
        check(plan(op, Open(2, -1, "/", 0, 0, 0)), inherited=1)
