"""Images over gRPC, from Debian's docker-registry, open and with htpasswd, and from a registry that keeps count."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from tests.harness import Orlop, descriptors, free_port
from tests.pulls import Stall

from orlop._stubs.cri import api_pb2 as api
from orlop.registry.access import Token
from orlop.registry.faults import Corrupt, Fault, Status
from orlop.registry.server import Registry

from .conftest import Client, Daemon, container_config, pod_config, take_away, wait_for
from .test_life import refused
from .test_many import used

pytestmark = [pytest.mark.root, pytest.mark.peers]
USER, SECRET = "ann", "correct-horse-battery"
Code = grpc.StatusCode


def spec(image: str) -> api.ImageSpec:
    return api.ImageSpec(image=image)


def copy(lab: Path, name: str, to: str, *options: str) -> None:
    words = ["skopeo", "copy", "-q", "--dest-tls-verify=false", *options, f"oci:{lab}:{name}", f"docker://{to}"]
    subprocess.run(words, check=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def locked(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """docker-registry with a password, made by the real htpasswd; it holds lab/busybox:1."""
    if shutil.which("htpasswd") is None:
        pytest.skip("htpasswd is not installed (apache2-utils)")
    base, port = tmp_path_factory.mktemp("locked"), free_port()
    subprocess.run(["htpasswd", "-Bbc", base / "htpasswd", USER, SECRET], check=True, capture_output=True)
    (base / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {base}/data}}}}\n"
        f"auth: {{htpasswd: {{realm: r, path: {base}/htpasswd}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
    )
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(["docker-registry", "serve", base / "config.yml"], **quiet)
    try:
        wait_for(lambda: subprocess.run(["curl", "-s", f"127.0.0.1:{port}/v2/"], **quiet).returncode == 0, "a registry")
        copy(lab, "busybox", f"127.0.0.1:{port}/lab/busybox:1", "--dest-creds", f"{USER}:{SECRET}")
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="module")
def own() -> Iterator[Daemon]:
    """A daemon whose images are these tests' alone."""
    base = Path("/dev/shm") / f"orlop-images-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    base.mkdir()
    daemon = Daemon(base)
    pinned = '["*/lab/pause:*", "docker.io/lab/pinned:1"]'
    daemon.configure("", cri=f'certs = ["{base}/certs.d"]\npinned_images = {pinned}')
    daemon.start(DOCKER_CONFIG=str(base / "docker"))
    try:
        yield daemon
    finally:
        daemon.end()
        take_away(base)


@pytest.fixture
def client(own: Daemon) -> Iterator[Client]:
    """With an empty store before and after."""
    found = Client(own.socket)
    yield found
    for pod in found.ListPodSandbox().items:
        found.RemovePodSandbox(pod_sandbox_id=pod.id)
    for image in found.ListImages().images:
        found.RemoveImage(image=spec(image.id))
    assert not list(found.ListImages().images)
    engine = own.engine()
    engine.images.collect()  # what failed pulls have brought is kept for their repetition, for a while
    engine.close()
    wait_for(lambda: (blobs(own), layers(own)) == ([], []), "the images' removal")
    assert not os.path.exists(own.state / "pulls") or os.listdir(own.state / "pulls") == []


def blobs(daemon: Daemon) -> list[str]:
    directory = daemon.root / "content/blobs/sha256"
    return os.listdir(directory) if directory.exists() else []


def half_made(daemon: Daemon) -> list[str]:
    """The snapshots of layers that are not whole."""
    engine = daemon.engine()
    try:
        return [snapshot.key for snapshot in engine.snapshots.walk() if snapshot.kind != "committed"]
    finally:
        engine.close()


def layers(daemon: Daemon) -> list[str]:
    directory = daemon.root / "snapshots"
    return [name for name in os.listdir(directory) if name.isdecimal()] if directory.exists() else []


# --- credentials


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "auth",
    [
        {"username": USER, "password": SECRET},
        {"auth": coded(f"{USER}:{SECRET}")},
        {"username": USER, "password": SECRET, "server_address": "HOST"},
        {"username": USER, "password": SECRET, "server_address": "https://HOST/v2/"},
    ],
)
def test_a_private_image_with_the_requests_credentials(client: Client, locked: str, auth: dict[str, str]) -> None:
    given = api.AuthConfig(**{key: value.replace("HOST", locked) for key, value in auth.items()})
    reference = client.PullImage(image=spec(f"{locked}/lab/busybox:1"), auth=given).image_ref
    assert client.ImageStatus(image=spec(f"{locked}/lab/busybox:1")).image.id == reference


@pytest.mark.parametrize(
    "auth",
    [
        {},
        {"username": USER, "password": "wrong-horse-staple"},
        {"username": "bob", "password": SECRET},
        {"auth": coded(f"{USER}:wrong-horse-staple")},
        {"username": USER, "password": SECRET, "server_address": "registry.example"},
        {"identity_token": "wrong-horse-staple"},
        {"registry_token": "wrong-horse-staple"},
    ],
)
def test_without_the_right_credentials_it_is_refused_and_no_secret_shown(
    client: Client, own: Daemon, locked: str, auth: dict[str, str]
) -> None:
    name = f"{locked}/lab/busybox:1"
    text = refused(lambda: client.PullImage(image=spec(name), auth=api.AuthConfig(**auth)), Code.PERMISSION_DENIED)
    assert f"pull access denied for {locked}/lab/busybox" in text
    assert not re.search("horse|battery", text + own.log.read_text())


def test_who_has_no_credentials_gets_nothing_by_another_ones(client: Client, locked: str) -> None:
    name, auth = f"{locked}/lab/busybox:1", api.AuthConfig(username=USER, password=SECRET)
    client.PullImage(image=spec(name), auth=auth)
    refused(lambda: client.PullImage(image=spec(name)), Code.PERMISSION_DENIED)


def test_the_machines_credentials_hold_where_the_request_has_none(client: Client, own: Daemon, locked: str) -> None:
    (own.base / "docker").mkdir()
    file = own.base / "docker/config.json"
    try:
        file.write_text(msgspec.json.encode({"auths": {locked: {"auth": coded(f"{USER}:{SECRET}")}}}).decode())
        client.PullImage(image=spec(f"{locked}/lab/busybox:1"))
        meant_for_another = api.AuthConfig(username="x", password="y", server_address="registry.example")
        client.PullImage(image=spec(f"{locked}/lab/busybox:1"), auth=meant_for_another)
    finally:
        shutil.rmtree(file.parent)


def test_tokens(client: Client, lab: Path) -> None:
    access = Token({USER: SECRET})
    with Registry(auth=access) as registry:
        name = f"{registry.address}/lab/busybox:1"
        copy(lab, "busybox", name, "--dest-creds", f"{USER}:{SECRET}")
        refresh = access._seal({"refresh": USER}, 60)
        client.PullImage(image=spec(name), auth=api.AuthConfig(identity_token=refresh))
        given = access._seal({"user": USER, "access": {"lab/busybox": ["pull"]}}, 60)
        registry.seen.clear()
        client.PullImage(image=spec(name), auth=api.AuthConfig(registry_token=given))
        assert not [seen for seen in registry.seen if "/token" in seen.target]  # used as it is
        refused(lambda: client.PullImage(image=spec(name)), Code.PERMISSION_DENIED)


def test_a_registry_that_repeats_the_secret_is_not_repeated(client: Client, lab: Path) -> None:
    with Registry() as registry:
        copy(lab, "busybox", name := f"{registry.address}/lab/busybox:1")
        registry.faults.add(Fault("GET .*/manifests/", Status(403, f"{USER} with {SECRET} may not\nread this")))
        auth = api.AuthConfig(username=USER, password=SECRET)
        text = refused(lambda: client.PullImage(image=spec(name), auth=auth), Code.PERMISSION_DENIED)
        assert "ann with *** may not" in text


@pytest.mark.parametrize(
    ("name", "auth", "code", "says"),
    [
        ("OPEN/lab/none:1", {}, Code.NOT_FOUND, "manifest OPEN/lab/none:1 not found in registry"),
        ("OPEN/lab/busybox:none", {}, Code.NOT_FOUND, "manifest OPEN/lab/busybox:none not found"),
        ("127.0.0.1:1/x:1", {}, Code.UNAVAILABLE, "registry 127.0.0.1:1: connection refused"),
        ("no-such-host.invalid/x:1", {}, Code.UNAVAILABLE, "registry no-such-host.invalid"),
        ("OPEN/lab/busybox:1", {"auth": "%%%"}, Code.INVALID_ARGUMENT, "auth.auth is not base64"),
        ("", {}, Code.INVALID_ARGUMENT, "image.image is missing"),
        ("a" * 64, {}, Code.INVALID_ARGUMENT, "64 hex digits are an image ID"),
    ],
)
def test_errors(client: Client, registry: str, name: str, auth: dict[str, str], code: Code, says: str) -> None:
    image = spec(name.replace("OPEN", registry))
    text = refused(lambda: client.PullImage(image=image, auth=api.AuthConfig(**auth), within=60), code)
    assert says.replace("OPEN", registry) in text


def test_mirrors_and_headers_of_hosts_toml(client: Client, own: Daemon, lab: Path, locked: str) -> None:
    with Registry() as mirror:
        copy(lab, "busybox", f"{mirror.address}/lab/busybox:1")
        mirror.seen.clear()
        directory = own.base / "certs.d/registry.example"
        directory.mkdir(parents=True)
        (directory / "hosts.toml").write_text(
            f'server = "http://{locked}"\n[host."{mirror.url}"]\ncapabilities = ["pull", "resolve"]\n'
            f'[host."{mirror.url}".header]\nx-pass = "let me in"\n'
        )
        image, auth = spec("registry.example/lab/busybox:1"), api.AuthConfig(username=USER, password=SECRET)
        client.PullImage(image=image, auth=auth)
        assert {seen.headers.get("x-pass") for seen in mirror.seen} == {"let me in"}
        assert not [seen for seen in mirror.seen if "authorization" in seen.headers]
        client.RemoveImage(image=image)
        mirror.faults.add(Fault("GET", Status(404)))
        client.PullImage(image=image, auth=auth)  # by the server, to whom the credentials are shown
        assert [tag for one in client.ListImages().images for tag in one.repo_tags] == [image.image]
    shutil.rmtree(directory)


# --- many at once


def test_one_pull_at_a_time_brings_the_layers_for_everyone(
    client: Client, own: Daemon, lab: Path, source: Registry
) -> None:
    name = f"{source.address}/lab/redis:1"
    orlop = Orlop(own.root, own.state)
    stall = Stall(50_000)
    source.faults.add(Fault("GET .*/blobs/.*", stall, skip=1, count=1))
    with ThreadPoolExecutor(9) as pool:
        pods = [pod_config(), pod_config()]
        asked = [
            pool.submit(client.PullImage, image=spec(name), sandbox_config=pods[number % 2], within=60)
            for number in range(6)
        ]
        asked += [pool.submit(orlop, "pull", "-q", name) for _ in range(2)]
        assert stall.reached.wait(30)
        time.sleep(0.5)
        stall.go.set()
        done = [each.result() for each in asked]
    assert len({each.image_ref for each in done[:6]}) == 1
    resolved = [seen for seen in source.seen if seen.target.endswith("/manifests/1")]
    assert len(resolved) <= 3  # the calls to the daemon are one, whichever pods they are for; two commands
    orlop("rmi", name)
    fetched = Counter(seen.target for seen in source.seen if "/blobs/" in seen.target and seen.status == 200)
    stalled = [target for target, count in fetched.items() if count > 1]
    assert len(stalled) <= 1  # the one that broke off was resumed
    assert os.listdir(own.state / "pulls") == []


def test_a_pull_that_fails_is_taken_over_by_who_waits_for_it(
    client: Client, own: Daemon, lab: Path, source: Registry
) -> None:
    name = f"{source.address}/lab/redis:1"
    source.faults.add(Fault("GET .*/blobs/.*", Corrupt(), skip=1, count=1))
    with ThreadPoolExecutor(4) as pool:
        given = [api.AuthConfig(username=f"user{number}", password="any") for number in range(4)]
        asked = [pool.submit(client.PullImage, image=spec(name), auth=auth, within=60) for auth in given]
        errors = [each.exception() for each in asked]
    assert sum(error is not None for error in errors) <= 1
    assert client.ImageStatus(image=spec(name)).image.id


def test_a_pull_that_nobody_waits_for_any_more_ends_though_the_registry_is_silent(
    client: Client, own: Daemon, source: Registry
) -> None:
    name, stall = f"{source.address}/lab/redis:1", Stall(50_000)
    source.faults.add(Fault("GET .*/blobs/.*", stall, skip=1, count=1))
    try:
        refused(lambda: client.PullImage(image=spec(name), within=5), Code.DEADLINE_EXCEEDED)
        assert stall.reached.is_set()
        wait_for(lambda: os.listdir(own.state / "pulls") == [], "the end of the pull", 10)
        assert half_made(own) == []  # a layer that had come before stays for the next try
        assert not client.ListImages().images
    finally:
        stall.go.set()
    client.PullImage(image=spec(name), within=60)  # goes on where it was


# --- watching


def watches(own: Daemon, pid: int) -> bool:
    """Whether a process has a record of a pull open."""
    return any(f" {own.state}/pulls/" in each for each in descriptors(pid))


def test_watching_a_pull_of_the_kubelets(client: Client, own: Daemon, source: Registry) -> None:
    name, orlop = f"{source.address}/lab/redis:1", Orlop(own.root, own.state)
    stall = Stall(50_000)
    source.faults.add(Fault("GET .*/blobs/.*", stall, skip=1, count=1))
    with ThreadPoolExecutor(1) as pool:
        pulled = pool.submit(client.PullImage, image=spec(name), within=60)
        assert stall.reached.wait(30)
        watcher = orlop.start("pull", "--watch", name)
        quiet = orlop.start("pull", "--watch", "-q", name)
        assert watcher.stdout is not None
        assert "Pulling from" in watcher.stdout.readline()
        assert re.match(r"[0-9a-f]{12}: Pulling fs layer$", watcher.stdout.readline())
        wait_for(lambda: watches(own, quiet.pid), "the quiet one")
        stall.go.set()
        pulled.result()
    out = watcher.stdout.read()  # `communicate` would lose what came with those lines
    assert watcher.communicate(timeout=20)[1] == ""
    assert watcher.returncode == 0
    assert re.search(r"^[0-9a-f]{12}: Pull complete$", out, re.M)
    digest = client.ImageStatus(image=spec(name)).image.repo_digests[0].partition("@")[2]
    assert f"Digest: {digest}\n" in out
    assert f"Status: {name} is there, in namespace k8s.io\n{name}\n" in out
    assert quiet.communicate(timeout=20) == (f"{name}\n", "")
    # now that it is there, watching says so
    assert "no pull is under way" in orlop.out("pull", "--watch", name)
    assert orlop.out("images", "-q") == ""


def test_watching_a_pull_that_fails(client: Client, own: Daemon, source: Registry) -> None:
    name, orlop = f"{source.address}/lab/redis:1", Orlop(own.root, own.state)
    stall = Stall(50_000)
    source.faults.add(Fault("GET .*/blobs/.*", stall, skip=1, count=1))
    with ThreadPoolExecutor(1) as pool:
        pulled = pool.submit(client.PullImage, image=spec(name), within=60)
        assert stall.reached.wait(30)
        watcher = orlop.start("pull", "--watch", "-q", name)
        wait_for(lambda: watches(own, watcher.pid), "the watcher")
        source.faults.add(Fault("GET .*/blobs/.*", Status(404)))
        stall.go.set()
        assert isinstance(pulled.exception(), grpc.RpcError)
    out, err = watcher.communicate(timeout=20)
    assert (watcher.returncode, out) == (1, "")
    assert re.fullmatch(rf"orlop: the pull of {name} has failed: blob .* not found in registry .*\n", err)


def test_watching_nothing(client: Client, own: Daemon) -> None:
    orlop = Orlop(own.root, own.state)
    text = orlop.refused("pull", "--watch", "lab/none:1", code=1)
    assert text == "orlop: no pull of lab/none:1 is under way, and the image is not there"
    assert "--watch" in orlop.refused("pull", "--watch", "--platform", "linux/arm64", "lab/none:1", code=1)


# --- what images are called


def test_one_image_of_two_registries(client: Client, registry: str, source: Registry) -> None:
    names = sorted((f"{registry}/lab/busybox:1", f"{source.address}/lab/busybox:1"))
    first, second = (client.PullImage(image=spec(name)).image_ref for name in names)
    assert first == second
    (image,) = client.ListImages().images
    assert list(image.repo_tags) == names
    assert [name.partition("@")[0] for name in image.repo_digests] == [name[:-2] for name in names]
    digest = image.repo_digests[0].partition("@")[2]
    hexes = first.removeprefix("sha256:")
    for text in (first, hexes, hexes[:13], *names, f"{names[0][:-2]}@{digest}", f"{names[0]}@{digest}"):
        status = client.ImageStatus(image=spec(text)).image
        assert (status.id, list(status.repo_tags)) == (first, names), text
        assert [one.id for one in client.ListImages(filter=api.ImageFilter(image=spec(text))).images] == [first]
    for text in ("none", f"{registry}/lab/busybox:2", f"{registry}/lab/other@{digest}", "f" * 64, "UPPER"):
        assert not client.ImageStatus(image=spec(text)).image.id, text
        assert not client.ListImages(filter=api.ImageFilter(image=spec(text))).images, text


def test_by_tag_and_digest(client: Client, registry: str) -> None:
    client.PullImage(image=spec(f"{registry}/lab/busybox:1"))
    (image,) = client.ListImages().images
    name = image.repo_digests[0]
    client.RemoveImage(image=spec(image.id))
    for text in (name, f"{registry}/lab/busybox:1@{name.partition('@')[2]}"):
        assert client.PullImage(image=spec(text)).image_ref == image.id
        status = client.ImageStatus(image=spec(text)).image
        assert (list(status.repo_tags), list(status.repo_digests)) == ([], [name])
        client.RemoveImage(image=spec(text))
        assert not client.ListImages().images


def test_pinned_images(client: Client, registry: str, lab: Path) -> None:
    copy(lab, "busybox", f"{registry}/lab/pause:3.10")
    copy(lab, "redis", f"{registry}/lab/other:1")
    for name in ("pause:3.10", "other:1"):
        client.PullImage(image=spec(f"{registry}/lab/{name}"))
    pinned = {tag: one.pinned for one in client.ListImages().images for tag in one.repo_tags}
    assert pinned == {f"{registry}/lab/pause:3.10": True, f"{registry}/lab/other:1": False}
    assert client.ImageStatus(image=spec(f"{registry}/lab/pause:3.10")).image.pinned


def test_other_namespaces_see_nothing_of_it_and_share_the_blobs(client: Client, own: Daemon, source: Registry) -> None:
    name, orlop = f"{source.address}/lab/busybox:1", Orlop(own.root, own.state)
    client.PullImage(image=spec(name))
    assert orlop.out("images", "-q") == ""
    source.seen.clear()
    orlop("pull", "-q", name)
    assert not [seen for seen in source.seen if "/blobs/" in seen.target]
    client.RemoveImage(image=spec(name))
    assert not client.ListImages().images
    assert orlop.out("run", "--rm", "--network", "none", name, "echo", "here") == "here"
    orlop("rmi", name)


# --- removal


@pytest.mark.parametrize("by", ["tag", "digest", "id", "short"])
def test_all_names_go_and_the_disk_is_given_back(
    client: Client, own: Daemon, registry: str, source: Registry, by: str
) -> None:
    for name in (f"{registry}/lab/busybox:1", f"{source.address}/lab/busybox:1"):
        client.PullImage(image=spec(name))
    (image,) = client.ListImages().images
    text = {"tag": image.repo_tags[0], "digest": image.repo_digests[0], "id": image.id, "short": image.id[7:20]}[by]
    client.RemoveImage(image=spec(text))
    assert not client.ListImages().images
    assert (blobs(own), layers(own)) == ([], [])
    client.RemoveImage(image=spec(text))  # again is fine


def test_the_image_of_a_container_goes_and_the_container_stays(client: Client, own: Daemon, registry: str) -> None:
    name = f"{registry}/lab/busybox:1"
    client.PullImage(image=spec(name))
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    ids = [
        client.CreateContainer(
            pod_sandbox_id=pod, config=container_config(name, "sleep", "1000", name=each), sandbox_config=config
        ).container_id
        for each in ("one", "two")
    ]
    client.StartContainer(container_id=ids[0])
    image = client.ImageStatus(image=spec(name)).image
    client.RemoveImage(image=spec(name))
    assert not client.ListImages().images
    for text in (name, image.id, image.repo_digests[0]):
        assert not client.ImageStatus(image=spec(text)).image.id
    client.StartContainer(container_id=ids[1])  # made before, started now
    for identifier in ids:
        answer = client.ExecSync(container_id=identifier, cmd=["cat", "/etc/passwd"])
        assert answer.stdout.startswith(b"root:")
        assert client.ContainerStatus(container_id=identifier).status.image_id == image.id
    client.RemoveContainer(container_id=ids[0])
    assert blobs(own)
    client.RemovePodSandbox(pod_sandbox_id=pod)
    wait_for(lambda: (blobs(own), layers(own)) == ([], []), "the space of the image")


def test_an_image_that_is_pulled_again_is_there_again(client: Client, own: Daemon, registry: str) -> None:
    name, config = f"{registry}/lab/busybox:1", pod_config()
    client.PullImage(image=spec(name))
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    wanted = container_config(name, "sleep", "1000")
    client.CreateContainer(pod_sandbox_id=pod, config=wanted, sandbox_config=config)
    client.RemoveImage(image=spec(name))
    client.PullImage(image=spec(name))
    (image,) = client.ListImages().images
    assert list(image.repo_tags) == [name]
    client.RemovePodSandbox(pod_sandbox_id=pod)
    time.sleep(0.3)
    assert [one.id for one in client.ListImages().images] == [image.id]


def test_collection_leaves_the_images_that_are_mounted(client: Client, own: Daemon, registry: str) -> None:
    names = [f"{registry}/lab/{each}:1" for each in ("busybox", "redis")]
    for name in names:
        client.PullImage(image=spec(name))
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    mount = api.Mount(container_path="/other", image=spec(names[1]), readonly=True)
    container = client.CreateContainer(
        pod_sandbox_id=pod,
        config=container_config(names[0], "sleep", "1000", mounts=[mount]),
        sandbox_config=config,
    ).container_id
    engine = own.engine()
    engine.images.collect()
    client.RemoveImage(image=spec(names[1]))
    engine.images.collect()
    engine.close()
    client.StartContainer(container_id=container)
    listed = client.ExecSync(container_id=container, cmd=["ls", "/other/etc"]).stdout
    assert b"passwd" in listed
    client.RemovePodSandbox(pod_sandbox_id=pod)


def test_collection_takes_nothing_from_a_pull(client: Client, own: Daemon, source: Registry) -> None:
    engine, over = own.engine(), threading.Event()

    def collect() -> None:
        while not over.is_set():
            engine.images.collect()
        engine.close()

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        for name in ("busybox", "redis", "nginx", "busybox"):
            full = f"{source.address}/lab/{name}:1"
            client.PullImage(image=spec(full), within=60)
            assert client.ImageStatus(image=spec(full), verbose=True).info["info"]
    finally:
        over.set()
        thread.join()


def test_what_a_killed_daemon_was_about_to_collect_goes_with_the_next_one(own: Daemon, registry: str) -> None:
    client = Client(own.socket)
    client.PullImage(image=spec(f"{registry}/lab/busybox:1"))
    own.end(9)
    engine = own.engine()
    assert engine.images.release(f"{registry}/lab/busybox:1") is not None
    engine.close()
    assert blobs(own)
    own.start(DOCKER_CONFIG=str(own.base / "docker"))
    wait_for(lambda: (blobs(own), layers(own)) == ([], []), "the space of the image")


# --- disk


def figures(client: Client) -> dict[str, Any]:
    answer = client.ImageFsInfo()
    (images,), (containers,) = answer.image_filesystems, answer.container_filesystems
    assert images.fs_id.mountpoint == containers.fs_id.mountpoint
    assert os.statvfs(images.fs_id.mountpoint).f_blocks
    assert abs(images.timestamp - time.time_ns()) < 10e9
    return {"images": images, "containers": containers}


def test_disk_figures(client: Client, own: Daemon, registry: str) -> None:
    empty = figures(client)["images"]
    assert (empty.used_bytes.value, empty.inodes_used.value) == (0, 0)
    name = f"{registry}/lab/redis:1"
    client.PullImage(image=spec(name))
    used = figures(client)["images"]
    stored = sum(os.path.getsize(own.root / "content/blobs/sha256" / blob) for blob in blobs(own))
    measured = int(subprocess.check_output(["du", "-sb", own.root / "content", own.root / "snapshots"]).split()[0])
    assert stored < used.used_bytes.value
    assert abs(used.used_bytes.value - client.ImageStatus(image=spec(name)).image.size) < 100_000
    assert measured > 0
    assert used.inodes_used.value > len(blobs(own)) + 100
    config = pod_config()
    pod = client.RunPodSandbox(config=config).pod_sandbox_id
    container = client.CreateContainer(
        pod_sandbox_id=pod,
        config=container_config(name, "sh", "-c", "head -c 3000000 /dev/zero > /file; sleep 1000"),
        sandbox_config=config,
    ).container_id
    client.StartContainer(container_id=container)
    size = ["stat", "-c", "%s", "/file"]
    written = lambda: client.ExecSync(container_id=container, cmd=size).stdout == b"3000000\n"  # noqa: E731
    wait_for(written, "the container to write")
    assert 3_000_000 <= figures(client)["containers"].used_bytes.value < 3_100_000
    client.RemovePodSandbox(pod_sandbox_id=pod)
    client.RemoveImage(image=spec(name))
    wait_for(lambda: figures(client)["images"].used_bytes.value == 0, "the image to go")


def test_disk_figures_are_quick(client: Client, own: Daemon, registry: str) -> None:
    for name in ("busybox", "redis", "nginx", "debian"):
        client.PullImage(image=spec(f"{registry}/lab/{name}:1"), within=60)
    figures(client)
    assert own.process is not None
    began = used(own.process.pid)  # of the processor: what else the machine does counts for nothing
    for _ in range(20):
        client.ImageFsInfo()
    assert (used(own.process.pid) - began) / 20 < 0.02
