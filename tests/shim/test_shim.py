"""The shim itself, with a stand-in for the launch helper."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from orlop.shim import logs
from orlop.shim.client import ShimClient
from orlop.shim.spawn import LogFile
from orlop.shim.state import read_state
from orlop.spec.errors import FailedPrecondition, Unavailable
from orlop.sys.procfs import start_time
from orlop.wire import crilog, frames
from orlop.wire.logline import encode_line, parse_time

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


def test_an_end_from_before_the_wait_is_told_though_the_shim_has_left(lab: Lab) -> None:
    shim = lab.start("read -r go; exit 7", stdin=True)
    with lab.client() as client:
        client.end_stdin()
        lab.until(lambda: lab.gone(shim))
        ended = client.wait(10)
    assert ended is not None
    assert ended.status == 7


def test_wait_gives_up_after_its_time(lab: Lab) -> None:
    lab.start("exec sleep 60")
    with lab.client() as client:
        assert client.wait(0.05) is None
        client.signal(9)
        assert client.wait(10) is not None


# --- output and clients


def test_a_hundred_megabytes_come_whole_to_client_and_log(lab: Lab) -> None:
    lab.start(HOLD + "yes 0123456789012345678901234567890123456789012345678 | head -c 100000000", stdin=True)
    with lab.client() as client:
        client.attach(stdin=True)
        client.send_stdin(b"\n")
        out, _, ended = lab.read_all(client)
    assert ended is not None
    assert out == b"0123456789012345678901234567890123456789012345678\n" * 2_000_000
    count = 0
    with lab.log.open("rb") as file:
        for line in file:
            assert line.startswith(b'{"log":"0123456789012345678901234567890123456789012345678\\n","stream":"stdout"')
            count += 1
    assert count == 2_000_000


def test_slow_reader_loses_nothing_and_others_go_on(lab: Lab) -> None:
    lab.start(HOLD + "seq 100000; echo end >&2", stdin=True)
    with lab.client() as slow, lab.client() as fast:
        slow.attach(stdin=True)
        fast.attach()
        slow.send_stdin(b"\n")
        expected = b"".join(b"%d\n" % i for i in range(1, 100001))
        got = bytearray()
        while len(got) < 200_000:  # while the slow one reads nothing
            frame = fast.receive()
            assert frame is not None
            got += frame.payload
        time.sleep(0.2)
        assert read_state(lab.directory / "c").reality == "running"
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(lab.read_all(fast)))
        thread.start()
        out, err, ended = lab.read_all(slow)
        thread.join()
    assert (out, err) == (expected, b"end\n")
    assert bytes(got) + results[0][0] == expected
    assert ended is not None


def test_reader_that_never_reads_delays_neither_status_nor_log(lab: Lab) -> None:
    lab.start(HOLD + "head -c 60000 /dev/zero | tr '\\0' x; echo; echo end", stdin=True)
    with lab.client() as client:
        client.attach(stdin=True)
        client.send_stdin(b"\n")
        assert lab.exit().status == 0
        assert entries(lab)[-1]["log"] == "end\n"
        out, _, ended = lab.read_all(client)  # the shim waits with the rest
    assert out == b"x" * 60000 + b"\nend\n"
    assert ended is not None


def test_client_that_vanishes_unblocks_the_container(lab: Lab) -> None:
    lab.start(HOLD + "seq 200000", stdin=True)
    client = lab.client()
    client.attach(stdin=True)
    client.send_stdin(b"\n")
    time.sleep(0.2)
    assert read_state(lab.directory / "c").exit is None
    client.close()
    assert lab.exit().status == 0
    assert entries(lab)[-1]["log"] == "200000\n"


def test_a_hundred_clients_get_the_same(lab: Lab) -> None:
    lab.start(HOLD + "seq 2000", stdin=True)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(lab.client()) for _ in range(100)]
        for client in clients:
            client.attach(stdin=False)
        assert clients[0].status().clients == 100
        clients[0].send_stdin(b"\n")
        expected = b"".join(b"%d\n" % i for i in range(1, 2001))
        for client in clients:
            out, _, ended = lab.read_all(client)
            assert out == expected
            assert ended is not None


def test_malformed_frames_cost_only_their_sender(lab: Lab) -> None:
    lab.start("exec sleep 60")
    for hostile in (b"\xff" * 64, frames.encode(frames.RESIZE, b"x"), b"\x02\0\0\0\xff\xff\xff\xff", b"\x01"):
        with lab.client() as client:
            client.send(hostile)
    with lab.client() as client:
        with pytest.raises(FailedPrecondition, match="no terminal"):
            client.resize(1, 1)
        with pytest.raises(FailedPrecondition, match="EINVAL"):
            client.signal(4000)
        assert client.status().pid == read_state(lab.directory / "c").pid
        client.signal(9)


def test_random_bytes_never_kill_the_shim(lab: Lab) -> None:
    shim = lab.start("exec sleep 60")
    random = Random(7)
    for _ in range(300):
        with lab.client() as client, contextlib.suppress(Unavailable):
            types = bytes(random.choice((1, 2, 3, 4, 6, 7, 8, 10, 11)) for _ in range(8))
            client.send(b"".join(bytes([t, 0, 0, 0, random.choice((0, 0, 2, 4, 9)), 0, 0, 0]) for t in types))
            client.send(random.randbytes(random.randrange(200)).replace(b"\x05", b"").replace(b"\x09", b""))
    with lab.client() as client:
        assert not client.status().ended
        client.signal(9)
    lab.until(lambda: lab.gone(shim))


# --- standard input


def test_input_ends_when_the_first_client_leaves(lab: Lab) -> None:
    lab.start("wc -c", stdin=True, stdin_once=True)
    with lab.client() as client:
        client.attach(stdin=True)
        client.send_stdin(b"x" * 1000)
    assert lab.exit().status == 0
    assert entries(lab)[0]["log"].strip() == "1000"


def test_input_stays_open_for_the_next_client(lab: Lab) -> None:
    lab.start("read -r a; read -r b; echo $a$b", stdin=True)
    for word in (b"one\n", b"two\n"):
        with lab.client() as client:
            client.attach(stdin=True)
            client.send_stdin(word)
    assert lab.exit().status == 0
    assert entries(lab)[0]["log"] == "onetwo\n"


def test_no_input_is_dev_null(lab: Lab) -> None:
    lab.start("wc -c; readlink /proc/self/fd/0")
    assert lab.exit().status == 0
    assert [entry["log"] for entry in entries(lab)] == ["0\n", "/dev/null\n"]


def test_streams_belong_to_the_processs_user(lab: Lab) -> None:
    lab.start("stat -Lc %u:%g /dev/stdout /dev/stdin", stdin=True, owner=(1234, 567))
    assert lab.exit().status == 0
    assert {entry["log"] for entry in entries(lab)} == {"1234:567\n"}


# --- terminals


def test_terminal_takes_keys_and_sizes(lab: Lab) -> None:
    lab.start("stty size; read -r x; echo got $x; stty size; cat; echo bye", tty=(24, 80), stdin=True)
    with lab.client() as client:
        client.attach(stdin=True)
        lab.until(lambda: b"24 80" in lab.log.read_bytes())
        client.resize(50, 132)
        client.send_stdin(b"hello\r")
        lab.until(lambda: b"got hello" in lab.log.read_bytes())
        client.end_stdin()
        out, err, ended = lab.read_all(client)
    assert b"50 132" in out
    assert out.endswith(b"bye\r\n")
    assert err == b""
    assert ended is not None
    assert ended.status == 0


def test_terminal_output_is_whole_at_the_end(lab: Lab) -> None:
    lab.start("seq 50000", tty=(24, 80))
    assert lab.exit().status == 0
    assert [entry["log"] for entry in entries(lab)] == [f"{i}\r\n" for i in range(1, 50001)]


# --- the log


def test_log_bytes_agree_with_the_codec(lab: Lab, tmp_path: Path) -> None:
    random = Random(3)
    pieces = [
        b'<&>"\\\t\r\x00\x1f\x7f',
        "é€😀\u2028\u2029\ufffd".encode(),
        b"\xff\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80\xe2\x80",
        b"plain ",
    ]
    data = b"".join(
        random.choice(pieces) + (b"\n" if random.random() < 0.3 else random.randbytes(3)) for _ in range(20000)
    )
    (tmp_path / "data").write_bytes(data)
    lab.start(f"cat {tmp_path}/data")
    assert lab.exit().status == 0
    raw = lab.log.read_bytes().splitlines(keepends=True)
    texts = data.split(b"\n")
    texts = [text + b"\n" for text in texts[:-1]] + ([texts[-1]] if texts[-1] else [])
    assert raw == [encode_line(text, "stdout", json.loads(line)["time"]) for text, line in zip(texts, raw, strict=True)]


def test_long_line_is_cut_at_16_kib_but_not_inside_a_character(lab: Lab, tmp_path: Path) -> None:
    text = "x" + "€" * 20000
    (tmp_path / "data").write_text(text + "\nshort")
    lab.start(f"cat {tmp_path}/data")
    assert lab.exit().status == 0
    got = entries(lab)
    assert "".join(entry["log"] for entry in got) == text + "\nshort"
    assert [len(entry["log"].encode()) for entry in got] == [16384, 16383, 16383, 10852, 5]
    assert len({entry["time"] for entry in got[:4]}) == 1


def test_rotation_keeps_size_and_number(lab: Lab) -> None:
    log = LogFile(path=str(lab.log), max_size=10000, max_files=3)
    lab.start("seq 1000", log=log)
    assert lab.exit().status == 0
    files = sorted(lab.log.parent.iterdir())
    assert [file.name for file in files] == ["c.log", "c.log.1", "c.log.2"]
    assert all(file.stat().st_size <= 10000 for file in files)
    assert all(file.stat().st_size > 9900 for file in files[1:])
    kept = [int(line.text) for line in logs.read(lab.log)]
    assert kept == list(range(kept[0], 1001))


def test_single_file_rotation_starts_anew(lab: Lab) -> None:
    lab.start("seq 1000", log=LogFile(path=str(lab.log), max_size=5000))
    assert lab.exit().status == 0
    assert [file.name for file in lab.log.parent.iterdir()] == ["c.log"]
    assert lab.log.stat().st_size <= 5000
    assert [line.text for line in logs.read(lab.log)][-1] == "1000\n"


def test_next_run_goes_on_after_a_cut_line(lab: Lab) -> None:
    lab.log.write_bytes(b'{"log":"hal')
    lab.start("echo whole")
    assert lab.exit().status == 0
    assert [(line.note, line.text[:5]) for line in logs.read(lab.log)] == [(True, "orlop"), (False, "whole")]


@pytest.mark.root
def test_full_disk_loses_lines_but_says_so_and_keeps_the_status(lab: Lab, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], check=True)
    try:
        (small / "state").mkdir()
        (tmp_path / "c").symlink_to(small / "state")
        lab.start(
            HOLD + f"seq 3000; echo; sleep 0.2; rm {small}/ballast; echo after; exit 4",
            log=LogFile(path=str(small / "log")),
            stdin=True,
        )
        (small / "ballast").write_bytes(b"x" * 12000)
        with lab.client() as client:
            client.attach(stdin=True)
            client.send_stdin(b"\n")
            out, _, ended = lab.read_all(client)
        assert out.endswith(b"3000\n\nafter\n")
        assert ended is not None
        assert lab.exit().status == 4
        lines = list(logs.read(small / "log"))
        assert not any(line.note for line in lines)
        assert lines[-1].text == "after\n"
        notes = [line.text for line in lines if "lines of this log were lost: ENOSPC" in line.text]
        assert notes
        assert len(lines) - len(notes) + sum(int(note.split()[1]) for note in notes) == 3002
    finally:
        subprocess.run(["umount", "-l", small], check=True)


# --- the start and the end


def test_helper_that_fails_leaves_a_status(lab: Lab) -> None:
    shim = lab.start("!")
    assert lab.exit().status == 1
    lab.until(lambda: lab.gone(shim))
    assert read_state(shim.directory).pid == 0


@pytest.mark.parametrize("prefix", ["", "=", "*"])
def test_init_is_found_after_no_one_or_two_clones(lab: Lab, prefix: str) -> None:
    lab.start(prefix + HOLD + "echo $$; exit 6", stdin=True)
    with lab.client() as client:
        lab.until(lambda: read_state(lab.directory / "c").process)
        state = read_state(lab.directory / "c")
        assert state.reality == "running"
        client.attach(stdin=True)
        client.send_stdin(b"\n")
        out, _, ended = lab.read_all(client)
    assert ended is not None
    assert (int(out), ended.status) == (state.pid, 6)


def test_process_of_a_helper_that_was_killed_is_found_and_killed(lab: Lab, tmp_path: Path) -> None:
    lab.start(f"%echo $$ > {tmp_path}/pid; exec sleep 60")
    assert lab.exit().status == 137
    pid = tmp_path / "pid"
    lab.until(lambda: not pid.exists() or not pid.read_text() or start_time(int(pid.read_text())) is None)


def test_quick_ends_are_never_missed(lab: Lab) -> None:
    for i in range(60):
        lab.start(f"exit {i}", name=f"c{i}")
    assert [lab.exit(f"c{i}").status for i in range(60)] == list(range(60))


def test_a_second_shim_is_refused(lab: Lab) -> None:
    lab.start("exec sleep 60")
    with pytest.raises(FailedPrecondition, match="another shim"):
        lab.start("echo no")
    with lab.client() as client:
        client.signal(9)


def test_restart_in_the_same_directory(lab: Lab) -> None:
    for code in (1, 2, 3):
        shim = lab.start(f"exit {code}")
        assert lab.exit().status == code
        lab.until(lambda shim=shim: lab.gone(shim))


def test_process_outside_cannot_hold_the_end_for_long(lab: Lab) -> None:
    began = time.monotonic()
    lab.start("(sleep 8; echo late) & echo early; exit 0")
    with lab.client() as client:
        assert client.wait(10) is not None
    assert 1.5 < time.monotonic() - began < 7.5
    assert [entry["log"] for entry in entries(lab)] == ["early\n"]


def test_on_exit_runs_when_nobody_owns_the_end(lab: Lab, tmp_path: Path) -> None:
    lab.start("exit 3", on_exit=["/bin/sh", "-c", f"cat {tmp_path}/c/exit > {tmp_path}/seen"])
    lab.until((tmp_path / "seen").exists)
    lab.until(lambda: (tmp_path / "seen").read_text().startswith("3 0 "))


@pytest.mark.parametrize("confirm", [True, False])
def test_owner_that_confirms_replaces_on_exit(lab: Lab, tmp_path: Path, confirm: bool) -> None:
    shim = lab.start("exit 3", on_exit=["/bin/touch", str(tmp_path / "ran")], connect=True)
    assert shim.client is not None
    with shim.client as client:
        ended = client.wait(10)
        assert ended is not None
        assert ended.status == 3
        assert not lab.gone(shim)
        if confirm:
            client.done()
    lab.until(lambda: lab.gone(shim))
    if confirm:
        time.sleep(0.1)
        assert not (tmp_path / "ran").exists()
    else:
        lab.until((tmp_path / "ran").exists)


def test_on_exit_may_start_the_container_anew(lab: Lab, tmp_path: Path) -> None:
    """The directory is free by then."""
    state = tmp_path / "c"
    check = f"flock -n {state}/lock test ! -e {state}/shim.sock && touch {tmp_path}/free"
    lab.start("exit 0", on_exit=["/bin/sh", "-c", check])
    lab.until((tmp_path / "free").exists)


def test_requests_to_stop_do_not_end_the_shim(lab: Lab) -> None:
    shim = lab.start("exec sleep 60")
    for number in (1, 2, 15, 10, 13):
        os.kill(shim.pid, number)
    with lab.client() as client:
        assert client.status().pid
        client.signal(9)


def test_killed_shim_takes_the_container_along_and_is_lost(lab: Lab) -> None:
    shim = lab.start("exec sleep 60")
    pid = lab.until(lambda: read_state(shim.directory).pid)
    os.kill(shim.pid, 9)
    lab.until(lambda: not read_state(shim.directory).process)
    assert read_state(shim.directory).reality == "lost"
    assert start_time(pid) is None
    with pytest.raises(Unavailable):
        lab.client()
    lab.start("exit 5")  # nothing of the dead one is in the way
    assert lab.exit().status == 5


def test_oom_kill_is_recorded(lab: Lab, tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 1\noom_kill 1\n")
    lab.start(HOLD + "exit 0", stdin=True, oom_events=str(events))
    events.write_text("low 0\noom 3\noom_kill 2\n")
    with lab.client() as client:
        client.end_stdin()
        client.wait(10)
    assert lab.exit().oom


# --- further processes


def run_detached(
    lab: Lab, client: ShimClient, fake_launch: int, script: str, stdio: tuple[int, int, int] | None = None
) -> int:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = lab.plan(script)
    try:
        with ours, theirs:
            return client.exec_detached(fd, theirs.fileno(), fake_launch, stdio)
    finally:
        os.close(fd)


def test_detached_exec_neither_ends_nor_outputs_to_the_container(lab: Lab, fake_launch: int, tmp_path: Path) -> None:
    shim = lab.start("exec sleep 60")
    with lab.client() as client:
        pid = run_detached(lab, client, fake_launch, f"echo $$ $PPID > {tmp_path}/pid; echo silent")
        lab.until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        assert (tmp_path / "pid").read_text() == f"{pid} {shim.pid}\n"
        lab.until(lambda: not Path(f"/proc/{pid}").exists())  # reaped
        assert client.wait(0.1) is None
        with pytest.raises(FailedPrecondition, match="before it started"):
            run_detached(lab, client, fake_launch, "!")
        for i in range(40):
            run_detached(lab, client, fake_launch, f"exit {i}")
        assert lab.log.read_bytes() == b""
        client.signal(9)
        assert client.wait(10) is not None


def test_exec_with_streams_of_its_own(lab: Lab, fake_launch: int) -> None:
    lab.start("exec sleep 60")
    reader, writer = os.pipe()
    with lab.client() as client, open(os.devnull) as null:
        run_detached(lab, client, fake_launch, "echo to you", (null.fileno(), writer, writer))
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            assert stream.read() == b"to you\n"
        client.signal(9)


# --- cost


@pytest.mark.parametrize("loaded", [False, True])
def test_private_memory_is_small(lab: Lab, loaded: bool) -> None:
    lab.start("exec sleep 60", name="other")  # the program's text is shared by all shims
    shim = lab.start(HOLD + ("seq 15000; " if loaded else "") + "echo end >&2; read -r x", stdin=True)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(lab.client()) for _ in range(8 if loaded else 1)]
        for client in clients:
            client.attach(stdin=True)
        clients[0].send_stdin(b"\n")
        for client in clients:
            while frame := client.receive():
                if frame.stream == frames.STDERR:
                    break

        def private() -> int:
            rollup = Path(f"/proc/{shim.pid}/smaps_rollup").read_text().split("\n")
            return sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))

        # what all have got is forgotten a moment later
        lab.until(lambda: private() < (200 if loaded else 100))
        print(f"\nloaded={loaded}: {private()} KiB private")
        clients[0].signal(9)
        lab.client("other").signal(9)


def test_the_log_that_kubelet_reads(lab: Lab) -> None:
    lab.start("echo one; printf 'two' >&2; printf 'half'", log=LogFile(path=str(lab.log), cri=True))
    assert lab.exit().status == 0
    fields = [line.split(b" ", 3) for line in lab.log.read_bytes().splitlines()]
    assert sorted(tuple(words[1:]) for words in fields) == sorted(
        [(b"stdout", b"F", b"one"), (b"stderr", b"P", b"two"), (b"stdout", b"P", b"half")]
    )
    assert all(parse_time(words[0].decode()) > 0 for words in fields)


def test_the_shim_and_the_codec_write_kubelets_log_alike(lab: Lab) -> None:
    length = 2 * crilog.PIECE + 100
    lab.start(
        f"head -c {length} /dev/zero | tr '\\0' x; echo; echo; printf half", log=LogFile(path=str(lab.log), cri=True)
    )
    assert lab.exit().status == 0
    written = lab.log.read_bytes().splitlines(keepends=True)
    times = [line.split(b" ")[0].decode() for line in written]
    text, line = b"x" * length, crilog.encode_line
    pieces = [text[: crilog.PIECE], text[: crilog.PIECE], text[2 * crilog.PIECE :], b"", b"half"]
    tags = [True, True, False, False, True]
    assert written == [line(*entry) for entry in zip(pieces, ["stdout"] * 5, times, tags, strict=True)]
    assert b"".join(written[:3]) == crilog.encode_output(text + b"\n", "stdout", times[0])
    assert b"".join(crilog.decode_line(entry).text for entry in written) == text + b"half"


def test_a_log_that_was_moved_away_is_begun_anew(lab: Lab) -> None:
    lab.start("echo before; read line; echo after", log=LogFile(path=str(lab.log), cri=True), stdin=True)
    lab.until(lambda: lab.log.stat().st_size)
    lab.log.rename(lab.log.with_suffix(".1"))
    with lab.client() as client:
        client.reopen_log()
        assert lab.log.exists()
        client.send_stdin(b"\n")
    assert lab.exit().status == 0
    assert lab.log.with_suffix(".1").read_bytes().endswith(b"F before\n")
    assert lab.log.read_bytes().endswith(b"F after\n")
    assert b"before" not in lab.log.read_bytes()
