"""Storage and Verification SCP: an instance is acknowledged when its bytes and its row are safe."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Any, Self

from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from voxtrial.daemon.network import commitment, contexts, tls
from voxtrial.daemon.network.intake import Offer, intake_of
from voxtrial.daemon.network.ledger import Origin
from voxtrial.daemon.network.policy import Policy
from voxtrial.daemon.network.stack import application_entity
from voxtrial.daemon.network.sweep import sweep
from voxtrial.daemon.settings import Settings
from voxtrial.db.engine import connect

LOGGER = logging.getLogger(__name__)
DRAIN_SECONDS = 10.0


class Listener:
    """The daemon's ears, in this process.

    Parameters
    ----------
    settings
        ``[site]``, ``[database]`` and ``[listener]`` are used; port 0 takes a free one, see ``port``.
    engine
        Database to use instead of opening ``settings.database_url``.
    """

    def __init__(self, settings: Settings, engine: Engine | None = None) -> None:
        self.settings = settings
        self._config = settings.listener
        self._policy = Policy(self._config)
        self._engine = engine
        self._owns_engine = engine is None
        self._servers: list[ThreadedAssociationServer] = []
        self._supported = contexts.acceptable()

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
        sweep(self.intake.spool, self.intake.ledger)
        self._entity = self._application_entity()
        self._serve(self._config.port, secure=False)
        if self._config.tls_port is not None:
            self._serve(self._config.tls_port, secure=True)
        return self

    def stop(self) -> None:
        """Accept no more, let open associations end, abort those that do not, close."""
        for server in self._servers:
            server.shutdown()
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._entity.active_associations and time.monotonic() < deadline:
            time.sleep(0.05)
        for association in self._entity.active_associations:
            association.abort()
        self._servers.clear()
        if self._owns_engine and self._engine is not None:
            self._engine.dispose()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _application_entity(self) -> AE:
        entity = application_entity(self._config.ae_title, idle_seconds=self._config.idle_seconds)
        entity.maximum_pdu_size = self._config.maximum_pdu
        entity.maximum_associations = 100_000  # the policy decides, and audits
        for abstract_syntax, syntaxes in self._supported.items():
            entity.add_supported_context(abstract_syntax, list(syntaxes))
        return entity

    def _serve(self, port: int, *, secure: bool) -> None:
        server: Any = self._entity.start_server(
            (self._config.host, port),
            block=False,
            ssl_context=tls.server_context(self._config.tls) if secure and self._config.tls else None,
            evt_handlers=[
                (evt.EVT_REQUESTED, self._on_request),
                (evt.EVT_C_STORE, self._on_store),
                (evt.EVT_C_ECHO, lambda _event: 0x0000),
                (evt.EVT_N_EVENT_REPORT, self._on_commitment),
            ],
        )
        self._servers.append(server)

    def _origin(self, event: evt.Event) -> Origin:
        request: Any = event.assoc.requestor.primitive
        return Origin(
            calling_ae=request.calling_ae_title.strip(),
            called_ae=request.called_ae_title.strip(),
            peer_address=event.assoc.requestor.address,
        )

    def _on_request(self, event: evt.Event) -> None:
        association: Any = event.assoc
        origin = self._origin(event)
        rejection = self._policy.rejection(
            calling_ae=origin.calling_ae,
            called_ae=origin.called_ae,
            address=origin.peer_address,
            associations=sum(1 for a in self._entity.active_associations if a.is_established),
        )
        if rejection is not None:
            LOGGER.warning("association refused", extra={"reason": rejection.reason})
            try:
                self.intake.ledger.refused(
                    action="association refused", reason=rejection.reason, origin=origin
                )
            except SQLAlchemyError:
                LOGGER.exception("refusal not audited")
            association.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
            association.kill()
            return
        requested = association.requestor.primitive.presentation_context_definition_list
        association.acceptor.supported_contexts = contexts.as_requested(requested, self._supported)

    def _on_store(self, event: evt.Event) -> int:
        request: Any = event.request
        offer = Offer(
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            origin=self._origin(event),
        )
        reception = self.intake.begin(offer)
        reception.write(request.DataSet.getvalue())
        return int(reception.finish().status)

    def _on_commitment(self, event: evt.Event) -> tuple[int, None]:
        report = commitment.parse(event.event_information)
        with Session(self.intake.ledger.engine) as session, session.begin():
            commitment.keep(session, report, calling_ae=self._origin(event).calling_ae)
        return 0x0000, None
