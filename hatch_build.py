"""Builds the native programs and the gRPC stubs when a wheel is made."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeBuild(BuildHookInterface):
    """Runs scripts/build; the wheel is for this machine's platform, since it carries programs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        environment = os.environ | {"PYTHON": sys.executable}  # the one that build-system.requires was installed for
        subprocess.run(["sh", "scripts/build"], cwd=self.root, check=True, env=environment)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform()}"


def _platform() -> str:
    import sysconfig

    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
