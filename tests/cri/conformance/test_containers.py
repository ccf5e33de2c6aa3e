"""Containers: life, logs, ends, what a process begins with, mounts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from tests.cri.conformance.pod import Pod
from tests.cri.conftest import Client
from tests.cri.test_life import refused
from tests.harness import SLOWER, wait_for

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import answers

Make = Callable[..., Pod]
NodeMount = Callable[..., None]

# --- life


def test_states_and_times(client: Client, pod: Pod) -> None:
    before = time.time_ns()
    container = pod.create()
    status = container.status
    assert (status.state, status.started_at, status.finished_at) == (api.CONTAINER_CREATED, 0, 0)
    assert before <= status.created_at <= time.time_ns()
    container.start()
    status = container.status
    assert (status.state, status.finished_at) == (api.CONTAINER_RUNNING, 0)
    assert status.created_at <= status.started_at <= time.time_ns()
    refused(container.start, grpc.StatusCode.FAILED_PRECONDITION)
    container.stop()
    container.stop()
    status = container.status
    assert (status.state, status.exit_code) == (api.CONTAINER_EXITED, 137)
    assert status.started_at <= status.finished_at <= time.time_ns()
    refused(container.start, grpc.StatusCode.FAILED_PRECONDITION)
    container.remove()
    container.remove()
    refused(lambda: container.status, grpc.StatusCode.NOT_FOUND)


def test_a_container_that_runs_is_removed_all_the_same(client: Client, pod: Pod) -> None:
    container = pod.run()
    container.remove()
    refused(lambda: container.status, grpc.StatusCode.NOT_FOUND)


def test_a_container_that_was_never_started_can_be_stopped_and_removed(pod: Pod) -> None:
    container = pod.create()
    container.stop()
    container.remove()
    refused(lambda: container.status, grpc.StatusCode.NOT_FOUND)


def test_a_name_is_free_again_after_removal(pod: Pod) -> None:
    pod.run(name="again").remove()
    first = pod.run(name="again")
    refused(lambda: pod.create("true", name="again"), grpc.StatusCode.ALREADY_EXISTS)
    first.remove()


def test_lists_take_filters(client: Client, make_pod: Make) -> None:
    pod = make_pod()
    one = pod.create(labels={"is": "one"}, annotations={"note": "1"})
    two = pod.run(labels={"is": "two"})

    def found(**wanted: object) -> set[str]:
        items = client.ListContainers(filter=api.ContainerFilter(pod_sandbox_id=pod.id, **wanted)).containers
        return {item.id for item in items}

    assert found() == {one.id, two.id}
    assert found(id=two.id) == found(id=two.id[:13]) == found(label_selector={"is": "two"}) == {two.id}
    assert found(state=api.ContainerStateValue(state=api.CONTAINER_CREATED)) == {one.id}
    assert found(state=api.ContainerStateValue(state=api.CONTAINER_RUNNING)) == {two.id}
    assert found(state=api.ContainerStateValue(state=api.CONTAINER_EXITED)) == set()
    item = client.ListContainers(filter=api.ContainerFilter(id=one.id)).containers[0]
    assert (item.pod_sandbox_id, item.image_id, item.image.image) == (pod.id, pod.image, pod.image)
    assert (dict(item.labels), dict(item.annotations)) == ({"is": "one"}, {"note": "1"})
    streamed = client.StreamContainers(filter=api.ContainerFilter(pod_sandbox_id=pod.id))
    assert {item.id for answer in streamed for item in answer.containers} == {one.id, two.id}


def test_an_image_that_is_not_there_is_not_pulled(pod: Pod) -> None:
    refused(lambda: pod.create(image="localhost/no/such:1"), grpc.StatusCode.NOT_FOUND)


# --- ends


@pytest.mark.parametrize(("script", "code", "reason"), [("exit 0", 0, "Completed"), ("exit 3", 3, "Error")])
def test_reason_of_the_end(pod: Pod, script: str, code: int, reason: str) -> None:
    status = pod.run("sh", "-c", script).ended()
    assert (status.exit_code, status.reason) == (code, reason)


def test_end_by_a_signal(pod: Pod) -> None:
    container = pod.run("sh", "-c", "kill -SEGV $$")
    status = container.ended()
    assert (status.exit_code, status.reason) == (139, "Error")


def test_end_for_want_of_memory(pod: Pod) -> None:
    limits = api.LinuxContainerResources(memory_limit_in_bytes=20 << 20, memory_swap_limit_in_bytes=20 << 20)
    container = pod.run("sh", "-c", "tail /dev/zero", linux=api.LinuxContainerConfig(resources=limits))
    status = container.ended()
    assert status.reason == "OOMKilled"
    assert status.exit_code == 137


def test_a_command_that_is_not_there(pod: Pod) -> None:
    container = pod.create("/no/such/command")
    with pytest.raises(grpc.RpcError) as caught:
        container.start()
    assert "/no/such/command" in caught.value.details()
    status = container.status
    assert (status.state, status.reason) == (api.CONTAINER_EXITED, "StartError")
    assert status.exit_code in (127, 128)
    assert "/no/such/command" in status.message


# --- stop


def test_a_process_is_asked_before_it_is_killed(pod: Pod) -> None:
    container = pod.run("sh", "-c", "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done")
    wait_for(lambda: container.log.exists() and container.lines(), "the trap")
    began = time.monotonic()
    container.stop(20)
    assert time.monotonic() - began < 10
    assert container.status.exit_code == 5
    assert ("stdout", "F", "bye") in container.lines()


def test_a_process_that_does_not_listen_is_killed_after_the_time(pod: Pod) -> None:
    container = pod.run("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    wait_for(lambda: container.log.exists() and container.lines(), "the trap")
    began = time.monotonic()
    container.stop(1)
    assert 1 <= time.monotonic() - began < 5 * SLOWER
    assert container.status.exit_code == 137


def test_another_signal_for_stopping(pod: Pod) -> None:
    script = "trap 'exit 7' USR1; trap '' TERM; echo ready; while :; do sleep 0.05; done"
    container = pod.run("sh", "-c", script, stop_signal=api.SIGNAL_SIGUSR1)
    wait_for(lambda: container.log.exists() and container.lines(), "the trap")
    container.stop(20)
    status = container.status
    assert (status.exit_code, status.stop_signal) == (7, api.SIGNAL_SIGUSR1)


def test_the_signal_for_stopping_is_told_where_nobody_named_one(pod: Pod) -> None:
    assert pod.run("sleep", "1000").status.stop_signal == api.SIGNAL_SIGTERM


@pytest.mark.parametrize(
    ("text", "signal"),
    [
        ("SIGQUIT", api.SIGNAL_SIGQUIT),
        ("15", api.SIGNAL_SIGTERM),
        ("RTMIN+3", api.SIGNAL_SIGRTMINPLUS3),
        ("SIGRTMAX", api.SIGNAL_SIGRTMAX),
        ("nonsense", api.SIGNAL_RUNTIME_DEFAULT),
    ],
)
def test_signals_as_images_name_them(text: str, signal: api.Signal) -> None:
    assert answers.signal_of(text) == signal


def test_two_who_stop_at_once(pod: Pod) -> None:
    container = pod.run("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    wait_for(lambda: container.log.exists() and container.lines(), "the trap")
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(container.stop, 30)
        time.sleep(0.3)
        began = time.monotonic()
        pool.submit(container.stop, 0).result(20)
        slow.result(20)
    assert time.monotonic() - began < 20
    assert container.status.exit_code == 137


# --- logs


def test_the_log_as_kubelet_reads_it(pod: Pod) -> None:
    once = "while [ ! -e /{0} ]; do sleep 0.01; done"  # who reads two pipes late can't tell what came first
    container = pod.run("sh", "-c", f"echo one; {once.format('one')}; echo two >&2; {once.format('two')}; printf three")
    for count, name in enumerate(("one", "two"), 1):
        wait_for(lambda count=count: container.log.exists() and len(container.lines()) == count, name)
        container.sh(f"touch /{name}")
    container.ended()
    assert container.lines() == [("stdout", "F", "one"), ("stderr", "F", "two"), ("stdout", "P", "three")]  # no newline
    for line in container.log.read_text().splitlines():
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d) std(out|err) [FP] ", line)
    assert container.status.log_path == str(container.log)
    assert container.log.stat().st_mode & 0o777 == 0o640


def test_a_long_line_comes_in_parts(pod: Pod) -> None:
    container = pod.run("sh", "-c", "head -c 40000 /dev/zero | tr '\\0' x; echo")
    container.ended()
    parts = container.lines()
    assert {tag for _, tag, _ in parts[:-1]} == {"P"}
    assert parts[-1][1] == "F"
    assert "".join(text for _, _, text in parts) == "x" * 40000


def test_the_log_is_opened_anew(client: Client, pod: Pod) -> None:
    script = "echo before; while [ ! -e /go ]; do sleep 0.02; done; echo after; sleep 1000"
    container = pod.run("sh", "-c", script)
    wait_for(lambda: container.log.exists() and container.lines(), "the first line")
    old = container.log.rename(container.log.with_suffix(".1"))
    client.ReopenContainerLog(container_id=container.id)
    container.sh("touch /go")
    wait_for(lambda: container.log.exists() and container.lines(), "the second line")
    assert container.lines() == [("stdout", "F", "after")]
    assert old.read_text().endswith("stdout F before\n")
    container.stop()
    refused(lambda: client.ReopenContainerLog(container_id=container.id), grpc.StatusCode.FAILED_PRECONDITION)


def test_a_container_without_a_log(pod: Pod) -> None:
    container = pod.run("echo", "hello", log_path="")
    assert container.ended().log_path == ""


def test_the_log_of_a_terminal(pod: Pod) -> None:
    container = pod.run("sh", "-c", "tty; echo err >&2", tty=True)
    container.ended()
    assert [(stream, text.rstrip("\r")) for stream, _, text in container.lines()] == [
        ("stdout", "/dev/console") if "console" in container.log.read_text() else ("stdout", "/dev/pts/0"),
        ("stdout", "err"),
    ]


# --- what a process begins with


def test_command_arguments_directory_and_environment(pod: Pod) -> None:
    container = pod.run(
        *("sh", "-c"),
        args=['echo "$0 $1 $(pwd) $GREETING"', "zero", "one"],
        working_dir="/tmp/made/here",
        envs=[api.KeyValue(key="GREETING", value=b"good = day"), api.KeyValue(key="PATH", value=b"/bin:/sbin")],
    )
    assert container.says() == "zero one /tmp/made/here good = day"


def test_exec_begins_as_the_container_did(pod: Pod) -> None:
    container = pod.run(working_dir="/www", envs=[api.KeyValue(key="X", value=b"1")])
    assert container.sh("pwd; echo $X; ls") == "/www\n1\nindex.html"


def test_standard_input_is_empty_unless_asked_for(pod: Pod) -> None:
    assert pod.run("sh", "-c", "cat; readlink /proc/self/fd/0").says() == "/dev/null"


def test_devices(pod: Pod) -> None:
    device = api.Device(host_path="/dev/net/tun", container_path="/dev/mine", permissions="r")
    container = pod.run(devices=[device])
    assert container.sh("stat -c '%F %t %T' /dev/mine") == "character special file a c8"
    container.sh(": < /dev/mine")
    assert "not permitted" in container.fails(": > /dev/mine")


# --- mounts


def mount(path: Path, **fields: object) -> api.Mount:
    return api.Mount(container_path=str(fields.pop("at", "/v")), host_path=str(path), **fields)


def test_a_directory_of_the_node(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("before")
    container = pod.run(mounts=[mount(tmp_path), mount(tmp_path / "there", at="/a/new/file")])
    assert container.sh("cat /v/there /a/new/file; echo > /v/mine") == "beforebefore"
    assert (tmp_path / "mine").exists()


def test_a_mount_that_is_only_read(pod: Pod, tmp_path: Path) -> None:
    container = pod.run(mounts=[mount(tmp_path, readonly=True)])
    assert "Read-only" in container.fails("echo > /v/mine")


def test_read_only_down_to_what_is_mounted_below(pod: Pod, tmp_path: Path, node_mount: NodeMount) -> None:
    (tmp_path / "below").mkdir()
    node_mount("mount", "-t", "tmpfs", "none", str(tmp_path / "below"))
    container = pod.run(
        mounts=[
            mount(tmp_path, at="/ro", readonly=True),
            mount(tmp_path, at="/rro", readonly=True, recursive_read_only=True),
        ]
    )
    container.sh("echo > /ro/below/file")
    assert "Read-only" in container.fails("echo > /rro/below/file")
    status = {item.container_path: item for item in container.status.mounts}
    assert status["/rro"].recursive_read_only
    assert not status["/ro"].recursive_read_only


@pytest.mark.parametrize(
    ("mode", "inward", "outward"),
    [
        (api.PROPAGATION_PRIVATE, False, False),
        (api.PROPAGATION_HOST_TO_CONTAINER, True, False),
        (api.PROPAGATION_BIDIRECTIONAL, True, True),
    ],
)
def test_propagation(
    make_pod: Make, tmp_path: Path, node_mount: NodeMount, mode: int, inward: bool, outward: bool
) -> None:
    volume = tmp_path / "volume"
    for name in ("in", "out"):
        (volume / name).mkdir(parents=True)
    node_mount("mount", "--bind", str(volume), str(volume))
    node_mount("mount", "--make-shared", str(volume))
    security = api.LinuxSandboxSecurityContext(privileged=True)
    pod = make_pod(linux=api.LinuxPodSandboxConfig(security_context=security))
    privileged = api.LinuxContainerSecurityContext(privileged=True)
    container = pod.run(mounts=[mount(volume, propagation=mode)], security=privileged)
    node_mount("mount", "-t", "tmpfs", "none", str(volume / "in"))
    node_mount("touch", str(volume / "in/file"))
    assert (container.exec("test", "-e", "/v/in/file").exit_code == 0) == inward
    container.sh("mount -t tmpfs none /v/out && touch /v/out/file")
    if outward:
        node_mount("test", "-e", str(volume / "out/file"))
    else:
        node_mount("sh", "-c", f"test ! -e {volume}/out/file")


def test_a_path_of_the_node_that_is_missing_is_made(pod: Pod, tmp_path: Path) -> None:
    container = pod.run(mounts=[mount(tmp_path / "not/there")])
    container.sh("echo > /v/file")
    assert (tmp_path / "not/there/file").exists()


def test_a_link_on_the_node_is_followed(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("text")
    (tmp_path / "link").symlink_to("real")
    assert pod.run(mounts=[mount(tmp_path / "link")]).sh("cat /v/file") == "text"


def test_what_a_mount_covers_is_not_seen(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("mine")
    container = pod.run(mounts=[mount(tmp_path / "hosts", at="/etc/hosts"), mount(tmp_path, at="/www")])
    assert container.sh("cat /etc/hosts; ls /www") == "minehosts"


# --- images as volumes


def image(reference: str, **fields: object) -> api.Mount:
    return api.Mount(container_path="/v", image=api.ImageSpec(image=reference), readonly=True, **fields)


def test_an_image_is_mounted(pod: Pod) -> None:
    container = pod.run(mounts=[image(pod.image)])
    assert container.sh("cat /v/www/index.html") == "hello"
    assert "Read-only" in container.fails("echo > /v/file")
    assert container.status.mounts[0].image.image_ref == pod.image


def test_a_part_of_an_image_is_mounted(pod: Pod) -> None:
    assert pod.run(mounts=[image(pod.image, image_sub_path="www")]).sh("ls /v") == "index.html"
    assert pod.run(mounts=[image(pod.image, image_sub_path="www/index.html")]).sh("cat /v") == "hello"


@pytest.mark.parametrize(
    ("part", "code"), [("no/such", grpc.StatusCode.NOT_FOUND), ("../etc", grpc.StatusCode.INVALID_ARGUMENT)]
)
def test_a_part_that_an_image_does_not_have(pod: Pod, part: str, code: grpc.StatusCode) -> None:
    assert part in refused(lambda: pod.create(mounts=[image(pod.image, image_sub_path=part)]), code)


def test_an_image_that_is_mounted_must_be_there(pod: Pod) -> None:
    refused(lambda: pod.create(mounts=[image("localhost/no/such:1")]), grpc.StatusCode.NOT_FOUND)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (api.Mount(container_path="relative", host_path="/tmp"), "container_path"),
        (api.Mount(container_path="/v", host_path="/tmp", recursive_read_only=True), "recursive_read_only"),
        (api.Mount(container_path="/v", host_path="/tmp", image=api.ImageSpec(image="x"), readonly=True), "both"),
    ],
)
def test_mounts_that_make_no_sense(pod: Pod, wrong: api.Mount, words: str) -> None:
    assert words in refused(lambda: pod.create(mounts=[wrong]), grpc.StatusCode.INVALID_ARGUMENT)
