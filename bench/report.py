"""Results as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from timing import Series


@dataclass
class Budget:
    """Orlop's median may be at most `most` times the peer's, or, without a peer, at most `most` itself."""

    most: float
    peer: str = ""
    said: str = ""


@dataclass
class Result:
    """What was measured in one case; the first series is Orlop's."""

    title: str
    unit: str
    series: list[Series]
    budgets: list[Budget] = field(default_factory=list)
    digits: int = 1

    def find(self, name: str) -> Series | None:
        return next((each for each in self.series if each.name == name), None)

    def kept(self, budget: Budget) -> bool | None:
        """None where the peer was not there."""
        if not budget.peer:
            return self.series[0].median <= budget.most
        peer = self.find(budget.peer)
        return None if peer is None else self.series[0].median <= budget.most * peer.median

    @property
    def within(self) -> bool:
        return all(self.kept(budget) is not False for budget in self.budgets)

    def as_dict(self) -> dict[str, object]:
        return {
            "title": self.title,
            "unit": self.unit,
            "series": {s.name: {"median": s.median, "p95": s.p95, "values": s.values} for s in self.series},
            "budgets": [{"peer": b.peer, "most": b.most, "kept": self.kept(b)} for b in self.budgets],
        }


def markdown(results: Sequence[Result]) -> str:
    """One line for each contender; of the peers, how often Orlop's figure goes into theirs."""
    lines = ["| what | who | median | p95 | Orlop is | budget | |", "|---|---|---:|---:|---:|---:|---|"]
    for result in results:
        for position, series in enumerate(result.series):
            lines.append(_line(result, series, result.title if position == 0 else ""))
    return "\n".join(lines) + "\n"


def _line(result: Result, series: Series, title: str) -> str:
    orlop, digits = result.series[0], result.digits
    budget = next((b for b in result.budgets if b.peer == ("" if series is orlop else series.name)), None)
    ratio = "" if series is orlop or not series.median else f"{orlop.median / series.median:.2f} of it"
    limit = kept = ""
    if budget is not None:
        limit = budget.said or (f"{budget.most:.2f}" if budget.peer else f"{budget.most:.{digits}f} {result.unit}")
        kept = {True: "kept", False: "**missed**", None: ""}[result.kept(budget)]
    figures = f"{series.median:.{digits}f} {result.unit} | {series.p95:.{digits}f}"
    return f"| {title} | {series.name} | {figures} | {ratio} | {limit} | {kept} |"
