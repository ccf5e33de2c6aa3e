"""Commands on containers that are there: exec, logs, attach, pause, top, wait, stop and the rest."""

from __future__ import annotations

import json
import re
import signal
import time

import pytest
from tests.harness import SLOWER, Orlop, descriptors, wait_for

NONE = ("--network", "none")


@pytest.fixture
def box(orlop: Orlop) -> str:
    """A container that sleeps; its ID."""
    return orlop.out("run", "-d", "--name", "box", *NONE, "-e", "MINE=1", "busybox", "sleep", "1000")


# --- exec


def test_exec_variants(orlop: Orlop, box: str) -> None:
    assert orlop("exec", "-i", "box", "cat", stdin="some input\n").stdout == "some input\n"
    assert orlop("exec", "box", "cat", stdin="not passed").stdout == ""
    assert orlop.out("exec", "-u", "app", "box", "id", "-u") == "1000"
    assert orlop.out("exec", "-w", "/tmp", "box", "sh", "-c", "pwd") == "/tmp"
    assert orlop.out("exec", "-e", "YOURS=2", "box", "sh", "-c", "echo $MINE$YOURS") == "12"
    done = orlop("exec", "box", "sh", "-c", "echo out; echo err >&2; exit 9", code=9)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert orlop("exec", box[:12], "true").stdout == ""


def test_exec_failures(orlop: Orlop, box: str) -> None:
    assert "not found" in orlop.refused("exec", "box", "no-such-command", code=127)
    assert "permission denied" in orlop.refused("exec", "box", "/etc/passwd", code=126).lower()
    assert orlop("exec", "box", "sh", "-c", "kill -9 $$", code=137).stderr == ""
    orlop.refused("exec", "-u", "nobodyelse", "box", "true", code=126)
    orlop("pause", "box")
    assert "paused" in orlop.refused("exec", "box", "true", code=1)
    orlop("unpause", "box")
    orlop("stop", "-t", "0", "box")
    assert "not running" in orlop.refused("exec", "box", "true", code=1)


def test_detached_exec_lives_in_the_container(orlop: Orlop, box: str) -> None:
    assert orlop("exec", "-d", "box", "sh", "-c", "sleep 0.2; echo late > /tmp/late; sleep 777").stdout == ""
    wait_for(lambda: orlop("exec", "box", "cat", "/tmp/late", code=None).stdout == "late\n", "the detached process")
    assert "sleep 777" in orlop("top", "box").stdout


def test_exec_is_confined_as_the_container_is(orlop: Orlop, box: str) -> None:
    script = "grep -E 'Seccomp:|CapEff|CapBnd' /proc/self/status; cat /proc/self/cgroup"
    out = orlop.out("exec", "box", "sh", "-c", script)
    assert "Seccomp:\t2" in out
    assert out.count("00000000a80425fb") == 2
    assert re.search(r"memory:/$|^0::/$", out, re.M)
    privileged = orlop.out("exec", "--privileged", "box", "grep", "CapEff", "/proc/self/status")
    assert int(privileged.split()[1], 16) > 0xA80425FB


# --- logs


def test_logs_selects(orlop: Orlop) -> None:
    orlop("run", "--name", "talk", *NONE, "busybox", "sh", "-c", "seq 1 20; echo error >&2")
    assert orlop("logs", "--tail", "2", "talk").stdout.split()[-1] == "20"
    both = orlop("logs", "talk")
    assert (both.stdout.split(), both.stderr) == ([str(n) for n in range(1, 21)], "error\n")
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z 20$", orlop("logs", "-t", "talk").stdout.splitlines()[-1])
    assert orlop("logs", "--since", "2100-01-01T00:00:00Z", "talk").stdout == ""


def test_logs_follow_until_the_end(orlop: Orlop) -> None:
    orlop("run", "-d", "--name", "talk", *NONE, "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done")
    assert orlop("logs", "-f", "talk", timeout=20).stdout == "1\n2\n3\n"


def test_logs_are_rotated(orlop: Orlop) -> None:
    options = ("--log-opt", "max-size=20k", "--log-opt", "max-file=3")
    identifier = orlop.out("run", "-d", "--name", "talk", *options, *NONE, "busybox", "seq", "1", "3000")
    assert orlop.out("wait", "talk") == "0"
    files = sorted((orlop.root / "containers" / identifier).glob("log.json*"))
    assert [file.name for file in files] == ["log.json", "log.json.1", "log.json.2"]
    assert all(file.stat().st_size <= 20480 for file in files)
    lines = orlop.out("logs", "talk").split()
    assert lines == [str(n) for n in range(3001 - len(lines), 3001)]
    assert len(lines) > 500


def test_no_log_with_driver_none(orlop: Orlop) -> None:
    orlop("run", "--name", "mute", "--log-driver", "none", *NONE, "busybox", "echo", "x")
    assert orlop.refused("logs", "mute", code=1)


# --- attach


def test_attach_passes_streams_and_exit_code(orlop: Orlop) -> None:
    orlop("run", "-d", "-i", "--name", "talk", *NONE, "busybox", "sh", "-c", "read line; echo got $line; exit 3")
    done = orlop("attach", "talk", stdin="something\n", code=3)
    assert done.stdout == "got something\n"


def test_two_attached_see_the_same(orlop: Orlop) -> None:
    orlop("run", "-d", "-i", "--name", "talk", *NONE, "busybox", "sh", "-c", "read line; echo for all; sleep 0.1")
    first = orlop.start("attach", "--no-stdin", "talk")
    wait_for(lambda: orlop.attached("talk") == 1, "the first")
    assert "for all" in orlop("attach", "talk", stdin="go\n").stdout
    assert first.communicate(timeout=10)[0] == "for all\n"


def test_start_attached(orlop: Orlop) -> None:
    orlop("create", "--name", "talk", *NONE, "busybox", "sh", "-c", "echo again; exit 5")
    for _ in range(2):
        assert orlop("start", "-a", "talk", code=5).stdout == "again\n"
    assert orlop("start", "talk").stdout == "talk\n"


# --- life


def test_pause_stops_and_unpause_goes_on(orlop: Orlop) -> None:
    orlop("run", "-d", "--name", "count", *NONE, "busybox", "sh", "-c", "while :; do echo x; sleep 0.05; done")
    wait_for(lambda: orlop("logs", "count").stdout, "output")
    orlop("pause", "count")
    assert "(Paused)" in orlop.out("ps")

    def stands() -> bool:  # what it wrote just before may come to the log a moment later
        nonlocal before
        before = orlop("logs", "count").stdout
        time.sleep(0.3)
        return bool(orlop("logs", "count").stdout == before)

    before = ""
    wait_for(stands, "the log to end")
    assert "already paused" in orlop.refused("pause", "count", code=1)
    orlop("unpause", "count")
    wait_for(lambda: orlop("logs", "count").stdout != before, "more output")
    orlop("pause", "count")
    orlop("rm", "-f", "count")


def test_stop_asks_first_and_kills_late(orlop: Orlop) -> None:
    script = "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    orlop("run", "-d", "--name", "kind", *NONE, "busybox", "sh", "-c", script)
    wait_for(lambda: orlop.out("logs", "kind") == "up", "the trap")
    orlop("run", "-d", "--name", "deaf", *NONE, "busybox", "sleep", "1000")
    orlop("stop", "kind")
    assert orlop.state_of("kind")["ExitCode"] == 0
    assert orlop.out("logs", "kind") == "up\nasked"
    started = time.monotonic()
    orlop("stop", "-t", "1", "deaf")
    assert 1 <= time.monotonic() - started < 9 * SLOWER  # ten seconds where nothing is said
    assert orlop.state_of("deaf")["ExitCode"] == 137
    orlop("stop", "deaf")  # once more is no error
    orlop("start", "deaf")
    orlop("restart", "-t", "0", "deaf")
    assert orlop.state_of("deaf")["Running"] is True


def test_stop_signal(orlop: Orlop) -> None:
    script = "trap 'echo usr1; exit 0' USR1; echo up; while :; do sleep 0.05; done"
    orlop("run", "-d", "--name", "kind", "--stop-signal", "USR1", *NONE, "busybox", "sh", "-c", script)
    wait_for(lambda: orlop.out("logs", "kind") == "up", "the trap")
    orlop("stop", "kind")
    assert orlop.out("logs", "kind") == "up\nusr1"


def test_wait_prints_the_codes(orlop: Orlop) -> None:
    orlop("run", "-d", "--name", "three", *NONE, "busybox", "sh", "-c", "sleep 0.3; exit 3")
    orlop("run", "-d", "--name", "four", *NONE, "busybox", "sh", "-c", "sleep 0.1; exit 4")
    assert orlop.out("wait", "three", "four") == "3\n4"
    assert orlop.out("wait", "three") == "3"


def test_waiting_command_sees_a_removal(orlop: Orlop, box: str) -> None:
    waiting = orlop.start("wait", "box")
    wait_for(lambda: any("socket:" in each for each in descriptors(waiting.pid)), "it to ask the shim")
    orlop("rm", "-f", "box")
    out, _ = waiting.communicate(timeout=10)
    assert out == "137\n"


def test_top_shows_the_processes(orlop: Orlop, box: str) -> None:
    lines = orlop.out("top", "box").splitlines()
    assert lines[0].split()[:2] == ["UID", "PID"]
    assert lines[1].endswith("sleep 1000")
    assert len(lines) == 2


def test_ps_columns_and_filters(orlop: Orlop, box: str) -> None:
    orlop("create", "--name", "new", "busybox")
    lines = orlop.out("ps").splitlines()
    assert re.split(r"  +", lines[0]) == ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert lines[1].startswith(box[:12])
    assert len(lines) == 2
    assert orlop.out("ps", "-a", "--format", "{{.Names}} {{.State}}").splitlines() == ["new created", "box running"]
    assert orlop.out("ps", "-aq", "--no-trunc", "-f", "name=box") == box
    rows = [json.loads(line) for line in orlop.out("ps", "-a", "--format", "json").splitlines()]
    assert {row["Names"] for row in rows} == {"new", "box"}


def test_rename_frees_the_name(orlop: Orlop, box: str) -> None:
    orlop("rename", "box", "other")
    orlop("create", "--name", "box", "busybox")
    assert "already in use" in orlop.refused("rename", "other", "box", code=1)
    orlop("stop", "-t", "0", "other")


def test_the_beginning_of_an_id_will_do(orlop: Orlop, box: str) -> None:
    assert orlop.out("inspect", "-f", "{{.Id}}", box[:8]) == box
    assert orlop.out("rm", "-f", box[:10]) == box[:10]


def test_interrupted_foreground_command_ends_its_container(orlop: Orlop) -> None:
    script = "trap 'exit 8' INT; echo up; while :; do sleep 0.05; done"
    attached = orlop.start("run", "--rm", *NONE, "busybox", "sh", "-c", script)
    assert attached.stdout is not None
    assert attached.stdout.readline() == "up\n"
    attached.send_signal(signal.SIGINT)
    attached.communicate(timeout=10)
    assert attached.returncode == 8
    assert orlop.out("ps", "-aq") == ""
