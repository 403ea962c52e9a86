"""A site in a temporary folder, its listener on a free port, and certificates."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import phantoms
import pytest
from network_load import ct_dataset
from sqlalchemy import Engine

from voxtrial.daemon.network.intake import Intake, intake_of
from voxtrial.daemon.network.scp import Listener
from voxtrial.daemon.settings import TLS, Settings
from voxtrial.db.engine import connect

Serve = Callable[..., Listener]


@pytest.fixture
def data(tmp_path: Path, sqlite_template: Path) -> Path:
    """Data folder of a site whose database has its tables."""
    folder = tmp_path / "site"
    folder.mkdir()
    shutil.copyfile(sqlite_template, folder / "voxtrial.db")
    return folder


@pytest.fixture
def engine(data: Path) -> Iterator[Engine]:
    """Database of the site."""
    engine = connect(f"sqlite:///{data / 'voxtrial.db'}")
    yield engine
    engine.dispose()


@pytest.fixture
def configure(data: Path) -> Callable[..., Settings]:
    """Build settings of the site; keyword arguments are sections."""

    def build(**sections: Any) -> Settings:
        listener = {"port": 0, "watermark_mib": 0, **sections.pop("listener", {})}
        return Settings(site={"data": data}, listener=listener, **sections)  # type: ignore[arg-type]  # pydantic reads dicts

    return build


@pytest.fixture
def serve(configure: Callable[..., Settings], engine: Engine) -> Iterator[Serve]:
    """Start listeners that end with the test; keyword arguments are keys of ``[listener]``."""
    with ExitStack() as stack:

        def start(**listener: Any) -> Listener:
            return stack.enter_context(Listener(configure(listener=listener), engine))

        yield start


@pytest.fixture
def listener(serve: Serve) -> Listener:
    """A listener with the defaults."""
    return serve()


@pytest.fixture
def intake(configure: Callable[..., Settings], engine: Engine) -> Iterator[Intake]:
    """The way into the store, without a listener."""
    intake = intake_of(configure(), engine)
    yield intake
    intake.ledger.close()


@pytest.fixture
def ct(tmp_path: Path) -> list[Path]:
    """Six CT slices of one study."""
    volume = np.random.default_rng(1).integers(-1000, 1000, (6, 64, 64)).astype(np.int16)
    return phantoms.ct_series(tmp_path / "ct", volume, seed="network", study_instance_uid="1.2.3.4")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], TLS]:
    """Certificates signed by one of two authorities."""
    folder = tmp_path_factory.mktemp("certificates")
    for ca in ("hospital", "stranger"):
        _openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={ca}"),
            *("-keyout", folder / f"{ca}.key", "-out", folder / f"{ca}.pem"),
        )

    def issue(name: str, ca: str = "hospital") -> TLS:
        key, request, certificate = (folder / f"{name}.{kind}" for kind in ("key", "csr", "pem"))
        _openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", key, "-out", request),
        )
        (folder / "name").write_text("subjectAltName=IP:127.0.0.1")
        _openssl(
            *("x509", "-req", "-days", "2", "-in", request, "-out", certificate, "-CAcreateserial"),
            *("-extfile", folder / "name"),
            *("-CA", folder / f"{ca}.pem", "-CAkey", folder / f"{ca}.key"),
        )
        return TLS(certificate=certificate, key=key, ca=folder / "hospital.pem")

    return issue


@pytest.fixture(scope="session")
def body(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A CT dataset of 128 KiB whose SOP Instance UID can be replaced, see ``network_load``."""
    return ct_dataset(tmp_path_factory.mktemp("dataset"))
