"""Chain IDs: names for stacks of layers (image-spec, config.md, "Layer ChainID")."""

from __future__ import annotations

from collections.abc import Iterable

from orlop.spec.digest import Digest


def chain_ids(diff_ids: Iterable[str]) -> tuple[str, ...]:
    """The chain ID of each layer, lowest first: that of the first is its diff ID, that of any other the digest of
    `<chain ID below> <diff ID>`."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(str(Digest.of(f"{chain[-1]} {diff_id}".encode())) if chain else str(diff_id))
    return tuple(chain)
