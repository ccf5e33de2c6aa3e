from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.distribution.client import Registry as Client
from orlop.distribution.proxies import proxy_for
from orlop.spec.errors import InvalidArgument, NotFound, Unimplemented
from orlop.spec.reference import parse_reference

BOTH = {"HTTPS_PROXY": "http://s:1", "HTTP_PROXY": "p:2"}


@pytest.mark.parametrize(
    ("url", "exceptions", "expected"),
    [
        ("https://r.example/v2/", "", "http://s:1"),
        ("http://r.example/v2/", "", "http://p:2"),
        ("https://localhost:5000/", "", ""),
        ("https://127.0.0.2:5000/", "", ""),
        ("https://[::1]:5000/", "", ""),
        ("https://r.example/", "*", ""),
        ("https://r.example/", "other, example", ""),
        ("https://example/", ".example", "http://s:1"),
        ("https://r.example/", ".example", ""),
        ("https://r.example/", "*.example", ""),
        ("https://rexample/", "example", "http://s:1"),
        ("https://r.example/", "r.example:443", ""),
        ("https://r.example:5000/", "r.example:443", "http://s:1"),
        ("https://10.1.2.3/", "10.0.0.0/8", ""),
        ("https://10.1.2.3/", "10.1.2.3", ""),
        ("https://[fd00::1]:5000/", "fd00::1", ""),
        ("https://[fd00::1]:5000/", "[fd00::1]:5000", ""),
        ("https://11.1.2.3/", "10.0.0.0/8,bad/net", "http://s:1"),
    ],
)
def test_which_proxy(url: str, exceptions: str, expected: str) -> None:
    assert proxy_for(url, BOTH | {"NO_PROXY": exceptions}) == expected


def test_no_proxy_without_variables() -> None:
    assert proxy_for("https://r.example/", {}) == ""
    assert proxy_for("https://r.example/", {"https_proxy": "x"}) == "http://x"


def test_proxies_that_cannot_be_used() -> None:
    with pytest.raises(Unimplemented, match="https_proxy: 'socks5' proxies are not supported"):
        proxy_for("https://r.example/", {"HTTPS_PROXY": "socks5://x"})
    for value in ("http://", "http://x:99999", "http://[x"):
        with pytest.raises(InvalidArgument, match="https_proxy: not a proxy's address"):
            proxy_for("https://r.example/", {"HTTPS_PROXY": value})


@given(st.text())
def test_any_exception_list_is_read(exceptions: str) -> None:
    proxy_for("https://r.example/", BOTH | {"NO_PROXY": exceptions})


def test_requests_go_to_the_proxy(
    make_client: Callable[..., Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(65536))
            connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    (tmp_path / "r.example").mkdir()
    (tmp_path / "r.example" / "hosts.toml").write_text('server = "http://r.example"')
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        monkeypatch.setenv("HTTP_PROXY", f"http://ann:se%20cret@127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        with pytest.raises(NotFound):
            make_client(certs=tmp_path).resolve(parse_reference("r.example/x:1"))
        thread.join()
    head = asked[0].decode().lower()
    assert head.startswith("get http://r.example/v2/x/manifests/1 ")
    assert "proxy-authorization: basic yw5uonnlignyzxq=" in head
