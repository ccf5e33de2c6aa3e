"""Go templates as `--format` takes them: the part of text/template that Docker's users write. Pure.

    parse("{{.Name}}: {{range $k, $v := .Labels}}{{$k}}={{$v}} {{end}}").render(data)

Data are JSON's types. Of a dict, `.Field` is the value; a field that begins with a capital letter and is not there is
an error (a misspelled field), any other key is `<no value>` (a map that has no such entry).

Not there, and refused by name: `define`, `template`, `block`, `break`, `continue`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from orlop.cli.docker.template_functions import FUNCTIONS, Fault, member, show, truth
from orlop.spec.errors import InvalidArgument, Unimplemented

_ACTION = re.compile(r"\{\{(-(?=\s))?(.*?)(?:(?<=\s)(-))?\}\}", re.DOTALL)
_COMMENT = re.compile(r"\s*/\*.*\*/\s*", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:\\.|[^"\\\n])*"|`[^`]*`)
      | (?P<char>'(?:\\.|[^'\\])+')
      | (?P<number>[+-]?\d+(?:\.\d+)?)
      | (?P<variable>\$[A-Za-z0-9_]*)
      | (?P<fields>(?:\.[A-Za-z_][A-Za-z0-9_]*)+)
      | (?P<dot>\.)
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign>:=|[=|(),])
    )""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'", "a": "\a", "0": "\0"}
_DEEPEST = 100

Scope = dict[str, Any]
Expression = Callable[[Any, Scope], Any]
Node = Callable[[Any, Scope, list[str]], None]


class Template:
    """A template that has been read; `render` may be called many times."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes

    def render(self, data: Any) -> str:
        """The text for `data`. Raises InvalidArgument in one line."""
        written: list[str] = []
        try:
            _run(self._nodes, data, {"$": data}, written)
        except Fault as fault:
            raise InvalidArgument(f"template: {fault}") from None
        except RecursionError:
            raise InvalidArgument("template: it is nested too deep") from None
        return "".join(written)


def parse(text: str) -> Template:
    """Read a template. Raises InvalidArgument in one line."""
    parser = _Parser(_split(text))
    nodes, stop = parser.block(())
    assert not stop
    return Template(nodes)


def _run(nodes: Sequence[Node], dot: Any, scope: Scope, written: list[str]) -> None:
    for node in nodes:
        node(dot, scope, written)


def _split(text: str) -> list[tuple[str, str]]:
    """("text", ...) and ("action", ...), with white space cut where `{{-` and `-}}` say so."""
    parts: list[tuple[str, str]] = []
    end, trim = 0, False
    for match in _ACTION.finditer(text):
        before = text[end : match.start()]
        before = before.lstrip() if trim else before
        parts.append(("text", before.rstrip() if match[1] else before))
        if not _COMMENT.fullmatch(match[2]):
            parts.append(("action", match[2].strip()))
        end, trim = match.end(), bool(match[3])
    rest = text[end:]
    if "{{" in rest:
        raise InvalidArgument("template: unclosed action: '{{' without '}}'")
    parts.append(("text", rest.lstrip() if trim else rest))
    return [part for part in parts if part != ("text", "")]


class _Parser:
    """Reads the parts into nodes, block by block."""

    def __init__(self, parts: list[tuple[str, str]]) -> None:
        self._parts = parts
        self._depth = 0

    def block(self, stops: tuple[str, ...]) -> tuple[list[Node], str]:
        """Nodes up to an action whose first word is in `stops` (which is returned), or to the end."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise InvalidArgument("template: it is nested too deep")
        nodes: list[Node] = []
        while self._parts:
            kind, text = self._parts.pop(0)
            if kind == "text":
                nodes.append(_literal(text))
                continue
            word = (re.match(r"\w+", text) or [""])[0]
            if word in ("end", "else"):
                if word not in stops:
                    raise InvalidArgument(f"template: unexpected {{{{{text[:20]}}}}}")
                self._depth -= 1
                return nodes, text
            nodes.append(self._action(word, text))
        if stops:
            raise InvalidArgument("template: unexpected end: {{end}} is missing")
        self._depth -= 1
        return nodes, ""

    def _action(self, word: str, text: str) -> Node:
        if word in ("define", "template", "block", "break", "continue"):
            raise Unimplemented(f"template: {{{{{word}}}}} is not supported")
        if word in ("if", "with", "range"):
            return self._control(word, text[len(word) :])
        names, expression = _pipeline(text)
        if not names:
            return lambda dot, scope, written: written.append(show(expression(dot, scope)))
        return _assign(names, expression)

    def _control(self, word: str, head: str) -> Node:
        names, expression = _pipeline(head)
        body, stop = self.block(("end", "else"))
        other: list[Node] = []
        if stop.startswith("else"):
            rest = stop[4:].strip()
            if rest:  # {{else if ...}}: a control of its own, ended by the same {{end}}
                inner = (re.match(r"\w+", rest) or [""])[0]
                if inner not in ("if", "with") or inner != word:
                    raise InvalidArgument(f"template: unexpected {{{{{stop[:20]}}}}}")
                other = [self._control(inner, rest[len(inner) :])]
            else:
                other, _ = self.block(("end",))
        return _CONTROLS[word](names, expression, body, other)


def _literal(text: str) -> Node:
    return lambda dot, scope, written: written.append(text)


def _assign(names: list[str], expression: Expression) -> Node:
    def node(dot: Any, scope: Scope, written: list[str]) -> None:
        value = expression(dot, scope)
        for name in names:
            scope[name] = value

    return node


def _if(names: list[str], expression: Expression, body: list[Node], other: list[Node]) -> Node:
    def node(dot: Any, scope: Scope, written: list[str]) -> None:
        value = expression(dot, scope)
        for name in names:
            scope[name] = value
        _run(body if truth(value) else other, dot, scope, written)

    return node


def _with(names: list[str], expression: Expression, body: list[Node], other: list[Node]) -> Node:
    def node(dot: Any, scope: Scope, written: list[str]) -> None:
        value = expression(dot, scope)
        for name in names:
            scope[name] = value
        if truth(value):
            _run(body, value, scope, written)
        else:
            _run(other, dot, scope, written)

    return node


def _range(names: list[str], expression: Expression, body: list[Node], other: list[Node]) -> Node:
    def node(dot: Any, scope: Scope, written: list[str]) -> None:
        items = _items(expression(dot, scope))
        for key, value in items:
            bound = [value] if len(names) == 1 else [key, value]
            scope.update(zip(names, bound, strict=False))
            _run(body, value, scope, written)
        if not items:
            _run(other, dot, scope, written)

    return node


_CONTROLS = {"if": _if, "with": _with, "range": _range}


def _items(value: Any) -> list[tuple[Any, Any]]:
    if value is None:
        return []
    if isinstance(value, dict):
        return sorted(value.items())
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1 << 20:
        return [(i, i) for i in range(value)]
    raise Fault(f"range can't iterate over {show(value)[:40]}")


# Pipelines


def _pipeline(text: str) -> tuple[list[str], Expression]:
    """`$a, $b := first | second x`: the variables that it sets, and its value."""
    tokens = _tokens(text)
    names = [name for kind, name in tokens[:1] if kind == "variable"]
    if len(tokens) > 3 and names and tokens[1] == ("sign", ",") and tokens[2][0] == "variable":
        names.append(tokens[2][1])
    length = 2 * len(names)
    if not names or len(tokens) <= length or tokens[length - 1] not in (("sign", ":="), ("sign", "=")):
        names, length = [], 0
    reader = _Reader(tokens[length:], text)
    expression = reader.pipeline()
    if reader.tokens:
        raise InvalidArgument(f"template: unexpected {reader.tokens[0][1][:20]!r} in {text.strip()[:60]!r}")
    return names, expression


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or not match.lastgroup:
            raise InvalidArgument(f"template: unexpected {text[at:].lstrip()[:20]!r} in {text.strip()[:60]!r}")
        glued = match.start(match.lastgroup) == at and at > 0
        kind = "more" if match.lastgroup == "fields" and glued and tokens[-1][1] == ")" else match.lastgroup
        if kind == "fields" and glued and tokens[-1][0] == "variable":
            kind = "more"
        tokens.append((kind, match[match.lastgroup]))
        at = match.end()
    return tokens


class _Reader:
    """Tokens of one pipeline into an expression, from the left."""

    def __init__(self, tokens: list[tuple[str, str]], text: str) -> None:
        self.tokens = tokens
        self._text = text.strip()[:60]
        self._depth = 0

    def pipeline(self) -> Expression:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise InvalidArgument("template: it is nested too deep")
        expression = self._command(None)
        while self.tokens and self.tokens[0] == ("sign", "|"):
            self.tokens.pop(0)
            expression = self._command(expression)
        self._depth -= 1
        return expression

    def _command(self, piped: Expression | None) -> Expression:
        """A function with its arguments, or one value. What is piped in becomes the last argument."""
        if self.tokens and self.tokens[0][0] == "word" and self.tokens[0][1] not in _CONSTANTS:
            name = self.tokens.pop(0)[1]
            arguments = self._arguments()
            return _call(name, arguments if piped is None else [*arguments, piped])
        if piped is not None:
            raise InvalidArgument(f"template: want a function behind | in {self._text!r}")
        first = self._operand()
        if first is None:
            raise InvalidArgument(f"template: missing value for command in {self._text!r}")
        arguments = self._arguments()
        return _method(first, arguments) if arguments else first

    def _arguments(self) -> list[Expression]:
        found = []
        while (operand := self._operand()) is not None:
            found.append(operand)
        return found

    def _operand(self) -> Expression | None:
        """The next value; None where there is none."""
        if not self.tokens or (self.tokens[0][0] == "sign" and self.tokens[0][1] != "("):
            return None
        kind, text = self.tokens.pop(0)
        if kind == "sign":
            expression = self.pipeline()
            if not self.tokens or self.tokens.pop(0) != ("sign", ")"):
                raise InvalidArgument(f"template: unclosed left paren in {self._text!r}")
        elif kind == "word" and text not in _CONSTANTS:
            expression = _call(text, [])
        else:
            expression = _OPERANDS[kind](text)
        while self.tokens and self.tokens[0][0] == "more":
            expression = _fields(expression, self.tokens.pop(0)[1])
        return expression


def _call(name: str, arguments: list[Expression]) -> Expression:
    function = FUNCTIONS.get(name)
    if function is None:
        raise InvalidArgument(f"template: function {name[:40]!r} not defined")

    def call(dot: Any, scope: Scope) -> Any:
        values = [argument(dot, scope) for argument in arguments]
        try:
            return function(*values)
        except (TypeError, ValueError, IndexError, AttributeError):
            raise Fault(f"wrong number or type of arguments for {name}") from None

    return call


def _method(base: Expression, arguments: list[Expression]) -> Expression:
    """`.Label "name"`: a field that is a function."""

    def method(dot: Any, scope: Scope) -> Any:
        function = base(dot, scope)
        if not callable(function):
            raise Fault("can't give argument to non-function")
        try:
            return function(*(argument(dot, scope) for argument in arguments))
        except TypeError:
            raise Fault("wrong number or type of arguments") from None

    return method


def _fields(base: Expression, path: str) -> Expression:
    names = path.split(".")[1:]

    def fields(dot: Any, scope: Scope) -> Any:
        value = base(dot, scope)
        for name in names:
            value = member(value, name)
        return value

    return fields


def _variable(name: str) -> Expression:
    def variable(dot: Any, scope: Scope) -> Any:
        if name not in scope:
            raise Fault(f"undefined variable {name[:40]!r}")
        return scope[name]

    return variable


def _constant(value: Any) -> Expression:
    return lambda dot, scope: value


def _unquote(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1]
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[0]), text[1:-1])


_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "nil": None}
_OPERANDS: dict[str, Callable[[str], Expression]] = {
    "string": lambda text: _constant(_unquote(text)),
    "char": lambda text: _constant(ord(_unquote(text)[0])),
    "number": lambda text: _constant(float(text) if "." in text else int(text)),
    "variable": _variable,
    "fields": lambda text: _fields(lambda dot, scope: dot, text),
    "more": lambda text: _fields(lambda dot, scope: dot, text),
    "dot": lambda text: lambda dot, scope: dot,
    "word": lambda text: _constant(_CONSTANTS[text]),
}
