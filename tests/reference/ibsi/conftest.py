"""The IBSI phantoms, and their features computed once a session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from voxtrial.daemon.dicom import nifti
from voxtrial.daemon.radiomics.certificate import DIGITAL_PHANTOM
from voxtrial.daemon.radiomics.configuration import load
from voxtrial.daemon.radiomics.extract import Features, extract
from voxtrial.daemon.volume import Mask, Volume

Phantom = tuple[Volume, Mask]


def _read(folder: Path) -> Phantom:
    volume = nifti.read_volume(folder / "image" / "phantom.nii.gz")
    mask = nifti.read_volume(folder / "mask" / "mask.nii.gz")
    return volume, Mask(array=mask.array > 0, affine=mask.affine)


@pytest.fixture(scope="session")
def digital_phantom(shared_data: Path) -> Phantom:
    return _read(shared_data / "ibsi" / "digital_phantom" / "nifti")


@pytest.fixture(scope="session")
def ct_phantom(shared_data: Path) -> Phantom:
    return _read(shared_data / "ibsi" / "ct_phantom" / "nifti")


@pytest.fixture(scope="session")
def features_of(digital_phantom: Phantom, ct_phantom: Phantom) -> Callable[[str], Features]:
    """Features by dataset: ``digital_phantom``, ``config_A`` to ``config_E``."""

    @cache
    def compute(dataset: str) -> Features:
        if dataset == "digital_phantom":
            return extract(*digital_phantom, DIGITAL_PHANTOM)
        return extract(*ct_phantom, load(dataset.removeprefix("config_")))

    return compute
