from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.runtime.encode import decode, encode
from orlop.runtime.ops import CODES, Chdir, Execve, Groups, Mkdir, Op, Seccomp
from orlop.runtime.plan import Plan, Stage, Step
from orlop.spec.errors import InvalidArgument

REPOSITORY = Path(__file__).parents[2]
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "i32": st.integers(-(1 << 31), (1 << 31) - 1),
    "slot": st.integers(-1, 63),
    "fill": st.integers(-1, 63),
    "u32": st.integers(0, (1 << 32) - 1),
    "i64": st.integers(-(1 << 63), (1 << 63) - 1),
    "u64": st.integers(0, (1 << 64) - 1),
    "str": TEXT,
    "bytes": st.binary(max_size=40),
    "strs": st.lists(TEXT, max_size=4).map(tuple),
    "u32s": st.lists(st.integers(0, (1 << 32) - 1), max_size=4).map(tuple),
}


@st.composite
def steps(draw: st.DrawFn) -> Step:
    kind, fields = CODES[draw(st.sampled_from(sorted(CODES)))]
    op: Op = kind(*(draw(FIELDS[encoding]) for _, encoding in fields))
    return Step(op, "", draw(st.integers(0, 15)))


PLANS = st.lists(st.lists(steps(), max_size=6), max_size=3).map(
    lambda stages: Plan(tuple(Stage(f"stage {i}", tuple(stage)) for i, stage in enumerate(stages)))
)


def one(op: Op) -> Plan:
    return Plan((Stage("stage 0", (Step(op),)),))


@given(PLANS, st.integers(0, 64))
def test_a_plan_survives_its_binary_form(plan: Plan, inherited: int) -> None:
    assert decode(encode(plan, inherited)) == (plan, inherited)


@given(st.binary(max_size=200))
def test_refuses_what_is_not_a_plan(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        decode(data)


@given(PLANS, st.data())
def test_a_truncated_plan_is_refused(plan: Plan, data: st.DataObject) -> None:
    whole = encode(plan)
    with pytest.raises(InvalidArgument):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(PLANS, st.data())
def test_a_damaged_plan_is_refused_or_is_another_plan(plan: Plan, data: st.DataObject) -> None:
    whole = bytearray(encode(plan))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decode(bytes(whole))
    except InvalidArgument:
        pass


def test_bytes_stand_in_the_order_of_the_table() -> None:
    expected = b"ORLP" + struct.pack("<IIIIHBBI", 1, 2, 1, 1, 30, 4, 0, 25) + struct.pack("<iI", 3, 4) + b"/tmp\0"
    plan = Plan((Stage("only", (Step(Mkdir(3, "/tmp", 0o755, 5, 6), "mounts[0]", 4),)),))
    assert encode(plan, 2) == expected + struct.pack("<III", 0o755, 5, 6)


def test_paths_that_are_not_utf8_pass_unchanged() -> None:
    path = b"/srv/\xff\xfe".decode("utf-8", "surrogateescape")
    assert b"/srv/\xff\xfe\0" in encode(one(Chdir(-1, path)))
    assert decode(encode(one(Chdir(-1, path))))[0] == one(Chdir(-1, path))


def test_refuses_a_string_with_a_nul() -> None:
    with pytest.raises(InvalidArgument, match="contains a NUL"):
        encode(one(Execve(("/bin/sh",), ("sh", "a\0b"), ())))


@pytest.mark.parametrize("op", [Groups((1 << 32,)), Mkdir(0, "/", -1, 0, 0), Seccomp(1 << 32, -1, b"")])
def test_refuses_a_number_that_does_not_fit(op: Op) -> None:
    with pytest.raises(InvalidArgument, match="out of range"):
        encode(one(op))


# --- the helper's own decoder


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The decoder of the helper without its operations, built to notice every step beyond the plan."""
    target = tmp_path_factory.mktemp("decoder") / "decode"
    flags = ("-std=gnu11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
    built = subprocess.run(["cc", *flags, "-o", target, REPOSITORY / "native/fuzz/plan.c"], capture_output=True)
    if built.returncode:
        pytest.skip(f"no sanitizers here: {built.stderr.decode()[-200:]}")
    return target


def feed(decoder: Path, samples: list[bytes]) -> None:
    data = b"".join(struct.pack("<I", len(sample)) + sample for sample in samples)
    done = subprocess.run([decoder], input=data, capture_output=True, env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    assert int(done.stdout) == len(samples)


@settings(max_examples=15, deadline=None)
@given(st.lists(PLANS, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_the_helper_reads_damaged_plans_within_their_bounds(decoder: Path, plans: list[Plan], random: Any) -> None:
    samples = []
    for plan in plans:
        whole = encode(plan)
        samples.append(whole)
        for _ in range(40):
            damaged = bytearray(whole[: random.randrange(len(whole) + 1)])
            for _ in range(random.randrange(1, 4)):
                if damaged:
                    damaged[random.randrange(len(damaged))] = random.choice((0, 1, 4, 127, 128, 255))
            samples.append(bytes(damaged))
    feed(decoder, samples)
