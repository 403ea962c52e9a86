"""The one way into the store: C-STORE, STOW-RS and import all end here.

``begin`` opens a reception, ``write`` takes the dataset in pieces, ``finish`` returns the status. Success
means that the bytes are on disk and the row is committed; every other status is an audit row. Nothing is ever
overwritten.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from voxtrial.daemon.network import part10
from voxtrial.daemon.network.ledger import Ledger, Origin, Outcome, Stored
from voxtrial.daemon.network.pdata import NOWHERE
from voxtrial.daemon.network.scan import Identity, Malformed, Scanner, is_uid
from voxtrial.daemon.network.spool import Durability, Part, Spool, dataset_digest
from voxtrial.daemon.network.status import StoreStatus
from voxtrial.daemon.settings import Settings
from voxtrial.db.base import utc_now

LOGGER = logging.getLogger(__name__)
ANOTHER_OBJECT = "another object is stored under this UID"


class Offer(NamedTuple):
    """An object as its sender announces it."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    origin: Origin


class Answer(NamedTuple):
    """What the sender hears."""

    status: StoreStatus
    comment: str = ""
    new: bool = False
    """Whether the object was not known before."""


@dataclass
class Intake:
    """Store and rows, shared by all receptions of a process."""

    spool: Spool
    ledger: Ledger

    def begin(self, offer: Offer, refusal: Answer | None = None) -> Reception:
        """Begin to receive; with ``refusal`` the bytes are read and dropped, since DIMSE cannot interrupt."""
        return Reception(self, offer, refusal)

    def refuse(self, answer: Answer, offer: Offer) -> Answer:
        """Audit a refusal; it stands even when the database is out of reach."""
        LOGGER.warning("instance refused", extra={"status": f"{answer.status:04X}", "reason": answer.comment})
        try:
            self.ledger.refused(
                action="instance refused",
                reason=f"{answer.status:04X} {answer.comment}",
                origin=offer.origin,
                subject=offer.sop_instance_uid,
            )
        except SQLAlchemyError:
            LOGGER.exception("refusal not audited")
        return answer


class Reception:
    """One object on its way in.

    The first failure decides the status; the bytes that follow are dropped.
    """

    def __init__(self, intake: Intake, offer: Offer, refusal: Answer | None) -> None:
        self._intake = intake
        self._offer = offer
        self._answer = refusal
        self._malformed = ""
        self._part: Part | None = None
        self._size = 0
        self._scanner = Scanner(offer.transfer_syntax_uid)
        if refusal is None:
            self._open()

    def _open(self) -> None:
        offer = self._offer
        if not is_uid(offer.sop_instance_uid) or not is_uid(offer.sop_class_uid):
            self._answer = Answer(StoreStatus.UNPARSABLE, "a UID of the command is not a UID")
            return
        try:
            self._part = self._intake.spool.begin(
                part10.prefix(
                    sop_class_uid=offer.sop_class_uid,
                    sop_instance_uid=offer.sop_instance_uid,
                    transfer_syntax_uid=offer.transfer_syntax_uid,
                    source_ae_title=offer.origin.calling_ae,
                )
            )
        except OSError as error:
            self._fail(error)

    def place(self, count: int) -> memoryview:
        """Return where up to ``count`` bytes of the next piece are to lie; empty: anywhere."""
        return NOWHERE if self._part is None else self._part.place(count)

    def write(self, data: bytes | memoryview) -> None:
        """Take the next piece of the dataset, which lies in its place if one was asked for."""
        if self._part is None:
            return
        self._size += len(data)
        if not self._malformed:
            try:
                self._scanner.feed(data)
            except Malformed as error:
                self._malformed = str(error)
        try:
            self._part.write(data)
        except OSError as error:
            self._fail(error)

    def finish(self) -> Answer:
        """End the object and say what became of it."""
        if self._part is None:
            assert self._answer is not None
            return self._intake.refuse(self._answer, self._offer)
        try:
            return self._store(self._part)
        except OSError as error:
            return self._intake.refuse(self._fail(error), self._offer)
        except SQLAlchemyError as error:
            # The file keeps its final name: the sender's next try adopts it, or the sweep at the next start
            LOGGER.exception("row not committed")
            answer = Answer(StoreStatus.OUT_OF_RESOURCES, f"database: {type(error).__name__}")
            if self._part is not None:
                self._part.discard()
            return self._intake.refuse(answer, self._offer)

    def abandon(self) -> None:
        """Drop what came: the association ended inside the object, so nothing was acknowledged."""
        if self._part is not None:
            self._part.discard()
            self._part = None

    def _store(self, part: Part) -> Answer:
        sha256 = part.digest()
        if self._malformed:
            return self._quarantine(part, sha256, StoreStatus.UNPARSABLE, self._malformed)
        try:
            identity = self._scanner.identity()
        except Malformed as error:
            return self._quarantine(part, sha256, StoreStatus.UNPARSABLE, str(error))
        for name in ("sop_class_uid", "sop_instance_uid"):
            announced, held = getattr(self._offer, name), getattr(identity, name)
            if announced != held:
                reason = f"{name} of the command is {announced}, of the dataset {held}"
                return self._quarantine(part, sha256, StoreStatus.MISMATCH, reason)
        return self._keep(part, sha256, identity)

    def _keep(self, part: Part, sha256: str, identity: Identity) -> Answer:
        spool = self._intake.spool
        final = spool.final_path(identity)
        try:
            part.keep(final)
            mine = True
        except FileExistsError:
            if dataset_digest(Path(final), sync=True) != sha256:
                return self._quarantine(part, sha256, StoreStatus.CONFLICT, ANOTHER_OBJECT)
            part.discard()
            mine = False
        self._part = None
        outcome = self._intake.ledger.record(
            Stored(
                identity=identity,
                transfer_syntax_uid=self._offer.transfer_syntax_uid,
                path=spool.relative(final),
                size=self._size,
                sha256=sha256,
                origin=self._offer.origin,
                received_at=utc_now(),
            )
        )
        if outcome is Outcome.OWN_RESULT:
            if mine:
                Path(final).unlink()
            return Answer(StoreStatus.SUCCESS)
        if outcome is Outcome.CONFLICT:
            # Same UID in another study or series: the row of the first stands, our file must not
            place = Path(final)
            if mine:
                place = place.replace(spool.quarantine / f"{sha256}.dcm")
            return self._record_quarantine(place, sha256, StoreStatus.CONFLICT, ANOTHER_OBJECT)
        return Answer(StoreStatus.SUCCESS, new=outcome is Outcome.NEW)

    def _quarantine(self, part: Part, sha256: str, status: StoreStatus, reason: str) -> Answer:
        place = part.quarantine(sha256)
        self._part = None
        return self._record_quarantine(place, sha256, status, reason)

    def _record_quarantine(self, place: Path, sha256: str, status: StoreStatus, reason: str) -> Answer:
        LOGGER.warning("instance quarantined", extra={"status": f"{status:04X}", "reason": reason})
        self._intake.ledger.quarantine(
            path=self._intake.spool.relative(place),
            sha256=sha256,
            reason=reason,
            origin=self._offer.origin,
            sop_instance_uid=self._offer.sop_instance_uid,
        )
        return Answer(status, reason)

    def _fail(self, error: OSError) -> Answer:
        self.abandon()
        self._answer = Answer(StoreStatus.OUT_OF_RESOURCES, error.strerror or type(error).__name__)
        return self._answer


def intake_of(settings: Settings, engine: Engine) -> Intake:
    """Return the way into the store of a site."""
    config = settings.listener
    spool = Spool(settings.site.data, Durability(config.fsync), config.watermark_mib << 20)
    return Intake(spool, Ledger(engine))
