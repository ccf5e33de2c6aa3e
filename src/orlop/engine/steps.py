"""Named points between the steps of an operation, where a crash test ends the process.

Each name stands after a step has been done and before the next begins. With ORLOP_KILL_AT=<name> in the environment
the process kills itself with SIGKILL when it gets there, as a power cut or the OOM killer might; with <name>:<number>
it survives that many times before. Nothing else reads the variable.
"""

from __future__ import annotations

import os
import signal

from orlop.spec import trace

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
    "pods.created": "a pod's sandbox is made, nobody has begun to start it",
    "pods.stop.container": "one container of a pod has been ended, the sandbox has not",
    "pods.stop.sandbox": "a pod's sandbox has been ended",
    "pods.remove.container": "one container of a pod is gone, the sandbox is not",
    "exits.started": "a container runs, the daemon does not watch for its end yet",
    "exits.recorded": "the daemon has recorded an end, the shim does not know of that",
}
_KILL_AT, _, _SURVIVED = os.environ.get("ORLOP_KILL_AT", "").partition(":")
_LEFT = [None] * int(_SURVIVED or 0)


def reached(name: str) -> None:
    """Say that step `name` is done."""
    trace.step(name)
    if _KILL_AT and name == _KILL_AT:
        if _LEFT:
            _LEFT.pop()
        else:
            os.kill(os.getpid(), signal.SIGKILL)
