#!/usr/bin/env python3
"""Apply the layers of an image in an OCI layout, all at once, as a pull does. Usage: layers.py LAYOUT SCRATCH [ROUNDS]
SCRATCH is an empty directory, best on tmpfs: ext4's speed varies too much to compare."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import threading
import time
from pathlib import Path

from orlop.layers.apply import apply
from orlop.spec.image import LAYER_COMPRESSION


def blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def layers(layout: Path) -> list[tuple[Path, str]]:
    manifest = json.loads((layout / "index.json").read_bytes())["manifests"][0]
    document = json.loads(blob(layout, manifest["digest"]).read_bytes())
    return [(blob(layout, each["digest"]), LAYER_COMPRESSION[each["mediaType"]]) for each in document["layers"]]


def once(found: list[tuple[Path, str]], scratch: Path, together: bool) -> tuple[float, float, int]:
    """(seconds, CPU seconds, entries)"""
    entries: list[int] = []

    def one(number: int, path: Path, compression: str) -> None:
        target = scratch / str(number)
        target.mkdir()
        with path.open("rb") as stream:
            entries.append(apply(stream, compression, target).entries)

    threads = [threading.Thread(target=one, args=(n, *each)) for n, each in enumerate(found)]
    started, cpu = time.perf_counter(), sum(os.times()[:4])
    for thread in threads:
        thread.start()
        if not together:
            thread.join()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - started, sum(os.times()[:4]) - cpu, sum(entries)
    for number in range(len(found)):
        shutil.rmtree(scratch / str(number))
    return taken


def main() -> None:
    layout, scratch = Path(sys.argv[1]), Path(sys.argv[2])
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    found = layers(layout)
    for name, together in (("one after the other", False), ("all at once", True)):
        results = [once(found, scratch, together) for _ in range(rounds)]
        wall, cpu = (statistics.median(result[index] for result in results) for index in (0, 1))
        print(f"{name}: {wall:.2f} s, {cpu:.2f} s of CPU, {results[0][2]} entries")


if __name__ == "__main__":
    main()
