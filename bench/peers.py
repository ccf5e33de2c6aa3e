"""The peers, each with its root, state and sockets on a tmpfs of the benchmark's own, and Orlop beside them.

`scripts/bench` has put this process in network and mount namespaces of its own: mounts, interfaces and rules go when
the last process there ends. Peers start when a benchmark first asks for them; one that can't be had becomes a note.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import TracebackType

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import lab as images  # type: ignore[import-not-found]  # tests/lab.py

HERE = Path(__file__).parent.parent
ORLOP = str(HERE / ".venv/bin/orlop")
ORLOP_RUNTIME = str(HERE / ".venv/bin/orlop-runtime")
REGISTRY = "127.0.0.1:5000"
IMAGES = ("busybox", "debian")
CGROUPS = Path("/sys/fs/cgroup")
_CONTAINERD = """version = 2
root = "{root}/containerd"
state = "{root}/containerd-state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{root}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
"""
_REGISTRY = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}/registry}}}}
http: {{addr: {address}}}
"""


class Missing(Exception):
    """A peer can't be had; the text says why."""


class Lab:
    """Use as a context: leaving ends every process and takes the tmpfs away."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.root = Path("/run/orlop-bench")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._missing: dict[str, str] = {}
        self._groups = {path for path in CGROUPS.glob("*/*") if path.is_dir()} | set(CGROUPS.glob("*/orlop"))

    def __enter__(self) -> Lab:
        if os.geteuid() != 0:
            sys.exit("scripts/bench: needs root")
        if os.readlink("/proc/self/ns/mnt") == os.readlink(f"/proc/{os.getppid()}/ns/mnt"):
            sys.exit("bench: start it with scripts/bench, which gives it namespaces of its own")
        images.main(images.default_directory())
        self.root.mkdir(exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(self.root))
        run("ip", "link", "set", "lo", "up")
        os.environ.update(ORLOP_ROOT=str(self.root / "orlop"), ORLOP_STATE=str(self.root / "orlop-state"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._end_remaining()
        subprocess.run(["umount", "--recursive", "--lazy", str(self.root)])
        self.root.rmdir()
        self._remove_groups()

    def _end_remaining(self) -> None:
        """Supervisors outlive daemons. Whoever still is in this mount namespace, nobody else's, was started here."""
        mine, me = os.readlink("/proc/self/ns/mnt"), {os.getpid(), os.getppid()}
        for _ in range(100):
            left = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _namespace(pid) == mine]
            left = [pid for pid in left if pid not in me]
            for pid in left:
                _kill(pid)
            if not left:
                return
            time.sleep(0.02)

    def _remove_groups(self) -> None:
        """The groups that peers leave behind, where they are empty and were not there before."""
        for top in CGROUPS.glob("*/*"):
            if top.is_dir() and top not in self._groups and top.name in ("docker", "default", "orlop"):
                for directory, _, _ in os.walk(top, topdown=False):
                    try:
                        os.rmdir(directory)
                    except OSError:
                        break

    def path(self, name: str) -> Path:
        return self.root / name

    @property
    def errors(self) -> str:
        """Where the standard error of the command under measurement goes."""
        return str(self.root / "errors")

    def has(self, peer: str) -> bool:
        """Whether a peer is there (started, with its images, if it is a daemon); else a note says why not."""
        if peer in self._missing:
            return False
        try:
            _ = getattr(self, peer)
            return True
        except Missing as error:
            self._missing[peer] = str(error)
            self.notes.append(f"{peer} left out: {error}")
            return False

    # --- peers

    @cached_property
    def registry(self) -> str:
        """Debian's docker-registry with the images; its address."""
        program("docker-registry")
        config = self.path("registry.yml")
        config.write_text(_REGISTRY.format(root=self.root, address=REGISTRY))
        self._start("docker-registry", "serve", str(config))
        host, _, port = REGISTRY.partition(":")
        wait_for(lambda: _listens(host, int(port)), "docker-registry")
        for name in IMAGES:
            source = f"oci:{images.default_directory()}/images:{name}"
            run("skopeo", "copy", "-q", "--dest-tls-verify=false", source, f"docker://{REGISTRY}/{name}:latest")
        return REGISTRY

    @cached_property
    def orlop(self) -> list[str]:
        """The command line, with the busybox image pulled."""
        run(ORLOP, "pull", "-q", image(self.registry))
        return [ORLOP]

    @cached_property
    def containerd(self) -> str:
        """The socket of a containerd."""
        program("containerd")
        config = self.path("containerd.toml")
        config.write_text(_CONTAINERD.format(root=self.root))
        self._start("containerd", "--config", str(config))
        socket_path = str(self.path("containerd.sock"))
        wait_for(lambda: _succeeds("ctr", "-a", socket_path, "version"), "containerd")
        return socket_path

    @cached_property
    def ctr(self) -> list[str]:
        """containerd's command line, with the busybox image pulled."""
        program("ctr")
        command = ["ctr", "-a", self.containerd]
        run(*command, "images", "pull", "--plain-http", image(self.registry))
        return command

    @cached_property
    def docker(self) -> list[str]:
        """Docker's command line and a dockerd with the busybox image, above the same containerd."""
        for name in ("docker", "dockerd", "iptables"):
            program(name)
        host = f"unix://{self.root}/docker.sock"
        self._start(
            *(
                "dockerd",
                "--host",
                host,
                "--data-root",
                f"{self.root}/docker",
                "--exec-root",
                f"{self.root}/docker-state",
            ),
            *("--pidfile", f"{self.root}/docker.pid", "--storage-driver", "overlay2", "--containerd", self.containerd),
            *("--oom-score-adjust", "0"),
        )
        command = ["docker", "--host", host]
        wait_for(lambda: _succeeds(*command, "version"), "dockerd", self.path("dockerd.log"))
        run(*command, "pull", image(self.registry))
        return command

    @cached_property
    def runc(self) -> list[str]:
        return [program("runc"), "--root", str(self.path("runc"))]

    @cached_property
    def crun(self) -> list[str]:
        return [program("crun"), "--root", str(self.path("crun"))]

    @cached_property
    def orlop_runtime(self) -> list[str]:
        return [ORLOP_RUNTIME, "--root", str(self.path("orlop-runtime"))]

    @cached_property
    def bundle(self) -> Path:
        """A bundle that runs /bin/true, as `runc spec` makes it."""
        directory = self.path("bundle")
        run("umoci", "unpack", "--image", f"{images.default_directory()}/images:busybox", str(directory))
        (directory / "config.json").unlink()
        run(program("runc"), "spec", "--bundle", str(directory))
        config = json.loads((directory / "config.json").read_text())
        config["process"] |= {"args": ["/bin/true"], "terminal": False}
        (directory / "config.json").write_text(json.dumps(config))
        return directory

    def daemon(self, name: str) -> int:
        """The pid of a daemon that was started here."""
        return next(p.pid for p in self._processes if isinstance(p.args, tuple) and p.args[0] == name)

    def versions(self) -> list[str]:
        """A line for each peer that is installed."""
        lines = []
        for name in ("runc", "crun", "containerd", "dockerd"):
            if shutil.which(name):
                text = subprocess.run([name, "--version"], capture_output=True, text=True).stdout
                lines.append(text.splitlines()[0])
        kernel = os.uname()
        return [f"Linux {kernel.release}, {os.cpu_count()} processors, stores on tmpfs", "; ".join(lines)]

    def _start(self, *arguments: str) -> None:
        with open(self.path(f"{arguments[0]}.log"), "wb") as log:
            self._processes.append(subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log))


def image(registry: str, name: str = "busybox") -> str:
    return f"{registry}/{name}:latest"


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Missing(f"{name} is not installed")
    return found


def run(*arguments: str) -> str:
    """Run to the end; its output. What fails here ends the benchmark."""
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"{' '.join(arguments)}: exit status {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def wait_for(ready: Callable[[], bool], what: str, log: Path | None = None) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        if time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-400:] if log else ""
            raise Missing(f"{what} does not answer {tail}")
        time.sleep(0.05)


def _succeeds(*arguments: str) -> bool:
    return subprocess.run(arguments, capture_output=True).returncode == 0


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
