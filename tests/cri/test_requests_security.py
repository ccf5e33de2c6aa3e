"""What requests say of profiles, labels, mounts and environment, without a daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import profiles, requests, security
from orlop.engine.config import ContainerConfig, MountRequest
from orlop.engine.oci import security as oci_security
from orlop.engine.oci.spec import ContainerFacts, runtime_spec, validate
from orlop.engine.propagation import peers
from orlop.spec.errors import FailedPrecondition, InvalidArgument
from orlop.spec.image import ImageConfig, RootFS

from .conftest import container_config, pod_config

IMAGE = ImageConfig(rootfs=RootFS(type="layers", diff_ids=()))
Profile = api.SecurityProfile


def asked(context: api.LinuxContainerSecurityContext | None = None, **fields: Any) -> ContainerConfig:
    config = container_config("image", "sh", **fields)
    pod = pod_config("pod")
    if context is not None:
        config.linux.security_context.CopyFrom(context)
        pod.linux.security_context.privileged = context.privileged
    return requests.container(
        api.CreateContainerRequest(config=config), api.RunPodSandboxRequest(config=pod), "5a" * 32
    )


def of(**fields: Any) -> api.LinuxContainerSecurityContext:
    return api.LinuxContainerSecurityContext(**fields)


@pytest.mark.parametrize(
    ("context", "option"),
    [
        (of(), "seccomp=unconfined"),
        (of(seccomp_profile_path="unconfined"), "seccomp=unconfined"),
        (of(seccomp_profile_path="runtime/default"), ""),
        (of(seccomp_profile_path="localhost//p.json"), "seccomp=localhost:/p.json"),
        (of(seccomp=Profile(profile_type=Profile.RuntimeDefault)), ""),
        (of(seccomp=Profile(profile_type=Profile.Unconfined)), "seccomp=unconfined"),
        (of(seccomp=Profile(profile_type=Profile.Localhost, localhost_ref="/p.json")), "seccomp=localhost:/p.json"),
        (of(seccomp=Profile(), seccomp_profile_path="unconfined"), ""),
        (of(privileged=True, seccomp=Profile()), "seccomp=unconfined"),
    ],
)
def test_seccomp(context: api.LinuxContainerSecurityContext, option: str) -> None:
    assert asked(context).security_opt == ((option,) if option else ())


def test_seccomp_of_the_sandbox_is_the_default_unless_it_asks_for_another() -> None:
    config = pod_config("pod")
    request = api.RunPodSandboxRequest(config=config)
    assert requests.sandbox(request, "bridge").security_opt == ("no-new-privileges",)
    request.config.linux.security_context.seccomp.profile_type = Profile.Unconfined
    assert requests.sandbox(request, "bridge").security_opt == ("no-new-privileges", "seccomp=unconfined")
    request.config.linux.security_context.seccomp.CopyFrom(
        Profile(profile_type=Profile.Localhost, localhost_ref="/p.json")
    )
    assert requests.sandbox(request, "bridge").security_opt == ("no-new-privileges", "seccomp=localhost:/p.json")


@pytest.mark.parametrize(
    ("context", "name"),
    [
        (of(), ""),
        (of(apparmor=Profile()), "default"),
        (of(apparmor=Profile(profile_type=Profile.Unconfined)), "unconfined"),
        (of(apparmor=Profile(profile_type=Profile.Localhost, localhost_ref="mine")), "localhost:mine"),
        (of(apparmor_profile="localhost/mine"), "localhost:mine"),
        (of(apparmor_profile="runtime/default"), "default"),
        (of(apparmor=Profile(profile_type=Profile.Unconfined), apparmor_profile="localhost/mine"), "unconfined"),
    ],
)
def test_apparmor_in_both_forms(context: api.LinuxContainerSecurityContext, name: str) -> None:
    pod = asked(context).pod
    assert pod is not None
    assert pod.apparmor == name


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (of(apparmor_profile="mine"), "apparmor_profile 'mine': not a profile"),
        (of(seccomp_profile_path="p.json"), "seccomp_profile_path 'p.json': not a profile"),
        (of(apparmor=Profile(profile_type=Profile.Localhost)), "apparmor.localhost_ref '': names no profile"),
        (of(apparmor=Profile(profile_type=Profile.Localhost, localhost_ref="a\nb")), "names no profile"),
        (of(seccomp=Profile(profile_type=9)), "seccomp.profile_type: 9 is not known"),
        (of(selinux_options=api.SELinuxOption(type="a:b")), "selinux_options.type 'a:b': not a part of a label"),
        (of(selinux_options=api.SELinuxOption(level="s0\n")), "selinux_options.level"),
        (of(supplemental_groups_policy=7), "supplemental_groups_policy: 7 is not known"),
        (of(namespace_options=api.NamespaceOption(pid=9)), "namespace_options.pid: 9 is not possible here"),
        (of(namespace_options=api.NamespaceOption(ipc=api.TARGET)), "namespace_options.ipc: TARGET"),
    ],
)
def test_refuses(context: api.LinuxContainerSecurityContext, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        asked(context)


def test_apparmor_where_there_is_none() -> None:
    none = frozenset[str]()
    assert [security.apparmor(word, False, False, none) for word in ("", "default", "unconfined")] == ["", "", ""]
    with pytest.raises(FailedPrecondition, match="'mine' can't be used: this host has no AppArmor"):
        security.apparmor("localhost:mine", False, False, none)


def test_apparmor_where_there_is_some() -> None:
    loaded = frozenset({"mine", security.APPARMOR_DEFAULT})
    assert security.apparmor("localhost:mine", True, True, loaded) == "mine"
    assert security.apparmor("default", False, True, loaded) == security.APPARMOR_DEFAULT
    assert security.apparmor("default", True, True, loaded) == ""
    assert security.apparmor("unconfined", False, True, loaded) == "unconfined"
    with pytest.raises(FailedPrecondition, match="'other' is not loaded on this host"):
        security.apparmor("localhost:other", False, True, loaded)
    with pytest.raises(FailedPrecondition, match="which RuntimeDefault means, is not loaded"):
        security.apparmor("default", False, True, frozenset())


def test_labels_reach_the_configuration() -> None:
    config = asked(
        of(selinux_options=api.SELinuxOption(type="spc_t", level="s0:c1,c2"), apparmor_profile="localhost/p")
    )
    assert config.pod is not None
    assert config.pod.selinux == "system_u:system_r:spc_t:s0:c1,c2"
    assert oci_security.mount_label(config) == "system_u:object_r:container_file_t:s0:c1,c2"
    resolved = msgspec.structs.replace(config, pod=msgspec.structs.replace(config.pod, apparmor="p"))
    facts = ContainerFacts(
        id="ab" * 32, network_namespace="/n", ipc_namespace="/i", uts_namespace="/u", pid_namespace="/p"
    )
    process = runtime_spec(resolved, IMAGE, facts).process
    assert process is not None
    assert (process.apparmor_profile, process.selinux_label) == ("p", "system_u:system_r:spc_t:s0:c1,c2")
    assert security.selinux(config.pod.selinux, active=False) == ""


# --- mounts


def mount(**fields: Any) -> MountRequest:
    fields = {"container_path": "/v", "host_path": "/src"} | fields
    config = asked(mounts=[api.Mount(**fields)])
    validate(config)
    return config.mounts[0]


def test_mount_options() -> None:
    assert mount(mount_options=["noexec", "rnosuid"]).options == ("noexec", "rnosuid")
    image = api.ImageSpec(image="i")
    assert mount(host_path="", image=image, readonly=True, mount_options=["noexec"]).options == ("noexec",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mount_options": ["ro"]}, r"config.mounts\[0\].mount_options\[0\]: use readonly for 'ro'"),
        ({"mount_options": ["noexec", "rshared"]}, r"mount_options\[1\]: use propagation"),
        ({"mount_options": ["idmap=uids=0-1-2;gids=0-1-2"]}, "use uidMappings"),
        ({"mount_options": ["bind"]}, "option 'bind' is not one of a bind mount"),
        ({"mount_options": ["size=5"]}, "option 'size=5' is not one of a bind mount"),
        ({"mount_options": ["remount"]}, "option 'remount' is not one"),
        ({"mount_options": [""]}, "option '' is not one"),
        ({"host_path": ""}, "host_path '': not an absolute path"),
        ({"host_path": "src/x"}, "host_path 'src/x': not an absolute path"),
        ({"host_path": "/a\0b"}, "not an absolute path"),
        ({"container_path": "v"}, "container_path 'v': not an absolute path"),
        ({"container_path": "/../.."}, "destination can't be '/'"),
        ({"propagation": 8}, "propagation: 8 is not known"),
        ({"recursive_read_only": True}, "needs readonly and private propagation"),
        ({"image_sub_path": "x"}, "image_sub_path: there is no image"),
        ({"image": api.ImageSpec(image="i"), "readonly": True}, "both an image and a host_path"),
    ],
)
def test_refuses_a_mount(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        mount(**fields)


def test_peers_of_a_mount() -> None:
    assert peers("36 35 98:0 / /mnt rw,noatime shared:7 master:1 - ext3 /dev/root rw") == {"shared", "master"}
    assert peers("36 35 98:0 / /mnt rw - ext3 shared:/dev/root rw") == frozenset()


# --- environment


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("", b"x", "not a name of a variable"),
        ("A=B", b"x", "not a name of a variable"),
        ("A", b"\xff\xfe", "not UTF-8, which a container's configuration can't hold"),
        ("A", b"a\0b", "has a NUL in it"),
    ],
)
def test_refuses_an_environment(key: str, value: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"config.envs\[0\].*{message}"):
        asked(envs=[api.KeyValue(key=key, value=value)])


def test_an_environment_of_any_letters() -> None:
    values = (b"", b"a=b", "žluť\n".encode())
    config = asked(envs=[api.KeyValue(key=f"V{n}", value=value) for n, value in enumerate(values)])
    assert config.env == ("V0=", "V1=a=b", "V2=žluť\n")


def test_profiles_are_read_where_securityfs_is(tmp_path: Path) -> None:
    """Without it, as on a Debian kernel in a minimal system, AppArmor is taken for off, and a pod still starts."""
    path = tmp_path / "profiles"
    assert profiles._loaded(str(path)) is None
    path.write_text("docker-default (enforce)\n/usr/bin/a b (complain)\n")
    assert profiles._loaded(str(path)) == {"docker-default", "/usr/bin/a b"}
