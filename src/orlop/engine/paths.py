"""Where things lie on the host (the tree is drawn in docs/design.md, "State")."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

DEFAULT_ROOT = "/var/lib/orlop"
DEFAULT_STATE = "/run/orlop"


class Paths(msgspec.Struct, frozen=True):
    """`root` survives a reboot, `state` does not."""

    root: Path
    state: Path

    @property
    def database(self) -> Path:
        return self.root / "orlop.db"

    @property
    def content(self) -> Path:
        return self.root / "content"

    @property
    def snapshots(self) -> Path:
        return self.root / "snapshots"

    @property
    def volumes(self) -> Path:
        return self.root / "volumes"

    @property
    def networks(self) -> Path:
        return self.root / "networks"

    def container(self, identifier: str) -> Path:
        """Files of a container that outlive its process: config.json, hosts, hostname, resolv.conf, its log."""
        return self.root / "containers" / identifier

    def run(self, identifier: str) -> Path:
        """Files of a container's process: shim.sock, pid, lock, exit."""
        return self.state / "containers" / identifier

    def lock(self, identifier: str) -> Path:
        """What is locked while one long operation changes a container."""
        return self.locks / identifier

    @property
    def locks(self) -> Path:
        return self.state / "locks"

    def make(self) -> None:
        """Make the directories that all stands in: 0710, root's, as a container's files are nobody's business."""
        for path in (self.root, self.state):
            if not path.is_dir():
                path.mkdir(parents=True, mode=0o710, exist_ok=True)
        for path in (self.root / "containers", self.state / "containers", self.locks):
            path.mkdir(mode=0o710, exist_ok=True)


def default_paths(root: str = "", state: str = "") -> Paths:
    """The given directories, else $ORLOP_ROOT and $ORLOP_STATE, else the system's or (rootless) the user's own."""
    root = root or os.environ.get("ORLOP_ROOT", "")
    state = state or os.environ.get("ORLOP_STATE", "")
    if os.geteuid() != 0:
        home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
        runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/orlop-{os.geteuid()}"
        return Paths(Path(root or f"{home}/orlop"), Path(state or f"{runtime}/orlop"))
    return Paths(Path(root or DEFAULT_ROOT).absolute(), Path(state or DEFAULT_STATE).absolute())
