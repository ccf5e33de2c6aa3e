"""The gRPC server of the interface, on a unix socket."""

from __future__ import annotations

import logging
import os

import grpc.aio

from orlop.cri import services
from orlop.cri.node import Node
from orlop.spec.errors import FailedPrecondition, os_errors

MESSAGE_MAX = 16 << 20  # bytes of a request or an answer, as kubelet has it
_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_MAX),
    ("grpc.max_send_message_length", MESSAGE_MAX),
    ("grpc.so_reuseport", 0),
)

log = logging.getLogger("orlop.cri")


def _is_news(record: logging.LogRecord) -> bool:
    """An answer that finds its caller gone, for whom time was up meanwhile, is no error, though gRPC calls it one."""
    gone = record.exc_info is not None and type(record.exc_info[1]).__name__ == "ExecuteBatchError"
    if gone:
        log.debug("the caller had gone before its answer: %s", record.getMessage())
    return not gone


async def start(node: Node, path: str) -> grpc.aio.Server:
    """Serve on the socket at `path`, root's and its group's alone. What a daemon that was killed left there goes."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers(tuple(services.handlers(node)))
    with os_errors("make the socket's directory"):
        os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
    before = os.umask(0o117)
    try:
        if server.add_insecure_port(f"unix:{path}") == 0:
            raise FailedPrecondition(f"cannot listen on {path}")
        await server.start()
    finally:
        os.umask(before)
    return server
