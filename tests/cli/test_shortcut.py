"""The short way of `exec`: when it is taken, and that it ends as the ordinary one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.harness import Orlop

from orlop.cli.shortcut import _asked, shortcut

SOURCE = Path(__file__).parents[2] / "src"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["ps"],
        ["exec"],
        ["exec", "c"],
        ["exec", "c", ""],
        ["exec", "", "true"],
        ["exec", "-t", "c", "true"],
        ["exec", "-it", "c", "true"],
        ["exec", "-i", "-t", "c", "true"],
        ["exec", "-u", "app", "c", "true"],
        ["exec", "--help"],
        ["exec", "--", "c", "true"],
        ["--debug", "exec", "c", "true"],
        ["--root=/x", "exec", "c", "true"],
        ["--root", "exec", "c", "true"],
    ],
)
def test_anything_more_goes_the_ordinary_way(words: list[str]) -> None:
    assert shortcut(words) is None


def test_what_it_understands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORLOP_ROOT", "/r")
    monkeypatch.delenv("ORLOP_STATE", raising=False)
    monkeypatch.setenv("ORLOP_NAMESPACE", "n")
    assert _asked(["--state", "/s", "exec", "-i", "c", "ls", "-l"]) == (
        {"root": "/r", "state": "/s", "namespace": "n"},
        True,
        "c",
        ["ls", "-l"],
    )


def test_imports_nothing_that_takes_long() -> None:
    script = f"import sys; sys.path.append({str(SOURCE)!r}); import orlop.cli.begin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-IS", "-c", script], capture_output=True, text=True, check=True)
    assert not {"msgspec", "typing", "re", "pathlib", "sqlite3", "enum", "socket"} & set(done.stdout.split())


@pytest.mark.root
def test_second_exec_is_as_the_first(orlop: Orlop) -> None:
    orlop("run", "-d", "--name", "short", "--network", "none", "busybox", "sleep", "100")
    kept = next(orlop.state.glob("containers/*/")) / "exec"
    first = orlop.out("exec", "short", "sh", "-c", "id; env; pwd; cat /proc/self/status | grep -e Cap -e Secc -e NoNew")
    assert kept.exists()
    template = kept.read_bytes()
    again = orlop.out("exec", "short", "sh", "-c", "id; env; pwd; cat /proc/self/status | grep -e Cap -e Secc -e NoNew")
    assert again == first
    assert kept.read_bytes() == template
    assert orlop("exec", "-i", "short", "cat", stdin="in\n").stdout == "in\n"
    assert orlop("exec", "short", "cat", stdin="in\n").stdout == ""
    orlop("exec", "short", "sh", "-c", "exit 7", code=7)
    orlop("exec", "short", "sh", "-c", "kill -9 $$", code=137)
    assert "not found" in orlop.refused("exec", "short", "nosuch", code=127)
    assert "denied" in orlop.refused("exec", "short", "/etc/passwd", code=126)


@pytest.mark.root
def test_damaged_template_is_made_anew(orlop: Orlop) -> None:
    orlop("run", "-d", "--name", "short", "--network", "none", "busybox", "sleep", "100")
    orlop("exec", "short", "true")
    kept = next(orlop.state.glob("containers/*/")) / "exec"
    whole = kept.read_bytes()
    for data in (b"", whole[:-1], whole[:100] + b"X" + whole[101:]):
        kept.write_bytes(data)
        assert orlop.out("exec", "short", "echo", "hi") == "hi"
        assert kept.read_bytes() == whole


@pytest.mark.root
def test_paused_and_stopped_containers_are_refused_by_the_ordinary_way(orlop: Orlop) -> None:
    orlop("run", "-d", "--name", "short", "--network", "none", "busybox", "sleep", "100")
    orlop("exec", "short", "true")
    orlop("pause", "short")
    assert "paused" in orlop.refused("exec", "short", "true", code=1)
    orlop("unpause", "short")
    orlop("stop", "-t", "0", "short")
    assert "not running" in orlop.refused("exec", "short", "true", code=1)
