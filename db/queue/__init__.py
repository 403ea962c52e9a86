"""The queue: every step of a job and of a delivery, each one transaction, each with its event row.

The caller owns the transaction: a function here changes rows in the session that it is given, and the change
happened when the caller's commit returns. ``now`` is always an argument. Work is held under a lease with an
owner that is different for every claim; whoever has lost it gets ``LeaseLost`` and must drop the work.
"""

from voxtrial.db.queue.claiming import NO_LIMIT, Capacity, claim
from voxtrial.db.queue.claims import enqueue, heartbeat, rescue, set_step, windows
from voxtrial.db.queue.control import cancel, retry, supersede
from voxtrial.db.queue.deliveries import (
    cancel_delivery,
    claim_deliveries,
    claim_delivery,
    defer_delivery,
    fail_delivery,
    heartbeat_delivery,
    mark_confirmed,
    mark_sent,
    retry_delivery,
)
from voxtrial.db.queue.leases import Held, LeaseLost
from voxtrial.db.queue.offers import offer, offers, withdraw
from voxtrial.db.queue.outcomes import DuplicateResult, ErrorClass, cancelled, fail, refuse, release, succeed
from voxtrial.db.queue.policy import DELIVERIES, JOBS, RetryPolicy

__all__ = [
    "DELIVERIES",
    "JOBS",
    "NO_LIMIT",
    "Capacity",
    "DuplicateResult",
    "ErrorClass",
    "Held",
    "LeaseLost",
    "RetryPolicy",
    "cancel",
    "cancel_delivery",
    "cancelled",
    "claim",
    "claim_deliveries",
    "claim_delivery",
    "defer_delivery",
    "enqueue",
    "fail",
    "fail_delivery",
    "heartbeat",
    "heartbeat_delivery",
    "mark_confirmed",
    "mark_sent",
    "offer",
    "offers",
    "refuse",
    "release",
    "rescue",
    "retry",
    "retry_delivery",
    "set_step",
    "succeed",
    "supersede",
    "windows",
    "withdraw",
]
