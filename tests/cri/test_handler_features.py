"""What a runtime says of itself (runtime-spec, features.md), as it is read. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from orlop.cri.handlers import features
from orlop.engine.config import OciRuntime

RUNTIME = OciRuntime(name="other", path="/usr/bin/other")


def test_the_version_is_the_runtimes_own() -> None:
    annotations = {
        "io.github.seccomp.libseccomp.version": "2.5.4",
        "org.opencontainers.runc.commit": "v1.1.0-404-g",
        "org.opencontainers.runc.version": "1.1.0+dev",
    }
    assert features(RUNTIME, {"annotations": annotations}).version == "1.1.0+dev"


@pytest.mark.parametrize(("options", "can"), [(["ro", "rro"], True), (["ro"], False), ("rro", False), (None, False)])
def test_recursive_read_only_is_a_mount_option(options: Any, can: bool) -> None:
    assert features(RUNTIME, {"mountOptions": options}).recursive_read_only == can


@pytest.mark.parametrize("found", [{}, {"ociVersionMin": "1.0.0"}, {"annotations": None}, {"annotations": "x"}])
def test_what_is_not_said_is_not_so(found: dict[str, Any]) -> None:
    handler = features(RUNTIME, found)
    assert (handler.name, handler.recursive_read_only, handler.version) == ("other", False, "")
