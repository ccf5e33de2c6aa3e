"""A CRIU that works with this kernel, for tests: the installed one, else a newer one of Debian's.

A kernel may be newer than Debian's CRIU knows (3.17 does not find its way in the vDSO of Linux 6.13). The newer one is
downloaded and extracted with the libraries that it wants, never installed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.lab import default_directory

_RELEASES = ("sid", "trixie")


def find() -> str:
    """A directory for $PATH in which `criu` is. Skips the test where there is none."""
    installed = shutil.which("criu")
    if installed is None:
        pytest.skip("criu is not installed")
    if works(Path(installed)):
        return str(Path(installed).parent)
    for release in _RELEASES:
        directory = default_directory() / f"criu-{release}"
        if not (directory / "criu").exists() and shutil.which("apt-get"):
            _extract(release, directory)
        if works(directory / "criu"):
            return str(directory)
    pytest.skip(f"criu does not work with this kernel: {_complaint(Path(installed))}")


def works(program: Path) -> bool:
    return program.exists() and subprocess.run([program, "check"], capture_output=True, check=False).returncode == 0


def _complaint(program: Path) -> str:
    done = subprocess.run([program, "check"], capture_output=True, text=True, check=False)
    return (done.stderr.strip().splitlines() or ["it says nothing"])[0]


def _extract(release: str, directory: Path) -> None:
    """Nothing where the archive cannot be reached."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (directory / "criu").exists():
            return
        for name in ("state/lists/partial", "cache/archives/partial", "root"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        (directory / "state/status").touch()
        (directory / "sources").write_text(f"deb http://deb.debian.org/debian {release} main\n")
        apt = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "-o", f"Dir::State={directory}/state"]
        apt += ["-o", f"Dir::State::status={directory}/state/status", "-o", f"Dir::Cache={directory}/cache"]
        apt += ["-o", f"Dir::Etc::sourcelist={directory}/sources", "-o", "Dir::Etc::sourceparts=-"]
        apt += ["-o", "Acquire::Check-Valid-Until=false"]  # a mirror may be some weeks behind
        for words in (["update"], ["install", "--no-install-recommends", "--download-only", "-y", "criu"]):
            if subprocess.run([*apt, *words], capture_output=True, check=False, timeout=300).returncode:
                return
        for package in (directory / "cache/archives").glob("*.deb"):
            if package.name.startswith(("lib", "criu")):
                subprocess.run(["dpkg-deb", "-x", package, directory / "root"], check=True)
        _wrap(directory)
        for name in ("state", "cache"):
            shutil.rmtree(directory / name)


def _wrap(directory: Path) -> None:
    """A `criu` that runs with its own libraries and loader."""
    root = directory / "root"
    libraries = sorted({str(path.parent) for path in root.rglob("*.so*")})
    loader = next(path for path in root.rglob("ld-linux-*.so.*") if path.exists())
    program = next(path for path in root.rglob("sbin/criu"))
    new = directory / "criu.new"
    new.write_text(f'#!/bin/sh\nexec {loader} --library-path {":".join(libraries)} {program} "$@"\n')
    new.chmod(0o755)
    os.rename(new, directory / "criu")
