"""Removing and measuring trees, whatever is in them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from orlop.sys.tree import measure_tree, remove_tree


def test_removes_whatever_there_is(tmp_path: Path) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    outside.write_text("kept")
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "link").symlink_to(outside)
    (tree / "a" / "dirlink").symlink_to(tmp_path)
    os.mkfifo(tree / "fifo")
    (tree / os.fsdecode(b"\xff\xfe")).write_text("")
    os.chmod(tree / "a", 0)
    remove_tree(tree)
    assert not tree.exists()
    assert outside.read_text() == "kept"
    remove_tree(tree)


def test_removes_a_tree_deeper_than_paths_can_say(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    name = "tree"
    for _ in range(1500):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd, name = below, "d" * 20
    os.close(fd)
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


@pytest.mark.root
def test_removes_immutable_files(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "dir").mkdir(parents=True)
    (tree / "dir" / "file").write_text("x")
    if subprocess.run(["chattr", "+i", tree / "dir" / "file", tree / "dir"], capture_output=True).returncode:
        pytest.skip("this file system has no immutable files")
    remove_tree(tree)
    assert not tree.exists()


def test_measures_a_hard_linked_file_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "d").mkdir()
    assert measure_tree(tmp_path) == (100, 3)
