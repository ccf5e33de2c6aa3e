"""Runtime handlers: who runs the containers of a pod, and what they can do (RuntimeClass of Kubernetes).

`orlop` is this project's own runtime, in this process. Every other is a program of the configuration, see
`orlop.engine.foreign`.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from orlop._stubs.cri import api_pb2 as api
from orlop.cri.settings import Settings
from orlop.engine import foreign
from orlop.engine.config import ContainerConfig, OciRuntime
from orlop.spec.errors import InvalidArgument, OrlopError

OWN = "orlop"
_PATIENCE = 10.0  # seconds for `features`
_LIBSECCOMP = "io.github.seccomp.libseccomp.version"  # an annotation of features too, and not the runtime's

log = logging.getLogger("orlop.cri")


class Handler(msgspec.Struct, frozen=True, kw_only=True):
    """A handler as Status tells of it. `error` says why it can't be used, or why its features are not known."""

    name: str
    path: str = ""
    recursive_read_only: bool = False
    user_namespaces: bool = False
    version: str = ""
    error: str = ""


def chosen(settings: Settings, name: str) -> OciRuntime | None:
    """The program that a pod asks for by name; None for Orlop's own runtime. Raises InvalidArgument for a name that
    nobody has configured."""
    name = name or settings.default_handler
    if name == OWN:
        return None
    found = settings.handlers.get(name)
    if found is None:
        known = ", ".join((OWN, *sorted(settings.handlers)))
        raise InvalidArgument(f"runtime_handler {name[:64]!r}: not configured; known are {known}")
    foreign.check(found)
    return found


def run_by(config: ContainerConfig, runtime: OciRuntime) -> ContainerConfig:
    """The request for a container of a pod that `runtime` runs."""
    if config.pod is not None and config.pod.id_maps is not None:
        raise InvalidArgument(f"namespace_options.userns_options: not with runtime handler {runtime.name}")
    return msgspec.structs.replace(config, oci_runtime=runtime)


def look(settings: Settings, own_user_namespaces: bool = False) -> tuple[Handler, ...]:
    """Every handler with its features; starts each program once, which takes a moment."""
    own = Handler(name=OWN, recursive_read_only=True, user_namespaces=own_user_namespaces)
    return (own, *(_looked_at(runtime) for _, runtime in sorted(settings.handlers.items())))


def _looked_at(runtime: OciRuntime) -> Handler:
    """A program that knows no `features` (a later addition to the command line) is used, with none advertised."""
    try:
        printed = foreign.call(runtime, (runtime.path, "features"), "features", _PATIENCE)
        return features(runtime, msgspec.json.decode(printed, type=dict[str, Any]))
    except (OrlopError, msgspec.MsgspecError) as error:
        log.warning("%s", error)
        return Handler(name=runtime.name, path=runtime.path, error=str(error))


def features(runtime: OciRuntime, found: dict[str, Any]) -> Handler:
    """What a features document says (runtime-spec, features.md). Pure; fields that are not there mean no. User
    namespaces are not advertised, whatever the runtime can: `run_by` refuses them."""
    options = found.get("mountOptions")
    annotations = found.get("annotations")
    named = annotations.items() if isinstance(annotations, dict) else ()
    version = next((str(v) for k, v in named if k.endswith(".version") and k != _LIBSECCOMP), "")
    return Handler(
        name=runtime.name,
        path=runtime.path,
        recursive_read_only=isinstance(options, list) and "rro" in options,
        version=version,
    )


def messages(found: tuple[Handler, ...], default: str) -> list[api.RuntimeHandler]:
    """For StatusResponse; the default is there once more without a name, as the interface has it."""
    listed = [
        api.RuntimeHandler(
            name=handler.name,
            features=api.RuntimeHandlerFeatures(
                recursive_read_only_mounts=handler.recursive_read_only, user_namespaces=handler.user_namespaces
            ),
        )
        for handler in found
    ]
    nameless = [api.RuntimeHandler(name="", features=each.features) for each in listed if each.name == default]
    return nameless + listed
