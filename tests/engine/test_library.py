"""The engine as a library: the example of its docstring is run, and what the README shows of it."""

from __future__ import annotations

import doctest
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import orlop.engine.engine
from orlop.engine import Engine
from orlop.registry.server import Registry
from orlop.spec.errors import DeadlineExceeded, InvalidArgument, NotFound

pytestmark = pytest.mark.root
DEMO = Path(__file__).parent.parent.parent / "scripts/demo.py"


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    """An in-process registry with busybox, pushed as scripts/demo does it."""
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    with Registry() as server:
        demo.push(f"{server.address}/busybox:latest")
        yield server.address


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A root and a state directory; afterwards nothing of a container is in them."""
    state = Path("/run") / f"orlop-library-{os.getpid()}"
    yield str(tmp_path / "root"), str(state)
    assert os.listdir(state / "containers") == []
    assert os.listdir(tmp_path / "root/containers") == []
    shutil.rmtree(state)


def test_the_docstrings_example(places: tuple[str, str], registry: str) -> None:
    names = {"ROOT": places[0], "STATE": places[1], "REGISTRY": registry, "Engine": Engine}
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(Engine, "Engine", module=orlop.engine.engine, globs=names)
    assert len(example.examples) >= 4
    assert doctest.DocTestRunner().run(example).failed == 0


def test_streams_exit_codes_and_input(places: tuple[str, str], registry: str) -> None:
    engine = Engine(*places)
    image = engine.images.pull(f"{registry}/busybox:latest").name
    done = engine.run(image, ["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"x" * 300_000)
    assert (done.exit_code, len(done.stdout), done.stderr) == (3, 300_000, b"err\n")
    with pytest.raises(DeadlineExceeded):
        engine.run(image, ["sleep", "100"], timeout=0.5)
    with pytest.raises(InvalidArgument, match="no option 'memory'"):
        engine.run(image, ["true"], memory=1)
    with pytest.raises(NotFound):
        engine.containers.get("nobody")


def test_namespaces_do_not_see_each_other(places: tuple[str, str], registry: str) -> None:
    Engine(*places).images.pull(f"{registry}/busybox:latest")
    other = Engine(*places, namespace="k8s.io")
    with pytest.raises(NotFound, match="1 match in `default`"):
        other.images.resolve(f"{registry}/busybox:latest")
    assert other.images.list() == []
