"""Keep the processes of jobs from running the program's main script again.

Imported by the server that jobs are forked from. ``multiprocessing`` lets every child run the script that
its parent was started with, in case something to unpickle is defined there: for ``voxtrial work`` that is the
whole command line, most of a second for each job. What a job needs is imported by name.
"""

from __future__ import annotations

from multiprocessing import spawn


def _skip(_script: str) -> None:
    """Run nothing."""


for name in ("_fixup_main_from_path", "_fixup_main_from_name"):
    setattr(spawn, name, _skip)
