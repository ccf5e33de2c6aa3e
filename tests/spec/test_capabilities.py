from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.spec import capabilities
from orlop.spec.errors import InvalidArgument

NO_RESOURCE = capabilities.ALL & ~(1 << capabilities.BITS["CAP_SYS_RESOURCE"])


def test_there_are_41_and_the_last_is_checkpoint_restore() -> None:
    assert len(capabilities.NAMES) == 41
    assert capabilities.BITS["CAP_CHECKPOINT_RESTORE"] == 40
    assert capabilities.BITS["CAP_SYS_ADMIN"] == 21


def test_default_is_dockers_mask() -> None:
    assert capabilities.mask(capabilities.DEFAULT) == 0xA80425FB


@given(st.integers(0, capabilities.ALL))
def test_names_and_masks_are_inverse(bits: int) -> None:
    assert capabilities.mask(capabilities.names(bits)) == bits


def test_nothing_asked_gives_the_default() -> None:
    assert capabilities.resolve() == capabilities.DEFAULT


@pytest.mark.parametrize("spelling", ["net_admin", "NET_ADMIN", "CAP_NET_ADMIN", "cap_net_admin"])
def test_every_spelling_adds(spelling: str) -> None:
    assert "CAP_NET_ADMIN" in capabilities.resolve([spelling])


def test_add_wins_over_drop_of_the_same() -> None:
    assert "CAP_CHOWN" in capabilities.resolve(["chown"], ["chown"])


def test_drop_all_leaves_only_what_is_added() -> None:
    assert capabilities.resolve(["chown", "kill"], ["all"]) == ("CAP_CHOWN", "CAP_KILL")


def test_add_all_gives_all_but_what_is_dropped() -> None:
    got = capabilities.resolve(["ALL"], ["mknod", "cap_sys_admin"])
    assert set(capabilities.NAMES) - set(got) == {"CAP_MKNOD", "CAP_SYS_ADMIN"}


def test_all_means_what_the_host_has() -> None:
    assert "CAP_SYS_RESOURCE" not in capabilities.resolve(["ALL"], available=NO_RESOURCE)
    assert "CAP_SYS_RESOURCE" not in capabilities.resolve(privileged=True, available=NO_RESOURCE)
    assert len(capabilities.resolve(privileged=True)) == 41


def test_naming_one_that_the_host_lacks_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"not available in the current environment: 'CAP_SYS_RESOURCE'"):
        capabilities.resolve(["sys_resource"], available=NO_RESOURCE)


@pytest.mark.parametrize(("add", "drop"), [(["wings"], []), ([], ["CAP_WINGS"]), ([""], [])])
def test_unknown_name_is_refused(add: list[str], drop: list[str]) -> None:
    with pytest.raises(InvalidArgument, match=r"invalid Cap(Add|Drop): unknown capability: 'CAP_"):
        capabilities.resolve(add, drop)


def test_mask_names_the_json_path() -> None:
    with pytest.raises(InvalidArgument, match=r"process\.capabilities\.bounding\[1\]: unknown capability 'CHOWN'"):
        capabilities.mask(["CAP_CHOWN", "CHOWN"], "process.capabilities.bounding")
