"""Mounts as values."""

from __future__ import annotations

from orlop.snapshots.mounts import Bind, Overlay, classic, overlay


def test_single_layer_view_is_a_read_only_bind() -> None:
    assert overlay(("/l",)) == Bind("/l", read_only=True)


def test_no_layer_is_a_bind_of_the_writable_directory() -> None:
    assert overlay((), "/u", "/w") == Bind("/u")


def test_rootless_overlay_uses_user_attributes() -> None:
    mount = overlay(("/b", "/a"), "/u", "/w", user_xattr=True)
    assert isinstance(mount, Overlay)
    assert mount.options[-1] == "userxattr"
    assert not mount.read_only


def test_classic_form_escapes_what_overlayfs_splits_at() -> None:
    mount = classic(Overlay(("/b:1", "/a,2"), "/u\\3", "/w", ("index=off",)))
    assert mount.type == "overlay"
    assert mount.options == ("lowerdir=/b\\:1:/a\\,2", "upperdir=/u\\\\3", "workdir=/w", "index=off")


def test_classic_form_of_a_bind() -> None:
    assert classic(Bind("/x", True)).options == ("rbind", "ro")
