"""Nodes as people write them: ``AE_TITLE@HOST:PORT``, or the name of a destination."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.network.scu import Peer
from voxtrial.daemon.settings import Destination, Settings

_NODE = re.compile(r"(?P<ae_title>[^@\\]{1,16})@(?P<host>\[[0-9a-fA-F:]+\]|[^:@]+):(?P<port>\d{1,5})")


def peer_of(text: str, settings: Settings) -> Peer:
    """Return the node that ``text`` names.

    Raises
    ------
    Misconfigured
        It is neither an address nor the name of a destination.
    """
    match = _NODE.fullmatch(text)
    if match:
        return Peer(match["host"].strip("[]"), int(match["port"]), match["ae_title"])
    for destination in settings.destinations:
        if destination.name == text:
            return node_of(destination)
    names = ", ".join(d.name for d in settings.destinations) or "none"
    raise Misconfigured(
        f"{text!r} is no node: write AE_TITLE@HOST:PORT, or the name of a destination (known: {names})."
    )


DEFAULT_PORTS = {"http": 80, "https": 443}


def is_same_service(one: str, other: str) -> bool:
    """Return whether two URLs name the same service: case of the host, default port and last slash apart."""
    return _normalized(one) == _normalized(other)


def _normalized(url: str) -> tuple[str, str | None, int | None, str, str]:
    parts = urlsplit(url)  # which gives scheme and host in lower case
    port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/"), parts.query


def node_of(destination: Destination) -> Peer:
    """Return the node behind a destination."""
    return Peer(
        destination.host,
        destination.port,
        destination.ae_title,
        destination.tls,
        destination.answer_seconds,
    )
