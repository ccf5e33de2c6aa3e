"""Security contexts: who a process is, and what it may do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.cri.conformance.pod import Container, Pod
from tests.cri.test_life import refused

from orlop._stubs.cri import api_pb2 as api

Make = Callable[..., Pod]
APP = 1000  # of the image, in the group staff (50) as well


def number(value: int) -> api.Int64Value:
    return api.Int64Value(value=value)


def security(**fields: Any) -> api.LinuxContainerSecurityContext:
    return api.LinuxContainerSecurityContext(**fields)


def status_of(container: Container, name: str) -> str:
    """A line of /proc/self/status."""
    return container.sh(f"grep ^{name}: /proc/self/status").partition(":")[2].strip()


def capabilities(container: Container, kind: str = "CapEff") -> set[int]:
    held = int(status_of(container, kind), 16)
    return {bit for bit in range(64) if held >> bit & 1}


CHOWN, NET_BIND, NET_ADMIN, NET_RAW, SYS_TIME = 0, 10, 12, 13, 25

# --- who


@pytest.mark.parametrize(
    ("asked", "uid", "gid"),
    [
        ({"run_as_user": number(APP)}, APP, APP),
        ({"run_as_username": "app"}, APP, APP),
        ({"run_as_user": number(4321)}, 4321, 0),
        ({"run_as_user": number(APP), "run_as_group": number(77)}, APP, 77),
        ({"run_as_username": "app", "run_as_group": number(77)}, APP, 77),
        ({"run_as_user": number(0), "run_as_group": number(50)}, 0, 50),
    ],
)
def test_user_and_group(pod: Pod, asked: dict[str, Any], uid: int, gid: int) -> None:
    container = pod.run(security=security(**asked))
    assert container.sh("id -u; id -g").split() == [str(uid), str(gid)]
    assert status_of(container, "Uid").split() == [str(uid)] * 4
    user = container.status.user.linux
    assert (user.uid, user.gid) == (uid, gid)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"run_as_username": "stranger"}, "stranger"),
        ({"run_as_group": number(1)}, "run_as_group"),
        ({"run_as_username": "app", "run_as_user": number(1)}, "run_as_user"),
        ({"run_as_user": number(-1)}, "-1"),
    ],
)
def test_users_that_are_refused(pod: Pod, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        pod.run(security=security(**asked))
    assert words in caught.value.details()
    assert caught.value.code() != grpc.StatusCode.INTERNAL


def test_home_is_the_user_s(pod: Pod) -> None:
    assert pod.run(security=security(run_as_user=number(APP))).sh("echo $HOME") == "/home/app"


@pytest.mark.parametrize(
    ("policy", "groups"), [(api.Merge, {APP, 50, 1234, 5678}), (api.Strict, {APP, 1234, 5678})], ids=["merge", "strict"]
)
def test_supplemental_groups(pod: Pod, policy: int, groups: set[int]) -> None:
    container = pod.run(
        security=security(run_as_user=number(APP), supplemental_groups=[1234, 5678], supplemental_groups_policy=policy)
    )
    assert {int(word) for word in container.sh("id -G").split()} == groups
    assert set(container.status.user.linux.supplemental_groups) | {APP} == groups


# --- capabilities


def test_capabilities_of_a_container_that_asks_for_none(pod: Pod) -> None:
    held = capabilities(pod.run())
    assert CHOWN in held
    assert not held & {NET_ADMIN, SYS_TIME}


@pytest.mark.parametrize("prefix", ["", "CAP_"])
def test_capabilities_are_added_and_dropped(pod: Pod, prefix: str) -> None:
    wanted = api.Capability(add_capabilities=[f"{prefix}NET_ADMIN"], drop_capabilities=[f"{prefix}CHOWN"])
    container = pod.run(security=security(capabilities=wanted))
    for kind in ("CapEff", "CapPrm", "CapBnd"):
        held = capabilities(container, kind)
        assert NET_ADMIN in held
        assert CHOWN not in held
    assert not capabilities(container, "CapInh")
    container.sh("ip link add name x type bridge && ip link del x || ip link set lo down")
    assert "not permitted" in container.fails("chown 1 /tmp")


def test_all_capabilities(pod: Pod) -> None:
    everything = capabilities(pod.run(security=security(capabilities=api.Capability(add_capabilities=["ALL"]))))
    assert {NET_ADMIN, SYS_TIME} <= everything
    drop = api.Capability(drop_capabilities=["ALL"])
    assert capabilities(pod.run(security=security(capabilities=drop)), "CapBnd") == set()
    but = api.Capability(add_capabilities=["NET_RAW"], drop_capabilities=["ALL"])
    assert capabilities(pod.run(security=security(capabilities=but))) == {NET_RAW}


def test_capabilities_that_a_user_keeps(pod: Pod) -> None:
    wanted = api.Capability(add_capabilities=["NET_BIND_SERVICE"], add_ambient_capabilities=["NET_BIND_SERVICE"])
    container = pod.run(security=security(run_as_user=number(APP), capabilities=wanted))
    assert capabilities(container, "CapAmb") == capabilities(container) == {NET_BIND}
    plain = pod.run(security=security(run_as_user=number(APP)))
    assert capabilities(plain) == capabilities(plain, "CapAmb") == set()


def test_a_capability_that_does_not_exist(pod: Pod) -> None:
    wrong = security(capabilities=api.Capability(add_capabilities=["FLY"]))
    with pytest.raises(grpc.RpcError) as caught:
        pod.run(security=wrong)
    assert "FLY" in caught.value.details()
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


# --- privileges


def test_privileged(make_pod: Make) -> None:
    pod = make_pod(linux=api.LinuxPodSandboxConfig(security_context=api.LinuxSandboxSecurityContext(privileged=True)))
    container = pod.run(security=security(privileged=True))
    assert {NET_ADMIN, SYS_TIME} <= capabilities(container)
    assert status_of(container, "Seccomp") == "0"
    container.sh("mount -t tmpfs none /tmp")
    container.sh("test -e /dev/full && ls /dev/loop-control /dev/fuse /dev/kmsg 2>/dev/null | grep -q .")
    assert "rw" in container.sh("grep ' /sys sysfs ' /proc/mounts").split()[3].split(",")
    plain = pod.run()
    assert NET_ADMIN not in capabilities(plain)


def test_privileged_needs_a_pod_for_it(pod: Pod) -> None:
    refused(lambda: pod.create(security=security(privileged=True)), grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize("asked", [True, False])
def test_no_new_privileges(pod: Pod, asked: bool) -> None:
    container = pod.run(security=security(no_new_privs=asked))
    assert status_of(container, "NoNewPrivs") == str(int(asked))
    setuid = "cp /bin/busybox /tmp/id; chown 0 /tmp/id; chmod 4755 /tmp/id"
    container.sh(setuid)


# --- seccomp


def profile(kind: int, path: str = "") -> api.SecurityProfile:
    return api.SecurityProfile(profile_type=kind, localhost_ref=path)


def test_the_runtime_s_own_profile(pod: Pod) -> None:
    container = pod.run(security=security(seccomp=profile(api.SecurityProfile.RuntimeDefault)))
    assert status_of(container, "Seccomp") == "2"
    assert container.exec("mount", "-t", "tmpfs", "none", "/tmp").exit_code != 0


def test_no_profile(pod: Pod) -> None:
    container = pod.run(security=security(seccomp=profile(api.SecurityProfile.Unconfined)))
    assert status_of(container, "Seccomp") == "0"


def test_a_profile_of_the_node(pod: Pod, tmp_path: Path) -> None:
    rules = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    (tmp_path / "profile.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rules]}))
    chosen = profile(api.SecurityProfile.Localhost, str(tmp_path / "profile.json"))
    container = pod.run(security=security(seccomp=chosen))
    assert "not supported" in container.fails("mkdir /tmp/x")
    container.sh("touch /tmp/x")


@pytest.mark.parametrize("text", [None, "", "{", '{"defaultAction": "SCMP_ACT_FLY"}'])
def test_a_profile_that_is_none(pod: Pod, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "profile.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(grpc.RpcError) as caught:
        pod.run(security=security(seccomp=profile(api.SecurityProfile.Localhost, str(path))))
    assert caught.value.code() in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
    )
    assert "\n" not in caught.value.details()


# --- files


def test_paths_are_hidden(pod: Pod) -> None:
    container = pod.run(security=security(masked_paths=["/proc/meminfo", "/www", "/no/such/path"]))
    assert container.sh("cat /proc/meminfo; ls /www") == ""
    assert container.fails("echo > /www/file")
    assert pod.run().sh("cat /proc/meminfo")


def test_paths_are_only_read(pod: Pod) -> None:
    container = pod.run(security=security(readonly_paths=["/www", "/no/such/path"]))
    assert "Read-only" in container.fails("echo > /www/file")
    container.sh("echo > /tmp/file")


def test_a_root_that_is_only_read(pod: Pod, tmp_path: Path) -> None:
    mounts = [api.Mount(container_path="/v", host_path=str(tmp_path))]
    container = pod.run(security=security(readonly_rootfs=True), mounts=mounts)
    assert "Read-only" in container.fails("echo > /file")
    container.sh("echo > /v/file; echo > /dev/shm/file; echo > /dev/null")


def test_processes_of_exec_have_the_same_privileges(pod: Pod) -> None:
    wanted = security(
        run_as_user=number(APP),
        no_new_privs=True,
        capabilities=api.Capability(drop_capabilities=["ALL"]),
        seccomp=profile(api.SecurityProfile.RuntimeDefault),
        supplemental_groups=[1234],
    )
    container = pod.run(
        "sh", "-c", "grep -E '^(Uid|Gid|Groups|Cap|NoNew|Seccomp)' /proc/self/status; sleep 1000", security=wanted
    )
    lines = container.sh("grep -E '^(Uid|Gid|Groups|Cap|NoNew|Seccomp)' /proc/self/status").splitlines()
    assert [text for _, _, text in container.lines()] == lines
