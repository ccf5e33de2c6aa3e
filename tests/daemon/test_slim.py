"""What the node's daemon imports before anybody asks it for something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
SELDOM = set(
    "ssl _ssl urllib3 email http.client zipfile wsproto difflib google.protobuf.json_format google.protobuf.text_format"
    " google.protobuf.internal.python_message".split()
)
PROGRAM = f"""
import sys
sys.path[:0] = [{str(SOURCE)!r}, *{[path for path in sys.path if "packages" in path]!r}]
import orlop.daemon.slim
import orlop.daemon.serve
print(*sys.modules)
import asyncio, ssl, typing, typing_extensions
assert asyncio.sslproto.ssl is None
assert ssl.create_default_context().check_hostname
assert typing_extensions.Self is typing.Self and typing_extensions.deprecated
assert sys.modules["typing_extensions"].__file__
import orlop.distribution.client
assert "urllib3" in sys.modules and "zipfile" not in sys.modules
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
