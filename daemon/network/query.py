"""Ask a PACS what it has (C-FIND) and fetch it (C-GET, C-MOVE), in the Study Root model (PS3.4 C)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt

from voxtrial.daemon.errors import Fatal, Retryable
from voxtrial.daemon.network import contexts, part10
from voxtrial.daemon.network.intake import Answer, Intake, Offer
from voxtrial.daemon.network.ledger import Origin
from voxtrial.daemon.network.scan import is_uid
from voxtrial.daemon.network.scu import PLAIN, Peer, associate
from voxtrial.daemon.network.status import StoreStatus

Receiver = Callable[[Offer, memoryview], Answer]
"""Takes one fetched object, dataset as received, and says what becomes of it."""

PENDING = frozenset({0xFF00, 0xFF01})
RETRIEVE_SECONDS = 300.0
"""Some archives answer a C-GET or C-MOVE late: objects come from slow storage, or one answer is for all."""
MOVE_DESTINATION_UNKNOWN = 0xA801
CLASSES_AS_STORED = (contexts.MAXIMUM_PROPOSED - 1) // len(contexts.TRANSFER_SYNTAXES)
"""SOP classes whose every transfer syntax fits one association, beside the C-GET."""
UIDS_PER_REQUEST = 100
"""A list of UIDs in one identifier; some archives cut longer ones."""


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """Counts of sub-operations as the peer reports them; proof is only what arrived."""

    completed: int
    failed: int
    warning: int
    status: int


def find(level: str, keys: Mapping[str, str], peer: Peer, *, ae_title: str = "VOXTRIAL") -> list[Dataset]:
    """Return the matches of a C-FIND.

    Parameters
    ----------
    level
        ``STUDY``, ``SERIES`` or ``IMAGE``.
    keys
        Value by keyword; an empty value asks for the attribute, wildcards and ranges as in PS3.4 C.2.2.2.

    Raises
    ------
    Retryable
        The peer is out of reach, out of resources, or stopped answering.
    Fatal
        The peer does not answer queries, or refuses this one for good.
    """
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    matches: list[Dataset] = []
    with associate(peer, [(contexts.STUDY_FIND, PLAIN)], ae_title=ae_title) as association:
        _require_context(association, peer, "C-FIND")
        status = None
        for answer, match in association.send_c_find(identifier, contexts.STUDY_FIND):
            status = answer.get("Status")
            if status in PENDING and match is not None:
                matches.append(match)
    _require_success(status, peer, "query")
    return matches


def count_instances(study_instance_uid: str, peer: Peer, *, ae_title: str = "VOXTRIAL") -> int | None:
    """Return how many instances the PACS says a study has.

    NumberOfStudyRelatedInstances is optional (PS3.4 C.3.4): None where the PACS leaves it out.
    """
    keys = {"StudyInstanceUID": study_instance_uid, "NumberOfStudyRelatedInstances": ""}
    for match in find("STUDY", keys, peer, ae_title=ae_title):
        count = match.get("NumberOfStudyRelatedInstances")
        if count is not None:
            return int(count)
    return None


def instance_uids(study_instance_uid: str, peer: Peer, *, ae_title: str = "VOXTRIAL") -> dict[str, str]:
    """Return the series of every instance that the PACS has of a study, by SOP Instance UID."""
    return {uid: series for uid, series, _ in list_instances(study_instance_uid, peer, ae_title=ae_title)}


def list_instances(
    study_instance_uid: str, peer: Peer, *, ae_title: str = "VOXTRIAL"
) -> list[tuple[str, str, str]]:
    """Return SOP Instance UID, series and SOP class of every instance that the PACS has of a study.

    The SOP class is empty where the PACS does not say it: it is optional (PS3.4 table C.6-4).
    """
    keys = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": ""}
    found: list[tuple[str, str, str]] = []
    for series in find("SERIES", keys, peer, ae_title=ae_title):
        uid = str(series.SeriesInstanceUID)
        image_keys = {
            "StudyInstanceUID": study_instance_uid,
            "SeriesInstanceUID": uid,
            "SOPInstanceUID": "",
            "SOPClassUID": "",
        }
        for image in find("IMAGE", image_keys, peer, ae_title=ae_title):
            found.append((str(image.SOPInstanceUID), uid, str(image.get("SOPClassUID") or "")))
    return found


def retrieve(
    keys: Mapping[str, str | Sequence[str]],
    peer: Peer,
    into: Receiver,
    *,
    ae_title: str = "VOXTRIAL",
    level: str = "",
) -> Retrieved:
    """Fetch by C-GET: objects come on this association, so that no port of ours must be reachable.

    Parameters
    ----------
    keys
        UIDs by keyword: StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID; the deepest one that is given
        decides the level.
    into
        Where the objects go: ``into_store`` or ``into_folder``.
    """
    return retrieve_all([keys], peer, into, ae_title=ae_title, level=level)


def retrieve_all(
    requests: Iterable[Mapping[str, str | Sequence[str]]],
    peer: Peer,
    into: Receiver,
    *,
    ae_title: str = "VOXTRIAL",
    level: str = "",
    sop_classes: Sequence[str] = contexts.STORAGE_CLASSES,
    as_stored: bool = False,
) -> Retrieved:
    """Fetch several sets of keys on one association; see ``retrieve``.

    Parameters
    ----------
    sop_classes
        What may come: negotiating every storage class costs more than a small object.
    as_stored
        Propose each transfer syntax in a context of its own, so that the peer can send every object as it has
        stored it: of a context with all of them it takes one for all. At most ``CLASSES_AS_STORED``.

    Raises
    ------
    Retryable
        The peer cannot answer now, or ``into`` is out of resources.
    """
    received: list[int] = []

    def on_store(event: evt.Event) -> int:
        request: Any = event.request
        origin = Origin(calling_ae=peer.ae_title, called_ae=ae_title, peer_address=peer.host)
        offer = Offer(
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            origin=origin,
        )
        status = int(into(offer, request.DataSet.getbuffer()).status)
        received.append(status)
        return status

    choices = [(s,) for s in contexts.TRANSFER_SYNTAXES] if as_stored else [contexts.TRANSFER_SYNTAXES]
    storage = [(sop_class, syntaxes) for sop_class in sop_classes for syntaxes in choices]
    with associate(
        _patient(peer),
        [(contexts.STUDY_GET, PLAIN), *storage],
        ae_title=ae_title,
        handlers=[(evt.EVT_C_STORE, on_store)],
        scp_roles=sop_classes,
    ) as association:
        _require_context(association, peer, "C-GET", contexts.STUDY_GET)
        results = []
        for keys in requests:
            answers = association.send_c_get(_identifier(keys, level), contexts.STUDY_GET)
            try:
                results.append(_counted(answers, peer, "C-GET"))
            finally:  # the peer's status says only that we refused
                if StoreStatus.OUT_OF_RESOURCES in received:
                    raise Retryable(f"Our own store cannot take more from {peer}: disk or database.")
    refused = sum(status != StoreStatus.SUCCESS for status in received)
    return Retrieved(
        completed=len(received) - refused,
        failed=max(sum(r.failed for r in results), refused),
        warning=sum(r.warning for r in results),
        status=next((r.status for r in results if r.status), 0),
    )


def move(
    keys: Mapping[str, str | Sequence[str]],
    peer: Peer,
    destination: str,
    *,
    ae_title: str = "VOXTRIAL",
    level: str = "",
) -> Retrieved:
    """Let ``peer`` send to the AE title ``destination`` by C-MOVE.

    Notes
    -----
    Some archives answer before they have sent: what arrived at the destination is the only proof.
    """
    with associate(_patient(peer), [(contexts.STUDY_MOVE, PLAIN)], ae_title=ae_title) as association:
        _require_context(association, peer, "C-MOVE")
        answers = association.send_c_move(_identifier(keys, level), destination, contexts.STUDY_MOVE)
        return _counted(answers, peer, "C-MOVE")


def into_store(intake: Intake) -> Receiver:
    """Return a receiver that stores and records like the listener does."""

    def receive(offer: Offer, data: memoryview) -> Answer:
        reception = intake.begin(offer)
        reception.write(data)
        return reception.finish()

    return receive


def into_folder(folder: Path) -> Receiver:
    """Return a receiver that writes ``<SOP Instance UID>.dcm`` into ``folder``: for read-back and tests."""
    folder.mkdir(parents=True, exist_ok=True)

    def receive(offer: Offer, data: memoryview) -> Answer:
        if not is_uid(offer.sop_instance_uid):
            return Answer(StoreStatus.UNPARSABLE, "not a UID")
        prefix = part10.prefix(
            sop_class_uid=offer.sop_class_uid,
            sop_instance_uid=offer.sop_instance_uid,
            transfer_syntax_uid=offer.transfer_syntax_uid,
        )
        (folder / f"{offer.sop_instance_uid}.dcm").write_bytes(prefix + data)
        return Answer(StoreStatus.SUCCESS, new=True)

    return receive


def by_instance(
    study_instance_uid: str, series_of: Mapping[str, str]
) -> Iterable[dict[str, str | list[str]]]:
    """Return keys for ``retrieve`` that fetch single instances, a series and at most 100 at a time."""
    by_series: dict[str, list[str]] = {}
    for sop_instance_uid, series_instance_uid in series_of.items():
        by_series.setdefault(series_instance_uid, []).append(sop_instance_uid)
    for series_instance_uid, uids in by_series.items():
        for first in range(0, len(uids), UIDS_PER_REQUEST):
            yield {
                "StudyInstanceUID": study_instance_uid,
                "SeriesInstanceUID": series_instance_uid,
                "SOPInstanceUID": uids[first : first + UIDS_PER_REQUEST],
            }


def _patient(peer: Peer) -> Peer:
    return replace(peer, answer_seconds=max(peer.answer_seconds, RETRIEVE_SECONDS))


def _identifier(keys: Mapping[str, str | Sequence[str]], level: str) -> Dataset:
    deepest = "IMAGE" if "SOPInstanceUID" in keys else "SERIES" if "SeriesInstanceUID" in keys else "STUDY"
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level or deepest
    for keyword, value in keys.items():
        setattr(identifier, keyword, value if isinstance(value, str) else list(value))
    return identifier


def _counted(answers: Iterable[tuple[Dataset, Dataset | None]], peer: Peer, service: str) -> Retrieved:
    last = Dataset()
    for answer, _ in answers:
        last = answer
    status = last.get("Status")
    if status not in (0x0000, 0xB000):
        _require_success(status, peer, service)
    return Retrieved(
        completed=int(last.get("NumberOfCompletedSuboperations") or 0),
        failed=int(last.get("NumberOfFailedSuboperations") or 0),
        warning=int(last.get("NumberOfWarningSuboperations") or 0),
        status=int(status or 0),
    )


def _require_context(association: Any, peer: Peer, service: str, sop_class: str = "") -> None:
    accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
    if not accepted or (sop_class and sop_class not in accepted):
        raise Fatal(f"{peer} offers no {service}.")


def _require_success(status: int | None, peer: Peer, service: str) -> None:
    """Raise unless the last status is success; A7xx and silence may pass, anything else stays (PS3.4 C.4)."""
    if status == 0x0000:
        return
    if status is None or status & 0xFF00 == 0xA700:
        answer = "stopped answering" if status is None else f"answered {status:04X}"
        raise Retryable(f"{peer} {answer} to the {service}.")
    advice = "; does it know our AE title as a destination?" if status == MOVE_DESTINATION_UNKNOWN else "."
    raise Fatal(f"{peer} refused the {service} with status {status:04X}{advice}")
