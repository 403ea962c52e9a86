"""Cut the byte stream of an association into PDUs, in one buffer that is used over and over (PS3.8 9.3).

P-DATA-TF is passed on while it arrives, as views, so that an object of any size needs no memory of its own.
Who takes the data can say where they are to lie: the socket then writes them there, and nobody copies them.
Every other PDU is passed on whole.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

P_DATA_TF = 0x04
PDU_TYPES = frozenset(range(0x01, 0x08))
HEADER = struct.Struct(">BBL")
VALUE_HEADER = struct.Struct(">LBB")
BUFFER_BYTES = 1 << 18
READ_BYTES = 1 << 14
"""What is read at once where a header comes next: it, a command, and the first attributes of a dataset."""
_LENGTH = struct.Struct(">L")

OnPDU = Callable[[bytes], None]
"""Takes a whole PDU other than P-DATA-TF, header included."""
OnFragment = Callable[[int, int, memoryview, bool], None]
"""Takes presentation context, message control header, data, and whether the data end the fragment.

The view is valid during the call only.
"""
Place = Callable[[int], memoryview]
"""Returns where the next data of the fragment are to lie, at most so many bytes; empty: anywhere.

What then arrives there is handed over as all data are, before anything else.
"""
NOWHERE = memoryview(b"")


class ProtocolError(ValueError):
    """The peer sent what no PDU can be; the association is aborted."""


class Framer:
    """The stream of one association.

    Parameters
    ----------
    maximum_pdu
        Longest P-DATA-TF that we announced, bytes; 0: no limit.
    place
        Where data are to lie; without it they lie in the buffer.
    """

    def __init__(
        self,
        on_pdu: OnPDU,
        on_fragment: OnFragment,
        maximum_pdu: int = 0,
        place: Place = lambda _: NOWHERE,
    ) -> None:
        self._on_pdu = on_pdu
        self._on_fragment = on_fragment
        self._maximum_pdu = maximum_pdu
        self._place = place
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._headers = self._view[: HEADER.size + VALUE_HEADER.size]
        self._filled = 0
        self._placed = NOWHERE
        self._pdu_left = 0  # of the P-DATA-TF that is being read
        self._value_left = 0  # of the fragment that is being read
        self._context = 0
        self._control = 0

    def spaces(self) -> list[memoryview]:
        """Return where the next bytes of the stream belong, in this order; the first is not empty."""
        self._placed = self._place(self._value_left) if self._value_left else NOWHERE
        if not self._placed:
            return [self._view[self._filled : max(self._filled << 1, READ_BYTES)]]
        if len(self._placed) < self._value_left:
            return [self._placed]
        return [self._placed, self._headers]

    @property
    def at_boundary(self) -> bool:
        """Whether the stream stands between two PDUs."""
        return not (self._filled or self._pdu_left)

    def received(self, count: int) -> None:
        """Take ``count`` bytes that were written into ``spaces``.

        Raises
        ------
        ProtocolError
            The bytes are no PDUs: unknown type, too long, or values that do not fit into their PDU.
        """
        if self._placed:
            count = self._take_placed(count)
        end = self._filled + count
        at = self._consume(end)
        left = end - at
        if left and at:
            self._buffer[:left] = self._buffer[at:end]
        self._filled = left

    def _take_placed(self, count: int) -> int:
        """Hand over what lies where it was asked for; return how much came behind it."""
        data, self._placed = self._placed[:count], NOWHERE
        self._hand_over(data)
        return count - len(data)

    def _hand_over(self, data: memoryview) -> None:
        self._value_left -= len(data)
        self._pdu_left -= len(data)
        self._on_fragment(self._context, self._control, data, not self._value_left)

    def _consume(self, end: int) -> int:
        """Work through the buffer up to ``end``; return where the unfinished rest begins."""
        at = 0
        while True:
            if self._value_left:
                taken = min(self._value_left, end - at)
                if not taken:
                    return at
                self._hand_over(self._view[at : at + taken])
                at += taken
            elif self._pdu_left:
                if end - at < VALUE_HEADER.size:
                    return at
                self._begin_value(at)
                at += VALUE_HEADER.size
            else:
                if end - at < HEADER.size:
                    return at
                taken = self._begin_pdu(at, end)
                if not taken:
                    return at
                at += taken

    def _begin_pdu(self, at: int, end: int) -> int:
        """Return how many bytes are done with: a header, a whole PDU, or none while one is incomplete."""
        kind = self._buffer[at]
        length: int = _LENGTH.unpack_from(self._buffer, at + 2)[0]
        if kind not in PDU_TYPES:
            raise ProtocolError(f"PDU type {kind:02X} is unknown")
        if kind == P_DATA_TF:
            if self._maximum_pdu and length > self._maximum_pdu:
                raise ProtocolError(f"a PDU of {length} bytes is longer than the {self._maximum_pdu} allowed")
            self._pdu_left = length
            return HEADER.size
        whole = HEADER.size + length
        if whole > BUFFER_BYTES:
            raise ProtocolError(f"a PDU of type {kind:02X} announces {length} bytes")
        if end - at < whole:
            return 0
        self._on_pdu(bytes(self._view[at : at + whole]))
        return whole

    def _begin_value(self, at: int) -> None:
        length, self._context, self._control = VALUE_HEADER.unpack_from(self._buffer, at)
        # The length counts context and control header, which are read already
        if length < 2 or length + 4 > self._pdu_left:
            raise ProtocolError(f"a value of {length} bytes in a PDU with {self._pdu_left} bytes left")
        self._pdu_left -= VALUE_HEADER.size
        self._value_left = length - 2
        if not self._value_left:
            self._on_fragment(self._context, self._control, self._view[:0], True)
