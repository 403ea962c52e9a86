"""A PACS that keeps its senders waiting, and remembers what they sent."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from pynetdicom import evt

from voxtrial.daemon.network.pacs import SmallPACS


class SlowPACS(SmallPACS):
    """The small PACS, with every answer to a C-STORE delayed.

    Parameters
    ----------
    seconds
        Delay of every answer; besides, answers wait until ``gate`` is set.
    """

    def __init__(self, folder: Path, ae_title: str = "SLOWPACS", *, seconds: float = 0.0) -> None:
        super().__init__(folder, ae_title)
        self.seconds = seconds
        self.gate = threading.Event()
        self.gate.set()
        self.received: list[str] = []
        """SOP Instance UIDs in the order in which they came."""

    def stop(self) -> None:
        """Let everybody go, and stop."""
        self.gate.set()
        super().stop()

    def _on_store(self, event: evt.Event) -> int:
        self.received.append(str(event.request.AffectedSOPInstanceUID))
        time.sleep(self.seconds)
        self.gate.wait()
        return super()._on_store(event)
