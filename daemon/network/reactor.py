"""pynetdicom's reactors, waiting for something to happen instead of sleeping a millisecond at a time.

The DUL reactor waits in ``poll`` on the socket and on a bell; the association reactor waits for its bell.
P-DATA-TF goes to ``service.Service`` in the DUL's thread; all other PDUs go through pynetdicom's decoder and
state machine. The private names that this leans on are pinned with the version and guarded by contract tests
(``tests/unit/daemon/network/test_pynetdicom_contract.py``).
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC
from pynetdicom.pdu_primitives import P_DATA

from voxtrial.daemon.network.bell import Bell, RingingQueue
from voxtrial.daemon.network.negotiation import (
    REQUEST_RECEIVED,
    Answers,
    KnownAnswer,
    RememberingACSE,
    is_remembered,
    known_request,
)
from voxtrial.daemon.network.pdata import NOWHERE, Framer, ProtocolError
from voxtrial.daemon.network.service import Service

LOGGER = logging.getLogger(__name__)

LONGEST_WAIT_SECONDS = 1.0
"""Timers are looked at this often when nothing happens."""
CLOSING_SECONDS = 0.2
"""How long a peer has to close the connection after our last word, before we do."""
READS_IN_A_ROW = 16
"""How often the socket is read before the reactor looks at its timers and at what we have to say."""
NOTHING_MORE = None
"""Wakes an association that waits for its request, when the upper layer has ended: who closes without a word
would be waited for until the ACSE timeout."""
DATA_TRANSFER, AWAITING_CLOSE, IDLE = "Sta6", "Sta13", "Sta1"
ARTIM_EXPIRED, CLOSED, INVALID = "Evt18", "Evt17", "Evt19"


class EventDrivenDUL(DULServiceProvider):
    """The upper layer of one accepted association."""

    def __init__(self, association: EventDrivenAssociation) -> None:
        super().__init__(association)
        self.daemon = True
        self._association = association
        self._bell = Bell()
        self._poller = select.poll()
        self._polled = -1
        self._connection: socket.socket | None = None
        self._stream_ended = False
        self.service: Service | None = None
        self.event_queue = RingingQueue(self._bell.ring)
        self.to_provider_queue = RingingQueue(self._bell.ring)
        self.to_user_queue = RingingQueue(association.bell.set)
        self._framer = Framer(self._on_pdu, self._on_fragment, association.ae.maximum_pdu_size, self._place)

    def kill_dul(self) -> None:
        """Stop the reactor."""
        super().kill_dul()
        self._bell.ring()

    def stop_dul(self) -> bool:
        """Stop the reactor when the state machine is idle, and wait for its end."""
        if self.state_machine.current_state != IDLE:
            return False
        self._kill_thread = True
        self._bell.ring()
        if threading.current_thread() is not self:
            self.join()
        return True

    def run_reactor(self) -> None:
        """Run until killed: timers, then what we have to say, then what the peer says."""
        self._idle_timer.start()
        self.assoc._dul_ready.set()
        try:
            self._watch()
            while not self._kill_thread:
                if self.artim_timer.expired:
                    self.event_queue.put(ARTIM_EXPIRED)
                elif not self._process_recv_primitive() and not self._run_events():
                    self._wait()
                self._run_events()
        except Exception:
            LOGGER.exception("association aborted")
            self._abort_now()
        finally:
            if self.service is not None:
                self.service.end()
            if self._connection is not None:
                self._connection.close()  # pynetdicom forgets it when the peer was faster
            self._bell.close()
            self.to_user_queue.put(NOTHING_MORE)

    def let_go(self) -> None:
        """Give back the buffer, and what refers to us, when the reactor has ended."""
        del self._framer
        self.service = None
        for part in (self.state_machine, self.socket):
            if part is not None:
                vars(part).clear()

    def _run_events(self) -> bool:
        """Let the state machine act on every event; return whether there was one."""
        acted = False
        while self.event_queue.queue:  # only this thread takes from it
            self.state_machine.do_action(self.event_queue.get(block=False))
            acted = True
        return acted

    def _watch(self) -> None:
        assert self.socket is not None
        assert self.socket.socket is not None
        self._connection = self.socket.socket
        self._polled = self._connection.fileno()
        self._poller.register(self._polled, select.POLLIN)
        self._poller.register(self._bell.fileno(), select.POLLIN)

    def _wait(self) -> None:
        """Sleep until the peer or we have something, and read what the peer says."""
        connection = None if self.socket is None else self.socket.socket
        if connection is None or connection.fileno() != self._polled:
            self._stop_watching()
        pending = isinstance(connection, ssl.SSLSocket) and not self._stream_ended and connection.pending()
        closing = self.state_machine.current_state == AWAITING_CLOSE
        seconds = (
            CLOSING_SECONDS if closing else max(0.0, min(self.artim_timer.remaining, LONGEST_WAIT_SECONDS))
        )
        ready = self._poller.poll(0 if pending else seconds * 1000)
        descriptors = {fd for fd, _ in ready}
        if self._bell.fileno() in descriptors:
            self._bell.silence()
        if connection is not None and (pending or self._polled in descriptors):
            self._receive(connection)
        elif closing and not ready and self.socket is not None:
            self.socket.close()  # which puts Evt17

    def _receive(self, connection: socket.socket) -> None:
        """Read what there is; inside an object the next piece is mostly there already."""
        secure = isinstance(connection, ssl.SSLSocket)
        self._read(connection, 0)
        if secure:
            return
        for _ in range(READS_IN_A_ROW):
            if self._framer.at_boundary or self._stream_ended or self.event_queue.queue:
                break
            if not self._read(connection, socket.MSG_DONTWAIT):
                break
        if not self._stream_ended:
            # The sender may wait for this acknowledgement before it sends its next small segment
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _read(self, connection: socket.socket, flags: int) -> bool:
        """Read once; return whether there was something."""
        spaces = self._framer.spaces()
        try:
            if isinstance(connection, ssl.SSLSocket):
                count = connection.recv_into(spaces[0])
            else:
                count = connection.recvmsg_into(spaces, 0, flags)[0]
        except (ssl.SSLWantReadError, BlockingIOError):
            return False
        except OSError:
            count = 0
        if count == 0:
            self._stop_watching()
            self._stream_ended = True
            self.event_queue.put(CLOSED)
            return False
        if self.state_machine.current_state == AWAITING_CLOSE:
            return True  # nothing that comes after our last word counts
        self._idle_timer.restart()
        try:
            self._framer.received(count)
        except ProtocolError as error:
            LOGGER.warning("protocol error", extra={"reason": str(error)})
            self.event_queue.put(INVALID)
        return True

    def _stop_watching(self) -> None:
        if self._polled >= 0:
            self._poller.unregister(self._polled)
            self._polled = -1

    def _on_pdu(self, data: bytes) -> None:
        pdu: Any
        try:
            if is_remembered(data):
                pdu, event = known_request(data), REQUEST_RECEIVED
                self._association.on_known_request(data)
            else:
                pdu, event = self._decode_pdu(bytearray(data))
        except Exception as error:
            # pynetdicom's decoders raise whatever the bytes provoke
            raise ProtocolError(f"a PDU cannot be decoded: {error}") from error
        self._recv_pdu.put(pdu)
        self.event_queue.put(event)
        self._run_events()

    def _on_fragment(self, context_id: int, control: int, data: memoryview, ends: bool) -> None:
        if self.state_machine.current_state != DATA_TRANSFER:
            raise ProtocolError(f"data in state {self.state_machine.current_state}")
        if self.service is None:
            self.service = self._association.new_service()
        self.service.on_fragment(context_id, control, data, ends)

    def _place(self, count: int) -> memoryview:
        return NOWHERE if self.service is None else self.service.place(count)

    def forward(self, context_id: int, control: int, data: bytes) -> None:
        """Hand a value to pynetdicom's DIMSE provider."""
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, bytes((control,)) + data))
        self.assoc.dimse.receive_primitive(primitive)

    def reply(self, pdu: bytes) -> None:
        """Send a whole PDU at once."""
        assert self.socket is not None
        assert self.socket.socket is not None
        try:
            self.socket.socket.sendall(pdu)
        except OSError:
            self.event_queue.put(CLOSED)
        self._idle_timer.restart()

    def _send(self, pdu: Any) -> None:
        """Send a PDU of the state machine; an acceptance is encoded once for all that ask the same."""
        if isinstance(pdu, A_ASSOCIATE_AC):
            self.reply(self._association.answer(pdu))
        else:
            super()._send(pdu)

    def _abort_now(self) -> None:
        """Say goodbye past the state machine, which cannot be trusted any more."""
        abort = A_ABORT_RQ()
        abort.source, abort.reason_diagnostic = 0x02, 0x00
        if self.socket is not None and self.socket.socket is not None:
            self.socket.send(abort.encode())
        self.assoc.is_aborted, self.assoc.is_established = True, False
        self.assoc._kill = True
        self._kill_thread = True


class EventDrivenAssociation(Association):
    """An accepted association.

    Parameters
    ----------
    make_service
        Builds the service once contexts are negotiated.
    answers
        What known requests are answered with.
    on_begin
        Called before the association is served.
    on_end
        Called when the association is over, however it ended.
    """

    def __init__(
        self,
        ae: Any,
        mode: str,
        *,
        make_service: Callable[[EventDrivenAssociation], Service],
        answers: Answers,
        on_begin: Callable[[], None],
        on_end: Callable[[EventDrivenAssociation], None],
    ) -> None:
        self.bell = threading.Event()
        super().__init__(ae, mode)
        vars(self.dul).clear()  # ours takes its place, and a thread that never runs refers to itself
        self._make_service = make_service
        self._answers = answers
        self._request = b""
        self.known_answer: KnownAnswer | None = None
        self._on_begin = on_begin
        self._on_end = on_end
        self._ending = threading.Lock()
        self._is_over = False
        self.acse = RememberingACSE(self)
        self.upper = EventDrivenDUL(self)
        self.dul = self.upper
        self.dimse.msg_queue = RingingQueue(self.bell.set)
        # Timeouts live in the DUL's timers
        self.acse_timeout, self.network_timeout = ae.acse_timeout, ae.network_timeout

    def new_service(self) -> Service:
        """Return the service of this association."""
        return self._make_service(self)

    def on_known_request(self, request: bytes) -> None:
        """Look for the answer to ``request``."""
        self._request, self.known_answer = request, self._answers.get(request)

    def answer(self, pdu: A_ASSOCIATE_AC) -> bytes:
        """Return the bytes of an acceptance, and remember them with what they accept."""
        if self.known_answer is not None:
            return self.known_answer.pdu
        data = bytes(pdu.encode())
        self._answers.remember(self._request, KnownAnswer(self._accepted_cx, self._rejected_cx, data))
        return data

    def start(self) -> None:
        """Begin to serve; what cannot begin is over."""
        self._on_begin()
        try:
            super().start()
        except RuntimeError:  # no thread to be had
            self._on_end(self)
            raise

    def run(self) -> None:
        """Serve, and come apart."""
        try:
            super().run()
        finally:
            self._come_apart()

    def run_reactor(self) -> None:
        """Serve the association to its end."""
        try:
            super().run_reactor()
        finally:
            self._on_end(self)

    def _abort_blocking(self, block: bool = True) -> None:
        """Abort, unless the association is over; pynetdicom calls this past ``abort`` after any event."""
        with self._ending:
            if not self._is_over:
                super()._abort_blocking(block)

    def _come_apart(self) -> None:
        """Let the parts go: they know each other and us, and only the cyclic collector would free them."""
        if self.upper.is_alive():
            self.upper.kill_dul()
            self.upper.join()
        with self._ending:
            self._is_over = True
            self.upper.let_go()
            for part in (self.acse, self.dimse, self.requestor, self.acceptor):
                vars(part).clear()
            del self.upper, self.dul
            vars(self).pop("abort", None)  # pynetdicom puts a bound method there

    def _run_reactor(self) -> None:
        """Serve what the DUL hands on, until release, abort, silence or the end of the DUL."""
        while not self._kill:
            context_id, message = self.dimse.get_msg(block=False)
            if message is not None and context_id is not None:
                self._serve_request(message, context_id)
                continue
            if self.is_established and self.acse.is_release_requested():
                self.acse.send_release(is_response=True)
                self.is_released, self.is_established = True, False
                evt.trigger(self, evt.EVT_RELEASED, {})
            elif self.acse.is_aborted():
                self.dul.receive_pdu(wait=False)
                self.is_aborted, self.is_established = True, False
                evt.trigger(self, evt.EVT_ABORTED, {})
            elif self.dul.idle_timer_expired():
                self.abort()
            elif self.dul.is_alive():
                self.bell.wait(LONGEST_WAIT_SECONDS)
                self.bell.clear()
                continue
            self.kill()
            return
