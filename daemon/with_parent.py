"""Tie a process to its parent: the kernel kills it when the thread that started it is gone.

Importing this ties the importing process. The server that jobs are forked from imports it first: otherwise it
would outlive a killed worker for as long as a job runs, and a job that hangs runs for ever. A forked process
is not tied until it calls ``tie`` itself.
"""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG = 1


def tie() -> None:
    """Ask Linux for SIGKILL at the end of the parent."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


tie()
