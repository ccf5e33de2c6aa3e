from __future__ import annotations

from typing import Any

import pytest

from orlop.cli.docker.command_text import arguments, ellipsis, quoted
from orlop.cli.docker.status import state, status
from orlop.engine.config import ContainerConfig
from orlop.engine.records import Container, ContainerRecord
from orlop.spec.image import ContainerDefaults, ImageConfig, RootFS

NOW = 1_000_000.0


def container(state: str, **record: Any) -> Container:
    return Container(
        id="a" * 64,
        namespace="default",
        name="web",
        state=state,
        created=NOW - 7200,
        config=ContainerConfig(image="x"),
        record=ContainerRecord(image_id="sha256:" + "0" * 64, **record),
    )


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (container("created"), "Created"),
        (container("creating"), "Created"),
        (container("starting"), "Created"),
        (container("running", started=NOW - 180), "Up 3 minutes"),
        (container("paused", started=NOW - 180), "Up 3 minutes (Paused)"),
        (container("exited", exit_code=0, finished=NOW - 7200), "Exited (0) 2 hours ago"),
        (container("exited", exit_code=137, finished=NOW), "Exited (137) Less than a second ago"),
        (container("restarting", exit_code=1, finished=NOW - 3), "Restarting (1) 3 seconds ago"),
        (container("removing"), "Removal In Progress"),
        (container("dead"), "Dead"),
    ],
)
def test_status_column(found: Container, wanted: str) -> None:
    assert status(found, NOW) == wanted


def test_states_of_operations_under_way_have_dockers_names() -> None:
    assert [state(container(word)) for word in ("creating", "starting", "removing")] == [
        "created",
        "created",
        "removing",
    ]


IMAGE = ImageConfig(
    rootfs=RootFS(type="layers", diff_ids=()), config=ContainerDefaults(entrypoint=("/entry",), cmd=("default",))
)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (ContainerConfig(image="x"), ("/entry", "default")),
        (ContainerConfig(image="x", command=("other",)), ("/entry", "other")),
        (ContainerConfig(image="x", entrypoint=("/mine",)), ("/mine",)),
        (ContainerConfig(image="x", entrypoint=(), command=("sh",)), ("sh",)),
    ],
)
def test_an_entry_point_of_ones_own_drops_the_images_command(config: ContainerConfig, wanted: tuple[str, ...]) -> None:
    assert arguments(config, IMAGE) == wanted


def test_command_column_is_quoted_cut_and_harmless() -> None:
    assert quoted("docker-entrypoint.sh redis-server", 20) == '"docker-entrypoint.s…"'
    assert quoted('echo "\x1b[2J"') == '"echo \\"\\x1b[2J\\""'
    assert ellipsis("abc", 3) == "abc"
