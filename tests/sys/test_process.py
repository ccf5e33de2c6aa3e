"""What a process asks of the kernel."""

from __future__ import annotations

from orlop.sys.process import takes_seccomp_flags

_LOG, _SPEC_ALLOW, _WAIT_KILLABLE = 2, 4, 32


def test_flags_of_filters_that_the_kernel_knows() -> None:
    """Those two are older than the oldest kernel that is supported; one has a condition; another does not exist."""
    assert takes_seccomp_flags(_LOG)
    assert takes_seccomp_flags(_SPEC_ALLOW | _LOG)
    assert not takes_seccomp_flags(_WAIT_KILLABLE)  # not without the flag for a listener
    assert not takes_seccomp_flags(_LOG | 1 << 30)
