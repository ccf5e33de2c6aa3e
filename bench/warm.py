"""`orlop-runtime` with the daemon, beside itself without one, runc and crun; and what the daemon's processes hold."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from cases import CASES, Case, Elsewhere
from peers import ORLOP, Lab, run, wait_for
from report import Budget, Result
from timing import Series, Work, command, interleaved

_number = count()


@contextmanager
def _daemon(lab: Lab) -> Iterator[subprocess.Popen[bytes]]:
    """`orlop serve`, where ORLOP_RUNTIME_SOCKET then says it is."""
    path = str(lab.path("runtime.sock"))
    with open(lab.path("serve.log"), "wb") as log:
        process = subprocess.Popen(
            [ORLOP, "serve", "--no-cri", "--socket", path], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        wait_for(lambda: os.path.exists(path), "orlop serve", lab.path("serve.log"))
        time.sleep(0.3)  # the spare workers
        os.environ["ORLOP_RUNTIME_SOCKET"] = path
        yield process
    finally:
        os.environ["ORLOP_RUNTIME_SOCKET"] = ""
        process.terminate()
        process.wait(20)


def _tools(lab: Lab) -> dict[str, list[str]]:
    tools = {"orlop warm": lab.orlop_runtime, "orlop cold": ["env", "ORLOP_RUNTIME_SOCKET=", *lab.orlop_runtime]}
    return tools | {name: getattr(lab, name) for name in ("runc", "crun") if lab.has(name)}


def _measure(lab: Lab, quick: bool, title: str, words: dict[str, list[str]], named: bool) -> Result:
    """Each tool with its words, and a name of its own at the end where `named`."""
    with Elsewhere() as elsewhere:

        def work(tool: str, arguments: list[str]) -> Work:
            def once() -> float:
                whole = [*arguments, f"w{next(_number)}"] if named else arguments
                return elsewhere.time(whole) if tool == "crun" else command(whole, lab.errors)()

            return once

        tools = _tools(lab)
        works = {name: work(name, [*tools[name], *words[name]]) for name in tools if name in words}
        return Result(title, "ms", interleaved(works, 10 if quick else 30), [Budget(1, "crun")])


def _run(lab: Lab, quick: bool) -> Result:
    with _daemon(lab):
        words = {name: ["run", "--bundle", str(lab.bundle)] for name in _tools(lab)}
        return _measure(lab, quick, CASES["warm-run"].title, words, named=True)


def _exec(lab: Lab, quick: bool) -> Result:
    bundle = _idle(lab)
    with _daemon(lab), Elsewhere() as elsewhere:
        tools = _tools(lab)
        names: dict[str, str] = {}
        for name, tool in tools.items():
            if name == "orlop cold":
                names[name] = names["orlop warm"]
                continue
            names[name] = f"idle{next(_number)}"
            start = [*tool, "run", "--detach", "--bundle", str(bundle), names[name]]
            if name == "crun":
                elsewhere.time(start)
            else:
                command(start, lab.errors)()
        try:
            words = {name: ["exec", names[name], "/bin/true"] for name in tools}
            return _measure(lab, quick, CASES["warm-exec"].title, words, named=False)
        finally:
            for name, tool in tools.items():
                if name == "crun":
                    elsewhere.time([*tool, "delete", "--force", names[name]])
                elif name != "orlop cold":
                    run(*tool, "delete", "--force", names[name])


def _idle(lab: Lab) -> Path:
    """The bundle of /bin/true, with a program that stays."""
    import json
    import shutil

    directory = lab.path("idle-bundle")
    if not directory.exists():
        shutil.copytree(lab.bundle, directory, symlinks=True)
        config = json.loads((directory / "config.json").read_text())
        config["process"]["args"] = ["/bin/sleep", "3600"]
        (directory / "config.json").write_text(json.dumps(config))
    return directory


def _memory(lab: Lab, quick: bool) -> Result:
    with _daemon(lab) as process:
        run(*lab.orlop_runtime, "list")
        time.sleep(0.5)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        found = [sum(_pss(pid) for pid in (str(process.pid), *children))]
        return Result(CASES["warm-memory"].title, "KiB", [Series("orlop serve", found)], digits=0)


def _pss(pid: str) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("Pss:")))


CASES["warm-run"] = Case("`orlop-runtime run` with the daemon", _run)
CASES["warm-exec"] = Case("`orlop-runtime exec` with the daemon", _exec)
CASES["warm-memory"] = Case("memory of the idle daemon and its spare workers", _memory)
