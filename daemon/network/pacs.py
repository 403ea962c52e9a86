"""A small PACS for demonstrations and tests: files in a folder, an index in memory, loopback only.

It stores, finds at study, series and image level, gives back by C-GET and C-MOVE, commits, and echoes. It is
no archive: no access control, no durability.
"""

from __future__ import annotations

import fnmatch
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.filereader import dcmread
from pynetdicom import AE, evt

from voxtrial.daemon.errors import VoxtrialError
from voxtrial.daemon.network import contexts, part10
from voxtrial.daemon.network.scan import is_uid
from voxtrial.daemon.network.scu import PLAIN, Peer, associate
from voxtrial.daemon.network.stack import NO_DELAY, application_entity

LEVELS = ("STUDY", "SERIES", "IMAGE")
NO_SUCH_OBJECT = 0x0112
CANCELLED = 0xFE00
REPORT_DELAY_SECONDS = 0.05
"""After the answer to the commitment request, as archives do."""


class SmallPACS:
    """The PACS, in this process.

    Parameters
    ----------
    folder
        Where objects are kept, as ``<study>/<series>/<sop>.dcm``; what is there already is served.
    ae_title
        Its AE title.
    known
        Nodes that C-MOVE may send to and that commitment reports go to, by AE title; may be added to at any
        time.
    """

    def __init__(
        self,
        folder: Path,
        ae_title: str = "SMALLPACS",
        *,
        port: int = 0,
        known: Mapping[str, Peer] | None = None,
    ) -> None:
        self.folder = folder
        self.ae_title = ae_title
        self.known: dict[str, Peer] = dict(known or {})
        self._wanted_port = port
        self._lock = threading.Lock()
        self._index: dict[str, tuple[Dataset, Path]] = {}
        self._server: Any = None

    @property
    def port(self) -> int:
        """TCP port in use."""
        return int(self._server.server_address[1])

    @property
    def peer(self) -> Peer:
        """The PACS as others address it."""
        return Peer("127.0.0.1", self.port, self.ae_title)

    def start(self) -> Self:
        """Index the folder and listen on loopback."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("*/*/*.dcm"):
            self._add(path)
        self._entity = self._application_entity()
        self._server = self._entity.start_server(
            ("127.0.0.1", self._wanted_port),
            block=False,
            evt_handlers=[
                NO_DELAY,
                (evt.EVT_C_STORE, self._on_store),
                (evt.EVT_C_ECHO, lambda _event: 0x0000),
                (evt.EVT_C_FIND, self._on_find),
                (evt.EVT_C_GET, self._on_get),
                (evt.EVT_C_MOVE, self._on_move),
                (evt.EVT_N_ACTION, self._on_commitment),
            ],
        )
        return self

    def stop(self) -> None:
        """Close the port and end all associations."""
        self._entity.shutdown()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def objects(self) -> list[Path]:
        """Return the files of all objects, sorted."""
        with self._lock:
            return sorted(path for _, path in self._index.values())

    def _application_entity(self) -> AE:
        entity = application_entity(self.ae_title)
        entity.maximum_associations = 100
        for sop_class in contexts.STORAGE_CLASSES:
            entity.add_supported_context(
                sop_class, list(contexts.TRANSFER_SYNTAXES), scu_role=True, scp_role=True
            )
        for sop_class in (
            contexts.VERIFICATION,
            contexts.STUDY_FIND,
            contexts.STUDY_GET,
            contexts.STUDY_MOVE,
            contexts.COMMITMENT,
        ):
            entity.add_supported_context(sop_class, list(PLAIN))
        return entity

    def _add(self, path: Path) -> None:
        header = dcmread(path, stop_before_pixels=True)
        with self._lock:
            self._index[str(header.SOPInstanceUID)] = (header, path)

    def _on_store(self, event: evt.Event) -> int:
        request: Any = event.request
        dataset = event.dataset
        uids = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
        if not all(is_uid(uid) for uid in uids):
            return 0xC000
        path = self.folder / uids[0] / uids[1] / f"{uids[2]}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = part10.prefix(
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
        )
        path.write_bytes(prefix + request.DataSet.getbuffer())
        self._add(path)
        return 0x0000

    def _matches(self, identifier: Dataset) -> list[tuple[Dataset, Path]]:
        """Return the objects that every key of ``identifier`` matches."""
        with self._lock:
            entries = list(self._index.values())
        keys = [element for element in identifier if element.keyword not in _NOT_MATCHED and element.value]
        return [entry for entry in entries if all(_match(k.value, entry[0].get(k.keyword)) for k in keys)]

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        identifier = event.identifier
        level = str(identifier.get("QueryRetrieveLevel", ""))
        if level not in LEVELS:
            yield 0xA900, None
            return
        unique = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")[LEVELS.index(level)]
        groups: dict[str, list[Dataset]] = {}
        for header, _ in self._matches(identifier):
            groups.setdefault(str(header.get(unique)), []).append(header)
        for headers in groups.values():
            if event.is_cancelled:
                yield CANCELLED, None
                return
            yield 0xFF00, self._answer(identifier, level, headers)

    def _answer(self, identifier: Dataset, level: str, headers: list[Dataset]) -> Dataset:
        answer = Dataset()
        answer.QueryRetrieveLevel = level
        answer.RetrieveAETitle = self.ae_title
        answer.SpecificCharacterSet = headers[0].get("SpecificCharacterSet", "ISO_IR 192")
        for element in identifier:
            keyword = keyword_for_tag(element.tag)
            if keyword in ("QueryRetrieveLevel", "SpecificCharacterSet"):
                continue
            value = _COMPUTED[keyword](headers) if keyword in _COMPUTED else headers[0].get(keyword)
            if keyword:
                setattr(answer, keyword, value)
        return answer

    def _on_get(self, event: evt.Event) -> Iterator[Any]:
        found = self._matches(event.identifier)
        yield len(found)
        yield from self._sub_operations(event, found)

    def _on_move(self, event: evt.Event) -> Iterator[Any]:
        target = self.known.get(str(event.move_destination).strip())
        if target is None:
            yield None, None
            return
        found = self._matches(event.identifier)
        # A context for each class and syntax: the receiver takes the syntax that the object is stored in
        pairs = dict.fromkeys((h.SOPClassUID, h.file_meta.TransferSyntaxUID) for h, _ in found)
        wanted = [_context(sop_class, syntax) for sop_class, syntax in pairs]
        yield target.host, target.port, {"ae_title": target.ae_title, "contexts": wanted}
        yield len(found)
        yield from self._sub_operations(event, found)

    def _sub_operations(
        self, event: evt.Event, found: list[tuple[Dataset, Path]]
    ) -> Iterator[tuple[int, Dataset | None]]:
        for _, path in found:
            if event.is_cancelled:
                yield CANCELLED, None
                return
            yield 0xFF00, dcmread(path)

    def _on_commitment(self, event: evt.Event) -> tuple[int, None]:
        association: Any = event.assoc
        request = event.action_information
        caller = association.requestor.primitive.calling_ae_title.strip()
        threading.Thread(target=self._report, args=(request, caller, association), daemon=True).start()
        return 0x0000, None

    def _report(self, request: Dataset, caller: str, association: Any) -> None:
        """Send the report, on a new association where the caller's address is known."""
        information, complete = self._report_of(request)
        event_type = 1 if complete else 2
        time.sleep(REPORT_DELAY_SECONDS)
        target = self.known.get(caller)
        if target is None:
            if association.is_established:
                _send_report(association, information, event_type)
            return
        try:
            with associate(
                target,
                [(contexts.COMMITMENT, PLAIN)],
                ae_title=self.ae_title,
                scp_roles=[contexts.COMMITMENT],
            ) as own:
                _send_report(own, information, event_type)
        except VoxtrialError:
            return  # the requestor asks again when no report comes

    def _report_of(self, request: Dataset) -> tuple[Dataset, bool]:
        information = Dataset()
        information.TransactionUID = request.TransactionUID
        committed, failed = [], []
        with self._lock:
            held = {uid: str(header.SOPClassUID) for uid, (header, _) in self._index.items()}
        for wanted in request.ReferencedSOPSequence:
            item = Dataset()
            item.ReferencedSOPClassUID = wanted.ReferencedSOPClassUID
            item.ReferencedSOPInstanceUID = wanted.ReferencedSOPInstanceUID
            if wanted.ReferencedSOPInstanceUID in held:
                committed.append(item)
            else:
                item.FailureReason = NO_SUCH_OBJECT
                failed.append(item)
        if committed:
            information.ReferencedSOPSequence = committed
        if failed:
            information.FailedSOPSequence = failed
        return information, not failed


def _send_report(association: Any, information: Dataset, event_type: int) -> None:
    association.send_n_event_report(
        information, event_type, contexts.COMMITMENT, contexts.COMMITMENT_INSTANCE
    )


def _context(sop_class: str, transfer_syntax: str) -> Any:
    from pynetdicom.presentation import build_context

    return build_context(sop_class, transfer_syntax)


_NOT_MATCHED = frozenset(
    {
        "QueryRetrieveLevel",
        "SpecificCharacterSet",
        "NumberOfStudyRelatedInstances",
        "NumberOfStudyRelatedSeries",
        "NumberOfSeriesRelatedInstances",
        "ModalitiesInStudy",
    }
)

_COMPUTED: dict[str, Any] = {
    "NumberOfStudyRelatedInstances": len,
    "NumberOfSeriesRelatedInstances": len,
    "NumberOfStudyRelatedSeries": lambda headers: len({h.SeriesInstanceUID for h in headers}),
    "ModalitiesInStudy": lambda headers: sorted({h.Modality for h in headers}),
}


def _match(wanted: Any, held: Any) -> bool:
    """Match one key: list of UIDs, range, wildcard, or single value (PS3.4 C.2.2.2)."""
    if isinstance(wanted, (list, tuple)) or type(wanted).__name__ == "MultiValue":
        return str(held) in {str(value) for value in wanted}
    key, value = str(wanted), "" if held is None else str(held)
    if "-" in key and key.replace("-", "").isdigit():
        first, _, last = key.partition("-")
        return (not first or first <= value) and (not last or value <= last)
    return fnmatch.fnmatchcase(value.upper(), key.upper())
