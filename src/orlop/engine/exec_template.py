"""Keeps the plan of an exec without options, for the next ones to be quick (see `runtime.template`)."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from orlop.engine.records import ContainerRecord
from orlop.runtime.circumstances import circumstances
from orlop.runtime.encode import encode
from orlop.runtime.ops import NUMBERS, Execve, FindExec
from orlop.runtime.plan import Plan
from orlop.runtime.template import operation, pack, strings
from orlop.sys.files import write_all


def remember(directory: Path, record: ContainerRecord, plan: Plan) -> None:
    """Write the template beside the container's socket. What can't be written is not missed."""
    parts = cut(plan)
    if parts is None:
        return
    whole = pack((circumstances(record.pid, record.pid_start_time), *parts))
    new = directory / f"exec.{os.getpid()}"
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            write_all(fd, whole)
        finally:
            os.close(fd)
        os.rename(new, directory / "exec")
    except OSError:  # a full disk, or the container has just ended
        return


def cut(plan: Plan) -> tuple[bytes, bytes, bytes, bytes, bytes] | None:
    """The parts of a template without its key. Pure. None for a plan of another form, which is not kept."""
    ops = [step.op for stage in plan.stages for step in stage.steps]
    last, finds = ops[-1], [op for op in ops if isinstance(op, FindExec)]
    if not isinstance(last, Execve) or len(finds) != 1:
        return None
    codes = NUMBERS[FindExec], NUMBERS[Execve]
    data = encode(plan, inherited=1)
    find = operation(codes[0], strings(finds[0].candidates))
    execve = operation(codes[1], strings(last.candidates) + strings(last.argv) + strings(last.env))
    if data.count(find) != 1 or not data.endswith(execve):
        return None
    before, _, between = data.removesuffix(execve).partition(find)
    path = next((entry[5:] for entry in last.env if entry.startswith("PATH=")), "")
    return struct.pack("<HH", *codes), before, between, strings(last.env), path.encode("utf-8", "surrogateescape")
