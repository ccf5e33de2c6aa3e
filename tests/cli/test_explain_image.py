from __future__ import annotations

from orlop.cli.docker.explain_image import explain, instructions
from orlop.engine.images.image import Image
from orlop.spec.document import encode
from orlop.spec.image import (
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    ContainerDefaults,
    Descriptor,
    History,
    ImageConfig,
    Index,
    RootFS,
)
from orlop.spec.platform import Platform


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


def described(letter: str, media_type: str = OCI_LAYER_GZIP, platform: Platform | None = None) -> Descriptor:
    return Descriptor(media_type=media_type, digest=digest(letter), size=1000, platform=platform)


HISTORY = (
    History(created_by="ADD base /"),
    History(created_by="ENV X=1", empty_layer=True),
    History(created_by="RUN make"),
    History(created_by="CMD sh", empty_layer=True),
)
INDEX = described("1", OCI_INDEX)
HERE = described("2", OCI_MANIFEST, Platform(os="linux", architecture="amd64"))
OTHER = described("3", OCI_MANIFEST, Platform(os="linux", architecture="arm64"))


def image(target: Descriptor) -> Image:
    return Image(
        namespace="default",
        name="docker.io/library/x:1",
        names=("docker.io/library/x:1",),
        target=target,
        manifest=HERE,
        config_digest=digest("4"),
        layers=(described("5"), described("6")),
        chain_id="",
        size=2_000_000,
        manifests=(HERE,),
        config=ImageConfig(
            architecture="amd64",
            os="linux",
            rootfs=RootFS(type="layers", diff_ids=(digest("7"), digest("8"))),
            history=HISTORY,
            config=ContainerDefaults(cmd=("sh",)),
        ),
        complete=False,
        remote=True,
        updated=0,
        labels={},
    )


def test_tree_from_index_to_instructions() -> None:
    raw = encode(Index(schema_version=2, media_type=OCI_INDEX, manifests=(HERE, OTHER)))
    assert explain(image(INDEX), raw) == [
        f"image x:1  {'4' * 12}  2MB unpacked",
        f"index  {digest('1')}  1kB  {OCI_INDEX}",
        f"├─ manifest linux/amd64  {digest('2')}  1kB  {OCI_MANIFEST}",
        f"│  ├─ config   {digest('4')}  runs: sh",
        f"│  ├─ layer 1  {digest('5')}  1kB  {OCI_LAYER_GZIP}",
        f"│  │           diff  {digest('7')}",
        "│  │           by    ADD base /",
        "│  │           by    ENV X=1  (no layer)",
        f"│  └─ layer 2  {digest('6')}  1kB  {OCI_LAYER_GZIP}",
        f"│              diff  {digest('8')}",
        "│              by    RUN make",
        "│              by    CMD sh  (no layer)",
        f"└─ manifest linux/arm64, not here  {digest('3')}  1kB  {OCI_MANIFEST}",
    ]


def test_a_manifest_alone_is_the_root() -> None:
    assert explain(image(HERE), b"")[1].startswith("manifest linux/amd64")


def test_layers_without_a_history_say_so() -> None:
    assert instructions((), 1) == [["(no instruction recorded)"]]
    assert instructions((History(empty_layer=True, created_by="ENV A=1"), History(created_by="RUN x")), 1) == [
        ["ENV A=1  (no layer)", "RUN x"]
    ]
    assert len(instructions(HISTORY, 1)) == 1
