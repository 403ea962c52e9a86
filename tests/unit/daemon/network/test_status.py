"""What a peer's C-STORE status means for a delivery (PS3.4 B.2.3)."""

from __future__ import annotations

import pytest

from voxtrial.daemon.network.status import Verdict, verdict


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (0x0000, Verdict.STORED),
        (0xB000, Verdict.STORED),
        (0xB006, Verdict.STORED),
        (0xB007, Verdict.STORED),
        (0x0111, Verdict.STORED),
        (None, Verdict.TRANSIENT),
        (0xA700, Verdict.TRANSIENT),
        (0xA7FF, Verdict.TRANSIENT),
        (0x0110, Verdict.TRANSIENT),
        (0x0122, Verdict.OTHER_ENCODING),
        (0xA800, Verdict.OTHER_ENCODING),
        (0xA900, Verdict.PERMANENT),
        (0xC000, Verdict.PERMANENT),
        (0xC123, Verdict.PERMANENT),
        (0x0124, Verdict.UNAUTHORISED),
    ],
)
def test_each_status_has_its_verdict(status: int | None, meaning: Verdict) -> None:
    assert verdict(status) is meaning
