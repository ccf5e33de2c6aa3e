"""What is measured. Each case takes a `Lab` and returns a `Result` whose first series is Orlop's."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from peers import ORLOP, Lab, image, run
from report import Budget, Result
from timing import Series, Work, command, interleaved

IDLE = 6  # containers whose supervisors' memory is looked at
_number = count()


@dataclass
class Case:
    title: str
    measure: Callable[[Lab, bool], Result]


CASES: dict[str, Case] = {}


def _case(name: str, title: str) -> Callable[[Callable[[Lab, bool, str], Result]], None]:
    def register(measure: Callable[[Lab, bool, str], Result]) -> None:
        CASES[name] = Case(title, lambda lab, quick: measure(lab, quick, title))

    return register


def _rounds(quick: bool, full: int = 30) -> int:
    return max(3, full // 3) if quick else full


# --- starting


@_case("run-bridge", "`run --rm busybox true`, bridge network")
def _run_bridge(lab: Lab, quick: bool, title: str) -> Result:
    name = image(lab.registry)
    works = {"orlop": command([*lab.orlop, "run", "--rm", name, "true"], lab.errors)}
    if lab.has("docker"):
        works["docker"] = command([*lab.docker, "run", "--rm", name, "true"], lab.errors)
    return Result(title, "ms", interleaved(works, _rounds(quick)), [Budget(1 / 3, "docker")])


@_case("run-none", "the same without network")
def _run_none(lab: Lab, quick: bool, title: str) -> Result:
    name = image(lab.registry)
    alone = ["run", "--rm", "--network", "none", name, "true"]
    works = {"orlop": command([*lab.orlop, *alone], lab.errors)}
    if lab.has("ctr"):
        works["ctr"] = lambda: command([*lab.ctr, "run", "--rm", name, f"b{next(_number)}", "true"], lab.errors)()
    if lab.has("docker"):
        works["docker"] = command([*lab.docker, *alone], lab.errors)
    return Result(title, "ms", interleaved(works, _rounds(quick)), [Budget(1 / 2, "ctr")])


@_case("exec", "`exec CONTAINER true`")
def _exec(lab: Lab, quick: bool, title: str) -> Result:
    name = image(lab.registry)
    idle = ["run", "-d", "--name", "idle", name, "sleep", "3600"]
    run(*lab.orlop, *idle)
    works = {"orlop": command([*lab.orlop, "exec", "idle", "true"], lab.errors)}
    if lab.has("docker"):
        run(*lab.docker, *idle)
        works["docker"] = command([*lab.docker, "exec", "idle", "true"], lab.errors)
    if lab.has("ctr"):
        run(*lab.ctr, "run", "-d", name, "idle", "sleep", "3600")
        arguments = [*lab.ctr, "task", "exec", "--exec-id"]
        works["ctr"] = lambda: command([*arguments, f"e{next(_number)}", "idle", "true"], lab.errors)()
    try:
        return Result(title, "ms", interleaved(works, _rounds(quick)), [Budget(1 / 3, "docker")])
    finally:
        run(*lab.orlop, "rm", "-f", "idle")
        if "docker" in works:
            run(*lab.docker, "rm", "-f", "idle")
        if "ctr" in works:
            run(*lab.ctr, "task", "kill", "-s", "KILL", "idle")
            _patiently(*lab.ctr, "container", "rm", "idle")


@_case("runtime", "`orlop-runtime run` of a bundle with /bin/true")
def _runtime(lab: Lab, quick: bool, title: str) -> Result:
    bundle = str(lab.bundle)

    def of(tool: list[str]) -> Work:
        return lambda: command([*tool, "run", "--bundle", bundle, f"b{next(_number)}"], lab.errors)()

    works = {"orlop": of(lab.orlop_runtime)}
    if lab.has("runc"):
        works["runc"] = of(lab.runc)
    budgets = [Budget(2, "runc")]
    if not lab.has("crun"):
        return Result(title, "ms", interleaved(works, _rounds(quick)), budgets)
    with Elsewhere() as elsewhere:
        works["crun"] = lambda: elsewhere.time([*lab.crun, "run", "--bundle", bundle, f"b{next(_number)}"])
        return Result(title, "ms", interleaved(works, _rounds(quick)), budgets)


class Elsewhere:
    """Times programs in a mount namespace that shows cgroup v1 alone: crun refuses a view of both versions."""

    def __enter__(self) -> Elsewhere:
        script = (
            "umount /sys/fs/cgroup/unified 2>/dev/null; exec " + f"python3 -IS {Path(__file__).parent}/elsewhere.py"
        )
        arguments = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script]
        self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def time(self, arguments: list[str]) -> float:
        """Milliseconds that a program took."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("\0".join(arguments) + "\n")
        self._process.stdin.flush()
        status, taken = self._process.stdout.readline().split()
        if status != "0":
            raise SystemExit(f"{' '.join(arguments)}: exit status {status}")
        return float(taken)


# --- images


@_case("pull", "pull and unpack a 10,000-file image, cold store")
def _pull(lab: Lab, quick: bool, title: str) -> Result:
    name = image(lab.registry, "debian")
    works: dict[str, Work] = {"orlop": lambda: _orlop_pull(lab, name)}
    if lab.has("ctr"):
        pull = command([*lab.ctr, "images", "pull", "--plain-http", name], lab.errors)
        works["ctr"] = lambda: _then(pull, *lab.ctr, "images", "rm", "--sync", name)
    if lab.has("docker"):
        fetch = command([*lab.docker, "pull", "-q", name], lab.errors)
        works["docker"] = lambda: _then(fetch, *lab.docker, "rmi", name)
    series = interleaved(works, _rounds(quick, 9), warmups=1)
    return Result(title, "ms", series, [Budget(0.6, "ctr")], digits=0)


def _orlop_pull(lab: Lab, name: str) -> float:
    cold = lab.path(f"cold-{next(_number)}")
    pull = command([ORLOP, "--root", str(cold), "pull", "-q", name], lab.errors)
    return _then(pull, "rm", "-r", str(cold))


def _then(work: Work, *after: str) -> float:
    taken = work()
    run(*after)
    return taken


# --- memory


@_case("memory", "private memory beside an idle container")
def _memory(lab: Lab, quick: bool, title: str) -> Result:
    name = image(lab.registry)
    series = []
    names = [f"idle{number}" for number in range(IDLE)]
    before = _processes()
    for each in names:
        run(*lab.orlop, "run", "-d", "--name", each, name, "sleep", "3600")
    time.sleep(0.5)
    series.append(Series("orlop", _private(_processes() - before)))
    for each in names:
        run(*lab.orlop, "rm", "-f", each)
    if lab.has("ctr"):
        before = _processes()
        for each in names:
            run(*lab.ctr, "run", "-d", name, each, "sleep", "3600")
        time.sleep(0.5)
        series.append(Series("ctr", _private(_processes() - before)))
        for each in names:
            run(*lab.ctr, "task", "kill", "-s", "KILL", each)
            _patiently(*lab.ctr, "container", "rm", each)
    return Result(title, "KiB", series, [Budget(0.1, "ctr")], digits=0)


@_case("daemon", "memory while no container runs: all processes, private")
def _daemon(lab: Lab, quick: bool, title: str) -> Result:
    run(*lab.orlop, "run", "--rm", "--network", "none", image(lab.registry), "true")
    ours = sum(_private({pid for pid in _processes() if _executable(pid).startswith("orlop")}))
    series = [Series("orlop", [ours])]
    for name, peer in (("containerd", "ctr"), ("dockerd", "docker")):
        if lab.has(peer):
            series.append(Series(name, _private({lab.daemon(name)})))
    return Result(title, "KiB", series, [Budget(0)], digits=0)


def _processes() -> set[int]:
    """The processes in this mount namespace: containers have others, supervisors and daemons don't."""
    mine = os.readlink("/proc/self/ns/mnt")
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/ns/mnt") == mine:
                found.add(int(pid))
        except OSError:
            continue
    return found


def _executable(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _private(pids: set[int]) -> list[float]:
    """KiB of memory that each of the processes has to itself."""
    found = []
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        found.append(float(sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))))
    return found


# --- the interpreter


@_case("imports", "interpreter and every import of a command, and nothing else")
def _imports(lab: Lab, quick: bool, title: str) -> Result:
    name = image(lab.registry)
    run(*lab.orlop, "run", "-d", "--name", "imports", "--network", "none", name, "sleep", "3600")
    run(*lab.orlop, "exec", "imports", "true")  # the first leaves a plan for the next
    commands = {"run": ["run", "--rm", name, "true"], "exec": ["exec", "imports", "true"], "ps": ["ps"]}
    try:
        works = {"bare interpreter": command([_python(), "-IS", "-c", "pass"], lab.errors)}
        for verb, arguments in commands.items():
            script = lab.path(f"imports-{verb}.py")
            script.write_text(_imported([*lab.orlop, *arguments]))
            works[f"orlop {verb}"] = command([_python(), "-IS", str(script)], lab.errors)
    finally:
        run(*lab.orlop, "rm", "-f", "imports")
    series = interleaved(works, _rounds(quick))
    series.append(series.pop(0))  # the slowest command is not known beforehand; each has the same budget
    series[:3] = sorted(series[:3], key=lambda each: -each.median)
    return Result(title, "ms", series, [Budget(50)])


def _python() -> str:
    """The interpreter that the launchers name."""
    with open(ORLOP) as file:
        return file.readline().removeprefix("#!").split()[0]


def _imported(arguments: list[str]) -> str:
    """A program that imports what a command does, in the same order."""
    with open(ORLOP) as file:
        lines = file.read().splitlines()
    done = subprocess.run([_python(), "-IS", "-X", "importtime", *arguments], capture_output=True, text=True)
    # what is indented was imported by the line below it
    found = [line.rpartition("| ")[2] for line in done.stderr.splitlines() if line.startswith("import time:")]
    names = [name for name in found if not name.startswith(" ")]
    paths = [line for line in lines if line.startswith(("import sys", "sys.path"))]
    wanted = [name for name in names if name not in ("imported package", "site")]
    # how the interpreter is taken apart is no part of this
    return "\n".join([*paths, *(f"import {name}" for name in wanted), "import os", "os._exit(0)"]) + "\n"


def _patiently(*arguments: str) -> None:
    """Try for a moment: what was killed takes a while to be gone."""
    for _ in range(50):
        if subprocess.run(arguments, capture_output=True).returncode == 0:
            return
        time.sleep(0.05)
    run(*arguments)
