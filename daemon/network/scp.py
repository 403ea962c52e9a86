"""Storage and Verification SCP: an instance is acknowledged when its bytes and its row are safe."""

from __future__ import annotations

import logging
import socket
import threading
import time
from types import TracebackType
from typing import Any, Self

from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.network import commitment, contexts, tls
from voxtrial.daemon.network.intake import Intake, intake_of
from voxtrial.daemon.network.ledger import Origin
from voxtrial.daemon.network.negotiation import Answers
from voxtrial.daemon.network.policy import Policy
from voxtrial.daemon.network.reactor import EventDrivenAssociation
from voxtrial.daemon.network.refusals import Refusal, Refusals
from voxtrial.daemon.network.server import Server
from voxtrial.daemon.network.service import Service
from voxtrial.daemon.network.shares import Share, Shares
from voxtrial.daemon.network.stack import application_entity
from voxtrial.daemon.network.sweep import sweep
from voxtrial.daemon.settings import Settings
from voxtrial.db.engine import connect

LOGGER = logging.getLogger(__name__)
DRAIN_SECONDS = 10.0
MOST_TOLD = 10_000
"""Callers and SOP classes that are remembered as audited."""
CANNOT_SAY = (2, 2, 1)
"""Result, source and reason of a rejection that is transient, with no reason given (PS3.8 9.3.4)."""


class Listener:
    """The daemon's ears, in this process.

    Parameters
    ----------
    settings
        ``[site]``, ``[database]`` and ``[listener]`` are used; port 0 takes a free one, see ``port``.
    engine
        Database to use instead of opening ``settings.database_url``.
    listening
        Sockets that listen already: plain, then TLS; pre-forked workers share them, and the parent has swept.
    share
        Of the associations that the workers serve; None: this process serves all.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine | None = None,
        *,
        listening: tuple[socket.socket, ...] = (),
        share: Share | None = None,
    ) -> None:
        self.settings = settings
        self._config = settings.listener
        self._policy = Policy(self._config)
        self._engine = engine
        self._owns_engine = engine is None
        self._listening = listening
        self._share = share or Shares(1).of(0)
        self._supported = contexts.acceptable()
        self._answers = Answers()
        self._servers: list[Server] = []
        self._served: set[EventDrivenAssociation] = set()
        self._told: set[tuple[str, str]] = set()
        self._refusals = Refusals(self._write_refusal)
        self._lock = threading.Lock()
        self.intake: Intake

    @property
    def port(self) -> int:
        """TCP port in use."""
        return int(self._servers[0].server_address[1])

    @property
    def tls_port(self) -> int:
        """TCP port in use for TLS."""
        return int(self._servers[1].server_address[1])

    def start(self) -> Self:
        """Sweep the spool, then listen; returns when associations are accepted."""
        self._engine = self._engine or connect(self.settings.database_url)
        self.intake = intake_of(self.settings, self._engine)
        if not self._listening:
            sweep(self.intake.spool, self.intake.ledger)
        self._entity = application_entity(self._config.ae_title, idle_seconds=self._config.idle_seconds)
        self._entity.maximum_pdu_size = self._config.maximum_pdu
        self._entity.maximum_associations = 1_000_000  # the policy decides, and audits
        self._serve(0, self._config.port, secure=False)
        if self._config.tls_port is not None:
            self._serve(1, self._config.tls_port, secure=True)
        return self

    def stop(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Accept no more, let open associations end, abort those that do not, close."""
        while self._servers:
            self._servers.pop().shutdown()
        deadline = time.monotonic() + drain_seconds
        while self._served and time.monotonic() < deadline:
            time.sleep(0.02)
        self._refusals.flush()  # now: aborting many takes longer than the parent waits
        for association in self._entity.active_associations:
            association.abort()
        self.intake.ledger.close()
        if self._owns_engine and self._engine is not None:
            self._engine.dispose()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(drain_seconds=0.5)

    def _serve(self, number: int, port: int, *, secure: bool) -> None:
        if secure and self._config.tls is None:
            raise Misconfigured("listener.tls_port needs [listener.tls] with certificate, key and ca.")
        server = Server(
            self._entity,
            self._listening[number] if self._listening else (self._config.host, port),
            new_association=self._new_association,
            handlers=[(evt.EVT_REQUESTED, self._on_request), (evt.EVT_N_EVENT_REPORT, self._on_commitment)],
            tls_context=tls.server_context(self._config.tls) if secure and self._config.tls else None,
            on_tls_failure=self._on_tls_failure,
            idle_seconds=self._config.idle_seconds,
            share=self._share,
        )
        self._servers.append(server)
        threading.Thread(
            target=server.serve_forever, name="accept-tls" if secure else "accept", daemon=True
        ).start()

    def _new_association(self) -> EventDrivenAssociation:
        return EventDrivenAssociation(
            self._entity,
            MODE_ACCEPTOR,
            make_service=self._new_service,
            answers=self._answers,
            on_begin=self._share.begin,
            on_end=self._on_end,
        )

    def _new_service(self, association: EventDrivenAssociation) -> Service:
        return Service(
            self.intake,
            _origin(association),
            association._accepted_cx,
            forward=association.upper.forward,
            reply=association.upper.reply,
        )

    def _on_end(self, association: EventDrivenAssociation) -> None:
        self._share.end()
        with self._lock:
            self._served.discard(association)

    def _on_request(self, event: evt.Event) -> None:
        """Turn away, or let in; pynetdicom logs what is raised here, and would go on to accept."""
        association: Any = event.assoc
        try:
            self._judge(association)
        except Exception:
            LOGGER.exception("association refused: the request could not be judged")
            if not association.is_rejected:
                association.acse.send_reject(*CANNOT_SAY)
            association.kill()

    def _judge(self, association: Any) -> None:
        origin = _origin(association)
        with self._lock:
            rejection = self._policy.rejection(
                calling_ae=origin.calling_ae,
                called_ae=origin.called_ae,
                address=origin.peer_address,
                associations=len(self._served),
            )
            if rejection is None:
                self._served.add(association)
        if rejection is not None:
            self._refuse(rejection.reason, origin)
            association.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
            association.kill()
            return
        if association.known_answer is not None:
            return
        requested = association.requestor.primitive.presentation_context_definition_list
        chosen = contexts.as_requested(requested, self._supported)
        not_taken = contexts.not_taken(requested, chosen, self._supported)
        if chosen:
            self._tell_not_taken(not_taken, origin)
        else:
            self._refuse(f"nothing accepted: {'; '.join(not_taken)}", origin)
        association.acceptor.supported_contexts = chosen

    def _tell_not_taken(self, refused: list[str], origin: Origin) -> None:
        """Audit what is proposed in vain beside the rest, once for each caller: it comes every time."""
        with self._lock:
            news = [name for name in refused if (origin.calling_ae, name) not in self._told]
            if len(self._told) > MOST_TOLD:
                self._told.clear()
            self._told.update((origin.calling_ae, name) for name in news)
        if news:
            refusal = Refusal("presentation contexts refused", f"not accepted: {'; '.join(news)}", origin)
            self._refusals.tell(refusal)

    def _on_tls_failure(self, address: str, reason: str) -> None:
        self._refuse(f"TLS: {reason}", Origin(peer_address=address, called_ae=self._config.ae_title))

    def _refuse(self, reason: str, origin: Origin) -> None:
        self._refusals.tell(Refusal("association refused", reason, origin))

    def _write_refusal(self, refusal: Refusal, times: int) -> bool:
        LOGGER.warning(refusal.action, extra={"reason": refusal.reason, "times": times})
        try:
            self.intake.ledger.refused(
                action=refusal.action, reason=refusal.reason, origin=refusal.origin, times=times
            )
        except (OperationalError, InterfaceError):
            LOGGER.exception("refusal not audited yet")
            return False
        except SQLAlchemyError:  # which no later try would mend
            LOGGER.exception("refusal not audited")
        return True

    def _on_commitment(self, event: evt.Event) -> tuple[int, None]:
        report = commitment.parse(event.event_information)
        with Session(self.intake.ledger.engine) as session, session.begin():
            commitment.keep(session, report, calling_ae=_origin(event.assoc).calling_ae)
        return 0x0000, None


def _origin(association: Any) -> Origin:
    request = association.requestor.primitive
    return Origin(
        calling_ae=request.calling_ae_title.strip(),
        called_ae=request.called_ae_title.strip(),
        peer_address=association.requestor.address,
    )
