"""Realtime runtime for groups of cgroup v1: a group can have only what those above it have left (sched-rt-group.txt).

New groups have none, `/orlop` neither. What a container asks for is given to the groups between it and the root of the
hierarchy, as far as they are Orlop's own and the root has it; never is any taken from them.
"""

from __future__ import annotations

import math
import os

from orlop.cgroups.facts import ROOT
from orlop.cgroups.files import read, write_file

_RUNTIME, _PERIOD = "cpu.rt_runtime_us", "cpu.rt_period_us"


def make_room(mount: str, directory: str, runtime: int) -> bool:
    """Let the groups above `directory`, in the hierarchy at `mount`, have `runtime` microseconds in its period to give
    away. False where they are not Orlop's, or the root has no more."""
    if not directory.startswith(f"{mount}{ROOT}/"):
        return False
    try:
        share, needed, below = runtime / int(read(f"{directory}/{_PERIOD}")), list[tuple[str, float]](), directory
        while below != mount + ROOT:
            above = os.path.dirname(below)
            with os.scandir(above) as entries:
                others = [e.path for e in entries if e.is_dir(follow_symlinks=False) and e.path != below]
            share += sum(map(_share, others))
            needed.append((above, share))
            below = above
        for group, wanted in reversed(needed):
            if wanted > _share(group):
                write_file(f"{group}/{_RUNTIME}", str(math.ceil(wanted * int(read(f"{group}/{_PERIOD}")))))
    except OSError:
        return False
    return True


def _share(group: str) -> float:
    """The part of the time that a group may be given away; of one that is gone meanwhile, none."""
    try:
        return max(0, int(read(f"{group}/{_RUNTIME}"))) / int(read(f"{group}/{_PERIOD}"))
    except FileNotFoundError:
        return 0.0
