"""A PACS by DICOMweb: QIDO-RS to ask, WADO-RS to fetch (PS3.18 10); needs the extra ``dicomweb``.

Objects are stored as the archive sends them, never decoded and encoded again: the same object by C-STORE has
the same digest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from voxtrial.daemon.errors import Fatal, Misconfigured, Retryable
from voxtrial.daemon.network.archives import Keys, Listing
from voxtrial.daemon.network.intake import Intake
from voxtrial.daemon.network.ledger import Origin
from voxtrial.daemon.network.multipart import MultipartReception
from voxtrial.daemon.network.spool import COPY_BYTES
from voxtrial.daemon.network.status import StoreStatus
from voxtrial.daemon.settings import TLS

BUSY = frozenset({408, 429, 500, 502, 503, 504})
ATTEMPTS = 4
"""Of one request; the archive's Retry-After is heeded."""
TIMEOUTS = (10.0, 60.0)
"""Seconds to connect, and of silence inside an answer."""
STUDY, SERIES, INSTANCE, CLASS = "0020000D", "0020000E", "00080018", "00080016"
STUDY_RELATED_INSTANCES = "00201208"
ANY_SYNTAX = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@dataclass
class WebPACS:
    """An archive behind the base URL of its DICOMweb services.

    Parameters
    ----------
    tls
        Certificate to show, and the CA that must have signed the archive's; None: none, and the host's CAs.
        User name and password, where the archive asks for them, come from ``~/.netrc``.

    Raises
    ------
    Misconfigured
        dicomweb-client is not installed, or the URL is none.
    """

    url: str
    intake: Intake
    tls: TLS | None = None
    basis: str = "qido"
    _client: Any = field(init=False)
    _session: Any = field(init=False)
    _sizes: Counter[str] = field(default_factory=Counter, init=False)
    """Instances by series, as listed last."""

    def __post_init__(self) -> None:
        try:
            from dicomweb_client.api import DICOMwebClient
        except ImportError as error:
            raise Misconfigured(
                "DICOMweb needs the extra: install it with pip install 'voxtrial[dicomweb]'."
            ) from error
        self._session = _session(self.tls)
        try:
            self._client = DICOMwebClient(url=self.url, session=self._session, timeout=TIMEOUTS)
        except ValueError as error:
            raise Misconfigured(f"{self.url!r} is no DICOMweb base URL: {error}.") from error
        self._client.set_http_retry_params(retry=False)  # its retries end in an exception of their own

    def studies(self, keys: Keys) -> list[str]:
        """Return the Study Instance UIDs that match."""
        filters = {keyword: value for keyword, value in keys.items() if value}
        return list(self._pages("search_for_studies", STUDY, search_filters=filters))

    def count(self, study_instance_uid: str) -> int | None:
        """Return NumberOfStudyRelatedInstances."""
        found = self._ask(
            "search_for_studies",
            search_filters={"StudyInstanceUID": study_instance_uid},
            fields=[STUDY_RELATED_INSTANCES],
        )
        said = _value(found[0], STUDY_RELATED_INSTANCES) if found else ""
        return int(said) if said else None

    def instances(self, study_instance_uid: str) -> Listing:
        """Return what the archive lists."""
        found = self._pages("search_for_instances", INSTANCE, study_instance_uid=study_instance_uid)
        self._sizes = Counter(_value(match, SERIES) for match in found.values())
        return Listing.of((uid, _value(match, SERIES), _value(match, CLASS)) for uid, match in found.items())

    def fetch(self, study_instance_uid: str, missing: Listing) -> None:
        """Bring what is missing: a series in one request where all of it is, else one request an instance."""
        sizes = Counter(missing.series_of.values())
        whole = {series for series, size in sizes.items() if size == self._sizes[series]}
        for series in sorted(whole):
            self._retrieve(f"studies/{study_instance_uid}/series/{series}", study_instance_uid)
        for uid, series in missing.series_of.items():
            if series not in whole:
                path = f"studies/{study_instance_uid}/series/{series}/instances/{uid}"
                self._retrieve(path, study_instance_uid)

    def _retrieve(self, path: str, study_instance_uid: str) -> None:
        origin = Origin(calling_ae="DICOMWEB", peer_address=self.url[:64])
        with (
            self._spoken("WADO-RS"),
            self._session.get(
                f"{self.url.rstrip('/')}/{path}",
                headers={"Accept": ANY_SYNTAX},
                stream=True,
                timeout=TIMEOUTS,
            ) as answer,
        ):
            answer.raise_for_status()
            try:
                reception = MultipartReception(
                    answer.headers.get("Content-Type", ""),
                    self.intake,
                    origin,
                    study_instance_uid=study_instance_uid,
                )
            except ValueError as error:
                raise Fatal(f"{self.url} does not answer WADO-RS with DICOM objects: {error}.") from error
            try:
                for piece in answer.iter_content(COPY_BYTES):
                    reception.write(piece)
            except ValueError as error:
                raise Retryable(f"{self.url} sent a damaged multipart body: {error}.") from error
            finally:
                received = reception.close()
            for _, refused in received.failed:
                if refused.status is StoreStatus.OUT_OF_RESOURCES:
                    raise Retryable(f"Our own store cannot take more: {refused.comment}.")

    def _pages(self, service: str, key: str, **arguments: Any) -> dict[str, dict[str, Any]]:
        """Return all matches by UID, page after page: archives cut answers, and some ignore the offset."""
        found: dict[str, dict[str, Any]] = {}
        while True:
            page = self._ask(service, offset=len(found) or None, **arguments)
            new = {_value(match, key): match for match in page} if page else {}
            if not new.keys() - found.keys():
                return found
            found |= new

    def _ask(self, service: str, **arguments: Any) -> list[dict[str, Any]]:
        with self._spoken("QIDO-RS"):
            answer: list[dict[str, Any]] = getattr(self._client, service)(**arguments)
        return answer

    @contextmanager
    def _spoken(self, service: str) -> Iterator[None]:
        """Tell what a caller may try again from what a person must mend."""
        import requests

        try:
            yield
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status in BUSY:
                raise Retryable(f"{self.url} answered {status} to {service}.") from error
            raise Fatal(f"{self.url} answered {status} to {service}{_ADVICE.get(status, '')}.") from error
        except requests.exceptions.JSONDecodeError as error:
            raise Fatal(f"{self.url} answers, but not as {service}; is it the base URL?") from error
        except requests.exceptions.SSLError as error:
            reason = str(error).rpartition("Caused by ")[2].strip("()")
            raise Fatal(f"{self.url} and we do not trust each other's certificates: {reason}.") from error
        except requests.RequestException as error:
            raise Retryable(f"{self.url} cannot be reached ({type(error).__name__}).") from error


_ADVICE = {
    401: ": put user name and password of the archive into ~/.netrc",
    403: ": this user may not read there",
    404: ": is it the base URL of the DICOMweb services?",
}


def _session(tls: TLS | None) -> Any:
    import requests
    from urllib3.util import Retry

    session: Any = requests.Session()
    again = Retry(
        total=ATTEMPTS - 1,
        status_forcelist=BUSY,
        backoff_factor=0.5,
        allowed_methods={"GET"},
        raise_on_status=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=again))
    if tls is not None:
        # Said with every request: REQUESTS_CA_BUNDLE in the environment would win over session.verify
        trust = {"verify": str(tls.ca), "cert": (str(tls.certificate), str(tls.key))}
        session.request = partial(session.request, **trust)
    return session


def _value(match: Mapping[str, Any], tag: str) -> str:
    """Return the first value of an attribute of DICOM JSON (PS3.18 F.2)."""
    return str((match.get(tag, {}).get("Value") or [""])[0])
