"""The calls of the Container Runtime Interface, beside containerd with CNI's bridge plugin.

Each runtime is asked through its socket by the same client; in every round each makes a pod with a container, runs a
command in it, and takes it away again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import CASES, Case
from peers import HERE, ORLOP, Lab, Missing, image, program, run, wait_for
from report import Budget, Result
from timing import Series, Work, interleaved

PODS = 20  # whose memory is looked at
LISTED = 50
_CNI = {
    "cniVersion": "0.4.0",
    "name": "bench",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "bench0",
            "isGateway": True,
            "ipMasq": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
_CONTAINERD = """version = 2
root = "{root}/cri-containerd"
state = "{root}/cri-containerd-state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{pause}"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{root}/cni"
[plugins."io.containerd.grpc.v1.cri".registry.mirrors."127.0.0.1:5000"]
  endpoint = ["http://127.0.0.1:5000"]
"""


class Client:
    """Calls by name; `timed` gives what one took in milliseconds."""

    def __init__(self, socket: str, reference: str) -> None:
        import grpc

        from orlop._stubs.cri import api_pb2
        from orlop.cri.methods import stub

        self.api: Any = api_pb2
        channel = grpc.insecure_channel(f"unix:{socket}")
        self._calls = stub(channel, "RuntimeService") | stub(channel, "ImageService")
        self.image = self("PullImage", image=self.api.ImageSpec(image=reference)).image_ref

    def __call__(self, name: str, **fields: Any) -> Any:
        return self._calls[name](getattr(self.api, f"{name}Request")(**fields), timeout=60)

    def up(self) -> tuple[str, str]:
        """A pod with a container that sleeps; their IDs."""
        api = self.api
        metadata = api.PodSandboxMetadata(name="bench", uid=uuid.uuid4().hex, namespace="default")
        pod = api.PodSandboxConfig(
            metadata=metadata, hostname="bench", linux=api.LinuxPodSandboxConfig(), log_directory="/tmp/orlop-bench"
        )
        sandbox = self("RunPodSandbox", config=pod).pod_sandbox_id
        security = api.LinuxContainerSecurityContext(namespace_options=api.NamespaceOption(pid=api.CONTAINER))
        wanted = api.ContainerConfig(
            metadata=api.ContainerMetadata(name="main"),
            image=api.ImageSpec(image=self.image),
            command=["sleep", "3600"],
            log_path="main.log",
            linux=api.LinuxContainerConfig(security_context=security),
        )
        container = self("CreateContainer", pod_sandbox_id=sandbox, config=wanted, sandbox_config=pod).container_id
        self("StartContainer", container_id=container)
        return sandbox, container

    def down(self, sandbox: str) -> None:
        self("StopPodSandbox", pod_sandbox_id=sandbox)
        self("RemovePodSandbox", pod_sandbox_id=sandbox)

    def timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        began = time.perf_counter()
        value = work()
        return (time.perf_counter() - began) * 1e3, value


def clients(lab: Lab) -> dict[str, Client]:
    """Both runtimes, served; containerd where it is there."""
    found = getattr(lab, "_cri", None)
    if found is None:
        sys.path.insert(0, str(HERE / "src"))
        reference = image(lab.registry)
        found = {"orlop": Client(_orlop(lab), reference)}
        try:
            found["containerd"] = Client(_containerd(lab), reference)
        except Missing as error:
            lab.notes.append(f"containerd's CRI left out: {error}")
        lab._cri = found  # type: ignore[attr-defined]
    return dict(found)


def _orlop(lab: Lab) -> str:
    socket = str(lab.path("cri.sock"))
    config = lab.path("config.toml")
    config.write_text(f'[cri]\ncni_config = "{lab.path("no-cni")}"\n')
    with open(lab.path("orlop-serve.log"), "wb") as log:
        words = [ORLOP, "serve", "--config", str(config), "--cri-socket", socket, "--socket", str(lab.path("rt.sock"))]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    lab._processes.append(process)
    lab._orlop_serve = process.pid  # type: ignore[attr-defined]
    wait_for(lambda: os.path.exists(socket), "orlop serve", lab.path("orlop-serve.log"))
    time.sleep(0.5)
    return socket


def _containerd(lab: Lab) -> str:
    program("containerd")
    socket, config = str(lab.path("cri-containerd.sock")), lab.path("cri-containerd.toml")
    pause = _pause(lab)
    config.write_text(_CONTAINERD.format(root=lab.root, socket=socket, pause=pause))
    lab.path("cni").mkdir()
    lab.path("cni/10-bench.conflist").write_text(json.dumps(_CNI))
    with open(lab.path("cri-containerd.log"), "wb") as log:
        words = ["containerd", "--config", str(config)]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    lab._processes.append(process)
    lab._containerd_cri = process.pid  # type: ignore[attr-defined]
    wait_for(lambda: os.path.exists(socket), "containerd", lab.path("cri-containerd.log"))
    time.sleep(2)
    return socket


def _pause(lab: Lab) -> str:
    """An image of orlop's own pause program, so that both hold their pods' namespaces with the same."""
    layout, root = lab.path("pause-image"), lab.path("pause-root")
    root.mkdir()
    program_file = HERE / "src/orlop/_native/orlop-pause"
    (root / "pause").write_bytes(program_file.read_bytes())
    (root / "pause").chmod(0o755)
    run("umoci", "init", "--layout", str(layout))
    run("umoci", "new", "--image", f"{layout}:pause")
    run("umoci", "insert", "--image", f"{layout}:pause", str(root / "pause"), "/pause")
    run("umoci", "config", "--image", f"{layout}:pause", "--config.entrypoint", "/pause")
    reference = f"{lab.registry}/pause:1"
    run("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:pause", f"docker://{reference}")
    return reference


def _rounds(quick: bool) -> int:
    return 10 if quick else 30


def _measure(lab: Lab, quick: bool, name: str, work: Callable[[Client], float], budget: float) -> Result:
    def of(client: Client) -> Work:
        return lambda: work(client)

    works = {who: of(client) for who, client in clients(lab).items()}
    series = interleaved(works, _rounds(quick))
    return Result(CASES[name].title, "ms", series, [Budget(budget, "containerd")])


def _up(client: Client) -> float:
    taken, (sandbox, _) = client.timed(client.up)
    client.down(sandbox)
    return taken


def _down(client: Client) -> float:
    sandbox, container = client.up()
    client("StopContainer", container_id=container, timeout=0)
    client("RemoveContainer", container_id=container)
    return client.timed(lambda: client.down(sandbox))[0]


def _exec(lab: Lab, quick: bool) -> Result:
    """In one pod for all rounds."""
    found = clients(lab)
    pods = {who: client.up() for who, client in found.items()}
    containers = {id(found[who]): container for who, (_, container) in pods.items()}

    def work(client: Client) -> float:
        return client.timed(lambda: client("ExecSync", container_id=containers[id(client)], cmd=["true"]))[0]

    try:
        return _measure(lab, quick, "cri-exec", work, 1 / 4)
    finally:
        for who, (sandbox, _) in pods.items():
            found[who].down(sandbox)


def _stop(client: Client) -> float:
    sandbox, container = client.up()
    taken, _ = client.timed(lambda: client("StopContainer", container_id=container, timeout=0))
    client.down(sandbox)
    return taken


def _list(call: str) -> Callable[[Lab, bool], Result]:
    def measure(lab: Lab, quick: bool) -> Result:
        found = clients(lab)
        pods = {who: [client.up()[0] for _ in range(LISTED)] for who, client in found.items()}
        try:
            works = {who: _calling(client, call) for who, client in found.items()}
            budget = [Budget(1, "containerd")] if call == "ListContainerStats" else [Budget(10.0)]
            return Result(CASES[f"cri-{call}"].title, "ms", interleaved(works, _rounds(quick)), budget)
        finally:
            for who, sandboxes in pods.items():
                for sandbox in sandboxes:
                    found[who].down(sandbox)

    return measure


def _calling(client: Client, call: str) -> Work:
    return lambda: client.timed(lambda: client(call))[0]


def _idle(lab: Lab, quick: bool) -> Result:
    """Of shims and pause processes: the container's own program is the same for both."""
    found = clients(lab)
    series = []
    for who, client in found.items():
        pods = [client.up()[0] for _ in range(PODS)]
        time.sleep(1)
        names = ("orlop-shim", "pause") if who == "orlop" else ("containerd-shim", "pause")
        series.append(Series(who, [_private(names) / PODS]))
        for sandbox in pods:
            client.down(sandbox)
    return Result(CASES["cri-idle"].title, "KiB", series, [Budget(0.1, "containerd")], digits=0)


def _private(names: tuple[str, ...]) -> float:
    """KiB that processes of these names in this mount namespace, or below it, have for themselves."""
    total = 0
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "comm").read_text().strip() in names:
                lines = (process / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
        except OSError:
            continue
    return float(total)


def _daemon(lab: Lab, quick: bool) -> Result:
    clients(lab)
    pids = {"orlop": getattr(lab, "_orlop_serve", 0), "containerd": getattr(lab, "_containerd_cri", 0)}
    series = [Series(who, [_resident(pid)]) for who, pid in pids.items() if pid]
    return Result(CASES["cri-daemon"].title, "KiB", series, [Budget(1, "containerd")], digits=0)


def _alone(lab: Lab, quick: bool) -> Result:
    """Of the process that serves, pages that others have as well among it."""
    clients(lab)
    pids = {"orlop": getattr(lab, "_orlop_serve", 0), "containerd": getattr(lab, "_containerd_cri", 0)}
    series = [Series(who, [_rollup(pid, "Rss:")]) for who, pid in pids.items() if pid]
    return Result(CASES["cri-resident"].title, "KiB", series, [Budget(1, "containerd")], digits=0)


def _rollup(pid: int | str, field: str) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(field)))


def _resident(pid: int) -> float:
    """Of a process and its children, without the containers' supervisors, which leave their parent."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(_rollup(each, "Pss:") for each in (str(pid), *children))


def _register(name: str, title: str, work: Callable[[Client], float], budget: float) -> None:
    CASES[name] = Case(title, lambda lab, quick: _measure(lab, quick, name, work, budget))


_register("cri-up", "RunPodSandbox, CreateContainer and StartContainer", _up, 1 / 8)
_register("cri-down", "StopPodSandbox and RemovePodSandbox", _down, 1 / 10)
CASES["cri-exec"] = Case("ExecSync `true`", _exec)
_register("cri-stop", "StopContainer at once", _stop, 1)
for _call in ("ListContainers", "ListPodSandbox", "ListContainerStats"):
    CASES[f"cri-{_call}"] = Case(f"{_call} with {LISTED} pods", _list(_call))
CASES["cri-idle"] = Case("private memory of a pod's shims and pause", _idle)
CASES["cri-daemon"] = Case("proportional memory of the daemon after that", _daemon)
CASES["cri-resident"] = Case("resident memory of the daemon, the warm runtime left out", _alone)
