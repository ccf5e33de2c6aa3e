"""What the calls of the Container Runtime Interface take: median and 95th percentile of some rounds, in milliseconds.

    python bench/cri.py unix:///run/orlop/orlop.sock IMAGE [ROUNDS]

The image must have a shell and `sleep`, and be there or where the runtime pulls from. Runs against any runtime.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from orlop._stubs.cri import api_pb2 as api
from orlop.cri.methods import stub

PARENT = "/orlop-bench"


class Rounds:
    """Times by the name of the call."""

    def __init__(self, target: str) -> None:
        channel = grpc.insecure_channel(target)
        self.calls = stub(channel, "RuntimeService") | stub(channel, "ImageService")
        self.times: dict[str, list[float]] = {}

    def __call__(self, name: str, within: float = 60.0, **fields: Any) -> Any:
        request = getattr(api, f"{name}Request")(**fields)
        began = time.perf_counter()
        answer = self.calls[name](request, timeout=within)
        self.times.setdefault(name, []).append((time.perf_counter() - began) * 1000)
        return answer

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.times.setdefault(name, []).append((time.perf_counter() - began) * 1000)

    def figures(self) -> dict[str, tuple[float, float]]:
        """Median and 95th percentile."""
        found = {}
        for name, times in self.times.items():
            ordered = sorted(times)
            found[name] = (ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)])
        return found


def pod_config() -> api.PodSandboxConfig:
    metadata = api.PodSandboxMetadata(name="bench", uid=uuid.uuid4().hex, namespace="default")
    return api.PodSandboxConfig(
        metadata=metadata, hostname="bench", linux=api.LinuxPodSandboxConfig(), log_directory="/tmp/orlop-bench-logs"
    )


def container_config(image: str) -> api.ContainerConfig:
    options = api.NamespaceOption(pid=api.CONTAINER)
    return api.ContainerConfig(
        metadata=api.ContainerMetadata(name="main"),
        image=api.ImageSpec(image=image),
        command=["sleep", "1000"],
        log_path="main.log",
        linux=api.LinuxContainerConfig(security_context=api.LinuxContainerSecurityContext(namespace_options=options)),
    )


def one(calls: Rounds, image: str) -> None:
    """A pod with one container, from the first call to the last."""
    config = pod_config()
    with calls.timed("pod and container up"):
        pod = calls("RunPodSandbox", config=config).pod_sandbox_id
        wanted = container_config(image)
        container = calls("CreateContainer", pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
        calls("StartContainer", container_id=container)
    calls("ExecSync", container_id=container, cmd=["true"])
    calls("ExecSync", container_id=container, cmd=["true"])
    calls("ContainerStatus", container_id=container)
    calls("StopContainer", container_id=container, timeout=0)
    calls("RemoveContainer", container_id=container)
    with calls.timed("pod down"):
        calls("StopPodSandbox", pod_sandbox_id=pod)
        calls("RemovePodSandbox", pod_sandbox_id=pod)


def many(calls: Rounds, image: str, count: int, measure: Callable[[], None]) -> None:
    """Lists and memory with many pods."""
    pods = []
    for _ in range(count):
        config = pod_config()
        pod = calls.calls["RunPodSandbox"](api.RunPodSandboxRequest(config=config)).pod_sandbox_id
        pods.append(pod)
        request = api.CreateContainerRequest(pod_sandbox_id=pod, config=container_config(image), sandbox_config=config)
        container = calls.calls["CreateContainer"](request).container_id
        calls.calls["StartContainer"](api.StartContainerRequest(container_id=container))
    try:
        for _ in range(20):
            for name in ("ListPodSandbox", "ListContainers", "ListContainerStats"):
                calls(name)
        measure()
    finally:
        for pod in pods:
            calls.calls["StopPodSandbox"](api.StopPodSandboxRequest(pod_sandbox_id=pod))
            calls.calls["RemovePodSandbox"](api.RemovePodSandboxRequest(pod_sandbox_id=pod))


def private_memory(names: tuple[str, ...]) -> int:
    """KiB that the processes of these names have for themselves."""
    total = 0
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "comm").read_text().strip() in names:
                rollup = (process / "smaps_rollup").read_text()
                total += sum(
                    int(line.split()[1])
                    for line in rollup.splitlines()
                    if line.startswith(("Private_", "Pss:")) and line.startswith("Private_")
                )
        except OSError:
            continue
    return total


def main() -> int:
    target, image = sys.argv[1], sys.argv[2]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 30
    pods = int(os.environ.get("PODS", "0"))
    calls = Rounds(target)
    calls.calls["PullImage"](api.PullImageRequest(image=api.ImageSpec(image=image)))
    one(calls, image)
    calls.times.clear()
    for _ in range(rounds):
        one(calls, image)
    if pods:
        helpers = ("orlop-shim", "pause", "sleep", "containerd-shim")
        before = private_memory(helpers)
        many(
            calls,
            image,
            pods,
            lambda: print(f"private memory a pod {(private_memory(helpers) - before) / pods:.0f} KiB"),
        )
    for name, (median, late) in calls.figures().items():
        print(f"{name:24} {median:9.2f} {late:9.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
