"""`restore`: a container that `checkpoint` has written to files runs on, from where it was. CRIU does the work.

What CRIU does not know of a container is done here, as at its creation: the name, the control groups and their limits,
hooks, the terminal's master, the record.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence

import msgspec

from orlop.cgroups import apply as cgroups
from orlop.cgroups.facts import CgroupHost
from orlop.cgroups.units import Place
from orlop.runtime import checkpoint, compile_external, criu, hooks
from orlop.runtime import create as creation
from orlop.runtime.children import children
from orlop.runtime.compile_console import MASTER_NAME
from orlop.runtime.compile_restore import SERVICE_FD, compile_loopback, compile_restore, root_at
from orlop.runtime.host import probe_host
from orlop.runtime.idmaps import with_mappings
from orlop.runtime.launch import launch
from orlop.runtime.namespaces import FLAGS, namespaces
from orlop.runtime.state import CONFIG, Record, Store, state
from orlop.spec.document import Document
from orlop.spec.errors import FailedPrecondition, InvalidArgument, from_os
from orlop.spec.runtime import Hooks, Linux, RuntimeSpec
from orlop.sys.procfs import start_time
from orlop.wire import criu as messages

LOG = "restore.log"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to; see `create.Options` and `checkpoint.Options`."""

    bundle: str
    id: str
    image: str
    work: str = ""
    console: int | None = None
    on_console: Callable[[int], None] | None = None
    tcp_established: bool = False
    tcp_close: bool = False
    ext_unix_sk: bool = False
    shell_job: bool = False
    file_locks: bool = False
    auto_dedup: bool = False
    lazy_pages: bool = False
    cgroups_mode: str = ""
    lsm_profile: str = ""
    lsm_mount_context: str = ""
    cgroups: bool = True
    warn: Callable[[str], None] = lambda _: None


def restore(store: Store, options: Options) -> Record:
    """Make the container from its bundle and the image; its first process is a child of ours. Of a failure nothing is
    left but the log."""
    document = creation.read_bundle(options.bundle)
    descriptors = checkpoint.read_descriptors(options.image)
    spec, host = with_mappings(document.value), probe_host()
    compile_external.check(spec)
    creation.plan_of(spec, options.bundle, options.id, host, os.path.join(store.root, ".seccomp"))  # is it right at all
    if spec.process is not None and spec.process.terminal and options.console is None and options.on_console is None:
        raise InvalidArgument("process.terminal: a detached container needs --console-socket")
    place = creation.place_of(spec, host, options.id, False, False)[1] if options.cgroups else Place("")
    record = creation.new_record(spec, creation.Options(bundle=options.bundle, id=options.id), place, ())
    making = _Restoring(store, options, document, spec, record)
    store.reserve(record)
    try:
        store.write(options.id, CONFIG, document.raw)
        return making.make(descriptors)
    except BaseException:
        making.undo()
        raise


def compose(
    options: Options,
    spec: RuntimeSpec,
    record: Record,
    groups: CgroupHost,
    pid: int,
    directories: Sequence[int],
    root: str,
) -> messages.Options:
    """What is asked of the CRIU with this number, but for the descriptors that it inherits. `directories` are those of
    image and work; `root` is where it finds the root file system."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        host = compile_external.parse_mountinfo(file.read())
    return messages.Options(
        images_dir_fd=directories[0],
        work_dir_fd=directories[1],
        log_file=LOG,
        root=root,
        config_file=criu.config_file(record.annotations),
        manage_cgroups_mode=messages.CGROUP_MODES[options.cgroups_mode],
        cgroup_roots=_groups(pid),
        evasive_devices=True,
        rst_sibling=True,
        tcp_established=options.tcp_established,
        tcp_close=options.tcp_close,
        ext_unix_sk=options.ext_unix_sk,
        shell_job=options.shell_job,
        file_locks=options.file_locks,
        auto_dedup=options.auto_dedup,
        lazy_pages=options.lazy_pages,
        lsm_profile=options.lsm_profile,
        lsm_mount_context=options.lsm_mount_context,
        empty_namespaces=FLAGS["network"],
        join=tuple(
            (compile_external.JOINED[name], path)
            for name, path in namespaces(spec.linux or Linux()).joined.items()
            if name in compile_external.JOINED
        ),
        external_mounts=compile_external.restored(spec, options.bundle, groups, record.cgroup, host),
    )


class _Restoring:
    """One restore: what has been made so far, so that it can be undone."""

    def __init__(
        self, store: Store, options: Options, document: Document[RuntimeSpec], spec: RuntimeSpec, record: Record
    ) -> None:
        self.store = store
        self.options = options
        self.document = document
        self.spec = spec
        self.host = probe_host()
        self.record = record
        self.cgroup_made = False

    @property
    def linux(self) -> Linux:
        return self.spec.linux or Linux()

    def make(self, descriptors: Sequence[str]) -> Record:
        """All steps; the record at the end."""
        options = self.options
        if options.cgroups:
            cgroups.create(self.host.cgroups, self.record.cgroup, self.linux.resources)
        self.cgroup_made = True
        mine: list[int] = []
        try:
            inherit = self._inherit(descriptors, mine)
            with criu.directory(options.work or options.image, "--work-path", make=True):
                self._run(inherit, mine)
        finally:
            for fd in mine:
                os.close(fd)
        self._note_time_namespace()
        return self.record

    def _inherit(self, descriptors: Sequence[str], mine: list[int]) -> tuple[tuple[str, int], ...]:
        """By their names in the image: our streams for its pipes, and namespaces to join. CRIU gets those in `mine`,
        after its connection."""
        found = []
        for fd, name in enumerate(descriptors[:3]):
            if name.startswith("pipe:"):
                mine.append(os.dup(fd))
                found.append((name, SERVICE_FD + len(mine)))
        for key, fd in external_namespaces(self.linux):
            mine.append(fd)
            found.append((key, SERVICE_FD + len(mine)))
        return tuple(found)

    def _run(self, inherit: tuple[tuple[str, int], ...], more: list[int]) -> None:
        place = self.store.directory(self.record.id)
        plan = compile_restore(
            criu.program(len(more)),
            self.record.rootfs,
            place,
            (self.options.image, self.options.work or self.options.image),
            compile_external.mounts(self.spec, self.options.bundle),
            cgroups.procs_paths(self.host.cgroups, self.record.cgroup) if self.options.cgroups else (),
            self.host,
        )
        # A shell's terminal is found by CRIU on its own streams.
        stderr = 2 if self.options.shell_job else None
        with criu.Criu(plan, more, stderr) as service:
            request = compose(
                self.options,
                self.spec,
                self.record,
                self.host.cgroups,
                service.pid,
                service.directories,
                root_at(place),
            )
            request = msgspec.structs.replace(request, inherit=inherit)
            answer = service.request(messages.RESTORE, request, self._on_notify)
        if not answer.success:
            log = criu.log_path(self.options.work or self.options.image, LOG, criu.config_file(self.record.annotations))
            raise criu.failure(answer, f"cannot restore container {self.record.id}", log)
        self._recorded(answer.pid, "running")

    # --- while CRIU works

    def _on_notify(self, told: messages.Answer, fds: Sequence[int]) -> None:
        if told.script == "setup-namespaces":
            self._at_namespaces(told.pid)
        elif told.script == "post-restore":
            self._recorded(told.pid, "running")
        elif told.script == "orphan-pts-master":
            self._at_terminal(fds)

    def _at_namespaces(self, pid: int) -> None:
        """The namespaces are there, and nothing in them yet."""
        self._recorded(pid)
        self.store.publish(self.record)
        if "network" in namespaces(self.linux).new:
            children().wait(launch(compile_loopback(f"/proc/{pid}/ns/net")).pid)
        if self.linux.intel_rdt is not None:
            from orlop.runtime import resctrl

            resctrl.make(self.linux.intel_rdt, self.record.id, self.host.resctrl)
            resctrl.join(self.linux.intel_rdt, self.record.id, self.host.resctrl, pid)
        wanted = self.spec.hooks or Hooks()
        told = msgspec.structs.replace(state(self.record), status="creating", pid=pid)
        hooks.run_hooks(wanted.prestart, "hooks.prestart", told)
        hooks.run_hooks(wanted.create_runtime, "hooks.createRuntime", told)

    def _at_terminal(self, fds: Sequence[int]) -> None:
        if not fds:
            raise FailedPrecondition("criu: the terminal's master did not come with its message")
        if self.options.console is not None:
            with socket.socket(fileno=os.dup(self.options.console)) as console:
                socket.send_fds(console, [MASTER_NAME], fds[:1])
        elif self.options.on_console is not None:
            self.options.on_console(os.dup(fds[0]))
        else:
            raise FailedPrecondition("the checkpoint has a terminal: a detached container needs --console-socket")

    def _recorded(self, pid: int, phase: str = "creating") -> None:
        self.record = msgspec.structs.replace(
            self.record, init_process_pid=pid, init_process_start=start_time(pid) or 0, phase=phase
        )
        self.store.save(self.record)

    def _note_time_namespace(self) -> None:
        """CRIU restores into a time namespace, so that clocks go on from where they stood. `exec` and the next
        checkpoint join the namespaces that the configuration has, so our copy of it gets one."""
        changed = with_time_namespace(self.document.raw, self.linux, self.record.init_process_pid)
        if changed is not None:
            self.store.write(self.record.id, CONFIG, changed)

    def undo(self) -> None:
        """Take back what was made, as `delete --force` would."""
        from orlop.runtime.delete import destroy

        pid = self.record.init_process_pid
        destroy(self.store, self.record, self.spec if pid else None, self.options.warn, self.cgroup_made)
        try:
            children().wait(pid, os.WNOHANG) if pid else None
        except ChildProcessError:
            pass


def external_namespaces(linux: Linux) -> Iterator[tuple[str, int]]:
    """Those to join that CRIU knows by a key, and a descriptor of each, which is the caller's."""
    for name, path in namespaces(linux).joined.items():
        if name in compile_external.EXTERNAL:
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise from_os(error, f"linux.namespaces ({name})") from error
            yield compile_external.EXTERNAL[name][1], fd


def with_time_namespace(config: bytes, linux: Linux, pid: int) -> bytes | None:
    """A configuration with a time namespace where the restored process has got one and the configuration names none."""
    if "time" in namespaces(linux):
        return None
    try:
        if os.stat(f"/proc/{pid}/ns/time").st_ino == os.stat("/proc/self/ns/time").st_ino:
            return None
    except OSError:  # no such namespaces here, or the process has ended already
        return None
    document = msgspec.json.decode(config)
    document["linux"]["namespaces"].append({"type": "time"})
    return msgspec.json.encode(document)


def _groups(pid: int) -> tuple[tuple[str, str], ...]:
    """The control groups of CRIU, which are the container's, by controller (proc_pid_cgroup(5))."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError as error:
        raise FailedPrecondition("criu ended at once (see `criu check`)") from error
    return tuple((name, path) for _, names, path in lines for name in names.split(","))
