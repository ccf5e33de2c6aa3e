"""How a configuration names a unit of systemd, and where its group is."""

from __future__ import annotations

import pytest

from orlop.cgroups.units import Unit, expanded, unit_of
from orlop.spec.errors import InvalidArgument


def test_slice_prefix_and_name_are_a_scope() -> None:
    unit = unit_of("machine.slice:libpod:abc", "c")
    assert unit == Unit("libpod-abc.scope", "machine.slice", "system")
    assert unit.group() == "/machine.slice/libpod-abc.scope"


def test_what_is_not_said_has_a_default() -> None:
    assert unit_of("", "c").group() == "/system.slice/orlop-c.scope"
    assert unit_of(":p:n", "c").group() == "/system.slice/p-n.scope"
    own = unit_of("", "c", "user")
    assert own.group("/user.slice/user@7.service") == "/user.slice/user@7.service/user.slice/orlop-c.scope"


def test_a_slice_is_in_the_slices_of_its_name() -> None:
    assert expanded("a-b-c.slice") == "/a.slice/a-b.slice/a-b-c.slice"
    assert expanded("-.slice") == ""
    assert unit_of("-.slice:p:n", "c").group() == "/p-n.scope"
    assert unit_of("a-b.slice:p:n", "c").group() == "/a.slice/a-b.slice/p-n.scope"


def test_a_name_may_be_that_of_a_slice() -> None:
    unit = unit_of("system.slice:p:a-b.slice", "c")
    assert unit == Unit("a-b.slice", "a.slice", "system")
    assert (unit.is_slice, unit.group()) == (True, "/a.slice/a-b.slice")
    assert unit_of("::a.slice", "c").slice == "-.slice"


@pytest.mark.parametrize(
    "path",
    [
        "/a/b", "a", "a:b", "a.slice:b:c:d", "a:b:c", "a--b.slice:p:n", "-a.slice:p:n", "a-.slice:p:n", ".slice:p:n",
        "../a.slice:p:n", "a/b.slice:p:n", "a.slice:p:x/y", "a.slice:p:x y", "a.slice:p:é", "a.slice::", "a.slice:p:",
        "a.slice:p:" + "n" * 250, "a.slice:p:-x.slice",
    ],
)  # fmt: skip
def test_what_names_no_unit(path: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^linux\.cgroupsPath: "):
        unit_of(path, "c")
