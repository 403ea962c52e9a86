"""STOW-RS over TLS, with and without the certificate that the site asks for."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import peers
import pydicom
import pytest
from daemons import voxtrial
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.network.server import listening_socket
from voxtrial.daemon.settings import TLS, Settings
from voxtrial.daemon.web.server import web_server
from voxtrial.db.audit import AuditRow
from voxtrial.db.studies import Instance

Authority = Callable[[str, str], TLS]


@pytest.fixture
def port(configure: Callable[..., Settings], engine: Engine, authority: Authority) -> Iterator[int]:
    """Port of a web server that speaks TLS."""
    tls = authority("server", "hospital").model_dump()
    listening = listening_socket("127.0.0.1", 0)
    server = web_server(configure(web={"tls": tls}), engine)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        peers.wait_until(lambda: server.started, what="the web server")
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def trusting(tls: TLS, *, certificate: bool = True) -> ssl.SSLContext:
    """A client that trusts the hospital's CA, and shows its certificate or not."""
    context = ssl.create_default_context(cafile=str(tls.ca))
    if certificate:
        context.load_cert_chain(tls.certificate, tls.key)
    return context


def health(port: int, context: ssl.SSLContext) -> httpx.Response:
    with httpx.Client(verify=context, timeout=10) as client:
        return client.get(f"https://127.0.0.1:{port}/health")


def wait_for_audit(engine: Engine, reason: str) -> None:
    def audited() -> bool:
        with Session(engine) as session:
            rows = session.scalars(select(AuditRow)).all()
        return any(reason in row.detail["reason"] and row.detail["peer"] == "127.0.0.1" for row in rows)

    peers.wait_until(audited, 10, f"an audit row of {reason} with its address")


@pytest.mark.peer("dicomweb")
def test_a_client_with_a_certificate_stores(
    port: int, engine: Engine, authority: Authority, ct: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests
    from dicomweb_client import api

    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)  # requests believes it more than the session
    tls = authority("client", "hospital")
    session = requests.Session()
    session.cert = (str(tls.certificate), str(tls.key))
    session.verify = str(tls.ca)
    client = api.DICOMwebClient(url=f"https://127.0.0.1:{port}", session=session)
    response = client.store_instances([pydicom.dcmread(p) for p in ct])
    session.close()
    assert len(response.ReferencedSOPSequence) == len(ct)
    with Session(engine) as rows:
        assert len(rows.scalars(select(Instance)).all()) == len(ct)


def test_both_sides_check_the_certificate_of_the_other(port: int, authority: Authority) -> None:
    assert health(port, trusting(authority("client", "hospital"))).json()["status"] == "ok"


def test_a_probe_without_a_certificate_asks_on_the_host(
    port: int, configure: Callable[..., Settings], data: Path, authority: Authority
) -> None:
    """As a container's probe does; the connection that it cannot make is refused."""
    with pytest.raises(httpx.TransportError):
        health(port, trusting(authority("client", "hospital"), certificate=False))
    file = data / "voxtrial.toml"
    file.write_text(f'[site]\ndata = "{data}"\n[listener]\nwatermark_mib = 0\n')
    well = voxtrial("health", "--config", str(file))
    assert json.loads(well.stdout)["status"] == "ok"
    file.write_text(f'[site]\ndata = "{data}"\n[listener]\nwatermark_mib = 1000000000\n')
    full = voxtrial("health", "--config", str(file))
    assert (full.returncode, json.loads(full.stdout)["status"]) == (1, "failing")
    (data / "empty.db").touch()
    file.write_text(f'[site]\ndata = "{data}"\n[database]\nurl = "sqlite:///{data}/empty.db"\n')
    no_tables = voxtrial("health", "--config", str(file))
    assert (no_tables.returncode, json.loads(no_tables.stdout)["database"]) == (1, "OperationalError")


def test_a_probe_makes_nothing_that_is_missing(tmp_path: Path) -> None:
    """A probe of root before the first start would leave files that the daemon cannot write."""
    file = tmp_path / "voxtrial.toml"
    file.write_text(f'[site]\ndata = "{tmp_path}/site"\n')
    missing = voxtrial("health", "--config", str(file))
    state = json.loads(missing.stdout)
    assert (missing.returncode, state["status"]) == (1, "failing")
    assert (state["database"], state["free_mib"]) == ("missing", None)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_without_a_certificate_is_refused_and_audited(
    port: int, engine: Engine, authority: Authority, version: ssl.TLSVersion
) -> None:
    context = trusting(authority("client", "hospital"), certificate=False)
    context.maximum_version = version
    with pytest.raises(httpx.TransportError):
        health(port, context)
    wait_for_audit(engine, "PEER_DID_NOT_RETURN_A_CERTIFICATE")


def test_a_certificate_of_a_stranger_is_refused_and_audited(
    port: int, engine: Engine, authority: Authority
) -> None:
    with pytest.raises(httpx.TransportError):
        health(port, trusting(authority("impostor", "stranger")))
    wait_for_audit(engine, "CERTIFICATE_VERIFY_FAILED")


def test_plain_http_on_the_tls_port_is_refused_and_audited(
    port: int, engine: Engine, authority: Authority
) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/health", timeout=10)
    wait_for_audit(engine, "HTTP_REQUEST")
    assert health(port, trusting(authority("client", "hospital"))).status_code == 200


def test_a_handshake_that_never_comes_does_not_stand_in_the_way(port: int, authority: Authority) -> None:
    with socket.create_connection(("127.0.0.1", port)):
        assert health(port, trusting(authority("client", "hospital"))).status_code == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_older_than_1_2_is_refused(port: int, engine: Engine, authority: Authority) -> None:
    context = trusting(authority("client", "hospital"))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.TransportError):
        health(port, context)
    wait_for_audit(engine, "UNSUPPORTED_PROTOCOL")


def test_certificates_that_cannot_be_read_are_a_configuration_error(
    configure: Callable[..., Settings], engine: Engine, tmp_path: Path
) -> None:
    nowhere = tmp_path / "nowhere.pem"
    tls = {"certificate": nowhere, "key": nowhere, "ca": nowhere}
    with pytest.raises(Misconfigured, match=r"nowhere\.pem"):
        web_server(configure(web={"tls": tls}), engine)
