"""Turn the layers of an image into a chain of snapshots, while they arrive.

Each layer is taken by a worker thread, which unpacks what a second one downloads. Where the snapshotter is stackable
the layers don't wait for each other; the calling thread commits them, from the lowest up, as each is ready. Whoever
else wants the same layer, in this process or another, waits for the claim on its chain ID and then finds it there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import msgspec

from orlop.content.ingest import BlobWriter
from orlop.content.store import ContentStore
from orlop.engine.images import progress as told
from orlop.engine.images.progress import Progress, Watcher
from orlop.layers.apply import apply
from orlop.layers.inherit import inherit
from orlop.layers.limits import Applied, Limits, Ownership, WhiteoutFormat
from orlop.metadata.leases import CONTENT, SNAPSHOT, Lease
from orlop.snapshots.chain import chain_ids
from orlop.snapshots.directory import Claim, Usage
from orlop.snapshots.mounts import MAX_LAYERS
from orlop.snapshots.snapshotter import Snapshotter
from orlop.spec import cancel
from orlop.spec.errors import Aborted, DataLoss, InvalidArgument, OrlopError, ResourceExhausted, Unimplemented
from orlop.spec.image import LAYER_COMPRESSION, Descriptor, ImageConfig, Manifest

JOBS = 3  # layers at a time, as Docker has it
Fetch = Callable[[Descriptor, BlobWriter], None]  # write the blob's bytes from `writer.offset` on


class Layer(msgspec.Struct, frozen=True):
    """One layer to be unpacked: `chain_id` names its snapshot, `parent` the one below ("" at the bottom)."""

    descriptor: Descriptor
    diff_id: str
    chain_id: str
    parent: str


class _Staged(msgspec.Struct, frozen=True):
    """A layer that is unpacked (`key` is its active snapshot) or was there already (`key` is "")."""

    key: str = ""
    applied: Applied | None = None
    claim: Claim | None = None


def plan(manifest: Manifest, config: ImageConfig, what: str) -> tuple[Layer, ...]:
    """The layers of an image, lowest first. Refuses manifests and configurations that don't fit together."""
    diff_ids = config.rootfs.diff_ids
    if len(manifest.layers) != len(diff_ids):
        raise InvalidArgument(
            f"{what}: the manifest has {len(manifest.layers)} layers, but its configuration lists {len(diff_ids)}"
        )
    if len(diff_ids) > MAX_LAYERS:
        raise InvalidArgument(f"{what}: {len(diff_ids)} layers are more than the limit of {MAX_LAYERS}")
    for descriptor in manifest.layers:
        compression_of(descriptor)
    chain = chain_ids(diff_ids)
    return tuple(
        Layer(descriptor, diff_id, chain_id, below)
        for descriptor, diff_id, chain_id, below in zip(
            manifest.layers, diff_ids, chain, ("", *chain[:-1]) if chain else (), strict=True
        )
    )


def compression_of(descriptor: Descriptor) -> str:
    """How a layer blob is compressed, by its media type."""
    try:
        return LAYER_COMPRESSION[descriptor.media_type]
    except KeyError:
        raise Unimplemented(f"layer media type {descriptor.media_type!r} is not known") from None


class Unpacker:
    """Unpacks the layers of one image. `fetch` brings blobs that are not in the store; without it they must be."""

    def __init__(
        self,
        content: ContentStore,
        snapshots: Snapshotter,
        lease: Lease,
        fetch: Fetch | None = None,
        watcher: Watcher = told.nobody,
        jobs: int = JOBS,
    ) -> None:
        self._content = content
        self._snapshots = snapshots
        self._lease = lease
        self._fetch = fetch
        self._watcher = watcher
        self._jobs = jobs
        self._cancelled = threading.Event()
        self._token = cancel.current()
        self._writers: set[BlobWriter] = set()
        self._committed: dict[str, threading.Event] = {}

    def run(self, layers: Sequence[Layer], known: Callable[[str], int]) -> int:
        """Bring every layer into store and snapshots; returns their unpacked bytes. After an error nothing that is
        half done is left, but for partial downloads that can be resumed. `known` tells an unpacked layer's size."""
        if not layers:
            return 0
        self._lease.add(CONTENT, *(layer.descriptor.digest for layer in layers))
        self._lease.add(SNAPSHOT, *(layer.chain_id for layer in layers))
        self._committed = {layer.chain_id: threading.Event() for layer in layers}
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="orlop-layer") as pool:
            staged = [pool.submit(self._stage, layer) for layer in layers]
            try:
                for position, (layer, future) in enumerate(zip(layers, staged, strict=True)):
                    self._commit(layer, self._result(future), layers[:position])
            except BaseException as error:
                self._give_up(error, staged)
                raise
        return sum(known(layer.chain_id) for layer in layers)

    def _result(self, future: Future[_Staged]) -> _Staged:
        """What a worker has made; the caller may go meanwhile, while a registry says nothing."""
        while self._token is not None and not wait((future,), cancel.SLICE).done:
            self._token.check()
        return future.result()

    def _stage(self, layer: Layer) -> _Staged:
        self._check()
        claim = self._snapshots.exclusive(layer.chain_id, self._check)
        try:
            if self._snapshots.exists(layer.chain_id):
                self._download(layer.descriptor)
                self._tell(layer, told.EXISTS)
                claim.release()
                return _Staged()
            return self._unpack(layer, claim)
        except BaseException:
            claim.release()
            raise

    def _unpack(self, layer: Layer, claim: Claim) -> _Staged:
        self._wait_for_parent(layer)
        key = f"unpack-{os.getpid()}-{os.urandom(6).hex()}"
        self._lease.add(SNAPSHOT, key)
        self._snapshots.prepare(key, "" if self._snapshots.stackable else layer.parent)
        try:
            applied = self._apply_again(layer, key)
            if applied.diff_id != layer.diff_id:
                raise DataLoss(
                    f"layer {layer.descriptor.digest}: unpacked it has digest {applied.diff_id}, "
                    f"but the image's configuration says {layer.diff_id}"
                )
        except BaseException:
            self._snapshots.remove(key)
            raise
        return _Staged(key, applied, claim)

    def _wait_for_parent(self, layer: Layer) -> None:
        below = self._committed.get(layer.parent)
        while below is not None and not self._snapshots.stackable and not below.wait(0.1):
            self._check()

    def _apply_again(self, layer: Layer, key: str) -> Applied:
        """Download and unpack. If bytes that an earlier download left were wrong, once more from the start."""
        with self._writer(layer.descriptor) as writer:
            resumed = writer.resumed
            try:
                return self._apply(layer, key, writer)
            except (DataLoss, InvalidArgument):
                if not resumed:
                    raise
        self._snapshots.remove(key)
        self._snapshots.prepare(key, "" if self._snapshots.stackable else layer.parent)
        with self._writer(layer.descriptor) as writer:
            return self._apply(layer, key, writer)

    def _apply(self, layer: Layer, key: str, writer: BlobWriter) -> Applied:
        total = layer.descriptor.size
        with writer.follow() as stream:
            download = None if writer.present else self._begin_download(writer)
            counter = _Counter(lambda done: self._tell(layer, told.EXTRACTING, done, total))
            try:
                applied = apply(
                    stream,
                    compression_of(layer.descriptor),
                    self._snapshots.directory(key),
                    WhiteoutFormat(self._snapshots.whiteouts),
                    Limits(),
                    counter,
                    ownership=Ownership(keep=os.geteuid() == 0),
                )
            except (OrlopError, OSError) as error:
                self._stop(writer, error)
                raise
            if download is not None:
                download.join()
                writer.commit()
        self._tell(layer, told.DONE, total, total)
        return applied

    def _stop(self, writer: BlobWriter, error: Exception) -> None:
        """End a download that is of no use any more. What arrived stays only if resuming could help: bytes that can't
        be unpacked would be as bad the next time."""
        if self._cancelled.is_set() or error is writer.failure:
            writer.close()
        else:
            writer.abort()

    def _download(self, descriptor: Descriptor) -> None:
        """A blob whose layer is unpacked already: only the store wants it."""
        with self._writer(descriptor) as writer:
            if not writer.present:
                self._begin_download(writer).join()
                if writer.failure is not None:
                    raise writer.failure

    def _begin_download(self, writer: BlobWriter) -> threading.Thread:
        """A daemon thread: one that hangs in a read from the network must not hold up the end of the process."""
        thread = threading.Thread(target=self._run_download, args=(writer,), name="orlop-fetch", daemon=True)
        thread.start()
        return thread

    def _run_download(self, writer: BlobWriter) -> None:
        digest, total = writer.descriptor.digest, writer.descriptor.size
        try:
            writer.watch(lambda done: self._watcher(Progress(digest, told.DOWNLOADING, done, total)))
            if self._fetch is None:
                raise DataLoss(f"blob {digest}: not in the content store")
            self._fetch(writer.descriptor, writer)
            writer.commit()
        except ResourceExhausted as error:
            writer.abort(error)  # a full disk wants its space back
        except BaseException as error:  # the followers of the writer raise it where it is waited for
            writer.close(error)

    def _writer(self, descriptor: Descriptor) -> _Registered:
        return _Registered(self._content.writer(descriptor, self._check), self._writers)

    def _commit(self, layer: Layer, staged: _Staged, below: Sequence[Layer]) -> None:
        if staged.applied is not None and staged.claim is not None:
            if self._snapshots.stackable and staged.applied.implied:
                lowers = [self._snapshots.directory(each.chain_id) for each in reversed(below)]
                inherit(self._snapshots.directory(staged.key), staged.applied.implied, lowers)
            usage = Usage(staged.applied.size, staged.applied.entries)
            self._snapshots.commit(layer.chain_id, staged.key, layer.parent, usage)
            staged.claim.release()
        self._committed[layer.chain_id].set()

    def _give_up(self, error: BaseException, futures: list[Future[_Staged]]) -> None:
        """Stop all threads and remove what is unpacked but not committed."""
        self._cancelled.set()
        for writer in tuple(self._writers):
            writer.close(error if isinstance(error, OrlopError) else None)
        for future in futures:
            if future.cancel() or future.exception() is not None:
                continue
            staged = future.result()
            if staged.claim is not None:
                self._snapshots.remove(staged.key)
                staged.claim.release()

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Aborted("given up")

    def _tell(self, layer: Layer, action: str, done: int = 0, total: int = 0) -> None:
        self._watcher(Progress(layer.descriptor.digest, action, done, total))


class _Registered:
    """A writer that can be found while it is open, to be closed from outside."""

    def __init__(self, writer: BlobWriter, registry: set[BlobWriter]) -> None:
        self._writer = writer
        self._registry = registry

    def __enter__(self) -> BlobWriter:
        self._registry.add(self._writer)
        return self._writer

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._registry.discard(self._writer)
        self._writer.close(error)


class _Counter:
    """Turns counts of bytes into their sum."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._sum = 0

    def __call__(self, count: int) -> None:
        self._sum += count
        self._tell(self._sum)
