"""Cut the byte stream of an association into PDUs, in one buffer that is used over and over (PS3.8 9.3).

P-DATA-TF is passed on while it arrives, as views of the buffer, so that an object of any size needs no memory
of its own. Every other PDU is passed on whole.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

P_DATA_TF = 0x04
PDU_TYPES = frozenset(range(0x01, 0x08))
HEADER = struct.Struct(">BBL")
VALUE_HEADER = struct.Struct(">LBB")
BUFFER_BYTES = 1 << 18
_LENGTH = struct.Struct(">L")

OnPDU = Callable[[bytes], None]
"""Takes a whole PDU other than P-DATA-TF, header included."""
OnFragment = Callable[[int, int, memoryview, bool], None]
"""Takes presentation context, message control header, data, and whether the data end the fragment.

The view is valid during the call only.
"""


class ProtocolError(ValueError):
    """The peer sent what no PDU can be; the association is aborted."""


class Framer:
    """The stream of one association.

    Parameters
    ----------
    maximum_pdu
        Longest P-DATA-TF that we announced, bytes; 0: no limit.
    """

    def __init__(self, on_pdu: OnPDU, on_fragment: OnFragment, maximum_pdu: int = 0) -> None:
        self._on_pdu = on_pdu
        self._on_fragment = on_fragment
        self._maximum_pdu = maximum_pdu
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._pdu_left = 0  # of the P-DATA-TF that is being read
        self._value_left = 0  # of the fragment that is being read
        self._context = 0
        self._control = 0

    @property
    def space(self) -> memoryview:
        """Where the next bytes of the stream belong; never empty."""
        return self._view[self._filled :]

    @property
    def at_boundary(self) -> bool:
        """Whether the stream stands between two PDUs."""
        return not (self._filled or self._pdu_left)

    def received(self, count: int) -> None:
        """Take ``count`` bytes that were written into ``space``.

        Raises
        ------
        ProtocolError
            The bytes are no PDUs: unknown type, too long, or values that do not fit into their PDU.
        """
        end = self._filled + count
        at = self._consume(end)
        left = end - at
        if left and at:
            self._buffer[:left] = self._buffer[at:end]
        self._filled = left

    def _consume(self, end: int) -> int:
        """Work through the buffer up to ``end``; return where the unfinished rest begins."""
        at = 0
        while True:
            if self._value_left:
                taken = min(self._value_left, end - at)
                if not taken:
                    return at
                self._value_left -= taken
                self._pdu_left -= taken
                self._on_fragment(
                    self._context, self._control, self._view[at : at + taken], not self._value_left
                )
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
