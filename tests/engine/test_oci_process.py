from __future__ import annotations

from typing import Any

import pytest

from orlop.engine.config import ContainerConfig, ExecConfig, Ulimit
from orlop.engine.oci.process import arguments, environment, rlimit, working_directory
from orlop.engine.oci.spec import ContainerFacts, exec_process, runtime_spec
from orlop.engine.users import Identity
from orlop.spec.capabilities import NAMES
from orlop.spec.errors import InvalidArgument
from orlop.spec.image import ContainerDefaults, ImageConfig, RootFS
from orlop.spec.runtime import Process, Rlimit

BOTH = ContainerDefaults(entrypoint=("/entry",), cmd=("serve",))


@pytest.mark.parametrize(
    ("asked", "image", "want"),
    [
        ({}, BOTH, ("/entry", "serve")),
        ({"command": ("sh", "-c")}, BOTH, ("/entry", "sh", "-c")),
        ({"entrypoint": ("/other",)}, BOTH, ("/other",)),
        ({"entrypoint": ("/other",), "command": ("x",)}, BOTH, ("/other", "x")),
        ({"entrypoint": (), "command": ("x",)}, BOTH, ("x",)),
        ({}, ContainerDefaults(cmd=("sh",)), ("sh",)),
        ({}, ContainerDefaults(entrypoint=("/entry",)), ("/entry",)),
        ({"command": ()}, BOTH, ("/entry", "serve")),
    ],
)
def test_entry_point_and_command(asked: dict[str, Any], image: ContainerDefaults, want: tuple[str, ...]) -> None:
    assert arguments(ContainerConfig(image="x", **asked), image) == want


@pytest.mark.parametrize("asked", [{}, {"entrypoint": ()}])
def test_nothing_to_run_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=r"^no command specified$"):
        arguments(ContainerConfig(image="x", **asked), ContainerDefaults(cmd=("sh",) if asked else None))


def env(*entries: str, image: tuple[str, ...] = (), tty: bool = False) -> tuple[str, ...]:
    return environment(
        ContainerConfig(image="x", env=entries, tty=tty), ContainerDefaults(env=image), "host", "/home/u"
    )


def test_environment_has_defaults_then_the_request_then_the_image() -> None:
    assert env("B=2", image=("A=1", "B=0"), tty=True) == (
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME=host",
        "TERM=xterm",
        "B=2",
        "A=1",
        "HOME=/home/u",
    )


def test_what_is_given_replaces_a_default_in_its_place() -> None:
    assert env("TERM=vt100", "HOSTNAME=x", image=("PATH=/bin",), tty=True)[:3] == (
        "PATH=/bin",
        "HOSTNAME=x",
        "TERM=vt100",
    )


def test_a_name_alone_takes_the_images_variable_and_the_default_away() -> None:
    assert env("A", "PATH", image=("A=1", "PATH=/bin")) == ("HOSTNAME=host", "HOME=/home/u")


def test_a_given_home_is_kept_and_an_empty_one_is_filled() -> None:
    assert env("HOME=/data")[0] == "HOME=/data"
    assert env("HOME=/data").count("HOME=/data") == 1
    assert env("HOME=")[-1] == "HOME=/home/u"


@pytest.mark.parametrize("entry", ["=x", "A=\0", ""])
def test_bad_variables_are_refused(entry: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid environment variable"):
        env(entry)


@pytest.mark.parametrize(("path", "want"), [("", "/"), ("/a/../b/", "/b"), ("//x", "/x"), ("/", "/")])
def test_working_directories_are_cleaned(path: str, want: str) -> None:
    assert working_directory(path) == want


def test_a_relative_working_directory_is_refused() -> None:
    with pytest.raises(
        InvalidArgument, match="the working directory 'app' is invalid, it needs to be an absolute path"
    ):
        working_directory("app")


def test_ulimits() -> None:
    assert rlimit(Ulimit(name="nofile", soft=10, hard=20)) == Rlimit(type="RLIMIT_NOFILE", soft=10, hard=20)
    assert rlimit(Ulimit(name="core", soft=0, hard=-1)).hard == (1 << 64) - 1


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (
            Ulimit(name="nofile", soft=20, hard=10),
            "ulimit soft limit must be less than or equal to hard limit: 20 > 10",
        ),
        (Ulimit(name="nofile", soft=-1, hard=10), "soft limit must be less"),
        (Ulimit(name="wings", soft=1, hard=1), "invalid ulimit type: wings"),
        (Ulimit(name="cpu", soft=-2, hard=1), "want -1 or a number"),
    ],
)
def test_wrong_ulimits_are_refused(limit: Ulimit, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        rlimit(limit)


IMAGE = ImageConfig(rootfs=RootFS(type="layers", diff_ids=()), config=BOTH)


def started(identity: Identity | None = None, init_path: str = "/i", **asked: Any) -> Process:
    facts = ContainerFacts(id="ab" * 32, identity=identity or Identity(groups=(0,)), init_path=init_path)
    made = runtime_spec(ContainerConfig(image="x", **asked), IMAGE, facts).process
    assert made
    return made


def test_another_user_than_root_has_its_capabilities_in_the_bounding_set_only() -> None:
    process = started(Identity(uid=5, gid=6, groups=(6, 7), home="/u"))
    assert (process.user.uid, process.user.gid, process.user.additional_gids) == (5, 6, (6, 7))
    assert process.capabilities
    assert process.capabilities.bounding
    assert process.capabilities.effective == process.capabilities.permitted == process.capabilities.ambient == ()


def test_init_stands_before_the_command() -> None:
    assert started(init=True).args == ("/sbin/docker-init", "--", "/entry", "serve")
    assert started(init=True, pid_mode="host").args == ("/entry", "serve")


def test_init_that_is_not_installed_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="--init: the init program is not installed"):
        started(init=True, init_path="")


def executed(identity: Identity | None = None, asked: dict[str, Any] | None = None, **config: Any) -> Process:
    facts = ContainerFacts(id="ab" * 32, identity=Identity(home="/root"))
    spec = runtime_spec(ContainerConfig(image="x", **(asked or {})), IMAGE, facts)
    return exec_process(spec, ExecConfig(command=("id",), **config), identity)


def test_exec_takes_after_the_container() -> None:
    process = executed(asked={"working_dir": "/w", "env": ("A=1",), "security_opt": ("no-new-privileges",)})
    assert process.args == ("id",)
    assert process.cwd == "/w"
    assert "A=1" in process.env
    assert process.env[-1] == "HOME=/root"
    assert process.no_new_privileges
    assert not process.terminal


def test_exec_with_a_terminal_has_term() -> None:
    assert "TERM=xterm" in executed(tty=True).env
    assert not any(entry.startswith("TERM=") for entry in executed().env)


def test_exec_as_another_user_has_that_users_home_and_no_effective_capabilities() -> None:
    process = executed(Identity(uid=5, gid=5, home="/five"))
    assert "HOME=/five" in process.env
    assert "HOME=/root" not in process.env
    assert process.user.uid == 5
    assert process.capabilities
    assert process.capabilities.effective == ()


def test_exec_as_another_user_keeps_a_home_that_was_given() -> None:
    assert "HOME=/given" in executed(Identity(uid=5, home="/five"), {"env": ("HOME=/given",)}).env
    assert "HOME=/mine" in executed(Identity(uid=5, home="/five"), env=("HOME=/mine",)).env


def test_exec_privileged_has_all_capabilities() -> None:
    process = executed(privileged=True)
    assert process.capabilities
    assert process.capabilities.effective == NAMES


def test_exec_without_a_command_is_refused() -> None:
    facts = ContainerFacts(id="ab" * 32)
    spec = runtime_spec(ContainerConfig(image="x"), IMAGE, facts)
    with pytest.raises(InvalidArgument, match="no command specified"):
        exec_process(spec, ExecConfig(command=()), None)
