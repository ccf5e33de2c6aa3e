"""What is refused before anything is compiled: each by its JSON path (config.md, config-linux.md). Pure."""

from __future__ import annotations

from orlop.runtime import compile_resctrl
from orlop.runtime.compile_devices import check_devices
from orlop.runtime.compile_process import check_process
from orlop.runtime.compile_schedule import memory_policy, personality
from orlop.runtime.compile_sysctl import check_sysctls, path_of
from orlop.runtime.compile_users import check_users
from orlop.runtime.facts import Host
from orlop.runtime.namespaces import Namespaces, namespaces
from orlop.spec.errors import FailedPrecondition, InvalidArgument, Unimplemented
from orlop.spec.runtime import Hook, Hooks, IDMapping, Linux, RuntimeSpec

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_FIELDS = dict(
    zip(
        HOOKS,
        ("prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop"),
        strict=True,
    )
)
_CLOCKS = ("monotonic", "boottime")
_NAME_MAX = 64  # __NEW_UTS_LEN
_DEVICE_NAME_MAX = 15  # IFNAMSIZ, with the NUL
_MOST_MAPPINGS = 340  # user_namespaces(7)


def check(spec: RuntimeSpec, host: Host, bundle: str, waits: bool = False) -> None:
    """Refuse a configuration that no plan can be made of. Without a process there can be one that `waits` for a start,
    which is then refused (config.md, "process": required when start is called)."""
    linux = spec.linux or Linux()
    _check_version(spec.oci_version)
    _check_platform(spec)
    if spec.root is None or not spec.root.path:
        raise InvalidArgument("root.path: is missing")
    if "\0" in spec.root.path or not (spec.root.path.startswith("/") or bundle):
        raise InvalidArgument(f"root.path: {spec.root.path[:128]!r} is relative, and there is no bundle")
    if spec.process is None and not waits:
        raise InvalidArgument("process: is missing")
    found = namespaces(linux)
    if spec.process is not None:
        check_process(spec.process, host, "user" in found)
    _check_namespaces(spec, linux, found, host)
    _check_mappings(linux, found)
    check_users(spec, linux, found, host)
    check_devices(linux.devices)
    _check_net_devices(linux, found)
    check_sysctls(linux.sysctl, found)
    check_hooks(spec.hooks)
    _check_paths(linux)
    _check_kernel(linux, host)
    if linux.resources is not None and linux.resources.hugepage_limits:
        from orlop.cgroups.compile import check_page_sizes

        check_page_sizes(linux.resources.hugepage_limits)


def _check_version(version: str) -> None:
    major, dot, rest = version.partition(".")
    if not (dot and major.isascii() and major.isdigit() and rest[:1].isdigit()):
        raise InvalidArgument(f"ociVersion: {version[:64]!r} is not a version such as 1.2.0")
    if major != "1":
        raise Unimplemented(f"ociVersion: {version[:64]} is not a version 1 of the specification")


def _check_platform(spec: RuntimeSpec) -> None:
    for name in ("solaris", "windows", "vm", "zos", "freebsd"):
        if getattr(spec, name) is not None:
            raise InvalidArgument(f"{name}: is for another platform than linux")


def mounts_on_host(spec: RuntimeSpec) -> str:
    """The first field by which a container without a mount namespace needs mounts in that of the host, or nothing."""
    linux = spec.linux or Linux()
    if "mount" in namespaces(linux):
        return ""
    wanted = (
        ("mounts", spec.mounts),
        ("linux.devices", linux.devices),
        ("linux.maskedPaths", linux.masked_paths),
        ("linux.readonlyPaths", linux.readonly_paths),
        ("root.readonly", spec.root is not None and spec.root.readonly),
    )
    return next((name for name, present in wanted if present), "")


def _check_namespaces(spec: RuntimeSpec, linux: Linux, found: Namespaces, host: Host) -> None:
    for name, value in (("hostname", spec.hostname), ("domainname", spec.domainname)):
        if value and "uts" not in found:
            raise InvalidArgument(f"{name}: would change the host without a uts namespace of the container")
        if (
            name == "domainname"
            and value
            and any(path_of(key) == "kernel/domainname" and other != value for key, other in linux.sysctl.items())
        ):
            raise InvalidArgument("domainname: linux.sysctl sets another one")
        if len(value.encode()) > _NAME_MAX or "\0" in value:
            raise InvalidArgument(f"{name}: {value[:80]!r} is longer than {_NAME_MAX} bytes or has a NUL in it")
    if "mount" not in found:
        if linux.rootfs_propagation:
            raise InvalidArgument(
                "linux.rootfsPropagation: would change the host without a mount namespace of the container"
            )
        if (name := mounts_on_host(spec)) and ("user" in found or host.lesser):
            raise InvalidArgument(f"{name}: takes a mount namespace of the container where that is not the host's root")
    if linux.time_offsets and "time" not in found.new:
        raise InvalidArgument("linux.timeOffsets: needs a new time namespace")
    for clock, offset in linux.time_offsets.items():
        if clock not in _CLOCKS:
            raise InvalidArgument(f"linux.timeOffsets: unknown clock {clock[:64]!r}")
        if not 0 <= offset.nanosecs < 1_000_000_000:
            raise InvalidArgument(f"linux.timeOffsets.{clock}.nanosecs: {offset.nanosecs} is not below one second")


def _check_mappings(linux: Linux, found: Namespaces) -> None:
    sides = (("uidMappings", linux.uid_mappings), ("gidMappings", linux.gid_mappings))
    for name, mappings in sides:
        if "user" in found.new and not mappings:
            raise InvalidArgument(f"linux.{name}: a new user namespace needs mappings")
        if mappings and "user" not in found:
            raise InvalidArgument(f"linux.{name}: needs a user namespace")
        if len(mappings) > _MOST_MAPPINGS:
            raise InvalidArgument(f"linux.{name}: more than {_MOST_MAPPINGS} entries")
        for index, mapping in enumerate(mappings):
            _check_mapping(mapping, f"linux.{name}[{index}]")


def _check_mapping(mapping: IDMapping, where: str) -> None:
    for name, value, low in (
        ("containerID", mapping.container_id, 0),
        ("hostID", mapping.host_id, 0),
        ("size", mapping.size, 1),
    ):
        if not low <= value < 1 << 32:
            raise InvalidArgument(f"{where}.{name}: {value} is not between {low} and {(1 << 32) - 1}")


def _check_net_devices(linux: Linux, found: Namespaces) -> None:
    taken: set[str] = set()
    for source, device in linux.net_devices.items():
        where = f"linux.netDevices.{source if _device_name(source) else repr(source[:64])}"
        if "network" not in found:
            raise InvalidArgument(f"{where}: needs a network namespace of the container")
        name = device.name or source
        # `%d` stands for the first number that makes a name which is free
        for word in (source, name if name.count("%d") != 1 else name.replace("%d", "0")):
            if not _device_name(word):
                raise InvalidArgument(f"{where}: {name[:64]!r} is no name of a network device")
        if name in taken and "%d" not in name:
            raise InvalidArgument(f"{where}.name: {name} is there twice")
        taken.add(name)


def _device_name(name: str) -> bool:
    """What the kernel takes (dev_valid_name), but for `%`."""
    forbidden = any(c in "/:%\0" or c.isspace() for c in name)
    return 0 < len(name.encode()) <= _DEVICE_NAME_MAX and name not in (".", "..") and not forbidden


def check_hooks(hooks: Hooks | None) -> None:
    """Refuse hooks that can't be run as they stand."""
    for name in HOOKS if hooks is not None else ():
        for index, hook in enumerate(getattr(hooks, _FIELDS[name])):
            _check_hook(hook, f"hooks.{name}[{index}]")


def _check_hook(hook: Hook, where: str) -> None:
    if not hook.path.startswith("/"):
        raise InvalidArgument(f"{where}.path: {hook.path[:128]!r} is not an absolute path")
    if any("\0" in text for text in (hook.path, *hook.args, *hook.env)):
        raise InvalidArgument(f"{where}: has a NUL character in it")
    if hook.timeout is not None and not 1 <= hook.timeout <= 1_000_000:
        raise InvalidArgument(f"{where}.timeout: {hook.timeout} is not a number of seconds above zero")


def _check_paths(linux: Linux) -> None:
    for name, paths in (("maskedPaths", linux.masked_paths), ("readonlyPaths", linux.readonly_paths)):
        for index, path in enumerate(paths):
            if not path.startswith("/") or "\0" in path:
                raise InvalidArgument(f"linux.{name}[{index}]: {path[:128]!r} is not an absolute path")


def _check_kernel(linux: Linux, host: Host) -> None:
    if linux.personality is not None:
        personality(linux)
    if linux.memory_policy is not None:
        memory_policy(linux)
    if linux.intel_rdt is not None:
        compile_resctrl.check(linux.intel_rdt)
        if not host.resctrl:
            raise FailedPrecondition("linux.intelRdt: no resctrl file system is mounted on this host")
    if linux.mount_label:
        if "selinux" not in host.security_modules:
            raise FailedPrecondition("linux.mountLabel: selinux is not active on this host")
        if '"' in linux.mount_label or not linux.mount_label.isprintable():
            raise InvalidArgument(f"linux.mountLabel: {linux.mount_label[:64]!r} is no label")
