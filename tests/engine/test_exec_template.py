"""The kept plan of an exec: filled with another command it is what the compiler would have made of that."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.engine.exec_template import cut
from orlop.runtime.compile_process import candidates
from orlop.runtime.encode import encode
from orlop.runtime.ops import Clone, Execve, FindExec, Seccomp, Sync
from orlop.runtime.plan import Plan, Stage, Step
from orlop.runtime.template import fill, pack, unpack
from orlop.spec.runtime import Process, User

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=20)


def plan(args: tuple[str, ...], env: tuple[str, ...]) -> Plan:
    process = Process(args=args, env=env, cwd="/", user=User(uid=0, gid=0))
    inside = (Sync("created", ()), FindExec(candidates(process)), Seccomp(0, -1, b"\0" * 16))
    last = Execve(candidates(process), args, env)
    return Plan(
        (
            Stage("outside", (Step(Clone(0, -1), ""),)),
            Stage("container", tuple(Step(op, "") for op in (*inside, last))),
        )
    )


@given(
    first=st.lists(WORDS, min_size=1, max_size=3),
    second=st.lists(WORDS, min_size=1, max_size=3),
    path=st.sampled_from((None, "", "/bin", "/usr/bin:/bin:", "/bin:/bin", "rel:/x")),
)
def test_filled_template_is_the_plan_of_the_command(first: list[str], second: list[str], path: str | None) -> None:
    env = ("A=1", f"PATH={path}", "HOME=/root") if path is not None else ("A=1",)
    parts = cut(plan(tuple(first), env))
    assert parts is not None
    assert fill((b"key", *parts), second) == encode(plan(tuple(second), env), inherited=1)


def test_bytes_that_are_no_utf8_pass_through() -> None:
    parts = cut(plan(("true",), ("PATH=/b\udcff",)))
    assert parts is not None
    assert fill((b"key", *parts), ["\udcfe"]) == encode(plan(("\udcfe",), ("PATH=/b\udcff",)), inherited=1)


def test_plan_without_a_search_is_not_kept() -> None:
    made = plan(("true",), ())
    stages = (made.stages[0], Stage("container", (made.stages[1].steps[0], made.stages[1].steps[-1])))
    assert cut(Plan(stages)) is None


@given(st.lists(st.binary(max_size=40), min_size=6, max_size=6))
def test_file_round_trip(parts: list[bytes]) -> None:
    assert unpack(pack(parts)) == parts


@given(st.binary(max_size=200))
def test_anything_else_is_no_template(data: bytes) -> None:
    assert unpack(data) is None
    assert unpack(pack([b"x"] * 6) + data) is None or not data


@pytest.mark.parametrize("count", [0, 5, 7])
def test_file_of_another_number_of_parts_is_none(count: int) -> None:
    assert unpack(pack([b"x"] * count)) is None


def test_truncated_file_is_none() -> None:
    whole = pack([b"abc"] * 6)
    assert all(unpack(whole[:end]) is None for end in range(len(whole)))
    assert unpack(whole[:-7] + struct.pack("<I", 1 << 31) + b"abc") is None
