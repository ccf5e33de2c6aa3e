"""Benchmarks: Orlop and its peers side by side, with ratios against the budgets. Run by `scripts/bench`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import cri  # noqa: F401 - its cases
import machine
import report
import warm  # noqa: F401 - its cases
from cases import CASES
from peers import Lab


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure Orlop beside its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure (default: everything)")
    parser.add_argument("--quick", action="store_true", help="a third of the rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--list", action="store_true", help="list the names and leave")
    options = parser.parse_args()
    if options.list:
        for name, case in CASES.items():
            print(f"{name:12} {case.title}")
        return 0
    if unknown := [name for name in options.names if name not in CASES]:
        parser.error(f"no such benchmark: {unknown[0]} (there are {', '.join(CASES)})")
    chosen = options.names or list(CASES)
    before = machine.calibration()
    results, notes = [], []
    with Lab() as lab:
        for name in chosen:
            started = time.monotonic()
            print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
            results.append(CASES[name].measure(lab, options.quick))
            print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
        notes = [*lab.versions(), *lab.notes]
    after = machine.calibration()
    print(report.markdown(results))
    print("\n".join(f"- {note}" for note in notes))
    print(f"- before: {before}\n- after: {after}")
    if options.json:
        document = {"results": [r.as_dict() for r in results], "notes": notes, "calibration": [before, after]}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(result.within for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
