from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from orlop._stubs.cri import api_pb2 as api
from orlop.cri.methods import SERVICES, handlers, methods, stub
from orlop.spec.errors import Internal


def test_the_interface_has_every_call() -> None:
    assert set(SERVICES) == {"RuntimeService", "ImageService"}
    assert len(methods("RuntimeService")) == 37
    assert len(methods("ImageService")) == 6


def test_lists_that_may_be_long_and_events_come_as_streams() -> None:
    streaming = {method.name for service in SERVICES for method in methods(service) if method.streaming}
    assert streaming == {
        "StreamPodSandboxes",
        "StreamContainers",
        "StreamContainerStats",
        "StreamPodSandboxStats",
        "StreamPodSandboxMetrics",
        "StreamImages",
        "GetContainerEvents",
    }


def test_no_call_streams_requests() -> None:
    for service in api.DESCRIPTOR.services_by_name.values():
        assert not any(method.client_streaming for method in service.methods)


def test_bytes_on_the_wire_are_those_of_the_interface() -> None:
    """Field numbers as a kubelet sends them, written by hand: ImageSpec's are not consecutive."""
    spec = api.ImageSpec(image="a", user_specified_image="b", runtime_handler="c", image_ref="d")
    assert spec.SerializeToString() == b"\x0a\x01a\x92\x01\x01b\x9a\x01\x01c\xa2\x01\x01d"
    request = api.CreateContainerRequest(
        pod_sandbox_id="p", config=api.ContainerConfig(stop_signal=api.SIGNAL_SIGRTMAX)
    )
    assert request.SerializeToString() == b"\x0a\x01p\x12\x03\x90\x01\x41"


async def _images(request: api.ListImagesRequest, context: Any) -> api.ListImagesResponse:
    return api.ListImagesResponse(images=[api.Image(id=request.filter.image.image)])


async def _stream_images(request: api.StreamImagesRequest, context: Any) -> AsyncIterator[api.StreamImagesResponse]:
    for name in ("one", "two"):
        yield api.StreamImagesResponse(images=[api.Image(id=name)])


async def _refused(request: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")


def test_a_server_and_a_client_of_the_tables_understand_each_other(tmp_path: Path) -> None:
    servicers = {method.name: _refused for method in methods("ImageService")}
    servicers |= {"ListImages": _images, "StreamImages": _stream_images}  # type: ignore[dict-item]

    async def talk() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((handlers("ImageService", servicers),))
        server.add_insecure_port(f"unix:{tmp_path}/cri.sock")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"unix:{tmp_path}/cri.sock") as channel:
                call = stub(channel, "ImageService")
                wanted = api.ListImagesRequest(filter=api.ImageFilter(image=api.ImageSpec(image="busybox")))
                answer = await call["ListImages"](wanted)
                assert [image.id for image in answer.images] == ["busybox"]
                parts = [part.images[0].id async for part in call["StreamImages"](api.StreamImagesRequest())]
                assert parts == ["one", "two"]
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call["PullImage"](api.PullImageRequest())
                assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        finally:
            await server.stop(None)

    asyncio.run(talk())


def test_a_service_with_a_call_missing_or_unknown_is_refused() -> None:
    servicers = {method.name: _refused for method in methods("ImageService")}
    del servicers["PullImage"]
    servicers["PushImage"] = _refused
    with pytest.raises(Internal, match="PullImage, PushImage"):
        handlers("ImageService", servicers)
