"""Redis, nginx and Debian, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.harness import Orlop, free_port, wait_for


@pytest.mark.usefixtures("every_image")
def test_redis_answers_logs_follow_and_stop_saves(orlop: Orlop) -> None:
    orlop("run", "-d", "--name", "cache", "redis")
    wait_for(lambda: orlop("exec", "cache", "redis-cli", "ping", code=None).stdout == "PONG\n", "redis")
    assert orlop.out("exec", "cache", "redis-cli", "set", "answer", "42") == "OK"
    follower = subprocess.Popen(orlop.command("logs", "-f", "cache"), stdout=subprocess.PIPE, text=True)
    orlop("stop", "cache")
    output, _ = follower.communicate(timeout=10)
    assert "Ready to accept connections" in output
    assert "DB saved on disk" in output
    assert orlop.out("wait", "cache") == "0"
    assert json.loads(orlop.out("inspect", "cache"))[0]["State"]["Status"] == "exited"
    orlop("start", "cache")
    wait_for(
        lambda: orlop("exec", "cache", "redis-cli", "get", "answer", code=None).stdout == "42\n", "the saved answer"
    )


@pytest.mark.usefixtures("every_image")
def test_nginx_answers_host_and_containers(orlop: Orlop) -> None:
    port = free_port()
    orlop("run", "-d", "--name", "web", "-p", f"{port}:80", "nginx")
    url = f"http://127.0.0.1:{port}/"

    def answers() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                return reply.status == 200 and b"It works" in reply.read()
        except OSError:
            return False

    wait_for(answers, "an answer through the published port")
    address = orlop.out("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web")
    assert "It works" in orlop.out("run", "--rm", "busybox", "wget", "-qO-", f"http://{address}/")
    gateway = orlop.out("inspect", "-f", "{{.NetworkSettings.Gateway}}", "web")
    assert "It works" in orlop.out("run", "--rm", "busybox", "wget", "-qO-", f"http://{gateway}:{port}/")  # hairpin
    assert orlop.out("port", "web", "80").splitlines()[0] == f"0.0.0.0:{port}"
    orlop("rm", "-f", "web")
    assert not answers()


def test_a_hundred_containers_eight_at_a_time(orlop: Orlop) -> None:
    def one(number: int) -> tuple[int, int]:
        code = number % 7
        name = f"many-{number}"
        ran = orlop(
            "run",
            "--name",
            name,
            "--network",
            "none" if number % 2 else "bridge",
            "busybox",
            "sh",
            "-c",
            f"exit {code}",
            code=None,
            timeout=120,
        )
        orlop("rm", name, timeout=120)
        return code, ran.returncode

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, range(100)))
    assert [want for want, _ in results] == [got for _, got in results]
    assert orlop.out("ps", "-aq") == ""
