"""The environment a process really gets: every variable once, and the user's home directory where it is not named."""

from __future__ import annotations

import os

import msgspec

from orlop.spec.runtime import Process


def with_home(process: Process, root: str) -> Process:
    """`process` with HOME from the container's own /etc/passwd, `/` where that does not tell, and of a variable that
    is there several times the last value alone.

    `root` is the root directory as seen from here; what is not there or can't be read has no users.
    """
    env = last_values(process.env)
    if not any(entry.startswith("HOME=") and len(entry) > 5 for entry in env):
        kept = tuple(entry for entry in env if not entry.startswith("HOME="))
        env = (*kept, f"HOME={_home(process.user.uid, root)}")
    return process if env == process.env else msgspec.structs.replace(process, env=env)


def last_values(env: tuple[str, ...]) -> tuple[str, ...]:
    """Each variable once, with the value that was given last: getenv(3) would find the first, a shell the last."""
    last = {entry.partition("=")[0]: index for index, entry in enumerate(env)}
    if len(last) == len(env):
        return env
    return tuple(env[index] for index in sorted(last.values()))


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
