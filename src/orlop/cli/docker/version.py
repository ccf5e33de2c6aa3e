"""`orlop version`."""

from __future__ import annotations

import os
import sys

import orlop
from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax, switch, value

SYNTAX = Syntax(
    "",
    "Show the Orlop version information",
    (
        value("-f --format", "Format output using a custom template: 'json', or a Go template"),
        switch("--short", "Print the name and version alone"),
    ),
    most=0,
)


def main(options: Options, context: Context) -> int:
    """There is no server: the engine works in this process."""
    if options.short:
        print(f"Orlop version {orlop.__version__}")
        return 0
    from orlop.spec.runtime import VERSION

    kernel = os.uname()
    python = ".".join(map(str, sys.version_info[:3]))
    facts = {
        "Version": orlop.__version__,
        "PythonVersion": python,
        "OciRuntimeSpec": VERSION,
        "Os": "linux",
        "Arch": kernel.machine,
        "KernelVersion": kernel.release,
    }
    if options.format:
        from orlop.cli.docker.formatted import print_one

        print_one({"Client": facts, "Server": facts}, options.format)
        return 0
    print("Orlop:")
    titles = ("Version", "Python version", "OCI runtime spec", "OS", "Architecture", "Kernel")
    for title, text in zip(titles, facts.values(), strict=True):
        print(f" {title + ':':18} {text}")
    return 0
