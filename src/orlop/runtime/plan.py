"""Plans: lists of stages, each a list of operations, which the launch helper performs in order and decides nothing.

A stage is what one process does: it ends in Clone, whose child goes on with the next stage, or in Execve or Exit.
Each step remembers the field of the configuration that it came from (`origin`), so that a failure can be told in the
user's words.
"""

from __future__ import annotations

import msgspec

from orlop.runtime.ops import Op
from orlop.runtime.render import render_op


class Step(msgspec.Struct, frozen=True):
    """An operation, where it came from, and which failures do not count (a mask of SKIP_*, see optable)."""

    op: Op
    origin: str = ""
    skip: int = 0

    def __str__(self) -> str:
        return render_op(self.op, self.skip)


class Stage(msgspec.Struct, frozen=True):
    """What one process does."""

    name: str
    steps: tuple[Step, ...]


class Plan(msgspec.Struct, frozen=True):
    """All stages, outermost first."""

    stages: tuple[Stage, ...]

    def step(self, stage: int, index: int) -> Step | None:
        """The step at a place that the helper reported, or None where there is none."""
        if 0 <= stage < len(self.stages) and 0 <= index < len(self.stages[stage].steps):
            return self.stages[stage].steps[index]
        return None

    def render(self) -> str:
        """The plan for people: a line for each operation, with its origin."""
        lines = []
        for number, stage in enumerate(self.stages):
            lines.append(f"stage {number}: {stage.name}")
            for index, step in enumerate(stage.steps):
                text = f"{index:4} {step}"
                lines.append(f"{text:<100}  # {step.origin}" if step.origin else text)
        return "\n".join(lines) + "\n"
