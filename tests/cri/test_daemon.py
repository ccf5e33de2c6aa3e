"""The daemon as a process: its sockets, signals, metrics and traces."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.harness import SLOWER

from orlop._stubs.cri import api_pb2 as api
from orlop.registry.server import Registry
from orlop.spec import trace

from .conftest import Client, Daemon, container_config, pod_config, take_away, wait_for

pytestmark = [pytest.mark.root]


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    base = Path("/dev/shm") / f"orlop-daemon-{os.getpid()}"
    base.mkdir()
    found = Daemon(base)
    try:
        yield found
    finally:
        if found.process is not None:
            found.end()
        said = found.log.read_text() if found.log.exists() else ""
        take_away(base)
    assert "Traceback" not in said, said


def test_metrics_count_calls_and_pods(daemon: Daemon) -> None:
    daemon.configure('[metrics]\naddress = "127.0.0.1:0"')
    client = daemon.start()
    pod = client.RunPodSandbox(config=pod_config()).pod_sandbox_id
    address = daemon.log.read_text().split("serving metrics on ")[1].split()[0]
    text = urllib.request.urlopen(address, timeout=10).read().decode()
    assert 'orlop_cri_calls_total{method="RunPodSandbox",code="OK"} 1' in text
    assert 'orlop_cri_call_duration_seconds_bucket{method="RunPodSandbox",le="+Inf"} 1' in text
    assert 'orlop_pods{state="running"} 1' in text
    assert "process_resident_memory_bytes " in text
    client.RemovePodSandbox(pod_sandbox_id=pod)


def test_traces_lead_from_the_call_to_system_calls(daemon: Daemon) -> None:
    received: list[dict[str, Any]] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Receiver) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        daemon.configure(f'[tracing]\nendpoint = "http://127.0.0.1:{collector.server_port}"')
        client = daemon.start()
        pod = client.RunPodSandbox(config=pod_config()).pod_sandbox_id
        client.RemovePodSandbox(pod_sandbox_id=pod)
        daemon.end()
        collector.shutdown()
    spans = [s for r in received for e in r["resourceSpans"] for scope in e["scopeSpans"] for s in scope["spans"]]
    root = next(span for span in spans if span["name"] == "RunPodSandbox")
    children = [span for span in spans if span.get("parentSpanId") == root["spanId"]]
    assert {span["traceId"] for span in children} == {root["traceId"]}
    assert {"start.files", "start.running"} <= {span["name"] for span in children}
    assert any("clone" in json.dumps(span).lower() for span in children if span["name"].startswith("launch "))


def test_the_environment_names_the_store_where_no_flag_does(daemon: Daemon) -> None:
    elsewhere = daemon.base / "elsewhere"
    words = [
        "serve",
        "--config",
        daemon.config,
        "--cri-socket",
        daemon.socket,
        "--socket",
        daemon.base / "runtime.sock",
    ]
    environment = os.environ | {"ORLOP_ROOT": str(elsewhere / "root"), "ORLOP_STATE": str(elsewhere / "state")}
    with daemon.log.open("ab") as log:
        daemon.process = subprocess.Popen([sys.executable, "-m", "orlop", *words], stderr=log, env=environment)
    client = Client(daemon.socket)
    grpc.channel_ready_future(client.channel).result(30 * SLOWER)
    assert client.Version().runtime_name == "orlop"
    assert (elsewhere / "root" / "orlop.db").exists()
    assert (elsewhere / "state").is_dir()
    assert not daemon.root.exists()


@pytest.mark.peers
def test_a_daemon_whose_caller_keeps_all_from_others(daemon: Daemon, source: Registry) -> None:
    """With umask 077 what it makes for containers is all the same to be had by their users."""
    daemon.under = ("sh", "-c", 'umask 077; exec "$@"', "sh")
    client = daemon.start()
    image = client.PullImage(image=api.ImageSpec(image=f"{source.address}/lab/busybox:1")).image_ref
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    someone = api.LinuxContainerConfig(
        security_context=api.LinuxContainerSecurityContext(run_as_user=api.Int64Value(value=1000))
    )
    wanted = container_config(image, "sleep", "1000", linux=someone)
    container = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
    client.StartContainer(container_id=container)
    words = ["sh", "-c", "cat /etc/hosts /etc/hostname /etc/resolv.conf >/dev/null && touch /dev/shm/x && id -u"]
    answer = client.ExecSync(container_id=container, cmd=words)
    assert (answer.stdout, answer.stderr) == (b"1000\n", b"")
    client.RemovePodSandbox(pod_sandbox_id=pod)


def test_a_wrong_reload_changes_nothing_and_a_right_one_does(daemon: Daemon) -> None:
    client = daemon.start()
    assert daemon.process is not None
    daemon.configure("[cri.handlers.x]\npaht = 1")
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "was not read again" in daemon.log.read_text(), "the complaint")
    daemon.configure('[cri.handlers.x]\npath = "/bin/true"\n[daemon]\nworkers = 5')
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "needs a restart to take effect: daemon.workers" in daemon.log.read_text(), "the reload")
    assert "x" in {handler.name for handler in client.Status().runtime_handlers}


@pytest.mark.peers
def test_other_directories_of_mirrors_are_in_force_from_a_reload_on(daemon: Daemon, source: Registry) -> None:
    """Also for pulls with the client that earlier ones have made."""
    mirrored = daemon.base / "certs.d" / "127.0.0.1:1"
    mirrored.mkdir(parents=True)
    (mirrored / "hosts.toml").write_text(f'[host."http://{source.address}"]\ncapabilities = ["pull", "resolve"]\n')
    daemon.configure("", cri=f'certs = ["{daemon.base}/none"]')
    client = daemon.start()
    image = api.ImageSpec(image="127.0.0.1:1/lab/busybox:1")
    client.PullImage(image=api.ImageSpec(image=f"{source.address}/lab/busybox:1"))
    with pytest.raises(grpc.RpcError, match="refused"):
        client.PullImage(image=image)
    daemon.configure("", cri=f'certs = ["{daemon.base}/certs.d"]')
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "read the configuration again: cri.certs" in daemon.log.read_text(), "the reload")
    client.PullImage(image=image)
    assert "needs a restart" not in daemon.log.read_text()


def test_it_is_told_what_takes_effect_when(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    words = [sys.executable, "-m", "orlop", "config", "explain", "--config", str(tmp_path / "config.toml")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    told = dict(line.split(" = ", 1) for line in done.stdout.splitlines() if " = " in line)
    assert told["cri.certs"].endswith("(default; a change takes effect on SIGHUP)")
    assert told["daemon.workers"].endswith("(default; a change takes effect with a restart)")


def test_a_socket_of_the_service_manager_outlives_the_daemon(daemon: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(daemon.socket))
        listener.listen()
        for _ in range(2):
            _serve_on(daemon, listener.fileno())
            client = Client(daemon.socket)  # who connects before the daemon is ready waits for it
            assert client.Version(within=30).runtime_name == "orlop"
            pod = client.RunPodSandbox(config=pod_config()).pod_sandbox_id
            client.RemovePodSandbox(pod_sandbox_id=pod)
            client.channel.close()
            daemon.end()
            assert daemon.socket.exists()


def _serve_on(daemon: Daemon, fd: int) -> None:
    """Start the daemon as a service manager does, with the descriptor as its third."""
    words = [sys.executable, "-m", "orlop", "--root", daemon.root, "--state", daemon.state, "serve"]
    words += ["--config", daemon.config, "--cri-socket", daemon.socket, "--socket", daemon.base / "runtime.sock"]
    script = f'exec 3<&{fd}; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
    with daemon.log.open("ab") as log:
        daemon.process = subprocess.Popen(["bash", "-c", script, "bash", *words], pass_fds=[fd], stderr=log)


def test_traceparent() -> None:
    assert trace.traceparent(f"00-{'a' * 32}-{'b' * 16}-01") == (int("a" * 32, 16), int("b" * 16, 16), True)
    for wrong in ("", "00-0-0-01", f"00-{'0' * 32}-{'b' * 16}-01", f"ff-{'a' * 32}-{'b' * 16}-01"):
        assert trace.traceparent(wrong) is None
