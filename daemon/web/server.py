"""The web server's process: a socket, TLS where the site has certificates, and uvicorn behind it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from uvicorn.protocols.http.h11_impl import H11Protocol

from voxtrial.daemon.network import tls
from voxtrial.daemon.network.ledger import Ledger, Origin
from voxtrial.daemon.network.server import listening_socket
from voxtrial.daemon.settings import Settings
from voxtrial.daemon.web.app import CALLING_AE, create_app
from voxtrial.daemon.web.secure import SecuredProtocol
from voxtrial.db.engine import connect

LOGGER = logging.getLogger(__name__)


def run(settings: Settings, say: Callable[[int], None]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Parameters
    ----------
    say
        Called with the port before anything is served.
    """
    engine = connect(settings.database_url)
    server = web_server(settings, engine)
    listening = listening_socket(settings.web.host, settings.web.port)
    say(listening.getsockname()[1])
    server.run(sockets=[listening])


def web_server(settings: Settings, engine: Engine) -> uvicorn.Server:
    """Return the server of a site, to be run on a listening socket.

    Raises
    ------
    Misconfigured
        A certificate cannot be used.
    """
    protocol: Any = H11Protocol
    if settings.web.tls is not None:
        context = tls.server_context(settings.web.tls)
        ledger = Ledger(engine)

        def on_failure(address: str, reason: str) -> None:
            _audit(ledger, address, f"TLS: {reason}")

        def protocol(**arguments: Any) -> asyncio.Protocol:
            http = cast("asyncio.Protocol", H11Protocol(**arguments))
            return SecuredProtocol(http, context, on_failure)

    app = create_app(settings, engine)
    return uvicorn.Server(uvicorn.Config(app, http=protocol, log_config=None, access_log=False))


def _audit(ledger: Ledger, address: str, reason: str) -> None:
    LOGGER.warning("request refused", extra={"reason": reason})
    origin = Origin(calling_ae=CALLING_AE, peer_address=address)
    try:
        ledger.refused(action="request refused", reason=reason, origin=origin)
    except SQLAlchemyError:
        LOGGER.exception("refusal not audited")
