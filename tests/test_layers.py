"""Imports only go downward, and pure modules touch nothing outside themselves (docs: "Layers")."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "orlop"

# package or module: how high it stands; an import may only lead to the same or a lower level
LEVELS = {
    "standins": 0,
    "light": 0,
    "_stubs": 0,
    "spec": 0,
    "wire": 1,
    "sys": 1,
    "runtime": 3,
    "seccomp": 3,
    "cgroups": 3,
    "snapshots": 3,
    "content": 3,
    "layers": 3,
    "metadata": 3,
    "distribution": 3,
    "network": 3,
    "shim": 3,
    "runtime.optable": 2,
    "runtime.opgen": 2,
    "runtime.ops": 2,
    "runtime.plan": 2,
    "runtime.encode": 2,
    "runtime.template": 2,
    "runtime.handshake": 2,
    "runtime.facts": 2,
    "runtime.render": 2,
    "runtime.namespaces": 2,
    "runtime.mount_options": 2,
    "seccomp.assemble": 3,
    "cgroups.blkio": 2,
    "cgroups.compile": 2,
    "cgroups.compile_systemd": 2,
    "cgroups.units": 2,
    "cgroups.facts": 2,
    "cgroups.devices": 2,
    "cgroups.write": 2,
    "snapshots.mounts": 2,
    "network.addresses": 2,
    "network.plan": 2,
    "network.records": 2,
    "network.rules": 2,
    "engine": 4,
    "registry": 5,
    "cri": 5,
    "daemon": 5,
    "cli": 5,
    "__main__": 5,
}
PURE = (
    "spec.",
    "wire.",
    "runtime.optable",
    "runtime.ops",
    "runtime.plan",
    "runtime.template",
    "runtime.encode",
    "runtime.handshake",
    "runtime.facts",
    "runtime.compile",
    "cgroups.blkio",
    "cgroups.compile",
    "cgroups.devices",
    "cgroups.facts",
    "cgroups.units",
    "cgroups.write",
    "seccomp.assemble",
    "seccomp.default",
    "snapshots.mounts",
    "network.addresses",
    "network.plan",
    "network.records",
    "network.rules",
    "network.files",
    "cri.streaming.tokens",
    "cri.streaming.backend",
    "engine.checkpoints.metadata",
    "engine.oci.",
    "engine.users",
    "engine.lifecycle",
    "engine.config",
)
FORBIDDEN_IN_PURE = {"os", "socket", "subprocess", "ctypes", "shutil", "tempfile", "fcntl"}
ALLOWED = {("spec.errors", "os")}  # strerror only: a table of texts


@cache
def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found.append((name, path))
    return found


@cache
def known_modules() -> set[str]:
    return {f"orlop.{name}" for name, _ in modules()}


def level(name: str) -> int:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in LEVELS:
            return LEVELS[".".join(parts[:length])]
    raise AssertionError(f"{name}: give it a level in LEVELS")


@cache
def imports(path: Path, at_start: bool = False) -> set[str]:
    """Modules that a file names in imports; `at_start`: only those that importing the file itself brings in."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in _at_start(tree) if at_start else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            known = known_modules()
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from package import module` is an import of the module; of the package only where it defines the name
            found |= (names & known) or {node.module}
    return found


def _at_start(tree: ast.Module) -> list[ast.AST]:
    nodes: list[ast.AST] = []
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        nodes.append(node)
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not typing_only and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            pending += list(ast.iter_child_nodes(node))
    return nodes


def targets(path: Path, at_start: bool = False) -> set[str]:
    """The modules of Orlop that a file imports."""
    known = {f"orlop.{name}" for name, _ in modules()}
    return {name.removeprefix("orlop.") for name in imports(path, at_start) if name in known}


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_down(name: str, path: Path) -> None:
    upward = {target for target in targets(path) if level(target) > level(name)}
    assert not upward, f"{name} (level {level(name)}) imports upward: {sorted(upward)}"


@pytest.mark.parametrize(
    ("name", "path"),
    [m for m in modules() if f"{m[0]}.".startswith(PURE) or m[0].startswith(PURE)],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_pure_modules_touch_nothing(name: str, path: Path) -> None:
    bad = {i for i in imports(path) if i.split(".")[0] in FORBIDDEN_IN_PURE and (name, i.split(".")[0]) not in ALLOWED}
    assert not bad, f"{name} is pure and imports {sorted(bad)}"


def test_ctypes_lives_in_sys_alone() -> None:
    users = {name for name, path in modules() if any(i.split(".")[0] == "ctypes" for i in imports(path))}
    assert {name for name in users if not name.startswith("sys.")} == set()


def test_no_import_cycles() -> None:
    graph = {name: targets(path, at_start=True) - {name} for name, path in modules()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join((*trail[trail.index(name) :], name))}"
        if name in done:
            return
        for target in sorted(graph.get(name, ())):
            visit(target, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())
