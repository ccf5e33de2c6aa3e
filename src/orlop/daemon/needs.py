"""What the daemon needs beyond the library's own dependencies."""

from __future__ import annotations

from importlib.util import find_spec

from orlop.spec.errors import FailedPrecondition


def check() -> None:
    """Raise FailedPrecondition with the remedy where a package is missing."""
    missing = [name for name in ("grpc", "google.protobuf", "h11", "wsproto", "yaml") if not _there(name)]
    if missing:
        raise FailedPrecondition(
            f"serve: {', '.join(missing)} not installed: `pip install orlop[daemon]`, or serve with --no-cri"
        )


def _there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
