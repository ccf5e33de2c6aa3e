"""A container in one screen, with the field of its configuration that each part comes from. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from orlop.cli.docker.observe import Observed
from orlop.cli.docker.status import bracketed, hosts, state
from orlop.cli.docker.units import human_memory
from orlop.engine.inspect import Details
from orlop.snapshots.mounts import Overlay
from orlop.spec import capabilities
from orlop.spec.runtime import Linux, Process, RuntimeSpec

Row = tuple[str, str, str]  # what, what it is, the field it comes from
_NAMES = 18  # columns for what a row is about, at most
_ORIGIN = 92  # column where the fields stand
# field of process.capabilities: line of /proc/PID/status
_SETS = (("bounding", "CapBnd"), ("effective", "CapEff"), ("inheritable", "CapInh"), ("ambient", "CapAmb"))
_SECCOMP = {"0": "off", "1": "strict", "2": "filter"}


def explain(details: Details, seen: Observed) -> list[str]:
    """The lines. Of a container that was never started only what it was asked for is known."""
    container = details.container
    pid = f", pid {container.record.pid}" if container.record.pid else ""
    lines = [f"container {container.name}  {container.short_id}  {state(container)}{pid}  {container.config.image}"]
    if details.spec is None:
        lines.append("  it was never started: its configuration is made then")
    for title, rows in _sections(details, seen):
        shown = [(what, text.replace(f"{details.directory}/", "FILES/"), origin) for what, text, origin in rows]
        width = min(_NAMES, max((len(what) for what, _, _ in shown), default=0))
        lines += ["", title, *(_line(*row, width) for row in shown)] if shown else []
    return lines


def _sections(details: Details, seen: Observed) -> Iterator[tuple[str, Iterable[Row]]]:
    spec = details.spec
    if spec is not None:
        yield "process", _process(spec)
        yield "namespaces", _namespaces(spec, seen)
        yield "cgroup", _cgroup(spec, seen)
        yield "mounts", _mounts(spec)
        yield "capabilities", _capabilities(spec, seen)
        yield "seccomp", _seccomp(spec, seen)
    yield "network", _network(details)
    yield "on the host", _files(details)


def _line(what: str, text: str, origin: str, width: int) -> str:
    line = f"  {what:<{width}}  {text}"
    return f"{line:<{_ORIGIN}} # {origin}" if origin else line


def _process(spec: RuntimeSpec) -> Iterator[Row]:
    process = spec.process or Process(cwd="/")
    yield "command", " ".join(process.args), "process.args"
    user = process.user
    groups = f", groups {' '.join(map(str, user.additional_gids))}" if user.additional_gids else ""
    yield "user", f"{user.uid}:{user.gid}{groups}", "process.user"
    yield "directory", process.cwd, "process.cwd"
    if process.no_new_privileges:
        yield "privileges", "no new ones", "process.noNewPrivileges"
    if spec.hostname:
        yield "hostname", spec.hostname, "hostname"


def _namespaces(spec: RuntimeSpec, seen: Observed) -> Iterator[Row]:
    linux = spec.linux or Linux()
    listed = {namespace.type: index for index, namespace in enumerate(linux.namespaces)}
    for name in ("mount", "pid", "network", "ipc", "uts", "cgroup", "user", "time"):
        inode = seen.namespaces.get(name, "")
        if name in listed:
            path = linux.namespaces[listed[name]].path
            how = f"joined from {path}" if path else "its own"
            yield name, f"{inode:24} {how}", f"linux.namespaces[{listed[name]}]"
        elif inode:
            shared = "the host's" if inode == seen.own_namespaces.get(name) else "shared"
            yield name, f"{inode:24} {shared}", "not in linux.namespaces"


def _cgroup(spec: RuntimeSpec, seen: Observed) -> Iterator[Row]:
    linux = spec.linux or Linux()
    if linux.cgroups_path:
        yield "path", linux.cgroups_path, "linux.cgroupsPath"
    if seen.groups:
        yield "in", _hierarchies(path.removesuffix(linux.cgroups_path) for path in seen.groups), ""
    for limit in seen.limits:
        yield "limit", f"{limit.path.rpartition('/')[2]} = {_readable(limit.path, limit.value)}", limit.origin
    rules = linux.resources.devices if linux.resources else ()
    if rules:
        allowed = sum(rule.allow for rule in rules)
        yield "devices", f"{allowed} rules allow, {len(rules) - allowed} deny", "linux.resources.devices"


def _hierarchies(mounts: Iterable[str]) -> str:
    """`/sys/fs/cgroup/{cpu,memory,pids}`, as a shell would spell them out."""
    found: dict[str, list[str]] = {}
    for mount in mounts:
        parent, _, name = mount.rpartition("/")
        found.setdefault(parent, []).append(name)
    return " ".join(f"{p}/{{{','.join(n)}}}" if len(n) > 1 else f"{p}/{n[0]}" for p, n in found.items())


def _readable(path: str, value: str) -> str:
    """Sizes of the memory controller with their unit."""
    if "/memory." in path and value.isdigit() and int(value) > 1 << 20:
        return f"{value} ({human_memory(int(value))})"
    return value


def _mounts(spec: RuntimeSpec) -> Iterator[Row]:
    for index, mount in enumerate(spec.mounts):
        options = ",".join(mount.options)
        text = f"{mount.type or 'bind'} {mount.source}" if mount.source != mount.type else mount.type
        yield mount.destination, f"{text}  {options}".rstrip(), f"mounts[{index}]"
    linux = spec.linux or Linux()
    if linux.masked_paths:
        yield "masked", _counted(linux.masked_paths), "linux.maskedPaths"
    if linux.readonly_paths:
        yield "read-only", _counted(linux.readonly_paths), "linux.readonlyPaths"
    if spec.root is not None and spec.root.readonly:
        yield "/", "read-only", "root.readonly"


def _counted(paths: tuple[str, ...]) -> str:
    return " ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _capabilities(spec: RuntimeSpec, seen: Observed) -> Iterator[Row]:
    asked = spec.process.capabilities if spec.process else None
    before = ""
    for field, line in _SETS:
        names: tuple[str, ...] = getattr(asked, field) if asked else ()
        if line in seen.status:
            names = capabilities.names(int(seen.status[line], 16))
        shown = " ".join(name.removeprefix("CAP_").lower() for name in names) or "none"
        yield field, "the same" if shown == before and names else shown, f"process.capabilities.{field}"
        before = shown


def _seccomp(spec: RuntimeSpec, seen: Observed) -> Iterator[Row]:
    linux = spec.linux or Linux()
    if "Seccomp" in seen.status:
        yield "mode", _SECCOMP.get(seen.status["Seccomp"], seen.status["Seccomp"]), "linux.seccomp"
    profile = linux.seccomp
    if profile is None:
        yield "profile", "none: every system call is allowed", "linux.seccomp"
        return
    named = sum(len(rule.names) for rule in profile.syscalls)
    yield "profile", f"{named} names in {len(profile.syscalls)} rules, else {profile.default_action}", "linux.seccomp"


def _network(details: Details) -> Iterator[Row]:
    mode = details.container.config.network.mode
    yield "mode", mode, "--network"
    attachment = details.container.record.attachment
    if attachment is None:
        return
    yield attachment.interface, f"{' '.join(attachment.addresses)}  {attachment.mac}", f"network {attachment.network}"
    if attachment.gateways:
        yield "gateway", " ".join(attachment.gateways), f"network {attachment.network}"
    if attachment.host_device:
        yield "on the host", f"{attachment.host_device}, a port of {attachment.bridge}", f"network {attachment.network}"
    for port in attachment.ports:
        outside = " ".join(f"{bracketed(address)}:{port.host_port}" for address in hosts(port))
        yield "port", f"{outside} -> {port.container_port}/{port.protocol}", "--publish"


def _files(details: Details) -> Iterator[Row]:
    for mount in details.root_mounts:
        if isinstance(mount, Overlay):
            yield "writable", mount.upper, f"snapshot {details.container.short_id}"
            for number, lower in enumerate(mount.lower):
                yield "layers" if not number else "", lower, ""
        else:
            yield "root", mount.source, f"snapshot {details.container.short_id}"
    for place in details.volumes:
        yield "volume", f"{place.source} on {place.target}", f"volume {place.name[:24]}"
    yield "FILES", details.directory, "config.json, hosts, hostname, resolv.conf"
    if details.log:
        yield "log", details.log, "--log-driver"
    if details.container.record.pid:
        yield "shim", f"{details.run_directory}/", "shim.sock, pid, lock"
