from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orlop.seccomp import cache
from orlop.seccomp.default import default_profile
from orlop.spec.capabilities import DEFAULT, NAMES
from orlop.spec.runtime import Seccomp

SECCOMP = default_profile(DEFAULT, "x86_64", (6, 1))


def entry(directory: Path) -> Path:
    (found,) = directory.iterdir()
    return found


def test_a_hit_gives_the_same_program_and_does_not_load_the_library(tmp_path: Path) -> None:
    first = cache.program(SECCOMP, tmp_path / "cache")
    script = (
        "import sys; from pathlib import Path\n"
        "from orlop.seccomp import cache, default; from orlop.spec.capabilities import DEFAULT\n"
        "got = cache.program(default.default_profile(DEFAULT, 'x86_64', (6, 1)), sys.argv[1])\n"
        "assert 'ctypes' not in sys.modules\n"
        "sys.stdout.buffer.write(got.code)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "cache")]
    assert subprocess.run(command, capture_output=True, check=True, timeout=30).stdout == first.code


def test_a_hit_is_fast(tmp_path: Path) -> None:
    cache.program(SECCOMP, tmp_path)
    times = []
    for _ in range(20):
        start = time.thread_time()  # of the processor: what else the machine does counts for nothing
        cache.program(default_profile(DEFAULT, "x86_64", (6, 1)), tmp_path)
        times.append(time.thread_time() - start)
    assert sorted(times)[10] < 0.001


def test_different_rules_have_different_entries(tmp_path: Path) -> None:
    assert (
        cache.program(SECCOMP, tmp_path).code != cache.program(default_profile(NAMES, "x86_64", (6, 1)), tmp_path).code
    )
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "other library", "writable", "symlink"])
def test_a_bad_entry_is_made_anew(tmp_path: Path, damage: str) -> None:
    directory = tmp_path / "cache"
    good = cache.program(SECCOMP, directory).code
    path = entry(directory)
    raw = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(raw[:-8])
    elif damage == "changed":
        path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other library":
        path.write_bytes(raw.replace(b"libseccomp.so", b"libseccomp.xx", 1))
    elif damage == "writable":
        path.chmod(0o666)
    else:
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    assert cache.program(SECCOMP, directory).code == good
    assert entry(directory).read_bytes() == raw
    assert not entry(directory).is_symlink()


def test_the_directory_is_the_owners_alone(tmp_path: Path) -> None:
    cache.program(SECCOMP, tmp_path / "cache")
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert entry(tmp_path / "cache").stat().st_mode & 0o777 == 0o600


def test_a_directory_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert cache.program(SECCOMP, tmp_path / "file" / "cache").code
    assert os.listdir(tmp_path) == ["file"]


def test_flags_come_with_the_program(tmp_path: Path) -> None:
    seccomp = Seccomp(default_action="SCMP_ACT_ALLOW", flags=("SECCOMP_FILTER_FLAG_LOG",))
    assert cache.program(seccomp, tmp_path).flags == 2
