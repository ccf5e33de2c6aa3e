"""Recovery and restart decisions, without a kernel."""

from __future__ import annotations

import pytest

from orlop.engine import lifecycle
from orlop.engine.config import RestartPolicy
from orlop.engine.decide import restart_delay, settle_action, should_restart
from orlop.spec.errors import FailedPrecondition


@pytest.mark.parametrize(
    ("state", "owner_alive", "reality", "held", "rebooted", "action"),
    [
        ("running", False, "running", True, False, "nothing"),
        ("running", False, "stopped", True, False, "finish"),
        ("running", False, "lost", True, False, "finish"),
        ("running", False, "none", True, True, "finish"),
        ("paused", False, "stopped", True, False, "finish"),
        ("starting", True, "none", True, False, "nothing"),
        ("starting", False, "none", True, False, "finish"),
        ("starting", False, "running", True, False, "adopt"),
        ("starting", False, "starting", True, False, "nothing"),
        ("creating", False, "none", False, False, "remove"),
        ("creating", True, "none", False, False, "nothing"),
        ("removing", False, "none", False, False, "remove"),
        ("restarting", False, "none", False, False, "resume restart"),
        ("exited", False, "none", True, False, "release"),
        ("exited", False, "none", False, False, "nothing"),
        ("created", False, "none", False, False, "nothing"),
    ],
)
def test_settles_what_a_killed_process_left(
    state: str, owner_alive: bool, reality: str, held: bool, rebooted: bool, action: str
) -> None:
    assert settle_action(state, owner_alive, reality, held, rebooted) == action  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "code", "restarts", "by_user", "wanted"),
    [
        (RestartPolicy(), 1, 0, False, False),
        (RestartPolicy(name="always"), 0, 5, False, True),
        (RestartPolicy(name="always"), 0, 5, True, False),
        (RestartPolicy(name="unless-stopped"), 1, 0, False, True),
        (RestartPolicy(name="on-failure"), 0, 0, False, False),
        (RestartPolicy(name="on-failure"), 1, 100, False, True),
        (RestartPolicy(name="on-failure", max_retries=2), 1, 1, False, True),
        (RestartPolicy(name="on-failure", max_retries=2), 1, 2, False, False),
    ],
)
def test_restart_policy_follows_docker(
    policy: RestartPolicy, code: int, restarts: int, by_user: bool, wanted: bool
) -> None:
    assert should_restart(policy, code, restarts, by_user) is wanted


def test_restart_delay_doubles_up_to_a_minute_and_resets() -> None:
    assert [restart_delay(n, 0.0) for n in range(4)] == [0.1, 0.2, 0.4, 0.8]
    assert restart_delay(50, 0.0) == 60.0
    assert restart_delay(50, 11.0) == 0.1


def test_every_transition_leads_to_a_known_state() -> None:
    known = {value for value in vars(lifecycle).values() if isinstance(value, str) and value.isalpha()}
    for table in lifecycle.TRANSITIONS.values():
        assert set(table) <= known
        assert set(table.values()) <= known


def test_refuses_with_a_remedy() -> None:
    with pytest.raises(FailedPrecondition, match="cannot remove container web: it is running; stop it first"):
        lifecycle.after("remove", "running", "web")
    with pytest.raises(FailedPrecondition, match="cannot start container web: it is paused; unpause it instead"):
        lifecycle.after("start", "paused", "web")


def test_container_that_was_to_be_removed_at_its_end_is_removed_by_whoever_looks() -> None:
    assert settle_action("exited", False, "none", held=True, rebooted=False, finished=True) == "remove"
    assert settle_action("exited", True, "none", held=True, rebooted=False, finished=True) == "nothing"
    assert settle_action("exited", False, "none", held=True, rebooted=False, finished=False) == "release"


def test_what_nobody_will_ever_start_is_removed() -> None:
    assert settle_action("created", False, "none", held=False, rebooted=False, finished=True) == "remove"
    assert settle_action("created", True, "none", held=False, rebooted=False, finished=True) == "nothing"
