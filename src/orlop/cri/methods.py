"""The services of api.proto as tables of methods, for servers and clients of gRPC. Read from the descriptors: there is
no generated code but the messages.

handlers("ImageService", {"ListImages": list_images, ...})      # for grpc.aio.Server.add_generic_rpc_handlers
stub(channel, "RuntimeService")["Version"](VersionRequest())    # what a call returns depends on the kind of channel
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
import msgspec
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from orlop._stubs.cri import api_pb2
from orlop.spec.errors import Internal, InvalidArgument

PACKAGE = api_pb2.DESCRIPTOR.package
SERVICES = tuple(api_pb2.DESCRIPTOR.services_by_name)


class Method(msgspec.Struct, frozen=True):
    """One RPC. None of the interface streams requests."""

    service: str
    name: str
    request: type[Message]
    response: type[Message]
    streaming: bool  # the answer is a stream of responses

    @property
    def path(self) -> str:
        return f"/{PACKAGE}.{self.service}/{self.name}"


def methods(service: str) -> tuple[Method, ...]:
    """The methods of RuntimeService or ImageService, in the order of api.proto."""
    return tuple(
        Method(
            service,
            method.name,
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
            method.server_streaming,
        )
        for method in api_pb2.DESCRIPTOR.services_by_name[service].methods
    )


def handlers(service: str, servicers: Mapping[str, Callable[..., Any]]) -> grpc.GenericRpcHandler:
    """A handler for a gRPC server. `servicers` has for every name of an RPC `async (request, context) -> response`; for
    the streaming ones an async generator of responses. Where the bytes of a request are none, InvalidArgument, not
    raised, is the request. Raises Internal where one is missing or too many.
    """
    table = methods(service)
    odd = {method.name for method in table} ^ set(servicers)
    if odd:
        raise Internal(f"{service}: the servicers and the interface differ in {', '.join(sorted(odd))}")
    return grpc.method_handlers_generic_handler(
        f"{PACKAGE}.{service}", {method.name: _handler(method, servicers[method.name]) for method in table}
    )


def _handler(method: Method, servicer: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
    kind: Callable[..., grpc.RpcMethodHandler[Any, Any]] = (
        grpc.unary_stream_rpc_method_handler if method.streaming else grpc.unary_unary_rpc_method_handler
    )
    return kind(servicer, _reader(method), method.response.SerializeToString)


def _reader(method: Method) -> Callable[[bytes], Message | InvalidArgument]:
    """What reads a request. Where it can't, the error stands in its place: gRPC would call it an internal one."""

    def read(data: bytes) -> Message | InvalidArgument:
        try:
            return method.request.FromString(data)
        except DecodeError:
            return InvalidArgument(f"{method.name}: the request is no {method.request.DESCRIPTOR.name}")

    return read


def stub(channel: Any, service: str) -> dict[str, Callable[..., Any]]:
    """What a client calls, by the RPC's name. `channel` is one of grpc's or grpc.aio's."""
    return {
        method.name: (channel.unary_stream if method.streaming else channel.unary_unary)(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        for method in methods(service)
    }
