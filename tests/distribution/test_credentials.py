from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orlop.distribution.credentials import Credential, DockerConfig, helper_for, server_key
from orlop.spec.errors import FailedPrecondition, InvalidArgument, NotFound, OrlopError

HELPER = """#!/bin/sh
echo "$1" >> {log}
cat > {input}
case "$1" in
  get) {get} ;;
esac
"""


@pytest.fixture
def config(tmp_path: Path) -> DockerConfig:
    return DockerConfig(tmp_path / "docker")


def write(config: DockerConfig, value: object) -> None:
    config.path.parent.mkdir(exist_ok=True)
    config.path.write_text(value if isinstance(value, str) else json.dumps(value))


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install `docker-credential-fake` whose `get` runs a piece of shell; gives (log, input)."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def install(get: str) -> tuple[Path, Path]:
        log, given_input = tmp_path / "log", tmp_path / "input"
        program = tmp_path / "docker-credential-fake"
        program.write_text(HELPER.format(log=log, input=given_input, get=get))
        program.chmod(0o755)
        return log, given_input

    return install


def test_no_file_is_no_credential(config: DockerConfig) -> None:
    assert config.get("r.example") is None
    assert not config.remove("r.example")


@pytest.mark.parametrize("key", ["r.example:5000", "https://r.example:5000", "http://r.example:5000/v1/"])
def test_an_entry_is_found_however_it_was_written(config: DockerConfig, key: str) -> None:
    write(config, {"auths": {key: {"auth": "YW5uOnNlOmNyZXQ="}}})
    assert config.get("r.example:5000") == Credential("ann", "se:cret")
    assert config.get("r.example") is None


def test_docker_hub_has_its_own_key(config: DockerConfig) -> None:
    config.put("docker.io", Credential("ann", "secret"))
    assert list(json.loads(config.path.read_text())["auths"]) == ["https://index.docker.io/v1/"]
    assert config.get("docker.io") == Credential("ann", "secret")
    assert config.remove("docker.io")


def test_what_the_file_says_besides_is_kept_and_nobody_else_may_read_it(config: DockerConfig) -> None:
    write(config, {"auths": {"a": {"auth": "eDp5"}}, "HttpHeaders": {"X": "1"}, "psFormat": "table"})
    config.path.chmod(0o644)
    assert config.put("r.example", Credential("ann", "secret")) == str(config.path)
    stored = json.loads(config.path.read_text())
    assert (stored["HttpHeaders"], stored["psFormat"], stored["auths"]["a"]) == ({"X": "1"}, "table", {"auth": "eDp5"})
    assert stored["auths"]["r.example"] == {"auth": "YW5uOnNlY3JldA=="}
    assert stat.S_IMODE(config.path.stat().st_mode) == 0o600
    assert [path.name for path in config.path.parent.iterdir()] == ["config.json"]


def test_an_identity_token_takes_the_passwords_place(config: DockerConfig) -> None:
    config.put("r.example", Credential("ann", "secret", identity_token="tok"))
    assert "secret" not in config.path.read_text()
    assert config.get("r.example") == Credential("ann", "", identity_token="tok")


def test_a_link_stays_a_link(config: DockerConfig, tmp_path: Path) -> None:
    config.path.parent.mkdir()
    (tmp_path / "real.json").write_text("{}")
    config.path.symlink_to(tmp_path / "real.json")
    config.put("r.example", Credential("ann", "secret"))
    assert config.path.is_symlink()
    assert "r.example" in (tmp_path / "real.json").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json: not valid JSON"),
        ('{"x":' + "[" * 200_000, "config.json: not valid JSON"),
        ('{"auths": []}', "config.json: $.auths: wrong type"),
        ('{"auths": {"r": {"auth": "s3cret-not-base64!"}}}', "auth is not base64"),
        ('{"auths": {"r": {"auth": "c2VjcmV0"}}}', "auth holds no colon"),
        ('{"auths": {"r": {"auth": 12345}}}', "wrong type"),
        ('{"credsStore": "../../bin/sh"}', "credential helper '../../bin/sh': bad name"),
        ('{"credHelpers": {"r": "a b"}}', "bad name"),
    ],
)
def test_a_wrong_file_is_refused_without_showing_secrets(config: DockerConfig, text: str, message: str) -> None:
    write(config, text)
    with pytest.raises(InvalidArgument) as caught:
        config.get("r")
    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.dictionaries(st.text(), st.text()).map(lambda d: json.dumps({"auths": d}).encode()))
def test_any_file_is_read_or_refused(config: DockerConfig, data: bytes) -> None:
    config.path.parent.mkdir(exist_ok=True)
    config.path.write_bytes(data)
    try:
        config.get("r")
    except OrlopError:
        pass


def test_a_helper_is_asked(config: DockerConfig, helper) -> None:
    log, given_input = helper("""echo '{"ServerURL":"r","Username":"ann","Secret":"s"}'""")
    write(config, {"credsStore": "fake", "auths": {"r": {"auth": "eDp5"}}})
    assert config.get("r") == Credential("ann", "s")
    assert (log.read_text(), given_input.read_text()) == ("get\n", "r")


def test_a_helper_with_an_identity_token(config: DockerConfig, helper) -> None:
    helper("""echo '{"Username":"<token>","Secret":"tok"}'""")
    write(config, {"credHelpers": {"r": "fake"}})
    assert config.get("r") == Credential(identity_token="tok")
    assert config.get("other") is None


def test_a_helper_that_has_nothing(config: DockerConfig, helper) -> None:
    helper("echo credentials not found in native keychain; exit 1")
    write(config, {"credsStore": "fake"})
    assert config.get("r") is None


@pytest.mark.parametrize(
    ("get", "message"),
    [
        ("echo the vault is locked; exit 1", "docker-credential-fake: get: the vault is locked"),
        ("exit 3", "docker-credential-fake: get: exit status 3"),
        ("echo nonsense", "docker-credential-fake: get: the answer is not what helpers say"),
    ],
)
def test_a_helper_that_fails_says_why(config: DockerConfig, helper, get: str, message: str) -> None:
    helper(get)
    write(config, {"credsStore": "fake"})
    with pytest.raises(FailedPrecondition, match=message):
        config.get("r")


def test_a_helper_that_is_not_there(config: DockerConfig) -> None:
    write(config, {"credsStore": "surely-not-installed"})
    with pytest.raises(NotFound, match="docker-credential-surely-not-installed is not in the path"):
        config.get("r")


def test_a_helper_keeps_and_forgets(config: DockerConfig, helper) -> None:
    log, given_input = helper("""echo '{"Username":"ann","Secret":"s"}'""")
    write(config, {"credsStore": "fake"})
    assert config.put("r", Credential("ann", "secret")) == "docker-credential-fake"
    assert json.loads(given_input.read_text()) == {"ServerURL": "r", "Username": "ann", "Secret": "secret"}
    assert "secret" not in config.path.read_text()
    assert config.remove("r")
    assert log.read_text().split() == ["store", "get", "erase"]


def test_the_directory_is_dockers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "x"))
    assert DockerConfig().path == tmp_path / "x" / "config.json"
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert DockerConfig().path == tmp_path / ".docker" / "config.json"


def test_names_of_hosts_and_helpers() -> None:
    assert server_key("registry-1.docker.io") == "https://index.docker.io/v1/"
    assert helper_for({"https://index.docker.io/v1/": "x"}, "y", "docker.io") == "x"
    assert helper_for({"a": "x"}, "y", "b") == "y"


def test_a_credential_does_not_show_its_secret() -> None:
    assert "secret" not in repr(Credential("ann", "secret", "secret", "secret"))
