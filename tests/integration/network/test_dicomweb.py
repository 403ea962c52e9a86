"""DICOMweb archives: Orthanc decides completeness by QIDO-RS and gives by WADO-RS; others misbehave."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import peers
import phantoms
import pydicom
import pytest
from daemons import voxtrial
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from voxtrial.daemon.errors import Fatal, Misconfigured, Retryable
from voxtrial.daemon.network.archives import Listing
from voxtrial.daemon.network.dicomweb import INSTANCE, SERIES, STUDY, STUDY_RELATED_INSTANCES, WebPACS
from voxtrial.daemon.network.intake import Intake
from voxtrial.daemon.network.scp import Listener
from voxtrial.daemon.network.scu import Peer, store
from voxtrial.daemon.network.spool import dataset_digest
from voxtrial.daemon.network.tls import server_context
from voxtrial.daemon.services.assembler import Assembled, Assembler
from voxtrial.daemon.settings import TLS, Settings
from voxtrial.db.base import utc_now
from voxtrial.db.states import StudyState
from voxtrial.db.studies import Instance, StudyVersion

pytestmark = pytest.mark.peer("dicomweb")

LATER = timedelta(seconds=90)
STUDY_UID = "1.2.3.4"
CAP_HOURS = 2


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.Orthanc]:
    with peers.orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


def at(orthanc: peers.Orthanc) -> str:
    return f"http://127.0.0.1:{orthanc.http_port}/dicom-web"


def asking(configure: Callable[..., Settings], url: str, **query: str) -> Settings:
    """A site that asks a DICOMweb archive."""
    rules = {"quiet_seconds": 60, "cap_hours": CAP_HOURS, "query": {"url": url, **query}}
    return configure(completeness=rules)


def only_version(engine: Engine) -> StudyVersion:
    with Session(engine) as session:
        return session.scalars(select(StudyVersion)).one()


# --- Orthanc ----------------------------------------------------------------------------------------------


@pytest.mark.peer("orthanc")
def test_missing_instances_come_by_wado_and_the_qido_count_confirms(
    listener: Listener,
    engine: Engine,
    configure: Callable[..., Settings],
    ct: list[Path],
    orthanc: peers.Orthanc,
) -> None:
    store(ct, Peer("127.0.0.1", orthanc.dicom_port, "ORTHANC"))
    store(ct[:2], Peer("127.0.0.1", listener.port, "VOXTRIAL"))
    site = asking(configure, at(orthanc))

    assert Assembler(site, engine).run_once(utc_now() + LATER) == Assembled(fetched=4)
    assert only_version(engine).state == StudyState.RECEIVING
    assert Assembler(site, engine).run_once(utc_now() + 2 * LATER) == Assembled(closed=1, ready=1)

    version = only_version(engine)
    assert (version.basis, version.expected_instances, version.instances) == ("qido", len(ct), len(ct))
    assert version.missing_uids == []
    with Session(engine) as session:
        digests = {row.sop_instance_uid: row.sha256 for row in session.scalars(select(Instance))}
    # Byte for byte what C-STORE would have brought, so that the same object by both ways is no conflict
    assert digests == {str(pydicom.dcmread(p).SOPInstanceUID): dataset_digest(p) for p in ct}


@pytest.mark.peer("orthanc")
def test_what_may_not_be_fetched_is_counted_and_incomplete_at_the_cap(
    listener: Listener,
    engine: Engine,
    configure: Callable[..., Settings],
    ct: list[Path],
    orthanc: peers.Orthanc,
) -> None:
    store(ct, Peer("127.0.0.1", orthanc.dicom_port, "ORTHANC"))
    store(ct[:5], Peer("127.0.0.1", listener.port, "VOXTRIAL"))
    site = asking(configure, at(orthanc), retrieve="none")
    assert Assembler(site, engine).run_once(utc_now() + LATER) == Assembled()
    assert Assembler(site, engine).run_once(utc_now() + timedelta(hours=CAP_HOURS + 1)).closed == 1
    version = only_version(engine)
    assert (version.state, version.expected_instances) == (StudyState.INCOMPLETE, len(ct))
    assert version.missing_uids == [str(pydicom.dcmread(ct[5]).SOPInstanceUID)]


@pytest.mark.peer("orthanc")
def test_nobody_waits_for_objects_of_classes_that_are_not_taken(
    listener: Listener,
    engine: Engine,
    configure: Callable[..., Settings],
    tmp_path: Path,
    orthanc: peers.Orthanc,
) -> None:
    """A photograph of the patient in the study: counted by the PACS, and never to come."""
    volume = np.zeros((3, 16, 16), np.int16)
    slices = phantoms.ct_series(tmp_path / "ct", volume, seed="photo", study_instance_uid="1.2.3.88")
    photograph = pydicom.dcmread(slices[0])
    photograph.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4"
    photograph.SOPInstanceUID, photograph.SeriesInstanceUID = "1.2.3.88.9.1", "1.2.3.88.9"
    photograph.Modality = "XC"
    path = tmp_path / "photograph.dcm"
    photograph.save_as(path, enforce_file_format=True)
    store(slices, Peer("127.0.0.1", orthanc.dicom_port, "ORTHANC"))
    orthanc.rest("/instances", path.read_bytes())
    store(slices, Peer("127.0.0.1", listener.port, "VOXTRIAL"))

    assert Assembler(asking(configure, at(orthanc)), engine).run_once(utc_now() + LATER).closed == 1

    version = only_version(engine)
    assert (version.basis, version.expected_instances) == ("qido", len(slices))
    assert "1 objects at the PACS are of SOP classes that are not taken." in version.reason


@pytest.mark.peer("orthanc")
def test_compressed_objects_come_in_the_syntax_that_they_are_stored_in(
    intake: Intake, engine: Engine, ct: list[Path], tmp_path: Path, orthanc: peers.Orthanc
) -> None:
    compressed = pydicom.dcmread(ct[0])
    compressed.StudyInstanceUID, compressed.SeriesInstanceUID = "1.2.3.77", "1.2.3.77.1"
    compressed.SOPInstanceUID = "1.2.3.77.1.1"
    compressed.compress("1.2.840.10008.1.2.4.80", generate_instance_uid=False)
    path = tmp_path / "compressed.dcm"
    compressed.save_as(path, enforce_file_format=True)
    store([path], Peer("127.0.0.1", orthanc.dicom_port, "ORTHANC"))

    archive = WebPACS(at(orthanc), intake)
    assert archive.studies({"StudyInstanceUID": "1.2.3.77"}) == ["1.2.3.77"]
    assert archive.count("1.2.3.77") == 1
    archive.fetch("1.2.3.77", archive.instances("1.2.3.77"))

    with Session(engine) as session:
        row = session.scalars(select(Instance)).one()
    assert row.transfer_syntax_uid == "1.2.840.10008.1.2.4.80"
    assert row.sha256 == dataset_digest(path)


@pytest.mark.peer("orthanc")
def test_a_url_beside_the_services_is_named_with_what_to_do(intake: Intake, orthanc: peers.Orthanc) -> None:
    with pytest.raises(Fatal, match="base URL"):
        WebPACS(f"http://127.0.0.1:{orthanc.http_port}/nowhere", intake).count(STUDY_UID)


# --- archives that misbehave ------------------------------------------------------------------------------


class Archive(ThreadingHTTPServer):
    """Answers QIDO-RS with one study, as badly as a test asks for."""

    def __init__(self, *, uids: list[str], count: int, page: int = 0, busy: int = 0, content_type: str = ""):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.uids, self.count, self.page, self.busy = uids, count, page, busy
        self.content_type = content_type
        self.searches = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/web"


class _Handler(BaseHTTPRequestHandler):
    server: Archive

    def do_GET(self) -> None:
        if self.server.busy:
            self.server.busy -= 1
            self.send_response(503)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = urlsplit(self.path)
        if not asked.path.endswith(("/studies", "/instances")):
            self._say(b"no multipart", "text/html")
            return
        self.server.searches += 1
        matches = [{STUDY: _of("UI", STUDY_UID), STUDY_RELATED_INSTANCES: _of("IS", self.server.count)}]
        if asked.path.endswith("/instances"):
            uids = self.server.uids
            if self.server.page:  # zero: the offset is ignored, and all come again
                offset = int(parse_qs(asked.query).get("offset", ["0"])[0])
                uids = uids[offset : offset + self.server.page]
            matches = [{INSTANCE: _of("UI", uid), SERIES: _of("UI", "1.2.3.4.5")} for uid in uids]
        self._say(json.dumps(matches).encode(), "application/dicom+json")

    def _say(self, body: bytes, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


def _of(vr: str, value: object) -> dict[str, object]:
    return {"vr": vr, "Value": [value]}


@contextmanager
def archive(**behaviour: object) -> Iterator[Archive]:
    server = Archive(**{"uids": ["1.2.3.4.5.1"], "count": 1, **behaviour})  # type: ignore[arg-type]  # passed through
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("page", [0, 2, 5])
def test_answers_that_are_cut_are_asked_for_page_by_page(intake: Intake, page: int) -> None:
    """A page of 0: the archive ignores the offset and would answer the same for ever."""
    uids = [f"1.2.3.4.5.{n}" for n in range(1, 6)]
    with archive(uids=uids, count=5, page=page) as server:
        assert list(WebPACS(server.url, intake).instances(STUDY_UID).series_of) == uids


def test_an_archive_that_counts_more_than_it_lists_is_not_believed_yet(
    listener: Listener, engine: Engine, configure: Callable[..., Settings], ct: list[Path]
) -> None:
    store(ct, Peer("127.0.0.1", listener.port, "VOXTRIAL"))
    uids = [str(pydicom.dcmread(p).SOPInstanceUID) for p in ct]
    with archive(uids=uids, count=len(ct) + 1) as server:
        site = asking(configure, server.url)
        assert Assembler(site, engine).run_once(utc_now() + LATER) == Assembled()
        server.count = len(ct)
        assert Assembler(site, engine).run_once(utc_now() + LATER).ready == 1
    assert only_version(engine).basis == "qido"


def test_an_archive_is_asked_once_a_quiet_period_and_then_less_and_less(
    listener: Listener, engine: Engine, configure: Callable[..., Settings], ct: list[Path]
) -> None:
    """It has one more instance than we, and may not be asked to send it."""
    store(ct, Peer("127.0.0.1", listener.port, "VOXTRIAL"))
    uids = [*(str(pydicom.dcmread(p).SOPInstanceUID) for p in ct), "1.2.3.99"]
    with archive(uids=uids, count=len(uids)) as server:
        assembler = Assembler(asking(configure, server.url, retrieve="none"), engine)
        for seconds in range(90, 149):
            assembler.run_once(utc_now() + timedelta(seconds=seconds))
        once = server.searches
        for seconds, asked in ((151, 2), (212, 2), (273, 3), (400, 3), (514, 4)):
            assembler.run_once(utc_now() + timedelta(seconds=seconds))
            assert server.searches == asked * once


def test_a_busy_archive_is_asked_again_and_then_left_for_later(intake: Intake) -> None:
    with archive(busy=2) as server:
        assert WebPACS(server.url, intake).count(STUDY_UID) == 1
    with archive(busy=1000) as server, pytest.raises(Retryable, match="answered 503"):
        WebPACS(server.url, intake).count(STUDY_UID)


def test_an_archive_that_answers_with_a_web_page_is_no_archive(intake: Intake) -> None:
    with archive() as server, pytest.raises(Fatal, match="does not answer WADO-RS"):
        WebPACS(server.url, intake).fetch(STUDY_UID, Listing.of([("1.2.3.4.5.1", "1.2.3.4.5", "")]))


def test_an_archive_that_asks_for_certificates_is_shown_ours(
    intake: Intake, authority: Callable[[str, str], TLS], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who trusts the archive but shows no certificate is refused by the archive.

    By TLS 1.3 the client sends its request at once, and may find the connection gone before the alert.
    """
    tls = authority("client", "hospital")
    context = server_context(authority("server", "hospital"))
    with archive() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        refused: list[str] = []
        monkeypatch.setattr(server, "get_request", noting(refused, server.get_request))
        url = server.url.replace("http:", "https:")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt")
        assert WebPACS(url, intake, tls).count(STUDY_UID) == 1
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tls.ca))
        assert refused == []
        with pytest.raises((Fatal, Retryable), match=r"trust each other|cannot be reached"):
            WebPACS(url, intake).count(STUDY_UID)
        assert set(refused) == {"PEER_DID_NOT_RETURN_A_CERTIFICATE"}


def test_the_command_shows_the_certificate_to_the_configured_archive_however_it_is_written(
    authority: Callable[[str, str], TLS], tmp_path: Path
) -> None:
    """And to no other: a name that the certificate of the archive has too, but not the configuration."""
    tls = authority("client", "hospital")
    context = server_context(authority("server", "hospital"))
    configuration = tmp_path / "voxtrial.toml"
    with archive(uids=[]) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url.replace("http:", "https:")
        configuration.write_text(
            f'[site]\ndata = "{tmp_path / "data"}"\n[completeness.query]\nurl = "{url}"\n'
            f'tls = {{ certificate = "{tls.certificate}", key = "{tls.key}", ca = "{tls.ca}" }}\n'
        )

        def pull(source: str) -> tuple[int, dict[str, Any]]:
            keys = (f"StudyInstanceUID={STUDY_UID}", "--from", source)
            done = voxtrial("pull", *keys, "--config", str(configuration), "--json")
            return done.returncode, json.loads(done.stdout)

        for written in (url, f"{url}/", url.replace("https", "HTTPS")):
            status, said = pull(written)
            assert (status, said["studies"], said["failed"]) == (0, 1, {})
        status, said = pull(f"{url}/elsewhere")
        assert (status, said["studies"]) == (1, 0)
        assert "trust each other" in next(iter(said["failed"].values()))


def noting(reasons: list[str], accept: Callable[[], Any]) -> Callable[[], Any]:
    """Return ``accept``, which shakes hands, and add OpenSSL's reason to ``reasons`` when that fails."""

    def get_request() -> Any:
        try:
            return accept()
        except ssl.SSLError as error:
            reasons.append(str(error.reason))
            raise

    return get_request


def test_an_archive_that_is_down_is_retried(intake: Intake) -> None:
    with pytest.raises(Retryable, match="cannot be reached"):
        WebPACS(f"http://127.0.0.1:{peers.free_port()}", intake).count(STUDY_UID)


def test_what_is_no_url_is_a_configuration_error(intake: Intake) -> None:
    with pytest.raises(Misconfigured, match="no DICOMweb base URL"):
        WebPACS("pacs/dicom-web", intake)


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"host": "pacs"},
        {"url": "http://pacs/dicom-web", "host": "pacs", "ae_title": "PACS"},
        {"url": "http://pacs/dicom-web", "retrieve": "move"},
    ],
)
def test_a_query_peer_is_a_node_or_a_url(query: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"needs either url|cannot move"):
        Settings(completeness={"query": query})  # type: ignore[arg-type]  # pydantic reads dicts
