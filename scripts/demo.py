"""What scripts/demo does once everything is installed. Everything it makes is under one temporary directory."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from orlop.distribution.client import Registry as Client
from orlop.layers.pack import Member, compress, file, pack
from orlop.registry.server import Registry
from orlop.spec.digest import Digest
from orlop.spec.image import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Manifest
from orlop.spec.platform import host_platform
from orlop.spec.reference import parse_reference
from orlop.wire.tar import SYMLINK, Entry

ORLOP = Path(__file__).parent.parent / ".venv/bin/orlop"
SCRIPT = 'echo "hello from container $(hostname), pid $$, on $(uname -sr)"; ip -4 addr show eth0 | grep inet'


def main() -> int:
    work = Path(tempfile.mkdtemp(prefix="orlop-demo-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    state = Path(tempfile.mkdtemp(prefix="orlop-demo-", dir="/run"))
    orlop = [str(ORLOP), "--root", str(work / "root"), "--state", str(state)]
    try:
        with Registry() as registry:
            name = f"{registry.address}/demo/busybox:1"
            say(f"made an image of this machine's busybox and pushed it to {name}: {push(name)}")
            run([*orlop, "pull", name])
            run([*orlop, "images"])
            run([*orlop, "run", "--rm", "--name", "hello", "--memory", "64m", name, "sh", "-c", SCRIPT])
            run([*orlop, "run", "-d", "--name", "sleeper", name, "sleep", "1000"])
            run([*orlop, "ps"])
            run([*orlop, "exec", "sleeper", "ps"])
            run([*orlop, "explain", "sleeper"])
            run([*orlop, "stop", "-t", "0", "sleeper"])
            run([*orlop, "rm", "sleeper"])
            run([*orlop, "rmi", name])
        say("done; nothing is left")
        return 0
    finally:
        subprocess.run([*orlop, "rm", "-f", "sleeper", "hello"], capture_output=True)
        shutil.rmtree(work)
        shutil.rmtree(state)


def say(text: str) -> None:
    print(f"\033[1m# {text}\033[0m" if sys.stdout.isatty() else f"# {text}", flush=True)


def run(command: list[str]) -> None:
    """Show a command as a user would type it, and run it."""
    say("orlop " + " ".join(repr(word) if " " in word else word for word in command[5:]))
    started = time.monotonic()
    subprocess.run(command, check=True)
    print(f"  [{(time.monotonic() - started) * 1000:.0f} ms]\n", flush=True)


def push(name: str) -> str:
    """Make an image of one layer and push it; the digest of its manifest."""
    layer = b"".join(pack(members()))
    packed = b"".join(compress([layer], "gzip"))
    config = msgspec.json.encode(
        {
            "architecture": host_platform(os.uname().machine).architecture,
            "os": "linux",
            "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer))]},
            "history": [{"created_by": "COPY /bin/busybox /bin/"}],
        }
    )
    manifest = Manifest(
        schema_version=2,
        media_type=OCI_MANIFEST,
        config=descriptor(OCI_CONFIG, config),
        layers=(descriptor(OCI_LAYER_GZIP, packed),),
    )
    reference = parse_reference(name)
    with Client() as client:
        client.push_blob(reference, manifest.config, lambda: io.BytesIO(config))
        client.push_blob(reference, manifest.layers[0], lambda: io.BytesIO(packed))
        return client.push_manifest(reference, msgspec.json.encode(manifest), OCI_MANIFEST).digest


def members() -> list[Member]:
    """The machine's static busybox with a link for each of its commands, and the two files that name root."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
    applets = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    links = [Member(Entry(path=f"bin/{a}".encode(), kind=SYMLINK, link=b"busybox")) for a in applets if a != "busybox"]
    root = [file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"), file("etc/group", b"root:x:0:\n")]
    return [file("bin/busybox", busybox, 0o755), *links, *root]


def descriptor(media_type: str, data: bytes) -> Descriptor:
    return Descriptor(media_type=media_type, digest=str(Digest.of(data)), size=len(data))


if __name__ == "__main__":
    sys.exit(main())
