from __future__ import annotations

from pathlib import Path

import pytest

from orlop.cli.docker.container_flags import FLAGS, container_config, parse_device, parse_restart, parse_ulimit
from orlop.cli.flags import Flag, Syntax, UsageError, parse
from orlop.engine.config import ContainerConfig, DeviceRequest, Limits, LogConfig, RestartPolicy, Ulimit
from orlop.spec.errors import InvalidArgument, Unimplemented

SYNTAX = Syntax("IMAGE [COMMAND] [ARG...]", "", FLAGS, least=1, interspersed=False)


def config(*words: str) -> ContainerConfig:
    return container_config(parse("orlop run", SYNTAX, words))


def test_nothing_but_an_image_asks_for_nothing_else() -> None:
    assert config("busybox") == ContainerConfig(image="busybox")


def test_command_and_entrypoint() -> None:
    assert config("busybox", "ls", "-l").command == ("ls", "-l")
    assert config("--entrypoint", "/bin/x", "busybox").entrypoint == ("/bin/x",)
    assert config("--entrypoint", "", "busybox").entrypoint == ()
    assert config("busybox").entrypoint is None


def test_limits() -> None:
    limits = config(
        "-m", "64m", "--cpus", "1.5", "--pids-limit", "-1", "--shm-size", "1g", "--cpu-shares", "512", "x"
    ).limits
    assert limits == Limits(memory=64 << 20, nano_cpus=1_500_000_000, pids=-1, shm_size=1 << 30, cpu_shares=512)


@pytest.mark.parametrize(("text", "wanted"), [("0.5", 500_000_000), (".25", 250_000_000), ("2", 2_000_000_000)])
def test_cpus(text: str, wanted: int) -> None:
    assert config("--cpus", text, "x").limits.nano_cpus == wanted


@pytest.mark.parametrize("text", ["-1", "1e3", "x", "1.2.3", "0.1234567891"])
def test_wrong_cpus_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="--cpus"):
        config("--cpus", text, "x")


def test_environment_of_files_flags_and_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.delenv("NOWHERE", raising=False)
    file = tmp_path / "env"
    file.write_text("# a comment\nA=1\n\nHERE\n")
    found = config("--env-file", str(file), "-e", "B=2 3", "-e", "NOWHERE", "-e", "C=", "x").env
    assert found == ("A=1", "HERE=yes", "B=2 3", "NOWHERE", "C=")


def test_wrong_environment_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("A B=1\n")
    with pytest.raises(InvalidArgument, match="whitespaces"):
        config("--env-file", str(file), "x")
    with pytest.raises(InvalidArgument, match="no such file"):
        config("--env-file", str(tmp_path / "none"), "x")
    file.write_bytes(b"\xff\xfe=1\n")
    with pytest.raises(InvalidArgument, match="UTF-8"):
        config("--env-file", str(file), "x")
    with pytest.raises(InvalidArgument, match="environment variable"):
        config("-e", "=x", "x")


def test_labels() -> None:
    assert config("-l", "a=1", "--label", "b", "-l", "a=2=3", "x").labels == {"a": "2=3", "b": ""}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("nofile=1024", Ulimit(name="nofile", soft=1024, hard=1024)),
        ("core=-1:-1", Ulimit(name="core", soft=-1, hard=-1)),
        ("NPROC=10:20", Ulimit(name="nproc", soft=10, hard=20)),
        ("core=unlimited", Ulimit(name="core", soft=-1, hard=-1)),
    ],
)
def test_ulimits(text: str, wanted: Ulimit) -> None:
    assert parse_ulimit(text) == wanted


@pytest.mark.parametrize("text", ["nofile", "=1", "nofile=x", "nofile=1:2:3"])
def test_wrong_ulimits_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_ulimit(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/dev/x", ("/dev/x", "/dev/x", "rwm")),
        ("/dev/x:r", ("/dev/x", "/dev/x", "r")),
        ("/dev/x:/dev/y", ("/dev/x", "/dev/y", "rwm")),
        ("/dev/x:/dev/y:rw", ("/dev/x", "/dev/y", "rw")),
    ],
)
def test_devices(text: str, wanted: tuple[str, str, str]) -> None:
    assert parse_device(text) == DeviceRequest(source=wanted[0], target=wanted[1], access=wanted[2])


@pytest.mark.parametrize("text", ["", ":/dev/x", "/dev/x:y", "/a:/b:/c:/d"])
def test_wrong_devices_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_device(text)


def test_restart_policies() -> None:
    assert parse_restart("no") == RestartPolicy()
    assert parse_restart("on-failure:3") == RestartPolicy(name="on-failure", max_retries=3)
    for text in ("sometimes", "always:3", "on-failure:x", "on-failure:-1"):
        with pytest.raises(InvalidArgument):
            parse_restart(text)


def test_logging() -> None:
    found = config("--log-opt", "max-size=1m", "--log-opt", "max-file=3", "x").log
    assert found == LogConfig(max_size=1 << 20, max_files=3)
    with pytest.raises(Unimplemented, match="syslog"):
        config("--log-driver", "syslog", "x")
    with pytest.raises(Unimplemented, match="tag"):
        config("--log-opt", "tag=x", "x")
    with pytest.raises(InvalidArgument, match="max-file"):
        config("--log-opt", "max-file=3", "x")


def test_seccomp_profile_is_read_where_the_user_is(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text('{"defaultAction":"SCMP_ACT_ALLOW"}')
    assert config("--security-opt", f"seccomp={file}", "x").security_opt == (
        'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}',
    )
    assert config("--security-opt", "seccomp=unconfined", "x").security_opt == ("seccomp=unconfined",)
    with pytest.raises(UsageError, match="seccomp profile"):
        config("--security-opt", "seccomp=/nonexistent", "x")


def test_two_mounts_on_one_place_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="duplicate mount point"):
        config("-v", "vol:/data", "--tmpfs", "/data/", "x")


@pytest.mark.parametrize(
    "words",
    [
        ("--gpus", "all"),
        ("--link", "x"),
        ("--volumes-from", "x"),
        ("--health-cmd", "x"),
        ("--runtime", "x"),
        ("--storage-opt", "x"),
    ],
)
def test_flags_of_docker_that_are_not_there_yet_say_so(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=f"{words[0]} is not implemented yet"):
        config(*words, "x")


# what the command itself acts on; and no health check is ever run, so that none need be switched off
_ELSEWHERE = {"--cidfile", "--pull", "--quiet", "--no-healthcheck"}
_SAMPLES = {
    "--add-host": "a:1.2.3.4", "--annotation": "a=b", "--cpus": "1", "--cgroupns": "host", "--device": "/dev/null",
    "--env-file": "/dev/null", "--label-file": "/dev/null", "--log-driver": "none", "--log-opt": "max-size=1m",
    "--mount": "type=tmpfs,dst=/t", "--publish": "80", "--restart": "always", "--security-opt": "no-new-privileges",
    "--sysctl": "a=b", "--tmpfs": "/t", "--ulimit": "core=1", "--volume": "/t", "--network": "none", "--name": "x",
    "--memory": "64m", "--memory-swap": "64m", "--memory-reservation": "64m", "--shm-size": "1m",
}  # fmt: skip


@pytest.mark.parametrize("flag", [f for f in FLAGS if f.kind != "missing"], ids=lambda flag: flag.names[-1])
def test_no_flag_is_ignored(flag: Flag) -> None:
    name = flag.names[-1]
    words = (name,) if flag.kind == "bool" else (name, _SAMPLES.get(name, "1"))
    changed = config(*words, "x") != ContainerConfig(image="x")
    assert changed != (name in _ELSEWHERE | {"--env-file", "--label-file"})
