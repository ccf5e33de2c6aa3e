"""The tables of the compilers: mount options, masks, parameters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.runtime import mount_options
from orlop.runtime.compile_mounts import clean, hierarchies
from orlop.runtime.compile_schedule import cpu_mask
from orlop.runtime.compile_sysctl import path_of
from orlop.runtime.features import features
from orlop.runtime.host import kernel_version, parse_limits
from orlop.runtime.mount_options import MS_BIND, MS_RDONLY, MS_REC, parse
from orlop.spec.errors import InvalidArgument

# config.md, "Linux mount options", version 1.3
SPECIFIED = """
async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime
noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev
rdiratime relatime remount rexec rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime rnosuid
rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared
silent slave strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap
""".split()


CRUNS = ["copy-symlink", "dest-nofollow", "src-nofollow"]


def test_knows_every_option_of_the_specification_and_those_of_crun() -> None:
    assert {*SPECIFIED, *CRUNS} == set(mount_options.NAMES)
    assert features()["mountOptions"] == sorted([*SPECIFIED, *CRUNS])


def test_the_last_word_wins() -> None:
    assert parse(("ro", "rw"), "").flags == 0
    assert parse(("rw", "ro"), "").flags == MS_RDONLY
    assert parse(("rbind", "rro", "rrw"), "").recursive == mount_options.Attributes(0, mount_options.ATTR_RDONLY)


def test_other_words_are_the_file_systems() -> None:
    found = parse(("nosuid", "size=64m", "mode=755"), "")
    assert found.data == ("size=64m", "mode=755")
    assert found.flags == mount_options.MS_NOSUID


def test_times_are_one_field() -> None:
    found = parse(("bind", "noatime"), "").attributes
    assert (found.set, found.clear) == (mount_options.ATTR_NOATIME, mount_options.ATTR_ATIME)
    found = parse(("bind", "noatime", "strictatime"), "").attributes
    assert found.set == mount_options.ATTR_STRICTATIME


def test_bind_refuses_what_the_kernel_would_silently_ignore() -> None:
    for option in ("sync", "mand", "size=1", "lazytime"):
        with pytest.raises(InvalidArgument, match=r"mounts\[0\].options\[1\]"):
            parse(("bind", option), "mounts[0].options")
    assert parse(("rbind",), "").flags == MS_BIND | MS_REC


@given(st.text(max_size=50))
def test_clean_never_leads_out(text: str) -> None:
    found = clean(text)
    assert found.startswith("/")
    assert ".." not in found.split("/")


@pytest.mark.parametrize(
    ("text", "bits"), [("", 0), ("0", 1), ("0-3,7", 0x8F), ("63", 1 << 63), ("64", 1 << 64), ("1, 2", 6)]
)
def test_lists_become_masks_of_whole_words(text: str, bits: int) -> None:
    mask = cpu_mask(text, "x")
    assert int.from_bytes(mask, "little") == bits
    assert len(mask) % 8 == 0


@given(st.text(max_size=20))
def test_wrong_lists_are_refused(text: str) -> None:
    numbers = text.replace(" ", "").replace("-", ",").split(",")
    if not text.strip() or all(number.isascii() and number.isdigit() for number in numbers):
        return  # a list, if its ranges run forwards
    with pytest.raises(InvalidArgument, match=r"^x: "):
        cpu_mask(text, "x")


def test_parameters_may_be_written_with_either_separator() -> None:
    assert path_of("net.ipv4.ip_forward") == "net/ipv4/ip_forward"
    assert path_of("net/ipv4/conf/eth0.1/x") == "net/ipv4/conf/eth0.1/x"
    assert path_of("net.ipv4.conf.eth0/1.x") == "net/ipv4/conf/eth0.1/x"


def test_hierarchies_that_share_a_mount_are_one_with_links() -> None:
    mounts = {"cpu": "/c/cpu,cpuacct", "cpuacct": "/c/cpu,cpuacct", "name=systemd": "/c/systemd"}
    found = hierarchies(mounts, "/c/unified", "/orlop/x")
    assert [(h.name, h.data, h.links) for h in found] == [
        ("cpu,cpuacct", "cpu,cpuacct", ("cpu", "cpuacct")),
        ("systemd", "name=systemd", ()),
        ("unified", "", ()),
    ]
    assert found[0].directory == "/c/cpu,cpuacct/orlop/x"


def test_reads_kernel_releases_and_limits() -> None:
    assert kernel_version("6.18.44-fc-v669") == (6, 18)
    assert kernel_version("5.10-rc1") == (5, 10)
    text = "Limit                     Soft Limit           Hard Limit           Units     \n"
    text += "Max open files            1024                 unlimited            files     \n"
    assert parse_limits(text)["RLIMIT_NOFILE"].soft == 1024
