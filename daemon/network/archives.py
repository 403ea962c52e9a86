"""Where studies are asked for and fetched from: a DICOM node or a DICOMweb URL, behind the same verbs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Engine, select

from voxtrial.daemon.network import query
from voxtrial.daemon.network.intake import Intake
from voxtrial.daemon.network.scu import Peer
from voxtrial.daemon.settings import QueryPeer
from voxtrial.db.studies import Instance

Keys = Mapping[str, str]
MOVE_PATIENCE_SECONDS = 60.0
"""How long objects of a C-MOVE may take to arrive after the PACS has answered."""


class Archive(Protocol):
    """Where studies are fetched from."""

    @property
    def basis(self) -> str:
        """Return how it is asked, as a study version's ``basis`` names it: ``c-find`` or ``qido``."""

    def studies(self, keys: Keys) -> list[str]:
        """Return the Study Instance UIDs that match."""

    def count(self, study_instance_uid: str) -> int | None:
        """Return how many instances the archive says the study has; None when it does not say."""

    def instances(self, study_instance_uid: str) -> dict[str, str]:
        """Return the series of every instance, by SOP Instance UID."""

    def fetch(self, study_instance_uid: str, missing: Mapping[str, str]) -> None:
        """Bring ``missing`` instances, given as ``instances`` does, into the store."""


@dataclass(frozen=True)
class DimsePACS:
    """A PACS by C-FIND, and C-GET or C-MOVE.

    Parameters
    ----------
    how
        ``get``: objects come on our own association; ``move``: they come to the listener, which must run and
        be known to the PACS.
    patience_seconds
        How long ``fetch`` waits for the objects of a C-MOVE: some archives answer before they have sent.
    """

    peer: Peer
    intake: Intake
    how: str
    ae_title: str
    patience_seconds: float = MOVE_PATIENCE_SECONDS
    basis: str = "c-find"

    def studies(self, keys: Keys) -> list[str]:
        """Return the Study Instance UIDs that match."""
        found = query.find("STUDY", {"StudyInstanceUID": "", **keys}, self.peer, ae_title=self.ae_title)
        return [str(match.StudyInstanceUID) for match in found]

    def count(self, study_instance_uid: str) -> int | None:
        """Return NumberOfStudyRelatedInstances."""
        return query.count_instances(study_instance_uid, self.peer, ae_title=self.ae_title)

    def instances(self, study_instance_uid: str) -> dict[str, str]:
        """Return the series of every instance, by SOP Instance UID."""
        return query.instance_uids(study_instance_uid, self.peer, ae_title=self.ae_title)

    def fetch(self, study_instance_uid: str, missing: Mapping[str, str]) -> None:
        """Bring what is missing, in requests of at most 100 instances of a series."""
        for keys in query.by_instance(study_instance_uid, missing):
            if self.how == "move":
                query.move(keys, self.peer, self.ae_title, ae_title=self.ae_title)
            else:
                into = query.into_store(self.intake)
                query.retrieve(keys, self.peer, into, ae_title=self.ae_title)
        if self.how == "move":
            self._await(missing)

    def _await(self, missing: Mapping[str, str]) -> None:
        deadline = time.monotonic() + self.patience_seconds
        while missing.keys() - held(self.intake.ledger.engine, missing) and time.monotonic() < deadline:
            time.sleep(0.2)


def archive_of(settings: QueryPeer, intake: Intake, *, ae_title: str, patience_seconds: float) -> Archive:
    """Return the archive that ``[completeness.query]`` names.

    Raises
    ------
    Misconfigured
        It is a DICOMweb URL, and dicomweb-client is not installed.
    """
    if settings.url:
        from voxtrial.daemon.network.dicomweb import WebPACS

        return WebPACS(settings.url, intake, settings.tls)
    peer = Peer(settings.host, settings.port, settings.ae_title, settings.tls)
    return DimsePACS(peer, intake, settings.retrieve, ae_title, patience_seconds)


def held(engine: Engine, sop_instance_uids: Iterable[str]) -> set[str]:
    """Return which of the instances have rows."""
    wanted = list(sop_instance_uids)
    found: set[str] = set()
    with engine.connect().execution_options(read_only=True) as connection:
        for first in range(0, len(wanted), 500):
            part = wanted[first : first + 500]
            rows = select(Instance.sop_instance_uid).where(Instance.sop_instance_uid.in_(part))
            found.update(connection.scalars(rows))
    return found
