"""The two ways to nftables, and the two ways to have a device deleted, do the same."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.harness import descriptors, nothing_more_open

from orlop.engine.config import NetworkRequest
from orlop.network import bridge
from orlop.spec.errors import FailedPrecondition
from orlop.sys import libnftables
from orlop.sys.libnftables import Nft, NftError

if TYPE_CHECKING:
    from conftest import Host

pytestmark = pytest.mark.root


@pytest.fixture(params=["library", "program"])
def nft(request: pytest.FixtureRequest, host: Host, monkeypatch: pytest.MonkeyPatch) -> Nft:
    if request.param == "program":
        monkeypatch.setattr(libnftables, "_load", lambda: None)
    return Nft()


def test_script_runs_whole_or_not_at_all(nft: Nft, host: Host) -> None:
    nft.run("add table inet a\nadd set inet a s { type ifname; }")
    with pytest.raises(NftError) as error:
        nft.run('add table inet b\nadd element inet a nosuch { "x" }')
    assert error.value.errno == errno.ENOENT
    assert "\n" not in str(error.value)
    with pytest.raises(NftError) as error:
        nft.run("create table inet a")
    assert error.value.errno == errno.EEXIST
    assert "table inet b" not in host.rules()
    assert nft.run("list tables") == "table inet a\n"
    nft.close()


def test_what_lasts_is_run_again_only_where_somebody_has_changed_a_rule(
    nft: Nft, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    original = Nft.run

    def run(self: Nft, script: str) -> str:
        ran.append(script)
        return original(self, script)

    monkeypatch.setattr(Nft, "run", run)
    nft.run("add table inet a\nadd set inet a s { type ifname; }")
    wanted = 'add element inet a s { "x" }'
    for _ in range(4):
        nft.ensure(wanted)
    assert ran[1:] == [wanted] * 2  # the first one made it, the second one found it there
    other = Nft()
    original(other, "flush set inet a s")
    for _ in range(4):
        nft.ensure(wanted)
    assert ran[3:] == [wanted] * 2
    assert '"x"' in host.rules()
    nft.run("add table inet b")
    nft.ensure(wanted)
    assert ran[5:] == ["add table inet b", wanted]
    with pytest.raises(NftError):
        nft.ensure('add element inet a nosuch { "x" }')
    other.close()
    nft.close()


def test_neither_library_nor_program(nft: Nft, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libnftables, "_load", lambda: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FailedPrecondition, match="nftables: neither"):
        nft.run("list tables")


def test_children_do_not_inherit_the_socket(host: Host) -> None:
    def inheritable() -> set[str]:
        return {each for each in descriptors() if fd_is_inheritable(int(each.partition(" ")[0]))}

    before = inheritable()
    nft = Nft()
    nft.run("list tables")
    assert inheritable() <= before
    nft.close()


@pytest.mark.parametrize("there", ["file", "socket", "nothing"])
def test_what_took_the_guessed_number_stays_as_it_was(tmp_path: Path, there: str) -> None:
    """The lock of a file that is held on to by a copy would never be free again."""
    with open(tmp_path / "lock", "w") as file, socket.socket() as other:
        number = {"file": file.fileno(), "socket": other.fileno(), "nothing": 10_000}[there]
        fcntl.flock(file, fcntl.LOCK_EX)
        with nothing_more_open():
            libnftables._close_on_exec(number)
        assert os.fstat(file.fileno()).st_ino == os.stat(tmp_path / "lock").st_ino
        assert other.getsockname() == ("0.0.0.0", 0)
    with open(tmp_path / "lock") as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def fd_is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


@pytest.mark.parametrize("programs", [bridge.IP_PROGRAMS, (), ("/bin/false",)])
def test_devices_go(host: Host, programs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "IP_PROGRAMS", programs)
    networks, box, before = host.networks(), host.box(), host.devices()
    networks.attach("web", NetworkRequest(), box.pid, box.netlink_fd)
    assert len(host.devices()) == len(before) + 2
    networks.detach("web")
    assert host.devices() == before


def test_device_of_somebody_else_is_left_alone(host: Host) -> None:
    networks, box = host.networks(), host.box()
    subprocess.run(["ip", "link", "add", networks.names.bridge, "type", "veth"], check=True)
    with pytest.raises(Exception, match="the host has a device of that name, of kind veth"):
        networks.attach("web", NetworkRequest(), box.pid, box.netlink_fd)
    assert networks.names.bridge in host.devices()
