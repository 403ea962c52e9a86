"""UIDs derived from what determines the content, so that a re-run is recognised as the same object."""

from __future__ import annotations

import hashlib


def derived_uid(*parts: str) -> str:
    """Return ``2.25.<128 bit integer>`` from the SHA-256 of the parts (PS3.5 B.2).

    Each part is hashed with its length, so that no two lists of parts share a digest by concatenation.
    """
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return f"2.25.{int.from_bytes(digest.digest()[:16], 'big')}"
