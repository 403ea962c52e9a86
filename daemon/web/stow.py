"""The answer to STOW-RS (PS3.18 10.5): what of a request was stored, and what was not, and why."""

from __future__ import annotations

from typing import Any

from voxtrial.daemon.network.intake import Offer
from voxtrial.daemon.network.multipart import Received
from voxtrial.daemon.network.status import StoreStatus


def http_status(received: Received) -> int:
    """Return the HTTP status (PS3.18 table 10.5.3-1)."""
    if not received.failed:
        return 200 if received.stored else 400
    if received.stored:
        return 202
    busy = all(answer.status is StoreStatus.OUT_OF_RESOURCES for _, answer in received.failed)
    return 503 if busy else 409


def response_module(received: Received) -> dict[str, Any]:
    """Return the Store Instances Response Module (PS3.18 table I.1-1) as DICOM JSON."""
    body: dict[str, Any] = {}
    if received.stored:
        body["00081199"] = {"vr": "SQ", "Value": [_reference(offer) for offer in received.stored]}
    if received.failed:
        body["00081198"] = {
            "vr": "SQ",
            "Value": [
                {**_reference(offer), "00081197": {"vr": "US", "Value": [int(answer.status)]}}
                for offer, answer in received.failed
            ],
        }
    return body


def _reference(offer: Offer | None) -> dict[str, Any]:
    if offer is None:
        return {}
    return {
        "00081150": {"vr": "UI", "Value": [offer.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [offer.sop_instance_uid]},
    }
