"""The user's home directory, for a process whose environment does not name it."""

from __future__ import annotations

import os

import msgspec

from orlop.spec.runtime import Process


def with_home(process: Process, root: str) -> Process:
    """`process` with HOME from the container's own /etc/passwd, `/` where that does not tell.

    `root` is the root directory as seen from here; what is not there or can't be read has no users.
    """
    if any(entry.startswith("HOME=") and len(entry) > 5 for entry in process.env):
        return process
    kept = tuple(entry for entry in process.env if not entry.startswith("HOME="))
    return msgspec.structs.replace(process, env=(*kept, f"HOME={_home(process.user.uid, root)}"))


def _home(uid: int, root: str) -> str:
    from orlop.sys.inroot import read_in_root

    try:
        directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return "/"
    try:
        return home_of(uid, read_in_root(directory, "etc/passwd").decode("utf-8", "replace"))
    except OSError:
        return "/"
    finally:
        os.close(directory)


def home_of(uid: int, passwd: str) -> str:
    """The directory of the first entry for `uid` (passwd(5))."""
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) >= 6 and fields[2] == str(uid) and fields[5].startswith("/") and "\0" not in fields[5]:
            return fields[5]
    return "/"
