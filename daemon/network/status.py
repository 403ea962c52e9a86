"""C-STORE status codes (PS3.4 B.2.3, PS3.7 C): the ones that we answer, and what a peer's answer means."""

from __future__ import annotations

from enum import Enum, IntEnum


class StoreStatus(IntEnum):
    """What the listener answers."""

    SUCCESS = 0x0000
    """The bytes are on disk and the row is committed."""
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    """The command names another SOP class than its presentation context."""
    OUT_OF_RESOURCES = 0xA700
    """Disk below its watermark or full, or the database out of reach: the sender may try again."""
    MISMATCH = 0xA900
    """SOP class or instance UID of the dataset differ from those of the command."""
    UNPARSABLE = 0xC000
    """The dataset cannot be read to its end, or holds no valid UIDs."""
    CONFLICT = 0xC111
    """Another object is stored under this SOP Instance UID."""


class Verdict(Enum):
    """What a peer's answer means for a delivery."""

    STORED = "stored"
    """The peer has the object, possibly with coerced attributes: read it back."""
    TRANSIENT = "transient"
    """Try again later."""
    OTHER_ENCODING = "other encoding"
    """Never in this encoding; a fallback encoding may be taken."""
    PERMANENT = "permanent"
    """Never: a person must look."""
    UNAUTHORISED = "unauthorised"
    """The destination's configuration is wrong, for every object: pause it."""


COERCED = frozenset({0xB000, 0xB006, 0xB007})
DUPLICATE_UID = 0x0111


def verdict(status: int | None) -> Verdict:
    """Return what ``status`` of a C-STORE response means; None: the peer did not answer.

    Notes
    -----
    0111 (duplicate SOP instance) is no C-STORE status but is seen in the field: it counts as stored, because
    every delivery is read back before it is confirmed.
    """
    if status is None or status == 0x0110 or status & 0xFF00 == 0xA700:
        return Verdict.TRANSIENT
    if status in (0x0000, DUPLICATE_UID) or status in COERCED:
        return Verdict.STORED
    if status == 0x0122 or status & 0xFF00 == 0xA800:
        return Verdict.OTHER_ENCODING
    return Verdict.UNAUTHORISED if status == 0x0124 else Verdict.PERMANENT
