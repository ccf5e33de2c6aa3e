"""Images of one namespace: looking them up, and the verbs on them.

Looking up is on the path of `run` and reads one row; what a verb needs beyond that is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, BinaryIO

from orlop.engine.images.image import HistoryEntry, Image, history, image_of, reference_of
from orlop.metadata.database import Database
from orlop.metadata.images import ImageRow, ImageTable
from orlop.spec.digest import Digest
from orlop.spec.errors import FailedPrecondition, InvalidArgument, NotFound, OrlopError
from orlop.spec.platform import Platform, parse_platform, rank
from orlop.spec.reference import Reference, parse_reference

if TYPE_CHECKING:
    from pathlib import Path

    from orlop.content.store import ContentStore
    from orlop.distribution.client import Registry
    from orlop.engine.images.fetch import Source
    from orlop.engine.images.gc import Collected
    from orlop.engine.images.progress import Watcher
    from orlop.engine.images.pulls import UnderWay
    from orlop.engine.images.remove import Removed
    from orlop.snapshots.snapshotter import Snapshotter

_HEX_DIGITS = frozenset("0123456789abcdef")
__all__ = ["Image", "Images"]
Rows = list[ImageRow]  # within `Images`, `list` is a method
POLICIES = ("always", "missing", "never")


class Images:
    """The images of one namespace. Blobs and snapshots are shared with all others; names are not.

    `registry` makes the client for pull and push; by default the one that the machine's configuration describes.
    `pulls` is the directory where pulls are written down while they are under way; None: nowhere.
    """

    def __init__(
        self,
        content: ContentStore,
        snapshots: Snapshotter,
        database: Database,
        namespace: str = "default",
        registry: Registry | None = None,
        pulls: Path | None = None,
    ) -> None:
        self.content = content
        self.snapshots = snapshots
        self.database = database
        self.namespace = namespace
        self.table = ImageTable(database, namespace)
        self.pulls = pulls
        self._registry = registry

    # Looking up

    def resolve(self, text: str) -> Image:
        """The image that a user means: by name, `name@digest`, ID, digest, or the beginning of an ID.

        Raises `NotFound` (which says if another namespace has it) and `InvalidArgument` for an ambiguous beginning.
        """
        image = self.find(text)
        if image is None:
            raise NotFound(f"no such image: {_shown(text)}{self._elsewhere(text)}")
        return image

    def find(self, text: str) -> Image | None:
        """Like `resolve`, but None where there is no such image."""
        rows = self._by_digest(text) if _is_digest(text) else self._by_name(text)
        if not rows and _is_hex(text):
            rows = self._by_id_prefix(text)
        return self._image(rows[0]) if rows else None

    def by_id(self, digest: str) -> Image:
        """The image with exactly this ID, or digest."""
        rows = self._by_digest(digest)
        if not rows:
            raise NotFound(f"no such image: {_shown(digest)}")
        return self._image(rows[0])

    def list(self) -> list[Image]:
        """Every image, newest first; one with several names once."""
        groups: dict[str, list[ImageRow]] = {}
        for row in self.table.all():
            groups.setdefault(row.record.config_digest, []).append(row)
        images = [image_of(rows[0], [row.name for row in rows]) for rows in groups.values()]
        return sorted(images, key=lambda image: image.created, reverse=True)

    def history(self, text: str) -> tuple[HistoryEntry, ...]:
        """What made the image, newest first."""
        return history(self.resolve(text))

    def config_json(self, image: Image) -> bytes:
        """The configuration's exact bytes."""
        return self.content.read(image.config_digest)

    def manifest_json(self, image: Image) -> bytes:
        """The manifest's exact bytes."""
        return self.content.read(image.manifest_digest)

    def target_json(self, image: Image) -> bytes:
        """The exact bytes of what the name stands for: an index, where there is one."""
        return self.content.read(image.digest)

    # Bringing and sending

    def ensure(self, text: str, platform: str = "", policy: str = "missing", progress: Watcher | None = None) -> Image:
        """The image, pulled if `policy` says so: `missing` (only if it is not here), `always` or `never`."""
        if policy not in POLICIES:
            raise InvalidArgument(f"pull policy {policy!r}: want one of {', '.join(POLICIES)}")
        image = None if policy == "always" and not _is_id(text) else self.find(text)
        if image is not None and _fits(image, platform):
            return image
        if policy == "never" or _is_id(text):
            return self._only_here(text, image, platform)
        return self.pull(text, platform, progress)

    def pull(
        self,
        text: str,
        platform: str = "",
        progress: Watcher | None = None,
        *,
        all_platforms: bool = False,
        registry: Source | None = None,
    ) -> Image:
        """Bring an image from its registry, unpack it and give it its name. Others may watch; see `under_way`."""
        from orlop.engine.images.progress import nobody
        from orlop.engine.images.pull import pull
        from orlop.engine.images.pulls import recorded

        reference, source = parse_reference(text), registry or self.registry()
        with recorded(self.pulls, str(reference), self.namespace, progress or nobody) as recording:
            row = pull(self, reference, platform, recording, all_platforms, source)
            recording.end(row.record.target.digest)
        return self._image(row)

    def under_way(self) -> Sequence[UnderWay]:
        """The pulls of every process and namespace that are under way. Each is to be closed."""
        from orlop.engine.images.pulls import under_way

        return under_way(self.pulls) if self.pulls is not None else []

    def namespaces_with(self, reference: Reference) -> Sequence[str]:
        """The namespaces that have an image of this name."""
        name = str(reference) if not reference.digest else f"{reference.name}@{reference.digest}"
        return self.table.namespaces(name)

    def push(self, text: str, progress: Watcher | None = None, *, registry: Registry | None = None) -> str:
        """Send an image to the registry that its name says; returns the digest that it has there."""
        from orlop.engine.images.push import push

        return push(self, parse_reference(text), progress, registry or self.registry())

    def unpack(self, image: Image, progress: Watcher | None = None) -> None:
        """Make sure that the image's layers are unpacked, from the blobs in the store."""
        from orlop.engine.images.pull import unpack

        unpack(self, image, progress)

    def load(self, stream: BinaryIO, progress: Watcher | None = None, *, platform: str = "") -> Sequence[Image]:
        """Take the images out of an archive: Docker's format, old or new, or an OCI layout, in a tar."""
        from orlop.engine.images.archive_load import load

        return [self._image(row) for row in load(self, stream, progress, platform)]

    def save(self, names: Sequence[str], stream: BinaryIO) -> None:
        """Write images as one archive that is an OCI layout and Docker's format at once."""
        from orlop.engine.images.archive_save import save

        save(self, names, stream)

    # Names

    def tag(self, source: str, target: str) -> Image:
        """Give an image another name, taking it from any image that has it."""
        from orlop.engine.images.record import enter

        reference = parse_reference(target)
        if reference.digest:
            raise InvalidArgument(f"refusing to create a tag with a digest reference: {target}")
        image = self.resolve(source)
        (row,) = self.table.by_name(image.name)
        enter(self.database, self.content, self.namespace, [str(reference)], row.record, "tag")
        return self.resolve(str(reference))

    def remove(self, text: str, force: bool = False) -> Removed:
        """Take a name away or, with its last name or by ID, remove the image, as `docker rmi` does."""
        from orlop.engine.images.remove import remove

        return remove(self, text, force)

    def release(self, text: str) -> Image | None:
        """Take every name of an image away, whoever uses it, and return it; None where there is none. What containers
        use is kept for them until they are gone. Collects nothing."""
        from orlop.engine.images.remove import release

        return release(self, text)

    def has_removed(self) -> bool:
        """Whether there are images that are only kept for containers; the next collection looks after them."""
        return any(row.record.removed for row in self.table.nameless())

    def prune(self, all: bool = False, labels: Iterable[str] = ()) -> Removed:
        """Remove images without a name or, with `all`, every one that no container uses."""
        from orlop.engine.images.remove import prune

        return prune(self, all, tuple(labels))

    def collect(self) -> Collected:
        """Collect garbage: blobs and snapshots that nothing refers to, in any namespace."""
        from orlop.engine.images.gc import collect

        return collect(self.database, self.content, self.snapshots)

    def registry(self) -> Registry:
        """The client for pull and push."""
        if self._registry is None:
            from orlop.distribution.client import Registry

            self._registry = Registry()
        return self._registry

    # Within

    def _image(self, row: ImageRow) -> Image:
        return image_of(row, self.table.names(row.record.config_digest))

    def _by_digest(self, digest: str) -> Rows:
        return self.table.by_digest(digest)

    def _by_name(self, text: str) -> Rows:
        reference = _reference(text)
        if reference is None:
            return []
        if not reference.digest:
            return self.table.by_name(str(reference))
        named = self.table.by_name(f"{reference.name}@{reference.digest}")
        return named or [row for row in self.table.all() if _is_digest_of(reference, row)]

    def _by_id_prefix(self, hexes: str) -> Rows:
        rows = self.table.by_id_prefix(hexes)
        if len({row.record.config_digest for row in rows}) > 1:
            raise InvalidArgument(f"image id {hexes} is ambiguous: several images begin with it")
        return rows

    def _elsewhere(self, text: str) -> str:
        reference = _reference(text)
        names = [str(reference)] if reference is not None else []
        hexes = text.removeprefix("sha256:")
        found = self.table.elsewhere(names, hexes if _is_hex(hexes) else "")
        if not found:
            return ""
        where = ", ".join(f"{count} match{'es' * (count > 1)} in `{namespace}`" for namespace, count in found)
        return f": not in `{self.namespace}`; {where}"

    def _only_here(self, text: str, image: Image | None, platform: str) -> Image:
        """The image as it is, or why it is not there."""
        if image is None:
            return self.resolve(text)
        raise FailedPrecondition(f"image {text}: is for platform {image.platform}, not {platform}")


def _fits(image: Image, platform: str) -> bool:
    """Whether the image that is here will do; without a platform asked for it does."""
    if not platform:
        return True
    have = image.platform
    return not have.architecture or rank(have, parse_platform(platform, Platform(os="linux"))) == 0


def _is_digest_of(reference: Reference, row: ImageRow) -> bool:
    """Whether `name@digest` means this row: a tag of the same repository whose target or manifest it is."""
    own = reference_of(row.name)
    digests = (row.record.target.digest, row.record.manifest.digest)
    return own is not None and own.name == reference.name and reference.digest in digests


def _is_id(text: str) -> bool:
    return _is_digest(text) or (len(text) == 64 and _is_hex(text))


def _is_digest(text: str) -> bool:
    try:
        Digest(text)
    except InvalidArgument:
        return False
    return True


def _is_hex(text: str) -> bool:
    """Whether the text may be the beginning of an ID."""
    return 1 <= len(text) <= 64 and _HEX_DIGITS.issuperset(text)


def _reference(text: str) -> Reference | None:
    """`text` as a name; None where it can only be an ID. Raises `InvalidArgument` for what is neither."""
    if _is_digest(text):
        return None
    try:
        return parse_reference(text)
    except OrlopError:
        if _is_hex(text):
            return None
        raise


def _shown(text: str) -> str:
    """As Docker says it: with the tag that was meant."""
    try:
        reference = _reference(text)
    except OrlopError:
        return text[:160]
    return text if reference is None else reference.familiar
