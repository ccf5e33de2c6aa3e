"""The security part of a configuration: --security-opt, capabilities, seccomp, hidden and read-only paths. Pure."""

from __future__ import annotations

import msgspec

from orlop.engine.config import ContainerConfig
from orlop.engine.oci.facts import ContainerFacts
from orlop.seccomp.default import default_profile
from orlop.spec import capabilities
from orlop.spec.errors import InvalidArgument, Unimplemented
from orlop.spec.hidden import MASKED_PATHS, READONLY_PATHS
from orlop.spec.runtime import Seccomp


class SecurityOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`seccomp`: empty for the default, `unconfined`, or the JSON of a profile."""

    no_new_privileges: bool = False
    seccomp: str = ""
    system_paths_unconfined: bool = False
    writable_cgroups: bool = False


def options(config: ContainerConfig) -> SecurityOptions:
    """Read `--security-opt` entries: `key=value`, formerly `key:value`; no-new-privileges may stand alone."""
    result = SecurityOptions()
    for entry in config.security_opt:
        key, separator, value = _split(entry)
        if key in ("no-new-privileges", "writable-cgroups"):
            field = key.replace("-", "_")
            result = msgspec.structs.replace(result, **{field: _truth(entry, value, bool(separator))})
        elif key == "seccomp":
            result = msgspec.structs.replace(result, seccomp=_seccomp_option(value))
        elif entry == "systempaths=unconfined":
            result = msgspec.structs.replace(result, system_paths_unconfined=True)
        elif entry not in ("apparmor=unconfined", "apparmor:unconfined", "label=disable", "label:disable"):
            _refuse(entry, key)
    return result


def _split(entry: str) -> tuple[str, str, str]:
    """At the first `=`, or for the old form at the first `:`, whichever comes first (JSON has colons in it)."""
    positions = [at for at in (entry.find("="), entry.find(":")) if at >= 0]
    if not positions:
        return entry, "", ""
    at = min(positions)
    return entry[:at], entry[at], entry[at + 1 :]


def _truth(entry: str, value: str, given: bool) -> bool:
    if not given or value.lower() in ("1", "t", "true"):
        return True
    if value.lower() in ("0", "f", "false"):
        return False
    raise InvalidArgument(f"invalid --security-opt: {entry[:64]!r}")


def _seccomp_option(value: str) -> str:
    if value in ("", "builtin"):
        return ""
    if value == "unconfined" or value.lstrip().startswith("{"):
        return value
    raise InvalidArgument(
        f"invalid --security-opt: seccomp: {value[:64]!r} is not a profile; want its JSON or unconfined"
    )


def _refuse(entry: str, key: str) -> None:
    if key in ("apparmor", "label"):
        raise Unimplemented(
            f"--security-opt {entry[:64]!r}: {key} is not supported; there is {key}=unconfined or disable"
        )
    raise InvalidArgument(f"invalid --security-opt: {entry[:64]!r}")


def held_capabilities(config: ContainerConfig, facts: ContainerFacts) -> tuple[str, ...]:
    return capabilities.resolve(config.cap_add, config.cap_drop, config.privileged, facts.available_capabilities)


def seccomp(config: ContainerConfig, facts: ContainerFacts, held: tuple[str, ...]) -> Seccomp | None:
    """The rules for a container with these capabilities; a privileged one has none unless it asks for some."""
    wanted = options(config).seccomp
    if wanted == "unconfined" or (config.privileged and not wanted):
        return None
    if wanted:
        from orlop.seccomp.profile import parse_profile

        return parse_profile(wanted.encode(), held, facts.machine, facts.kernel)
    return default_profile(held, facts.machine, facts.kernel)


def masked_paths(config: ContainerConfig, facts: ContainerFacts) -> tuple[str, ...]:
    if config.pod is not None and config.pod.masked_paths is not None:
        return () if config.privileged else config.pod.masked_paths
    if config.privileged or options(config).system_paths_unconfined:
        return ()
    # how hot a processor runs tells one container what another does
    throttling = (f"/sys/devices/system/cpu/cpu{number}/thermal_throttle" for number in range(facts.processors))
    return (*MASKED_PATHS, *throttling)


def readonly_paths(config: ContainerConfig) -> tuple[str, ...]:
    if config.pod is not None and config.pod.readonly_paths is not None:
        return () if config.privileged else config.pod.readonly_paths
    return () if config.privileged or options(config).system_paths_unconfined else READONLY_PATHS


def mount_label(config: ContainerConfig) -> str:
    """The label of files in the container's own mounts, which its process may work on: of its user and level."""
    if config.pod is None or not config.pod.selinux:
        return ""
    user, _, __, level = config.pod.selinux.split(":", 3)
    return f"{user}:object_r:container_file_t:{level}"
