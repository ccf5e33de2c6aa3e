"""What a worker needs in memory before a command comes."""

from __future__ import annotations

from importlib import import_module

from orlop.cli.flags import parse
from orlop.cli.runtime import GLOBAL, PROGRAM, VERBS

# what commands import on their way, where they need it
_ON_THE_WAY = (
    "orlop.cgroups.apply",
    "orlop.cgroups.delegation",
    "orlop.cgroups.processes",
    "orlop.runtime.compile_mounts",
    "orlop.runtime.default_spec",
    "orlop.runtime.delete",
    "orlop.runtime.foreground",
    "orlop.runtime.home",
    "orlop.runtime.idmaps",
    "orlop.seccomp.cache",
    "orlop.sys.inroot",
)


def import_all() -> None:
    """Import all that commands do."""
    for name in (*(f"orlop.cli.{module}" for module, _ in VERBS.values()), *_ON_THE_WAY):
        import_module(name)


def rehearse() -> None:
    """Go the way of a command without touching anything: caches are then filled, and pages this process's own."""
    from orlop.runtime.compile_exec import ExecRequest, compile_exec
    from orlop.runtime.create import plan_of
    from orlop.runtime.default_spec import default_spec
    from orlop.runtime.encode import encode
    from orlop.runtime.host import probe_host
    from orlop.spec.document import encode as document
    from orlop.spec.runtime import parse_runtime_spec

    options = parse(PROGRAM, GLOBAL, ["--root", "/", "run", "x"])
    parse(PROGRAM, import_module("orlop.cli.runtime_create").VERBS["run"][1], options.arguments[1:])
    host = probe_host()
    spec = parse_runtime_spec(document(default_spec(host.lesser, host.uid, host.gid))).value
    encode(plan_of(spec, "/", "x", host, "/nowhere"), 8)
    assert spec.process is not None
    encode(compile_exec(spec, spec.process, host, ExecRequest(id="x")), 8)
