from __future__ import annotations

import pytest

from orlop.runtime.ops import (
    BoundingSet,
    Capset,
    Chdir,
    Clone,
    Execve,
    Fsconfig,
    Fsmount,
    Groups,
    Mkdir,
    Mount,
    MountSetattr,
    Op,
    Open,
    OpenTree,
    Prctl,
    Rlimit,
    Seccomp,
    SetIds,
)
from orlop.runtime.optable import SKIP_EXISTS, SKIP_MISSING, SKIP_UNSUPPORTED
from orlop.runtime.plan import Plan, Stage, Step

LINES = [
    (Clone(0x20020000, -1), "Clone(flags=CLONE_NEWNS|CLONE_NEWPID)"),
    (
        Mount("proc", 0, "/proc", "proc", 0xE, ""),
        'Mount(source="proc", at=0, target="/proc", fstype="proc", flags=MS_NOSUID|MS_NODEV|MS_NOEXEC)',
    ),
    (Fsmount(1, 2, 1 | 0x100000), "Fsmount(slot=1, context=2, attributes=MOUNT_ATTR_RDONLY|MOUNT_ATTR_IDMAP)"),
    (Fsconfig(1, 1, "lowerdir+", "/a"), 'Fsconfig(slot=1, command=FSCONFIG_SET_STRING, key="lowerdir+", value="/a")'),
    (OpenTree(3, -1, "/data", 0x8001), 'OpenTree(slot=3, at=-1, path="/data", flags=OPEN_TREE_CLONE|AT_RECURSIVE)'),
    (
        MountSetattr(3, 0x9000, 1, 0, 1 << 19, -1),
        "MountSetattr(slot=3, flags=AT_RECURSIVE|AT_EMPTY_PATH, set=MOUNT_ATTR_RDONLY, propagation=MS_SLAVE)",
    ),
    (
        Open(1, -1, "/proc/self/ns/net", 0o2000000, 0, 0x6E736673),
        'Open(slot=1, at=-1, path="/proc/self/ns/net", flags=O_CLOEXEC, magic=1853056627)',
    ),
    (Mkdir(0, "/run", 0o755, 0, 0), 'Mkdir(at=0, path="/run", mode=0755)'),
    (BoundingSet(1 << 21 | 1), "BoundingSet(keep=CAP_CHOWN|CAP_SYS_ADMIN)"),
    (Capset(0, 0, 0), "Capset(permitted=none, effective=none, inheritable=none)"),
    (Prctl(38, 1, 0, 0, 0), "Prctl(option=PR_SET_NO_NEW_PRIVS, arg2=1)"),
    (Rlimit(7, 1024, 4096), "Rlimit(resource=RLIMIT_NOFILE, soft=1024, hard=4096)"),
    (Seccomp(0, -1, bytes(800)), "Seccomp(program=<800 bytes>)"),
    (SetIds(0, 1000), "SetIds(uid=0, gid=1000)"),
    (Groups((4, 24)), "Groups(gids=[4, 24])"),
    (
        Execve(("/bin/sh",), ("sh", "-c", 'echo "x"\n'), ()),
        'Execve(candidates=["/bin/sh"], argv=["sh", "-c", "echo \\"x\\"\\n"])',
    ),
    (Chdir(-1, "/\x1b[2J"), 'Chdir(at=-1, path="/\\u001b[2J")'),
]


@pytest.mark.parametrize(("op", "line"), LINES, ids=lambda v: type(v).__name__ if isinstance(v, Op) else "")
def test_an_operation_is_one_readable_line(op: Op, line: str) -> None:
    assert str(Step(op)) == line


def test_failures_that_do_not_count_are_shown() -> None:
    step = Step(Chdir(-1, "/"), "", SKIP_MISSING | SKIP_UNSUPPORTED | SKIP_EXISTS)
    assert str(step) == 'Chdir(at=-1, path="/") unless missing/unsupported/exists'


def test_a_plan_is_a_line_for_each_step_with_its_origin() -> None:
    first = Stage("outside", (Step(Clone(0x20000000, -1), "linux.namespaces"),))
    second = Stage("container", (Step(Chdir(-1, "/srv"), "process.cwd (/srv)"), Step(SetIds(0, 0))))
    assert Plan((first, second)).render().splitlines() == [
        "stage 0: outside",
        "   0 Clone(flags=CLONE_NEWPID)".ljust(100) + "  # linux.namespaces",
        "stage 1: container",
        '   0 Chdir(at=-1, path="/srv")'.ljust(100) + "  # process.cwd (/srv)",
        "   1 SetIds(uid=0, gid=0)",
    ]


def test_a_place_that_the_helper_reports_is_found_or_not_there() -> None:
    plan = Plan((Stage("only", (Step(SetIds(0, 0), "process.user"),)),))
    found = plan.step(0, 0)
    assert found is not None
    assert found.origin == "process.user"
    assert plan.step(0, 1) is None
    assert plan.step(7, 0) is None
