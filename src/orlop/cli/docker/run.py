"""`orlop run`: create, start, and stay with the container, or leave it alone with -d."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import msgspec

from orlop.cli.context import Context
from orlop.cli.docker.container_flags import FLAGS, container_config
from orlop.cli.docker.terminal import check_terminal
from orlop.cli.flags import Options, Syntax, UsageError, many, switch, value
from orlop.cli.text import one_line
from orlop.spec.errors import AlreadyExists, InvalidArgument

if TYPE_CHECKING:
    from orlop.cli.docker.lazy_progress import LazyProgress
    from orlop.engine.config import ContainerConfig
    from orlop.engine.records import Container

SYNTAX = Syntax(
    "IMAGE [COMMAND] [ARG...]",
    "Create and run a new container from an image",
    (
        *FLAGS,
        many("-a --attach", "Attach to STDIN, STDOUT or STDERR"),
        switch("-d --detach", "Run container in background and print container ID"),
        value("--detach-keys", "Override the key sequence for detaching a container", "ctrl-p,ctrl-q"),
        switch("--sig-proxy", "Proxy received signals to the process", default=True),
    ),
    least=1,
    interspersed=False,
)


def main(options: Options, context: Context) -> int:
    """Run a container. The exit status is the container's; 125, 126 and 127 as Docker has them."""
    if options.detach and options.attach:
        raise UsageError("conflicting options: -a and -d")
    config = container_config(options)
    foreground = not options.detach
    check_terminal(options.tty, options.interactive and foreground)
    config = with_attached_stdin(config, options) if foreground else config
    check_cidfile(options.cidfile)
    container = create(context, config, options)
    write_cidfile(options.cidfile, container.id)
    try:
        if foreground:
            from orlop.cli.docker.foreground import start_attached

            return start_attached(context.engine, container, options)
        started = context.engine.containers.start(container.id).container
    except BaseException:
        _clean_up(context, container, config)
        raise
    print(started.id)
    return 0


def with_attached_stdin(config: ContainerConfig, options: Options) -> ContainerConfig:
    """Standard input ends with the first client, where that one is attached to it."""
    attached = not options.attach or any(name.lower() == "stdin" for name in options.attach)
    return msgspec.structs.replace(config, stdin_once=config.open_stdin and attached)


def create(context: Context, config: ContainerConfig, options: Options) -> Container:
    """Make the container, and show the pull if there is one."""
    with progress(config.image, options.quiet, options.pull != "always") as watcher:
        return context.engine.containers.create(config, options.pull, watcher)


def _clean_up(context: Context, container: Container, config: ContainerConfig) -> None:
    """A container with --rm that could not start is nobody's."""
    if config.auto_remove:
        context.engine.containers.remove(container.id, force=True, volumes=True)


def progress(image: str, quiet: bool, missing: bool = True) -> LazyProgress | Silent:
    """What shows a pull on standard error, in a `with` block."""
    if quiet:
        return Silent()
    from orlop.cli.docker.lazy_progress import LazyProgress

    heading = f"Unable to find image '{one_line(image)}' locally" if missing else ""
    return LazyProgress(sys.stderr, heading=heading)


class Silent:
    """For --quiet: nobody watches."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None


def check_cidfile(path: str) -> None:
    """Docker refuses a file that is there."""
    if path and os.path.exists(path):
        raise AlreadyExists(f"container ID file found, make sure the other container isn't running or delete {path}")


def write_cidfile(path: str, identifier: str) -> None:
    """--cidfile."""
    if not path:
        return
    try:
        with open(path, "x", encoding="ascii") as file:
            file.write(identifier)
    except OSError as error:
        raise InvalidArgument(f"write container ID file {path}: {error.strerror}") from error
