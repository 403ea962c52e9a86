"""The accepting socket: TLS handshakes beside the accept loop, associations that share their contexts."""

from __future__ import annotations

import logging
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from pynetdicom import AE
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from voxtrial.daemon.network.bell import Bell
from voxtrial.daemon.network.reactor import EventDrivenAssociation
from voxtrial.daemon.network.shares import Share

LOGGER = logging.getLogger(__name__)
BACKLOG = 256
COURTESY_SECONDS = 0.002
"""How long a worker lets another accept that serves fewer associations."""

AssociationFactory = Callable[[], EventDrivenAssociation]
OnTLSFailure = Callable[[str, str], None]
"""Takes the peer's address and the reason."""


class _Handler(RequestHandler):
    """One connection: TLS if asked, then an association of its own."""

    server: Server

    def _create_association(self) -> EventDrivenAssociation:
        association = self.server.new_association()
        association._server = self.server
        association.name = f"AcceptorThread@{self.client_address[0]}:{self.client_address[1]}"
        association.set_socket(AssociationSocket(association, client_socket=self.request))
        acceptor = association.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = self.server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        association.requestor.address_info = self.remote
        for event, handler in self.server.association_handlers:
            association.bind(event, handler)
        return association


class Server(ThreadedAssociationServer):
    """Listens on one port.

    Parameters
    ----------
    listening
        A socket that listens already, as pre-forked workers share it, or an address to bind.
    handlers
        Event handlers that every association gets.
    """

    request_queue_size = BACKLOG
    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        ae: AE,
        listening: socket.socket | tuple[str, int],
        *,
        new_association: AssociationFactory,
        handlers: list[tuple[Any, Callable[..., Any]]],
        tls_context: ssl.SSLContext | None,
        on_tls_failure: OnTLSFailure,
        idle_seconds: float,
        share: Share,
    ) -> None:
        self.new_association = new_association
        self.association_handlers = handlers
        self._listening = listening if isinstance(listening, socket.socket) else None
        self._tls_context = tls_context
        self._on_tls_failure = on_tls_failure
        self._idle_seconds = idle_seconds
        self._share = share
        self._bell = Bell()
        self._stopping = False
        self._stopped = threading.Event()
        address = listening.getsockname() if isinstance(listening, socket.socket) else listening
        super().__init__(ae, address, ae.ae_title, [], request_handler=_Handler)
        ae._servers.append(self)

    def server_bind(self) -> None:
        """Bind, or take over the socket that the parent process has bound."""
        assert self.socket is not None
        if self._listening is None:
            super().server_bind()
        else:
            self.socket.close()
            self.socket = self._listening
            self.server_address = self.socket.getsockname()
        # Several processes wake up for one connection; those that come too late must not block in accept
        self.socket.setblocking(False)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; a handshake would hold up the others, so it comes later."""
        assert self.socket is not None
        connection, address = self.socket.accept()
        connection.setblocking(True)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The kernel ends a send or receive that takes longer; Python's own timeouts cost a system call each
        limit = struct.pack("ll", int(self._idle_seconds), int(self._idle_seconds % 1 * 1e6))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin the association, which has threads of its own; only a handshake needs one more."""
        if self._tls_context is None:
            self.process_request_thread(request, client_address)
        else:
            super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands where TLS is asked for, then begin the association."""
        if self._tls_context is not None:
            secured = self._shake_hands(request, client_address)
            if secured is None:
                return
            request = secured
        super().finish_request(request, client_address)

    def serve_forever(self, poll_interval: float = 0.0) -> None:
        """Accept until ``shutdown``; nothing wakes the thread but a connection or the bell.

        A thread that wakes up by the clock takes the interpreter lock from those that receive.
        """
        assert self.socket is not None
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        poller.register(self._bell.fileno(), select.POLLIN)
        while not self._stopping:
            poller.poll()
            if self._share.is_ahead:
                time.sleep(COURTESY_SECONDS)
            if not self._stopping:
                self._accept_one()
        self._stopped.set()

    def _accept_one(self) -> None:
        try:
            request, client_address = self.get_request()
        except OSError:
            return  # another worker was faster, or the peer is gone again
        self.process_request(request, client_address)

    def shutdown(self) -> None:
        """Accept no more, and close the socket."""
        self._stopping = True
        self._bell.ring()
        self._stopped.wait()
        self._bell.close()
        self.server_close()
        self.ae._servers.remove(self)

    def _shake_hands(self, request: socket.socket, client_address: Any) -> ssl.SSLSocket | None:
        assert self._tls_context is not None
        try:
            return self._tls_context.wrap_socket(request, server_side=True)
        except OSError as error:  # ssl.SSLError is one
            self._on_tls_failure(str(client_address[0]), getattr(error, "reason", None) or str(error))
            self.shutdown_request(request)
            return None


def listening_socket(host: str, port: int) -> socket.socket:
    """Bind and listen, for workers that will share the socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    listening.listen(BACKLOG)
    return listening
