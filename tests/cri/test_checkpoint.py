"""Checkpoints over gRPC, with the real CRIU: what runs, runs on; an archive is whole, or is not there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests import criu

from orlop._stubs.cri import api_pb2 as api

from .conftest import Client, Daemon, container_config, pod_config, serving, wait_for
from .test_life import refused

pytestmark = [pytest.mark.root, pytest.mark.peers]
OWN = api.LinuxContainerConfig(
    security_context=api.LinuxContainerSecurityContext(namespace_options=api.NamespaceOption(pid=api.CONTAINER))
)
COUNTER = "i=0; while true; do i=$((i+1)); echo $i >/tmp/count; sleep 0.02; done"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A daemon that finds a CRIU which works here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{criu.find()}:{os.environ['PATH']}")
        with serving() as found:
            yield found


class Pod:
    """A pod with containers by their names."""

    def __init__(self, client: Client, image: str, directory: Path) -> None:
        self.client = client
        self.image = image
        self.directory = directory
        self.config = pod_config(log_directory=str(directory))
        self.id = client.RunPodSandbox(config=self.config).pod_sandbox_id

    def create(self, script: str = COUNTER, name: str = "main", **fields: Any) -> str:
        fields.setdefault("linux", OWN)
        config = container_config(self.image, "sh", "-c", script, name=name, log_path=f"{name}.log", **fields)
        call = self.client.CreateContainer(pod_sandbox_id=self.id, config=config, sandbox_config=self.config, within=60)
        return str(call.container_id)

    def up(self, script: str = COUNTER, name: str = "main", **fields: Any) -> str:
        container = self.create(script, name, **fields)
        self.client.StartContainer(container_id=container, within=60)
        return container

    def read(self, container: str, path: str = "/tmp/count") -> str:
        return bytes(self.client.ExecSync(container_id=container, cmd=["cat", path]).stdout).decode()

    def count(self, container: str) -> int:
        return int(self.read(container) or 0)

    def counts_on(self, container: str, least: int = 0) -> None:
        wait_for(lambda: self.count(container) > least, "the counter")


@pytest.fixture
def pod(client: Client, busybox: str, tmp_path: Path) -> Iterator[Pod]:
    made = Pod(client, busybox, tmp_path)
    yield made
    client.RemovePodSandbox(pod_sandbox_id=made.id)


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {member.name: file.read() if (file := tar.extractfile(member)) is not None else b"" for member in tar}


def criu_runs() -> bool:
    return any(b"swrk" in path.read_bytes().split(b"\0") for path in cmdlines())


def cmdlines() -> Iterator[Path]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            path.read_bytes()
        except OSError:
            continue
        yield path


def left_of(daemon: Daemon, container: str) -> set[str]:
    return {path.name for path in (daemon.root / "containers" / container).iterdir()} & {"dump", "stats-dump"}


def test_a_checkpoint_is_the_archive_that_others_read_and_the_container_runs_on(
    daemon: Daemon, client: Client, pod: Pod, tmp_path: Path
) -> None:
    container = pod.up(f"echo hello; echo there >/dev/shm/mine; rm /etc/group; {COUNTER}", labels={"a": "b"})
    pod.counts_on(container, 5)
    pid = pod.read(container, "/proc/1/stat").split()[21]
    location = tmp_path / "checkpoint.tar"
    client.CheckpointContainer(container_id=container, location=str(location))
    reached = pod.count(container)
    pod.counts_on(container, reached)
    assert pod.read(container, "/proc/1/stat").split()[21] == pid
    assert location.stat().st_mode & 0o777 == 0o600
    found = members(location)
    assert {"config.dump", "spec.dump", "status.dump", "dump.log", "stats-dump", "container.log"} <= found.keys()
    assert {"checkpoint/inventory.img", "checkpoint/pstree.img", "checkpoint/descriptors.json"} <= found.keys()
    assert found["container.log"].endswith(b"stdout F hello\n")
    config, status = json.loads(found["config.dump"]), json.loads(found["status.dump"])
    assert config["id"] == status["id"] == container
    assert config["rootfsImage"] == pod.image
    assert config["rootfsImageName"].endswith(
        ("/lab/busybox:1", "/library/busybox:latest")
    )  # the latter where it was loaded
    assert (status["metadata"]["name"], status["labels"]) == ("main", {"a": "b"})
    assert isinstance(status["started_at"], int)
    spec = json.loads(found["spec.dump"])
    assert spec["annotations"]["io.kubernetes.cri.container-name"] == "main"
    assert json.loads(found["deleted.files"]) == ["/etc/group"]
    with tarfile.open(fileobj=io.BytesIO(found["rootfs-diff.tar"])) as layer:
        names = layer.getnames()
        count = layer.extractfile("tmp/count")
        assert count is not None
        assert int(count.read()) <= reached
    assert "etc/.wh.group" in names
    with tarfile.open(fileobj=io.BytesIO(found["devshm-checkpoint.tar"])) as shared:
        assert shared.getnames() == ["mine"]
    assert not left_of(daemon, container)


def test_what_can_be_no_checkpoint_is_refused_and_leaves_no_file(client: Client, pod: Pod, tmp_path: Path) -> None:
    container = pod.create()
    location = str(tmp_path / "checkpoint.tar")

    def attempt(code: grpc.StatusCode, **fields: Any) -> str:
        wanted = {"container_id": container, "location": location} | fields
        return refused(lambda: client.CheckpointContainer(**wanted), code)

    assert "created" in attempt(grpc.StatusCode.FAILED_PRECONDITION)
    client.StartContainer(container_id=container)
    pod.counts_on(container)
    assert "container_id" in attempt(grpc.StatusCode.INVALID_ARGUMENT, container_id="")
    attempt(grpc.StatusCode.NOT_FOUND, container_id="nobody")
    attempt(grpc.StatusCode.NOT_FOUND, container_id=pod.id)
    for wrong in ("", "checkpoint.tar", "/tmp/", "a\nb"):
        assert "location" in attempt(grpc.StatusCode.INVALID_ARGUMENT, location=wrong)
    attempt(grpc.StatusCode.NOT_FOUND, location=str(tmp_path / "missing/checkpoint.tar"))
    assert "timeout" in attempt(grpc.StatusCode.INVALID_ARGUMENT, timeout=-1)
    Path(location).write_text("somebody's")
    attempt(grpc.StatusCode.ALREADY_EXISTS)
    assert Path(location).read_text() == "somebody's"
    os.unlink(location)
    client.StopContainer(container_id=container, timeout=0)
    assert "exited" in attempt(grpc.StatusCode.FAILED_PRECONDITION)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".log"] == []


def test_the_reason_that_criu_has_is_told_and_the_container_runs_on(client: Client, pod: Pod, tmp_path: Path) -> None:
    """A deleted file that is open is put among the images up to a size, and no further."""
    gone = "dd if=/dev/zero of=/tmp/gone bs=1M count=2 2>/dev/null; exec 7</tmp/gone; rm /tmp/gone"
    container = pod.up(f"{gone}; {COUNTER}")
    pod.counts_on(container)
    location = tmp_path / "checkpoint.tar"
    call = lambda: client.CheckpointContainer(container_id=container, location=str(location))  # noqa: E731
    text = refused(call, grpc.StatusCode.FAILED_PRECONDITION)
    assert "ghost file" in text
    assert Path(text.partition("(more in ")[2].removesuffix(")")).is_file()
    assert not location.exists()
    pod.counts_on(container, pod.count(container))


@pytest.mark.parametrize("within", [0.05, 0.12, 0.2, 0.3])
def test_a_checkpoint_that_nobody_waits_for_any_more_is_called_off(
    client: Client, pod: Pod, tmp_path: Path, within: float
) -> None:
    """CRIU is killed, wherever it is: what it has stopped runs on."""
    container = pod.up(f"dd if=/dev/urandom of=/dev/shm/much bs=1M count=100 2>/dev/null; {COUNTER}")
    pod.counts_on(container)
    location, later = tmp_path / "checkpoint.tar", tmp_path / "later.tar"
    try:
        client.CheckpointContainer(container_id=container, location=str(location), within=within)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED, error  # noqa: PT017
        pod.counts_on(container, pod.count(container))
        wait_for(lambda: not criu_runs(), "criu to be gone")
    else:
        assert within > 0.1  # a machine may be fast, though not that fast
    pod.counts_on(container, pod.count(container))
    client.CheckpointContainer(container_id=container, location=str(later))
    pod.counts_on(container, pod.count(container))
    # called off, or whole: its end and the caller's patience may have come to theirs in the same moment
    if location.exists():
        assert within > 0.1
        with tarfile.open(location) as one, tarfile.open(later) as other:
            assert {"config.dump", "spec.dump"} <= set(one.getnames()) & set(other.getnames())


# --- restoring


class Checkpoint:
    """A container's checkpoint and what it had counted to, at least, by then."""

    def __init__(self, pod: Pod, script: str = COUNTER, **fields: Any) -> None:
        self.archive = pod.directory / "checkpoint.tar"
        container = pod.up(script, "before", **fields)
        pod.counts_on(container, 5)
        self.reached = pod.count(container)
        pod.client.CheckpointContainer(container_id=container, location=str(self.archive))
        pod.client.RemoveContainer(container_id=container)

    def again(self, pod: Pod, name: str = "again", **fields: Any) -> str:
        config = container_config(str(self.archive), name=name, log_path=f"{name}.log", linux=OWN, **fields)
        call = pod.client.CreateContainer(pod_sandbox_id=pod.id, config=config, sandbox_config=pod.config, within=60)
        container = str(call.container_id)
        pod.client.StartContainer(container_id=container, within=60)
        return container


def test_a_container_goes_on_where_its_checkpoint_was(
    daemon: Daemon, client: Client, pod: Pod, busybox: str, tmp_path: Path
) -> None:
    shared = "echo there >/dev/shm/mine; exec 8<>/dev/shm/mine"
    kept = Checkpoint(pod, f"echo begins; rm /etc/group; {shared}; trap 'exit 7' TERM; {COUNTER}")
    container = kept.again(pod)
    assert pod.count(container) >= kept.reached  # a new one would begin at 1
    pod.counts_on(container, kept.reached + 5)
    status = client.ContainerStatus(container_id=container).status
    assert (status.state, status.image_id) == (api.CONTAINER_RUNNING, busybox)
    answer = client.ExecSync(
        container_id=container, cmd=["sh", "-c", "ls /etc/group; cat /dev/shm/mine; busybox readlink /proc/1/fd/8"]
    )
    assert answer.stdout == b"there\n/dev/shm/mine\n"
    same = [
        client.ExecSync(container_id=container, cmd=["busybox", "readlink", f"/proc/{who}/ns/time"]).stdout
        for who in ("1", "self")
    ]
    assert same[0] == same[1]
    assert not (daemon.root / "containers" / container / "checkpoint").exists()
    client.StopContainer(container_id=container, timeout=5)
    assert client.ContainerStatus(container_id=container).status.exit_code == 7
    assert (tmp_path / "again.log").read_text() == ""


def test_what_was_restored_is_checkpointed_again_and_goes_on_in_another_pod(
    client: Client, pod: Pod, busybox: str, tmp_path: Path
) -> None:
    kept = Checkpoint(pod, f"(sleep 1; while true; do echo tick; sleep 0.1; done) & {COUNTER}")
    container = kept.again(pod)
    log = tmp_path / "again.log"
    wait_for(lambda: "stdout F tick" in log.read_text(), "output of what was restored")
    archive = tmp_path / "second.tar"
    reached = pod.count(container)
    client.CheckpointContainer(container_id=container, location=str(archive))
    kept.archive = archive
    (tmp_path / "other").mkdir()
    other = Pod(client, busybox, tmp_path / "other")
    try:
        again = kept.again(other)
        other.counts_on(again, reached)
        wait_for(lambda: "tick" in (tmp_path / "other/again.log").read_text(), "output of what was restored twice")
    finally:
        client.RemovePodSandbox(pod_sandbox_id=other.id)


def test_streams_are_those_of_the_new_container(daemon: Daemon, client: Client, pod: Pod) -> None:
    script = "while read word; do echo got $word; echo 9 >/tmp/count; done; exit 5"
    kept = Checkpoint(pod, f"echo 9 >/tmp/count; {script}", stdin=True)
    container = kept.again(pod, stdin=True)
    engine = daemon.engine()
    with engine.containers.attach(container) as shim:
        shim.attach(stdin=True)
        shim.send_stdin(b"one\n")
        frame = shim.receive()
        assert frame is not None
        assert frame.payload == b"got one\n"
        shim.end_stdin()
        ended = shim.wait(10)
        assert ended is not None
        assert ended.status == 5
    engine.close()
    without = kept.again(pod, "without")  # what reads comes to an end
    wait_for(lambda: client.ContainerStatus(container_id=without).status.exit_code == 5, "the end")


def test_a_terminal_comes_back(daemon: Daemon, pod: Pod) -> None:
    kept = Checkpoint(pod, "echo 9 >/tmp/count; x=4; stty -echo; while read word; do echo $word-$x; done", tty=True)
    container = kept.again(pod, tty=True)
    engine = daemon.engine()
    with engine.containers.attach(container) as shim:
        shim.attach(stdin=True)
        shim.send_stdin(b"one\n")
        frame = shim.receive()
        assert frame is not None
        assert frame.payload == b"one-4\r\n"
    engine.close()


def test_what_is_no_checkpoint_is_refused_and_a_failed_restore_leaves_no_process(
    daemon: Daemon, client: Client, pod: Pod, tmp_path: Path
) -> None:
    kept = Checkpoint(pod)
    whole = members(kept.archive)

    def create(path: Path, code: grpc.StatusCode, **fields: Any) -> str:
        config = container_config(str(path), name="wrong", linux=OWN, **fields)
        wanted = {"pod_sandbox_id": pod.id, "config": config, "sandbox_config": pod.config}
        return refused(lambda: client.CreateContainer(**wanted), code)

    create(tmp_path / "missing.tar", grpc.StatusCode.NOT_FOUND)
    (tmp_path / "text.tar").write_text("no archive" * 200)
    create(tmp_path / "text.tar", grpc.StatusCode.INVALID_ARGUMENT)
    for name in ("config.dump", "checkpoint/inventory.img", "checkpoint/descriptors.json"):
        write(tmp_path / "less.tar", {key: data for key, data in whole.items() if key != name})
        create(tmp_path / "less.tar", grpc.StatusCode.INVALID_ARGUMENT)
    write(tmp_path / "link.tar", whole, {"checkpoint/pages-9.img": "/etc/shadow"})
    assert "is no file" in create(tmp_path / "link.tar", grpc.StatusCode.INVALID_ARGUMENT)
    assert "tty" in create(kept.archive, grpc.StatusCode.FAILED_PRECONDITION, tty=True)
    assert "stdin" in create(kept.archive, grpc.StatusCode.FAILED_PRECONDITION, stdin=True)
    assert not client.ListContainers().containers

    write(tmp_path / "broken.tar", {key: b"" if "core-" in key else data for key, data in whole.items()})
    kept.archive = tmp_path / "broken.tar"
    text = refused(lambda: kept.again(pod), grpc.StatusCode.FAILED_PRECONDITION)
    assert "cannot restore" in text
    (left,) = client.ListContainers().containers
    assert left.state == api.CONTAINER_EXITED
    wait_for(lambda: not criu_runs(), "criu to be gone")
    assert str(daemon.state) not in Path("/proc/self/mountinfo").read_text().replace(
        f"{daemon.state}/containers/{pod.id}/shm", ""
    )


def write(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            if name != "checkpoint":
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)


# --- pods


def pair(pod: Pod) -> tuple[list[str], list[api.ContainerConfig]]:
    """Two containers that count, and their configurations."""
    ids, configs = [], []
    for name in ("first", "second"):
        configs.append(container_config(pod.image, "sh", "-c", COUNTER, name=name, log_path=f"{name}.log", linux=OWN))
        ids.append(pod.up(COUNTER, name))
        pod.counts_on(ids[-1], 5)
    return ids, configs


def test_a_pod_is_checkpointed_at_one_moment_and_another_goes_on_from_there(
    daemon: Daemon, client: Client, pod: Pod, tmp_path: Path
) -> None:
    ids, configs = pair(pod)
    client.ExecSync(container_id=ids[0], cmd=["sh", "-c", "echo kept >/dev/shm/file"])
    output = tmp_path / "checkpoint"
    output.mkdir()
    client.CheckpointPod(pod_sandbox_id=pod.id, output_path=str(output), container_ids=ids, within=60)
    assert {"pod.options", "pod.dump", "devshm-checkpoint.tar", "containers"} == {p.name for p in output.iterdir()}
    reached = [pod.count(container) for container in ids]
    for container, count in zip(ids, reached, strict=True):
        pod.counts_on(container, count)
    client.RemovePodSandbox(pod_sandbox_id=pod.id)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}

    config = pod_config(log_directory=str(tmp_path))
    answer = client.RestorePod(checkpoint_path=str(output), config=config, container_configs=configs, within=60)
    other = answer.pod_sandbox_id
    try:
        made = {item.name: item.container_id for item in answer.restored_containers}
        assert made.keys() == {"first", "second"}
        assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
        states = {
            item.state for item in client.ListContainers(filter=api.ContainerFilter(pod_sandbox_id=other)).containers
        }
        assert states == {api.CONTAINER_CREATED}
        shutil.rmtree(output)  # it is the caller's, and not needed any more
        for name, count in (("second", 0), ("first", 0)):
            client.StartContainer(container_id=made[name], within=60)
            assert pod.count(made[name]) >= 5
            pod.counts_on(made[name], pod.count(made[name]) + count)
        assert pod.read(made["second"], "/dev/shm/file") == "kept\n"
        refused(lambda: client.RestorePod(checkpoint_path=str(tmp_path), config=config), grpc.StatusCode.NOT_FOUND)
    finally:
        client.RemovePodSandbox(pod_sandbox_id=other)


def test_a_pod_that_shares_its_process_namespace_goes_on_too(client: Client, pod: Pod, tmp_path: Path) -> None:
    shared = api.LinuxContainerConfig()
    config = container_config(pod.image, "sh", "-c", COUNTER, log_path="main.log", linux=shared)
    container = pod.up(linux=shared)
    pod.counts_on(container, 5)
    output = tmp_path / "checkpoint"
    output.mkdir()
    client.CheckpointPod(pod_sandbox_id=pod.id, output_path=str(output), container_ids=[container], within=60)
    answer = client.RestorePod(checkpoint_path=str(output), config=pod_config(), container_configs=[config], within=60)
    made = answer.restored_containers[0].container_id
    try:
        client.StartContainer(container_id=made, within=60)
        assert pod.count(made) >= 5
        pod.counts_on(made, pod.count(made))
    finally:
        client.RemovePodSandbox(pod_sandbox_id=answer.pod_sandbox_id)


def test_a_pod_checkpoint_that_fails_leaves_nothing_and_nobody_standing(
    client: Client, pod: Pod, busybox: str, tmp_path: Path
) -> None:
    gone = "dd if=/dev/zero of=/tmp/gone bs=1M count=2 2>/dev/null; exec 7</tmp/gone; rm /tmp/gone"
    good, bad, created = pod.up(), pod.up(f"{gone}; {COUNTER}", "bad"), pod.create(name="created")
    for container in (good, bad):
        pod.counts_on(container, 5)
    output = tmp_path / "checkpoint"
    output.mkdir()

    def attempt(code: grpc.StatusCode, *ids: str, **fields: Any) -> str:
        wanted = {"pod_sandbox_id": pod.id, "output_path": str(output), "container_ids": ids, "within": 60} | fields
        text = refused(lambda: client.CheckpointPod(**wanted), code)
        if code is not grpc.StatusCode.DEADLINE_EXCEEDED:  # of which the caller hears before the daemon
            assert list(output.iterdir()) == []
        return text

    assert "ghost file" in attempt(grpc.StatusCode.FAILED_PRECONDITION, good, bad)
    attempt(grpc.StatusCode.DEADLINE_EXCEEDED, good, within=0.03)
    wait_for(lambda: not criu_runs(), "criu to be gone")
    wait_for(lambda: list(output.iterdir()) == [], "what was written to be gone")
    for container in (good, bad):
        pod.counts_on(container, pod.count(container))
    assert "created" in attempt(grpc.StatusCode.FAILED_PRECONDITION, good, created)
    assert "twice" in attempt(grpc.StatusCode.INVALID_ARGUMENT, good, good)
    attempt(grpc.StatusCode.INVALID_ARGUMENT)
    attempt(grpc.StatusCode.NOT_FOUND, "nobody")
    attempt(grpc.StatusCode.NOT_FOUND, good, pod_sandbox_id="nobody")
    attempt(grpc.StatusCode.NOT_FOUND, good, output_path=str(tmp_path / "missing"))
    attempt(grpc.StatusCode.INVALID_ARGUMENT, good, output_path="checkpoint")
    attempt(grpc.StatusCode.FAILED_PRECONDITION, good, output_path=str(tmp_path))
    assert "'speed'" in attempt(grpc.StatusCode.INVALID_ARGUMENT, good, options={"speed": "1"})


def test_a_pod_that_the_checkpoint_cannot_follow_is_not_restored(client: Client, pod: Pod, tmp_path: Path) -> None:
    ids, configs = pair(pod)
    output = tmp_path / "checkpoint"
    output.mkdir()
    client.CheckpointPod(pod_sandbox_id=pod.id, output_path=str(output), container_ids=ids, within=60)
    config = pod_config()

    def attempt(code: grpc.StatusCode, *wanted: api.ContainerConfig, **fields: Any) -> str:
        asked = {"checkpoint_path": str(output), "config": config, "container_configs": wanted, "within": 60} | fields
        text = refused(lambda: client.RestorePod(**asked), code)
        assert [item.id for item in client.ListPodSandbox().items] == [pod.id]
        return text

    def changed(**fields: Any) -> api.ContainerConfig:
        other = api.ContainerConfig()
        other.CopyFrom(configs[1])
        other.MergeFrom(api.ContainerConfig(**fields))
        return other

    assert "'second' is missing" in attempt(grpc.StatusCode.INVALID_ARGUMENT, configs[0])
    attempt(grpc.StatusCode.INVALID_ARGUMENT, configs[0], configs[0])
    assert "args" in attempt(grpc.StatusCode.FAILED_PRECONDITION, configs[0], changed(args=["more"]))
    mount = api.Mount(container_path="/data", host_path=str(tmp_path))
    assert "mounts" in attempt(grpc.StatusCode.FAILED_PRECONDITION, configs[0], changed(mounts=[mount]))
    attempt(grpc.StatusCode.INVALID_ARGUMENT, *configs, options={"speed": "1"})
    attempt(grpc.StatusCode.INVALID_ARGUMENT, *configs, runtime_handler="nobody")
    attempt(grpc.StatusCode.INVALID_ARGUMENT, *configs, checkpoint_path="checkpoint")
    assert "taken" in attempt(grpc.StatusCode.ALREADY_EXISTS, *configs, config=pod.config)
    (output / "containers/second/checkpoint/inventory.img").unlink()
    attempt(grpc.StatusCode.INVALID_ARGUMENT, *configs)


def test_containers_that_a_killed_daemon_held_go_on(daemon: Daemon, client: Client, pod: Pod, tmp_path: Path) -> None:
    container = pod.up(f"dd if=/dev/urandom of=/dev/shm/much bs=1M count=30 2>/dev/null; {COUNTER}")
    other = pod.up(COUNTER, "other")
    for each in (container, other):
        pod.counts_on(each, 5)
    output = tmp_path / "checkpoint"
    output.mkdir()
    engine = daemon.engine()
    wanted = {"pod_sandbox_id": pod.id, "output_path": str(output), "container_ids": [container, other]}
    with ThreadPoolExecutor() as pool:
        call = pool.submit(lambda: client.CheckpointPod(**wanted))
        wait_for(lambda: engine.containers.store.find(other).record.frozen_by is not None, "the containers to stand")
        daemon.end(signal.SIGKILL)
        assert call.exception(30) is not None
    daemon.start()
    again = Client(daemon.socket)
    wait_for(lambda: not criu_runs(), "criu to be gone", 30)
    wait_for(lambda: again.ContainerStatus(container_id=other).status.state == api.CONTAINER_RUNNING, "the container")
    pod.client = again
    for each in (container, other):
        pod.counts_on(each, pod.count(each))
        assert engine.containers.store.find(each).record.frozen_by is None
    engine.close()


# --- images that hold a checkpoint


def image_of(files: dict[str, bytes], target: Path) -> None:
    """An archive of an image whose root is a checkpoint's archive, as `buildah` makes it."""
    write(target.with_suffix(".layer"), files)
    layer = target.with_suffix(".layer").read_bytes()
    blobs: dict[str, bytes] = {}

    def descriptor(kind: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    content = descriptor("layer.v1.tar", layer)
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [content["digest"]]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", json.dumps(config).encode()),
        "layers": [content],
        "annotations": {"org.criu.checkpoint.container.name": "before"},
    }
    top = descriptor("manifest.v1+json", json.dumps(manifest).encode())
    top["annotations"] = {"org.opencontainers.image.ref.name": "localhost/checkpoint:1"}
    index = {"schemaVersion": 2, "manifests": [top]}
    write(target, {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode(), **blobs})


def test_an_image_that_holds_a_checkpoint_is_restored_where_the_administrator_allows_it(
    daemon: Daemon, client: Client, pod: Pod, tmp_path: Path
) -> None:
    kept = Checkpoint(pod)
    image_of(members(kept.archive), tmp_path / "image.tar")
    engine = daemon.engine()
    with (tmp_path / "image.tar").open("rb") as stream:
        (image,) = engine.images.load(stream)
    kept.archive = Path(image.name)
    assert "cri.restore_images" in refused(lambda: kept.again(pod), grpc.StatusCode.FAILED_PRECONDITION)
    assert daemon.process is not None
    daemon.configure("", "restore_images = true")
    try:
        daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "restore_images" in daemon.log.read_text(), "the configuration to be read")
        container = kept.again(pod)
        assert pod.count(container) >= kept.reached
        pod.counts_on(container, kept.reached + 5)
        left = [snapshot.key for snapshot in engine.snapshots.walk() if "checkpoint" in snapshot.key]
        assert left == []
    finally:
        daemon.configure("")
        daemon.process.send_signal(signal.SIGHUP)
        engine.close()
        client.RemoveImage(image=api.ImageSpec(image=image.name))
