"""`orlop serve`: the daemon, for kubelet and crictl, and for `orlop-runtime` without the start of an interpreter."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax, switch, value

if TYPE_CHECKING:
    from orlop.daemon.config import Config

_LARGE = 2 << 20  # bytes of a block that is not kept for the next who needs one; the pieces of layers are smaller

SYNTAX = Syntax(
    "",
    "Serve the Container Runtime Interface and orlop-runtime on sockets, until SIGTERM",
    (
        value("--config", "Configuration file (default /etc/orlop/config.toml, if there is one)", "", "path"),
        value("--socket", "Socket that orlop-runtime looks for, in place of the configured one", "", "path"),
        value("--cri-socket", "Socket for kubelet and crictl, in place of the configured one", "", "path"),
        switch("--no-cri", "Serve orlop-runtime alone, as is done for users other than root"),
    ),
    most=0,
)


def main(options: Options, context: Context) -> int:
    """Until a signal, and then until the last call has ended."""
    if options.no_cri or os.geteuid() != 0:
        return _runtime_alone(options, _socket(options))
    from orlop.daemon.config import load
    from orlop.daemon.needs import check
    from orlop.spec.errors import InvalidArgument
    from orlop.sys import heaps

    for flag, path in (("--socket", options.socket), ("--cri-socket", options.cri_socket)):
        if path and (not path.startswith("/") or len(os.fsencode(path)) > 107):
            raise InvalidArgument(f"{flag}: want an absolute path of at most 107 bytes")

    def read() -> Config:
        return _with_flags(load(options.config), options, context)

    config = read()
    if not config.cri.enabled:
        return _runtime_alone(options, config.runtime.socket)
    check()
    heaps.limit(2, _LARGE)  # before the first thread
    import orlop.daemon.slim  # noqa: F401 - before what it is about
    from orlop.daemon.serve import serve

    return serve(config, read)


def _with_flags(config: Config, options: Options, context: Context) -> Config:
    """Flags count before the environment, and that before the file."""
    import msgspec

    replace = msgspec.structs.replace
    runtime = replace(config.runtime, socket=options.socket or config.runtime.socket)
    cri = replace(config.cri, socket=options.cri_socket or config.cri.socket)
    root = context.root or os.environ.get("ORLOP_ROOT", "") or config.daemon.root
    state = context.state or os.environ.get("ORLOP_STATE", "") or config.daemon.state
    daemon = replace(config.daemon, root=root, state=state)
    return replace(config, runtime=runtime, cri=cri, daemon=daemon)


def _socket(options: Options) -> str:
    """Of the runtime, where nothing else is served: a configuration counts only if it is named."""
    from orlop.daemon.listen import default_path
    from orlop.spec.errors import InvalidArgument

    if options.cri_socket:
        who = "with --no-cri it is not" if options.no_cri else "to users other than root it is not"
        raise InvalidArgument(f"--cri-socket: is where the Container Runtime Interface is served; {who}")
    if options.config and not options.socket:
        from orlop.daemon.config import load

        return load(options.config).runtime.socket
    return options.socket or default_path()


def _runtime_alone(options: Options, path: str) -> int:
    from orlop.daemon.listen import listening
    from orlop.daemon.zygote import Zygote

    with listening(path) as listener:
        Zygote(listener).run()
    return 0
