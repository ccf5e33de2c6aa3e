"""The network of pods: the built-in bridge, CNI's conflists, and plugins that misbehave."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.harness import SLOWER

from orlop._stubs.cri import api_pb2 as api
from orlop.cri.network import Choice, choose
from orlop.cri.network_request import INGRESS, bandwidth, network_request, ports, quantity
from orlop.engine.config import PodName
from orlop.network import cni
from orlop.spec.errors import InvalidArgument, OrlopError

from .conftest import Client, Daemon, pod_config, serving, wait_for
from .test_life import refused

DEBIAN = Path("/usr/lib/cni")
NET_D = Path("/net.d")


def conflist(*plugins: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": plugins, **more}).encode()


def parsed(name: str, path: str = "") -> cni.ConfList:
    return cni.parse(conflist({"type": "bridge"}, name=name), path or f"/net.d/{name}.conflist")


# --- which network: pure

BROKEN = InvalidArgument("/net.d/00-a.conflist: $.name: 'x/y' is not the name of a network")


@pytest.mark.parametrize(
    ("wanted", "found", "mode", "text"),
    [
        ("", [], "pods", "built-in bridge: there is no conflist in /net.d"),
        ("", [parsed("b"), parsed("a")], "cni:b", "network b from /net.d/b.conflist"),
        ("", [parsed("bridge")], "cni:bridge", "network bridge from"),
        ("", [BROKEN, parsed("b")], "", "/net.d/00-a.conflist: $.name: 'x/y' is not the name of a network; mend"),
        ("b", [BROKEN, parsed("b")], "cni:b", "network b from"),
        ("c", [BROKEN, parsed("b")], "", "network c, which cri.network names, is not in /net.d (/net.d/00-a"),
        ("bridge", [parsed("b")], "pods", "built-in bridge: cri.network names it"),
        ("mine", [parsed("mine")], "mine", "network mine: cri.network names it"),
    ],
)
def test_which_network(wanted: str, found: list[cni.ConfList | OrlopError], mode: str, text: str) -> None:
    choice = choose(wanted, found, NET_D, ("mine",), "pods")
    assert choice.mode == mode
    assert text in (choice.message or choice.problem)
    assert bool(choice.problem) == (not mode)
    assert "\n" not in choice.problem
    assert (choice.reason == "NetworkPluginNotReady") == bool(choice.problem)


def test_reasons() -> None:
    assert Choice(mode="bridge").reason == "BuiltIn"
    assert Choice(mode="cni:x", conflist=parsed("x")).reason == "CNI"


# --- what a pod asks for: pure


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10M", 10_000_000),
        ("1Ki", 1024),
        ("1.5k", 1500),
        ("2e6", 2_000_000),
        ("2E6", 2_000_000),
        ("3E", 3 * 10**18),
        ("1500m", 2),
        (".5k", 500),
        ("7", 7),
    ],
)
def test_quantities(text: str, value: int) -> None:
    assert quantity(text, "x") == value


@pytest.mark.parametrize("text", ["", "M", "1 M", "1Q", "e5", "1e999", "1" * 65, "١", "1\n", "0x10", "--1"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"annotation x: .* is no quantity"):
        quantity(text, "x")


def test_bandwidth() -> None:
    assert bandwidth({INGRESS: "1M", "other": "x"}) == {"ingressRate": 1_000_000, "ingressBurst": (1 << 32) - 1}
    for text in ("1", "-5M", "2P"):
        with pytest.raises(InvalidArgument, match="not in 1k to 1P bits a second"):
            bandwidth({INGRESS: text})


def test_host_ports() -> None:
    fine = api.PortMapping(container_port=80, host_port=8080, protocol=api.UDP, host_ip="127.0.0.1")
    (found,) = ports([api.PortMapping(container_port=1), fine])
    assert (found.protocol, found.host_port, found.container_port, found.host_address) == ("udp", 8080, 80, "127.0.0.1")
    assert ports([api.PortMapping(container_port=80, host_port=80, protocol=api.SCTP)])[0].protocol == "sctp"
    for wrong, text in (
        (api.PortMapping(container_port=80, host_port=80, protocol=7), "protocol: 7 is none of"),  # type: ignore[arg-type]
        (api.PortMapping(container_port=80, host_port=-1), "host_port: -1 is not in 1 to 65535"),
        (api.PortMapping(container_port=0, host_port=80), "container_port: 0 is not in"),
        (api.PortMapping(container_port=80, host_port=65536), "host_port: 65536 is not in"),
    ):
        with pytest.raises(InvalidArgument, match=text):
            ports([wrong])


def test_the_nodes_own_network_is_asked_for_nothing() -> None:
    config = pod_config(annotations={INGRESS: "nonsense"}, port_mappings=[api.PortMapping(host_port=1)])
    found = network_request(config, "host")
    assert (found.ports, found.capabilities, found.pod) == ((), {}, None)


def test_arguments_can_not_be_smuggled() -> None:
    assert cni.arguments("id", None) == ""
    plain = PodName(namespace="default", name="web", uid="u")
    assert cni.arguments("id", plain) == (
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=id;K8S_POD_UID=u"
    )
    with pytest.raises(InvalidArgument, match="K8S_POD_UID"):
        cni.arguments("id", PodName(namespace="default", name="web", uid="u;K8S_POD_NAME=other"))


# --- the real thing, on a machine of its own as far as the network goes


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins = tmp_path_factory.mktemp("plugins")
    with serving("unshare", "-n", cri=f"cni_plugins = ['{plugins}', '{DEBIAN}']") as daemon:
        daemon.plugins = plugins  # type: ignore[attr-defined]
        assert daemon.process is not None
        inside(daemon.process.pid, "ip", "link", "set", "lo", "up")
        yield daemon


@pytest.fixture
def calls(node: Daemon) -> Iterator[Client]:
    """A client; conflists and plugins of the test go with it."""
    yield Client(node.socket)
    for path in (*node.cni.iterdir(), *plugins(node).iterdir()):
        path.unlink()


def plugins(node: Daemon) -> Path:
    found: Path = node.plugins  # type: ignore[attr-defined]
    return found


def inside(pid: int, *command: str) -> str:
    done = subprocess.run(["nsenter", "-t", str(pid), "-n", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def plugin(node: Daemon, name: str, script: str) -> None:
    path = plugins(node) / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def network_of(client: Client) -> tuple[bool, str, str]:
    (found,) = [c for c in client.Status().status.conditions if c.type == "NetworkReady"]
    return found.status, found.reason, found.message


def nothing_left(node: Daemon, client: Client) -> None:
    def left() -> list[object]:
        engine = node.engine()
        try:
            owners = engine.networks.leftovers(())
            found: list[object] = [c.id for c in engine.containers.list(all=True)]
        finally:
            engine.close()
        pinned = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(node.base) in line]
        return [*client.ListPodSandbox().items, *found, *owners, *pinned]

    wait_for(lambda: not left(), "the end of all that was made")


DONE = """cat > "$0.$CNI_COMMAND.in"; env | grep ^CNI_ > "$0.$CNI_COMMAND.env"
echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "x"}], "ips": [{"address": "10.1.1.7/24"}]}'"""


@pytest.mark.root
def test_the_built_in_bridge_and_its_range(node: Daemon, calls: Client) -> None:
    assert network_of(calls) == (True, "BuiltIn", f"built-in bridge: there is no conflist in {node.cni}")
    config = api.RuntimeConfig(network_config=api.NetworkConfig(pod_cidr="10.123.4.0/24,fd12:1::/64"))
    for _ in range(2):
        calls.UpdateRuntimeConfig(runtime_config=config)
    pod = calls.RunPodSandbox(config=pod_config()).pod_sandbox_id
    status = calls.PodSandboxStatus(pod_sandbox_id=pod).status.network
    assert status.ip.startswith("10.123.4.")
    assert [ip.ip[:9] for ip in status.additional_ips] == ["fd12:1::2"]
    wrong = api.RuntimeConfig(network_config=api.NetworkConfig(pod_cidr="10.0.0.1/8"))
    text = refused(lambda: calls.UpdateRuntimeConfig(runtime_config=wrong), grpc.StatusCode.INVALID_ARGUMENT)
    assert "pod_cidr '10.0.0.1/8'" in text
    # a new range counts for new pods; what is there keeps its own
    other = api.RuntimeConfig(network_config=api.NetworkConfig(pod_cidr="10.123.5.0/24"))
    calls.UpdateRuntimeConfig(runtime_config=other)
    second = calls.RunPodSandbox(config=pod_config()).pod_sandbox_id
    assert calls.PodSandboxStatus(pod_sandbox_id=second).status.network.ip.startswith("10.123.5.")
    calls.UpdateRuntimeConfig(runtime_config=api.RuntimeConfig())
    for identifier in (pod, second):
        calls.RemovePodSandbox(pod_sandbox_id=identifier)
    nothing_left(node, calls)


@pytest.mark.root
@pytest.mark.peers
def test_debians_plugins(node: Daemon, calls: Client, tmp_path: Path) -> None:
    ipam = {"type": "host-local", "dataDir": str(tmp_path), "subnet": "10.99.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni-test0", "isGateway": True, "ipMasq": True, "ipam": ipam}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    file = node.cni / "10-net.conflist"
    file.write_bytes(conflist(bridge, portmap, {"type": "loopback"}))
    assert network_of(calls) == (True, "CNI", f"network net from {file}")
    wanted = pod_config(port_mappings=[api.PortMapping(container_port=80, host_port=8080)])
    pod = calls.RunPodSandbox(config=wanted).pod_sandbox_id
    assert calls.PodSandboxStatus(pod_sandbox_id=pod).status.network.ip == "10.99.0.2"
    assert node.process is not None
    assert "8080" in inside(node.process.pid, "sh", "-c", "iptables-save; nft list ruleset")
    info = json.loads(calls.Status(verbose=True).info["network"])
    assert info["conflist"]["path"] == str(file)
    # a file that comes before it counts at once, and the pod that is there is still taken out of its own network
    plugin(node, "fake", DONE)
    (node.cni / "05-other.conflist").write_bytes(conflist({"type": "fake"}, name="other"))
    second = calls.RunPodSandbox(config=pod_config()).pod_sandbox_id
    assert calls.PodSandboxStatus(pod_sandbox_id=second).status.network.ip == "10.1.1.7"
    file.unlink()
    for identifier in (pod, second):
        calls.StopPodSandbox(pod_sandbox_id=identifier)
        assert calls.PodSandboxStatus(pod_sandbox_id=identifier).status.network.ip == ""
        calls.RemovePodSandbox(pod_sandbox_id=identifier)
    assert "8080" not in inside(node.process.pid, "sh", "-c", "iptables-save; nft list ruleset")
    assert not list((tmp_path / "net").glob("10.*"))
    nothing_left(node, calls)


@pytest.mark.root
def test_what_plugins_are_told(node: Daemon, calls: Client) -> None:
    able = dict.fromkeys(("portMappings", "dns", "bandwidth", "io.kubernetes.cri.pod-annotations"), True)
    plugin(node, "fake", DONE)
    (node.cni / "10-net.conflist").write_bytes(conflist({"type": "fake", "capabilities": able}))
    config = pod_config(
        "web",
        annotations={INGRESS: "1M", "mine": "x"},
        port_mappings=[api.PortMapping(container_port=80, host_port=8080)],
        dns_config=api.DNSConfig(servers=["10.0.0.10"], searches=["svc"], options=["ndots:5"]),
    )
    pod = calls.RunPodSandbox(config=config).pod_sandbox_id
    told = json.loads((plugins(node) / "fake.ADD.in").read_text())
    assert told["runtimeConfig"] == {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "dns": {"servers": ["10.0.0.10"], "searches": ["svc"], "options": ["ndots:5"]},
        "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": (1 << 32) - 1},
        "io.kubernetes.cri.pod-annotations": {INGRESS: "1M", "mine": "x"},
    }
    expected = f"K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={pod};K8S_POD_UID=uid"
    calls.RemovePodSandbox(pod_sandbox_id=pod)
    for verb in ("ADD", "DEL"):
        environment = (plugins(node) / f"fake.{verb}.env").read_text()
        assert f"CNI_ARGS=IgnoreUnknown=1;{expected}\n" in environment
        assert f"CNI_CONTAINERID={pod}\n" in environment
    nothing_left(node, calls)


@pytest.mark.root
@pytest.mark.parametrize(
    ("script", "code", "text"),
    [
        (
            'printf %s \'{"code": 7, "msg": "no\\nway", "details": "at all"}\'; exit 1',
            grpc.StatusCode.UNAVAILABLE,
            "cni plugin fake ADD: no way (at all)",
        ),
        ("kill -9 $$", grpc.StatusCode.UNAVAILABLE, "cni plugin fake ADD: signal 9"),
        ("echo rubbish", grpc.StatusCode.UNAVAILABLE, "cni plugin fake ADD: its answer"),
        ("echo '{\"ips\": 7}'", grpc.StatusCode.UNAVAILABLE, "network net: cni result"),
        ("echo '{}'", grpc.StatusCode.UNAVAILABLE, "network net: its plugins made no interface"),
        ("yes | head -c 3000000", grpc.StatusCode.RESOURCE_EXHAUSTED, "prints more than 1024 KiB"),
        ("echo oh no >&2; exit 3", grpc.StatusCode.UNAVAILABLE, "exit status 3: oh no"),
    ],
)
def test_plugins_that_misbehave(node: Daemon, calls: Client, script: str, code: grpc.StatusCode, text: str) -> None:
    plugin(node, "fake", f'[ "$CNI_COMMAND" = ADD ] || exit 0\n{script}')
    (node.cni / "10-net.conflist").write_bytes(conflist({"type": "fake"}))
    config = pod_config()
    assert text in refused(lambda: calls.RunPodSandbox(config=config), code)
    nothing_left(node, calls)
    plugin(node, "fake", DONE)
    pod = calls.RunPodSandbox(config=config).pod_sandbox_id  # the name is free
    calls.RemovePodSandbox(pod_sandbox_id=pod)
    nothing_left(node, calls)


@pytest.mark.root
@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_a_hanging_plugin_ends_with_the_call(node: Daemon, calls: Client, how: str) -> None:
    """With what it has started, wherever that has gone."""
    pids = plugins(node) / "pids"
    hang = f"setsid sh -c 'echo $$ >> {pids}; sleep 1000 & wait' & echo $$ >> {pids}; sleep 1000"
    plugin(node, "fake", f'[ "$CNI_COMMAND" = ADD ] || exit 0\n{hang}')
    (node.cni / "10-net.conflist").write_bytes(conflist({"type": "fake"}))
    config = pod_config()
    if how == "deadline":
        refused(lambda: calls.RunPodSandbox(config=config, within=3), grpc.StatusCode.DEADLINE_EXCEEDED)
    else:
        call = calls._calls["RunPodSandbox"].future(api.RunPodSandboxRequest(config=config))
        wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2, "the plugin")
        call.cancel()
    started = [Path("/proc") / pid for pid in pids.read_text().split()]
    assert len(started) == 2
    nothing_left(node, calls)
    wait_for(lambda: not any(process.exists() for process in started), "the plugin's end")
    plugin(node, "fake", DONE)
    pod = calls.RunPodSandbox(config=config).pod_sandbox_id
    calls.RemovePodSandbox(pod_sandbox_id=pod)
    nothing_left(node, calls)


@pytest.mark.root
def test_no_list_has_a_pod_that_is_not_up_yet(node: Daemon, calls: Client) -> None:
    """A kubelet would take it for one that has died, and begin another."""
    at_it = node.base / "at-it"
    plugin(node, "fake", f'[ "$CNI_COMMAND" = ADD ] && touch {at_it} && sleep 1\n{DONE}')
    (node.cni / "10-net.conflist").write_bytes(conflist({"type": "fake"}))
    begun = calls._calls["RunPodSandbox"].future(api.RunPodSandboxRequest(config=pod_config()))
    wait_for(at_it.exists, "the plugin")
    assert not calls.ListPodSandbox().items
    pod = begun.result().pod_sandbox_id
    assert [item.state for item in calls.ListPodSandbox().items] == [api.SANDBOX_READY]
    calls.RemovePodSandbox(pod_sandbox_id=pod)
    nothing_left(node, calls)


@pytest.mark.root
def test_a_call_that_has_joined_keeps_the_pod(node: Daemon, calls: Client) -> None:
    plugin(node, "fake", f'[ "$CNI_COMMAND" = ADD ] && sleep 1\n{DONE}')
    (node.cni / "10-net.conflist").write_bytes(conflist({"type": "fake"}))
    config = pod_config()
    first = calls._calls["RunPodSandbox"].future(api.RunPodSandboxRequest(config=config))
    time.sleep(0.3)
    second = calls._calls["RunPodSandbox"].future(api.RunPodSandboxRequest(config=config))
    time.sleep(0.2)
    first.cancel()
    pod = second.result().pod_sandbox_id
    assert calls.PodSandboxStatus(pod_sandbox_id=pod).status.state == api.SANDBOX_READY
    assert calls.RunPodSandbox(config=config).pod_sandbox_id == pod
    calls.RemovePodSandbox(pod_sandbox_id=pod)
    nothing_left(node, calls)


@pytest.mark.root
@pytest.mark.parametrize("how", ["vanished", "fails", "hangs"])
def test_a_plugin_that_does_not_take_back(node: Daemon, calls: Client, how: str) -> None:
    """The pod ends all the same; it is listed, and goes when the plugin does its part."""
    plugin(node, "fake", DONE)
    (node.cni / "10-net.conflist").write_bytes(conflist({"type": "fake"}))
    config = pod_config(port_mappings=[api.PortMapping(container_port=80, host_port=8080)])
    pod = calls.RunPodSandbox(config=config).pod_sandbox_id
    engine = node.engine()
    process = engine.pods.get(pod).record.pid
    engine.close()
    if how == "vanished":
        (plugins(node) / "fake").unlink()
        text = refused(lambda: calls.StopPodSandbox(pod_sandbox_id=pod), grpc.StatusCode.UNAVAILABLE)
        assert "cni plugin fake: not in" in text
        assert refused(lambda: calls.RemovePodSandbox(pod_sandbox_id=pod), grpc.StatusCode.UNAVAILABLE) == text
    elif how == "fails":
        plugin(node, "fake", "echo not now >&2; exit 1")
        text = refused(lambda: calls.RemovePodSandbox(pod_sandbox_id=pod), grpc.StatusCode.UNAVAILABLE)
        assert "cni plugin fake DEL: exit status 1: not now" in text
    else:
        plugin(node, "fake", "exec sleep 1000")
        refused(lambda: calls.StopPodSandbox(pod_sandbox_id=pod, within=3), grpc.StatusCode.DEADLINE_EXCEEDED)
    began = time.monotonic()
    assert [item.state for item in calls.ListPodSandbox().items] == [api.SANDBOX_NOTREADY]
    assert calls.PodSandboxStatus(pod_sandbox_id=pod).status.state == api.SANDBOX_NOTREADY
    assert time.monotonic() - began < 10 * SLOWER
    wait_for(lambda: not Path(f"/proc/{process}").exists(), "the sandbox's process")
    plugin(node, "fake", DONE)
    calls.StopPodSandbox(pod_sandbox_id=pod)
    calls.RemovePodSandbox(pod_sandbox_id=pod)
    nothing_left(node, calls)


@pytest.mark.root
def test_what_keeps_the_network_from_being_ready(node: Daemon, calls: Client) -> None:
    def not_ready(text: str) -> None:
        ready, reason, message = network_of(calls)
        assert (ready, reason) == (False, "NetworkPluginNotReady")
        assert text in message
        assert "\n" not in message
        line = refused(lambda: calls.RunPodSandbox(config=pod_config()), grpc.StatusCode.UNAVAILABLE)
        assert line == f"network is not ready: {message}"

    file = node.cni / "10-net.conflist"
    file.write_bytes(b'{"cniVersion": "1.0.0", "name": "a/b"}')
    not_ready(f"{file}: $.name: 'a/b' is not the name of a network; mend the file, or remove it")
    file.write_bytes(b"[")
    not_ready(f"{file}: ")
    file.write_bytes(conflist({"type": "fake"}))
    not_ready(f"network net from {file}: cni plugin fake: not in {plugins(node)}, {DEBIAN}")
    plugin(node, "fake", DONE)
    file.write_bytes(conflist({"type": "fake", "ipam": {"type": "no-such-ipam"}}))
    not_ready("cni plugin no-such-ipam: not in")
    file.write_bytes(conflist({"type": "fake"}, cniVersion="1.1.0"))
    plugin(node, "fake", '[ "$CNI_COMMAND" = STATUS ] && { echo \'{"code": 50, "msg": "no agent yet"}\'; exit 1; }')
    not_ready("cni plugin fake STATUS: no agent yet")
    # a pod on the node's own network needs none
    host = pod_config()
    host.linux.security_context.namespace_options.network = api.NODE
    pod = calls.RunPodSandbox(config=host).pod_sandbox_id
    calls.RemovePodSandbox(pod_sandbox_id=pod)
    plugin(node, "fake", f'[ "$CNI_COMMAND" = STATUS ] && exit 0\n{DONE}')
    assert network_of(calls)[0]
    file.unlink()
    assert network_of(calls)[1] == "BuiltIn"
    nothing_left(node, calls)


@pytest.mark.root
def test_wrong_requests_of_the_network(calls: Client) -> None:
    odd = pod_config(annotations={INGRESS: "fast"})
    text = refused(lambda: calls.RunPodSandbox(config=odd), grpc.StatusCode.INVALID_ARGUMENT)
    assert f"annotation {INGRESS}: 'fast' is no quantity" in text
    smuggled = pod_config("web;K8S_POD_NAME=other")
    refused(lambda: calls.RunPodSandbox(config=smuggled), grpc.StatusCode.INVALID_ARGUMENT)
