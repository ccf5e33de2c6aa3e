"""The real crictl, as somebody types it who has just installed it."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.harness import Terminal, free_port, wait_for

from .conftest import Daemon

pytestmark = [
    pytest.mark.root,
    pytest.mark.peers,
    pytest.mark.skipif(shutil.which("crictl") is None, reason="crictl is not installed"),
]


class Crictl:
    def __init__(self, daemon: Daemon, directory: Path) -> None:
        self.directory = directory
        config = directory / "crictl.yaml"
        config.write_text(f"runtime-endpoint: unix://{daemon.socket}\nimage-endpoint: unix://{daemon.socket}\n")
        self.prefix = [str(shutil.which("crictl")), "--config", str(config), "--timeout", "20s"]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.prefix, *words], capture_output=True, text=True, timeout=60, check=False)

    def __call__(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.rstrip("\n")

    def json(self, *words: str) -> Any:
        return json.loads(self(words[0], "-o", "json", *words[1:]))

    def rows(self, *words: str) -> list[list[str]]:
        """A table's lines in words, without the heading."""
        return [line.split() for line in self(*words).splitlines()[1:]]

    def file(self, name: str, content: dict[str, Any]) -> str:
        path = self.directory / name
        path.write_text(json.dumps(content))
        return str(path)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*self.prefix, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture
def crictl(daemon: Daemon, tmp_path: Path) -> Crictl:
    return Crictl(daemon, tmp_path)


@pytest.fixture
def made(crictl: Crictl, registry: str, tmp_path: Path) -> Any:
    """A pod with a container that runs: their IDs, and the image's name."""
    image = f"{registry}/lab/busybox:1"
    crictl("pull", image)
    labels = {"io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "default"}
    pod = crictl.file(
        "pod.json",
        {
            "metadata": {"name": "web", "namespace": "default", "uid": "u1"},
            "hostname": "web",
            "log_directory": str(tmp_path),
            "labels": labels,
            "linux": {},
        },
    )
    container = crictl.file(
        "container.json",
        {
            "metadata": {"name": "main"},
            "image": {"image": image},
            "command": ["sh", "-c", "echo started; exec httpd -f -p 80 -h /www"],
            "log_path": "main.log",
            "labels": labels,
            "linux": {},
        },
    )
    sandbox = crictl("runp", pod)
    try:
        identifier = crictl("create", sandbox, container, pod)
        assert crictl("start", identifier) == identifier
        wait_for(lambda: crictl("logs", identifier), "the first line")
        yield sandbox, identifier, image
    finally:
        crictl.run("rmp", "-f", sandbox)


def until(condition: Callable[[], bool], what: str) -> None:
    wait_for(condition, what, 20)


def test_images(crictl: Crictl, registry: str) -> None:
    image = f"{registry}/lab/busybox:1"
    identifier = crictl("pull", image).rpartition(" ")[2]
    assert identifier.startswith("sha256:")
    name, tag, short, _ = next(row for row in crictl.rows("images") if row[0].endswith("lab/busybox"))
    assert (name, tag) == (image.rpartition(":")[0], "1")
    assert identifier.removeprefix("sha256:").startswith(short)
    assert identifier in crictl("images", "-q").splitlines()
    assert image in crictl.json("inspecti", image)["status"]["repoTags"]
    room = crictl.json("imagefsinfo")["status"]
    assert int(room["imageFilesystems"][0]["usedBytes"]["value"]) > 1_000_000
    assert image in crictl("rmi", image)
    assert crictl.run("inspecti", image).returncode != 0
    assert not [row for row in crictl.rows("images") if row[0].endswith("lab/busybox")]


def test_an_image_that_there_is_not(crictl: Crictl, registry: str) -> None:
    done = crictl.run("pull", f"{registry}/lab/missing:1")
    assert done.returncode != 0
    assert "lab/missing" in done.stderr


def test_lists(crictl: Crictl, made: tuple[str, str, str]) -> None:
    sandbox, identifier, _ = made
    row = next(row for row in crictl.rows("ps", "-a") if row[0] == identifier[:13])
    assert "Running" in row
    assert row[-3:] == [sandbox[:13], "web", "default"]
    row = next(row for row in crictl.rows("pods") if row[0] == sandbox[:13])
    assert [word for word in row if word in ("Ready", "web", "default")] == ["Ready", "web", "default"]
    assert crictl("ps", "-q", "--name", "main", "--pod", sandbox) == identifier
    assert crictl("pods", "-q", "--name", "web", "--state", "ready") == sandbox


def test_status(crictl: Crictl, made: tuple[str, str, str]) -> None:
    sandbox, identifier, image = made
    found = crictl.json("inspect", identifier)
    assert found["status"]["state"] == "CONTAINER_RUNNING"
    assert found["status"]["image"]["image"] == image
    assert Path(f"/proc/{found['info']['pid']}/comm").read_text() == "httpd\n"
    found = crictl.json("inspectp", sandbox)
    assert found["status"]["state"] == "SANDBOX_READY"
    assert found["status"]["network"]["ip"]
    assert found["info"]["runtimeSpec"]["ociVersion"]


def test_exec_and_logs(crictl: Crictl, made: tuple[str, str, str]) -> None:
    identifier = made[1]
    assert crictl("logs", identifier) == "started"
    assert "bin" in crictl("exec", identifier, "ls", "/").split()
    assert crictl("exec", "-s", identifier, "hostname") == "web"
    assert crictl.run("exec", identifier, "sh", "-c", "exit 3").returncode != 0
    terminal = Terminal([*crictl.prefix, "exec", "-it", identifier, "sh"])
    try:
        terminal.type("tty; echo a$((1+1))b\n")
        terminal.expect("/dev/pts/")
        terminal.expect("a2b")
        terminal.type("exit\n")
        assert terminal.wait() == 0
    finally:
        terminal.close()


@pytest.mark.parametrize("transport", ["spdy", "websocket"])
def test_port_forward(crictl: Crictl, made: tuple[str, str, str], transport: str) -> None:
    port = free_port()
    process = crictl.start("port-forward", "--transport", transport, made[0], f"{port}:80")
    try:

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    return bool(answer.read() == b"hello\n")
            except OSError:
                return False

        until(answers, "the port")
    finally:
        process.terminate()
        process.communicate(timeout=10)


def test_numbers(crictl: Crictl, made: tuple[str, str, str]) -> None:
    sandbox, identifier, _ = made
    row = next(row for row in crictl.rows("stats") if row[0] == identifier[:13])
    assert row[1] == "main"
    row = next(row for row in crictl.rows("statsp") if row[0] == "web" or row[0] == sandbox[:13])
    assert "web" in row
    assert sandbox in crictl("metricsp")
    assert "container_memory_working_set_bytes" in crictl("metricdescs")


def test_limits(crictl: Crictl, made: tuple[str, str, str]) -> None:
    identifier = made[1]
    crictl("update", "--memory", str(64 << 20), identifier)
    resources = crictl.json("inspect", identifier)["status"]["resources"]["linux"]
    assert int(resources["memoryLimitInBytes"]) == 64 << 20


def test_the_runtime(crictl: Crictl) -> None:
    conditions = crictl.json("info")["status"]["conditions"]
    assert {item["type"]: item["status"] for item in conditions} == {"RuntimeReady": True, "NetworkReady": True}
    assert "orlop" in crictl("version")
    assert "cgroup" in crictl("runtime-config").lower()


def test_events(crictl: Crictl, made: tuple[str, str, str], tmp_path: Path) -> None:
    sandbox = {"metadata": {"name": "other", "namespace": "default", "uid": "u2"}, "linux": {}}
    other = crictl.file("other.json", sandbox)
    told = tmp_path / "events"
    with told.open("w") as output:
        process = subprocess.Popen([*crictl.prefix, "events"], stdout=output, stderr=subprocess.STDOUT)
    try:

        def listens() -> bool:
            crictl("rmp", "-f", crictl("runp", other))
            return bool(told.read_text())

        until(listens, "crictl to listen")
        crictl("stop", "-t", "0", made[1])
        until(lambda: "CONTAINER_STOPPED_EVENT" in told.read_text().partition(made[1])[2], "the event")
    finally:
        process.terminate()
        process.wait(10)


def test_the_end(crictl: Crictl, made: tuple[str, str, str]) -> None:
    sandbox, identifier, _ = made
    assert crictl("stopp", sandbox) == f"Stopped sandbox {sandbox}"
    assert crictl.json("inspect", identifier)["status"]["state"] == "CONTAINER_EXITED"
    assert crictl("ps", "-q") == ""
    assert crictl("ps", "-aq") == identifier
    assert crictl("rmp", sandbox) == f"Removed sandbox {sandbox}"
    assert crictl("ps", "-aq") == crictl("pods", "-q") == ""
