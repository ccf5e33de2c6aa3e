"""The real command line over real images from a real registry: what tests/real, tests/crash and tests/bad share."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import random
import re
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests import lab as maker

from orlop.network.plan import names_for, veth_name
from orlop.shim.client import ShimClient

HERE = Path(__file__).parent
PROGRAM = HERE.parent / "src/orlop/__main__.py"
SLOWER = 20 if "ORLOP_QEMU" in os.environ else 1  # the machine of scripts/qemu is emulated by software
IMAGES = ("busybox", "debian", "redis", "nginx")


def free_port() -> int:
    """One that nobody listens on, and that the kernel gives to no connection meanwhile (ip_local_port_range)."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(first // 2, first) if first > 4096 else 0
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return int(sock.getsockname()[1])


def wait_for(condition: Callable[[], object], what: str, seconds: float = 15.0) -> None:
    """Wait until `condition` holds, or fail."""
    deadline = time.monotonic() + seconds * SLOWER
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def descriptors(pid: int | str = "self") -> set[str]:
    """What a process has open, each with its number."""
    found = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile, as that which listed them
            found.add(f"{number} {os.readlink(f'/proc/{pid}/fd/{number}')}")
    return found


def children() -> set[str]:
    """Of this process, those that nobody has waited for among them."""
    found: set[str] = set()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found |= set(Path(f"/proc/self/task/{thread}/children").read_text().split())
    return found


@contextlib.contextmanager
def nothing_more_open() -> Iterator[None]:
    """This process has nothing more open afterwards. Less may be: what an earlier test has dropped, or still ends, is
    closed whenever it is. gRPC's threads, once an earlier test has loaded it, have an eventfd when they like."""
    before = descriptors()

    def more() -> set[str]:
        found = descriptors() - before
        return {one for one in found if "grpc" not in sys.modules or not one.endswith(" anon_inode:[eventfd]")}

    yield
    wait_for(lambda: not more(), f"what is open to be closed: {more()}", 5)


def left_behind(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What there is more of than before; `traces` of both. What was going by then, and has gone, is nobody's fault."""
    found: dict[str, Any] = {}
    for name, now in after.items():
        if isinstance(now, dict):
            more: Any = left_behind(before[name], now)
        else:
            more = list((Counter(now) - Counter(before[name])).elements())
        if more:
            found[name] = more
    return found


class Orlop:
    """The command line over one root. A call returns what a shell would see."""

    def __init__(self, root: Path, state: Path) -> None:
        self.root = root
        self.state = state

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-IS", str(PROGRAM), "--root", str(self.root), "--state", str(self.state), *words]

    def __call__(
        self,
        *words: str,
        code: int | None = 0,
        stdin: str | None = None,
        env: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; `code` is the exit status that it must have, None for any."""
        done = subprocess.run(
            self.command(*words),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            env=os.environ | (env or {}),
            timeout=timeout * SLOWER,
        )
        assert "Traceback" not in done.stderr, done.stderr
        if code is not None:
            assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def out(self, *words: str, **more: Any) -> str:
        return self(*words, **more).stdout.strip()

    def start(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        """Begin a command and return at once."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(self.command(*words), text=True, errors="replace", **(streams | more))

    def refused(self, *words: str, code: int, **more: Any) -> str:
        """Run a command that must fail with this status and exactly one line that a terminal can be shown; the line."""
        done = self(*words, code=code, **more)
        # as Docker does, `run` announces that it pulls
        said = re.sub(r"^Unable to find image '[^']*' locally\n", "", done.stderr)
        assert said.count("\n") == 1, f"{words}: want one line:\n{said}"
        assert said.endswith("\n")
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", said[:-1]), repr(said)
        assert "internal error" not in said, said
        return said.strip()

    def state_of(self, name: str) -> dict[str, Any]:
        """The `State` of `inspect`."""
        found: list[dict[str, Any]] = msgspec.json.decode(self("inspect", name).stdout)
        state: dict[str, Any] = found[0]["State"]
        return state

    def attached(self, name: str) -> int:
        """How many see what a running container prints from now on."""
        with ShimClient(self.state / "containers" / self.out("inspect", "-f", "{{.Id}}", name)) as shim:
            return shim.status().clients

    def remove_all(self) -> None:
        names = self.out("ps", "-aq", "--no-trunc").split()
        if names:
            self("rm", "-f", "-v", *names, code=None)

    # --- what is left

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the database, opened apart so that nothing of the product comes between."""
        connection = sqlite3.connect(f"file:{self.root}/orlop.db?mode=ro", uri=True, timeout=10)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def identifiers(self) -> set[str]:
        """Every container that there has ever been."""
        events = [msgspec.json.decode(row[0]) for row in self.rows("SELECT record FROM events")]
        known = {event["id"] for event in events if event["type"] == "container"}
        return known | {row[0] for row in self.rows("SELECT id FROM containers")}

    def processes(self) -> list[str]:
        """Processes of the containers, and those that have the state directory on their command line."""
        ids = self.identifiers()
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes()
                groups = Path(f"/proc/{entry}/cgroup").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(self.state).encode() in line.replace(b"\0", b" ") or any(one in groups for one in ids):
                found.append(f"{entry} {line.decode(errors='replace')}")
        return found

    def traces(self) -> dict[str, Any]:
        """All that containers may leave on a machine, as far as it is this root's."""
        ids = self.identifiers()
        mountinfo = Path("/proc/self/mountinfo").read_text().splitlines()
        bases = [p for p in Path("/sys/fs/cgroup").glob("*/orlop") if p.is_dir()] + [Path("/sys/fs/cgroup/orlop")]
        groups = [str(p) for base in bases if base.is_dir() for p in base.iterdir() if p.name in ids]
        names = names_for(str(self.root / "networks"))
        mine = {names.bridge} | {veth_name(names, one) for one in ids}
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
        return {
            "mounts": [line for line in mountinfo if str(self.root) in line or str(self.state) in line],
            "cgroups": sorted(groups),
            "interfaces": sorted(mine & set(os.listdir("/sys/class/net"))),
            "tables": [line for line in tables.splitlines() if names.table in line],
            "state": _listing(self.state / "containers"),
            "files": _listing(self.root / "containers"),
            "locks": _listing(self.state / "locks"),
            "volumes": _listing(self.root / "volumes"),
            "snapshots": _listing(self.root / "snapshots"),
            "rows": {
                table: self.rows(f"SELECT * FROM {table}")
                for table in ("containers", "addresses", "ports", "volumes", "volume_users", "snapshots", "leases")
            },
        }


def _listing(directory: Path) -> list[str]:
    return sorted(os.listdir(directory)) if directory.exists() else []


class Terminal:
    """A command on a pseudo-terminal, with a person at it."""

    def __init__(self, command: list[str], rows: int = 24, columns: int = 80) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execv(command[0], command)
        self.seen = b""
        self.resize(rows, columns)

    def resize(self, rows: int, columns: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, pattern: str, seconds: float = 15.0) -> str:
        """Read until what came since the last call matches; the text up to the end of the match."""
        deadline = time.monotonic() + seconds * SLOWER
        while not (found := re.search(pattern.encode(), self.seen)):
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.seen!r}"
            if select.select([self.master], [], [], left)[0]:
                try:
                    data = os.read(self.master, 65536)
                except OSError:  # EIO: nobody has the other side open
                    data = b""
                assert data, f"the terminal closed before {pattern!r}: {self.seen!r}"
                self.seen += data
        text, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return text.decode(errors="replace")

    def wait(self, seconds: float = 15.0) -> int:
        """The exit status, as a shell counts it."""
        deadline = time.monotonic() + seconds * SLOWER
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self.pid = 0
                return code if code >= 0 else 128 - code
            assert time.monotonic() < deadline, f"does not end; last seen {self.seen[-500:]!r}"
            if select.select([self.master], [], [], 0.02)[0]:
                try:
                    self.seen += os.read(self.master, 65536)
                except OSError:
                    time.sleep(0.02)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        os.close(self.master)


# --- fixtures, which tests/conftest.py makes known


@pytest.fixture(scope="session")
def lab() -> Path:
    """The OCI layout with the lab's images."""
    directory = maker.default_directory()
    maker.main(directory)
    return directory / "images"


def needs_in_machine(*programs: str) -> None:
    """Skip in a machine of scripts/qemu that is without the tools of others. Elsewhere their absence is a failure."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing and "ORLOP_QEMU" in os.environ:
        pytest.skip(f"needs {' and '.join(missing)}: scripts/qemu --peers")


def archive_image(layout: Path, tag: str, target: Path) -> None:
    """One image of an OCI layout, as an archive of its own."""
    name = "org.opencontainers.image.ref.name"
    entry = next(
        entry
        for entry in json.loads((layout / "index.json").read_text())["manifests"]
        if entry["annotations"][name] == tag
    )
    entry["annotations"][name] = f"docker.io/library/{tag}:latest"

    def blob(digest: str) -> Path:
        return layout / "blobs" / digest.replace(":", "/")

    manifest = json.loads(blob(entry["digest"]).read_text())
    documents: dict[str, Any] = {
        "oci-layout": {"imageLayoutVersion": "1.0.0"},
        "index.json": {"schemaVersion": 2, "manifests": [entry]},
    }
    with tarfile.open(target, "w") as tar:
        for file, document in documents.items():
            data = json.dumps(document).encode()
            member = tarfile.TarInfo(file)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for one in (entry, manifest["config"], *manifest["layers"]):
            tar.add(blob(one["digest"]), f"blobs/{one['digest'].replace(':', '/')}")


@pytest.fixture(scope="session")
def registry(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's docker-registry on loopback, with the lab's images pushed by skopeo."""
    needs_in_machine("docker-registry", "skopeo")
    directory = tmp_path_factory.mktemp("registry")
    port = free_port()
    address = f"127.0.0.1:{port}"
    config = directory / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {directory}/data}}, "
        f"delete: {{enabled: true}}}}\nhttp: {{addr: '{address}'}}\n"
    )
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(["docker-registry", "serve", str(config)], **quiet)
    try:
        wait_for(lambda: _listens(port), "docker-registry")
        for name in IMAGES:
            there = f"docker://{address}/lab/{name}:1"
            copy = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{lab}:{name}", there]
            subprocess.run(copy, check=True, capture_output=True, timeout=120)
        yield address
    finally:
        server.terminate()
        server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def store(lab: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Orlop]:
    """A root with the lab's images pulled, on a tmpfs: the disk's speed is not what is tested. In the machine of
    scripts/qemu busybox alone is loaded: see `every_image`."""
    tag = f"orlop-test-{os.getpid()}"
    orlop = Orlop(Path("/dev/shm") / tag, Path("/run") / tag)
    try:
        if "ORLOP_QEMU" in os.environ:
            archive = tmp_path_factory.mktemp("store") / "busybox.tar"
            archive_image(lab, "busybox", archive)
            orlop("load", "-q", "-i", str(archive), timeout=180)
            yield orlop
            return
        registry = request.getfixturevalue("registry")
        for name in IMAGES:
            orlop("pull", "-q", f"{registry}/lab/{name}:1", timeout=180)
            orlop("tag", f"{registry}/lab/{name}:1", name)
        yield orlop
    finally:
        orlop.remove_all()
        shutil.rmtree(orlop.root, ignore_errors=True)
        shutil.rmtree(orlop.state, ignore_errors=True)


@pytest.fixture(scope="session")
def every_image(store: Orlop, request: pytest.FixtureRequest) -> None:
    """All the lab's images are in the store, also in the machine of scripts/qemu, where that takes minutes."""
    for name in IMAGES:
        if store("inspect", "--type", "image", name, code=None).returncode:
            reference = f"{request.getfixturevalue('registry')}/lab/{name}:1"
            store("pull", "-q", reference, timeout=180)
            store("tag", reference, name)


@pytest.fixture
def orlop(store: Orlop) -> Iterator[Orlop]:
    """The command line; after the test its containers are removed, and nothing of them may be left."""
    before = store.traces()
    yield store
    store.remove_all()
    for name in _listing(store.root / "volumes"):
        store("volume", "rm", name)
    wait_for(lambda: not store.processes(), f"processes to leave: {store.processes()}", 15)
    deadline = time.monotonic() + 10  # the kernel shows a deleted interface in /sys for some milliseconds more
    while (left := left_behind(before, store.traces())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left, f"left behind: {left}"


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
