"""STOW-RS, sent by dicomweb-client and by hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import peers
import pydicom
import pytest
from fastapi import FastAPI
from imported import rows
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from voxtrial.daemon.network.server import listening_socket
from voxtrial.daemon.network.spool import dataset_digest
from voxtrial.daemon.settings import Settings
from voxtrial.daemon.web.app import create_app
from voxtrial.daemon.web.server import web_server
from voxtrial.db.audit import AuditRow

BOUNDARY = "a-boundary"
HEADERS = {"Content-Type": f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'}


class Client:
    """Asks an application as if from an address, without a socket."""

    def __init__(self, app: FastAPI, address: str = "127.0.0.1") -> None:
        self._transport = httpx.ASGITransport(app=app, client=(address, 5000))

    def get(self, path: str) -> httpx.Response:
        return self._ask("GET", path)

    def post(self, path: str, *, content: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        return self._ask("POST", path, content=content, headers=headers)

    def _ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://voxtrial") as client:
                return await client.request(method, path, **arguments)

        return asyncio.run(ask())


@pytest.fixture
def client(configure: Callable[..., Settings], engine: Engine) -> Client:
    return Client(create_app(configure(), engine))


def multipart(*contents: bytes) -> bytes:
    parts = (
        b"--" + BOUNDARY.encode() + b"\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n"
        for content in contents
    )
    return b"".join(parts) + b"--" + BOUNDARY.encode() + b"--\r\n"


def test_all_objects_stored_is_200(client: Client, engine: Engine, ct: list[Path]) -> None:
    answer = client.post("/studies", content=multipart(*(p.read_bytes() for p in ct)), headers=HEADERS)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert len(answer.json()["00081199"]["Value"]) == len(ct)
    assert sorted(row.sha256 for row in rows(engine)) == sorted(dataset_digest(p) for p in ct)


def test_partly_stored_is_202_with_the_reason_of_each_failure(
    client: Client, engine: Engine, ct: list[Path], tmp_path: Path
) -> None:
    client.post("/studies", content=multipart(ct[0].read_bytes()), headers=HEADERS)
    changed = pydicom.dcmread(ct[0])
    changed.PatientID = "OTHER"
    changed.save_as(tmp_path / "changed.dcm")
    contents = [
        ct[1].read_bytes(),
        (tmp_path / "changed.dcm").read_bytes(),
        b"no dicom",
        ct[2].read_bytes()[:-9],
    ]
    answer = client.post("/studies", content=multipart(*contents), headers=HEADERS)
    assert answer.status_code == 202
    reasons = [item["00081197"]["Value"][0] for item in answer.json()["00081198"]["Value"]]
    assert reasons == [0xC111, 0xC000, 0xC000]
    assert len(rows(engine)) == 2


def test_nothing_stored_is_409(client: Client, ct: list[Path]) -> None:
    assert client.post("/studies", content=multipart(b"x"), headers=HEADERS).status_code == 409


def test_objects_of_another_study_than_the_path_fail(client: Client, engine: Engine, ct: list[Path]) -> None:
    content = multipart(ct[0].read_bytes())
    assert client.post("/studies/1.2.3.4", content=content, headers=HEADERS).status_code == 200
    assert client.post("/studies/1.2.3.5", content=content, headers=HEADERS).status_code == 409
    assert client.post("/studies/..%2f..", content=content, headers=HEADERS).status_code in (400, 404)


def test_other_content_types_and_damaged_bodies_are_told_apart(client: Client, ct: list[Path]) -> None:
    assert (
        client.post("/studies", content=b"{}", headers={"Content-Type": "application/json"}).status_code
        == 415
    )
    assert client.post("/studies", content=b"").status_code == 415
    assert client.post("/studies", content=b"rubbish", headers=HEADERS).status_code == 400


def test_a_body_that_ends_inside_an_object_leaves_nothing(
    client: Client, engine: Engine, ct: list[Path], configure: Callable[..., Settings]
) -> None:
    body = multipart(ct[0].read_bytes() + bytes(200_000))[:-40_000]
    client.post("/studies", content=body, headers=HEADERS)
    assert rows(engine) == []
    assert list((configure().site.data / "spool" / "incoming").iterdir()) == []


def test_strangers_are_forbidden(configure: Callable[..., Settings], engine: Engine, ct: list[Path]) -> None:
    settings = configure(listener={"accept": [{"ae_title": "A", "host": "10.1.0.0/16"}, {"ae_title": "B"}]})
    content = multipart(ct[0].read_bytes())
    for address, status in (("10.2.0.1", 403), ("10.1.2.3", 200)):
        client = Client(create_app(settings, engine), address)
        assert client.post("/studies", content=content, headers=HEADERS).status_code == status
    with Session(engine) as session:
        (row,) = session.scalars(select(AuditRow))
    assert (row.action, row.detail["peer"]) == ("request refused", "10.2.0.1")
    assert row.detail["reason"] == "10.2.0.1 may not store: it is not in listener.accept"


def test_health_says_whether_instances_would_be_taken(
    client: Client, configure: Callable[..., Settings], engine: Engine
) -> None:
    assert client.get("/health").json()["status"] == "ok"
    full = Client(create_app(configure(listener={"watermark_mib": 1 << 30}), engine))
    answer = full.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "failing")


@pytest.mark.peer("dicomweb")
def test_dicomweb_client_stores_over_a_real_socket(
    configure: Callable[..., Settings], engine: Engine, ct: list[Path]
) -> None:
    from dicomweb_client import api

    listening = listening_socket("127.0.0.1", 0)
    server = web_server(configure(), engine)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        peers.wait_until(lambda: server.started, what="the web server")
        client = api.DICOMwebClient(url=f"http://127.0.0.1:{listening.getsockname()[1]}")
        response = client.store_instances([pydicom.dcmread(p) for p in ct])
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
    assert len(response.ReferencedSOPSequence) == len(ct)
    assert len(rows(engine)) == len(ct)
