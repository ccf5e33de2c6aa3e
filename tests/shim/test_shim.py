"""The shim itself, with a stand-in for the launch helper."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from orlop.shim.state import read_state

if TYPE_CHECKING:
    from conftest import Lab

HOLD = "read -r go; "  # waits for a line on stdin, so that a client can attach before anything happens


def entries(lab: Lab) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lab.log.read_bytes().splitlines()]


def test_records_output_and_exit_status(lab: Lab) -> None:
    shim = lab.start("echo out; echo err >&2; exit 7")
    ended = lab.exit()
    assert (ended.status, ended.signal, ended.oom) == (7, 0, False)
    assert {(entry["log"], entry["stream"]) for entry in entries(lab)} == {("out\n", "stdout"), ("err\n", "stderr")}
    lab.until(lambda: lab.gone(shim))
    assert read_state(shim.directory).reality == "stopped"
    assert not (shim.directory / "shim.sock").exists()


def test_client_receives_output_then_exit(lab: Lab) -> None:
    shim = lab.start(HOLD + "echo out; echo err >&2; exit 3", stdin=True)
    with lab.client() as client:
        client.attach(stdin=True)
        client.send_stdin(b"go\n")
        out, err, ended = lab.read_all(client)
    assert (out, err) == (b"out\n", b"err\n")
    assert ended is not None
    assert ended.status == 3
    lab.until(lambda: lab.gone(shim))


@pytest.mark.parametrize("number", [9, 15, 6])
def test_signal_ends_the_process(lab: Lab, number: int) -> None:
    lab.start("exec sleep 60")
    with lab.client() as client:
        client.signal(number)
        ended = client.wait(10)
    assert ended is not None
    assert (ended.status, ended.signal) == (128 + number, number)


def test_wait_gives_up_after_its_time(lab: Lab) -> None:
    lab.start("exec sleep 60")
    with lab.client() as client:
        assert client.wait(0.05) is None
        client.signal(9)
        assert client.wait(10) is not None
