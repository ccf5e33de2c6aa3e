from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.cli.docker.template import parse
from orlop.spec.errors import InvalidArgument, OrlopError, Unimplemented

DATA: dict[str, Any] = {
    "Name": "web",
    "Count": 3,
    "On": True,
    "Empty": "",
    "Nothing": None,
    "Labels": {"a.b": "1", "key": "two words"},
    "List": ["x", "y"],
    "Networks": {"bridge": {"IPAddress": "10.0.0.2", "Ports": [80, 443]}},
    "Label": lambda name: f"<{name}>",
}


def render(text: str) -> str:
    return parse(text).render(DATA)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain", "plain"),
        ("{{.Name}}", "web"),
        ("{{ .Name }}-{{.Count}}", "web-3"),
        ("{{.Networks.bridge.IPAddress}}", "10.0.0.2"),
        ("{{$.Name}}", "web"),
        ("{{.On}} {{.Nothing}}", "true <no value>"),
        ("{{.List}}", "[x y]"),
        ("{{.Labels}}", "map[a.b:1 key:two words]"),
        ("{{.Labels.nope}}", "<no value>"),
        ('{{index .Labels "a.b"}}', "1"),
        ('{{index .Labels "nope"}}', ""),
        ("{{index .List 1}}", "y"),
        ('{{(index .Networks "bridge").IPAddress}}', "10.0.0.2"),
        ('{{with index .Networks "bridge"}}{{.IPAddress}}{{end}}', "10.0.0.2"),
        ('{{index .Networks "bridge" "Ports" 0}}', "80"),
        ("{{json .List}}", '["x","y"]'),
        ("{{.List | json}}", '["x","y"]'),
        ("{{len .List}}", "2"),
        ('{{join .List ","}}', "x,y"),
        ("{{upper .Name}} {{.Name | title}}", "WEB Web"),
        ("{{range .List}}<{{.}}>{{end}}", "<x><y>"),
        ("{{range $i, $e := .List}}{{$i}}={{$e}};{{end}}", "0=x;1=y;"),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}} {{end}}", "a.b=1 key=two words "),
        ("{{range .Nothing}}x{{else}}none{{end}}", "none"),
        ("{{range .Networks}}{{.IPAddress}} {{$.Name}}{{end}}", "10.0.0.2 web"),
        ("{{if .On}}yes{{else}}no{{end}}", "yes"),
        ("{{if .Empty}}a{{else if .On}}b{{else}}c{{end}}", "b"),
        ('{{if and .On (eq .Name "web" "x")}}both{{end}}', "both"),
        ("{{if not .Empty}}empty{{end}}", "empty"),
        ("{{if gt .Count 2}}more{{end}}", "more"),
        ("{{$x := .Networks.bridge}}{{$x.IPAddress}}", "10.0.0.2"),
        ("{{$n := 0}}{{range .List}}{{$n = .}}{{end}}{{$n}}", "y"),
        ('{{printf "%-5s|%03d|%q" .Name .Count .Name}}', 'web  |003|"web"'),
        ('{{println "a" 1}}', "a 1\n"),
        ("a  {{- .Name -}}  b", "awebb"),
        ("a {{/* nothing */}}b", "a b"),
        ('{{"{{"}}', "{{"),
        ('{{.Label "k"}}', "<k>"),
        ('{{`raw "text"`}}', 'raw "text"'),
        ("{{slice .Name 1}}", "eb"),
        ('{{split "a,b" ","}}', "[a b]"),
        ("{{pad .Name 1 2}}|{{truncate .Name 2}}", " web  |we"),
    ],
)
def test_what_go_makes_of_it(text: str, wanted: str) -> None:
    assert render(text) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{.Nmae}}", "can't evaluate field Nmae"),
        ("{{.Name.More}}", "can't evaluate field More in a string"),
        ("{{.Name", "unclosed action"),
        ("{{if .On}}", "unexpected end"),
        ("{{end}}", "unexpected"),
        ("{{else}}", "unexpected"),
        ("{{nope .Name}}", "function 'nope' not defined"),
        ("{{}}", "missing value"),
        ("{{.Name .Count}}", "non-function"),
        ("{{.Name | .Count}}", "want a function"),
        ("{{(.Name}}", "unclosed left paren"),
        ("{{$x}}", "undefined variable"),
        ("{{.Name ?}}", "unexpected"),
        ("{{index .List 7}}", "out of range"),
        ("{{len .Count}}", "wrong number or type"),
        ("{{join .List}}", "wrong number or type"),
        ("{{range .Name}}{{end}}", "range can't iterate"),
        ('{{printf "%99999999d" 1}}', "too wide"),
        ("{{if .On}}{{else range .List}}{{end}}{{end}}", "unexpected"),
    ],
)
def test_mistakes_are_told_in_one_line(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as caught:
        render(text)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("word", ["define", "template", "block", "break", "continue"])
def test_what_is_not_there_is_refused_by_name(word: str) -> None:
    with pytest.raises(Unimplemented, match=word):
        parse(f'{{{{{word} "x"}}}}')


def test_nesting_has_an_end() -> None:
    with pytest.raises(InvalidArgument, match="too deep"):
        parse("{{if .On}}" * 5000 + "{{end}}" * 5000)
    with pytest.raises(InvalidArgument, match="too deep"):
        parse("{{" + "(" * 5000 + ".Name" + ")" * 5000 + "}}")


_PIECES = st.sampled_from(
    [*'{{ }} .Name .List range if else end $x := | ( ) json "a" 1 x index printf - ,'.split(), " "]
)


@given(st.lists(_PIECES, max_size=25).map("".join) | st.text(max_size=40))
def test_any_text_renders_or_is_refused(text: str) -> None:
    try:
        told = "template: " + render(text)
    except OrlopError as error:
        told = error.message
    assert told.startswith("template: ")


@given(st.text(alphabet=st.characters(exclude_characters="{"), max_size=60))
def test_text_without_actions_stays(text: str) -> None:
    assert render(text) == text
