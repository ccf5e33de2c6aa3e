"""Looking images up, tagging, removing, and collecting what is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from orlop.engine.images.images import Images
from orlop.metadata.leases import CONTENT, Lease
from orlop.spec.digest import Digest
from orlop.spec.errors import FailedPrecondition, InvalidArgument, NotFound

pytestmark = pytest.mark.root
Make = Callable[..., Any]


@pytest.fixture
def pulled(images: Images, publish: Make, sample: Make) -> Any:
    return images.pull(publish("team/app:1", sample({"f": b"1"}, {"g": b"2"})))


def use(images: Images, image: Any, state: str = "exited") -> str:
    """A container on the image, as the engine enters it."""
    key = f"c{time.monotonic_ns()}"
    with images.database.transaction() as connection:
        connection.execute(
            "INSERT INTO containers (id, namespace, name, state, image, created, config, record) "
            "VALUES (?, ?, ?, ?, ?, 0, '', '')",
            (key, images.namespace, key, state, image.id),
        )
    images.snapshots.prepare(key, image.chain_id)
    return key


def is_empty(images: Images) -> bool:
    return not list(images.content.walk()) and not list(images.snapshots.walk())


def test_image_is_found_by_every_name_it_has(images: Images, pulled: Any) -> None:
    repository = pulled.name.removesuffix(":1")
    texts = (
        pulled.name,
        pulled.id,
        pulled.short_id,
        pulled.id.removeprefix("sha256:"),
        pulled.digest,
        f"{repository}@{pulled.digest}",
        f"{repository}:1@{pulled.digest}",
    )
    assert {images.resolve(text).id for text in texts} == {pulled.id}


def test_familiar_names(images: Images, pulled: Any) -> None:
    images.tag(pulled.name, "redis")
    assert images.resolve("redis").name == "docker.io/library/redis:latest"
    assert images.resolve("docker.io/redis:latest").tags == (pulled.name, "redis:latest")


def test_missing_image_says_where_it_is(make_images: Make, pulled: Any) -> None:
    other = make_images("k8s.io")
    with pytest.raises(NotFound, match=r"no such image: .*/team/app:1: not in `k8s.io`; 1 match in `default`"):
        other.resolve(pulled.name)
    with pytest.raises(NotFound, match="1 match in `default`"):
        other.resolve(pulled.short_id)
    with pytest.raises(NotFound, match=r"^no such image: nothing:latest$"):
        other.resolve("nothing")


def test_bad_names_are_refused(images: Images) -> None:
    for text in ("has space", "UPPER", "a\nb", "", "x:" + "y" * 200):
        with pytest.raises(InvalidArgument):
            images.resolve(text)


def test_ambiguous_beginning_of_an_id_is_refused(images: Images, publish: Make, sample: Make) -> None:
    ids = {
        images.pull(publish(f"app:{i}", sample({"f": str(i).encode()}))).id.removeprefix("sha256:") for i in range(17)
    }
    first = next(i[0] for i in ids if sum(other[0] == i[0] for other in ids) > 1)
    with pytest.raises(InvalidArgument, match="ambiguous"):
        images._by_id_prefix(first)


def test_policy_never_and_missing(images: Images, pulled: Any) -> None:
    assert images.ensure(pulled.name, policy="never") == pulled
    assert images.ensure(pulled.short_id) == pulled
    with pytest.raises(NotFound, match="no such image"):
        images.ensure("127.0.0.1:1/nothing", policy="never")
    with pytest.raises(FailedPrecondition, match="is for platform linux/amd64, not linux/arm64"):
        images.ensure(pulled.name, "linux/arm64", "never")
    with pytest.raises(InvalidArgument, match="pull policy"):
        images.ensure(pulled.name, policy="sometimes")


def test_resolve_takes_about_a_millisecond(images: Images, pulled: Any) -> None:
    images.resolve(pulled.name)
    begun = time.thread_time()  # of the processor: what else the machine does counts for nothing
    for _ in range(20):
        images.resolve(pulled.name)
    assert (time.thread_time() - begun) / 20 < 0.005


def test_list_has_an_image_once(images: Images, pulled: Any) -> None:
    images.tag(pulled.name, "other:2")
    (image,) = images.list()
    assert image.tags == (pulled.name, "other:2")


def test_history_is_newest_first_with_empty_layers(images: Images, pulled: Any) -> None:
    entries = images.history(pulled.name)
    assert [(e.created_by, e.empty) for e in entries] == [("CMD", True), ("layer 1", False), ("layer 0", False)]
    assert entries[1].layer == pulled.layers[1].digest


def test_raw_documents_keep_unknown_fields(images: Images, pulled: Any) -> None:
    assert b'"x.unknown"' in images.config_json(pulled)
    assert Digest.of(images.manifest_json(pulled)) == pulled.manifest_digest


def test_tag_refuses_a_digest(images: Images, pulled: Any) -> None:
    with pytest.raises(InvalidArgument, match="refusing to create a tag with a digest"):
        images.tag(pulled.name, f"x@{pulled.digest}")


def test_removing_one_of_two_names_only_untags(images: Images, pulled: Any) -> None:
    images.tag(pulled.name, "other:2")
    removed = images.remove("other:2")
    assert removed.untagged == ("other:2",)
    assert removed.deleted == ()
    assert images.resolve(pulled.name).id == pulled.id


def test_removing_the_last_name_removes_everything(images: Images, pulled: Any) -> None:
    removed = images.remove(pulled.name)
    assert removed.untagged == (pulled.name,)
    assert removed.deleted[0] == pulled.id
    assert removed.freed > 0
    assert is_empty(images)


def test_removing_by_id(images: Images, pulled: Any) -> None:
    images.tag(pulled.name, "other:2")
    with pytest.raises(FailedPrecondition, match="referenced in multiple repositories"):
        images.remove(pulled.short_id)
    assert set(images.remove(pulled.short_id, force=True).untagged) == {"other:2", pulled.name}
    assert is_empty(images)


def test_image_of_a_stopped_container_wants_force(images: Images, pulled: Any) -> None:
    container = use(images, pulled)
    with pytest.raises(FailedPrecondition, match=r"\(must be forced\): container .* is using it"):
        images.remove(pulled.name)
    removed = images.remove(pulled.name, force=True)
    assert (removed.untagged, removed.deleted) == ((pulled.name,), ())
    assert images.by_id(pulled.id).tags == ()  # the container can still be started
    assert images.snapshots.mounts(container)


def test_image_of_a_running_container_is_not_removed_by_id(images: Images, pulled: Any) -> None:
    use(images, pulled, "running")
    for force in (False, True):
        with pytest.raises(FailedPrecondition, match=r"cannot be forced.*is running"):
            images.remove(pulled.short_id, force=force)


def test_shared_layers_stay(images: Images, pulled: Any, publish: Make, sample: Make) -> None:
    other = images.pull(publish("base:1", sample({"f": b"1"})))
    images.remove(pulled.name)
    assert [s.key for s in images.snapshots.walk()] == [other.chain_id]
    assert images.content.has(other.layers[0].digest)


def test_other_namespaces_keep_what_they_use(make_images: Make, pulled: Any) -> None:
    first, second = make_images(), make_images("k8s.io")
    second.pull(pulled.name)
    first.remove(pulled.name)
    assert second.resolve(pulled.name).id == pulled.id
    assert second.content.has(pulled.layers[0].digest)


def test_prune_spares_tags_and_used_images(images: Images, pulled: Any, publish: Make, sample: Make) -> None:
    newer = images.pull(publish("team/app:1", sample({"f": b"new"})))
    assert images.prune().deleted[0] == pulled.id
    container = use(images, newer)
    assert images.prune(all=True).deleted == ()
    images.snapshots.remove(container)
    with images.database.transaction() as connection:
        connection.execute("DELETE FROM containers")
    assert images.prune(all=True, labels=("no=such",)).deleted == ()
    assert images.prune(all=True).deleted
    assert is_empty(images)


def test_collection_spares_what_is_leased(images: Images, pulled: Any) -> None:
    lease = Lease(images.database, "work", 60)
    kept = images.content.put(b"kept", "application/x")
    lease.add(CONTENT, kept.digest)
    images.content.put(b"garbage", "application/x")
    assert len(images.collect().blobs) == 1
    lease.end()
    assert images.collect().blobs == (kept.digest,)
    assert images.resolve(pulled.name)


def test_leases_of_dead_processes_do_not_count(images: Images) -> None:
    blob = images.content.put(b"left behind", "application/x")
    with images.database.transaction() as connection:
        connection.execute("INSERT INTO leases VALUES ('x', 'content', ?, 1e12, ?)", (blob.digest, (7 << 22) | 1))
    assert images.collect().blobs == (blob.digest,)


def test_collection_removes_snapshots_of_containers_that_are_gone(images: Images, pulled: Any) -> None:
    key = use(images, pulled)
    assert images.collect().snapshots == ()
    with images.database.transaction() as connection:
        connection.execute("DELETE FROM containers")
    assert images.collect().snapshots == (key,)
