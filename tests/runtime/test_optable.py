from __future__ import annotations

import errno
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from orlop.runtime import ops
from orlop.runtime.opgen import c_source, python_source
from orlop.runtime.optable import TABLE

REPOSITORY = Path(__file__).parents[2]
TYPES = {"i32", "u32", "i64", "u64", "str", "bytes", "strs", "u32s", "slot", "fill"}


def test_numbers_and_names_are_unique() -> None:
    assert len({op.code for op in TABLE}) == len({op.name for op in TABLE}) == len(TABLE)


def test_fields_have_known_types() -> None:
    assert {field.type for op in TABLE for field in op.fields} <= TYPES


def test_generated_files_are_those_of_the_table() -> None:
    assert (REPOSITORY / "src/orlop/runtime/ops.py").read_text() == python_source()
    assert (REPOSITORY / "native/ops.h").read_text() == c_source()


def test_check_passes_without_drift() -> None:
    subprocess.run(["sh", "scripts/ops", "--check"], cwd=REPOSITORY, check=True)


def test_every_operation_has_a_type_with_the_fields_of_the_table() -> None:
    for op in TABLE:
        kind, fields = ops.CODES[op.code]
        assert kind.__name__ == op.name
        assert kind.__struct_fields__ == tuple(field.name for field in op.fields)
        assert fields == tuple(op.fields)


def test_the_helper_stays_small() -> None:
    assert (REPOSITORY / "native/launch.c").read_text().count("\n") <= 800


def test_error_names_are_those_that_python_has() -> None:
    listed = re.findall(r"X\((E\w+)\)", (REPOSITORY / "native/errno_names.h").read_text())
    assert len(listed) == len(set(listed))
    assert {getattr(errno, name, None) for name in listed} >= set(errno.errorcode)


def test_programs_that_commands_wait_for_are_small() -> None:
    """With glibc they would be ten times as large, and take four times as long to start in a virtual machine."""
    if shutil.which("musl-gcc") is None:
        pytest.skip("no musl-gcc")
    for name in ("front", "launch", "shim", "init"):
        assert (REPOSITORY / "src/orlop/_native" / f"orlop-{name}").stat().st_size < (128 << 10), name
