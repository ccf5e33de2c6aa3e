from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.distribution.hosts import Endpoint, Hosts, Tls, endpoint_of, is_insecure, parse_hosts
from orlop.spec.errors import InvalidArgument

SERVER = endpoint_of("registry-1.docker.io")


def read(text: str) -> tuple[Endpoint, ...]:
    return parse_hosts(text, "docker.io", SERVER, Path("/certs"))


def test_a_registry_without_a_directory(tmp_path: Path) -> None:
    hosts = Hosts((tmp_path,))
    assert hosts.endpoints("docker.io") == (Endpoint("https", "registry-1.docker.io"),)
    assert hosts.endpoints("ghcr.io") == (Endpoint("https", "ghcr.io"),)
    local = hosts.endpoints("localhost:5000")[0]
    assert (local.scheme, local.plain_fallback, local.tls.skip_verify) == ("https", True, True)


def test_mirrors_come_in_the_files_order_and_the_server_last() -> None:
    endpoints = read(
        """
        server = "https://upstream.example"
        [host."https://b.example:5000"]
          capabilities = ["pull", "resolve"]
          ca = "b.crt"
          client = [["b.cert", "/keys/b.key"]]
          dial_timeout = "500ms"
        [host."http://a.example/prefix"]
          skip_verify = true
          [host."http://a.example/prefix".header]
            x-one = "1"
            x-many = ["2", "3"]
        [host."https://c.example/v2/deep"]
          override_path = true
        [host."https://upstream.example"]
        """
    )
    assert endpoints == (
        Endpoint(
            "https",
            "b.example:5000",
            capabilities=frozenset({"pull", "resolve"}),
            tls=Tls(ca=("/certs/b.crt",), client=(("/certs/b.cert", "/keys/b.key"),)),
            namespace="docker.io",
            dial=0.5,
        ),
        Endpoint(
            "http",
            "a.example",
            "/prefix/v2",
            tls=Tls(skip_verify=True),
            headers=(("x-one", "1"), ("x-many", "2, 3")),
            namespace="docker.io",
        ),
        Endpoint("https", "c.example", "/v2/deep", namespace="docker.io"),
        Endpoint("https", "upstream.example", namespace="docker.io"),
        Endpoint("https", "upstream.example"),
    )


def test_the_root_of_the_file_configures_the_server() -> None:
    (server,) = read('capabilities = ["pull"]\nclient = "both.pem"\nca = ["a.crt", "b.crt"]')
    assert server == Endpoint(
        "https",
        "registry-1.docker.io",
        capabilities=frozenset({"pull"}),
        tls=Tls(ca=("/certs/a.crt", "/certs/b.crt"), client=(("/certs/both.pem", ""),)),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server = 1", "server: want a string"),
        ('server = "ftp://x"', "want http:// or https:// and a host"),
        ('server = "https://a b"', "want http:// or https:// and a host"),
        ("[host]\nx = 1", "host: want tables"),
        ("ca = 1", "ca: want a string or an array of strings"),
        ("client = [[1]]", "client: want"),
        ("client = 3", "client: want"),
        ('skip_verify = "yes"', "skip_verify: want true or false"),
        ('capabilities = ["fly"]', "capabilities: 'fly' is not pull, resolve or push"),
        ('dial_timeout = "soon"', "dial_timeout: want a duration"),
        ('[host."https://x"]\nheader = 1', "header: want a table"),
        ('[host."https://x"]\n[host."https://x".header]\nx = "a\\nb"', "header: a name or value holds"),
        ('[host."https://x"]\nspeed = 1', "'speed' is not a known field"),
        ("server = ", "hosts.toml: "),
    ],
)
def test_a_wrong_file_is_refused_with_the_field(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(text)
    assert message in str(caught.value)
    assert "/certs/hosts.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read(text)
    except InvalidArgument:
        pass


@pytest.mark.parametrize("name", ["r.example:5000", "r.example_5000_", "_default"])
def test_the_directory_of_a_host(tmp_path: Path, name: str) -> None:
    (tmp_path / "b" / name).mkdir(parents=True)
    (tmp_path / "b" / name / "hosts.toml").write_text('server = "https://found.example"')
    assert Hosts((tmp_path / "a", tmp_path / "b")).endpoints("r.example:5000")[0].authority == "found.example"


def test_dockers_form_of_a_directory(tmp_path: Path) -> None:
    directory = tmp_path / "r.example"
    directory.mkdir()
    for name in ("ca.crt", "client.cert", "client.key", "notes.txt"):
        (directory / name).touch()
    (endpoint,) = Hosts((tmp_path,)).endpoints("r.example")
    assert endpoint.tls == Tls(
        ca=(f"{directory}/ca.crt",), client=((f"{directory}/client.cert", f"{directory}/client.key"),)
    )


@pytest.mark.parametrize("domain", ["../etc", "a/b", "", "a b", "a\n", "-x", "[::1"])
def test_a_name_that_is_no_host_never_becomes_a_path(tmp_path: Path, domain: str) -> None:
    with pytest.raises(InvalidArgument, match="want a host name or address"):
        Hosts((tmp_path,)).endpoints(domain)


@pytest.mark.parametrize(
    ("authority", "insecure", "expected"),
    [
        ("localhost", (), True),
        ("x.localhost:1", (), True),
        ("127.9.9.9:5000", (), True),
        ("[::1]:5000", (), True),
        ("128.0.0.1", (), False),
        ("localhost.example", (), False),
        ("10.1.2.3:5000", ("10.0.0.0/8",), True),
        ("r.example:5000", ("r.example:5000",), True),
        ("r.example:5000", ("r.example",), True),
        ("r.example:5000", ("r.example:5001",), False),
    ],
)
def test_which_hosts_may_be_insecure(authority: str, insecure: tuple[str, ...], expected: bool) -> None:
    assert is_insecure(authority, insecure) is expected


def test_a_url_with_a_scheme_means_what_it_says() -> None:
    assert not endpoint_of("https://localhost:5000").plain_fallback
    assert endpoint_of("http://localhost:5000").scheme == "http"
