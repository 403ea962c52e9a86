"""Keep pynetdicom's reactor away from the answers that a requestor waits for.

An association has a reactor thread that takes incoming messages off a queue, and ``send_*`` methods that wait
on the same queue. They pause the reactor first, but believe a flag that it may have set a moment before it
wakes: under load the reactor then takes the answer, and the sender waits until it times out. Here the reactor
is stopped once, when the association is established, and stays stopped.
"""

from __future__ import annotations

import threading
import time
from typing import Any

_POLL_SECONDS = 0.0005


class _Checkpoint(threading.Event):
    """The event that the reactor waits on; ``send_*`` set it after each message, which is ignored here."""

    def set(self) -> None:
        """Keep the reactor where it is."""

    def open(self) -> None:
        """Let the reactor go."""
        super().set()


def hold(association: Any) -> None:
    """Stop the reactor of an established association; return when it stands still."""
    checkpoint = _Checkpoint()
    running, association._reactor_checkpoint = association._reactor_checkpoint, checkpoint
    # The flag may be stale: it is true between two turns. Standing still means that it stays true.
    association._is_paused = False
    while not association._is_paused and association.is_alive() and not association._kill:
        time.sleep(_POLL_SECONDS)
    running.set()


def is_usable(association: Any) -> bool:
    """Return whether the peer is still there; the reactor that would notice its end stands still."""
    return bool(
        association.is_established and association.dul.is_alive() and not association.acse.is_aborted()
    )


def let_go(association: Any) -> None:
    """Let the reactor serve what comes: reports on our own association, or its end."""
    if isinstance(association._reactor_checkpoint, _Checkpoint):
        association._reactor_checkpoint.open()
