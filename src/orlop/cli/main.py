"""`orlop`: finds the command, imports its module alone, calls it, and turns what goes wrong into one line.

A command module has `SYNTAX` (see `flags`) and `main(options, context) -> int | None`. Exit codes are
Docker's: 125 for a wrong command line, and for an error of `run`'s own; 126 and 127 for a command that can't be
executed or found; the container's; and 1 for whatever else went wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from orlop.cli.commands import COMMANDS, GROUPS, MISSING, Command
from orlop.cli.context import Context
from orlop.cli.flags import Help, UsageError, parse, render
from orlop.cli.report import report
from orlop.spec.errors import ContainerExit, OrlopError, exit_code, from_os

USAGE = """Usage:  orlop [OPTIONS] COMMAND

Containers from one system call up: images, containers, volumes and networks without a daemon

Global Options:
      --root DIR         Where images and containers are kept (default "/var/lib/orlop", or $ORLOP_ROOT)
      --state DIR        Where the running containers' files are (default "/run/orlop", or $ORLOP_STATE)
  -n, --namespace NAME   Namespace (default "default", or $ORLOP_NAMESPACE)
      --debug            Show where in the program an error came from
  -v, --version          Print version information and quit
"""
_VALUED = {"--root": "root", "--state": "state", "-n": "namespace", "--namespace": "namespace"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = False
    try:
        context, rest = _global_options(arguments)
        debug = context.debug
        code = _dispatch(context, rest)
        sys.stdout.flush()
        return code
    except Help as text:
        print(text)
        return 0
    except OrlopError as error:
        if debug:
            _traceback()
        return _fail(error.message, exit_code(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter's own flush does not fail again
        return 141
    except OSError as error:
        if debug:
            _traceback()
        return _fail(str(from_os(error, "cannot go on")), 1)
    except Exception as error:  # a defect: the user still gets one line, and the way to more
        if debug:
            _traceback()
        return _fail(f"internal error: {type(error).__name__}: {error} (run with --debug to see where)", 125)


def _global_options(arguments: list[str]) -> tuple[Context, list[str]]:
    """Read what stands before the command. `--name value` and `--name=value` are the same."""
    values = {"namespace": os.environ.get("ORLOP_NAMESPACE", "default")}
    debug = False
    while arguments and arguments[0].startswith("-"):
        word, equals, value = arguments.pop(0).partition("=")
        if word in _VALUED:
            if not equals and not arguments:
                raise UsageError(f"flag needs an argument: {word}")
            values[_VALUED[word]] = value if equals else arguments.pop(0)
        elif word in ("-D", "--debug"):
            debug = True
        elif word in ("-v", "--version"):
            arguments[:] = ["version", "--short"]
        elif word in ("-h", "--help"):
            arguments[:] = ["help"]
        else:
            raise UsageError(f"unknown flag: {word[:60]}")
    return Context(debug=debug, **values), arguments


def _dispatch(context: Context, words: list[str]) -> int:
    if not words or words[0] == "help":
        return _help(words[1:])
    name, rest = words[0], words[1:]
    if name in GROUPS:
        if not rest or rest[0] in ("-h", "--help"):
            return _help([name])
        name, rest = f"{name} {rest[0]}", rest[1:]
    command = COMMANDS.get(name)
    if command is None:
        raise UsageError(_unknown(name))
    return _call(command, name, rest, context)


def _call(command: Command, name: str, words: list[str], context: Context) -> int:
    """Run a command. Where an error is the command's own 125, it says so in the table; elsewhere Docker has 1."""
    module = command.load()
    options = parse(f"orlop {name}", module.SYNTAX, words)
    try:
        return int(module.main(options, context) or 0)
    except (UsageError, ContainerExit):
        raise
    except OrlopError as error:
        if context.debug:
            _traceback()
        return _fail(error.message, command.failure)
    finally:
        context.close()


def _unknown(name: str) -> str:
    if name in MISSING:
        return f"'orlop {name}' is not implemented yet"
    return f"unknown command: 'orlop {name[:60]}'"


def _help(words: list[str]) -> int:
    name = " ".join(words[:2])
    name = name if name in COMMANDS else words[0] if words else ""
    if name in COMMANDS:
        print(render(f"orlop {name}", COMMANDS[name].load().SYNTAX))
        return 0
    if name and name not in GROUPS:
        raise UsageError(_unknown(name))
    if name:
        print(f"Usage:  orlop {words[0]} COMMAND\n\n{GROUPS[words[0]]}\n\nCommands:")
        prefix = words[0] + " "
    else:
        print(f"{USAGE}\nCommands:")
        prefix = ""
    for name, command in COMMANDS.items():
        if name.startswith(prefix) and not command.hidden and (prefix or " " not in name):
            print(f"  {name.removeprefix(prefix):12} {command.help}")
    if not prefix:
        print("\nManagement Commands:")
        for name, text in GROUPS.items():
            if text:
                print(f"  {name:12} {text}")
        print("\nRun 'orlop COMMAND --help' for more information on a command.")
    return 0


def _fail(message: str, code: int) -> int:
    try:
        sys.stdout.flush()
    except OSError:  # what can't be printed has been told by now, or nobody listens
        pass
    report(message)
    return code


def _traceback() -> None:
    import traceback

    traceback.print_exc()
