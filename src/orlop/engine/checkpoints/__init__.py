"""Checkpoints of containers: written to archives that other engines read as well, and restored from them."""
