"""Times commands pair by pair: in every round each contender runs once, so that a drift of the machine meets all."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Work = Callable[[], float]  # does one round, returns what it took in milliseconds (or another figure)


@dataclass
class Series:
    """The figures of one contender."""

    name: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def p95(self) -> float:
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]


def interleaved(works: dict[str, Work], rounds: int, warmups: int = 2) -> list[Series]:
    """Run each contender `rounds` times, one after the other in every round, the order turning by one each round."""
    series = {name: Series(name) for name in works}
    names = list(works)
    for number in range(-warmups, rounds):
        for step in range(len(names)):
            name = names[(number + step) % len(names)]
            value = works[name]()
            if number >= 0:
                series[name].values.append(value)
    return list(series.values())


def command(arguments: list[str], errors: str, status: int = 0) -> Work:
    """Runs a program without an input, its output thrown away; milliseconds from its start to its end."""

    def work() -> float:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        ]
        started = time.perf_counter()
        pid = os.posix_spawnp(arguments[0], arguments, os.environ, file_actions=actions)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        taken = (time.perf_counter() - started) * 1e3
        if ended != status:
            with open(errors, errors="replace") as file:
                sys.exit(f"{' '.join(arguments)}: exit status {ended}\n{file.read()[-2000:]}")
        return taken

    return work
