"""Seccomp, AppArmor and SELinux as the interface asks for them, whichever of its two forms. Pure."""

from __future__ import annotations

import msgspec

from orlop._stubs.cri import api_pb2 as api
from orlop.spec.errors import FailedPrecondition, InvalidArgument

Context = api.LinuxSandboxSecurityContext | api.LinuxContainerSecurityContext

APPARMOR_DEFAULT = "orlop-default"  # the profile that RuntimeDefault means, for whoever has loaded one
_LABEL = ("system_u", "system_r", "container_t", "s0")  # of what a request leaves open


class Profiles(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for: empty for nothing, `default`, `unconfined`, or `localhost:NAME`; an SELinux label."""

    seccomp: str = ""
    apparmor: str = ""
    selinux: str = ""


def profiles(security: Context) -> Profiles:
    """Raises InvalidArgument for what is no profile or no label."""
    old = security.apparmor_profile if isinstance(security, api.LinuxContainerSecurityContext) else ""
    return Profiles(
        seccomp=_asked(security, "seccomp", security.seccomp_profile_path, "seccomp_profile_path"),
        apparmor=_asked(security, "apparmor", old, "apparmor_profile"),
        selinux=_label(security.selinux_options) if security.HasField("selinux_options") else "",
    )


def _asked(security: Context, field: str, old: str, old_field: str) -> str:
    if not security.HasField(field):
        return _old_form(old, old_field)
    chosen: api.SecurityProfile = getattr(security, field)
    if chosen.profile_type == api.SecurityProfile.RuntimeDefault:
        return "default"
    if chosen.profile_type == api.SecurityProfile.Unconfined:
        return "unconfined"
    if chosen.profile_type != api.SecurityProfile.Localhost:
        raise InvalidArgument(f"{field}.profile_type: {chosen.profile_type} is not known")
    return _localhost(chosen.localhost_ref, f"{field}.localhost_ref")


def _old_form(text: str, field: str) -> str:
    if text in ("runtime/default", "docker/default"):
        return "default"
    if text.startswith("localhost/"):
        return _localhost(text.removeprefix("localhost/"), field)
    if text in ("", "unconfined"):
        return text
    raise InvalidArgument(f"{field} {text[:64]!r}: not a profile")


def _localhost(name: str, where: str) -> str:
    """The deprecated form of a name may stand in the new field as well."""
    name = name.removeprefix("localhost/") if not name.startswith("/") else name
    if not name or not name.isprintable():
        raise InvalidArgument(f"{where} {name[:64]!r}: names no profile")
    return f"localhost:{name}"


def _label(options: api.SELinuxOption) -> str:
    given = (options.user, options.role, options.type, options.level)
    for name, value in zip(("user", "role", "type", "level"), given, strict=True):
        # only levels have colons and commas in them: `s0-s0:c0,c1023`
        allowed = "_-." if name != "level" else "_-.:,"
        if any(not (c.isascii() and (c.isalnum() or c in allowed)) for c in value):
            raise InvalidArgument(f"selinux_options.{name} {value[:64]!r}: not a part of a label")
    return ":".join(value or default for value, default in zip(given, _LABEL, strict=True)) if any(given) else ""


def apparmor(asked: str, privileged: bool, active: bool, loaded: frozenset[str]) -> str:
    """The profile for the process, empty for none. `loaded` are the names of those that the kernel has.

    Without AppArmor what every node has by default is let pass, and only what is asked for by name is refused.
    """
    name = asked.removeprefix("localhost:")
    local = name != asked
    if not active:
        if local:
            raise FailedPrecondition(f"apparmor: profile {name[:64]!r} can't be used: this host has no AppArmor")
        return ""
    if local:
        if name not in loaded:
            raise FailedPrecondition(f"apparmor: profile {name[:64]!r} is not loaded on this host")
        return name
    if asked == "unconfined":
        return "unconfined"
    if asked == "default" and not privileged:
        if APPARMOR_DEFAULT not in loaded:
            raise FailedPrecondition(
                f"apparmor: profile {APPARMOR_DEFAULT!r}, which RuntimeDefault means, is not loaded on this host;"
                " load one of that name with apparmor_parser, or ask for Unconfined"
            )
        return APPARMOR_DEFAULT
    return ""


def selinux(asked: str, active: bool) -> str:
    """The label for the process: labels mean nothing to a host without SELinux."""
    return asked if active else ""
