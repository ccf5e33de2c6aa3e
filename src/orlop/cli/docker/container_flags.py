"""The flags of `run` and `create`, turned into a `ContainerConfig`. Nothing below sees a flag."""

from __future__ import annotations

import os

from orlop.cli.docker.units import parse_integer, parse_size
from orlop.cli.flags import Options, UsageError, many, missing, switch, value
from orlop.engine.config import (
    MIB,
    ContainerConfig,
    DeviceRequest,
    Limits,
    LogConfig,
    MountRequest,
    NetworkRequest,
    PortBinding,
    RestartPolicy,
    Ulimit,
)
from orlop.spec.errors import InvalidArgument, Unimplemented

FLAGS = (
    many("--add-host", "Add a custom host-to-IP mapping (host:ip)"),
    many("--annotation", "Add an annotation to the container (passed through to the OCI runtime)", "map"),
    value("--blkio-weight", "Block IO (relative weight), between 10 and 1000, or 0 to disable", metavar="uint16"),
    many("--cap-add", "Add Linux capabilities"),
    many("--cap-drop", "Drop Linux capabilities"),
    value("--cgroup-parent", "Optional parent cgroup for the container"),
    value("--cgroupns", "Cgroup namespace to use (host|private)"),
    value("--cidfile", "Write the container ID to the file"),
    value("--cpu-period", "Limit CPU CFS (Completely Fair Scheduler) period", metavar="int"),
    value("--cpu-quota", "Limit CPU CFS (Completely Fair Scheduler) quota", metavar="int"),
    value("-c --cpu-shares", "CPU shares (relative weight)", metavar="int"),
    value("--cpus", "Number of CPUs", metavar="decimal"),
    value("--cpuset-cpus", "CPUs in which to allow execution (0-3, 0,1)"),
    value("--cpuset-mems", "MEMs in which to allow execution (0-3, 0,1)"),
    many("--device", "Add a host device to the container"),
    many("--device-cgroup-rule", "Add a rule to the cgroup allowed devices list"),
    many("--dns", "Set custom DNS servers"),
    many("--dns-option", "Set DNS options"),
    many("--dns-search", "Set custom DNS search domains"),
    value("--domainname", "Container NIS domain name"),
    value("--entrypoint", "Overwrite the default ENTRYPOINT of the image"),
    many("-e --env", "Set environment variables"),
    many("--env-file", "Read in a file of environment variables"),
    many("--expose", "Expose a port or a range of ports"),
    many("--group-add", "Add additional groups to join"),
    value("-h --hostname", "Container host name"),
    switch("--init", "Run an init inside the container that forwards signals and reaps processes"),
    switch("-i --interactive", "Keep STDIN open even if not attached"),
    value("--ip", "IPv4 address (e.g., 172.30.100.104)"),
    value("--ip6", "IPv6 address (e.g., 2001:db8::33)"),
    value("--ipc", "IPC mode to use"),
    many("-l --label", "Set meta data on a container"),
    many("--label-file", "Read in a line delimited file of labels"),
    value("--log-driver", "Logging driver for the container", "json-file"),
    many("--log-opt", "Log driver options"),
    value("--mac-address", "Container MAC address (e.g., 92:d0:c6:0a:29:33)"),
    value("-m --memory", "Memory limit", metavar="bytes"),
    value("--memory-reservation", "Memory soft limit", metavar="bytes"),
    value("--memory-swap", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap", metavar="bytes"),
    value("--memory-swappiness", "Tune container memory swappiness (0 to 100)", metavar="int"),
    many("--mount", "Attach a filesystem mount to the container", "mount"),
    value("--name", "Assign a name to the container"),
    value("--net --network", "Connect a container to a network", "bridge", "network"),
    many("--net-alias --network-alias", "Add network-scoped alias for the container"),
    switch("--no-healthcheck", "Disable any container-specified HEALTHCHECK"),
    switch("--oom-kill-disable", "Disable OOM Killer"),
    value("--oom-score-adj", "Tune host's OOM preferences (-1000 to 1000)", metavar="int"),
    value("--pid", "PID namespace to use"),
    value("--pids-limit", "Tune container pids limit (set -1 for unlimited)", metavar="int"),
    value("--platform", "Set platform if the image is for several"),
    switch("--privileged", "Give extended privileges to this container"),
    many("-p --publish", "Publish a container's port(s) to the host"),
    switch("-P --publish-all", "Publish all exposed ports to random ports"),
    value("--pull", "Pull image before running (always|missing|never)", "missing"),
    switch("-q --quiet", "Suppress the pull output"),
    switch("--read-only", "Mount the container's root filesystem as read only"),
    value("--restart", "Restart policy to apply when a container exits", "no"),
    switch("--rm", "Automatically remove the container and its associated anonymous volumes when it exits"),
    many("--security-opt", "Security Options"),
    value("--shm-size", "Size of /dev/shm", metavar="bytes"),
    value("--stop-signal", "Signal to stop the container"),
    value("--stop-timeout", "Timeout (in seconds) to stop a container", metavar="int"),
    many("--sysctl", "Sysctl options", "map"),
    many("--tmpfs", "Mount a tmpfs directory"),
    switch("-t --tty", "Allocate a pseudo-TTY"),
    many("--ulimit", "Ulimit options", "ulimit"),
    value("-u --user", "Username or UID (format: <name|uid>[:<group|gid>])"),
    value("--userns", "User namespace to use"),
    value("--uts", "UTS namespace to use"),
    many("-v --volume", "Bind mount a volume"),
    value("-w --workdir", "Working directory inside the container"),
    *missing(
        "--blkio-weight-device", "--cpu-count", "--cpu-percent", "--cpu-rt-period", "--cpu-rt-runtime",
        "--device-read-bps", "--device-read-iops", "--device-write-bps", "--device-write-iops",
        "--disable-content-trust", "--gpus", "--health-cmd", "--health-interval", "--health-retries",
        "--health-start-interval", "--health-start-period", "--health-timeout", "--isolation", "--kernel-memory",
        "--link", "--link-local-ip", "--runtime", "--storage-opt", "--use-api-socket", "--volume-driver",
        "--volumes-from",
    ),
)  # fmt: skip


def container_config(options: Options) -> ContainerConfig:
    """The typed request that a command line of `run` or `create` stands for."""
    image, *command = options.arguments
    return ContainerConfig(
        image=image,
        name=options.name,
        command=tuple(command) or None,
        entrypoint=_entrypoint(options),
        env=environment(options.env_file, options.env),
        working_dir=options.workdir,
        user=options.user,
        groups=tuple(options.group_add),
        hostname=options.hostname,
        domainname=options.domainname,
        labels=pairs(_lines_of(options.label_file) + options.label, "--label"),
        annotations=pairs(options.annotation, "--annotation", need_value=True),
        tty=options.tty,
        open_stdin=options.interactive,
        stop_signal=options.stop_signal,
        stop_timeout=_optional_integer(options, "stop_timeout"),
        mounts=_mounts(options),
        network=_network(options),
        limits=_limits(options),
        cap_add=tuple(options.cap_add),
        cap_drop=tuple(options.cap_drop),
        security_opt=tuple(_read_seccomp(text) for text in options.security_opt),
        privileged=options.privileged,
        read_only=options.read_only,
        init=options.init,
        sysctls=pairs(options.sysctl, "--sysctl", need_value=True),
        restart=parse_restart(options.restart),
        auto_remove=options.rm,
        pid_mode=options.pid,
        ipc_mode=options.ipc,
        uts_mode=options.uts,
        userns_mode=options.userns,
        cgroupns_mode=options.cgroupns,
        cgroup_parent=options.cgroup_parent,
        platform=options.platform,
        log=_log(options),
    )


def environment(files: list[str], entries: list[str]) -> tuple[str, ...]:
    """`-e` and `--env-file`: later entries win; a name alone takes this process's value, if it has one."""
    found: list[str] = []
    for entry in _lines_of(files) + list(entries):
        name, equals, _ = entry.partition("=")
        if not name:
            raise InvalidArgument(f"invalid environment variable: {entry[:40]!r}")
        if equals:
            found.append(entry)
        elif name in os.environ:
            found.append(f"{name}={os.environ[name]}")
        else:
            found.append(name)
    return tuple(found)


def _lines_of(files: list[str]) -> list[str]:
    lines: list[str] = []
    for path in files:
        try:
            with open(path, encoding="utf-8") as file:
                lines += [line.strip("\r\n").lstrip() for line in file]
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"read {path}: {_why(error)}") from None
    kept = [line for line in lines if line and not line.startswith("#")]
    for line in kept:
        if any(c.isspace() for c in line.partition("=")[0]):
            raise InvalidArgument(f"variable {line.partition('=')[0][:40]!r} contains whitespaces")
    return kept


def _entrypoint(options: Options) -> tuple[str, ...] | None:
    if "entrypoint" not in options.given:
        return None
    return (options.entrypoint,) if options.entrypoint else ()


def pairs(entries: list[str], flag: str, need_value: bool = False) -> dict[str, str]:
    """`name=value`, several times; the last of a name counts."""
    found: dict[str, str] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not name or (need_value and not equals):
            raise InvalidArgument(f"invalid argument {entry[:40]!r} for {flag}: want name=value")
        found[name] = text
    return found


def _mounts(options: Options) -> tuple[MountRequest, ...]:
    if not (options.volume or options.mount or options.tmpfs):
        return ()  # what reads them is not even imported
    from orlop.cli.docker.mounts import parse_mount, parse_tmpfs, parse_volume

    mounts = [parse_volume(text, os.getcwd()) for text in options.volume]
    mounts += [parse_mount(text) for text in options.mount]
    mounts += [parse_tmpfs(text) for text in options.tmpfs]
    targets: set[str] = set()
    for mount in mounts:
        if mount.target.rstrip("/") in targets:
            raise InvalidArgument(f"duplicate mount point: {mount.target}")
        targets.add(mount.target.rstrip("/"))
    return tuple(mounts)


def _network(options: Options) -> NetworkRequest:
    ports: list[PortBinding] = []
    if options.publish:
        from orlop.cli.docker.ports import parse_publish

        ports = [binding for text in options.publish for binding in parse_publish(text)]
    for text in options.add_host:
        if not text.replace("=", ":").partition(":")[2]:
            raise InvalidArgument(f"bad format for add-host: {text[:80]!r}: want name:address")
    return NetworkRequest(
        mode=options.network or "bridge",
        aliases=tuple(options.network_alias),
        address=options.ip,
        address6=options.ip6,
        mac_address=options.mac_address,
        ports=tuple(ports),
        publish_all=options.publish_all,
        expose=tuple(options.expose),
        dns=tuple(options.dns),
        dns_search=tuple(options.dns_search),
        dns_options=tuple(options.dns_option),
        extra_hosts=tuple(options.add_host),
    )


def _limits(options: Options) -> Limits:
    shm = _optional_size(options, "shm_size")
    return Limits(
        memory=_optional_size(options, "memory"),
        memory_swap=_optional_size(options, "memory_swap"),
        memory_reservation=_optional_size(options, "memory_reservation"),
        memory_swappiness=_optional_integer(options, "memory_swappiness"),
        oom_kill_disable=options.oom_kill_disable,
        oom_score_adj=_optional_integer(options, "oom_score_adj"),
        nano_cpus=_nano_cpus(options.cpus),
        cpu_shares=_optional_integer(options, "cpu_shares"),
        cpu_period=_optional_integer(options, "cpu_period"),
        cpu_quota=_optional_integer(options, "cpu_quota"),
        cpuset_cpus=options.cpuset_cpus,
        cpuset_mems=options.cpuset_mems,
        pids=_optional_integer(options, "pids_limit"),
        blkio_weight=_optional_integer(options, "blkio_weight"),
        shm_size=64 * MIB if shm is None else shm,
        ulimits=tuple(parse_ulimit(text) for text in options.ulimit),
        devices=tuple(parse_device(text) for text in options.device),
        device_cgroup_rules=tuple(options.device_cgroup_rule),
    )


def _optional_integer(options: Options, name: str) -> int | None:
    flag = "--" + name.replace("_", "-")
    return parse_integer(getattr(options, name), flag) if name in options.given else None


def _optional_size(options: Options, name: str) -> int | None:
    flag = "--" + name.replace("_", "-")
    return parse_size(getattr(options, name), flag) if name in options.given else None


def _nano_cpus(text: str) -> int | None:
    if not text:
        return None
    whole, _, fraction = text.partition(".")
    if not (whole + fraction).isascii() or not (whole + fraction).isdigit() or len(fraction) > 9:
        raise InvalidArgument(f"invalid argument {text[:40]!r} for --cpus: want a number such as 1.5")
    return int(whole or "0") * 10**9 + int(fraction.ljust(9, "0"))


def parse_ulimit(text: str) -> Ulimit:
    """`nofile=1024:2048`, `nproc=100`, `core=-1`."""
    name, equals, limits = text.partition("=")
    soft, colon, hard = limits.partition(":")
    if not name or not equals:
        raise InvalidArgument(f"invalid ulimit argument: {text[:80]}")
    numbers = [
        -1 if part == "unlimited" else parse_integer(part, "--ulimit") for part in (soft, hard if colon else soft)
    ]
    return Ulimit(name=name.lower(), soft=numbers[0], hard=numbers[1])


def parse_device(text: str) -> DeviceRequest:
    """`/dev/x`, `/dev/x:/dev/y`, `/dev/x:rw`, `/dev/x:/dev/y:r`."""
    parts = text.split(":")
    access = "rwm"
    if len(parts) > 1 and parts[-1] and not set(parts[-1]) - set("rwm"):
        access = parts.pop()
    if len(parts) > 2 or not parts[0] or (len(parts) == 2 and not parts[1].startswith("/")):
        raise InvalidArgument(f"invalid device specification: {text[:120]}")
    return DeviceRequest(source=parts[0], target=parts[-1], access=access)


def parse_restart(text: str) -> RestartPolicy:
    """`no`, `always`, `unless-stopped`, `on-failure[:retries]`."""
    name, colon, retries = text.partition(":")
    if name not in ("", "no", "always", "unless-stopped", "on-failure"):
        raise InvalidArgument(
            f"invalid restart policy: unknown policy {name[:40]!r}; use no, always, on-failure or unless-stopped"
        )
    if colon and name != "on-failure":
        raise InvalidArgument("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    count = parse_integer(retries, "--restart") if colon else 0
    if count < 0:
        raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
    return RestartPolicy(name=name or "no", max_retries=count)


def _log(options: Options) -> LogConfig:
    if options.log_driver not in ("json-file", "none"):
        raise Unimplemented(f"--log-driver {options.log_driver[:40]!r}: there are json-file and none")
    given = pairs(options.log_opt, "--log-opt", need_value=True)
    for name in given:
        if name not in ("max-size", "max-file"):
            raise Unimplemented(f"--log-opt {name[:40]!r}: there are max-size and max-file")
    size = parse_size(given["max-size"], "--log-opt max-size") if "max-size" in given else -1
    files = parse_integer(given.get("max-file", "1"), "--log-opt max-file")
    if files < 1 or (files > 1 and size <= 0):
        raise InvalidArgument("--log-opt max-file: want at least 1, and with more than one file a max-size too")
    return LogConfig(driver=options.log_driver, max_size=size, max_files=files)


def _read_seccomp(text: str) -> str:
    """`seccomp=FILE` is read here, where relative paths mean what the user thinks: the rest sees the JSON."""
    name, separator, path = text.replace(":", "=", 1).partition("=")
    if name != "seccomp" or path in ("unconfined", "builtin", ""):
        return name + separator + path
    try:
        with open(path, encoding="utf-8") as file:
            return "seccomp=" + file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"opening seccomp profile ({path}) failed: {_why(error)}") from None


def _why(error: OSError | UnicodeDecodeError) -> str:
    return str(error.strerror).lower() if isinstance(error, OSError) else "it is no UTF-8 text"
