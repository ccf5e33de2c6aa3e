"""An image as a tree: index, manifest, configuration, layers, and the instruction that made each layer. Pure."""

from __future__ import annotations

import msgspec

from orlop.cli.docker.command_text import ellipsis
from orlop.cli.docker.units import human_size
from orlop.engine.images.image import Image
from orlop.spec.image import INDEX_TYPES, Descriptor, History, Index

_INSTRUCTION = 100  # characters of an instruction that are shown


def explain(image: Image, target: bytes) -> list[str]:
    """The lines. `target` is the document that the name stands for: an index, or the manifest itself."""
    lines = [f"image {' '.join(image.tags) or image.short_id}  {image.short_id}  {human_size(image.size)} unpacked"]
    if image.target.media_type in INDEX_TYPES:
        index = msgspec.json.decode(target, type=Index)
        lines.append(_node("index", image.target, ""))
        for number, child in enumerate(index.manifests):
            last = number == len(index.manifests) - 1
            lines += _child(image, child, "└─ " if last else "├─ ", "   " if last else "│  ")
        return lines
    return lines + _manifest(image, image.target, "", "")


def _child(image: Image, child: Descriptor, branch: str, below: str) -> list[str]:
    if child.digest == image.manifest.digest:
        return _manifest(image, child, branch, below)
    have = "" if any(child.digest == other.digest for other in image.manifests) else ", not here"
    return [f"{branch}manifest {child.platform or 'unknown'}{have}  {_place(child)}"]


def _manifest(image: Image, manifest: Descriptor, branch: str, below: str) -> list[str]:
    lines = [f"{branch}manifest {image.platform}  {_place(manifest)}"]
    count = len(image.layers)
    lines.append(f"{below}{'├─' if count else '└─'} config   {image.config_digest}{_defaults(image)}")
    made = instructions(image.config.history or (), count)
    for number, layer in enumerate(image.layers):
        last = number == count - 1
        rail = "   " if last else "│  "
        lines.append(f"{below}{'└─' if last else '├─'} layer {number + 1}  {_place(layer)}")
        lines.append(f"{below}{rail}         diff  {_diff(image, number)}")
        for text in made[number]:
            lines.append(f"{below}{rail}         by    {ellipsis(text, _INSTRUCTION)}")
    return lines


def instructions(history: tuple[History, ...], layers: int) -> list[list[str]]:
    """For each layer the instruction that made it, and behind it those that followed and made none."""
    made: list[list[str]] = [[] for _ in range(layers)]
    before: list[str] = []
    number = -1
    for entry in history:
        text = entry.created_by or entry.comment or "(no instruction recorded)"
        if not entry.empty_layer:
            number += 1
            if 0 <= number < layers:
                made[number] = [*before, text]
                before = []
        elif 0 <= number < layers:
            made[number].append(f"{text}  (no layer)")
        else:
            before.append(f"{text}  (no layer)")
    return [texts or ["(no instruction recorded)"] for texts in made]


def _diff(image: Image, number: int) -> str:
    diff_ids = image.config.rootfs.diff_ids
    return diff_ids[number] if number < len(diff_ids) else "?"


def _node(kind: str, descriptor: Descriptor, more: str) -> str:
    return f"{kind}  {_place(descriptor)}{more}"


def _place(descriptor: Descriptor) -> str:
    return f"{descriptor.digest}  {human_size(descriptor.size)}  {descriptor.media_type}"


def _defaults(image: Image) -> str:
    """What a container runs by default."""
    defaults = image.config.defaults
    command = " ".join((*(defaults.entrypoint or ()), *(defaults.cmd or ())))
    return f"  runs: {ellipsis(command, 60)}" if command else ""
