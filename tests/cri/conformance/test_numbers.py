"""What containers and pods use, limits that change, events, and images."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tests.cri.conformance.pod import Pod
from tests.cri.conftest import Client
from tests.cri.test_life import refused
from tests.harness import wait_for

from orlop._stubs.cri import api_pb2 as api

Make = Callable[..., Pod]

# --- use


def test_what_a_container_uses(client: Client, pod: Pod) -> None:
    container = pod.run("sh", "-c", "head -c 3000000 /dev/zero > /file; while :; do :; done", labels={"is": "busy"})
    wait_for(lambda: container.sh("stat -c %s /file") == "3000000", "the file")
    first = client.ContainerStats(container_id=container.id).stats
    assert (first.attributes.id, dict(first.attributes.labels)) == (container.id, {"is": "busy"})
    assert first.memory.working_set_bytes.value > 0
    assert first.writable_layer.used_bytes.value >= 3_000_000
    assert first.writable_layer.inodes_used.value > 0
    wait_for(
        lambda: (
            client.ContainerStats(container_id=container.id).stats.cpu.usage_core_nano_seconds.value
            > first.cpu.usage_core_nano_seconds.value
        ),
        "the time to go on",
    )
    container.stop()
    assert not client.ContainerStats(container_id=container.id).stats.HasField("memory")


def test_lists_of_use_take_filters(client: Client, make_pod: Make, unique: str) -> None:
    pod = make_pod(labels={"set": unique})
    one, two = pod.run(labels={"is": "one"}), pod.run()
    wanted = api.ContainerStatsFilter(pod_sandbox_id=pod.id)
    assert {item.attributes.id for item in client.ListContainerStats(filter=wanted).stats} == {one.id, two.id}
    wanted.label_selector["is"] = "one"
    assert [item.attributes.id for item in client.ListContainerStats(filter=wanted).stats] == [one.id]
    streamed = client.StreamContainerStats(filter=wanted)
    assert [item.attributes.id for answer in streamed for item in answer.container_stats] == [one.id]

    stats = client.PodSandboxStats(pod_sandbox_id=pod.id).stats
    assert (stats.attributes.id, stats.attributes.metadata) == (pod.id, pod.config.metadata)
    assert {item.attributes.id for item in stats.linux.containers} == {one.id, two.id}
    assert stats.linux.network.default_interface.name
    assert stats.linux.process.process_count.value >= 3
    assert stats.linux.memory.working_set_bytes.value > 0
    pods = api.PodSandboxStatsFilter(label_selector={"set": unique})
    assert [item.attributes.id for item in client.ListPodSandboxStats(filter=pods).stats] == [pod.id]
    streamed = client.StreamPodSandboxStats(filter=pods)
    assert [item.attributes.id for answer in streamed for item in answer.pod_sandbox_stats] == [pod.id]


def test_metrics_are_those_that_are_described(client: Client, pod: Pod) -> None:
    container = pod.run()
    described = {item.name: list(item.label_keys) for item in client.ListMetricDescriptors().descriptors}
    assert len(described) > 20
    mine = next(item for item in client.ListPodSandboxMetrics().pod_metrics if item.pod_sandbox_id == pod.id)
    held = next(item for item in mine.container_metrics if item.container_id == container.id)
    for metric in (*mine.metrics, *held.metrics):
        assert len(metric.label_values) == len(described[metric.name])
    assert {"container_memory_working_set_bytes", "container_cpu_usage_seconds_total"} <= {m.name for m in held.metrics}
    streamed = client.StreamPodSandboxMetrics()
    assert pod.id in {item.pod_sandbox_id for answer in streamed for item in answer.pod_sandbox_metrics}


# --- limits


def test_limits_change_while_a_container_runs(client: Client, pod: Pod) -> None:
    before = api.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_period=100_000, cpu_quota=50_000)
    container = pod.run(linux=api.LinuxContainerConfig(resources=before))
    after = api.LinuxContainerResources(memory_limit_in_bytes=32 << 20, cpu_quota=25_000, cpu_shares=256)
    client.UpdateContainerResources(container_id=container.id, linux=after)
    found = container.status.resources.linux
    assert (found.memory_limit_in_bytes, found.cpu_quota, found.cpu_shares) == (32 << 20, 25_000, 256)
    assert found.cpu_period == 100_000
    limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max"
    assert container.sh(f"({limit}) 2>/dev/null") == str(32 << 20)
    container.stop()
    refused(
        lambda: client.UpdateContainerResources(container_id=container.id, linux=after),
        grpc.StatusCode.FAILED_PRECONDITION,
    )


def test_limits_change_before_a_container_runs(client: Client, pod: Pod) -> None:
    container = pod.create()
    wanted = api.LinuxContainerResources(memory_limit_in_bytes=48 << 20)
    client.UpdateContainerResources(container_id=container.id, linux=wanted)
    container.start()
    stats = client.ContainerStats(container_id=container.id).stats.memory
    assert stats.available_bytes.value + stats.working_set_bytes.value == 48 << 20


@pytest.mark.parametrize("field", ["cpuset_cpus", "memory_limit_in_bytes"])
def test_limits_that_cannot_be_leave_all_as_it_was(client: Client, pod: Pod, field: str) -> None:
    container = pod.run(
        linux=api.LinuxContainerConfig(resources=api.LinuxContainerResources(memory_limit_in_bytes=64 << 20))
    )
    wrong = api.LinuxContainerResources(**{field: "999" if field == "cpuset_cpus" else -5})
    with pytest.raises(grpc.RpcError) as caught:
        client.UpdateContainerResources(container_id=container.id, linux=wrong)
    assert "Traceback" not in caught.value.details()
    assert container.status.resources.linux.memory_limit_in_bytes == 64 << 20
    assert container.status.state == api.CONTAINER_RUNNING


# --- events


def test_every_subscriber_is_told(client: Client, make_pod: Make) -> None:
    seen: list[list[Any]] = [[], []]
    streams = [client.GetContainerEvents(within=30) for _ in seen]

    def follow(number: int) -> None:
        with contextlib.suppress(grpc.RpcError):  # it is cancelled
            for event in streams[number]:
                seen[number].append(event)

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()

    def told() -> bool:
        make_pod()
        return all(seen)

    wait_for(told, "the subscriptions")
    pod = make_pod()
    container = pod.run("sh", "-c", "exit 6")
    container.ended()
    pod.remove()

    def kinds(number: int, identifier: str) -> list[int]:
        return [event.container_event_type for event in seen[number] if event.container_id == identifier]

    everything = [
        api.CONTAINER_CREATED_EVENT,
        api.CONTAINER_STARTED_EVENT,
        api.CONTAINER_STOPPED_EVENT,
        api.CONTAINER_DELETED_EVENT,
    ]
    wait_for(lambda: all(kinds(number, pod.id)[-1:] == everything[-1:] for number in range(2)), "the last event")
    for stream in streams:
        stream.cancel()
    for thread in threads:
        thread.join()
    for number in range(2):
        assert kinds(number, container.id) == everything
        assert kinds(number, pod.id) == everything
        stopped = next(
            event
            for event in seen[number]
            if event.container_id == container.id and event.container_event_type == api.CONTAINER_STOPPED_EVENT
        )
        assert stopped.pod_sandbox_status.id == pod.id
        assert [status.exit_code for status in stopped.containers_statuses] == [6]


# --- images


def test_an_image_has_many_names(client: Client, registry: str, busybox: str) -> None:
    tag = f"{registry}/lab/busybox:1"
    assert client.PullImage(image=api.ImageSpec(image=tag)).image_ref == busybox
    image = client.ImageStatus(image=api.ImageSpec(image=tag)).image
    assert image.id == busybox
    assert tag in image.repo_tags
    assert image.size > 0
    digest = next(name for name in image.repo_digests if name.startswith(registry))
    assert client.PullImage(image=api.ImageSpec(image=digest)).image_ref == busybox
    for name in (tag, digest, busybox, busybox.removeprefix("sha256:")[:12]):
        assert client.ImageStatus(image=api.ImageSpec(image=name)).image.id == busybox
        found = client.ListImages(filter=api.ImageFilter(image=api.ImageSpec(image=name))).images
        assert [item.id for item in found] == [busybox]
    assert busybox in {item.id for item in client.ListImages().images}
    assert busybox in {item.id for answer in client.StreamImages() for item in answer.images}
    verbose = client.ImageStatus(image=api.ImageSpec(image=tag), verbose=True).info["info"]
    assert json.loads(verbose)


def test_images_that_are_not_there(client: Client, registry: str) -> None:
    missing = api.ImageSpec(image=f"{registry}/lab/missing:1")
    assert not client.ImageStatus(image=missing).HasField("image")
    assert list(client.ListImages(filter=api.ImageFilter(image=missing)).images) == []
    client.RemoveImage(image=missing)
    refused(lambda: client.PullImage(image=missing), grpc.StatusCode.NOT_FOUND)


def test_an_image_is_removed_with_all_its_names(client: Client, registry: str) -> None:
    tag = api.ImageSpec(image=f"{registry}/lab/debian:1")
    identifier = client.PullImage(image=tag, within=90).image_ref
    client.RemoveImage(image=tag)
    client.RemoveImage(image=tag)
    assert not client.ImageStatus(image=api.ImageSpec(image=identifier)).HasField("image")


def test_the_room_that_images_take(client: Client, busybox: str) -> None:
    answer = client.ImageFsInfo()
    assert answer.image_filesystems[0].used_bytes.value > 1_000_000
    assert answer.image_filesystems[0].inodes_used.value > 10
    assert answer.image_filesystems[0].fs_id.mountpoint


# --- the runtime itself


def test_version_and_condition(client: Client) -> None:
    version = client.Version()
    assert (version.version, version.runtime_name, version.runtime_api_version) == ("0.1.0", "orlop", "v1")
    conditions = {item.type: item.status for item in client.Status().status.conditions}
    assert conditions == {"RuntimeReady": True, "NetworkReady": True}
    assert json.loads(client.Status(verbose=True).info["config"])
    assert client.RuntimeConfig().linux.cgroup_driver in (api.CGROUPFS, api.SYSTEMD)
