"""Becomes a program that is killed when the dispatcher is gone: `python mcp_launcher.py PARENT_PID PROGRAM ARGUMENT…`.

The kernel is asked for it between the fork and the program, which is what a program of its own is for: code that runs
in a fork of a process with threads may hang. Imports nothing of the dispatcher, so that it takes milliseconds. Linux
alone has it.
"""

import ctypes
import os
import signal
import sys

# <linux/prctl.h>
PR_SET_PDEATHSIG = 1


def become(parent: int, program: list[str]) -> None:
    """Does not return."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # It may have gone before the kernel was asked.
    if os.getppid() != parent:
        sys.exit(f"{program[0]}: the dispatcher is gone")
    # Python looks away from these, and a program expects that nobody does.
    for each in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(each, signal.SIG_DFL)
    try:
        os.execvp(program[0], program)  # noqa: S606 - the one of the settings, as they say it
    except OSError as error:
        sys.exit(f"{program[0]} can't be started: {error.strerror}")


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
