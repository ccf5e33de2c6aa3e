"""Annotations that change what the runtime does: those of crun that Podman and others write. Pure."""

from __future__ import annotations

# Files that hooks append their output to, instead of writing to the runtime's own streams
HOOKS_STDOUT, HOOKS_STDERR = "run.oci.hooks.stdout", "run.oci.hooks.stderr"
# With "1" the process keeps the supplementary groups of whoever called the runtime (podman run --group-add keep-groups)
KEEP_GROUPS = "run.oci.keep_original_groups"
# With "1" a system call that is not known here is an error, where the specification has it passed over
SECCOMP_UNKNOWN = "run.oci.seccomp_fail_unknown_syscall"
ALL = (HOOKS_STDOUT, HOOKS_STDERR, KEEP_GROUPS, SECCOMP_UNKNOWN)


def is_set(annotations: dict[str, str], name: str) -> bool:
    """Whether a switch is on: anything but nothing, `0` and `false`."""
    return annotations.get(name, "").lower() not in ("", "0", "false")
