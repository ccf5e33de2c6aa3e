"""Every call of the interface and the function that answers it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
import grpc.aio

from orlop.cli.text import one_line
from orlop.cri import (
    containers,
    events,
    exec,
    images,
    methods,
    pods,
    sessions,
    stats,
    status,
    updates,
)
from orlop.cri.calls import Call
from orlop.cri.flights import time_left
from orlop.cri.node import Node
from orlop.spec.errors import CODES, OrlopError, Unimplemented, from_os

log = logging.getLogger("orlop.cri")


# What few nodes are ever asked for is imported with the first call.


async def _metric_descriptors(node: Node, request: Any) -> Any:
    from orlop.cri import metrics

    return await metrics.descriptors(node, request)


async def _pod_metrics(node: Node, request: Any) -> Any:
    from orlop.cri import metrics

    return await metrics.pods(node, request)


async def _pod_metrics_stream(node: Node, request: Any) -> AsyncIterator[Any]:
    from orlop.cri import metrics

    async for answer in metrics.stream(node, request):
        yield answer


async def _checkpoint_container(node: Node, request: Any) -> Any:
    from orlop.cri import checkpoints

    return await checkpoints.container(node, request)


async def _checkpoint_pod(node: Node, request: Any) -> Any:
    from orlop.cri import pod_checkpoints

    return await pod_checkpoints.checkpoint(node, request)


async def _restore_pod(node: Node, request: Any) -> Any:
    from orlop.cri import pod_checkpoints

    return await pod_checkpoints.restore(node, request)


RUNTIME: Mapping[str, Callable[..., Any]] = {
    "Version": status.version,
    "Status": status.status,
    "RuntimeConfig": status.runtime_config,
    "UpdateRuntimeConfig": status.update_runtime_config,
    "RunPodSandbox": pods.run,
    "StopPodSandbox": pods.stop,
    "RemovePodSandbox": pods.remove,
    "PodSandboxStatus": pods.status,
    "ListPodSandbox": pods.list_all,
    "StreamPodSandboxes": pods.stream,
    "CreateContainer": containers.create,
    "StartContainer": containers.start,
    "StopContainer": containers.stop,
    "RemoveContainer": containers.remove,
    "ContainerStatus": containers.status,
    "ListContainers": containers.list_all,
    "StreamContainers": containers.stream,
    "ReopenContainerLog": containers.reopen_log,
    "ExecSync": exec.exec_sync,
    "Exec": sessions.exec_url,
    "Attach": sessions.attach_url,
    "PortForward": sessions.port_forward_url,
    "UpdateContainerResources": updates.container,
    "UpdatePodSandboxResources": updates.pod,
    "GetContainerEvents": events.stream,
    "ListMetricDescriptors": _metric_descriptors,
    "ListPodSandboxMetrics": _pod_metrics,
    "StreamPodSandboxMetrics": _pod_metrics_stream,
    "CheckpointContainer": _checkpoint_container,
    "CheckpointPod": _checkpoint_pod,
    "RestorePod": _restore_pod,
    "ContainerStats": stats.one,
    "ListContainerStats": stats.list_all,
    "StreamContainerStats": stats.stream,
    "PodSandboxStats": stats.one_pod,
    "ListPodSandboxStats": stats.list_pods,
    "StreamPodSandboxStats": stats.stream_pods,
}
IMAGES: Mapping[str, Callable[..., Any]] = {
    "ListImages": images.list_all,
    "StreamImages": images.stream,
    "ImageStatus": images.status,
    "PullImage": images.pull,
    "RemoveImage": images.remove,
    "ImageFsInfo": images.filesystem_info,
}
_CHANGING = frozenset(
    "RunPodSandbox StopPodSandbox RemovePodSandbox CreateContainer StartContainer StopContainer RemoveContainer "
    "RestorePod".split()
)
_STATUS = {code.value[0]: code for code in grpc.StatusCode}


def handlers(node: Node) -> list[grpc.GenericRpcHandler]:
    """For grpc.aio.Server.add_generic_rpc_handlers."""
    return [
        methods.handlers(service, {method.name: _servicer(node, method, table) for method in methods.methods(service)})
        for service, table in (("RuntimeService", RUNTIME), ("ImageService", IMAGES))
    ]


def _servicer(node: Node, method: methods.Method, table: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    function = table.get(method.name) or _missing(method)
    return _streaming(node, method, function) if method.streaming else _unary(node, method, function)


def _missing(method: methods.Method) -> Callable[..., Any]:
    if method.streaming:

        async def stream(node: Node, request: Any) -> AsyncIterator[Any]:
            raise Unimplemented(f"{method.name}: not implemented yet")
            yield

        return stream

    async def unary(node: Node, request: Any) -> Any:
        raise Unimplemented(f"{method.name}: not implemented yet")

    return unary


def _unary(node: Node, method: methods.Method, function: Callable[..., Any]) -> Callable[..., Any]:
    async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        time_left.set(context.time_remaining)
        with node.calls.call(method.name, lambda: _traceparent(context)) as call:
            try:
                _readable(request)
                result = await function(node, request)
                if method.name in _CHANGING:
                    node.wake()
                return result
            except Exception as error:
                code, text = _refusal(method, error, call)
            del request  # the refusal and its traceback are a ring of gRPC's, that the collector finds much later
            return await context.abort(code, text)

    return answer


def _readable(request: Any) -> None:
    if isinstance(request, OrlopError):
        raise request


def _streaming(node: Node, method: methods.Method, function: Callable[..., Any]) -> Callable[..., Any]:
    async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        with node.calls.call(method.name, lambda: _traceparent(context), timed=False) as call:
            try:
                _readable(request)
                async for item in function(node, request):
                    yield item
                return
            except Exception as error:
                code, text = _refusal(method, error, call)
            del request
            await context.abort(code, text)

    return answer


def _traceparent(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    found = dict(context.invocation_metadata() or ()).get("traceparent", "")
    return found if isinstance(found, str) else found.decode("ascii", "replace")


def _refusal(method: methods.Method, error: Exception, call: Call) -> tuple[grpc.StatusCode, str]:
    """The code that fits, and the text. What is no error of ours is a defect: the log has where it is."""
    if isinstance(error, OrlopError):
        code, text = _STATUS[CODES[error.kind][0]], str(error)
    elif isinstance(error, OSError):
        log.exception("%s failed", method.name)
        known = from_os(error, method.name)
        code, text = _STATUS[CODES[known.kind][0]], str(known)
    else:
        log.exception("%s failed", method.name)
        code, text = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
    call.code, call.message = code.name, text
    return code, one_line(text)[:4096]
