"""The framing of an association's bytes, fed in pieces and with garbage."""

from __future__ import annotations

import struct

import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st

from voxtrial.daemon.network import command
from voxtrial.daemon.network.pdata import BUFFER_BYTES, READ_BYTES, Framer, ProtocolError

MAXIMUM_PDU = 1000


class Collected:
    """What a framer made of a stream; with ``room``, data are placed into as many bytes at a time."""

    def __init__(self, maximum_pdu: int = MAXIMUM_PDU, room: int = 0) -> None:
        self.pdus: list[bytes] = []
        self.fragments: list[tuple[int, int, bytes]] = []
        self.placed = 0
        self._open = b""
        self._place = bytearray(room)
        self.framer = Framer(
            self.pdus.append, self._fragment, maximum_pdu, lambda count: memoryview(self._place)[:count]
        )

    def _fragment(self, context: int, control: int, data: memoryview, ends: bool) -> None:
        self._open += bytes(data)
        self.placed += len(data) if data.obj is self._place else 0
        if ends:
            self.fragments.append((context, control, self._open))
            self._open = b""

    def feed(self, stream: bytes, piece: int) -> None:
        at = 0
        while at < len(stream):
            came = stream[at : at + piece]
            at += self.receive(came)

    def receive(self, came: bytes) -> int:
        """Fill the framer's spaces as a socket does, and return how much of ``came`` fitted."""
        begin = 0
        for space in self.framer.spaces():
            taken = min(len(space), len(came) - begin)
            space[:taken] = came[begin : begin + taken]
            begin += taken
        self.framer.received(begin)
        return begin


fragments = st.tuples(st.sampled_from([1, 3, 255]), st.integers(0, 3), st.binary(max_size=300))
pdus = st.one_of(
    st.lists(fragments, min_size=1, max_size=3),
    st.tuples(st.sampled_from([1, 2, 3, 5, 6, 7]), st.binary(max_size=500)),
)


@given(st.lists(pdus, max_size=12), st.integers(1, 2000), st.integers(0, 400))
def test_a_stream_is_cut_alike_in_pieces_of_any_size_wherever_its_data_are_placed(
    messages: list[list[tuple[int, int, bytes]] | tuple[int, bytes]], piece: int, room: int
) -> None:
    stream, expected_fragments, expected_pdus = b"", [], []
    for message in messages:
        if isinstance(message, tuple):
            expected_pdus.append(wire.pdu(*message))
            stream += expected_pdus[-1]
        else:
            expected_fragments += message
            stream += wire.pdu(4, b"".join(wire.pdv(*fragment) for fragment in message))
    collected = Collected(room=room)
    collected.feed(stream, piece)
    assert collected.fragments == expected_fragments
    assert collected.pdus == expected_pdus
    assert collected.framer.at_boundary


@given(st.binary(max_size=3000), st.integers(1, 700), st.integers(0, 400))
def test_garbage_is_a_protocol_error_or_harmless(stream: bytes, piece: int, room: int) -> None:
    collected = Collected(room=room)
    try:
        collected.feed(stream, piece)
    except ProtocolError:
        return
    assert len(collected.framer.spaces()[0]) > 0


@given(st.data())
def test_a_damaged_stream_is_a_protocol_error_or_harmless(data: st.DataObject) -> None:
    whole = wire.pdu(4, wire.pdv(1, 3, b"c" * 60) + wire.pdv(1, 2, b"d" * 200)) * 3
    stream = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 5))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    collected = Collected(room=data.draw(st.integers(0, 300)))
    try:
        collected.feed(bytes(stream), data.draw(st.integers(1, 400)))
    except ProtocolError:
        return
    assert sum(len(f[2]) for f in collected.fragments) <= len(stream)


@pytest.mark.parametrize(
    "stream",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x08\x00\x00\x00\x00\x04",
        struct.pack(">BBL", 4, 0, MAXIMUM_PDU + 1),
        struct.pack(">BBL", 1, 0, BUFFER_BYTES),
        struct.pack(">BBL", 1, 0, 0xFFFFFFFF),
        wire.pdu(4, struct.pack(">LBB", 1, 1, 3)),
        wire.pdu(4, struct.pack(">LBB", 0, 1, 3)),
        wire.pdu(4, struct.pack(">LBB", 0xFFFFFFFF, 1, 3)),
        wire.pdu(4, struct.pack(">LBB", 11, 1, 3) + b"1234"),
    ],
)
def test_lengths_and_types_that_cannot_be_are_refused(stream: bytes) -> None:
    with pytest.raises(ProtocolError):
        Collected().feed(stream, 64)


def test_without_a_limit_a_value_of_any_size_passes_through_one_buffer() -> None:
    collected = Collected(maximum_pdu=0)
    data = bytes(range(256)) * 8192  # 2 MiB, eight times the buffer
    collected.feed(wire.pdu(4, wire.pdv(5, 2, data)), 100_000)
    assert collected.fragments == [(5, 2, data)]


def test_data_lie_where_they_were_asked_for_but_for_the_first_of_a_message() -> None:
    """What is read together with a command is in the framer's buffer; the rest is never copied."""
    collected = Collected(maximum_pdu=0, room=1 << 20)
    data = bytes(range(256)) * 2048
    stream = wire.pdu(4, wire.pdv(1, 3, b"c" * 100))
    stream += wire.pdu(4, wire.pdv(1, 0, data[:131_060])) + wire.pdu(4, wire.pdv(1, 2, data[131_060:]))
    collected.feed(stream, len(stream))
    assert collected.fragments == [(1, 3, b"c" * 100), (1, 0, data[:131_060]), (1, 2, data[131_060:])]
    assert collected.placed == len(stream) - READ_BYTES - 12  # the header of the second PDU of data


@given(st.binary(max_size=200))
def test_command_sets_are_read_or_refused(data: bytes) -> None:
    try:
        command.parse(data)
    except command.BadCommand:
        return


def test_a_store_request_is_read() -> None:
    request = command.parse(wire.store_request("1.2.3", message=7))
    assert request == command.Command(0x0001, 7, wire.CT_IMAGE_STORAGE, "1.2.3", True)


def test_a_response_is_what_pynetdicom_reads() -> None:
    from pynetdicom.dimse_messages import C_STORE_RSP, DIMSEMessage
    from pynetdicom.pdu import P_DATA_TF

    request = command.parse(wire.store_request("1.2.3", message=7))
    data = P_DATA_TF()
    data.decode(command.response(5, request, 0xC111, "another object is stored under this UID"))
    message = DIMSEMessage()
    assert message.decode_msg(data.to_primitive())
    assert isinstance(message, C_STORE_RSP)
    answer = message.message_to_primitive()
    assert (answer.Status, answer.MessageIDBeingRespondedTo) == (0xC111, 7)
    assert answer.AffectedSOPInstanceUID == "1.2.3"
    assert answer.ErrorComment == "another object is stored under this UID"
