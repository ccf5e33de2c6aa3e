"""Readiness: what a container says to $NOTIFY_SOCKET reaches the host's, and nothing else of it."""

from __future__ import annotations

import array
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.runtime.test_runtime_cli import SOURCE, Lab, lab  # noqa: F401

from orlop.runtime.notify import NotifySocket, ready_line
from orlop.spec.errors import InvalidArgument

# a program without dependencies that sends one datagram to $NOTIFY_SOCKET
SEND = r"""
#include <errno.h>
#include <string.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/socket.h>
#include <sys/un.h>
int main(int argc, char **argv) {
  struct sockaddr_un u = {.sun_family = AF_UNIX};
  int s = socket(AF_UNIX, SOCK_DGRAM, 0);
  strcpy(u.sun_path, getenv("NOTIFY_SOCKET"));
  for (int i = 1; i < argc - 1; i++) /* once it was ready, nobody need be there for what else it says */
    if (sendto(s, argv[i], strlen(argv[i]), 0, (void *)&u, sizeof u) < 0 && (i < 2 || errno != ECONNREFUSED)) return 1;
  sleep(atoi(argv[argc - 1]));
  return 0;
}
"""


@pytest.mark.parametrize(
    ("message", "line"),
    [(b"READY=1", b"READY=1"), (b"STATUS=x\nREADY=1\nMAINPID=1", b"READY=1"), (b"STATUS=READY=1", b""), (b"", b"")],
)
def test_only_the_line_that_says_ready_counts(message: bytes, line: bytes) -> None:
    assert ready_line(message) == line


@pytest.mark.parametrize("name", ["notify", "vsock:2:1", "/a\0b"])
def test_other_addresses_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="neither a path nor an abstract socket"):
        NotifySocket(name)


@pytest.fixture(scope="module")
def send(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("send")
    (directory / "send.c").write_text(SEND)
    words = ["cc", "-static", "-o", str(directory / "send"), str(directory / "send.c")]
    subprocess.run(words, check=True, capture_output=True)
    return directory / "send"


class Host:
    """The host's side: keeps what it hears, and closes descriptors that come with it as systemd does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(30)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while (not self.heard) or self.heard[-1] != b"end":
            fds = array.array("i")
            data, ancillary, _, _ = self._socket.recvmsg(4096, 64)
            for _, _, raw in ancillary:
                fds.frombytes(raw)
            self.heard.append(data)
            for fd in fds:
                os.close(fd)

    def end(self) -> list[bytes]:
        if not self._thread.is_alive():
            return self.heard[:-1]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.sendto(b"end", str(self.path))
        self._thread.join(30)
        self._socket.close()
        return self.heard[:-1]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    found = Host(tmp_path / "host.sock")
    yield found
    found.end()


def prepare(lab: Lab, send: Path, *messages: str, seconds: str = "1") -> None:  # noqa: F811
    (lab.rootfs / "send").write_bytes(send.read_bytes())
    (lab.rootfs / "send").chmod(0o755)
    lab.configure("/send", *messages, seconds)


@pytest.mark.root
def test_detached_run_returns_when_the_program_is_ready(lab: Lab, send: Path, host: Host) -> None:  # noqa: F811
    prepare(lab, send, "STATUS=begins", "STATUS=goes on\nREADY=1\nMAINPID=1", "READY=1", seconds="1000")
    lab("run", "-d", "--notify-socket", str(host.path), "-b", str(lab.bundle), lab.id())
    pid = lab.state()["pid"]
    assert host.end() == [b"READY=1\n", b"MAINPID=%d\n" % pid, b"BARRIER=1"]


@pytest.mark.root
def test_start_tells_of_what_create_has_made(lab: Lab, send: Path, host: Host) -> None:  # noqa: F811
    prepare(lab, send, "READY=1", seconds="1000")
    told = {"NOTIFY_SOCKET": str(host.path)}
    lab("create", "-b", str(lab.bundle), lab.id(), env=told)
    lab("start", lab.id(), env=told)
    assert host.end() == [b"READY=1\n", b"MAINPID=%d\n" % lab.state()["pid"], b"BARRIER=1"]


@pytest.mark.root
def test_in_the_foreground_the_runtime_stands_for_the_container(lab: Lab, send: Path, host: Host) -> None:  # noqa: F811
    prepare(lab, send, "READY=1")
    words = lab.command("run", "-b", str(lab.bundle), lab.id())
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "NOTIFY_SOCKET": str(host.path)}
    with subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL) as running:
        assert running.wait(30) == 0
    assert host.end() == [b"READY=1\n", b"MAINPID=%d\n" % running.pid]


@pytest.mark.root
def test_a_program_that_never_says_so_is_not_waited_for_beyond_its_end(lab: Lab, send: Path, host: Host) -> None:  # noqa: F811
    prepare(lab, send, "STATUS=hm")
    lab("run", "-d", "-b", str(lab.bundle), lab.id(), env={"NOTIFY_SOCKET": str(host.path)})
    assert host.end() == []
    assert lab.state()["status"] == "stopped"


@pytest.mark.root
def test_a_container_made_without_a_socket_can_not_be_started_with_one(lab: Lab, host: Host) -> None:  # noqa: F811
    lab.configure("sleep", "1000")
    lab("create", "-b", str(lab.bundle), lab.id())
    done = lab("start", "--notify-socket", str(host.path), lab.id(), ok=False)
    assert done.stderr == "orlop-runtime: --notify-socket: the container was created without one\n"
    assert lab.state()["status"] == "created"
    host.end()


@pytest.mark.root
def test_a_host_that_is_not_there_is_a_warning(lab: Lab, send: Path, tmp_path: Path) -> None:  # noqa: F811
    prepare(lab, send, "READY=1", seconds="1000")
    done = lab("run", "-d", "-b", str(lab.bundle), lab.id(), env={"NOTIFY_SOCKET": str(tmp_path / "none")})
    assert "warning: --notify-socket: tell the host: no such file or directory" in done.stderr
