"""Sandboxes: namespaces, names, network, ports, sysctls, groups."""

from __future__ import annotations

import json
import os
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from tests.cri.conformance.pod import Container, Pod
from tests.cri.conftest import Client
from tests.cri.test_life import refused
from tests.harness import SLOWER, free_port

from orlop._stubs.cri import api_pb2 as api
from orlop.sys.netns import socket_in

Make = Callable[..., Pod]


def linux(**options: int) -> api.LinuxPodSandboxConfig:
    """A sandbox's namespaces, by mode."""
    security = api.LinuxSandboxSecurityContext(namespace_options=api.NamespaceOption(**options))
    return api.LinuxPodSandboxConfig(security_context=security)


def within(**options: object) -> api.LinuxContainerSecurityContext:
    """A container's namespaces, by mode."""
    return api.LinuxContainerSecurityContext(namespace_options=api.NamespaceOption(**options))


def namespace(container: Container, kind: str) -> str:
    return container.sh(f"readlink /proc/self/ns/{kind}")


def ours(kind: str) -> str:
    return os.readlink(f"/proc/self/ns/{kind}")


# --- namespaces


def test_containers_of_a_pod_share_what_the_pod_shares(pod: Pod) -> None:
    first, second = pod.run(security=within(pid=api.POD)), pod.run(security=within(pid=api.POD))
    for kind in ("net", "ipc", "uts", "pid"):
        assert namespace(first, kind) == namespace(second, kind) != ours(kind)
    for kind in ("mnt", "cgroup"):
        assert namespace(first, kind) != namespace(second, kind)
    assert first.sh("cat /proc/1/comm") == "pause"
    first.sh("echo there > /dev/shm/note")
    assert second.sh("cat /dev/shm/note") == "there"
    assert "100000" in second.sh("ps")


def test_a_container_s_own_processes(pod: Pod) -> None:
    first, second = (pod.run(security=within(pid=api.CONTAINER)) for _ in range(2))
    assert namespace(first, "pid") != namespace(second, "pid")
    assert first.sh("cat /proc/1/comm") == "sleep"


def test_the_node_s_processes(make_pod: Make) -> None:
    pod = make_pod(linux=linux(pid=api.NODE))
    container = pod.run(security=within(pid=api.NODE))
    assert namespace(container, "pid") == ours("pid")
    assert container.sh(f"cat /proc/{os.getpid()}/comm") == Path("/proc/self/comm").read_text().strip()


def test_the_processes_of_another_container(pod: Pod) -> None:
    target = pod.run(security=within(pid=api.CONTAINER))
    watcher = pod.run(security=within(pid=api.TARGET, target_id=target.id))
    assert namespace(watcher, "pid") == namespace(target, "pid")
    assert watcher.sh("cat /proc/1/comm") == "sleep"
    target.stop()
    assert watcher.ended().exit_code == 137  # its namespace ended with the first process


def test_a_target_must_be_of_the_pod_and_run(pod: Pod, make_pod: Make) -> None:
    elsewhere = make_pod().run()
    text = refused(
        lambda: pod.create(security=within(pid=api.TARGET, target_id=elsewhere.id)), grpc.StatusCode.INVALID_ARGUMENT
    )
    assert "another pod" in text
    waiting = pod.create()
    refused(
        lambda: pod.create(security=within(pid=api.TARGET, target_id=waiting.id)), grpc.StatusCode.FAILED_PRECONDITION
    )


def test_the_node_s_ipc(make_pod: Make) -> None:
    pod = make_pod(linux=linux(ipc=api.NODE))
    container = pod.run(security=within(ipc=api.NODE))
    assert namespace(container, "ipc") == ours("ipc")


def test_the_node_s_network(make_pod: Make) -> None:
    pod = make_pod(linux=linux(network=api.NODE), hostname="ignored")
    container = pod.run(security=within(network=api.NODE))
    assert namespace(container, "net") == ours("net")
    assert container.sh("hostname") == socket.gethostname()
    assert pod.status.network.ip == ""
    assert pod.status.linux.namespaces.options.network == api.NODE
    port = free_port()
    pod.run("httpd", "-f", "-p", f"127.0.0.1:{port}", "-h", "/www", security=within(network=api.NODE))
    assert served_by(f"http://127.0.0.1:{port}/index.html") == b"hello\n"


# --- names


def test_hostname(make_pod: Make) -> None:
    container = make_pod(hostname="a-name").run()
    assert container.sh("hostname; cat /etc/hostname") == "a-name\na-name"
    assert "a-name" in container.sh("cat /etc/hosts")


def test_name_servers(make_pod: Make) -> None:
    dns = api.DNSConfig(servers=["10.9.8.7", "fd00::7"], searches=["a.example", "b.example"], options=["ndots:8"])
    container = make_pod(dns_config=dns).run()
    assert container.sh("cat /etc/resolv.conf").splitlines() == [
        "nameserver 10.9.8.7",
        "nameserver fd00::7",
        "search a.example b.example",
        "options ndots:8",
    ]


def test_the_node_s_name_servers_where_none_are_given(pod: Pod) -> None:
    shown = pod.run().sh("cat /etc/resolv.conf")
    assert [line for line in shown.splitlines() if line.startswith("nameserver")]


# --- sysctls


def test_sysctls_of_the_pod(make_pod: Make) -> None:
    wanted = {"net.ipv4.ip_local_port_range": "1024\t65000", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "100"}
    container = make_pod(linux=api.LinuxPodSandboxConfig(sysctls=wanted)).run()
    for name, value in wanted.items():
        assert container.sh(f"cat /proc/sys/{name.replace('.', '/')}") == value


@pytest.mark.parametrize("name", ["kernel.panic", "vm.swappiness", "net.ipv4.no_such_thing"])
def test_a_sysctl_that_is_no_pod_s_is_refused(client: Client, make_pod: Make, name: str) -> None:
    before = {item.id for item in client.ListPodSandbox().items}
    with pytest.raises(grpc.RpcError) as caught:
        make_pod(linux=api.LinuxPodSandboxConfig(sysctls={name: "1"}))
    assert name in caught.value.details()
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert {item.id for item in client.ListPodSandbox().items} == before


# --- ports


def served_by(url: str) -> bytes:
    deadline = time.monotonic() + 10 * SLOWER
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5 * SLOWER) as answer:
                return bytes(answer.read())
        except OSError:
            assert time.monotonic() < deadline, url
            time.sleep(0.02)


@pytest.mark.parametrize("address", ["", "127.0.0.1"])
def test_a_port_of_the_node_leads_to_the_pod(make_pod: Make, address: str) -> None:
    port = free_port()
    pod = make_pod(port_mappings=[api.PortMapping(container_port=80, host_port=port, host_ip=address)])
    pod.run("httpd", "-f", "-p", "80", "-h", "/www")
    assert served_by(f"http://{pod.status.network.ip}/index.html") == b"hello\n"
    assert served_by(f"http://127.0.0.1:{port}/index.html") == b"hello\n"
    pod.stop()
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", port)) != 0
        sock.close()
    with socket.create_server(("127.0.0.1", port)):
        pass  # free again


def test_a_datagram_port(make_pod: Make, unique: str) -> None:
    port = free_port()
    pod = make_pod(port_mappings=[api.PortMapping(protocol=api.UDP, container_port=5353, host_port=port)])
    told = pod.client.PodSandboxStatus(pod_sandbox_id=pod.id, verbose=True).info["info"]
    inside = socket_in(json.loads(told)["pid"], socket.AF_INET, socket.SOCK_DGRAM)
    with inside, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        inside.bind(("0.0.0.0", 5353))
        inside.settimeout(10)
        sock.settimeout(10)
        sock.sendto(unique.encode(), ("127.0.0.1", port))
        data, peer = inside.recvfrom(100)
        assert data == unique.encode()
        inside.sendto(b"answer", peer)
        assert sock.recvfrom(100) == (b"answer", ("127.0.0.1", port))


def test_a_port_that_is_taken_is_refused(client: Client, make_pod: Make) -> None:
    port = free_port()
    make_pod(port_mappings=[api.PortMapping(container_port=80, host_port=port)])
    with pytest.raises(grpc.RpcError) as caught:
        make_pod(port_mappings=[api.PortMapping(container_port=80, host_port=port)])
    assert str(port) in caught.value.details()


def test_a_port_without_one_of_the_node_is_only_a_note(make_pod: Make) -> None:
    assert make_pod(port_mappings=[api.PortMapping(container_port=80)]).status.state == api.SANDBOX_READY


# --- groups, lists, life


def test_groups_stand_below_the_pod_s(make_pod: Make, unique: str) -> None:
    parent = f"/orlop/{unique}"
    pod = make_pod(linux=api.LinuxPodSandboxConfig(cgroup_parent=parent))
    container = pod.run(security=within(pid=api.CONTAINER))
    ids = [line for line in _groups() if f"{parent}/{container.id}" in line]
    assert ids, "no process has the group"
    assert [line for line in _groups() if f"{parent}/{pod.id}" in line]
    pod.remove()
    assert not [line for line in _groups() if parent in line]
    for base in Path("/sys/fs/cgroup").iterdir():
        if (base / parent[1:]).is_dir():
            assert [entry for entry in (base / parent[1:]).iterdir() if entry.is_dir()] == []
            (base / parent[1:]).rmdir()


def _groups() -> list[str]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found += Path(f"/proc/{entry}/cgroup").read_text().splitlines()
            except OSError:
                continue
    return found


def test_lists_take_filters(client: Client, make_pod: Make, unique: str) -> None:
    one = make_pod(labels={"set": unique, "is": "one"}, annotations={"note": "1"})
    two = make_pod(labels={"set": unique, "is": "two"})

    def found(**wanted: object) -> set[str]:
        return {item.id for item in client.ListPodSandbox(filter=api.PodSandboxFilter(**wanted)).items}

    ready = api.PodSandboxStateValue(state=api.SANDBOX_READY)
    gone = api.PodSandboxStateValue(state=api.SANDBOX_NOTREADY)
    assert found(label_selector={"set": unique}) == {one.id, two.id}
    assert found(label_selector={"set": unique, "is": "two"}) == {two.id}
    assert found(id=one.id) == found(id=one.id[:13]) == {one.id}
    assert found(id=one.id, label_selector={"is": "two"}) == set()
    two.stop()
    assert found(state=ready, label_selector={"set": unique}) == {one.id}
    assert found(state=gone, label_selector={"set": unique}) == {two.id}
    item = client.ListPodSandbox(filter=api.PodSandboxFilter(id=one.id)).items[0]
    assert (item.metadata, dict(item.labels)) == (one.config.metadata, dict(one.config.labels))
    assert dict(item.annotations) == {"note": "1"}
    streamed = client.StreamPodSandboxes(filter=api.PodSandboxFilter(label_selector={"set": unique}))
    assert {one.id, two.id} == {item.id for answer in streamed for item in answer.pod_sandboxes}


def test_stopping_a_pod_ends_its_containers(make_pod: Make) -> None:
    pod = make_pod()
    running, waiting = pod.run(), pod.create()
    pod.stop()
    assert running.status.state == api.CONTAINER_EXITED
    assert running.status.exit_code == 137
    assert pod.status.state == api.SANDBOX_NOTREADY
    refused(waiting.start, grpc.StatusCode.FAILED_PRECONDITION)
    refused(pod.create, grpc.StatusCode.FAILED_PRECONDITION)
    pod.remove()
    refused(lambda: running.status, grpc.StatusCode.NOT_FOUND)


def test_the_same_pod_may_be_attempted_again(make_pod: Make) -> None:
    first = make_pod()
    first.stop()
    again = api.RunPodSandboxRequest(config=first.config).config
    again.metadata.attempt = 1
    second = first.client.RunPodSandbox(config=again).pod_sandbox_id
    assert second != first.id
    first.client.RemovePodSandbox(pod_sandbox_id=second)


def test_more_is_told_to_those_who_ask(client: Client, pod: Pod) -> None:
    answer = client.PodSandboxStatus(pod_sandbox_id=pod.id, verbose=True)
    told = json.loads(answer.info["info"])
    assert Path(f"/proc/{told['pid']}/comm").read_text() == "pause\n"
    assert told["runtimeSpec"]["ociVersion"]
    assert not client.PodSandboxStatus(pod_sandbox_id=pod.id).info
