"""`run -it debian bash` as a person at a terminal uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.harness import Orlop, Terminal, wait_for

Open = Callable[..., Terminal]


@pytest.fixture
def terminal(orlop: Orlop) -> Iterator[Open]:
    opened: list[Terminal] = []

    def start(*words: str, rows: int = 24, columns: int = 80) -> Terminal:
        opened.append(Terminal(orlop.command(*words), rows, columns))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.fixture
def bash(terminal: Open, every_image: None) -> Terminal:
    """A shell whose prompt is known."""
    shell = terminal("run", "-it", "--rm", "--name", "shell", "--hostname", "box", "-e", "PS1=ready> ", "-e",
                     "TERM=dumb", "debian", "bash", "--norc", rows=30, columns=100)  # fmt: skip
    shell.expect("ready> ")
    return shell


def test_size_is_that_of_the_users_terminal_and_follows_it(bash: Terminal) -> None:
    bash.type("stty size\n")
    bash.expect(r"\n30 100\r\n")
    bash.type("trap 'echo changed' WINCH\n")
    bash.expect("ready> $")
    bash.resize(50, 132)
    bash.type("until stty size | grep '50 132'; do sleep 0.05; done; echo size-$?\n")
    bash.expect("size-0")
    bash.type("exit\n")
    assert bash.wait() == 0


def in_front(orlop: Orlop) -> bool:
    """Whether `sleep 100` runs, and its group has the terminal."""
    for line in orlop.out("top", "shell").splitlines():
        if line.endswith(" sleep 100") and ";" not in line:
            fields = Path(f"/proc/{line.split()[1]}/stat").read_text().rpartition(")")[2].split()
            return fields[2] == fields[5]  # pgrp, tpgid
    return False


def test_ctrl_c_ends_what_runs_and_not_the_shell(orlop: Orlop, bash: Terminal) -> None:
    bash.type("sh -c 'echo be''gun; sleep 100'\n")
    bash.expect("begun")
    wait_for(lambda: in_front(orlop), "sleep")  # sh starts it by vfork(2), in the midst of which it hears no signal
    bash.type("\x03")
    bash.expect(r"\^C")
    bash.expect("ready> ")
    bash.type("echo status $?\n")
    bash.expect("status 130")
    bash.type("exit 9\n")
    assert bash.wait() == 9


def test_job_control(orlop: Orlop, bash: Terminal) -> None:
    bash.type("sh -c 'echo be''gun; sleep 100'\n")
    bash.expect("begun")
    wait_for(lambda: in_front(orlop), "sleep")  # a shell that is stopped in the midst of vfork(2) never says so
    bash.type("\x1a")
    bash.expect(r"\[1\]\+ +Stopped +sh -c")
    bash.type("bg\n")
    bash.expect(r"\[1\]\+ sh -c .* &")
    bash.type("jobs\n")
    bash.expect(r"\[1\]\+ +Running")
    bash.type("fg\n")
    bash.expect("fg\r\nsh -c .*\r\n")
    wait_for(lambda: in_front(orlop), "the terminal")  # bash prints the line before it hands that over
    bash.type("\x03")
    bash.expect("ready> ")
    bash.type("exit\n")
    assert bash.wait() in (0, 130)


def test_ctrl_d_ends_the_shell(bash: Terminal) -> None:
    bash.type("\x04")
    assert bash.wait() == 0


def test_detach_keys_leave_the_container_running_and_attach_comes_back(
    orlop: Orlop, bash: Terminal, terminal: Open
) -> None:
    bash.type("VALUE=kept\n")
    bash.expect("ready> ")
    bash.type("\x10\x11")
    assert bash.wait() == 0
    assert orlop.state_of("shell")["Running"] is True
    again = terminal("attach", "--detach-keys", "ctrl-x,x", "shell")
    again.type("echo $VALUE\n")
    again.expect("kept\r\n")
    again.type("\x18x")
    again.wait()
    assert orlop.state_of("shell")["Running"] is True
    last = terminal("attach", "shell")
    last.type("exit 4\n")
    assert last.wait() == 4
    wait_for(lambda: orlop.out("ps", "-aq") == "", "--rm")


def test_terminal_is_given_back_as_it_was(orlop: Orlop, tmp_path: Path) -> None:
    """The shell around it finds echo and line editing on again, also after an error."""
    line = " ".join(orlop.command("run", "-it", "--rm", "--network", "none", "busybox", "true"))
    before = tmp_path / "before"
    shell = Terminal(["/bin/sh", "-c", f"stty -a >{before}; {line}; stty -a | cmp - {before}"])
    try:
        assert shell.wait() == 0
    finally:
        shell.close()


@pytest.mark.usefixtures("every_image")
def test_exec_on_a_terminal(orlop: Orlop, terminal: Open) -> None:
    orlop("run", "-d", "--name", "host", "--network", "none", "debian", "sleep", "300")
    inside = terminal("exec", "-it", "-e", "PS1=in> ", "host", "bash", "--norc", rows=21, columns=71)
    inside.expect("in> ")
    inside.type("stty size; tty\n")
    inside.expect(r"21 71\r\n/dev/pts/\d")
    inside.resize(33, 99)
    inside.type("until stty size | grep '33 99'; do sleep 0.05; done; echo size-$?\n")
    inside.expect("size-0")
    inside.type("exit 6\n")
    assert inside.wait() == 6


def test_output_of_a_terminal_is_in_the_log(orlop: Orlop) -> None:
    orlop("run", "-d", "-t", "--name", "log", "--network", "none", "busybox", "sh", "-c", "echo a; tty; echo b >&2")
    orlop("wait", "log")
    assert orlop("logs", "log").stdout.replace("\r\n", "\n") == "a\n/dev/pts/0\nb\n"


def test_without_a_terminal_it_is_refused(orlop: Orlop) -> None:
    assert "not a TTY" in orlop.refused("run", "-it", "busybox", "sh", code=1)
    assert orlop.out("ps", "-aq") == ""
