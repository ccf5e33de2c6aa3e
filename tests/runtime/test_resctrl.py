"""linux.intelRdt: which groups are made, written and removed. A directory stands for the file system, which no kernel
here has: what the kernel itself puts into a new group is not in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orlop.runtime import resctrl
from orlop.runtime.compile_resctrl import Groups, groups, joined, owned
from orlop.spec.errors import AlreadyExists, FailedPrecondition, OrlopError
from orlop.spec.runtime import IntelRdt

ROOT = "/sys/fs/resctrl"
FOUND = "    MB:0= 20;1= 70\n    L3:0=07f0;1=001f\n"


def test_a_container_without_a_class_gets_one_of_its_own() -> None:
    rdt = IntelRdt(schemata=("L2:0=f",), mem_bw_schema="MB:0=20", l3_cache_schema="L3:0=7f0")
    assert groups(rdt, "c1", ROOT, None) == Groups((f"{ROOT}/c1",), ("L3:0=7f0", "MB:0=20", "L2:0=f"))
    assert joined(rdt, "c1", ROOT) == owned(rdt, "c1", ROOT) == (f"{ROOT}/c1",)


def test_a_group_of_that_name_that_is_there_is_not_taken() -> None:
    with pytest.raises(AlreadyExists, match="name it with closID"):
        groups(IntelRdt(), "c1", ROOT, FOUND)


def test_a_class_that_is_named_is_made_only_with_schemata_and_stays() -> None:
    rdt = IntelRdt(clos_id="gold", l3_cache_schema="L3:0=f")
    assert groups(rdt, "c1", ROOT, None) == Groups((f"{ROOT}/gold",), ("L3:0=f",))
    assert owned(rdt, "c1", ROOT) == ()
    with pytest.raises(FailedPrecondition, match="there is no class 'gold'"):
        groups(IntelRdt(clos_id="gold"), "c1", ROOT, None)


@pytest.mark.parametrize(
    "rdt",
    [
        IntelRdt(clos_id="gold"),
        IntelRdt(clos_id="gold", l3_cache_schema="L3:0=7F0;1=1f", mem_bw_schema="MB:1=70"),
        IntelRdt(clos_id="gold", schemata=("MB:0=20",)),
    ],
)
def test_a_class_that_is_there_is_compared_and_left_as_it_is(rdt: IntelRdt) -> None:
    assert groups(rdt, "c1", ROOT, FOUND) == Groups()


@pytest.mark.parametrize("line", ["L3:0=7f1", "L3:2=1", "L2:0=f", "MB:0=30"])
def test_a_class_with_other_schemata_is_refused(line: str) -> None:
    with pytest.raises(FailedPrecondition, match="has other schemata"):
        groups(IntelRdt(clos_id="gold", schemata=(line,)), "c1", ROOT, FOUND)


def test_the_slash_is_the_default_class() -> None:
    rdt = IntelRdt(clos_id="/", enable_monitoring=True)
    assert groups(rdt, "c1", ROOT, FOUND) == Groups((f"{ROOT}/mon_groups/c1",))
    assert joined(rdt, "c1", ROOT) == (ROOT, f"{ROOT}/mon_groups/c1")
    assert owned(rdt, "c1", ROOT) == (f"{ROOT}/mon_groups/c1",)


@pytest.mark.parametrize("field", ["enable_monitoring", "enable_cmt", "enable_mbm"])
def test_a_monitoring_group_goes_before_its_class(field: str) -> None:
    rdt = IntelRdt(**{field: True})  # type: ignore[arg-type]
    assert groups(rdt, "c1", ROOT, None).made == (f"{ROOT}/c1", f"{ROOT}/c1/mon_groups/c1")
    assert owned(rdt, "c1", ROOT) == (f"{ROOT}/c1/mon_groups/c1", f"{ROOT}/c1")


# --- on a directory


def group(path: Path) -> None:
    (path / "mon_groups").mkdir(parents=True)
    for name in ("schemata", "tasks"):
        (path / name).touch()


def test_a_process_is_written_to_every_group(tmp_path: Path) -> None:
    group(tmp_path)
    group(tmp_path / "gold")
    group(tmp_path / "gold/mon_groups/c1")
    rdt = IntelRdt(clos_id="gold", enable_monitoring=True)
    resctrl.join(rdt, "c1", str(tmp_path), 7)
    assert (tmp_path / "gold/tasks").read_text() == (tmp_path / "gold/mon_groups/c1/tasks").read_text() == "7\n"
    assert (tmp_path / "tasks").read_text() == ""


def test_what_was_made_goes_when_the_schemata_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OrlopError, match=r"linux\.intelRdt: write 'L3:0=1' to"):
        resctrl.make(IntelRdt(clos_id="gold", l3_cache_schema="L3:0=1"), "c1", str(tmp_path))  # no schemata there
    assert not list(tmp_path.iterdir())


def test_schemata_of_a_container_in_being_change(tmp_path: Path) -> None:
    group(tmp_path / "c1")
    resctrl.change(IntelRdt(l3_cache_schema="L3:0=3"), "c1", str(tmp_path))
    assert (tmp_path / "c1/schemata").read_text() == "L3:0=3\n"


def test_the_mount_is_found_where_it_is(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 0:20 / /sys rw - sysfs sysfs rw\n40 22 0:30 / /sys/fs/resctrl rw,relatime shared:9 - resctrl resctrl rw\n"
    )
    assert resctrl.mounted(str(table), str(tmp_path)) == "/sys/fs/resctrl"
    assert resctrl.mounted(str(table), str(tmp_path / "none")) == ""
    table.write_text("22 1 0:20 / /sys rw - sysfs sysfs rw\n")
    assert resctrl.mounted(str(table), str(tmp_path)) == ""
