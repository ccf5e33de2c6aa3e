"""In another runtime's place the program goes by that one's name: `runc`, a link to it."""

from __future__ import annotations

import subprocess

import pytest
from tests.daemon.conftest import COLD_STATUS, Daemon

pytestmark = pytest.mark.root


def test_it_says_the_name_that_it_is_called_by(daemon: Daemon) -> None:
    link = daemon.front.with_name("runc")
    link.symlink_to(daemon.front)

    def said(*words: str) -> list[str]:
        done = subprocess.run([link, *words], env=daemon.environment, capture_output=True, text=True, timeout=60)
        return (done.stdout + done.stderr).splitlines()

    assert said("--version")[0].startswith("runc version ")
    assert said("state", "nobody") == ["runc: container nobody does not exist"]
    assert said("delete", "--help")[:2] == ["NAME:", "   runc delete - Delete a container"]
    # and the worker that did this has forgotten it
    assert daemon("state", "nobody", ok=False).stderr == "orlop-runtime: container nobody does not exist\n"


def test_a_cold_start_is_told_the_name(daemon: Daemon) -> None:
    link, alone = daemon.front.with_name("crun"), daemon.environment | {"ORLOP_RUNTIME_SOCKET": "/nonexistent"}
    link.symlink_to(daemon.front)
    daemon.cold.write_text(f"#!/bin/sh\necho $ORLOP_RUNTIME_NAME\nexit {COLD_STATUS}\n")
    for program, name in ((link, "crun\n"), (daemon.front, "\n")):
        done = subprocess.run([program, "list"], env=alone, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (COLD_STATUS, name)
