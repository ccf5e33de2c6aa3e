"""Builds the native programs when a wheel is made."""

from __future__ import annotations

import subprocess
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeBuild(BuildHookInterface):
    """Runs scripts/build; the wheel is for this machine's platform, since it carries programs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        subprocess.run(["sh", "scripts/build"], cwd=self.root, check=True)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform()}"


def _platform() -> str:
    import sysconfig

    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
