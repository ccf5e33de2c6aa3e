"""`orlop-runtime`: the OCI command line, with the words and flags of the runtimes that engines expect.

Every verb's module is imported when the verb is named. An error is one line on standard error and, with --log, an
entry there that engines read; the exit status is then 1, and of `exec` 255, so that it can be told from the
process's own. `run` and `exec` else end as the container's process did.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from orlop.cli.flags import Help, Options, Syntax, UsageError, described, parse, switch, value
from orlop.runtime.debug import debug, tell_to
from orlop.spec.errors import InvalidArgument, OrlopError

gc.disable()  # importing makes many objects and no garbage; a command is over before any is worth collecting

PROGRAM = "orlop-runtime"
NAME = "ORLOP_RUNTIME_NAME"  # the variable in which the front end says by which other name it was called
# in the form of crun's --version; `features` has them all
FEATURES = "+SYSTEMD +APPARMOR +CAP +SECCOMP +EBPF"
# verb: (module, text)
VERBS: dict[str, tuple[str, str]] = {
    "checkpoint": ("runtime_checkpoint", "write a running container to files"),
    "create": ("runtime_create", "create a container"),
    "delete": ("runtime_manage", "delete what a container holds"),
    "events": ("runtime_resources", "show what a container uses, and kills for lack of memory"),
    "exec": ("runtime_exec", "run a further process in a container"),
    "features": ("runtime_show", "show what this runtime can do"),
    "kill": ("runtime_manage", "send a signal to a container's first process"),
    "list": ("runtime_manage", "list containers"),
    "mounts": ("runtime_mounts", "add mounts to a running container, or remove them"),
    "pause": ("runtime_manage", "suspend all processes of a container"),
    "plan": ("runtime_show", "show the operations that would create a bundle's container"),
    "ps": ("runtime_manage", "list the processes of a container"),
    "restore": ("runtime_checkpoint", "make a container run on from a checkpoint"),
    "resume": ("runtime_manage", "resume all processes of a container"),
    "run": ("runtime_create", "create and run a container"),
    "spec": ("runtime_show", "write a default config.json"),
    "start": ("runtime_create", "start a created container"),
    "state": ("runtime_manage", "show the state of a container"),
    "update": ("runtime_resources", "change the limits of a container"),
}
FAILURE = {"exec": 255}  # exit status for an error of the verb's own, where it is not 1
ROOT = "/run/orlop-runtime"
GLOBAL = Syntax(
    "COMMAND [ARGUMENTS...]",
    "Open Container Initiative runtime",
    (
        switch("--debug", "Tell of each step, and where in the program an error came from"),
        value("--log", "Write messages to this file"),
        value("--log-format", "Format of the messages there: text or json", "text"),
        value("--root", f"Where the state of containers is kept (default {ROOT}, or $XDG_RUNTIME_DIR/orlop-runtime)"),
        switch("--systemd-cgroup", "Let systemd make control groups"),
        value("--cgroup-manager", "Who makes control groups: cgroupfs, systemd, or disabled for nobody", "cgroupfs"),
        value("--rootless", "Do without control groups that can't be had: true, false, or auto: unless root", "auto"),
        switch("-v --version", "Show the version"),
    ),
    interspersed=False,
)


_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")
_ROOTLESS: dict[str, bool | None] = {"auto": None} | dict.fromkeys(_TRUE, True) | dict.fromkeys(_FALSE, False)


def default_root() -> str:
    """Root's own directory, or one of the user's. Root in a user namespace is by $USER who it was outside; where that
    is not set, as beneath Podman, its $XDG_RUNTIME_DIR counts. Raises InvalidArgument where there is none: any other
    place could be somebody else's."""
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.geteuid() == 0 and not (own and os.environ.get("USER") != "root" and _in_user_namespace()):
        return ROOT
    if not own.startswith("/"):
        raise InvalidArgument("--root: is needed where $XDG_RUNTIME_DIR is not set")
    return os.path.join(own, "orlop-runtime")


def _in_user_namespace() -> bool:
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() != ["0", "0", "4294967295"]


class Context:
    """The global options: where state is kept, and where messages go."""

    def __init__(self, options: Options) -> None:
        if options.log_format not in ("text", "json"):
            raise InvalidArgument(f"--log-format: {options.log_format[:40]!r} is neither text nor json")
        self.root: str = options.root or default_root()
        self.log: str = options.log
        self.format: str = options.log_format
        self.debug: bool = options.debug
        if self.log:
            _check_log(self.log)
        if options.cgroup_manager not in ("cgroupfs", "systemd", "disabled"):
            raise InvalidArgument(f"--cgroup-manager: {options.cgroup_manager[:40]!r} is unknown")
        self.cgroups: bool = options.cgroup_manager != "disabled" or options.systemd_cgroup
        self.systemd: bool = options.systemd_cgroup or options.cgroup_manager == "systemd"
        if self.systemd:
            from orlop.cgroups.systemd import check_booted

            check_booted("--systemd-cgroup" if options.systemd_cgroup else "--cgroup-manager")
        if options.rootless not in _ROOTLESS:
            raise InvalidArgument(f"--rootless: {options.rootless[:20]!r} is not true, false or auto")
        self.rootless: bool | None = _ROOTLESS[options.rootless]
        if self.debug:
            tell_to(self._tell)

    def _tell(self, text: str) -> None:
        """A step, for --debug: into the log, or to standard error in the log's form."""
        if self.log:
            _write_log(self.log, self.format, "debug", text)
        else:
            print(_entry(self.format, "debug", text), file=sys.stderr)

    def warn(self, text: str) -> None:
        """Tell the user what had to be left out, once."""
        if self.log:
            _write_log(self.log, self.format, "warning", text)
        else:
            print(f"{_called}: warning: {text}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status. As the program itself (no `argv`) it does not return."""
    code = _main(list(sys.argv[1:] if argv is None else argv))
    if argv is None:
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """Taking the interpreter apart would cost a tenth of a short command's time."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 1
    os._exit(code)


_called = PROGRAM


def _main(words: list[str]) -> int:
    global _called
    log, failure = ["", "text", ""], 1
    tell_to(None)  # what was asked for by another command, where several are run by one process
    _called = "".join(c for c in os.environ.pop(NAME, "") if c.isprintable())[:64] or PROGRAM
    try:
        options = parse(_called, GLOBAL, words)
        log = [options.log, options.log_format, "debug" if options.debug else ""]
        failure = FAILURE.get(options.arguments[0], 1) if options.arguments else 1
        return _dispatch(options)
    except Help:
        print(_help(""))
        return 0
    except UsageError as error:
        return _fail(1, error.message, *log)
    except OrlopError as error:
        return _fail(failure, error.message, *log)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter's own flush does not fail again
        return 141
    except Exception as error:  # a defect: the user still gets one line
        return _fail(failure, f"internal error: {type(error).__name__}: {error}", *log)


def _dispatch(options: Options) -> int:
    if options.version:
        print(_version())
        return 0
    words = options.arguments
    if not words or words[0] in ("help", "h"):
        print(_help(words[1] if len(words) > 1 else ""))
        return 0
    name = words[0]
    if name not in VERBS:
        if words[1:] in (("-h",), ("--help",)):
            raise UsageError(f"No help topic for '{name[:60]}'")  # as the other runtimes say it
        raise UsageError(f"unknown command: {name[:60]}")
    context = Context(options)
    debug(f"{_called} {name}: state is kept in {context.root}")
    module = import_module(f"orlop.cli.{VERBS[name][0]}")
    act, syntax = module.VERBS[name]
    try:
        given = parse(f"{_called} {name}", syntax, words[1:])
    except Help:
        print(_help(name))
        return 0
    return int(act(given, context) or 0)


def _help(verb: str) -> str:
    """A page as runc has them, with the line of usage that crun has."""
    if verb in VERBS:
        syntax = import_module(f"orlop.cli.{VERBS[verb][0]}").VERBS[verb][1]
        return _page(f"{_called} {verb}", f"{_called} [OPTION...] {verb} {syntax.arguments}", syntax)
    lines = [_page(_called, f"{_called} [OPTION...] {GLOBAL.arguments}", GLOBAL), "", "COMMANDS:"]
    return "\n".join(lines + [f"   {name:10} {text}" for name, (_, text) in VERBS.items()])


def _page(name: str, usage: str, syntax: Syntax) -> str:
    lines = ["NAME:", f"   {name} - {syntax.description}", "", f"Usage: {usage}".rstrip()]
    return "\n".join([*lines, *(["", "OPTIONS:", *described(syntax)] if syntax.flags else [])])


def _version() -> str:
    import orlop
    from orlop.runtime.criu import installed
    from orlop.spec.runtime import VERSION

    commit = "".join(f"commit: {name}\n" for name in (_commit(),) if name)
    features = FEATURES + (" +CRIU" if installed() else "")
    return f"{_called} version {orlop.__version__}\n{commit}spec: {VERSION}\n{features}"


def _commit() -> str:
    """What it was built from; empty where that was no checkout."""
    path = os.path.join(os.path.dirname(os.path.dirname(__file__)), "_native", "commit")
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _fail(code: int, message: str, log: str, format_: str, debug: str) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"{_called}: {message}", file=sys.stderr)
    if log:
        _write_log(log, format_, "error", message)
    return code


def _check_log(path: str) -> None:
    """Whoever reads the log must not wait for messages that can't be written."""
    try:
        with open(path, "a", encoding="utf-8"):
            pass
    except OSError as error:
        raise InvalidArgument(f"--log: cannot write {path}: {(error.strerror or 'error').lower()}") from None


def _entry(format_: str, level: str, message: str) -> str:
    """A line as engines expect it: a JSON object, or logfmt."""
    import time

    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if format_ == "json":
        import msgspec

        return msgspec.json.encode({"level": level, "msg": message, "time": now}).decode()
    quoted = message.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'time="{now}" level={level} msg="{quoted}"'


def _write_log(path: str, format_: str, level: str, message: str) -> None:
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(_entry(format_, level, message) + "\n")
    except OSError as error:
        print(f"{_called}: cannot write {path}: {error.strerror}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
