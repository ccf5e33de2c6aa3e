"""The first use of a type by several threads at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
PROGRAM = """
import sys, threading
sys.path[:0] = PATHS
import msgspec
from orlop.spec.document import decode

sys.setswitchinterval(1e-6)
FIELDS = "".join(f"    f{number}: dict[str, tuple[int, ...]] | None = None\\n" for number in range(30))
for turn in range(60):
    names = {"msgspec": msgspec, "__name__": "fresh"}
    exec("from __future__ import annotations\\n", names)
    exec(f"class Inner(msgspec.Struct):\\n{FIELDS}class Kind(msgspec.Struct):\\n    inner: Inner\\n{FIELDS}", names)
    together, found = threading.Barrier(8), []

    def one(kind):
        together.wait()
        found.append(decode(b'{"inner": {"f3": {"a": [1]}}, "f2": {"b": [2]}}', kind, "x"))

    threads = [threading.Thread(target=one, args=(names["Kind"],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(each == found[0] and each.inner.f3 == {"a": (1,)} for each in found)
"""


def test_threads_that_decode_to_a_type_for_the_first_time_do_not_meet() -> None:
    """What msgspec works out of a type is not whole at once: a process died of that."""
    paths = [str(SOURCE), *(path for path in sys.path if "packages" in path)]
    program = PROGRAM.replace("PATHS", repr(paths))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
