"""Which URLs name the service that is configured, so that its certificate is shown there and nowhere else."""

from __future__ import annotations

import pytest

from voxtrial.daemon.network.address import is_same_service

CONFIGURED = "https://pacs.example.org/dicom-web"


@pytest.mark.parametrize(
    "written",
    [
        "https://pacs.example.org/dicom-web/",
        "https://PACS.Example.org/dicom-web",
        "HTTPS://pacs.example.org:443/dicom-web",
    ],
)
def test_the_same_service_in_other_words(written: str) -> None:
    assert is_same_service(CONFIGURED, written)


@pytest.mark.parametrize(
    "written",
    [
        "http://pacs.example.org/dicom-web",
        "https://pacs.example.org:8443/dicom-web",
        "https://pacs.example.org/DICOM-web",
        "https://pacs.example.org.evil.org/dicom-web",
        "https://pacs.example.org@evil.org/dicom-web",
        "",
    ],
)
def test_another_service(written: str) -> None:
    assert not is_same_service(CONFIGURED, written)
