"""What the node's daemon imports before anybody asks it for something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
SELDOM = set(
    "ssl _ssl urllib3 email http.client zipfile wsproto difflib google.protobuf.json_format google.protobuf.text_format"
    " google.protobuf.internal.python_message google.protobuf.text_encoding inspect ast dis subprocess locale calendar"
    " datetime asyncio.sslproto pkgutil bz2 lzma fractions secrets random h11 orlop.cgroups.systemd orlop.wire.dbus"
    " orlop.cri.metrics orlop.daemon.metrics orlop.cri.checkpoints orlop.cri.pod_checkpoints"
    " orlop.engine.checkpoints.restore orlop.runtime.criu".split()
)
PROGRAM = f"""
import sys
sys.path[:0] = [{str(SOURCE)!r}, *{[path for path in sys.path if "packages" in path]!r}]
import orlop.daemon.slim
import orlop.daemon.serve
print(*sys.modules)
class Stop:
    def __call__(self): pass
    def now(self): pass
    async def later(self): pass
async def said():
    words = (sys.executable, "-c", "print(end='yes')")
    process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
    return (await process.communicate())[0]
import asyncio, inspect, ssl, subprocess, typing, typing_extensions
assert asyncio.base_events.ssl is None
assert asyncio.base_events.sslproto.SSLProtocol is sys.modules["asyncio.sslproto"].SSLProtocol
for plain in (orlop.daemon.serve.serve, orlop.daemon.serve.Daemon.run, orlop.daemon.serve._watch, print, len, Stop()):
    assert asyncio.iscoroutinefunction(plain) == inspect.iscoroutinefunction(plain), plain
assert asyncio.iscoroutinefunction(Stop().later) and not asyncio.iscoroutinefunction(Stop().now)
assert asyncio.run(said()) == b"yes"
assert ssl.create_default_context().check_hostname
assert typing_extensions.Self is typing.Self and typing_extensions.deprecated
assert sys.modules["typing_extensions"].__file__
import orlop.distribution.client
assert "urllib3" in sys.modules
seldom = {{"zipfile", "mimetypes", "stringprep"}}
assert not seldom & set(sys.modules), seldom & set(sys.modules)
assert "b\u00fccher.example".encode("idna") == b"xn--bcher-kva.example" and "stringprep" in sys.modules
from importlib.metadata import version
assert version("urllib3") and "zipfile" in sys.modules
"""


def test_daemon_does_not_carry_what_it_seldom_needs() -> None:
    """And whoever imports those by name gets the real ones."""
    done = subprocess.run([sys.executable, "-IS", "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not SELDOM & set(done.stdout.split())


def test_the_program_begins_with_the_slim_imports() -> None:
    text = (SOURCE / "orlop/cli/docker/serve.py").read_text()
    assert text.index("import orlop.daemon.slim") < text.index("from orlop.daemon.serve import")
