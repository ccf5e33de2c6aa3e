"""Command lines as Docker's users write them: a table of flags, parsed by one function.

argparse knows neither `-it`-style bundles with values, nor `--rm=false`, nor options that end at the first argument
(`run IMAGE -x` gives -x to the image), and its import costs 8 ms of every start. The rules here are those of Docker's
command lines: `--name value`, `--name=value`, `-n value`, `-nvalue`, `-abc`, and `--` ends the options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from orlop.spec.errors import OrlopError

Kind = Literal["bool", "str", "list", "missing"]


class UsageError(OrlopError):
    """The command line is wrong; exit status 125, as Docker has it."""

    kind = "invalid argument"


class Help(Exception):
    """--help was asked for; the text is to be printed on standard output."""


class Flag:
    """One option. `names` are as typed (`-e`, `--env`); the last one, without dashes, names the value."""

    __slots__ = ("default", "help", "kind", "metavar", "names")

    def __init__(self, names: str, kind: Kind, help: str, default: Any, metavar: str) -> None:
        self.names = tuple(names.split())
        self.kind = kind
        self.help = help
        self.default = default
        self.metavar = metavar

    @property
    def dest(self) -> str:
        return self.names[-1].lstrip("-").replace("-", "_")


def switch(names: str, help: str, default: bool = False) -> Flag:
    """An option without a value, or with `=true` or `=false`."""
    return Flag(names, "bool", help, default, "")


def value(names: str, help: str, default: str = "", metavar: str = "string") -> Flag:
    """An option with a value; the last one given counts."""
    return Flag(names, "str", help, default, metavar)


def many(names: str, help: str, metavar: str = "list") -> Flag:
    """An option that may be given several times."""
    return Flag(names, "list", help, (), metavar)


def missing(*names: str) -> tuple[Flag, ...]:
    """Options that Docker has and Orlop does not yet: refused by name."""
    return tuple(Flag(name, "missing", "", None, "") for name in names)


class Syntax:
    """What a command takes: its flags, and how many arguments. `most` None is any number."""

    def __init__(
        self,
        arguments: str,
        description: str,
        flags: Sequence[Flag] = (),
        least: int = 0,
        most: int | None = None,
        interspersed: bool = True,
    ) -> None:
        self.arguments = arguments
        self.description = description
        self.flags = tuple(flags)
        self.least = least
        self.most = most
        self.interspersed = interspersed


class Options:
    """The values of a command line by their names, and `arguments`."""

    def __init__(self, values: dict[str, Any], given: frozenset[str], arguments: tuple[str, ...]) -> None:
        self._values = values
        self.given = given  # names of the flags that stood on the command line
        self.arguments = arguments

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(name) from None


def parse(program: str, syntax: Syntax, words: Sequence[str]) -> Options:
    """Read `words`. Raises UsageError, or Help for --help."""
    table = {name: flag for flag in syntax.flags for name in flag.names}
    values: dict[str, Any] = {f.dest: list(f.default) if f.kind == "list" else f.default for f in syntax.flags}
    given: set[str] = set()
    arguments: list[str] = []
    pending = list(words)
    while pending:
        word = pending.pop(0)
        if word == "--":
            arguments += pending
            break
        if not word.startswith("-") or word == "-":
            arguments.append(word)
            if not syntax.interspersed:
                arguments += pending
                break
            continue
        _option(program, syntax, table, word, pending, values, given)
    _count(program, syntax, arguments)
    return Options(values, frozenset(given), tuple(arguments))


def _option(
    program: str,
    syntax: Syntax,
    table: dict[str, Flag],
    word: str,
    pending: list[str],
    values: dict[str, Any],
    given: set[str],
) -> None:
    if word.startswith("--"):
        name, equals, text = word.partition("=")
        _set(program, syntax, table, name, text if equals else None, pending, values, given)
        return
    rest = word[1:]
    while rest:
        name, rest = "-" + rest[0], rest[1:]
        flag = table.get(name)
        if flag is not None and flag.kind == "bool" and not rest.startswith("="):
            values[flag.dest] = True
            given.add(flag.dest)
            continue
        _set(program, syntax, table, name, rest.removeprefix("=") if rest else None, pending, values, given)
        return


def _set(
    program: str,
    syntax: Syntax,
    table: dict[str, Flag],
    name: str,
    text: str | None,
    pending: list[str],
    values: dict[str, Any],
    given: set[str],
) -> None:
    flag = table.get(name)
    if flag is None:
        if name in ("--help", "-h"):
            raise Help(render(program, syntax))
        raise UsageError(f"unknown flag: {name[:60]} (see '{program} --help')")
    if flag.kind == "missing":
        raise UsageError(f"{program}: {name} is not implemented yet")
    given.add(flag.dest)
    if flag.kind == "bool":
        values[flag.dest] = _truth(name, "true" if text is None else text)
        return
    if text is None:
        if not pending:
            raise UsageError(f"flag needs an argument: {name} (see '{program} --help')")
        text = pending.pop(0)
    if flag.kind == "list":
        values[flag.dest].append(text)
    else:
        values[flag.dest] = text


def _truth(name: str, text: str) -> bool:
    if text.lower() in ("true", "t", "1"):
        return True
    if text.lower() in ("false", "f", "0"):
        return False
    raise UsageError(f'invalid argument "{text[:40]}" for "{name}" flag: want true or false')


def _count(program: str, syntax: Syntax, arguments: list[str]) -> None:
    least, most = syntax.least, syntax.most
    if least <= len(arguments) and (most is None or len(arguments) <= most):
        return
    if least == most:
        need = f"requires {least or 'no'} argument{'s' if least != 1 else ''}"
        need = need if least == 0 else need.replace("requires", "requires exactly")
    elif len(arguments) < least:
        need = f"requires at least {least} argument{'s' if least != 1 else ''}"
    else:
        need = f"requires at most {most} argument{'s' if most != 1 else ''}"
    raise UsageError(f"'{program}' {need} (usage: {program} [OPTIONS] {syntax.arguments})".replace(" )", ")"))


def render(program: str, syntax: Syntax) -> str:
    """The text of --help, in Docker's layout."""
    lines = [f"Usage:  {program} [OPTIONS] {syntax.arguments}".rstrip(), "", syntax.description]
    if flags := described(syntax):
        lines += ["", "Options:", *flags]
    return "\n".join(lines)


def described(syntax: Syntax) -> list[str]:
    """A line for each flag."""
    shown = sorted((f for f in syntax.flags if f.kind != "missing"), key=lambda f: f.dest)
    left = [_left(flag) for flag in shown]
    width = max(map(len, left), default=0) + 3
    return [f"{text:{width}}{flag.help}{_default(flag)}" for text, flag in zip(left, shown, strict=True)]


def _default(flag: Flag) -> str:
    if flag.kind == "str" and flag.default:
        return f' (default "{flag.default}")'
    return " (default true)" if flag.kind == "bool" and flag.default else ""


def _left(flag: Flag) -> str:
    short = next((n for n in flag.names if not n.startswith("--")), "")
    long = flag.names[-1] if flag.names[-1].startswith("--") else ""
    names = f"  {short}, {long}" if short and long else f"      {long}" if long else f"  {short}"
    return f"{names} {flag.metavar}" if flag.kind != "bool" else names
