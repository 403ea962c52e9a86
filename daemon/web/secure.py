"""TLS before HTTP: both sides show a certificate, and a peer that cannot is an audit row with its address."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

HANDSHAKE_SECONDS = 10.0

OnFailure = Callable[[str, str], None]
"""Takes the peer's address and the reason; may block."""


class SecuredProtocol(asyncio.Protocol):
    """A connection that shakes hands, and then is the HTTP connection that it was made for.

    uvicorn can serve TLS itself, but says nothing of handshakes that fail.

    Parameters
    ----------
    http
        Protocol of the connection when it is secured.
    """

    def __init__(self, http: asyncio.Protocol, context: ssl.SSLContext, on_failure: OnFailure) -> None:
        self._http = http
        self._context = context
        self._on_failure = on_failure
        self._early = b""
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Shake hands."""
        self._handshake = asyncio.get_running_loop().create_task(
            self._shake_hands(cast("asyncio.Transport", transport))
        )

    def data_received(self, data: bytes) -> None:
        """Keep what comes together with the end of the handshake."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember that there will be no HTTP."""
        self._lost = True

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        address = str(transport.get_extra_info("peername")[0])
        try:
            secured = await loop.start_tls(
                transport,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
        except OSError as error:  # ssl.SSLError is one, and so is a handshake that takes too long
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            await loop.run_in_executor(None, self._on_failure, address, str(reason))
            return
        if secured is None or self._lost:
            return
        secured.set_protocol(self._http)
        self._http.connection_made(secured)
        if self._early:
            self._http.data_received(self._early)
