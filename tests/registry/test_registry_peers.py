"""Real clients against our registry: skopeo and buildah."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.registry.access import Basic, Token
from orlop.registry.server import Registry
from orlop.registry.storage import DirectoryStorage

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(shutil.which("skopeo") is None or shutil.which("umoci") is None, reason="no skopeo or umoci"),
]


def run(*arguments: object, **more: object) -> str:
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=60, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI layout with one small image, `app`."""
    directory = tmp_path_factory.mktemp("image")
    (directory / "files").mkdir()
    (directory / "files" / "hello").write_text("hello" * 1000)
    path = directory / "layout"
    run("umoci", "init", "--layout", path)
    run("umoci", "new", "--image", f"{path}:app")
    run("umoci", "insert", "--rootless", "--image", f"{path}:app", directory / "files", "/files")
    return path


@pytest.fixture(params=["open", "basic", "token"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    access = {"open": None, "basic": Basic({"ann": "secret"}), "token": Token({"ann": "secret"})}[request.param]
    with Registry(DirectoryStorage(tmp_path / "registry"), auth=access) as running:
        yield running


def skopeo(registry: Registry, verb: str, *arguments: object, sides: tuple[str, ...] = ("",)) -> str:
    options = [f"--{side}tls-verify=false" for side in sides]
    options += [f"--{side}creds=ann:secret" for side in sides] if registry.auth is not None else []
    return run("skopeo", verb, *options, *arguments)


def digest_of(layout: Path) -> str:
    return json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]


def test_skopeo_pushes_pulls_lists_and_deletes(registry: Registry, layout: Path, tmp_path: Path) -> None:
    image = f"docker://{registry.address}/lib/app"
    skopeo(registry, "copy", f"oci:{layout}:app", f"{image}:1", sides=("dest-",))
    skopeo(registry, "copy", "--format=v2s2", f"oci:{layout}:app", f"{image}:docker", sides=("dest-",))
    skopeo(registry, "copy", f"{image}:1", f"oci:{tmp_path}/back:app", sides=("src-",))
    assert digest_of(tmp_path / "back") == digest_of(layout)
    assert json.loads(skopeo(registry, "list-tags", image))["Tags"] == ["1", "docker"]
    skopeo(registry, "copy", f"{image}:1", f"docker://{registry.address}/other:1", sides=("src-", "dest-"))
    skopeo(registry, "delete", f"{image}:docker")
    assert json.loads(skopeo(registry, "list-tags", image))["Tags"] == ["1"]


@pytest.mark.root
@pytest.mark.skipif(shutil.which("buildah") is None, reason="no buildah")
def test_buildah_pushes(registry: Registry, layout: Path, tmp_path: Path) -> None:
    stores = ["--storage-driver=vfs", f"--root={tmp_path}/store", f"--runroot={tmp_path}/run"]
    run("buildah", *stores, "pull", f"oci:{layout}:app")
    image = json.loads(run("buildah", *stores, "images", "--json"))[0]["id"]
    options = ["--creds=ann:secret"] if registry.auth is not None else []
    run("buildah", *stores, "push", "--tls-verify=false", *options, image, f"docker://{registry.address}/b:1")
    assert json.loads(skopeo(registry, "inspect", f"docker://{registry.address}/b:1"))["Layers"]


def test_the_command_serves_a_directory(layout: Path, tmp_path: Path) -> None:
    import sys

    command = [sys.executable, "-m", "orlop.registry", "--port", "0", "--dir", str(tmp_path / "data")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip().removeprefix("http://")
        run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:app", f"docker://{address}/app:1")
        assert (tmp_path / "data" / "repositories" / "app" / "_tags" / "1").is_file()
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()
