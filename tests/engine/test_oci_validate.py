from __future__ import annotations

from typing import Any

import pytest

from orlop.engine.config import (
    ContainerConfig,
    Limits,
    LogConfig,
    MountRequest,
    NetworkRequest,
    PortBinding,
    RestartPolicy,
    Ulimit,
)
from orlop.engine.oci.spec import validate
from orlop.spec.errors import InvalidArgument, OrlopError, Unimplemented


def network(mode: str = "bridge", **more: Any) -> dict[str, Any]:
    return {"network": NetworkRequest(mode=mode, **more)}


def port(**more: Any) -> dict[str, Any]:
    return network(ports=(PortBinding(**{"container_port": 80, **more}),))


def mount(**more: Any) -> dict[str, Any]:
    return {"mounts": (MountRequest(**{"type": "bind", "source": "/s", "target": "/t", **more}),)}


PORTS = (PortBinding(container_port=80, host_port=8080),)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"name": "web-1"},
        {"name": "/web"},
        {"hostname": "a.b-c_d"},
        {"restart": RestartPolicy(name="on-failure", max_retries=3)},
        {"ipc_mode": "shareable", "pid_mode": "container:x", "cgroupns_mode": "private"},
        {"security_opt": ("apparmor=unconfined", "label=disable", "no-new-privileges")},
        {"sysctls": {"net.ipv4.ip_forward": "1", "fs.mqueue.msg_max": "5"}},
        {"stop_signal": "SIGQUIT"},
        {"auto_remove": True, "restart": RestartPolicy(name="no")},
        port(host_port=8080, host_address="127.0.0.1"),
        network("host"),
        network("container:x"),
        network(expose=("80", "90-95/udp")),
        network(extra_hosts=("a:1.2.3.4", "b:::1", "c=host-gateway")),
    ],
)
def test_right_requests_pass(asked: dict[str, Any]) -> None:
    validate(ContainerConfig(image="x", **asked))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"name": "a b"}, r"invalid container name \('a b'\), only \[a-zA-Z0-9\]"),
        ({"name": "x"}, "invalid container name"),
        ({"name": "-ab"}, "invalid container name"),
        ({"name": "ab\n"}, "invalid container name"),
        ({"hostname": "a b"}, "invalid hostname format"),
        ({"hostname": "a" * 65}, "invalid hostname format"),
        ({"hostname": "a\n127.0.0.1 evil"}, "invalid hostname format"),
        ({"stop_signal": "SIGWINGS"}, "invalid signal"),
        ({"labels": {"": "x"}}, "invalid label"),
        ({"pid_mode": "other"}, "invalid pid mode: 'other'"),
        ({"pid_mode": "container:"}, "invalid pid mode"),
        ({"ipc_mode": "public"}, "invalid ipc mode"),
        ({"uts_mode": "container:x"}, "invalid uts mode"),
        ({"cgroupns_mode": "x"}, "invalid cgroupns mode"),
        ({"cgroup_parent": "/a/../.."}, "invalid cgroup parent"),
        (port(container_port=0), "invalid containerPort: 0"),
        (port(container_port=99999), "invalid containerPort: 99999"),
        (port(host_port=99999), "invalid hostPort: 99999"),
        (port(protocol="icmp"), "invalid proto: icmp"),
        (network(ports=PORTS + PORTS), "port 8080/tcp is published twice"),
        (network(expose=("0",)), "invalid range format for --expose: 0"),
        (network("host", ports=PORTS), "conflicting options: port publishing and the host network mode"),
        (network("none", ports=PORTS), "conflicting options: port publishing and the none network mode"),
        (network("container:x", ports=PORTS), "port publishing and the container type network mode"),
        (network("container:x", expose=("80",)), "port exposing and the container type network mode"),
        (network("container:x", dns=("1.1.1.1",)), "conflicting options: dns and the network mode"),
        (network("container:x", extra_hosts=("a:1.1.1.1",)), "custom host-to-IP mapping and the network mode"),
        (network("container:x", mac_address="02:00:00:00:00:01"), "mac-address and the network mode"),
        (network("container:x") | {"hostname": "ab"}, "conflicting options: hostname and the network mode"),
        (network("container:"), "invalid network mode"),
        (network("a b"), "invalid network mode"),
        (network(extra_hosts=("a",)), "bad format for add-host: 'a'"),
        ({"uts_mode": "host", "hostname": "ab"}, "conflicting options: hostname and the UTS mode"),
        (
            {"restart": RestartPolicy(name="sometimes")},
            "invalid restart policy: unknown policy 'sometimes'; use one of",
        ),
        ({"restart": RestartPolicy(name="always", max_retries=2)}, "can only be used with 'on-failure'"),
        ({"restart": RestartPolicy(name="on-failure", max_retries=-1)}, "cannot be negative"),
        (
            {"restart": RestartPolicy(name="always"), "auto_remove": True},
            "conflicting options: cannot specify both --restart and --rm",
        ),
        (
            mount(target="t"),
            "invalid mount config for type \"bind\": invalid mount path: 't' mount path must be absolute",
        ),
        (mount(target="/"), "destination can't be '/'"),
        (mount(target="/a/.."), "destination can't be '/'"),
        (mount(source="s"), "invalid mount path: 's' mount path must be absolute"),
        (mount(type="image"), "mount type unknown: 'image'"),
        (mount(propagation="loud"), "invalid propagation 'loud'"),
        (mount(type="volume", source="a b"), "includes invalid characters for a local volume name"),
        (mount(type="tmpfs"), "field Source must not be specified"),
        (mount(size=5), "size and mode are for a tmpfs"),
        (mount(options=("size=5",)), "option .size=5. is not one of a bind mount"),
        (
            {"mounts": (MountRequest(type="tmpfs", target="/t"), MountRequest(type="tmpfs", target="/t/"))},
            "duplicate mount point: /t",
        ),
        ({"mounts": (MountRequest(type="tmpfs", target="/t", options=("x",)),)}, "invalid tmpfs option 'x'"),
        ({"limits": Limits(memory=1)}, "minimum memory limit allowed is 6MB"),
        ({"limits": Limits(ulimits=(Ulimit(name="nofile", soft=2, hard=1),))}, "soft limit must be less"),
        ({"cap_add": ("wings",)}, "invalid CapAdd: unknown capability: 'CAP_WINGS'"),
        ({"security_opt": ("wings=on",)}, "invalid --security-opt: 'wings=on'"),
        ({"security_opt": ("no-new-privileges=maybe",)}, "invalid --security-opt"),
        ({"security_opt": ("seccomp=/etc/profile",)}, "is not a profile"),
        ({"security_opt": ("systempaths=confined",)}, "invalid --security-opt"),
        ({"sysctls": {"kernel.panic": "1"}}, "sysctl 'kernel.panic' is not allowed"),
        ({"sysctls": {"net.x\n": "1"}}, "invalid sysctl"),
        ({"sysctls": {"net../../kernel/panic": "1"}}, "invalid sysctl"),
        (network("host") | {"sysctls": {"net.ipv4.ip_forward": "1"}}, "not allowed in host network namespace"),
        ({"ipc_mode": "host", "sysctls": {"kernel.msgmax": "1"}}, "not allowed in host ipc namespace"),
        ({"working_dir": "here"}, "the working directory 'here' is invalid"),
        ({"env": ("=",)}, "invalid environment variable"),
        ({"command": ("a\0",)}, "NUL"),
    ],
)
def test_wrong_requests_are_refused_in_dockers_words(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        validate(ContainerConfig(image="x", **asked))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "asked",
    [
        {"userns_mode": "auto"},
        {"security_opt": ("apparmor=mine",)},
        {"security_opt": ("label=type:x",)},
        {"log": LogConfig(driver="syslog")},
    ],
)
def test_what_is_not_done_yet_says_so(asked: dict[str, Any]) -> None:
    with pytest.raises(Unimplemented):
        validate(ContainerConfig(image="x", **asked))


def test_errors_are_orlops() -> None:
    assert issubclass(InvalidArgument, OrlopError)
