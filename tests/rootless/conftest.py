"""An ordinary user of the test's own, with a copy of the program that everybody may read."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.harness import SLOWER, wait_for
from tests.rootless.ids import COUNT, FIRST, GID, UID

SOURCE = Path(__file__).parents[2] / "src"
APPLETS = "sh ls cat echo id stat readlink sleep mount true touch hostname grep tty stty mkdir test kill ulimit".split()
ACCOUNTS = {
    "passwd": f"root:x:0:0::/root:/bin/sh\nord:x:{UID}:{GID}::/:/bin/sh\n",
    "group": f"root:x:0:\nord:x:{GID}:\n",
    "subuid": f"ord:{FIRST}:{COUNT}\n",
    "subgid": f"ord:{FIRST}:{COUNT}\n",
}


Kind = TypeVar("Kind", bound="User")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)


@pytest.fixture(scope="session")
def program() -> Iterator[Path]:
    """The packages that orlop-runtime imports, for PYTHONPATH."""
    directory = Path(tempfile.mkdtemp(prefix="orlop-program-"))
    directory.chmod(0o755)
    found = importlib.util.find_spec("msgspec")
    assert found is not None
    assert found.submodule_search_locations
    shutil.copytree(SOURCE / "orlop", directory / "orlop", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(found.submodule_search_locations[0], directory / "msgspec")
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


class User:
    """The user with the id UID: its own runtime directory, a bundle, and the command line."""

    def __init__(self, directory: Path, program: Path) -> None:
        directory.chmod(0o755)
        self.directory = directory
        self.program = program
        self.bundle = directory / "bundle"
        self.runtime_directory = directory / "run"
        self.prefix = "u" + uuid.uuid4().hex[:6]
        self.subordinate = False
        (self.bundle / "rootfs/bin").mkdir(parents=True)
        for name in ("proc", "sys", "dev", "tmp", "etc"):
            (self.bundle / "rootfs" / name).mkdir()
        shutil.copy("/bin/busybox", self.bundle / "rootfs/bin/busybox")
        for name in APPLETS:
            (self.bundle / "rootfs/bin" / name).symlink_to("busybox")
        self.runtime_directory.mkdir(mode=0o700)
        for path in (directory, *directory.rglob("*")):
            os.lchown(path, UID, GID)
        (self.bundle / "rootfs/tmp").chmod(0o1777)
        accounts = directory / "accounts"
        accounts.mkdir()
        for name, text in ACCOUNTS.items():
            (accounts / name).write_text(text)

    def command(self, *words: str) -> list[str]:
        """orlop-runtime as it is called once one is the user."""
        return [os.path.realpath(sys.executable), "-S", "-m", "orlop.cli.runtime", *words]

    def as_user(self, *words: str) -> list[str]:
        """The words as a command of the user's; root calls it. With `subordinate`, the user is known to this system."""
        become = ["/usr/bin/setpriv", "--reuid", str(UID), "--regid", str(GID), "--clear-groups", *words]
        if not self.subordinate:
            return become
        binds = "".join(f"mount --bind {self.directory}/accounts/{name} /etc/{name}; " for name in ACCOUNTS)
        script = f'touch /etc/subuid /etc/subgid; {binds} exec "$@"'
        return ["/usr/bin/unshare", "-m", "--propagation", "private", "sh", "-ec", script, "sh", *become]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "XDG_RUNTIME_DIR": str(self.runtime_directory),
            "PYTHONPATH": str(self.program),
            "PYTHONDONTWRITEBYTECODE": "1",
            "USER": "ord",
        }

    def do(
        self, *words: str, code: int | None = 0, env: dict[str, str] | None = None, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the user. The streams are files, which a detached container keeps."""
        paths = [self.directory / name for name in ("out", "err")]
        with paths[0].open("w") as out, paths[1].open("w") as err:
            done = subprocess.run(
                self.as_user(*words),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self.environment | (env or {}),
                cwd=self.bundle,
                timeout=60 * SLOWER,
                **more,
            )
        result = subprocess.CompletedProcess(words, done.returncode, paths[0].read_text(), paths[1].read_text())
        assert "Traceback" not in result.stderr, result.stderr
        assert "internal error" not in result.stderr, result.stderr
        assert code is None or result.returncode == code, f"{words}: {result}"
        return result

    def __call__(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.do(*self.command(*words), **more)

    def out(self, *words: str, **more: Any) -> str:
        return self(*words, **more).stdout.strip()

    def refused(self, *words: str, **more: Any) -> str:
        """A command that must fail with one line; the line without the program's name."""
        done = self(*words, code=255 if words[0] == "exec" else 1, **more)
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.strip().removeprefix("orlop-runtime: ")

    def id(self, name: str = "c") -> str:
        return f"{self.prefix}-{name}"

    def configure(self, *args: str, **changes: Any) -> dict[str, Any]:
        """What `spec --rootless` writes, with `args` as its command. `linux__resources=...` changes below `linux`."""
        (self.bundle / "config.json").unlink(missing_ok=True)
        self("spec", "--rootless")
        spec: dict[str, Any] = json.loads((self.bundle / "config.json").read_text())
        spec["process"] |= {"terminal": False, "args": list(args)}
        spec["root"]["readonly"] = False
        for key, value in changes.items():
            *path, last = key.split("__")
            place = spec
            for part in path:
                place = place.setdefault(part, {})
            place[last] = value
        self.write(spec)
        return spec

    def write(self, spec: dict[str, Any]) -> None:
        path = self.bundle / "config.json"
        path.write_text(json.dumps(spec))
        path.chmod(0o644)

    def map_subordinate(self, **changes: Any) -> dict[str, Any]:
        """For `configure`: root is the user, the ids above are subordinate ones."""
        self.subordinate = True
        maps = [{"containerID": 0, "hostID": UID, "size": 1}, {"containerID": 1, "hostID": FIRST, "size": COUNT}]
        return {"linux__uidMappings": maps, "linux__gidMappings": maps} | changes

    def run(self, *args: str, **changes: Any) -> str:
        self.configure(*args, **changes)
        return self.out("run", self.id())

    def sh(self, script: str, **changes: Any) -> str:
        return self.run("sh", "-c", script, **changes)

    def up(self, *args: str, **changes: Any) -> str:
        """A container that runs in the background."""
        self.configure(*(args or ("sleep", "1000")), **changes)
        self("run", "-d", self.id())
        return self.id()

    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.out("state", self.id())))

    def identifiers(self) -> list[str]:
        return self.out("list", "-q").split()


@pytest.fixture
def user(program: Path) -> Iterator[User]:
    with a_user(program, User) as found:
        yield found


@contextmanager
def a_user(program: Path, kind: type[Kind], spared: Container[int] = ()) -> Iterator[Kind]:
    """Of a test nothing is left: no container, process (but the `spared`), mount or group. What a test that failed has
    left is removed."""
    found = kind(Path(tempfile.mkdtemp(prefix="orlop-user-")), program)
    directory = found.directory
    try:
        yield found
        for identifier in found.identifiers():
            found("delete", "--force", identifier)
        state = found.runtime_directory / "orlop-runtime"
        assert not state.exists() or set(os.listdir(state)) <= {".seccomp"}
        assert str(directory) not in Path("/proc/self/mountinfo").read_text()
        wait_for(lambda: not _left(spared), "the end of all processes")
        assert not _groups(found.prefix)
    finally:
        for pid in _left(spared):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not _left(spared), "the end of what was killed")
        for path in reversed(_groups(found.prefix)):
            with contextlib.suppress(OSError):
                os.rmdir(path)
        shutil.rmtree(directory)


def _groups(prefix: str) -> list[str]:
    """Control groups with the prefix in their names, and those below; os.walk passes over what others remove."""
    return [path for path, _, _ in os.walk("/sys/fs/cgroup") if prefix in path]


def _left(spared: Container[int]) -> list[int]:
    """Processes of the user and of the subordinate ids, beside those that are spared."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            owner = path.stat().st_uid if path.name.isdigit() and int(path.name) not in spared else 0
            if (owner == UID or FIRST <= owner < FIRST + COUNT) and path.joinpath("cmdline").read_bytes():
                found.append(int(path.name))  # a zombie has no command line
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
