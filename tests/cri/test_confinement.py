"""What confines containers of a pod, and what does not, by the real kernel."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from orlop._stubs.cri import api_pb2 as api
from orlop.runtime.host import probe_host

from .conftest import Client, container_config, pod_config
from .test_life import refused

pytestmark = [pytest.mark.root, pytest.mark.peers]
MODULES = probe_host().security_modules


class Pod:
    """A sandbox in which containers sleep."""

    def __init__(self, client: Client, image: str, context: api.LinuxSandboxSecurityContext | None = None) -> None:
        self.client, self.image = client, image
        self.config = pod_config()
        if context is not None:
            self.config.linux.security_context.CopyFrom(context)
        self.id = client.RunPodSandbox(config=self.config).pod_sandbox_id
        self.count = 0

    def create(self, context: api.LinuxContainerSecurityContext | None = None, **fields: object) -> str:
        self.count += 1
        linux = api.LinuxContainerConfig(security_context=context)
        config = container_config(self.image, "sleep", "1000", name=f"c{self.count}", linux=linux, **fields)
        answer = self.client.CreateContainer(pod_sandbox_id=self.id, config=config, sandbox_config=self.config)
        identifier: str = answer.container_id
        return identifier

    def run(self, context: api.LinuxContainerSecurityContext | None = None, **fields: object) -> str:
        identifier = self.create(context, **fields)
        self.client.StartContainer(container_id=identifier)
        return identifier

    def said(self, container: str, script: str) -> str:
        answer = self.client.ExecSync(container_id=container, cmd=["sh", "-c", script])
        text: str = (answer.stdout + answer.stderr).decode()
        return text


@pytest.fixture
def pod(client: Client, busybox: str) -> Iterator[Pod]:
    made = Pod(client, busybox)
    yield made
    client.RemovePodSandbox(pod_sandbox_id=made.id)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that is a shared mount."""
    path = tmp_path / "shared"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
    subprocess.run(["mount", "--make-shared", path], check=True)
    yield path
    subprocess.run(["umount", "-R", path], check=True)


def test_mount_options_are_obeyed(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "program").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "program").chmod(0o755)
    mounts = [
        api.Mount(container_path="/plain", host_path=str(tmp_path)),
        api.Mount(container_path="/bare", host_path=str(tmp_path), mount_options=["noexec", "nodev", "nosuid"]),
        api.Mount(container_path="/i", image=api.ImageSpec(image=pod.image), readonly=True, mount_options=["noexec"]),
    ]
    container = pod.run(mounts=mounts)
    assert pod.said(container, "/plain/program") == "ran\n"
    assert "ermission denied" in pod.said(container, "/bare/program")
    assert "ermission denied" in pod.said(container, "/i/bin/sh -c true")
    shown = {
        line.split()[1]: line.split()[3].split(",") for line in pod.said(container, "cat /proc/mounts").splitlines()
    }
    assert {"noexec", "nodev", "nosuid"} <= set(shown["/bare"])
    assert {"ro", "noexec"} <= set(shown["/i"])


def test_propagation_goes_where_it_is_asked_to(client: Client, busybox: str, shared: Path) -> None:
    pod = Pod(client, busybox, api.LinuxSandboxSecurityContext(privileged=True))
    try:
        context = api.LinuxContainerSecurityContext(privileged=True)
        mounts = [
            api.Mount(container_path="/both", host_path=str(shared), propagation=api.PROPAGATION_BIDIRECTIONAL),
            api.Mount(container_path="/in", host_path=str(shared), propagation=api.PROPAGATION_HOST_TO_CONTAINER),
            api.Mount(container_path="/none", host_path=str(shared)),
        ]
        container = pod.run(context, mounts=mounts)
        pod.said(container, "mkdir /both/made && mount -t tmpfs tmpfs /both/made && touch /both/made/file")
        assert (shared / "made/file").exists()
        assert pod.said(container, "ls /in/made") == "file\n"
        assert pod.said(container, "ls /none/made") == ""
    finally:
        client.RemovePodSandbox(pod_sandbox_id=pod.id)


@pytest.mark.parametrize("kind", [api.PROPAGATION_BIDIRECTIONAL, api.PROPAGATION_HOST_TO_CONTAINER])
def test_propagation_of_a_private_mount_is_refused(pod: Pod, shared: Path, kind: int) -> None:
    subprocess.run(["mount", "--make-private", shared], check=True)
    mount = api.Mount(container_path="/m", host_path=str(shared), propagation=kind)
    text = refused(lambda: pod.create(mounts=[mount]), grpc.StatusCode.FAILED_PRECONDITION)
    assert "needs a shared" in text


def test_read_only_of_all_beneath(pod: Pod, shared: Path) -> None:
    (shared / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", shared / "below"], check=True)
    mounts = [
        api.Mount(container_path="/all", host_path=str(shared), readonly=True, recursive_read_only=True),
        api.Mount(container_path="/top", host_path=str(shared), readonly=True),
    ]
    container = pod.run(mounts=mounts)
    assert "Read-only" in pod.said(container, "touch /all/x")
    assert "Read-only" in pod.said(container, "touch /all/below/x")
    assert "Read-only" in pod.said(container, "touch /top/x")
    assert pod.said(container, "touch /top/below/x") == ""


@pytest.mark.skipif("apparmor" in MODULES, reason="this host has AppArmor")
def test_apparmor_that_is_not_there(pod: Pod) -> None:
    Profile = api.SecurityProfile
    pod.run(api.LinuxContainerSecurityContext(apparmor=Profile()))
    pod.run(api.LinuxContainerSecurityContext(apparmor_profile="runtime/default"))
    for context in (
        api.LinuxContainerSecurityContext(apparmor=Profile(profile_type=Profile.Localhost, localhost_ref="mine")),
        api.LinuxContainerSecurityContext(apparmor_profile="localhost/mine"),
    ):
        text = refused(lambda context=context: pod.create(context), grpc.StatusCode.FAILED_PRECONDITION)
        assert "this host has no AppArmor" in text


@pytest.mark.skipif("selinux" in MODULES, reason="this host has SELinux")
def test_selinux_that_is_not_there(pod: Pod, tmp_path: Path) -> None:
    context = api.LinuxContainerSecurityContext(selinux_options=api.SELinuxOption(level="s0:c1,c2"))
    mount = api.Mount(container_path="/v", host_path=str(tmp_path), selinux_relabel=True)
    assert "/v" in pod.said(pod.run(context, mounts=[mount]), "ls -d /v")


def test_seccomp_profiles(client: Client, pod: Pod, tmp_path: Path) -> None:
    Profile = api.SecurityProfile
    profile = tmp_path / "p.json"
    profile.write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}'
    )

    def of(path: Path) -> api.LinuxContainerSecurityContext:
        seccomp = Profile(profile_type=Profile.Localhost, localhost_ref=str(path))
        return api.LinuxContainerSecurityContext(seccomp=seccomp)

    assert "not permitted" in pod.said(pod.run(of(profile)), "mkdir /tmp/x")
    default = pod.run(api.LinuxContainerSecurityContext(seccomp=Profile()))
    assert pod.said(default, "grep Seccomp: /proc/self/status").split() == ["Seccomp:", "2"]
    assert pod.said(pod.run(), "grep Seccomp: /proc/self/status").split() == ["Seccomp:", "0"]
    refused(lambda: pod.create(of(tmp_path / "missing")), grpc.StatusCode.NOT_FOUND)
    refused(lambda: pod.create(of(tmp_path)), grpc.StatusCode.INVALID_ARGUMENT)
    (tmp_path / "text").write_text("no json")
    refused(lambda: pod.create(of(tmp_path / "text")), grpc.StatusCode.FAILED_PRECONDITION)


def test_devices(client: Client, busybox: str, pod: Pod, tmp_path: Path) -> None:
    subprocess.run(["mknod", tmp_path / "zero", "c", "1", "5"], check=True)
    (tmp_path / "below").mkdir()
    subprocess.run(["mknod", tmp_path / "below/kmsg", "c", "1", "11"], check=True)
    devices = [api.Device(container_path="/dev/some", host_path=str(tmp_path), permissions="rm")]
    container = pod.run(devices=devices)
    assert pod.said(container, "cd /dev/some; find . -type c | sort; head -c 2 zero | wc -c").split() == [
        *("./below/kmsg", "./zero"),
        "2",
    ]
    assert "not permitted" in pod.said(container, "echo x > /dev/some/below/kmsg")
    refused(
        lambda: (
            pod.create(devices=[api.Device(container_path="/dev/x", host_path=str(tmp_path / "none"))])
            and pod.run(devices=[api.Device(container_path="/dev/x", host_path=str(tmp_path / "none"))])
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    privileged = Pod(client, busybox, api.LinuxSandboxSecurityContext(privileged=True))
    inside = privileged.run(api.LinuxContainerSecurityContext(privileged=True))
    assert privileged.said(inside, "test -e /dev/kmsg && echo there; grep CapEff /proc/self/status").startswith("there")
    client.RemovePodSandbox(pod_sandbox_id=privileged.id)
