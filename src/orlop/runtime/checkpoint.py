"""`checkpoint`: writes a running container to files, from which `restore` makes it anew. CRIU does the work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from orlop.cgroups.facts import Group
from orlop.cgroups.probe import probe
from orlop.runtime import compile_external, criu
from orlop.runtime.compile_mounts import Prepared
from orlop.runtime.compile_restore import compile_stoppable
from orlop.runtime.idmaps import with_mappings
from orlop.runtime.kill import frozen
from orlop.runtime.namespaces import FLAGS
from orlop.runtime.state import Record, Store, status
from orlop.runtime.streams import host_id
from orlop.spec.errors import FailedPrecondition, InvalidArgument, from_os
from orlop.spec.runtime import Linux, RuntimeSpec
from orlop.sys.inroot import open_in_root
from orlop.wire import criu as messages

DESCRIPTORS = "descriptors.json"  # in the image: what the standard streams were, as other runtimes keep it
LOG = "dump.log"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to. `image` and `work` are directories, `parent` one relative to `image`. `ready` is called when the pages
    that `lazy_pages` leaves behind can be fetched from `page_server`; the checkpoint ends when all have been. `dumped`
    is called when all is written and no process has gone on yet; what it raises fails the checkpoint."""

    image: str
    work: str = ""
    parent: str = ""
    pre_dump: bool = False
    leave_running: bool = False
    tcp_established: bool = False
    tcp_skip_in_flight: bool = False
    tcp_close: bool = False
    link_remap: bool = False
    ext_unix_sk: bool = False
    shell_job: bool = False
    file_locks: bool = False
    auto_dedup: bool = False
    lazy_pages: bool = False
    page_server: tuple[str, int] | None = None
    cgroups_mode: str = ""
    ready: Callable[[], None] = lambda: None
    dumped: Callable[[], None] = lambda: None


def checkpoint(store: Store, identifier: str, options: Options) -> None:
    """Dump the container, which then is gone, or runs on where that is asked for. Where it fails, it runs on too."""
    record = store.load(identifier)
    now = status(record, frozen(record))
    if now not in ("running", "paused"):
        raise FailedPrecondition(f"cannot checkpoint container {identifier}: it is {now}")
    dump(record, with_mappings(store.spec(identifier)), options)


def dump(record: Record, spec: RuntimeSpec, options: Options) -> None:
    """The same for a container that runs, whoever keeps its record."""
    compile_external.check(spec)
    with (
        criu.directory(options.image, "--image-path", make=True) as image,
        criu.directory(options.work or options.image, "--work-path", make=True) as work,
        _with_parent(options),
        criu.Criu(compile_stoppable(criu.program())) as service,
    ):
        _open_to_namespace(image, spec)
        if options.pre_dump or options.parent or options.lazy_pages:
            _check_features(service.features(), options)
        request = _request(record, spec, options, image, work)
        if not options.pre_dump:
            _write_descriptors(options.image, record)
        kind = messages.PRE_DUMP if options.pre_dump else messages.DUMP
        answer = service.request(kind, request, lambda told, fds: _notice(options, told))
    if not answer.success:
        log = criu.log_path(options.work or options.image, LOG, criu.config_file(record.annotations))
        raise criu.failure(answer, f"cannot checkpoint container {record.id}", log)


def _open_to_namespace(image: int, spec: RuntimeSpec) -> None:
    """In a user namespace CRIU reads the image as that namespace's root, who must be able to go into our directory."""
    linux = spec.linux or Linux()
    here = os.fstat(image)
    if "user" in compile_external.check(spec) and here.st_uid == os.geteuid() and here.st_mode & 0o777 == 0o700:
        os.fchown(image, -1, host_id(0, linux.gid_mappings))
        os.fchmod(image, 0o710)


def _notice(options: Options, told: messages.Answer) -> None:
    if told.script == "status-ready":
        options.ready()
    elif told.script == "post-dump":
        options.dumped()


@contextmanager
def _with_parent(options: Options) -> Iterator[None]:
    """CRIU would only say that there are no pages."""
    if os.path.isabs(options.parent):
        raise InvalidArgument("--parent-path: must be relative to the image path")
    if options.parent and not os.path.isdir(os.path.join(options.image, options.parent)):
        raise InvalidArgument(f"--parent-path: {options.parent} is no directory, seen from the image path")
    yield


def _check_features(found: messages.Features, options: Options) -> None:
    if (options.pre_dump or options.parent) and not found.mem_track:
        flag = "--pre-dump" if options.pre_dump else "--parent-path"
        raise FailedPrecondition(f"{flag}: this kernel or criu cannot track memory (CONFIG_MEM_SOFT_DIRTY)")
    if options.lazy_pages and not found.lazy_pages:
        raise FailedPrecondition("--lazy-pages: this kernel or criu cannot fetch memory later (userfaultfd)")


def _request(record: Record, spec: RuntimeSpec, options: Options, image: int, work: int) -> messages.Options:
    common = messages.Options(
        images_dir_fd=image,
        work_dir_fd=work,
        log_file=LOG,
        pid=record.init_process_pid,
        root=record.rootfs,
        config_file=criu.config_file(record.annotations),
        manage_cgroups_mode=messages.CGROUP_MODES[options.cgroups_mode],
        freeze_cgroup=_freezer(record),
        leave_running=options.leave_running,
        tcp_established=options.tcp_established,
        tcp_skip_in_flight=options.tcp_skip_in_flight,
        tcp_close=options.tcp_close,
        link_remap=options.link_remap,
        ext_unix_sk=options.ext_unix_sk,
        shell_job=options.shell_job,
        file_locks=options.file_locks,
        auto_dedup=options.auto_dedup,
        lazy_pages=options.lazy_pages,
        page_server=options.page_server,
        parent_image=options.parent,
        track_mem=options.pre_dump or bool(options.parent),
        empty_namespaces=FLAGS["network"],  # its interfaces are not CRIU's: hooks and plugins make them
        external=_external_namespaces(spec),
    )
    if options.pre_dump:
        return common  # of memory alone
    return msgspec.structs.replace(common, external_mounts=_external_mounts(record, spec))


def _freezer(record: Record) -> str:
    """The directory of the group through which CRIU stops all processes at once; without one it does so one by one."""
    host = probe()
    if not record.cgroup:
        return ""
    name = "freezer" if "freezer" in host.mounts else "unified"
    directory = Group(host, record.cgroup).directory(name) if name == "freezer" or host.unified else ""
    return directory if directory and os.path.isdir(directory) else ""


def _external_namespaces(spec: RuntimeSpec) -> tuple[str, ...]:
    """Those that the container has joined and CRIU is to leave alone, by their inodes."""
    found = []
    for name, path in compile_external.check(spec).joined.items():
        if name in compile_external.EXTERNAL:
            kind, key = compile_external.EXTERNAL[name]
            try:
                found.append(f"{kind}[{os.stat(path).st_ino}]:{key}")
            except OSError as error:
                raise from_os(error, f"linux.namespaces ({name})") from error
    return tuple(found)


def _external_mounts(record: Record, spec: RuntimeSpec) -> tuple[tuple[str, str], ...]:
    pid = record.init_process_pid
    try:
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            places = compile_external.parse_mountinfo(file.read())
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise from_os(error, "read") from error
    try:
        prepared = compile_external.mounts(spec, record.bundle)
        standing = {item.index: _standing(root, item) for item in prepared if not item.change_only}
    finally:
        os.close(root)
    return compile_external.dumped(spec, record.bundle, places, standing)


def _standing(root: int, item: Prepared) -> tuple[int, str]:
    """The mount that is found at a destination (proc_pid_fdinfo(5)), or -1; and its path without links."""
    try:
        fd = open_in_root(root, item.target, os.O_PATH | (os.O_NOFOLLOW if item.options.target_itself else 0))
    except OSError:
        return -1, ""
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            id = next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))
        return id, os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _write_descriptors(image: str, record: Record) -> None:
    path = os.path.join(image, DESCRIPTORS)
    try:
        with open(path, "wb", opener=_private) as file:
            file.write(msgspec.json.encode(record.descriptors))
    except OSError as error:
        raise from_os(error, "--image-path: write") from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def read_descriptors(image: str) -> Sequence[str]:
    """What the standard streams of a checkpoint were. Raises NotFound for a directory that holds none."""
    from orlop.spec.document import decode
    from orlop.spec.errors import NotFound

    try:
        with open(os.path.join(image, DESCRIPTORS), "rb") as file:
            return decode(file.read(), tuple[str, ...], DESCRIPTORS)
    except FileNotFoundError:
        raise NotFound(f"--image-path: {image} holds no checkpoint") from None
    except OSError as error:
        raise from_os(error, "--image-path: read") from error
