"""A site in a temporary folder, and its listener on a free port."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import phantoms
import pytest
from sqlalchemy import Engine

from voxtrial.daemon.network.scp import Listener
from voxtrial.daemon.settings import Settings
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
def ct(tmp_path: Path) -> list[Path]:
    """Six CT slices of one study."""
    volume = np.random.default_rng(1).integers(-1000, 1000, (6, 64, 64)).astype(np.int16)
    return phantoms.ct_series(tmp_path / "ct", volume, seed="network", study_instance_uid="1.2.3.4")
