"""Mutual TLS, against DCMTK with and without a certificate."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peers
import phantoms
import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from wire import Wire

from voxtrial.daemon.errors import Misconfigured, Retryable
from voxtrial.daemon.network.scp import Listener
from voxtrial.daemon.network.scu import Peer, echo, store
from voxtrial.daemon.network.spool import dataset_digest
from voxtrial.daemon.settings import TLS
from voxtrial.db.audit import AuditRow
from voxtrial.db.studies import Instance


@pytest.fixture
def secure(serve: Callable[..., Listener], authority: Callable[[str, str], TLS]) -> Listener:
    """A listener with a TLS port."""
    return serve(tls_port=0, tls=authority("server", "hospital").model_dump())


def _audited(engine: Engine) -> list[str]:
    with Session(engine) as session:
        return [row.detail["reason"] for row in session.scalars(select(AuditRow))]


def _wait_for_audit(engine: Engine, reason: str) -> None:
    """The peer hears the TLS alert before the listener has written the row."""
    peers.wait_until(lambda: any(reason in r for r in _audited(engine)), 10.0, f"an audit row of {reason}")


@pytest.mark.peer("dcmtk")
def test_dcmtk_with_a_certificate_stores(
    secure: Listener, engine: Engine, authority: Callable[[str, str], TLS], ct: list[Path]
) -> None:
    client = authority("client", "hospital")
    peers.storescu(ct, secure.tls_port, "+tls", client.key, client.certificate, "+cf", client.ca)
    with Session(engine) as session:
        assert len(session.scalars(select(Instance)).all()) == len(ct)


@pytest.mark.peer("dcmtk")
def test_a_large_object_arrives_whole(
    secure: Listener, engine: Engine, authority: Callable[[str, str], TLS], tmp_path: Path
) -> None:
    """Records of TLS hold 16 KiB and end anywhere in a PDU."""
    client = authority("client", "hospital")
    pixels = np.random.default_rng(6).integers(-1000, 1000, (1, 1500, 1500)).astype(np.int16)
    (large,) = phantoms.ct_series(tmp_path / "large", pixels)
    peers.storescu([large], secure.tls_port, "+tls", client.key, client.certificate, "+cf", client.ca)
    with Session(engine) as session:
        row = session.scalars(select(Instance)).one()
    assert row.sha256 == dataset_digest(large)
    assert row.sha256 == dataset_digest(secure.settings.site.data / row.path)


@pytest.mark.peer("dcmtk")
def test_dcmtk_without_a_certificate_is_refused_and_audited(
    secure: Listener, engine: Engine, authority: Callable[[str, str], TLS]
) -> None:
    ca = authority("client", "hospital").ca
    said = peers.echoscu(secure.tls_port, "+tla", "+cf", ca, check=False)
    assert said.returncode != 0
    _wait_for_audit(engine, "PEER_DID_NOT_RETURN_A_CERTIFICATE")


def test_a_certificate_of_a_stranger_is_refused(
    secure: Listener, engine: Engine, authority: Callable[[str, str], TLS]
) -> None:
    stranger = authority("impostor", "stranger")
    with pytest.raises(Retryable, match="TLS"):
        echo(Peer("127.0.0.1", secure.tls_port, "VOXTRIAL", stranger))
    _wait_for_audit(engine, "CERTIFICATE_VERIFY_FAILED")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_older_than_1_2_is_refused(
    secure: Listener, engine: Engine, authority: Callable[[str, str], TLS]
) -> None:
    client = authority("client", "hospital")
    context = ssl.create_default_context(cafile=str(client.ca))
    context.load_cert_chain(client.certificate, client.key)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", secure.tls_port)) as plain,
        pytest.raises(OSError, match=r"(?i)alert|reset|EOF"),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")
    _wait_for_audit(engine, "UNSUPPORTED_PROTOCOL")


def test_our_scu_speaks_tls_and_large_objects_pass(
    secure: Listener, engine: Engine, authority: Callable[[str, str], TLS], ct: list[Path]
) -> None:
    peer = Peer("127.0.0.1", secure.tls_port, "VOXTRIAL", authority("client", "hospital"))
    echo(peer)
    assert [o.status for o in store(ct, peer)] == [0] * len(ct)


def test_plain_dicom_on_the_tls_port_is_refused_and_the_next_is_served(
    secure: Listener, engine: Engine, authority: Callable[[str, str], TLS]
) -> None:
    with Wire(secure.tls_port, timeout=5) as connection, pytest.raises(ConnectionError):
        connection.associate()
    echo(Peer("127.0.0.1", secure.tls_port, "VOXTRIAL", authority("client", "hospital")))
    _wait_for_audit(engine, "TLS: ")


def test_a_handshake_that_never_comes_does_not_stand_in_the_way(
    secure: Listener, authority: Callable[[str, str], TLS]
) -> None:
    with socket.create_connection(("127.0.0.1", secure.tls_port)):
        echo(Peer("127.0.0.1", secure.tls_port, "VOXTRIAL", authority("client", "hospital")))


def test_a_tls_port_without_certificates_is_a_configuration_error(serve: Callable[..., Listener]) -> None:
    with pytest.raises(Misconfigured, match=r"listener\.tls"):
        serve(tls_port=0)
