"""Pods on the real kernel: a sandbox, containers that share its namespaces, and nothing left afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from orlop.engine.config import ContainerConfig, LogConfig, NetworkRequest, PodRequest
from orlop.engine.engine import Engine
from orlop.engine.records import Container, Owner
from orlop.spec.errors import AlreadyExists, FailedPrecondition

pytestmark = pytest.mark.root


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(root=str(tmp_path / "root"), state=str(tmp_path / "state"), namespace="k8s.io")
    yield engine
    for sandbox in engine.pods.list():
        engine.pods.remove(sandbox)
    assert engine.containers.list(all=True) == []


SANDBOX = ContainerConfig(
    image="",
    name="pod_default_uid_0",
    hostname="mypod",
    ipc_mode="shareable",
    network=NetworkRequest(mode="none"),
    pod=PodRequest(message=b"\x0a\x00\xff"),
)


def run(engine: Engine, config: ContainerConfig = SANDBOX) -> Container:
    started = engine.pods.run(config)
    if started.client is not None:
        started.client.close()
    return started.container


def namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def in_pod(sandbox: Container, rootfs: Path, **more: object) -> ContainerConfig:
    return msgspec.structs.replace(
        ContainerConfig(
            image="",
            name="main_pod_default_uid_0",
            rootfs=str(rootfs),
            entrypoint=("/pause",),
            network=NetworkRequest(mode=f"container:{sandbox.id}"),
            ipc_mode=f"container:{sandbox.id}",
            uts_mode=f"container:{sandbox.id}",
            pod=PodRequest(sandbox=sandbox.id),
        ),
        **more,
    )


def test_a_sandbox_runs_and_a_repeated_call_is_answered_with_it(engine: Engine) -> None:
    sandbox = run(engine)
    assert sandbox.running
    assert sandbox.config.pod == SANDBOX.pod
    assert run(engine).id == sandbox.id
    with pytest.raises(AlreadyExists):
        run(engine, msgspec.structs.replace(SANDBOX, hostname="other"))
    assert [found.id for found in engine.pods.list()] == [sandbox.id]


def test_containers_share_what_the_sandbox_holds(engine: Engine, tmp_path: Path) -> None:
    sandbox = run(engine)
    rootfs = tmp_path / "rootfs"
    for name in ("proc", "dev", "sys", "etc"):
        (rootfs / name).mkdir(parents=True)
    (rootfs / "pause").write_bytes((engine.paths.state / "pause" / "pause").read_bytes())
    (rootfs / "pause").chmod(0o755)
    log = tmp_path / "logs" / "0.log"
    made = engine.pods.create_container(in_pod(sandbox, rootfs, log=LogConfig(driver="cri", path=str(log))))
    assert engine.pods.create_container(made.config).id == made.id
    started = engine.containers.start(made.id).container
    for kind in ("net", "ipc", "uts"):
        assert namespace(started.record.pid, kind) == namespace(sandbox.record.pid, kind)
    for kind in ("pid", "mnt"):
        assert namespace(started.record.pid, kind) != namespace(sandbox.record.pid, kind)
    assert log.exists()
    with pytest.raises(AlreadyExists):
        engine.pods.create_container(made.config)
    engine.pods.stop(sandbox)
    assert not engine.containers.get(made.id).running
    assert not engine.pods.get(sandbox.id).running
    engine.pods.stop(engine.pods.get(sandbox.id))
    with pytest.raises(FailedPrecondition):
        engine.pods.create_container(in_pod(sandbox, rootfs, name="late"))
    engine.pods.remove(sandbox)
    assert engine.containers.list(all=True) == []


def test_a_sandbox_that_was_never_started_is_removed_once_its_maker_is_dead(engine: Engine) -> None:
    from orlop.engine.create import create

    half = create(engine, msgspec.structs.replace(SANDBOX, rootfs="/", read_only=True, entrypoint=("/pause",)))
    assert engine.pods.list() == []
    assert engine.pods.recover() == ([], [])
    engine.containers.store.change(half.id, "", owner=Owner(pid=os.getpid(), start_time=1))
    assert engine.pods.recover() == ([half.id], [])
    assert engine.containers.list(all=True) == []
