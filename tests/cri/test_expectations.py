"""What a configuration for restoring says of the process, against what the checkpoint has."""

from __future__ import annotations

import pytest

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import expectations
from orlop.spec.errors import FailedPrecondition, InvalidArgument


def config(**fields: object) -> api.ContainerConfig:
    base = {"metadata": api.ContainerMetadata(name="main"), "image": api.ImageSpec(image="busybox"), "command": ["sh"]}
    return api.ContainerConfig(**base | fields)  # type: ignore[arg-type]


def test_what_lies_around_the_process_may_be_another() -> None:
    mounts = [[api.Mount(container_path="/data", host_path=path)] for path in ("/old", "/new")]
    then = config(mounts=mounts[0], labels={"a": "1"}, log_path="old.log")
    resources = api.LinuxContainerConfig(resources=api.LinuxContainerResources(memory_limit_in_bytes=1 << 20))
    expectations.check(then, config(mounts=mounts[1], labels={"a": "2"}, log_path="new.log", linux=resources))


def security(**fields: object) -> api.ContainerConfig:
    context = api.LinuxContainerSecurityContext(**fields)  # type: ignore[arg-type]
    return config(linux=api.LinuxContainerConfig(security_context=context))


@pytest.mark.parametrize(
    ("now", "field"),
    [
        (config(image=api.ImageSpec(image="debian")), "image"),
        (config(command=["ash"]), "command"),
        (config(args=["-x"]), "args"),
        (config(envs=[api.KeyValue(key="A", value=b"1")]), "envs"),
        (config(tty=True), "tty"),
        (config(mounts=[api.Mount(container_path="/data", host_path="/")]), "mounts"),
        (config(devices=[api.Device(container_path="/dev/x")]), "devices"),
        (security(run_as_user=api.Int64Value(value=7)), "run_as_user"),
        (security(no_new_privs=True), "no_new_privs"),
        (security(readonly_rootfs=True), "readonly_rootfs"),
        (security(capabilities=api.Capability(add_capabilities=["NET_ADMIN"])), "capabilities"),
        (security(namespace_options=api.NamespaceOption(pid=api.CONTAINER)), "namespace_options.pid"),
    ],
)
def test_what_the_checkpoint_cannot_follow_is_named(now: api.ContainerConfig, field: str) -> None:
    with pytest.raises(FailedPrecondition, match=rf"^container_configs \(main\): .*{field}: is not as in the check"):
        expectations.check(config(), now)


def test_a_request_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"^container\.request: "):
        expectations.parse(b"\xff\xff")
