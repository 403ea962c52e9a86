"""A PACS by DICOMweb: QIDO-RS to ask, WADO-RS to fetch (PS3.18 10); needs the extra ``dicomweb``."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydicom.filewriter import dcmwrite

from voxtrial.daemon.errors import Fatal, Misconfigured, Retryable
from voxtrial.daemon.network.importing import Body
from voxtrial.daemon.network.intake import Intake
from voxtrial.daemon.network.ledger import Origin
from voxtrial.daemon.network.pulling import Keys

BUSY = frozenset({408, 429, 500, 502, 503, 504})
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"


@dataclass
class WebPACS:
    """An archive behind the base URL of its DICOMweb services.

    Raises
    ------
    Misconfigured
        dicomweb-client is not installed.
    """

    url: str
    intake: Intake
    _client: Any = field(init=False)

    def __post_init__(self) -> None:
        try:
            from dicomweb_client.api import DICOMwebClient
        except ImportError as error:
            raise Misconfigured(
                "DICOMweb needs the extra: install it with pip install 'voxtrial[dicomweb]'."
            ) from error
        self._client = DICOMwebClient(url=self.url)

    def studies(self, keys: Keys) -> list[str]:
        """Return the Study Instance UIDs that match."""
        filters = {keyword: value for keyword, value in keys.items() if value}
        return [_value(match, STUDY) for match in self._ask("search_for_studies", search_filters=filters)]

    def instances(self, study_instance_uid: str) -> dict[str, str]:
        """Return the series of every instance, by SOP Instance UID."""
        found = self._ask("search_for_instances", study_instance_uid=study_instance_uid)
        return {_value(match, INSTANCE): _value(match, SERIES) for match in found}

    def fetch(self, study_instance_uid: str, missing: Mapping[str, str]) -> None:
        """Bring what is missing, each object in the transfer syntax that it is stored in."""
        for sop_instance_uid, series_instance_uid in missing.items():
            dataset = self._ask(
                "retrieve_instance",
                study_instance_uid=study_instance_uid,
                series_instance_uid=series_instance_uid,
                sop_instance_uid=sop_instance_uid,
                media_types=(("application/dicom", "*"),),
            )
            buffer = io.BytesIO()
            dcmwrite(buffer, dataset)
            buffer.seek(0)
            body = Body.of(buffer)
            offer = body.offer(Origin(calling_ae="DICOMWEB", peer_address=self.url[:64]))
            reception = self.intake.begin(offer)
            for piece in body.pieces():
                reception.write(piece)
            reception.finish()

    def _ask(self, service: str, **arguments: Any) -> Any:
        import requests

        try:
            return getattr(self._client, service)(**arguments)
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            message = f"{self.url} answered {status} to {service}."
            raise (Retryable if status in BUSY else Fatal)(message) from error
        except requests.RequestException as error:
            raise Retryable(f"{self.url} cannot be reached: {error}.") from error


def _value(match: Mapping[str, Any], tag: str) -> str:
    """Return the first value of an attribute of DICOM JSON (PS3.18 F.2)."""
    return str((match.get(tag, {}).get("Value") or [""])[0])
