"""CNI: conflists, the chain of verbs, plugins that misbehave, and Debian's real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orlop.engine.config import NetworkRequest, PortBinding
from orlop.network import cni, plugin
from orlop.network.records import PublishedPort
from orlop.spec.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OrlopError,
    ResourceExhausted,
    Unavailable,
)

if TYPE_CHECKING:
    from conftest import Host

DEBIAN = Path("/usr/lib/cni")


def conflist(*plugins: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": plugins, **more}).encode()


def cached(directory: Path, *plugins: dict[str, Any], **more: Any) -> cni.Cached:
    return cni.Cached(
        conflist=cni.parse(conflist(*plugins, **more)),
        owner="web",
        interface="eth0",
        netns="/proc/1/ns/net",
        runtime={"portMappings": [{"hostPort": 8080}]},
        plugin_path=(str(directory),),
    )


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """A directory with plugin `echo`, which notes each call and returns a result with its calls so far, and `fail`."""
    directory = tmp_path / "plugins"
    directory.mkdir()
    note = 'echo "$CNI_COMMAND ${0##*/} $CNI_IFNAME" >> "${0%/*}/calls"'
    write(directory, "echo", f'cat > "$0.$CNI_COMMAND.in"; {note}; echo \'{{"ips": []}}\'')
    error = {"cniVersion": "1.0.0", "code": 7, "msg": "bad\nnews", "details": "no \x1b[31m"}
    write(directory, "fail", f"cat > /dev/null; {note}; printf %s '{json.dumps(error)}'; exit 1")
    return directory


def write(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def calls(directory: Path) -> list[str]:
    return (directory / "calls").read_text().splitlines()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{",
        b'{"name": "a"}',
        b'{"name": "a", "cniVersion": "9.0.0", "plugins": [{"type": "x"}]}',
        b'{"name": "../a", "cniVersion": "1.0.0", "plugins": [{"type": "x"}]}',
        b'{"name": "a", "cniVersion": "1.0.0", "plugins": []}',
        b'{"name": "a", "cniVersion": "1.0.0", "plugins": [{"type": 1}]}',
        b'{"name": "a", "cniVersion": "1.0.0", "plugins": ["x"]}',
        b'{"name": "a", "cniVersion": "1.0.0", "plugins": ' + b"[" * 100_000,
    ],
)
def test_refuses_what_is_no_conflist(raw: bytes) -> None:
    with pytest.raises(InvalidArgument):
        cni.parse(raw, "file")


def test_a_single_plugin_is_a_chain_of_one() -> None:
    found = cni.parse(b'{"cniVersion": "0.4.0", "name": "lo", "type": "loopback"}')
    assert [p["type"] for p in found.plugins] == ["loopback"]


def test_first_file_wins_and_broken_ones_are_named(tmp_path: Path) -> None:
    (tmp_path / "20-b.conflist").write_bytes(conflist({"type": "later"}))
    (tmp_path / "10-a.conflist").write_bytes(conflist({"type": "first"}))
    (tmp_path / "05-broken.conflist").write_bytes(b"{")
    assert cni.find("net", tmp_path).plugins[0]["type"] == "first"
    with pytest.raises(NotFound, match=r"network other not found \(.*05-broken"):
        cni.find("other", tmp_path)


def test_chain_hands_on_results_and_capabilities(plugins: Path) -> None:
    chain = cached(plugins, {"type": "echo"}, {"type": "echo", "capabilities": {"portMappings": True, "mac": False}})
    added = cni.add(chain)
    seen = json.loads((plugins / "echo.ADD.in").read_text())
    assert seen["prevResult"] == {"ips": []}
    assert seen["runtimeConfig"] == {"portMappings": [{"hostPort": 8080}]}
    assert (seen["name"], seen["cniVersion"]) == ("net", "1.0.0")
    assert "capabilities" not in seen
    cni.check(added)
    cni.delete(added)
    assert json.loads((plugins / "echo.DEL.in").read_text())["prevResult"] == {"ips": []}
    assert calls(plugins) == [f"{verb} echo eth0" for verb in ("ADD", "ADD", "CHECK", "CHECK", "DEL", "DEL")]


def test_failed_add_is_undone_backward(plugins: Path) -> None:
    with pytest.raises(InvalidArgument) as error:
        cni.add(cached(plugins, {"type": "echo"}, {"type": "fail"}))
    assert str(error.value) == "cni plugin fail ADD: bad news (no ?[31m)"
    assert calls(plugins) == ["ADD echo eth0", "ADD fail eth0", "DEL fail eth0", "DEL echo eth0"]


def test_delete_gives_every_plugin_its_chance(plugins: Path) -> None:
    with pytest.raises(InvalidArgument, match="fail DEL: bad news"):
        cni.delete(cached(plugins, {"type": "echo"}, {"type": "fail"}))
    assert calls(plugins) == ["DEL fail eth0", "DEL echo eth0"]


def test_check_may_be_disabled(plugins: Path) -> None:
    cni.check(cached(plugins, {"type": "fail"}, disableCheck=True))


@pytest.mark.parametrize("kind", ["", ".", "..", "../sh", "/bin/sh", "a\nb"])
def test_plugin_type_is_no_path(kind: str) -> None:
    with pytest.raises(InvalidArgument):
        plugin.find(kind, [Path("/bin")])


@pytest.mark.parametrize(
    ("script", "kind", "text"),
    [
        ("yes | head -c 3000000; exit 0", ResourceExhausted, "prints more than 1024 KiB"),
        ("exec sleep 100", DeadlineExceeded, "no answer"),
        ("sleep 100 & exec sleep 100", DeadlineExceeded, "no answer"),
        ("exec >&- 2>&- <&-; sleep 100", DeadlineExceeded, "does not end"),
        ("kill -9 $$", Unavailable, "signal 9"),
        ("echo oh no >&2; exit 3", Unavailable, "exit status 3: oh no"),
        ("echo '[1'; exit 3", Unavailable, r"exit status 3: \[1"),
    ],
)
def test_misbehaving_plugin(tmp_path: Path, script: str, kind: type[OrlopError], text: str) -> None:
    write(tmp_path, "bad", script)
    timeout = 0.5 if kind is DeadlineExceeded else 60
    with pytest.raises(kind, match=f"^cni plugin bad ADD: .*{text}") as error:
        plugin.run(tmp_path / "bad", b"{}" * 100_000, {"CNI_COMMAND": "ADD", "PATH": "/bin:/usr/bin"}, timeout=timeout)
    assert "\n" not in str(error.value)


def test_answer_that_is_no_result(plugins: Path) -> None:
    write(plugins, "odd", "cat >/dev/null; echo hello")
    with pytest.raises(Unavailable, match="odd ADD: its answer"):
        cni.add(cached(plugins, {"type": "odd"}))


def test_wishes_that_no_plugin_takes_are_refused() -> None:
    plain = cni.parse(conflist({"type": "bridge"}), "file")
    port = PublishedPort(protocol="tcp", host_address="", host_port=80, container_port=80)
    with pytest.raises(InvalidArgument, match="no plugin in file has capability portMappings"):
        cni.runtime_arguments(plain, (port,), (), "")
    with pytest.raises(InvalidArgument, match="capability mac"):
        cni.runtime_arguments(plain, (), (), "02:00:00:00:00:01")


BRIDGE = {
    "type": "bridge",
    "bridge": "cni-test0",
    "isGateway": True,
    "ipMasq": True,
    "hairpinMode": True,
}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}


@pytest.mark.root
@pytest.mark.peers
def test_debians_plugins_from_attach_to_detach(host: Host, tmp_path: Path) -> None:
    config = tmp_path / "net.d"
    config.mkdir()
    data = tmp_path / "ipam"
    ipam = {"type": "host-local", "dataDir": str(data), "subnet": "10.99.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}
    (config / "10-net.conflist").write_bytes(conflist({**BRIDGE, "ipam": ipam}, PORTMAP))
    networks = host.networks(cni_config=config, cni_plugins=[DEBIAN])
    box = host.box()
    request = NetworkRequest(mode="net", ports=(PortBinding(container_port=80, host_port=8080),))
    attachment = networks.attach("web", request, box.pid, box.netlink_fd)
    assert (attachment.driver, attachment.addresses, attachment.gateways) == ("cni", ("10.99.0.2/24",), ("10.99.0.1",))
    assert attachment.mac in box.run("ip", "link", "show", "eth0")
    box.serve("tcp", 80)
    assert host.neighbour.fetch("tcp", host.address, 8080) == "hello 192.0.2.2"
    assert [n.name for n in networks.list()] == ["net"]
    assert networks.inspect("net").driver == "cni"
    assert [a.owner for a in networks.attachments("net")] == ["web"]
    with pytest.raises(FailedPrecondition, match="port is already allocated"):
        networks.attach("two", request, box.pid, box.netlink_fd)
    with pytest.raises(FailedPrecondition, match="remove that file"):
        networks.remove("net")
    # DEL works without the process, and without the file
    box.kill()
    (config / "10-net.conflist").unlink()
    networks.detach("web")
    networks.detach("web")
    assert not list((data / "net").glob("10.*"))
    assert "8080" not in host.rules()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert networks.leftovers(()) == ()
    assert not list((tmp_path / "store" / "networks").rglob("*.json"))


@pytest.mark.root
@pytest.mark.peers
def test_check_sees_a_change(host: Host, tmp_path: Path) -> None:
    ipam = {"type": "host-local", "dataDir": str(tmp_path / "ipam"), "subnet": "10.99.0.0/24"}
    (tmp_path / "10-net.conflist").write_bytes(conflist({**BRIDGE, "ipam": ipam}))
    networks = host.networks(cni_config=tmp_path, cni_plugins=[DEBIAN])
    box = host.box()
    networks.attach("web", NetworkRequest(mode="net"), box.pid, box.netlink_fd)
    networks.check("web")
    box.run("ip", "addr", "flush", "dev", "eth0")
    with pytest.raises(Unavailable, match="cni plugin bridge CHECK"):
        networks.check("web")
    networks.detach("web")


@pytest.mark.root
@pytest.mark.peers
def test_failed_chain_leaves_no_trace(host: Host, tmp_path: Path) -> None:
    config = tmp_path / "net.d"
    config.mkdir()
    (config / "10-net.conflist").write_bytes(conflist({"type": "loopback"}, {"type": "no-such-plugin"}))
    networks = host.networks(cni_config=config, cni_plugins=[DEBIAN])
    box = host.box()
    with pytest.raises(Unavailable, match="cni plugin no-such-plugin: not in /usr/lib/cni"):
        networks.attach("web", NetworkRequest(mode="net"), box.pid, box.netlink_fd)
    assert networks.leftovers(()) == ()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
