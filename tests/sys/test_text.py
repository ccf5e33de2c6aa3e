"""What a process takes out of its map, and what must stay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
PROGRAM = f"""
import sys
sys.path[:0] = [{str(SOURCE)!r}, *{[path for path in sys.path if "packages" in path]!r}]
import ctypes, mmap, os, re, sqlite3, tempfile
from orlop.sys.text import Text
from orlop.sys.syscalls import libc

def resident():
    rollup = open("/proc/self/smaps_rollup").read()
    sizes = {{name: int(size) for name, size in re.findall(r"(\\w+): +([0-9]+) kB", rollup)}}
    return sizes["Rss"] - sizes["Anonymous"], sizes["Anonymous"]

def private(change):
    # a private mapping of a file that says "file", read-only in the end
    file = tempfile.TemporaryFile()
    file.write(b"file" + bytes(8188))
    file.flush()
    found = mmap.mmap(file.fileno(), 8192, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    if change:
        found[:4] = b"mine"
    address = ctypes.addressof(ctypes.c_char.from_buffer(found))
    libc("mprotect", address, 8192, mmap.PROT_READ)
    return found, address

changed, same = private(True), private(False)
ctypes.string_at(same[1], 4)
sqlite3.connect(":memory:").execute("SELECT 1")
before, own = resident()
text = Text()
text.leave_to_cache()
after, kept = resident()
print(before, after)
assert after < before - 2048, "most of it has been used to start alone"
assert abs(kept - own) < 512, "what is the process's own stays"
assert ctypes.string_at(changed[1], 4) == b"mine"
assert ctypes.string_at(same[1], 4) == b"file"
assert sqlite3.connect(":memory:").execute("SELECT 2").fetchone() == (2,)
import decimal, json, ssl
assert ssl.create_default_context() and json.loads("[1]") == [1] and decimal.Decimal(1) / 4 == decimal.Decimal("0.25")
text.leave_to_cache()
Text().leave_to_cache()
print("lives")
"""


def test_files_text_goes_and_comes_back_and_own_pages_stay() -> None:
    done = subprocess.run([sys.executable, "-IS", "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("lives\n")
