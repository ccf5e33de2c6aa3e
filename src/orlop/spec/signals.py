"""Signal names and numbers of Linux (signal(7)), as users write them: `KILL`, `SIGKILL`, `kill`, `9`, `RTMIN+3`."""

from __future__ import annotations

from orlop.spec.errors import InvalidArgument

NAMES: tuple[str, ...] = (
    "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
    "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
    "WINCH", "IO", "PWR", "SYS",
)  # fmt: skip
RTMIN, RTMAX = 34, 64  # as libc counts: the first two real-time signals are its own
_NUMBERS = {name: number for number, name in enumerate(NAMES) if name} | {"IOT": 6, "POLL": 29, "CLD": 17}


def parse_signal(text: str, least: int = 1) -> int:
    """The number of a signal given by name or number. 0, which sends nothing, is refused unless `least` is 0."""
    name = text.upper().removeprefix("SIG")
    number = (
        int(name) if name.isascii() and name.isdigit() and len(name) < 4 else _NUMBERS.get(name) or _real_time(name)
    )
    if number is None or not least <= number <= RTMAX:
        raise InvalidArgument(f"invalid signal: {text[:40]}")
    return number


def _real_time(name: str) -> int | None:
    for base, start in (("RTMIN", RTMIN), ("RTMAX", RTMAX)):
        rest = name.removeprefix(base)
        if rest == name:
            continue
        if not rest:
            return start
        if rest.isascii() and rest[1:].isdigit() and rest[0] == ("+" if base == "RTMIN" else "-") and len(rest) < 4:
            number = start + int(rest)
            return number if RTMIN <= number <= RTMAX else None
    return None


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; real-time signals relative to SIGRTMIN."""
    if 0 < number < len(NAMES):
        return f"SIG{NAMES[number]}"
    return f"SIGRTMIN+{number - RTMIN}" if RTMIN < number <= RTMAX else ("SIGRTMIN" if number == RTMIN else str(number))


def described(number: int) -> str:
    """The number and what the system calls it (strsignal(3)), in lower case: `31 (bad system call)`."""
    import signal

    try:
        name = signal.strsignal(number)
    except ValueError:
        name = None
    return f"{number} ({name.lower()})" if name else str(number)
