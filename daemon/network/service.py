"""C-STORE and C-ECHO, served where the bytes arrive: no queue, no second thread, no copy.

Everything else is handed to pynetdicom's DIMSE provider, value by value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pynetdicom.presentation import PresentationContext

from voxtrial.daemon.network.command import (
    C_ECHO_RQ,
    C_STORE_RQ,
    COMMAND,
    LAST,
    BadCommand,
    Command,
    parse,
    response,
)
from voxtrial.daemon.network.intake import Answer, Intake, Offer, Reception
from voxtrial.daemon.network.ledger import Origin
from voxtrial.daemon.network.pdata import NOWHERE, ProtocolError
from voxtrial.daemon.network.status import StoreStatus

MAXIMUM_COMMAND = 1 << 16
MAXIMUM_FORWARDED = 16 << 20
"""Bytes of a message that pynetdicom collects in memory: a commitment report of some 100,000 instances."""

Forward = Callable[[int, int, bytes], None]
"""Takes presentation context, message control header and data for pynetdicom."""
Reply = Callable[[bytes], None]
"""Sends one PDU."""


@dataclass
class _Store:
    command: Command
    context_id: int
    reception: Reception


class Service:
    """Messages of one association.

    Parameters
    ----------
    accepted
        Accepted presentation contexts by identifier.
    """

    def __init__(
        self,
        intake: Intake,
        origin: Origin,
        accepted: Mapping[int, PresentationContext],
        *,
        forward: Forward,
        reply: Reply,
    ) -> None:
        self._intake = intake
        self._origin = origin
        self._accepted = accepted
        self._forward = forward
        self._reply = reply
        self._command = bytearray()
        self._store: _Store | None = None
        self._forwarded = 0

    def on_fragment(self, context_id: int, control: int, data: memoryview, ends: bool) -> None:
        """Take a piece of a message.

        Raises
        ------
        ProtocolError
            The context was not accepted, or the piece does not belong where it comes.
        """
        last = bool(control & LAST) and ends
        if control & COMMAND:
            self._on_command(context_id, data, last)
        elif self._store is not None:
            if context_id != self._store.context_id:
                raise ProtocolError("a message changes its presentation context")
            self._store.reception.write(data)
            if last:
                self._answer_store(self._store)
        else:
            self._hand_on(context_id, LAST if last else 0, bytes(data))

    def place(self, count: int) -> memoryview:
        """Return where up to ``count`` bytes of the dataset that is being received are to lie."""
        return NOWHERE if self._store is None else self._store.reception.place(count)

    def end(self) -> None:
        """Drop the object that was being received: the association is over."""
        if self._store is not None:
            self._store.reception.abandon()
            self._store = None

    def _on_command(self, context_id: int, data: memoryview, last: bool) -> None:
        if context_id not in self._accepted:
            raise ProtocolError(f"presentation context {context_id} was not accepted")
        if self._store is not None:
            raise ProtocolError("a command inside a dataset")
        self._command += data
        if len(self._command) > MAXIMUM_COMMAND:
            raise ProtocolError("the command set does not end")
        if not last:
            return
        raw, self._command = bytes(self._command), bytearray()
        try:
            command = parse(raw)
        except BadCommand as error:
            raise ProtocolError(str(error)) from error
        if command.field == C_STORE_RQ and command.has_data_set:
            self._begin_store(context_id, command)
        elif command.field == C_ECHO_RQ and not command.has_data_set:
            self._reply(response(context_id, command, StoreStatus.SUCCESS))
        else:
            self._forwarded = 0
            self._hand_on(context_id, COMMAND | LAST, raw)

    def _begin_store(self, context_id: int, command: Command) -> None:
        context = self._accepted[context_id]
        offer = Offer(
            sop_class_uid=command.sop_class_uid,
            sop_instance_uid=command.sop_instance_uid,
            transfer_syntax_uid=str(context.transfer_syntax[0]),
            origin=self._origin,
        )
        refusal = None
        if command.sop_class_uid != context.abstract_syntax:
            reason = f"SOP class {command.sop_class_uid[:64]} in a context of {context.abstract_syntax}"
            refusal = Answer(StoreStatus.SOP_CLASS_NOT_SUPPORTED, reason)
        self._store = _Store(command, context_id, self._intake.begin(offer, refusal))

    def _answer_store(self, store: _Store) -> None:
        self._store = None
        answer = store.reception.finish()
        self._reply(response(store.context_id, store.command, answer.status, answer.comment))

    def _hand_on(self, context_id: int, control: int, data: bytes) -> None:
        self._forwarded += len(data)
        if self._forwarded > MAXIMUM_FORWARDED:
            raise ProtocolError(f"a message of more than {MAXIMUM_FORWARDED} bytes")
        self._forward(context_id, control, data)
