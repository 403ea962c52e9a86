"""What must hold for every series: places survive, both parsers agree, damage is refused."""

from __future__ import annotations

import random
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import enhanced_ct, lattice_affine, stack
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from voxtrial.daemon.dicom import geometry, masks, pixels, series
from voxtrial.daemon.dicom.elements import read_with_pydicom
from voxtrial.daemon.dicom.walk import walk
from voxtrial.daemon.errors import Refused
from voxtrial.daemon.volume import Grid

PACKAGED = Path(pydicom.data.__file__).parent

spacings = st.floats(0.2, 8.0)
angles = st.floats(-180, 180)
coordinates = st.floats(-500, 500)
affines = st.builds(
    lambda spacing, origin, rotation: lattice_affine(spacing, origin=origin, rotation_degrees=rotation),
    st.tuples(spacings, spacings, spacings),
    st.tuples(coordinates, coordinates, coordinates),
    st.tuples(angles, angles, angles),
)
shapes = st.tuples(st.integers(2, 6), st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=60, deadline=None)
@given(affine=affines, shape=shapes, seed=st.integers(0, 2**31), enhanced=st.booleans())
def test_every_voxel_of_an_oblique_series_comes_back_to_its_place(affine, shape, seed, enhanced):
    truth = np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        if enhanced:
            order = random.Random(seed).sample(range(shape[0]), shape[0])
            paths = [enhanced_ct(Path(folder) / "e.dcm", truth, affine, frame_order=order)]
        else:
            paths = stack(Path(folder), truth, affine)
            random.Random(seed).shuffle(paths)
        (one,) = series.group(paths)
        volume = pixels.read(one)
    assert np.array_equal(volume.array, truth)
    corners = np.array(
        [[z, y, x] for z in (0, shape[0] - 1) for y in (0, shape[1] - 1) for x in (0, shape[2] - 1)]
    )
    expected = corners @ affine[:3, :3].T + affine[:3, 3]
    assert np.abs(volume.grid.world(corners.astype(float)) - expected).max() < 1e-6
    assert np.abs(volume.grid.index(expected) - corners).max() < 1e-6


@settings(max_examples=40, deadline=None)
@given(affine=affines, tilt=st.floats(0.2, 40), sign=st.sampled_from((-1, 1)))
def test_a_tilt_is_always_refused_and_its_shear_always_kept(affine, tilt, sign):
    sheared = affine.copy()
    along_column = affine[:3, 1] / np.linalg.norm(affine[:3, 1])
    sheared[:3, 0] += sign * np.tan(np.radians(tilt)) * np.linalg.norm(affine[:3, 0]) * along_column
    with tempfile.TemporaryDirectory() as folder:
        (one,) = series.group(stack(Path(folder), np.zeros((4, 3, 3), np.int16), sheared))
        with pytest.raises(Refused) as caught:
            geometry.check(one)
        found = geometry.check(one, allow_tilt=True)
    assert caught.value.rule == "gantry_tilt"
    assert found.tilt_degrees == pytest.approx(tilt, abs=1e-6)
    assert np.abs(found.grid.affine - sheared).max() < 1e-6


@settings(max_examples=25, deadline=None)
@given(
    affine=affines,
    count=st.integers(4, 30),
    data=st.data(),
)
def test_a_removed_inner_slice_is_always_missed(affine, count, data):
    gone = data.draw(st.integers(1, count - 2))
    with tempfile.TemporaryDirectory() as folder:
        paths = stack(Path(folder), np.zeros((count, 1, 1), np.int16), affine)
        (one,) = series.group(paths[:gone] + paths[gone + 1 :])
        with pytest.raises(Refused) as caught:
            geometry.check(one)
    assert caught.value.rule == "missing_slice"


short_text = st.text(
    st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="\\^="), max_size=16
)
values_by_vr = {
    "LO": short_text,
    "SH": short_text,
    "UT": st.text("abc def", max_size=400),
    "US": st.integers(0, 65535),
    "FD": st.floats(allow_nan=False, allow_infinity=False),
    "OB": st.binary(max_size=40).map(lambda raw: raw + b"\0" * (len(raw) % 2)),
    "UN": st.binary(max_size=40).map(lambda raw: raw + b"\0" * (len(raw) % 2)),
}


def nested(depth: int) -> Dataset:
    """Return an item whose Modality must not be taken for the image's, with others inside."""
    item = Dataset()
    item.Modality = "XX"
    if depth:
        inner = nested(depth - 1)
        inner.is_undefined_length_sequence_item = True
        item.ReferencedImageSequence = [inner]
        item["ReferencedImageSequence"].is_undefined_length = True
    return item


@st.composite
def private_elements(draw: st.DrawFn) -> list[tuple[int, str, object]]:
    """Private elements of any length, nested ones too, before, between and after the groups that are read."""
    found = []
    for group in draw(
        st.lists(st.sampled_from((0x0009, 0x0019, 0x0021, 0x0029, 0x0055)), unique=True, max_size=4)
    ):
        for element in draw(st.lists(st.integers(0x1001, 0x10FF), unique=True, max_size=4)):
            vr = draw(st.sampled_from(sorted([*values_by_vr, "SQ"])))
            value = [Dataset()] if vr == "SQ" else draw(values_by_vr[vr])
            if vr == "SQ":
                value[0].add_new(
                    0x00080060, "CS", "XX"
                )  # a nested Modality must not be taken for the image's
            found.append((group << 16 | element, vr, value))
    return found


@settings(max_examples=50, deadline=None)
@given(
    extra=private_elements(),
    explicit=st.booleans(),
    undefined=st.booleans(),
    undefined_item=st.booleans(),
    signed=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_the_walk_and_pydicom_give_the_same_header_and_pixels(
    extra, explicit, undefined, undefined_item, signed, seed
):
    truth = np.random.default_rng(seed).integers(0, 4000, (2, 3, 4)).astype(np.int16)

    def edit(_: int, ds: Dataset) -> None:
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian
        ds.PixelRepresentation = int(signed)
        for tag, vr, value in extra:
            ds.private_block(tag >> 16, "VOXTRIAL", create=True)
            ds.add_new(tag, vr, value)
            if vr == "SQ":
                ds[tag].is_undefined_length = undefined
                value[0].is_undefined_length_sequence_item = undefined_item

    with tempfile.TemporaryDirectory() as folder:
        paths = stack(Path(folder), truth, edit=edit)
        walked, parsed = walk(paths[0]), read_with_pydicom(paths[0])
        volume = pixels.read_folder(Path(folder))
        decoded = [pydicom.dcmread(path).pixel_array for path in paths]
    assert walked == parsed
    assert parsed.pixel_location is not None
    assert np.array_equal(volume.array, decoded)


def test_the_walk_and_pydicom_agree_on_every_packaged_file():
    walkable = 0
    for path in PACKAGED.rglob("*"):
        if not path.is_file() or path.suffix in {".py", ".pyc"}:
            continue
        walked = walk(path)
        if walked is not None:
            walkable += 1
            assert walked == read_with_pydicom(path), path.name
    assert walkable > 60


SEEDS = (
    "MR_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_RLE.dcm",
    "CT_small.dcm",
    "rtstruct.dcm",
    "liver_1frame.dcm",
)


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(SEEDS),
    cut=st.none() | st.floats(0, 1),
    hits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    in_header=st.booleans(),
)
def test_a_damaged_file_is_read_or_refused(name, cut, hits, in_header):
    raw = bytearray((PACKAGED / "test_files" / name).read_bytes())
    for place, value in hits:
        raw[int(place * (min(len(raw), 2500) if in_header else len(raw)))] = value
    if cut is not None:
        raw = raw[: int(cut * len(raw))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(bytes(raw))
        for one in series.group([path]):
            with pytest.raises(Refused):  # one slice is no volume
                pixels.read(one)
            for plane in one.files if one.refusal is None else ():
                out = np.empty(plane.shape, pixels.stored_type(plane))
                with suppress(Refused):
                    pixels.read_stored(plane, out)
        with suppress(Refused):
            masks.read(path, Grid(shape=(3, 4, 5), affine=np.eye(4)))
