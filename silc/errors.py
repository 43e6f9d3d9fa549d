"""Exceptions that end a command with one line: bad input, a request to stop, a lost rank. Imports no torch."""

from __future__ import annotations


class BadInput(Exception):
    """The input cannot be used. The message is one line: what was given, what is needed, what to do.

    The command line prints the line alone and exits with `exit_code`.
    """

    exit_code = 2


class Preempted(Exception):
    """The process was asked to stop and has saved what it had.

    The command line exits with `exit_code`: 143 for SIGTERM and SIGUSR1, 130 for Ctrl-C.
    """

    def __init__(self, message: str = "", *, exit_code: int = 143) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LostRank(Exception):
    """Another process of the group died, hangs or was cut off. The message names it in one line.

    The input is not at fault. The command line prints the line alone and exits with code 75 (EX_TEMPFAIL of sysexits.h:
    try again). `torchrun` then starts the group again.
    """
