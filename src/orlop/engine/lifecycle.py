"""The life of a container as a table of transitions.

    creating -> created -> starting -> running <-> paused
                   ^           |          |          |
                   |           v          v          v
                   |        exited <--- (init ended) ---> restarting -> starting
                   +--- removing <- any state but running, paused (those with force)

A state is written before the step that it describes: `starting` stands in the record before a process exists, and
`removing` before the first file goes. Whoever finds a state whose owner is dead compares it with what is really
there and finishes or undoes the step (see `settle`).
"""

from __future__ import annotations

from orlop.spec.errors import FailedPrecondition

CREATING, CREATED, STARTING, RUNNING = "creating", "created", "starting", "running"
PAUSED, RESTARTING, EXITED, REMOVING, DEAD = "paused", "restarting", "exited", "removing", "dead"

# event: {state it may happen in: state that follows}
TRANSITIONS: dict[str, dict[str, str]] = {
    "created": {CREATING: CREATED},
    "start": {CREATED: STARTING, EXITED: STARTING, RESTARTING: STARTING},
    "started": {STARTING: RUNNING},
    "start failed": {STARTING: EXITED},
    "pause": {RUNNING: PAUSED},
    "unpause": {PAUSED: RUNNING},
    "exit": {STARTING: EXITED, RUNNING: EXITED, PAUSED: EXITED, RESTARTING: EXITED},
    "restart": {EXITED: RESTARTING, RUNNING: RESTARTING, PAUSED: RESTARTING},
    "remove": {
        CREATING: REMOVING,
        CREATED: REMOVING,
        EXITED: REMOVING,
        REMOVING: REMOVING,
        DEAD: REMOVING,
        RESTARTING: REMOVING,
    },
}

# states in which a process of the container may exist
LIVE = frozenset({STARTING, RUNNING, PAUSED})
# states that belong to an operation under way; they are settled when its owner is gone
TRANSIENT = frozenset({CREATING, STARTING, REMOVING, RESTARTING})

_REFUSALS = {
    ("start", RUNNING): "is already running",
    ("start", PAUSED): "is paused; unpause it instead",
    ("start", REMOVING): "is being removed",
    ("pause", PAUSED): "is already paused",
    ("unpause", RUNNING): "is not paused",
    ("remove", RUNNING): "is running; stop it first or force the removal",
    ("remove", PAUSED): "is paused; unpause and stop it first or force the removal",
}


def after(event: str, state: str, who: str) -> str:
    """The state that follows `event` in `state`, or `FailedPrecondition` saying why it can't happen to `who`."""
    following = TRANSITIONS[event].get(state)
    if following is None:
        why = _REFUSALS.get((event, state), f"is {state}")
        raise FailedPrecondition(f"cannot {event} container {who}: it {why}")
    return following
