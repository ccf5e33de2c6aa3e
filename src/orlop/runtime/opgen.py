"""Writes `ops.py` and `native/ops.h` from the table of operations. Pure: it returns their texts."""

from __future__ import annotations

from orlop.runtime.optable import SKIP_DENIED, SKIP_EXISTS, SKIP_MISSING, SKIP_UNSUPPORTED, TABLE, OpDef

_PYTHON = {
    "i32": "int", "u32": "int", "i64": "int", "u64": "int", "slot": "int", "fill": "int", "str": "str",
    "bytes": "bytes", "strs": "tuple[str, ...]", "u32s": "tuple[int, ...]",
}  # fmt: skip
_C = {
    "i32": "int32_t", "u32": "uint32_t", "i64": "int64_t", "u64": "uint64_t", "slot": "int32_t", "fill": "int32_t",
    "str": "const char *", "bytes": "struct bytes", "strs": "char **", "u32s": "struct words",
}  # fmt: skip
_DECODE = {
    "i32": "take_i32", "u32": "take_u32", "i64": "take_i64", "u64": "take_u64", "slot": "take_i32", "fill": "take_i32",
    "str": "take_str", "bytes": "take_bytes", "strs": "take_strs", "u32s": "take_words",
}  # fmt: skip


def python_source() -> str:
    """The text of `ops.py`."""
    lines = [
        '"""The operations of a plan as frozen types. Generated from optable.py by scripts/ops; do not edit."""',
        "",
        "from __future__ import annotations",
        "",
        "import msgspec",
        "",
        "",
        "class Op(msgspec.Struct, frozen=True):",
        '    """One operation; see optable for what each does."""',
        "",
        "",
    ]
    for op in TABLE:
        lines += _class(op)
    lines.append("# number in an encoded plan: type, and its fields with their encodings")
    lines.append("CODES: dict[int, tuple[type[Op], tuple[tuple[str, str], ...]]] = {")
    for op in TABLE:
        fields = "".join(f'("{f.name}", "{f.type}"), ' for f in op.fields).rstrip()
        lines.append(f"    {op.code}: ({op.name}, ({fields})),")
    lines += ["}", "NUMBERS: dict[type[Op], int] = {kind: code for code, (kind, _) in CODES.items()}", ""]
    return "\n".join(lines)


def _class(op: OpDef) -> list[str]:
    call = op.doc.partition("(")[0]
    doc = op.doc if call.islower() and " " not in call else op.doc[0].upper() + op.doc[1:]
    lines = [f"class {op.name}(Op, frozen=True):", f'    """{doc}."""']
    if op.fields:
        lines.append("")
    lines += [f"    {field.name}: {_PYTHON[field.type]}" for field in op.fields]
    return [*lines, "", ""]


def c_source() -> str:
    """The text of `native/ops.h`."""
    lines = [
        "/* The operations of a plan: numbers, arguments, decoders.",
        " * Generated from optable.py by scripts/ops; do not edit. */",
        "#ifndef ORLOP_OPS_H",
        "#define ORLOP_OPS_H",
        "",
        f"#define SKIP_MISSING {SKIP_MISSING}",
        f"#define SKIP_DENIED {SKIP_DENIED}",
        f"#define SKIP_UNSUPPORTED {SKIP_UNSUPPORTED}",
        f"#define SKIP_EXISTS {SKIP_EXISTS}",
        "",
    ]
    lines += [f"#define OP_{op.name} {op.code}" for op in TABLE]
    lines += ["", "/* X(NAME) for each of them. */", "#define EACH_OP(X) \\"]
    lines += [f"  X({op.name}) \\" for op in TABLE]
    lines.append("")
    for op in TABLE:
        body = " ".join(f"{_declare(_C[f.type], f.name)};" for f in op.fields)
        lines.append(f"struct {op.name} {{ {body or 'char none;'} }};")
    lines += ["", "/* op_NAME(arguments) is defined by the program: 0, or a negative errno. */"]
    lines += [f"static int op_{op.name}(const struct {op.name} *a);" for op in TABLE]
    lines += ["", "static int perform(uint16_t code, struct reader *r) {", "  switch (code) {"]
    for op in TABLE:
        takes = " ".join(f"a.{f.name} = {_DECODE[f.type]}(r);" for f in op.fields) or "a.none = 0;"
        lines.append(f"    case OP_{op.name}: {{")
        lines.append(f"      struct {op.name} a; {takes}")
        lines.append(f"      return finished(r) ? op_{op.name}(&a) : -EBADMSG;")
        lines.append("    }")
    lines += ["    default: return -ENOSYS;", "  }", "}", "", "#endif", ""]
    return "\n".join(lines)


def _declare(kind: str, name: str) -> str:
    return f"{kind}{name}" if kind.endswith("*") else f"{kind} {name}"
