"""Named points between the steps of an operation, where a crash test ends the process.

Each name stands after a step has been done and before the next begins. With ORLOP_KILL_AT=<name> in the environment
the process kills itself with SIGKILL when it gets there, as a power cut or the OOM killer might. Nothing else reads
the variable.
"""

from __future__ import annotations

import os
import signal

STEPS: dict[str, str] = {
    "create.reserved": "name and id stand in the database",
    "create.snapshot": "the writable snapshot exists",
    "create.volumes": "volumes exist and are filled",
    "start.recorded": "state `starting` stands in the database",
    "start.files": "config.json and the container's files are written, shared memory is mounted",
    "start.cgroup": "the cgroup exists and carries its limits",
    "start.shim": "the shim runs and the helper has been started",
    "start.network": "the network interface is configured, ports are published",
    "start.launched": "the container's process runs, the record does not say so yet",
    "start.running": "the record says running",
    "exit.recorded": "the exit status stands in the database, resources are still held",
    "exit.released": "network and cgroup are released",
    "remove.recorded": "state `removing` stands in the database",
    "remove.snapshot": "the writable snapshot is gone",
    "remove.files": "the container's files are gone",
}
_KILL_AT = os.environ.get("ORLOP_KILL_AT", "")


def reached(name: str) -> None:
    """Say that step `name` is done."""
    if _KILL_AT and name == _KILL_AT:
        os.kill(os.getpid(), signal.SIGKILL)
