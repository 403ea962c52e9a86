"""DICOM objects in a multipart/related body (PS3.18 8.6), taken apart while they arrive.

STOW-RS brings such a body in a request, WADO-RS in an answer; each object goes through the one intake, and is
stored byte for byte. No part is held in memory beyond its first bytes, which say whose object it is.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field

from pydicom.errors import InvalidDicomError
from python_multipart.multipart import MultipartParser, parse_options_header

from voxtrial.daemon.network.importing import HEAD_BYTES, Body
from voxtrial.daemon.network.intake import Answer, Intake, Offer, Reception
from voxtrial.daemon.network.ledger import Origin
from voxtrial.daemon.network.status import StoreStatus

DICOM = b"application/dicom"
FULL_HEAD = HEAD_BYTES + (1 << 15)
"""Enough for preamble, file meta group and the head of a dataset."""


class NotMultipart(ValueError):
    """The body is no multipart/related body of DICOM objects."""


@dataclass
class Received:
    """Objects of one body, by what became of them."""

    stored: list[Offer] = field(default_factory=list)
    failed: list[tuple[Offer | None, Answer]] = field(default_factory=list)


class MultipartReception:
    """One body; ``write`` takes it in pieces of any size.

    Parameters
    ----------
    content_type
        ``multipart/related; type="application/dicom"; boundary=...``.
    study_instance_uid
        Objects of other studies fail. Empty: any study.

    Raises
    ------
    NotMultipart
        The content type is another one.
    """

    def __init__(
        self, content_type: str, intake: Intake, origin: Origin, *, study_instance_uid: str = ""
    ) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/related" or options.get(b"type", DICOM) != DICOM or not boundary:
            raise NotMultipart('only multipart/related with type="application/dicom" is understood')
        self.result = Received()
        self._intake = intake
        self._origin = origin
        self._study_instance_uid = study_instance_uid
        self._head = bytearray()
        self._reception: Reception | None = None
        self._offer: Offer | None = None
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_part_data": self._data,
                "on_part_end": self._end,
            },
        )

    def write(self, data: bytes) -> None:
        """Take the next piece of the body.

        Raises
        ------
        ValueError
            The body is no multipart body of this boundary.
        """
        self._parser.write(data)

    def close(self) -> Received:
        """End the body; a part that did not end is dropped."""
        if self._reception is not None:
            self._reception.abandon()
            self._reception = None
        return self.result

    def _begin(self) -> None:
        self._head.clear()
        self._offer = self._reception = None

    def _data(self, data: bytes, start: int, end: int) -> None:
        piece = data[start:end]
        if self._reception is not None:
            self._reception.write(piece)
        elif len(self._head) < FULL_HEAD:
            self._head += piece
            if len(self._head) >= FULL_HEAD:
                self._open()

    def _end(self) -> None:
        if self._reception is None and len(self._head) < FULL_HEAD:
            self._open()
        if self._reception is None:
            return  # refused when it was opened
        answer = self._reception.finish()
        self._reception = None
        assert self._offer is not None
        if answer.status is StoreStatus.SUCCESS:
            self.result.stored.append(self._offer)
        else:
            self.result.failed.append((self._offer, answer))

    def _open(self) -> None:
        """Begin to receive, now that the head is here."""
        try:
            body = Body.of(io.BytesIO(self._head))
            self._offer = body.offer(self._origin)
        except InvalidDicomError as error:
            self.result.failed.append((None, Answer(StoreStatus.UNPARSABLE, str(error))))
            return
        refusal = None
        wanted = self._study_instance_uid
        if wanted and body.study_instance_uid() != wanted:
            refusal = Answer(StoreStatus.MISMATCH, f"the object is not of study {wanted}")
        self._reception = self._intake.begin(self._offer, refusal)
        for piece in body.pieces():
            self._reception.write(piece)
