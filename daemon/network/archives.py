"""Where studies are asked for and fetched from: a DICOM node or a DICOMweb URL, behind the same verbs."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Engine, select

from voxtrial.daemon.network import contexts, query
from voxtrial.daemon.network.intake import Intake
from voxtrial.daemon.network.scu import Peer
from voxtrial.daemon.settings import QueryPeer
from voxtrial.db.studies import Instance

Keys = Mapping[str, str]
MOVE_PATIENCE_SECONDS = 60.0
"""How long objects of a C-MOVE may take to arrive after the PACS has answered."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The instances that an archive lists of a study."""

    series_of: dict[str, str]
    """Series by SOP Instance UID, of what we would take."""
    class_of: dict[str, str]
    """SOP class of the same; empty where the archive does not say it."""
    not_taken: int = 0
    """Instances of SOP classes that we do not take: nobody waits for them."""

    @classmethod
    def of(cls, found: Iterable[tuple[str, str, str]]) -> Listing:
        """Return the listing of (instance, series, SOP class or empty where the archive does not say it)."""
        instances = list(found)
        known = {"", *map(str, contexts.STORAGE_CLASSES)}
        taken = [instance for instance in instances if instance[2] in known]
        return cls(
            series_of={uid: series for uid, series, _ in taken},
            class_of={uid: sop_class for uid, _, sop_class in taken},
            not_taken=len(instances) - len(taken),
        )

    def only(self, wanted: Container[str]) -> Listing:
        """Return the listing of those instances."""
        return Listing(
            series_of={uid: series for uid, series in self.series_of.items() if uid in wanted},
            class_of={uid: sop_class for uid, sop_class in self.class_of.items() if uid in wanted},
        )

    def by_classes(self, most: int) -> Iterator[tuple[list[str], Listing]]:
        """Yield parts of at most so many SOP classes, which are given too; unknown classes come as none."""
        known = sorted(set(self.class_of.values()) - {""})
        for classes in [[""], *(known[first : first + most] for first in range(0, len(known), most))]:
            part = self.only({uid for uid, sop_class in self.class_of.items() if sop_class in classes})
            if part.series_of:
                yield [name for name in classes if name], part

    def __len__(self) -> int:
        """Return how many instances are listed, taken or not."""
        return len(self.series_of) + self.not_taken


class Archive(Protocol):
    """Where studies are fetched from."""

    @property
    def basis(self) -> str:
        """Return how it is asked, as a study version's ``basis`` names it: ``c-find`` or ``qido``."""

    def studies(self, keys: Keys) -> list[str]:
        """Return the Study Instance UIDs that match."""

    def count(self, study_instance_uid: str) -> int | None:
        """Return how many instances the archive says the study has; None when it does not say."""

    def instances(self, study_instance_uid: str) -> Listing:
        """Return what the archive has of a study."""

    def fetch(self, study_instance_uid: str, missing: Listing) -> None:
        """Bring ``missing`` instances into the store."""


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

    def instances(self, study_instance_uid: str) -> Listing:
        """Return what the PACS lists at image level."""
        return Listing.of(query.list_instances(study_instance_uid, self.peer, ae_title=self.ae_title))

    def fetch(self, study_instance_uid: str, missing: Listing) -> None:
        """Bring what is missing, in requests of at most 100 instances of a series."""
        if self.how == "move":
            for keys in query.by_instance(study_instance_uid, missing.series_of):
                query.move(keys, self.peer, self.ae_title, ae_title=self.ae_title)
            self._await(missing.series_of.keys())
            return
        for classes, part in missing.by_classes(query.CLASSES_AS_STORED):
            query.retrieve_all(
                query.by_instance(study_instance_uid, part.series_of),
                self.peer,
                query.into_store(self.intake),
                ae_title=self.ae_title,
                sop_classes=classes or contexts.STORAGE_CLASSES,
                as_stored=bool(classes),
            )

    def _await(self, missing: Set[str]) -> None:
        deadline = time.monotonic() + self.patience_seconds
        while missing - held(self.intake.ledger.engine, missing) and time.monotonic() < deadline:
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
    """Return which of the instances are here, pixel data included: retention may have deleted some."""
    wanted = list(sop_instance_uids)
    found: set[str] = set()
    with engine.connect().execution_options(read_only=True) as connection:
        for first in range(0, len(wanted), 500):
            part = wanted[first : first + 500]
            rows = select(Instance.sop_instance_uid).where(
                Instance.sop_instance_uid.in_(part), Instance.deleted_at.is_(None)
            )
            found.update(connection.scalars(rows))
    return found
