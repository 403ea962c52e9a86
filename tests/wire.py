"""A DICOM requestor made of raw bytes: it can send what no library would."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Self

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
COMMAND, LAST = 0x01, 0x02


class Closed(ConnectionError):
    """The acceptor aborted or closed the connection."""


def associate_request(
    contexts: Sequence[tuple[str, str]], *, called: str = "VOXTRIAL", calling: str = "WIRE"
) -> bytes:
    """Return an A-ASSOCIATE-RQ PDU (PS3.8 9.3.2); contexts get the identifiers 1, 3, 5, ..."""
    items = _item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, (abstract, transfer) in enumerate(contexts):
        head = struct.pack(">BBBB", 2 * number + 1, 0, 0, 0)
        items += _item(0x20, head + _item(0x30, abstract.encode()) + _item(0x40, transfer.encode()))
    user = _item(0x51, struct.pack(">L", 16_384)) + _item(0x52, b"1.2.3.4.5.6.7")
    items += _item(0x50, user)
    titles = called.ljust(16).encode() + calling.ljust(16).encode()
    return pdu(0x01, struct.pack(">HH", 1, 0) + titles + b"\0" * 32 + items)


def pdu(kind: int, body: bytes) -> bytes:
    """Return a PDU of any type."""
    return struct.pack(">BBL", kind, 0, len(body)) + body


def pdv(context: int, control: int, data: bytes) -> bytes:
    """Return a presentation data value item."""
    return struct.pack(">LBB", len(data) + 2, context, control) + data


def command(**elements: str | int) -> bytes:
    """Return a command set in Implicit VR Little Endian; keys are element numbers such as ``e0100``."""
    body = b""
    for key, value in sorted(elements.items()):
        number = int(key[1:], 16)
        raw = struct.pack("<H", value) if isinstance(value, int) else _even(value.encode("latin-1"))
        body += struct.pack("<HHL", 0, number, len(raw)) + raw
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def store_request(sop_instance_uid: str, sop_class_uid: str = CT_IMAGE_STORAGE, message: int = 1) -> bytes:
    """Return the command set of a C-STORE-RQ."""
    return command(
        e0002=sop_class_uid, e0100=0x0001, e0110=message, e0700=2, e0800=0x0001, e1000=sop_instance_uid
    )


def echo_request(message: int = 1) -> bytes:
    """Return the command set of a C-ECHO-RQ."""
    return command(e0002=VERIFICATION, e0100=0x0030, e0110=message, e0800=0x0101)


class Wire:
    """One connection; an association once ``associate`` returned."""

    def __init__(self, port: int, timeout: float = 20.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def associate(self, *contexts: tuple[str, str], called: str = "VOXTRIAL", calling: str = "WIRE") -> Self:
        """Negotiate; raise ``Closed`` when the acceptor does not accept."""
        wanted = contexts or (
            (CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN),
            (VERIFICATION, IMPLICIT_LITTLE_ENDIAN),
        )
        self.socket.sendall(associate_request(wanted, called=called, calling=calling))
        kind, body = self.receive()
        if kind != 0x02:
            raise Closed(f"PDU {kind:02X} {body[:4].hex()}")
        return self

    def send(self, *values: bytes) -> None:
        """Send presentation data values in one P-DATA-TF."""
        self.socket.sendall(pdu(0x04, b"".join(values)))

    def store(
        self,
        body: bytes,
        sop_instance_uid: str,
        *,
        sop_class_uid: str = CT_IMAGE_STORAGE,
        piece: int = 16_000,
    ) -> int:
        """Send ``body`` as a C-STORE in pieces and return the status."""
        self.send(pdv(1, COMMAND | LAST, store_request(sop_instance_uid, sop_class_uid)))
        for at in range(0, max(len(body), 1), piece):
            last = LAST if at + piece >= len(body) else 0
            self.send(pdv(1, last, body[at : at + piece]))
        return self.status()

    def echo(self, context: int = 3) -> int:
        """Verify and return the status."""
        self.send(pdv(context, COMMAND | LAST, echo_request()))
        return self.status()

    def status(self) -> int:
        """Return the status of the next response."""
        kind, body = self.receive()
        if kind != 0x04:
            raise Closed(f"PDU {kind:02X} {body[:4].hex()}")
        return elements(body[6:])[0x0900]

    def release(self) -> None:
        """Release the association in order."""
        self.socket.sendall(pdu(0x05, b"\0" * 4))
        kind, _ = self.receive()
        assert kind == 0x06

    def receive(self) -> tuple[int, bytes]:
        """Return type and body of the next PDU."""
        kind, _, length = struct.unpack(">BBL", self._exactly(6))
        return kind, self._exactly(length)

    def ended(self) -> bool:
        """Return whether the acceptor ends the connection, after whatever it still says."""
        try:
            while self.socket.recv(4096):
                pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise Closed("the connection was closed")
            data += more
        return data


def elements(command_set: bytes) -> dict[int, int]:
    """Return the two byte integers of a command set by element number."""
    found, at = {}, 0
    while at + 8 <= len(command_set):
        _, number, length = struct.unpack_from("<HHL", command_set, at)
        if length == 2:
            (found[number],) = struct.unpack_from("<H", command_set, at + 8)
        at += 8 + length
    return found


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def _even(raw: bytes) -> bytes:
    return raw + b"\0" * (len(raw) % 2)
