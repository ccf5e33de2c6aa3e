"""`orlop login`: try and keep credentials for a registry."""

from __future__ import annotations

import sys

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax, UsageError, switch, value
from orlop.cli.text import one_line

SYNTAX = Syntax(
    "[SERVER]",
    "Authenticate to a registry",
    (
        value("-p --password", "Password or Personal Access Token (PAT)"),
        switch("--password-stdin", "Take the Password or Personal Access Token (PAT) from stdin"),
        value("-u --username", "Username"),
    ),
    most=1,
)


def main(options: Options, context: Context) -> int:
    """Credentials that the registry refuses are not kept."""
    from orlop.engine.images.login import login

    username, password = _credentials(options)
    server = options.arguments[0] if options.arguments else ""
    kept = login(server, username, password)
    if not kept.encrypted:
        print(
            f"WARNING! Your credentials are stored unencrypted in '{one_line(kept.where)}'.\n"
            "Configure a credential helper to remove this warning.",
            file=sys.stderr,
        )
    print("Login Succeeded")
    return 0


def _credentials(options: Options) -> tuple[str, str]:
    """From the flags, standard input, or the terminal."""
    if options.password and options.password_stdin:
        raise UsageError("--password and --password-stdin are mutually exclusive")
    if options.password:
        print("WARNING! Using --password via the CLI is insecure. Use --password-stdin.", file=sys.stderr)
    if options.password_stdin:
        if not options.username:
            raise UsageError("must provide --username with --password-stdin")
        return options.username, sys.stdin.read().rstrip("\r\n")
    if options.username and options.password:
        return options.username, options.password
    if not sys.stdin.isatty():
        raise UsageError("cannot perform an interactive login from a non TTY device")
    return _ask(options.username, options.password)


def _ask(username: str, password: str) -> tuple[str, str]:
    import getpass

    while not username:
        username = input("Username: ").strip()
    return username, password or getpass.getpass("Password: ")
