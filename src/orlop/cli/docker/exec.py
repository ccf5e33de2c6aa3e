"""`orlop exec`: run a further command in a running container."""

from __future__ import annotations

import os

from orlop.cli.context import Context
from orlop.cli.docker.terminal import check_terminal
from orlop.cli.flags import Options, Syntax, many, switch, value
from orlop.engine.config import ExecConfig
from orlop.engine.exec import ExecSession
from orlop.runtime.launch import LaunchFailed
from orlop.spec.errors import ContainerExit

SYNTAX = Syntax(
    "CONTAINER COMMAND [ARG...]",
    "Execute a command in a running container",
    (
        switch("-d --detach", "Detached mode: run command in the background"),
        value("--detach-keys", "Override the key sequence for detaching a container", "ctrl-p,ctrl-q"),
        many("-e --env", "Set environment variables"),
        many("--env-file", "Read in a file of environment variables"),
        switch("-i --interactive", "Keep STDIN open even if not attached"),
        switch("--privileged", "Give extended privileges to the command"),
        switch("-t --tty", "Allocate a pseudo-TTY"),
        value("-u --user", "Username or UID (format: <name|uid>[:<group|gid>])"),
        value("-w --workdir", "Working directory inside the container"),
    ),
    least=2,
    interspersed=False,
)


def main(options: Options, context: Context) -> int:
    """The command's exit status; 126 and 127 where it can't be executed or found."""
    check_terminal(options.tty, options.interactive and not options.detach)
    name, *command = options.arguments
    config = ExecConfig(
        command=tuple(command),
        env=_environment(options),
        working_dir=options.workdir,
        user=options.user,
        tty=options.tty,
        open_stdin=options.interactive,
        privileged=options.privileged,
        detach=options.detach,
    )
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        stdio = (0 if options.interactive else null, 1, 2)
        return _follow(context.engine.containers.exec(name, config, stdio), options)
    except LaunchFailed as error:  # such as a directory that is not there
        raise ContainerExit(error.message, 126) from error
    finally:
        os.close(null)


def _environment(options: Options) -> tuple[str, ...]:
    if not options.env_file and not options.env:
        return ()
    from orlop.cli.docker.container_flags import environment

    return environment(options.env_file, options.env)


def _follow(session: ExecSession, options: Options) -> int:
    if session.detached:
        return 0
    if session.master < 0:
        return session.wait()
    from orlop.shim.attach import Detached, copy_terminal, parse_detach_keys

    try:
        ended = copy_terminal(
            session.master, stdin=options.interactive, detach_keys=parse_detach_keys(options.detach_keys)
        )
    finally:
        os.close(session.master)
    return 0 if isinstance(ended, Detached) else session.wait()
