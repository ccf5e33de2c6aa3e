"""Real images from a real registry, run by the real command line: what these tests share."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROGRAM = HERE.parent.parent / "src/orlop/__main__.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.peers)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Wait until `condition` holds, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


class Orlop:
    """The command line over one root; `run` returns what a shell would see."""

    def __init__(self, root: Path, state: Path) -> None:
        self.root = root
        self.state = state

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-IS", str(PROGRAM), "--root", str(self.root), "--state", str(self.state), *words]

    def __call__(
        self, *words: str, code: int | None = 0, stdin: str | None = None, env: dict[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            env=os.environ | (env or {}),
            timeout=timeout,
        )
        assert "Traceback" not in done.stderr, done.stderr
        if code is not None:
            assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def out(self, *words: str, **more: object) -> str:
        return self(*words, **more).stdout.strip()  # type: ignore[arg-type]

    def remove_all(self) -> None:
        names = self.out("ps", "-aq").split()
        if names:
            self("rm", "-f", "-v", *names, code=None)


@pytest.fixture(scope="session")
def lab() -> Path:
    """The OCI layout with the lab's images."""
    sys.path.insert(0, str(HERE.parent))
    import lab as maker

    directory = maker.default_directory()
    maker.main(directory)
    return directory / "images"


@pytest.fixture(scope="session")
def registry(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's docker-registry on loopback, with the lab's images pushed by skopeo."""
    directory = tmp_path_factory.mktemp("registry")
    address = f"127.0.0.1:{free_port()}"
    config = directory / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {directory}/data}}, "
        f"delete: {{enabled: true}}}}\nhttp: {{addr: '{address}'}}\n"
    )
    server = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        host, port = address.split(":")
        wait_for(lambda: _listens(host, int(port)), "docker-registry")
        for name in ("busybox", "debian", "redis", "nginx"):
            copy = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{lab}:{name}", f"docker://{address}/lab/{name}:1"]
            subprocess.run(copy, check=True, capture_output=True, timeout=120)
        yield address
    finally:
        server.terminate()
        server.wait()


def _listens(host: str, port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((host, port)) == 0


@pytest.fixture(scope="session")
def store(registry: str) -> Iterator[Orlop]:
    """A root with the lab's images pulled, on a tmpfs: the disk's speed is not what is tested."""
    tag = f"orlop-test-{os.getpid()}"
    root, state = Path("/dev/shm") / tag, Path("/run") / tag
    orlop = Orlop(root, state)
    try:
        for name in ("busybox", "debian", "redis", "nginx"):
            orlop("pull", f"{registry}/lab/{name}:1", timeout=180)
            orlop("tag", f"{registry}/lab/{name}:1", name)
        yield orlop
    finally:
        orlop.remove_all()
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture()
def orlop(store: Orlop) -> Iterator[Orlop]:
    """The command line; after the test its containers are removed, and nothing of them may be left."""
    before = traces(store)
    yield store
    store.remove_all()
    wait_for(lambda: not shims(store), "shims to leave", 5)
    assert traces(store) == before


def shims(orlop: Orlop) -> list[int]:
    """Processes that belong to the store: shims, helpers, and whoever has its directories on the command line."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            line = Path(f"/proc/{entry}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(orlop.state).encode() in line and b"pytest" not in line:
            found.append(int(entry))
    return found


def traces(orlop: Orlop) -> dict[str, object]:
    """What containers may leave behind on a machine."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(orlop.root) in line or str(orlop.state) in line]
    groups = [str(p) for base in Path("/sys/fs/cgroup").glob("*/orlop") for p in base.iterdir() if p.is_dir()]
    groups += [str(p) for p in Path("/sys/fs/cgroup/orlop").glob("*/")] if Path("/sys/fs/cgroup/orlop").is_dir() else []
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
    return {
        "mounts": mounts,
        "cgroups": sorted(groups),
        "interfaces": sorted(os.listdir("/sys/class/net")),
        "tables": sorted(line for line in tables.splitlines() if "orlop" in line),
        "state": sorted(os.listdir(orlop.state / "containers")) if (orlop.state / "containers").exists() else [],
        "files": sorted(os.listdir(orlop.root / "containers")) if (orlop.root / "containers").exists() else [],
        "volumes": sorted(os.listdir(orlop.root / "volumes")) if (orlop.root / "volumes").exists() else [],
        "locks": sorted(os.listdir(orlop.state / "locks")) if (orlop.state / "locks").exists() else [],
    }


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
