from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orlop.cli.commands import COMMANDS, GROUPS, MISSING
from orlop.cli.flags import render
from orlop.cli.main import main

PROGRAM = Path(__file__).parents[2] / "src/orlop/__main__.py"
_PORTS = "want a number from 1 to 65535"
_NAMES = "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
# never on the way of a command that has to be quick
_SLOW = set(
    "dataclasses subprocess asyncio urllib3 rich json logging tempfile shutil argparse hashlib _hashlib".split()
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_loaded_and_explains_itself(name: str) -> None:
    module = COMMANDS[name].load()
    text = render(f"orlop {name}", module.SYNTAX)
    assert text.startswith(f"Usage:  orlop {name} [OPTIONS]")
    names = [each for flag in module.SYNTAX.flags for each in flag.names]
    assert len(names) == len(set(names))
    assert "--help" not in names
    assert callable(module.main)


def test_commands_are_there_or_missing_and_groups_have_members() -> None:
    assert not MISSING & set(COMMANDS)
    for group in GROUPS:
        assert any(name.startswith(f"{group} ") for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nope"], 125, "orlop: unknown command: 'orlop nope'"),
        (["build", "."], 125, "orlop: 'orlop build' is not implemented yet"),
        (["network", "connect", "a", "b"], 125, "orlop: 'orlop network connect' is not implemented yet"),
        (["image", "nope"], 125, "orlop: unknown command: 'orlop image nope'"),
        (["help", "nope"], 125, "orlop: unknown command: 'orlop nope'"),
        (["--nope"], 125, "orlop: unknown flag: --nope"),
        (["--root"], 125, "orlop: flag needs an argument: --root"),
        (["ps", "--nope"], 125, "orlop: unknown flag: --nope (see 'orlop ps --help')"),
        (["ps", "x"], 125, "orlop: 'orlop ps' requires no arguments (usage: orlop ps [OPTIONS])"),
        (["explain", "--type", "x", "y"], 125, "orlop: unknown type: 'x': want container or image"),
        (["rm", "nope"], 1, "orlop: no such container: nope"),
        (["inspect", "nope"], 1, "orlop: no such object: nope"),
        (["inspect", "bad\x1b[2Jname"], 1, "orlop: no such object: bad\\x1b[2Jname"),
        (["logs", "nope"], 1, "orlop: no such container: nope"),
        (["exec", "nope", "true"], 1, "orlop: no such container: nope"),
        (["start", "nope"], 1, "orlop: no such container: nope"),
        (["rmi", "nope"], 1, "orlop: no such image: nope:latest"),
        (["tag", "nope", "x"], 1, "orlop: no such image: nope:latest"),
        (["volume", "rm", "nope"], 1, "orlop: no such volume: nope"),
        (["volume", "create", "-o", "a=b", "x"], 1, "orlop: volume option 'a': the local driver takes none yet"),
        (["network", "rm", "nope"], 1, "orlop: network nope not found"),
        (["network", "rm", "host"], 1, "orlop: host is a pre-defined network and cannot be removed"),
        (["explain", "nope"], 1, "orlop: no such container or image: nope"),
        (["load", "-i", "/nonexistent"], 1, "orlop: open /nonexistent: no such file or directory"),
        (["ps", "-f", "x"], 1, "orlop: invalid filter 'x': want name=value"),
        (["ps", "--format", "{{.Nope"], 1, "orlop: template: unclosed action: '{{' without '}}'"),
        (["run", "-p", "99999:80", "x"], 125, f"orlop: invalid port '99999' in '99999:80': {_PORTS}"),
        (["run", "--memory", "1", "x"], 125, "orlop: minimum memory limit allowed is 6MB"),
        (["run", "--pull", "never", "nope"], 125, "orlop: no such image: nope:latest"),
        (["run", "--pull", "nope", "x"], 125, "orlop: pull policy 'nope': want one of always, missing, never"),
        (["run", "--name", "a/b", "x"], 125, f"orlop: invalid container name ('a/b'), {_NAMES}"),
        (["run", "bad name"], 125, "orlop: image reference 'bad name': bad name component 'bad name'"),
        (["run", "a\nb"], 125, "orlop: image reference 'a\\nb': bad name component 'a\\nb'"),
        (["run", "-d", "-a", "stdout", "x"], 125, "orlop: conflicting options: -a and -d"),
        (["create", "--publish", "x", "y"], 125, f"orlop: invalid port 'x' in 'x': {_PORTS}"),
        (["create", "--pull", "never", "nope"], 1, "orlop: no such image: nope:latest"),
        (["-n", "a b", "ps"], 1, "orlop: namespace 'a b': want letters, digits, `_`, `.` and `-`, at most 76"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_dockers_code(
    words: list[str], code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(tmp_path / "root"), "--state", str(tmp_path / "state"), *words]) == code
    told = capsys.readouterr()
    assert told.err.splitlines() == [says]
    assert told.out in ("", "[]\n")


def test_after_an_error_the_other_names_have_their_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--root", str(tmp_path / "root"), "--state", str(tmp_path / "state")]
    assert main([*options, "volume", "create", "vol"]) == 0
    assert main([*options, "volume", "rm", "none", "vol", "nope"]) == 1
    told = capsys.readouterr()
    assert told.out == "vol\nvol\n"
    assert told.err == "orlop: no such volume: none\norlop: no such volume: nope\n"


def test_lists_of_nothing_are_titles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--root", str(tmp_path / "root"), "--state", str(tmp_path / "state")]
    for words, titles in (
        ("ps", "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES"),
        ("ps -s", "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES     SIZE"),
        ("images", "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE"),
        ("images --digests", "REPOSITORY   TAG       DIGEST    IMAGE ID   CREATED   SIZE"),
        ("volume ls", "DRIVER    VOLUME NAME"),
    ):
        assert main([*options, *words.split()]) == 0
        assert capsys.readouterr().out == titles + "\n"


def test_help_shows_commands_and_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "  run          Create and run a new container from an image\n" in text
    assert "  volume       Manage volumes\n" in text
    assert "internal" not in text
    assert main(["volume"]) == 0
    assert "  prune        Remove unused local volumes" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["ps", "run", "exec"])
def test_quick_commands_import_nothing_slow(command: str) -> None:
    code = (
        "import sys; sys.argv[1:] = []\n"
        "from orlop.cli.commands import COMMANDS\n"
        "import orlop.cli.main, orlop.engine.engine, orlop.engine.containers, orlop.engine.start\n"
        "import orlop.network.networks\n"
        f"COMMANDS[{command!r}].load()\n"
        "print(' '.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(PROGRAM.parents[1])},
    )
    plain = subprocess.run(
        [sys.executable, "-c", "import sys; print(' '.join(sys.modules))"], capture_output=True, text=True, check=True
    )
    assert not (set(done.stdout.split()) - set(plain.stdout.split())) & _SLOW


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    declared = re.search(r'^version = "(.*)"', (PROGRAM.parents[2] / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared
    assert main(["version", "--format", "{{.Client.Version}}"]) == 0
    assert capsys.readouterr().out == declared[1] + "\n"
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"Orlop version {declared[1]}\n"


def test_without_root_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for words, code in ((["ps"], 1), (["run", "busybox"], 125)):
        assert main(["--root", str(tmp_path / "root"), "--state", str(tmp_path / "state"), *words]) == code
        assert capsys.readouterr().err == "orlop: this needs root: rootless containers are not implemented yet\n"
    assert not list(tmp_path.iterdir())


def test_output_that_nobody_reads_ends_quietly(tmp_path: Path) -> None:
    command = f"{sys.executable} {PROGRAM} --root {tmp_path}/r --state {tmp_path}/s info | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""
