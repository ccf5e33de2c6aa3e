"""Devices by the Container Device Interface: what files say, what they do to a request, and to a real container."""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import cdi, cdi_files, cdi_yaml
from orlop.engine.config import ContainerConfig, MountRequest, PodRequest
from orlop.engine.oci.spec import hooks
from orlop.spec.errors import InvalidArgument, NotFound, OrlopError, Unimplemented
from orlop.spec.runtime import Hook

from .conftest import Client, container_config, pod_config
from .test_life import refused


def document(**fields: Any) -> dict[str, Any]:
    return {
        "cdiVersion": "0.6.0",
        "kind": "vendor.com/net",
        "devices": [{"name": "one", "containerEdits": {}}],
    } | fields


def parsed(**fields: Any) -> cdi.Spec:
    return cdi.parse(json.dumps(document(**fields)).encode(), "file")


def edits(**fields: Any) -> cdi.Edits:
    return parsed(containerEdits=fields).container_edits


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"cdiVersion": "0.2.0"}, Unimplemented, "cdiVersion '0.2.0' is none of 0.3.0 to 1.0.0"),
        ({"cdiVersion": "2.0.0"}, Unimplemented, "cdiVersion"),
        ({"kind": "net"}, InvalidArgument, "kind 'net' is not VENDOR/CLASS"),
        ({"kind": "../x/y"}, InvalidArgument, "is not VENDOR/CLASS"),
        ({"wings": 1}, InvalidArgument, "wings"),
        ({"devices": [{"name": "-"}]}, InvalidArgument, "'-' is no name of a device"),
        ({"devices": [{"name": "a"}, {"name": "a"}]}, InvalidArgument, "two devices have the same name"),
        ({"containerEdits": {"intelRdt": {"closID": "x"}}}, Unimplemented, "intelRdt is not supported"),
        ({"containerEdits": {"deviceNodes": [{"path": "dev/x"}]}}, InvalidArgument, "'dev/x' is no device node"),
        ({"containerEdits": {"deviceNodes": [{"path": "/x", "permissions": "rx"}]}}, InvalidArgument, "permissions"),
        ({"containerEdits": {"mounts": [{"hostPath": "x", "containerPath": "/y"}]}}, InvalidArgument, "absolute"),
        ({"containerEdits": {"hooks": [{"hookName": "soon", "path": "/x"}]}}, InvalidArgument, "'soon' at '/x'"),
        ({"containerEdits": {"env": ["A"]}}, InvalidArgument, "'A' is not NAME=VALUE"),
    ],
)
def test_refuses_a_file(fields: dict[str, Any], kind: type[OrlopError], message: str) -> None:
    with pytest.raises(kind, match=message):
        parsed(**fields)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_an_error_of_one_line(raw: bytes) -> None:
    with pytest.raises(OrlopError) as caught:  # such a one is not found by chance
        cdi.parse(raw, "file")
    assert "\n" not in str(caught.value)


def test_names_come_from_the_field_and_from_annotations_once() -> None:
    found = cdi.wanted(["v.com/net=one"], {"cdi.k8s.io/b": "v.com/net=two,v.com/net=one", "other": "x"})
    assert found == ("v.com/net=one", "v.com/net=two")


@pytest.mark.parametrize("name", ["", "one", "v.com/net", "v.com/net=", "/net=one", "v.com/net=a b", "v.com/net=../x"])
def test_refuses_a_name(name: str) -> None:
    with pytest.raises(InvalidArgument, match="want VENDOR/CLASS=NAME"):
        cdi.wanted([name], {})


def found(*layers: dict[str, dict[str, Any]], broken: dict[str, str] | None = None) -> cdi.Library:
    files = [{path: json.dumps(text).encode() for path, text in layer.items()} for layer in layers]
    return cdi.library(["/etc/cdi", "/run/cdi"][: len(layers)], files, broken or {})


def test_edits_of_a_file_come_once_before_those_of_its_devices() -> None:
    devices = [{"name": name, "containerEdits": {"env": [f"D={name}"]}} for name in ("one", "two")]
    library = found({"/etc/cdi/a.json": document(devices=devices, containerEdits={"env": ["ALL=1"]})})
    made = library.edits(["vendor.com/net=two", "vendor.com/net=one"])
    assert [edit.env for edit in made] == [("ALL=1",), ("D=two",), ("D=one",)]


def test_a_later_directory_goes_before_an_earlier_one() -> None:
    late = document(devices=[{"name": "one", "containerEdits": {"env": ["FROM=late"]}}])
    made = found({"/etc/cdi/a.json": document()}, {"/run/cdi/a.json": late}).edits(["vendor.com/net=one"])
    assert made[-1].env == ("FROM=late",)


def test_a_device_in_two_files_of_one_directory_is_neither() -> None:
    with pytest.raises(InvalidArgument, match=r"is in both /etc/cdi/a.json and /etc/cdi/b.json"):
        found({"/etc/cdi/a.json": document(), "/etc/cdi/b.json": document()}).edits(["vendor.com/net=one"])


def test_what_is_not_found_tells_of_files_that_are_broken() -> None:
    library = found({"/etc/cdi/a.json": document(kind="x")}, broken={"/etc/cdi/b.yaml": "is YAML"})
    with pytest.raises(NotFound, match=r"in no file of /etc/cdi; /etc/cdi/b.yaml: is YAML; /etc/cdi/a.json: .*kind"):
        library.edits(["vendor.com/net=one"])


def test_edits_of_a_request() -> None:
    config = ContainerConfig(
        image="i",
        env=("A=1",),
        mounts=(MountRequest(type="bind", source="/old", target="/m/"),),
        pod=PodRequest(sandbox="s"),
    )
    node = {"path": "/dev/x", "hostPath": "/dev/y", "type": "c", "major": 1, "minor": 2, "uid": 5, "permissions": "rw"}
    made = cdi.inject(
        config,
        [
            edits(
                env=["A=2"],
                deviceNodes=[node],
                mounts=[{"hostPath": "/new", "containerPath": "/m", "options": ["rbind", "ro", "nosuid", "rslave"]}],
                hooks=[
                    {"hookName": "createContainer", "path": "/h", "args": ["h", "1"], "env": ["E=1"], "timeout": 3},
                    {"hookName": "poststop", "path": "/p"},
                ],
                additionalGids=[7, 0],
            )
        ],
    )
    assert made.env == ("A=1", "A=2")
    assert made.groups == ("7",)
    (device,) = made.limits.devices
    assert (device.source, device.target, device.access, device.major, device.uid) == ("/dev/y", "/dev/x", "rw", 1, 5)
    (mount,) = made.mounts
    assert (mount.source, mount.target, mount.read_only, mount.propagation) == ("/new", "/m", True, "rslave")
    assert mount.options == ("nosuid",)
    in_spec = hooks(made)
    assert in_spec is not None
    assert in_spec.create_container == (Hook(path="/h", args=("h", "1"), env=("E=1",), timeout=3),)
    assert in_spec.poststop == (Hook(path="/p"),)


def test_files_that_can_t_be_read_do_not_matter_to_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document()))
    (tmp_path / "b.json").mkdir()
    os.mkfifo(tmp_path / "c.json")
    (tmp_path / "d.yaml").write_text("kind: x\nkind: y")
    (tmp_path / "e.txt").write_text("nothing")
    library = cdi_files.read((str(tmp_path / "none"), str(tmp_path)))
    assert len(library.edits(["vendor.com/net=one"])) == 2
    assert {Path(path).name for path in library.broken} == {"b.json", "c.json", "d.yaml"}


YAML = """\
# as nvidia-ctk writes them
cdiVersion: "0.6.0"
kind: vendor.com/gpu
containerEdits: &all
  env:
  - VISIBLE=void
  - A=no
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - {path: /dev/x, fileMode: 0660, major: 0x10, minor: 1, type: c}
- name: 22:22
  containerEdits: *all
"""


@pytest.mark.parametrize("ending", ["yaml", "yml"])
def test_a_file_may_be_yaml(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"gpu.{ending}").write_text(YAML)
    library = cdi_files.read((str(tmp_path),))
    assert library.broken == {}
    whole, one = library.edits(["vendor.com/gpu=0"])
    assert whole.env == ("VISIBLE=void", "A=no")
    (node,) = one.device_nodes
    assert (node.file_mode, node.major, node.minor) == (0o660, 16, 1)
    assert library.edits(["vendor.com/gpu=22:22"])[1] == whole


BOMB = "a: &a [x]\n" + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 30)}]\n" for a, b in ("ab", "bc", "cd", "de"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: !!bool word", "'word' is no value of the kind"),
        ("!!binary aGk=", "line 1: could not determine a constructor"),
        ("a: [", "line 1: "),
        ("kind: a/b\ndevices:\n- name: x\n  name: y", "line 4: 'name' is there twice"),
        ("!!python/object/apply:os.system [id]", "line 1: could not determine a constructor"),
        ("? [a]\n: b", "line 1: a key is no word"),
        ("a: &a [1, *a]", "nested deeper"),
        (BOMB, "more than"),
        ("[" * 5000, "nested"),
        ("kind: a\n---\nkind: b", "line 2: "),
        ("kind: yes\ncdiVersion: 0.6.0", "kind 'yes'"),
        ("kind: true\ncdiVersion: 0.6.0", "got `bool`"),
        ("\x00", "special characters"),
        ("", "expected `object`"),
    ],
)  # fmt: skip
def test_yaml_that_is_no_specification(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    library = cdi_files.read((str(tmp_path),))
    (found,) = library.broken.values()
    assert reason in found.lower() or reason in found
    assert "\n" not in found


@given(st.binary(max_size=200) | st.text(alphabet="-:[]{}&*!?|>'\"% \nab01~", max_size=60).map(str.encode))
def test_any_yaml_is_read_or_refused(raw: bytes) -> None:
    try:
        json.loads(cdi_yaml.as_json(raw, "file"))
    except InvalidArgument:
        return


def test_only_yaml_takes_a_reader_of_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document()))
    monkeypatch.setitem(sys.modules, "orlop.cri.cdi_yaml", None)
    monkeypatch.delattr("orlop.cri.cdi_yaml", raising=False)
    assert cdi_files.read((str(tmp_path),)).broken == {}
    (tmp_path / "b.yaml").write_text(YAML)
    (reason,) = cdi_files.read((str(tmp_path),)).broken.values()
    assert reason == "is YAML, for which PyYAML is missing: `pip install orlop[daemon]`"


# --- by the real daemon


@pytest.fixture
def kind() -> Iterator[str]:
    """A kind of devices that no other test has, with its file in /var/run/cdi, which is taken away again."""
    directory = Path("/var/run/cdi")
    made = not directory.exists()
    directory.mkdir(exist_ok=True)
    unique = f"test-{uuid.uuid4().hex[:8]}"
    yield f"orlop.test/{unique}"
    (directory / f"{unique}.json").unlink(missing_ok=True)
    if made:
        directory.rmdir()


def write(kind: str, **container_edits: Any) -> None:
    text = document(kind=kind, devices=[{"name": "one", "containerEdits": container_edits}])
    Path(f"/var/run/cdi/{kind.partition('/')[2]}.json").write_text(json.dumps(text))


@pytest.mark.root
@pytest.mark.peers
@pytest.mark.parametrize("way", ["field", "annotation"])
def test_a_container_is_given_a_device(client: Client, busybox: str, kind: str, tmp_path: Path, way: str) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "hook").write_text(f'#!/bin/sh\necho "$1 $(pwd)" >> {trace}; cat > {tmp_path}/state.$1\n')
    (tmp_path / "hook").chmod(0o755)
    (tmp_path / "lib").mkdir()
    points = ("createRuntime", "createContainer", "poststart", "poststop")
    write(
        kind,
        env=["VENDOR=yes"],
        deviceNodes=[{"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 384}],
        mounts=[{"hostPath": str(tmp_path / "lib"), "containerPath": "/vendor", "options": ["ro", "rbind", "nosuid"]}],
        hooks=[{"hookName": point, "path": str(tmp_path / "hook"), "args": ["hook", point]} for point in points],
        additionalGids=[4321],
    )
    fields: dict[str, Any] = {"CDI_devices": [api.CDIDevice(name=f"{kind}=one")]}
    if way == "annotation":
        fields = {"annotations": {"cdi.k8s.io/vendor": f"{kind}=one"}}
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    linux = api.LinuxContainerConfig()
    linux.security_context.run_as_user.value = 1000
    wanted = container_config(busybox, "sleep", "1000", linux=linux, **fields)
    container = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
    client.StartContainer(container_id=container)
    script = "echo $VENDOR; stat -c %a:%u /dev/mine; head -c 3 /dev/mine | wc -c; id -G | grep -c 4321;"
    script += " grep -c ' /vendor ' /proc/mounts"
    answer = client.ExecSync(container_id=container, cmd=["sh", "-c", script])
    assert answer.stdout.decode().split() == ["yes", "600:1000", "3", "1", "1"], answer.stderr
    client.RemovePodSandbox(pod_sandbox_id=pod)

    assert [line.split()[0] for line in trace.read_text().splitlines()] == list(points)
    assert json.loads((tmp_path / "state.createRuntime").read_text())["status"] == "creating"
    assert json.loads((tmp_path / "state.poststop").read_text())["status"] == "stopped"


@pytest.mark.root
@pytest.mark.peers
def test_a_hook_finds_the_root_by_the_configuration(client: Client, busybox: str, kind: str, tmp_path: Path) -> None:
    """As vendors' programs do: the bundle from the state, root.path from its config.json."""
    script = tmp_path / "hook"
    script.write_text(
        "#!/usr/bin/python3\nimport json, sys\nstate = json.load(sys.stdin)\n"
        "root = json.load(open(state['bundle'] + '/config.json'))['root']['path']\n"
        "open(root + '/tmp/made-by-hook', 'w').write('x')\n"
    )
    script.chmod(0o755)
    write(kind, hooks=[{"hookName": "createContainer", "path": str(script)}])
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    wanted = container_config(busybox, "sleep", "1000", CDI_devices=[api.CDIDevice(name=f"{kind}=one")])
    container = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
    client.StartContainer(container_id=container)
    assert client.ExecSync(container_id=container, cmd=["cat", "/tmp/made-by-hook"]).stdout == b"x"
    client.RemovePodSandbox(pod_sandbox_id=pod)


@pytest.mark.root
@pytest.mark.peers
def test_a_device_that_is_not_there_and_a_hook_that_fails(client: Client, busybox: str, kind: str) -> None:
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    wanted = container_config(busybox, "sleep", "1000", CDI_devices=[api.CDIDevice(name=f"{kind}=two")])
    text = refused(
        lambda: client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config),
        grpc.StatusCode.NOT_FOUND,
    )
    assert f"CDI device {kind}=two: is in no file of /etc/cdi and /var/run/cdi" in text
    write(kind, hooks=[{"hookName": "createRuntime", "path": "/bin/false"}])
    wanted = container_config(busybox, "sleep", "1000", CDI_devices=[api.CDIDevice(name=f"{kind}=one")])
    container = client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config).container_id
    text = refused(lambda: client.StartContainer(container_id=container), grpc.StatusCode.FAILED_PRECONDITION)
    assert "hooks.createRuntime[0]" in text
    client.RemovePodSandbox(pod_sandbox_id=pod)
