"""The parsers of the native programs over the kept corpus, built to notice every wrong step. `scripts/fuzz` goes on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "native/fuzz"
FLAGS = (
    "-std=gnu11",
    "-g",
    "-O1",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-Wno-return-type",
)


@pytest.mark.parametrize("target", ["plan", "shim", "front"])
def test_the_corpus_is_read_within_bounds(target: str, tmp_path: Path) -> None:
    program = tmp_path / target
    built = subprocess.run(["cc", *FLAGS, "-o", str(program), str(FUZZ / f"{target}.c")], capture_output=True)
    if built.returncode and b"san" in built.stderr:
        pytest.skip(f"no sanitizers here: {built.stderr.decode()[-200:]}")
    assert not built.returncode, built.stderr.decode()
    corpus = FUZZ / "corpus" / target
    command, environment = [str(program), str(corpus)], {"ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) == len(list(corpus.iterdir())) > 2
