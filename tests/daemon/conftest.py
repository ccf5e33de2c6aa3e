"""A daemon of the test's own, and a front end that has nowhere else to go."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness import SLOWER

SOURCE = Path(__file__).parents[2] / "src"
FRONT = SOURCE / "orlop/_native/orlop-front"
COLD_STATUS = 99  # what a front end ends with that had to help itself


def children(pid: int) -> set[int]:
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


class Daemon:
    """`orlop serve` on a socket in `directory`, and the front end beside a cold program that only says its name."""

    def __init__(self, directory: Path, source: Path = SOURCE) -> None:
        directory.mkdir()
        self.source = source
        self.socket = directory / "runtime.sock"
        self.front = directory / "orlop-runtime"
        shutil.copy(FRONT, self.front)
        self.cold = directory / "orlop-runtime-cold"
        self.cold.write_text(f"#!/bin/sh\necho cold: $* >&2\nexit {COLD_STATUS}\n")
        self.cold.chmod(0o755)
        self.log = directory / "log"
        self.process = self.start()

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "ORLOP_RUNTIME_SOCKET": str(self.socket), "PYTHONPATH": str(self.source)}

    def command(self) -> list[str]:
        return [sys.executable, "-m", "orlop", "serve", "--no-cri", "--socket", str(self.socket)]

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(self.source)},
                start_new_session=True,
            )
        deadline = time.monotonic() + 20 * SLOWER
        while not (self.answers() and len(children(process.pid)) == 2):
            assert process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return process

    def answers(self) -> bool:
        return self.socket.exists() and self("--version", ok=None).returncode == 0

    def __call__(self, *words: str, ok: bool | None = True, **more: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(self.front), *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30 * SLOWER,
            **more,  # type: ignore[call-overload]
        )
        assert ok is None or (done.returncode == 0) == ok, done
        return done

    def workers(self) -> set[int]:
        return children(self.process.pid)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10 * SLOWER)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    found = Daemon(tmp_path_factory.mktemp("daemon") / "d")
    yield found
    found.stop()
    assert not found.socket.exists()
    assert found.log.read_text() == ""


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that the test may kill."""
    found = Daemon(tmp_path / "d")
    yield found
    found.stop()
