"""TLS as BCP 195 (RFC 9325) wants it: 1.2 or newer, forward secrecy, both sides show a certificate."""

from __future__ import annotations

import ssl

from voxtrial.daemon import settings
from voxtrial.daemon.errors import Misconfigured

TLS_1_2_CIPHERS = ":".join(
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
    )
)
"""RFC 9325 section 4.2; TLS 1.3 has only suites of this kind."""


def server_context(tls: settings.TLS) -> ssl.SSLContext:
    """Return the context of an acceptor; a peer without a certificate of our CA is turned away."""
    return _prepared(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tls)


def client_context(tls: settings.TLS) -> ssl.SSLContext:
    """Return the context of a requestor.

    The peer's certificate must be signed by our CA. Its name is not compared: DICOM nodes are configured by
    address, and PS3.15 B.9 leaves the binding of names to the site's CA.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _prepared(context, tls)


def _prepared(context: ssl.SSLContext, tls: settings.TLS) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS_1_2_CIPHERS)
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        context.load_verify_locations(tls.ca)
    except OSError as error:  # ssl.SSLError is one
        raise Misconfigured(
            f"Cannot use the certificates {tls.certificate}, {tls.key}, {tls.ca}: {error}."
        ) from error
    return context
