"""Storage commitment (PS3.4 J): ask a PACS to take responsibility, and take its report.

The report may come on the same association or on a new one that the PACS opens to our listener, minutes later
and after a restart of ours: the transaction UID is kept in SQL, and so is the report.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.pdu import P_DATA_TF
from sqlalchemy import select
from sqlalchemy.orm import Session

from voxtrial.daemon.errors import Fatal, Retryable
from voxtrial.daemon.network import contexts, requestor
from voxtrial.daemon.network.scu import Peer, associate
from voxtrial.db import audit

REQUEST_ACTION = 1
REPORTED = "commitment reported"


@dataclass(frozen=True, kw_only=True)
class CommitmentReport:
    """What the PACS took responsibility for, and what not, with the failure reason (PS3.3 C.14.1.1)."""

    transaction_uid: str
    committed: frozenset[str]
    """SOP Instance UIDs."""
    failed: dict[str, int] = field(default_factory=dict)
    """Failure reason by SOP Instance UID: 0112 no such object, 0119 class conflict, 0131 duplicate
    transaction, 0213 resources."""


def request(
    objects: Iterable[tuple[str, str]],
    peer: Peer,
    *,
    ae_title: str,
    transaction_uid: str = "",
    wait_seconds: float = 0.0,
) -> tuple[str, CommitmentReport | None]:
    """Ask ``peer`` to commit ``objects``, given as (SOP class UID, SOP instance UID).

    Parameters
    ----------
    wait_seconds
        How long the association stays open for a report; later ones arrive at the listener.

    Returns
    -------
    tuple
        The transaction UID, and the report when it came on this association.

    Raises
    ------
    Retryable
        The peer is out of reach or short of resources.
    Fatal
        The peer offers no storage commitment, or refused the request for good.
    """
    transaction_uid = transaction_uid or str(generate_uid())
    reports: list[CommitmentReport] = []
    answered = threading.Event()

    def on_report(event: evt.Event) -> tuple[int, None]:
        reports.append(parse(event.event_information))
        return 0x0000, None

    def on_sent(event: evt.Event) -> None:
        if reports and isinstance(event.pdu, P_DATA_TF):
            answered.set()

    proposed = [(contexts.COMMITMENT, contexts.UNCOMPRESSED_SYNTAXES[:2])]
    with associate(
        peer,
        proposed,
        ae_title=ae_title,
        handlers=[(evt.EVT_N_EVENT_REPORT, on_report), (evt.EVT_PDU_SENT, on_sent)],
    ) as association:
        if not association.accepted_contexts:
            raise Fatal(f"{peer} offers no storage commitment.")
        status, _ = association.send_n_action(
            _information(objects, transaction_uid),
            REQUEST_ACTION,
            contexts.COMMITMENT,
            contexts.COMMITMENT_INSTANCE,
        )
        code = status.get("Status")
        if code is None or code in (0x0110, 0x0213):
            raise Retryable(f"{peer} did not take the commitment request (status {code}).")
        if code != 0x0000:
            raise Fatal(f"{peer} refused the commitment request with status {code:04X}.")
        requestor.let_go(association)
        # Not released before our answer has left: a release that overtakes it breaks the state machine.
        answered.wait(wait_seconds)
    return transaction_uid, reports[0] if reports else None


def parse(information: Dataset) -> CommitmentReport:
    """Return the report of an N-EVENT-REPORT's event information."""
    failed = information.get("FailedSOPSequence") or ()
    return CommitmentReport(
        transaction_uid=str(information.TransactionUID),
        committed=frozenset(
            str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence") or ()
        ),
        failed={str(i.ReferencedSOPInstanceUID): int(i.get("FailureReason", 0x0110)) for i in failed},
    )


def keep(session: Session, report: CommitmentReport, *, calling_ae: str) -> None:
    """Write the report as an audit row, from which ``reported`` reads it; commits with the caller."""
    audit.record(
        session,
        actor=calling_ae,
        action=REPORTED,
        subject=report.transaction_uid,
        committed=sorted(report.committed),
        failed=report.failed,
    )


def reported(session: Session, transaction_uid: str) -> CommitmentReport | None:
    """Return what the PACS reported of a transaction, or None when nothing came yet."""
    detail = session.scalar(
        select(audit.AuditRow.detail)
        .where(audit.AuditRow.action == REPORTED, audit.AuditRow.subject == transaction_uid)
        .order_by(audit.AuditRow.id.desc())
        .limit(1)
    )
    if detail is None:
        return None
    return CommitmentReport(
        transaction_uid=transaction_uid,
        committed=frozenset(detail["committed"]),
        failed={uid: int(reason) for uid, reason in detail["failed"].items()},
    )


def _information(objects: Iterable[tuple[str, str]], transaction_uid: str) -> Dataset:
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = []
    for sop_class_uid, sop_instance_uid in objects:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
        information.ReferencedSOPSequence.append(item)
    return information
