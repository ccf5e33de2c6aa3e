"""Platforms: operating system, architecture and variant (image-spec, image-index.md), and which one fits here."""

from __future__ import annotations

import re

import msgspec

from orlop.spec.errors import InvalidArgument

_PART = r"[A-Za-z0-9_.-]+"
_ARCH = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
}
_DEFAULT_VARIANT = {"arm64": "v8", "arm": "v7", "amd64": "v1"}


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """An operating system and processor, as in `linux/arm64/v8`. Empty strings mean not given."""

    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part) or "unknown"

    def normalized(self) -> Platform:
        """The same platform under the names that images use: x86_64 is amd64, arm64/v8 is arm64."""
        architecture, variant = _ARCH.get(self.architecture.lower(), (self.architecture.lower(), ""))
        variant = (self.variant or variant).lower()
        if variant and variant[0].isdigit():
            variant = "v" + variant
        if architecture == "arm" and not variant:
            variant = "v7"
        if architecture in ("arm64", "amd64") and variant == _DEFAULT_VARIANT[architecture]:
            variant = ""
        return msgspec.structs.replace(
            self, os=(self.os or "linux").lower(), architecture=architecture, variant=variant
        )


def parse_platform(text: str, host: Platform) -> Platform:
    """Read `os`, `arch`, `os/arch` or `os/arch/variant`; what is left out comes from `host`."""
    parts = text.split("/")
    if not 1 <= len(parts) <= 3 or not all(re.fullmatch(_PART, part) for part in parts):
        raise InvalidArgument(f"platform {text!r}: want os/architecture[/variant], such as linux/arm64/v8")
    if len(parts) == 1:
        if parts[0].lower() in ("linux", "windows", "darwin", "freebsd"):
            return Platform(os=parts[0].lower(), architecture=host.architecture, variant=host.variant).normalized()
        return Platform(os=host.os, architecture=parts[0]).normalized()
    return Platform(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) == 3 else "").normalized()


def host_platform(machine: str) -> Platform:
    """The platform of a Linux host whose `uname -m` is `machine`."""
    return Platform(os="linux", architecture=machine).normalized()


def rank(candidate: Platform, wanted: Platform) -> int | None:
    """How well an image for `candidate` runs where `wanted` is asked for: 0 is best, None is not at all.

    A processor runs the images of its own older variants (arm v7 runs v6 and v5, amd64 v3 runs v2 and v1), and
    arm64 may fall back to arm.
    """
    have, want = candidate.normalized(), wanted.normalized()
    if have.os != want.os:
        return None
    if have.architecture == want.architecture:
        return _variant_rank(have, want)
    if want.architecture == "arm64" and have.architecture == "arm":
        level = _level(have)
        return 100 - level if level <= 8 else None
    return None


def _variant_rank(have: Platform, want: Platform) -> int | None:
    if have.variant == want.variant:
        return 0
    have_level, want_level = _level(have), _level(want)
    return want_level - have_level if 0 < have_level <= want_level else None


def _level(platform: Platform) -> int:
    variant = platform.variant or _DEFAULT_VARIANT.get(platform.architecture, "")
    return int(variant[1:]) if variant[:1] == "v" and variant[1:].isdigit() else 0
