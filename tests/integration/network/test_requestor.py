"""The answer that a requestor waits for is left to it, however often its messages wake the reactor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from voxtrial.daemon.network import contexts, requestor
from voxtrial.daemon.network.pacs import SmallPACS
from voxtrial.daemon.network.scu import PLAIN, associate


def taken(association: Any, seconds: float = 0.3) -> bool:
    """Whether something took a message off the queue of answers within ``seconds``."""
    queue = association.dimse.msg_queue
    queue.put((None, None))
    time.sleep(seconds)
    if queue.empty():
        return True
    queue.get()
    return False


def test_the_reactor_leaves_answers_alone_between_messages(tmp_path: Path) -> None:
    with (
        SmallPACS(tmp_path / "pacs", "PACS") as pacs,
        associate(pacs.peer, [(contexts.VERIFICATION, PLAIN)], ae_title="TEST") as association,
    ):
        for _ in range(3):
            assert association.send_c_echo().Status == 0x0000
            assert not taken(association)


def test_the_reactor_serves_again_when_it_is_let_go(tmp_path: Path) -> None:
    with (
        SmallPACS(tmp_path / "pacs", "PACS") as pacs,
        associate(pacs.peer, [(contexts.VERIFICATION, PLAIN)], ae_title="TEST") as association,
    ):
        requestor.let_go(association)
        assert taken(association)
