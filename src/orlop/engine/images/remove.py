"""Remove images as `docker rmi` does: names go one by one, the image with the last of them.

By name, only the name goes while the image has others. By ID, all names of one repository go together; an image that
several repositories name wants force. What a running container uses can't be removed at all; what a stopped one uses
only by force, and then the image keeps its place, without a name, until the container is gone.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import msgspec

from orlop.engine import events, lifecycle
from orlop.engine.images.gc import collect
from orlop.engine.images.image import Image, reference_of
from orlop.engine.images.record import event, publish
from orlop.metadata.images import ImageRow, drop, put, select
from orlop.spec.errors import FailedPrecondition, NotFound

if TYPE_CHECKING:
    from orlop.engine.images.images import Images


class Removed(msgspec.Struct, frozen=True):
    """What went: names in Docker's short form, IDs of images and digests of blobs, and bytes."""

    untagged: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    freed: int = 0


class User(msgspec.Struct, frozen=True):
    """A container that was made from an image."""

    id: str
    running: bool


class Removal(msgspec.Struct, frozen=True):
    """What is to be done: drop `names`; `keep` is the name under which an image that is in use stays, or ""."""

    names: tuple[str, ...]
    keep: str = ""
    deletes: bool = False


def remove(images: Images, text: str, force: bool) -> Removed:
    """Remove what `text` means; collects the garbage that this makes."""
    image = images.resolve(text)
    by_id = not _is_name(text, image)
    with images.database.transaction() as connection:
        rows = select(connection, images.namespace, "id = ?", image.id)
        if not rows:
            raise NotFound(f"no such image: {text}")
        removal = decide(image, [row.name for row in rows], by_id, users(connection, image), force)
        _perform(connection, images.namespace, rows, removal)
    publish(images.database, images.content)
    return _collected(images, removal, rows)


def release(images: Images, text: str) -> Image | None:
    """Take all names of what `text` means away, as the Container Runtime Interface wants it. Where containers were made
    from the image, it stays for them as `removed`, under a digest, and goes with the first collection after them."""
    with images.database.transaction() as connection:
        image = images.find(text)
        rows = select(connection, images.namespace, "id = ?", image.id) if image is not None else []
        if image is None or not rows or image.removed:
            return None
        used = bool(users(connection, image))
        removal = Removal(tuple(row.name for row in rows), image.target.digest if used else "", deletes=not used)
        _perform(connection, images.namespace, rows, removal, removed=True)
    publish(images.database, images.content)
    return image


def decide(image: Image, names: list[str], by_id: bool, users: list[User], force: bool) -> Removal:
    """What removing `image` means, or `FailedPrecondition` saying why it can't be (pure)."""
    going = names if by_id else _going_with(image.name, names)
    last = len(going) == len(names)
    if by_id and not force and len(_repositories(names)) > 1:
        raise FailedPrecondition(
            f"conflict: unable to delete {image.short_id} (must be forced): "
            "image is referenced in multiple repositories"
        )
    if last:
        _check_users(image, by_id, users, force)
    keep = image.target.digest if last and users else ""
    return Removal(tuple(going), keep, deletes=last and not users)


def _check_users(image: Image, by_id: bool, users: list[User], force: bool) -> None:
    what = image.short_id if by_id else f"repository reference {_shown(image.name)!r}"
    running = next((user for user in users if user.running), None)
    if running is not None and (by_id or not force):
        how = "cannot be forced" if by_id else "must be forced"
        raise FailedPrecondition(
            f"conflict: unable to remove {what} ({how}): container {running.id[:12]} is using it and is running"
        )
    if users and not force:
        raise FailedPrecondition(
            f"conflict: unable to remove {what} (must be forced): container {users[0].id[:12]} is using it"
        )


def users(connection: sqlite3.Connection, image: Image) -> list[User]:
    """The containers of the image's namespace that were made from it."""
    rows = connection.execute(
        "SELECT id, state FROM containers WHERE namespace = ? AND image = ? ORDER BY created",
        (image.namespace, image.id),
    )
    return [User(row[0], row[1] in lifecycle.LIVE) for row in rows]


def prune(images: Images, all: bool, labels: tuple[str, ...]) -> Removed:
    """Remove images that have no tag (with `all`: any) and that no container uses; `labels` are `key` or
    `key=value`, of which an image must have every one."""
    gone: list[Removal] = []
    rows_gone: list[ImageRow] = []
    for image in images.list():
        if (image.tags and not all) or not _has_labels(image, labels):
            continue
        with images.database.transaction() as connection:
            rows = select(connection, images.namespace, "id = ?", image.id)
            if not rows or users(connection, image):
                continue
            removal = Removal(tuple(row.name for row in rows), deletes=True)
            _perform(connection, images.namespace, rows, removal)
        gone.append(removal)
        rows_gone += rows
    if not gone:
        return Removed()
    publish(images.database, images.content)
    names = tuple(name for removal in gone for name in removal.names)
    return _collected(images, Removal(names, deletes=True), rows_gone)


def _perform(
    connection: sqlite3.Connection, namespace: str, rows: list[ImageRow], removal: Removal, removed: bool = False
) -> None:
    record = rows[0].record
    for name in removal.names:
        drop(connection, namespace, name)
        if reference_of(name) is not None:
            events.write(connection, namespace, event("untag", name, record))
    if removal.keep:
        put(connection, ImageRow(namespace, removal.keep, msgspec.structs.replace(record, removed=removed)))
    if removal.deletes:
        events.write(connection, namespace, event("delete", record.config_digest, record))


def _collected(images: Images, removal: Removal, rows: list[ImageRow]) -> Removed:
    untagged = tuple(_shown(name) for name in removal.names if reference_of(name) is not None)
    if not removal.deletes:
        return Removed(untagged)
    collected = collect(images.database, images.content, images.snapshots)
    identifiers = dict.fromkeys(row.record.config_digest for row in rows)
    layers = [key for key in collected.snapshots if key.startswith("sha256:")]
    return Removed(untagged, tuple(dict.fromkeys((*identifiers, *layers))), collected.freed)


def _going_with(name: str, names: list[str]) -> list[str]:
    """The name, and where it was its repository's last tag, the repository's digests too."""
    own = reference_of(name)
    if own is None:
        return [name]
    others = [(each, reference) for each in names if each != name and (reference := reference_of(each)) is not None]
    same = [(each, reference) for each, reference in others if reference.name == own.name]
    if any(reference.tag for _, reference in same):
        return [name]
    return [name, *(each for each, _ in same)]


def _repositories(names: list[str]) -> set[str]:
    return {reference.name for name in names if (reference := reference_of(name)) is not None}


def _is_name(text: str, image: Image) -> bool:
    """Whether the user gave a name, rather than an ID or a beginning of one."""
    hexes = text.removeprefix("sha256:")
    identifiers = (image.id, image.digest, image.manifest_digest)
    is_identifier = any(digest.partition(":")[2].startswith(hexes) for digest in identifiers)
    reference = reference_of(image.name)
    return reference is not None and not (is_identifier and text not in (image.name, reference.familiar))


def _has_labels(image: Image, labels: tuple[str, ...]) -> bool:
    own = image.config.defaults.labels or {}
    wanted = [label.partition("=") for label in labels]
    return all(key in own and (not equals or own[key] == value) for key, equals, value in wanted)


def _shown(name: str) -> str:
    reference = reference_of(name)
    return reference.familiar if reference is not None else name
