"""`orlop serve` as an ordinary user, for the front ends of that user alone; and with it the tests of `test_one_id`."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.daemon.conftest import COLD_STATUS, children
from tests.harness import SLOWER, wait_for
from tests.rootless.conftest import User, a_user
from tests.rootless.ids import COUNT, FIRST, UID
from tests.rootless.test_delegated import subtree, test_v2_a_delegated_subtree_is_used  # noqa: F401
from tests.rootless.test_one_id import *  # noqa: F403 - the tests themselves


class WarmUser(User):
    """Whose commands go to a daemon; the front end's cold program only says its name."""

    socket = ""

    @property
    def front(self) -> Path:
        return self.program / "warm/orlop-runtime"

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | ({"ORLOP_RUNTIME_SOCKET": self.socket} if self.socket else {})

    def command(self, *words: str) -> list[str]:
        return [str(self.front), *words]

    def serve_command(self, *words: str) -> list[str]:
        return self.as_user(os.path.realpath(sys.executable), "-S", "-m", "orlop", "serve", *words)

    def serve(self, *words: str) -> subprocess.Popen[bytes]:
        """A daemon of this user's that is ready."""
        log = self.directory / "log"
        environment = self.environment
        environment.pop("ORLOP_RUNTIME_SOCKET", None)
        with log.open("wb") as stream:
            process = subprocess.Popen(
                self.serve_command(*words), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment
            )
        wait_for(lambda: process.poll() is not None or self("--version", code=None).returncode == 0, "the daemon", 60)
        assert process.poll() is None, log.read_text()
        return process


class Server(WarmUser):
    """One that has a daemon, and no containers."""

    def identifiers(self) -> list[str]:
        return []


@pytest.fixture(scope="module")
def warm_program(program: Path) -> Path:
    """The front end, beside the packages."""
    directory = program / "warm"
    directory.mkdir()
    shutil.copy(program / "orlop/_native/orlop-front", directory / "orlop-runtime")
    cold = directory / "orlop-runtime-cold"
    cold.write_text(f"#!/bin/sh\necho cold: $* >&2\nexit {COLD_STATUS}\n")
    cold.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def daemon(warm_program: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its socket, and the daemon."""
    with a_user(warm_program, Server) as found:
        process = found.serve()
        yield f"{found.runtime_directory}/orlop/runtime.sock", process
        process.send_signal(signal.SIGTERM)
        assert process.wait(20 * SLOWER) == 0
        assert (found.directory / "log").read_text() == ""
        assert os.listdir(found.runtime_directory / "orlop") == []


class _Daemons:
    """The processes of a daemon, whichever they are now."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __contains__(self, pid: object) -> bool:
        return pid == self.pid or pid in children(self.pid)


@pytest.fixture
def user(warm_program: Path, daemon: tuple[str, subprocess.Popen[bytes]]) -> Iterator[WarmUser]:
    with a_user(warm_program, WarmUser, _Daemons(daemon[1].pid)) as found:
        found.socket = daemon[0]
        yield found


# --- who finds which daemon


def test_the_socket_is_the_users_own(user: WarmUser, daemon: tuple[str, subprocess.Popen[bytes]]) -> None:
    found = os.stat(daemon[0])
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, UID)


def test_it_is_found_in_the_runtime_directory_and_nowhere_else(
    user: WarmUser, daemon: tuple[str, subprocess.Popen[bytes]]
) -> None:
    there = os.path.dirname(os.path.dirname(daemon[0]))
    words = user.as_user(*user.command("--version"))
    for directory, code in ((there, 0), (str(user.runtime_directory), COLD_STATUS), ("", COLD_STATUS)):
        environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": directory}
        assert subprocess.run(words, env=environment, capture_output=True, timeout=60 * SLOWER).returncode == code
    environment = {"PATH": os.environ["PATH"]}
    assert subprocess.run(words, env=environment, capture_output=True, timeout=60 * SLOWER).returncode == COLD_STATUS


def _front(user: WarmUser, *become: str, socket: str) -> int:
    """The exit status of the front end for somebody."""
    environment = {"PATH": os.environ["PATH"], "ORLOP_RUNTIME_SOCKET": socket}
    done = subprocess.run(
        [*become, *user.command("--version")], env=environment, capture_output=True, text=True, timeout=60 * SLOWER
    )
    return done.returncode


def test_neither_root_nor_another_user_is_served(user: WarmUser, daemon: tuple[str, subprocess.Popen[bytes]]) -> None:
    """Not even where the socket's mode would let them in."""
    other = ("setpriv", "--reuid", str(UID + 1000), "--regid", str(UID + 1000), "--clear-groups")
    directory = Path(daemon[0]).parents[1]
    places = [(directory, 0o700), (directory / "orlop", 0o711), (Path(daemon[0]), 0o600)]
    try:
        for path, _ in places:
            path.chmod(0o777)
        assert _front(user, socket=daemon[0]) == COLD_STATUS
        assert _front(user, *other, socket=daemon[0]) == COLD_STATUS
        assert _front(user, *user.as_user(), socket=daemon[0]) == 0
    finally:
        for path, mode in places:
            path.chmod(mode)


def test_a_user_does_not_take_roots_daemon(user: WarmUser) -> None:
    """Nor one that somebody has put in its place."""
    path = user.directory / "roots.sock"
    environment = os.environ | {"PYTHONPATH": str(user.program)}
    command = [sys.executable, "-m", "orlop", "serve", "--no-cri", "--socket", str(path)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: path.exists() and _front(user, socket=str(path)) == 0, "root's daemon", 60)
            path.chmod(0o666)
            assert _front(user, *user.as_user(), socket=str(path)) == COLD_STATUS
        finally:
            process.terminate()
            assert process.wait(20 * SLOWER) == 0


def test_a_second_daemon_is_refused(user: WarmUser, daemon: tuple[str, subprocess.Popen[bytes]]) -> None:
    done = _serve(user, "--socket", daemon[0])
    assert done.stderr == f"orlop: a daemon is listening on {daemon[0]} already\n"


def _serve(user: WarmUser, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """A daemon that must not start."""
    done = subprocess.run(
        user.serve_command(*words), env=user.environment | changes, capture_output=True, text=True, timeout=60 * SLOWER
    )
    assert done.returncode == 1, done
    return done


def test_the_runtime_alone_is_served(user: WarmUser) -> None:
    said = _serve(user, "--cri-socket", str(user.directory / "cri.sock")).stderr
    assert said == (
        "orlop: --cri-socket: is where the Container Runtime Interface is served; to users other than root it is not\n"
    )
    said = _serve(user, XDG_RUNTIME_DIR="").stderr
    assert said == "orlop: --socket: is needed where $XDG_RUNTIME_DIR is not set\n"


# --- what it does for them


def test_a_container_is_its_callers_child(user: WarmUser) -> None:
    user.configure("sh", "-c", "echo up; exec sleep 1000")
    words = user.as_user(*user.command("run", user.id()))
    with subprocess.Popen(words, env=user.environment, cwd=user.bundle, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        status = Path(f"/proc/{user.state()['pid']}/status").read_text()
        assert f"PPid:\t{process.pid}\n" in status
        user("kill", user.id(), "KILL")
        assert process.wait(20 * SLOWER) == 137


def test_a_user_with_subordinate_ids_is_served(user: WarmUser) -> None:
    """newuidmap maps the ids of a process that the front end has started. Front end and daemon, here another one, share
    the mount namespace in which this user is known."""
    maps = user.map_subordinate()
    user.subordinate = False
    user.configure("cat", "/proc/self/uid_map", **maps)
    user.subordinate, user.socket, shared = True, "", user.socket
    front, serve = " ".join(user.command()), " ".join(user.serve_command()[-5:])
    script = f"""{serve} & trap 'kill $!; wait $!' EXIT; n=0
until {front} --version >/dev/null 2>&1 || test $n = 300; do n=$((n+1)); sleep 0.1; done
{front} run {user.id()}"""
    out = user.do("sh", "-c", script).stdout.split()
    user.subordinate, user.socket = False, shared
    assert out == f"0 {UID} 1 1 {FIRST} {COUNT}".split()
