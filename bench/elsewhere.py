"""Reads commands, a line each with NULs between the arguments; runs each and writes exit status and milliseconds."""

import os
import sys
import time

for line in sys.stdin:
    arguments = line.rstrip("\n").split("\0")
    nowhere = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1)]
    started = time.perf_counter()
    pid = os.posix_spawnp(arguments[0], arguments, os.environ, file_actions=nowhere)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(status, (time.perf_counter() - started) * 1e3, flush=True)
