"""A shim with a stand-in for the launch helper: the plan is a shell script. See fake_launch.c."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import SLOWER

from orlop.shim import spawn
from orlop.shim.client import ShimClient
from orlop.shim.spawn import LogFile, Shim
from orlop.shim.state import read_state
from orlop.sys.procfs import start_time
from orlop.wire import frames
from orlop.wire.frames import Exit

ROOT = Path(__file__).parents[2]
# CFLAGS="-g -fsanitize=address,undefined" runs all of this beneath the sanitizers, which can't be linked statically.
EXTRA = os.environ.get("CFLAGS", "-static").split()
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", *EXTRA)


def build(source: Path, target: Path) -> Path:
    subprocess.run(["cc", *FLAGS, "-o", target, source], check=True)
    return target


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("native")
    build(ROOT / "native/shim.c", directory / "orlop-shim")
    build(ROOT / "native/init.c", directory / "orlop-init")
    build(Path(__file__).with_name("fake_launch.c"), directory / "launch")
    return directory


@pytest.fixture(scope="session")
def fake_launch(native: Path) -> Iterator[int]:
    fd = os.open(native / "launch", os.O_RDONLY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


def plan(script: str) -> int:
    fd = os.memfd_create("plan")
    os.write(fd, script.encode())
    return fd


class Lab:
    """Starts shims in one directory and ends whatever of them is left."""

    def __init__(self, directory: Path, launch: int) -> None:
        self.directory = directory
        self.log = directory / "log" / "c.log"
        self.log.parent.mkdir()
        self._launch = launch
        self._pids: list[int] = []

    def start(self, script: str, name: str = "c", log: LogFile | None = None, **options: Any) -> Shim:
        state = self.directory / name
        state.mkdir(exist_ok=True)
        fd = plan(script)
        try:
            control, shim = spawn.start(
                name, state, fd, self._launch, log=log or LogFile(path=str(self.log)), **options
            )
        finally:
            os.close(fd)
        self._pids.append(shim.pid)
        assert control.recv(100) == b""  # the stand-in says nothing; its end is the end of the start
        control.close()
        return shim

    def client(self, name: str = "c") -> ShimClient:
        return ShimClient(self.directory / name)

    def exit(self, name: str = "c", seconds: float = 20.0) -> Exit:
        return self.until(lambda: read_state(self.directory / name).exit, seconds)

    def gone(self, shim: Shim) -> bool:
        return start_time(shim.pid) is None

    plan = staticmethod(plan)

    @staticmethod
    def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
        """The condition's value once it is true."""
        deadline = time.monotonic() + seconds * SLOWER
        while not (value := condition()):
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)
        return value

    @staticmethod
    def read_all(client: ShimClient) -> tuple[bytes, bytes, Exit | None]:
        """Everything that an attached client receives: stdout, stderr, exit."""
        streams = {frames.STDOUT: bytearray(), frames.STDERR: bytearray()}
        ended = None
        while frame := client.receive():
            if frame.type == frames.OUTPUT:
                streams[frame.stream] += frame.payload
            elif frame.type == frames.EXIT:
                ended = frames.decode_exit(frame)
                break
        return bytes(streams[frames.STDOUT]), bytes(streams[frames.STDERR]), ended

    def end(self) -> None:
        for pid in self._pids:
            comm = Path(f"/proc/{pid}/comm")
            try:
                if comm.read_text() == "orlop-shim\n":
                    os.kill(pid, 9)
            except (FileNotFoundError, ProcessLookupError):
                continue


@pytest.fixture
def lab(tmp_path: Path, native: Path, fake_launch: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(spawn, "PROGRAM", str(native / "orlop-shim"))
    lab = Lab(tmp_path, fake_launch)
    yield lab
    lab.end()
