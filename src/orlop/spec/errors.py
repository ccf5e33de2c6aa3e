"""The kinds of error that Orlop knows, and what each one is called on every interface.

A message is one line, lower case, without a period; it names the field or object and, where there is one, the
remedy. Code raises or logs, never both. The table at the end maps a kind to gRPC (google.rpc.Code), to HTTP as the
Docker Engine API uses it, and to a process exit code.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager


class OrlopError(Exception):
    """The root of every error that a user may see. `str(error)` is the line to print."""

    kind = "internal"

    @property
    def message(self) -> str:
        return str(self)


class Internal(OrlopError):
    """A defect in Orlop or a kernel that answered what it must not."""


class NotFound(OrlopError):
    """The named object does not exist."""

    kind = "not found"


class AlreadyExists(OrlopError):
    """The name is taken."""

    kind = "already exists"


class InvalidArgument(OrlopError, ValueError):
    """The input is wrong, whatever the state of the system."""

    kind = "invalid argument"


class FailedPrecondition(OrlopError):
    """The input is right, but the object is not in a state that allows it."""

    kind = "failed precondition"


class Unavailable(OrlopError):
    """Something outside did not answer; the same call may succeed later."""

    kind = "unavailable"


class OutOfRange(OrlopError):
    """A value lies beyond what is possible here."""

    kind = "out of range"


class Unimplemented(OrlopError):
    """A standard asks for it and Orlop does not do it yet. The message names the field or flag."""

    kind = "unimplemented"


class PermissionDenied(OrlopError):
    """The caller may not do this: no root, a missing capability, wrong credentials."""

    kind = "permission denied"


class ResourceExhausted(OrlopError):
    """No space, no address, no quota left; or a limit against hostile input was reached."""

    kind = "resource exhausted"


class DeadlineExceeded(OrlopError):
    """A time-out ran out."""

    kind = "deadline exceeded"


class Aborted(OrlopError):
    """Another operation came between; nothing was changed."""

    kind = "aborted"


class DataLoss(OrlopError):
    """Stored or received bytes are not what their digest says."""

    kind = "data loss"


class ContainerExit(OrlopError):
    """The process of the container itself could not start (`code` 126 or 127), as Docker reports it."""

    kind = "container exit"

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


# kind: (gRPC code, HTTP status, exit code)
CODES: dict[str, tuple[int, int, int]] = {
    "internal": (13, 500, 125),
    "not found": (5, 404, 125),
    "already exists": (6, 409, 125),
    "invalid argument": (3, 400, 125),
    "failed precondition": (9, 409, 125),
    "unavailable": (14, 503, 125),
    "out of range": (11, 400, 125),
    "unimplemented": (12, 501, 125),
    "permission denied": (7, 403, 125),
    "resource exhausted": (8, 507, 125),
    "deadline exceeded": (4, 504, 125),
    "aborted": (10, 409, 125),
    "data loss": (15, 500, 125),
    "container exit": (9, 400, 125),
}

# errno: the kind it belongs to when nothing better is known
_ERRNO: dict[int, type[OrlopError]] = {
    errno.ENOENT: NotFound,
    errno.EEXIST: AlreadyExists,
    errno.EPERM: PermissionDenied,
    errno.EACCES: PermissionDenied,
    errno.EROFS: PermissionDenied,
    errno.ENOSPC: ResourceExhausted,
    errno.EDQUOT: ResourceExhausted,
    errno.EMFILE: ResourceExhausted,
    errno.ENFILE: ResourceExhausted,
    errno.ENOMEM: ResourceExhausted,
    errno.EINVAL: InvalidArgument,
    errno.ENAMETOOLONG: InvalidArgument,
    errno.ENOTDIR: FailedPrecondition,
    errno.EISDIR: FailedPrecondition,
    errno.ELOOP: FailedPrecondition,
    errno.EBUSY: FailedPrecondition,
    errno.ENOSYS: Unimplemented,
    errno.ETIMEDOUT: DeadlineExceeded,
    errno.ECONNREFUSED: Unavailable,
}


def from_os(error: OSError, doing: str) -> OrlopError:
    """The `OrlopError` for an `OSError`; `doing` says what was tried, as in `mount /proc`."""
    where = f" {error.filename}" if error.filename else ""
    text = os.strerror(error.errno).lower() if error.errno else str(error)
    return _ERRNO.get(error.errno or 0, Internal)(f"{doing}{where}: {text}")


@contextmanager
def os_errors(doing: str) -> Iterator[None]:
    """Turn any `OSError` inside the block into an `OrlopError` that says what was being done."""
    try:
        yield
    except OSError as error:
        raise from_os(error, doing) from error


def exit_code(error: BaseException) -> int:
    """The process exit status for an error, as Docker's users expect it."""
    if isinstance(error, ContainerExit):
        return error.code
    return CODES[error.kind][2] if isinstance(error, OrlopError) else 125
