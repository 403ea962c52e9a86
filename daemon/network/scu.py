"""Send stored objects byte for byte, and say of each what its fate is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_role
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from voxtrial.daemon.errors import Fatal, Retryable
from voxtrial.daemon.network import contexts, requestor, tls
from voxtrial.daemon.network.stack import ANSWER_SECONDS, NO_DELAY, application_entity
from voxtrial.daemon.network.status import COERCED, Verdict, verdict
from voxtrial.daemon.settings import TLS

PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@dataclass(frozen=True)
class Peer:
    """A DICOM node."""

    host: str
    port: int
    ae_title: str
    tls: TLS | None = None
    answer_seconds: float = ANSWER_SECONDS
    """How long it may take to answer a request."""

    def __str__(self) -> str:
        """Name the node as an administrator would."""
        return f"{self.ae_title} at {self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class StoreOutcome:
    """What became of one file."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    status: int | None
    """C-STORE status; None: there was no answer, or nothing could be sent."""
    verdict: Verdict
    reason: str = ""

    @property
    def stored(self) -> bool:
        """Whether the peer has the object."""
        return self.verdict is Verdict.STORED


@dataclass(frozen=True)
class _Object:
    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@contextmanager
def associate(
    peer: Peer,
    proposed: Sequence[tuple[str, Sequence[str]]],
    *,
    ae_title: str,
    handlers: Sequence[Any] = (),
    scp_roles: Iterable[str] = (),
) -> Iterator[Association]:
    """Open an association and release it at the end.

    Parameters
    ----------
    proposed
        SOP class UID and transfer syntaxes of each presentation context.
    scp_roles
        SOP classes that we propose to be the SCP of (C-GET sends back on the same association).

    Raises
    ------
    Retryable
        The peer is out of reach, or rejects for now.
    Fatal
        The peer rejects for good: an AE title is unknown, or TLS is refused.
    """
    entity = application_entity(ae_title)
    entity.dimse_timeout = peer.answer_seconds
    requested = [build_context(UID(sop_class), list(syntaxes)) for sop_class, syntaxes in proposed]
    roles: list[Any] = [build_role(UID(sop_class), scp_role=True) for sop_class in scp_roles]
    association = entity.associate(
        peer.host,
        peer.port,
        contexts=requested,
        ae_title=peer.ae_title,
        max_pdu=entity.maximum_pdu_size,
        ext_neg=roles,
        tls_args=(tls.client_context(peer.tls), peer.host) if peer.tls else None,
        evt_handlers=[NO_DELAY, *handlers],
    )
    try:
        _require_established(association, peer)
        requestor.hold(association)
        yield association
    finally:
        if requestor.is_usable(association):
            association.release()
        requestor.let_go(association)


def store(files: Sequence[Path], peer: Peer, *, ae_title: str = "VOXTRIAL") -> list[StoreOutcome]:
    """Send Part 10 files, in order, and return an outcome for each; see ``store_each``."""
    outcomes = {outcome.path: outcome for outcome in store_each(files, peer, ae_title=ae_title)}
    return [outcomes[path] for path in files]


def store_each(
    files: Sequence[Path],
    peer: Peer,
    *,
    ae_title: str = "VOXTRIAL",
    still_wanted: Callable[[Path], bool] = lambda _path: True,
) -> Iterator[StoreOutcome]:
    """Send Part 10 files and yield the outcome of each as soon as it is known, unreadable files first.

    Each SOP class and transfer syntax is a presentation context of its own, so that the peer cannot choose
    one syntax for all; objects that need more contexts than one association holds go in a second one.
    Uncompressed objects are converted between explicit and implicit little endian where the peer wants it;
    compressed pixel data are sent as they are or not at all.

    Parameters
    ----------
    still_wanted
        Asked of a file when its turn comes; one that is not wanted any more is passed over.
    """
    objects = []
    for path in files:
        try:
            objects.append(_object(path))
        except (InvalidDicomError, OSError) as error:
            yield StoreOutcome(
                path=path,
                sop_class_uid="",
                sop_instance_uid="",
                status=None,
                verdict=Verdict.PERMANENT,
                reason=str(error),
            )
    for group in _groups(objects):
        yield from _store_group(group, peer, ae_title, still_wanted)


def echo(peer: Peer, *, ae_title: str = "VOXTRIAL") -> None:
    """Verify that ``peer`` answers C-ECHO.

    Raises
    ------
    Retryable, Fatal
        As ``associate``; Fatal also when the peer answers with a failure.
    """
    with associate(peer, [(contexts.VERIFICATION, PLAIN)], ae_title=ae_title) as association:
        status = association.send_c_echo().get("Status")
    if status != 0x0000:
        raise Fatal(f"{peer} answered the echo with {'nothing' if status is None else f'{status:04X}'}.")


def _require_established(association: Association, peer: Peer) -> None:
    if association.is_established:
        return
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        if answer.result == 0x01:
            raise Fatal(
                f"{peer} rejects us for good ({answer.reason_str}); check the AE titles on both sides."
            )
        raise Retryable(f"{peer} rejects us for now ({answer.reason_str}).")
    raise Retryable(f"{peer} cannot be reached, or refuses TLS.")


def _object(path: Path) -> _Object:
    meta = dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True).file_meta
    return _Object(
        path,
        str(meta.MediaStorageSOPClassUID),
        str(meta.MediaStorageSOPInstanceUID),
        str(meta.TransferSyntaxUID),
    )


def _proposals(item: _Object) -> list[tuple[str, tuple[str, ...]]]:
    """Return the contexts that one object may travel in: as stored, and converted when it is uncompressed."""
    stored = (item.sop_class_uid, (item.transfer_syntax_uid,))
    if item.transfer_syntax_uid not in PLAIN:
        return [stored]
    return [stored, (item.sop_class_uid, tuple(s for s in PLAIN if s != item.transfer_syntax_uid))]


def _groups(objects: Sequence[_Object]) -> Iterator[list[_Object]]:
    """Split ``objects`` so that the contexts of each part fit one association."""
    group: list[_Object] = []
    proposed: set[tuple[str, tuple[str, ...]]] = set()
    for item in objects:
        more = proposed | set(_proposals(item))
        if len(more) > contexts.MAXIMUM_PROPOSED:
            yield group
            group, more = [], set(_proposals(item))
        group.append(item)
        proposed = more
    if group:
        yield group


def _store_group(
    group: Sequence[_Object], peer: Peer, ae_title: str, still_wanted: Callable[[Path], bool]
) -> Iterator[StoreOutcome]:
    proposed = list(dict.fromkeys(p for item in group for p in _proposals(item)))
    pending = list(group)
    try:
        with associate(peer, proposed, ae_title=ae_title) as association:
            accepted = {
                (str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts
            }
            for number, item in enumerate(group):
                if not requestor.is_usable(association):
                    break
                if still_wanted(item.path):
                    yield _store_one(association, item, accepted, number % 0xFFFF + 1)
                pending.pop(0)
        failure, reason = Verdict.TRANSIENT, f"{peer} ended the association"
    except Retryable as error:
        failure, reason = Verdict.TRANSIENT, str(error)
    except Fatal as error:
        failure, reason = Verdict.UNAUTHORISED, str(error)
    for item in pending:
        if still_wanted(item.path):
            yield _outcome(item, None, failure, reason)


def _store_one(
    association: Association, item: _Object, accepted: set[tuple[str, str]], message_id: int
) -> StoreOutcome:
    subject: Path | Dataset
    if (item.sop_class_uid, item.transfer_syntax_uid) in accepted:
        subject = item.path
    elif any((item.sop_class_uid, s) in accepted for s in PLAIN) and item.transfer_syntax_uid in PLAIN:
        subject = dcmread(item.path)
    else:
        name = UID(item.transfer_syntax_uid).name
        reason = f"no presentation context for {UID(item.sop_class_uid).name} in {name}"
        return _outcome(item, None, Verdict.OTHER_ENCODING, reason)
    try:
        answer = association.send_c_store(subject, msg_id=message_id)
    except (RuntimeError, ValueError, OSError) as error:
        return _outcome(item, None, Verdict.TRANSIENT, str(error))
    status = answer.get("Status")
    reason = str(answer.get("ErrorComment", ""))
    if status is None:
        reason = "the peer did not answer the C-STORE"
    if status in COERCED:
        reason = reason or f"stored with coercion or warning {status:04X}"
    return _outcome(item, status, verdict(status), reason)


def _outcome(item: _Object, status: int | None, meaning: Verdict, reason: str) -> StoreOutcome:
    return StoreOutcome(
        path=item.path,
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        status=status,
        verdict=meaning,
        reason=reason,
    )
