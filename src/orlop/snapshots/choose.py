"""Which snapshotter a root directory uses: overlay where the kernel and the file system allow it, else copy.

The choice is made once and written to `<snapshots>/driver`: snapshots of one kind mean nothing to the other.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from orlop.metadata.database import Database
from orlop.snapshots.mounts import overlay
from orlop.spec.errors import FailedPrecondition, InvalidArgument, OrlopError, os_errors
from orlop.sys.files import replace_file
from orlop.sys.tree import remove_tree

if TYPE_CHECKING:
    from orlop.snapshots.snapshotter import Snapshotter

DRIVERS = ("overlay", "copy")


def snapshotter(root: Path, database: Database, driver: str = "") -> Snapshotter:
    """The snapshotter of the directory `root`. `driver` asks for one by name; another one than before is an error."""
    if driver and driver not in DRIVERS:
        raise InvalidArgument(f"snapshotter {driver!r}: want one of {', '.join(DRIVERS)}")
    chosen = _recorded(root)
    if chosen and driver and driver != chosen:
        raise FailedPrecondition(f"snapshotter {driver!r}: {root} holds snapshots of {chosen!r}")
    if not chosen:
        chosen = _record(root, driver or _best(root))
    if chosen == "copy":
        from orlop.snapshots.copy import CopySnapshotter

        return CopySnapshotter(root, database)
    from orlop.snapshots.overlay import OverlaySnapshotter

    return OverlaySnapshotter(root, database, user_xattr=os.geteuid() != 0)


def overlay_works(directory: Path) -> bool:
    """Whether an overlay can be mounted with its directories beneath `directory`: not so on an overlay itself, on
    some network file systems, and without the right to mount."""
    from orlop.snapshots.detached import detached

    trial = directory / f".trial-{os.getpid()}"
    names = [str(trial / name) for name in ("lower", "upper", "work")]
    try:
        for name in names:
            os.makedirs(name, exist_ok=True)
        lower, upper, work = names
        os.close(detached((overlay((lower,), upper, work, user_xattr=os.geteuid() != 0),)))
    except OrlopError:
        return False
    finally:
        remove_tree(trial)
    return True


def _best(root: Path) -> str:
    with os_errors("make snapshot directory"):
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        return "overlay" if overlay_works(root) else "copy"


def _recorded(root: Path) -> str:
    try:
        text = (root / "driver").read_text().strip()
    except FileNotFoundError:
        return ""
    if text not in DRIVERS:
        raise FailedPrecondition(f"{root}/driver: names the unknown snapshotter {text[:40]!r}")
    return text


def _record(root: Path, driver: str) -> str:
    with os_errors("record snapshotter"):
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        replace_file(root / "driver", driver.encode() + b"\n")
    return driver
