"""What is to be done with a container, decided from what its record says and what is really there. Pure.

Recovery needs no journal: a state is written before the step it describes, so the record says what may have been
begun, and the owner's death says that nobody will finish it.
"""

from __future__ import annotations

from typing import Literal

from orlop.engine import lifecycle
from orlop.engine.config import RestartPolicy

# how a container's shim and init were found: see shim.state
Reality = Literal["none", "starting", "running", "stopped", "lost"]
Action = Literal["nothing", "adopt", "finish", "release", "remove", "resume restart"]

BACKOFF_FIRST = 0.1  # seconds
BACKOFF_MOST = 60.0
BACKOFF_RESET_AFTER = 10.0  # a container that ran this long starts anew with the shortest delay


def settle_action(
    state: str, owner_alive: bool, reality: Reality, held: bool, rebooted: bool, finished: bool = False
) -> Action:
    """The step that makes the record true again.

    `held` says that the record still lists resources of a process; `rebooted`, that it was made before this boot;
    `finished`, that nothing is to be kept of it any more: it was to run once and be removed (`--rm`), and did run, or
    it is a pod's sandbox, which is made and started in one step, and never came to run.
    """
    if state == lifecycle.CREATED:
        return "remove" if finished and not owner_alive else "nothing"
    if state == lifecycle.EXITED:
        if owner_alive:
            return "nothing"
        return "remove" if finished else "release" if held else "nothing"
    if owner_alive and state in lifecycle.TRANSIENT:
        return "nothing"
    if state in (lifecycle.CREATING, lifecycle.REMOVING):
        return "remove"
    if state == lifecycle.RESTARTING:
        return "finish" if rebooted else "resume restart"
    if state in lifecycle.LIVE:
        if rebooted or reality in ("none", "stopped", "lost"):
            return "finish"
        return "adopt" if state == lifecycle.STARTING and reality == "running" else "nothing"
    return "nothing"


def should_restart(policy: RestartPolicy, exit_code: int, restarts: int, stopped_by_user: bool) -> bool:
    """Whether a container that has just ended is to be started again (docs of `docker run --restart`)."""
    if stopped_by_user or policy.name in ("", "no"):
        return False
    if policy.name == "on-failure":
        return exit_code != 0 and (policy.max_retries == 0 or restarts < policy.max_retries)
    return policy.name in ("always", "unless-stopped")


def restart_delay(restarts: int, ran_for: float) -> float:
    """Seconds to wait before a restart: doubled with each one that came quickly."""
    if ran_for >= BACKOFF_RESET_AFTER:
        return BACKOFF_FIRST
    return min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** min(restarts, 16))
