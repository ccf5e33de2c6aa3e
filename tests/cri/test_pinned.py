"""Which images are pinned."""

from __future__ import annotations

import msgspec
import pytest

from orlop.cri.pinned import Pinned
from orlop.daemon.config import parse
from orlop.engine.images.image import Image
from orlop.spec.errors import InvalidArgument
from orlop.spec.image import OCI_MANIFEST, Descriptor, ImageConfig, RootFS

DIGEST = "sha256:" + "a" * 64
ID = "sha256:" + "b" * 64
_DESCRIPTOR = Descriptor(media_type=OCI_MANIFEST, digest=DIGEST, size=1)
_IMAGE = Image(
    namespace="k8s.io",
    name="",
    names=(),
    target=_DESCRIPTOR,
    manifest=_DESCRIPTOR,
    config_digest=ID,
    config=ImageConfig(rootfs=RootFS(type="layers", diff_ids=())),
    layers=(),
    chain_id="",
    size=0,
    manifests=(),
    complete=True,
    remote=True,
    updated=0,
    labels={},
)


@pytest.mark.parametrize(
    ("entry", "name", "pinned"),
    [
        ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10", True),
        ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.9", False),
        ("registry.k8s.io/pause:*", "registry.k8s.io/pause:3.9", True),
        ("registry.k8s.io/pause*", "registry.k8s.io/pause:3.9", True),
        ("registry.k8s.io/pause:*", "registry.k8s.io/pause-amd64:3.9", False),
        ("*/pause:*", "mirror.example:5000/pause:1", True),
        ("busybox", "docker.io/library/busybox:latest", True),
        ("busybox:*", "docker.io/library/busybox:1.36", True),
        ("team/*", "docker.io/team/app:1", True),
        ("team/*", "docker.io/library/app:1", False),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", True),
        (f"busybox@{DIGEST}", "docker.io/library/busybox:latest", True),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", True),
        (f"redis@{DIGEST}", "docker.io/library/busybox:latest", False),
        (ID, "docker.io/library/busybox:latest", True),
        ("b" * 64, "docker.io/library/busybox:latest", True),
        (DIGEST, "docker.io/library/busybox:latest", True),
    ],
)
def test_what_an_entry_pins(entry: str, name: str, pinned: bool) -> None:
    image = msgspec.structs.replace(_IMAGE, name=name, names=(name,))
    assert (image in Pinned((entry,))) is pinned
    assert (image in Pinned(("other/image", entry, "third/*"))) is pinned


def test_the_configuration_names_a_bad_entry() -> None:
    with pytest.raises(InvalidArgument, match=r"^f: cri\.pinned_images: image reference 'UPPER': "):
        parse(b'[cri]\npinned_images = ["busybox", "UPPER"]', "f")


@pytest.mark.parametrize("entry", ["", "UPPER", "a b*", "x:*\n", "a:b:c"])
def test_an_entry_that_can_be_no_image(entry: str) -> None:
    with pytest.raises(InvalidArgument):
        Pinned((entry,))
