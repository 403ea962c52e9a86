"""A manifest says everything about a model, and is refused with the key that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.models.digest import model_digest
from voxtrial.daemon.models.manifest import MANIFEST_NAME, Code, Manifest
from voxtrial.daemon.models.store import BUILTIN

OTSU = (BUILTIN / "otsu" / MANIFEST_NAME).read_text()


def written(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST_NAME).write_text(text)
    return folder


def test_codes_are_value_scheme_meaning(tmp_path: Path) -> None:
    manifest = Manifest.load(written(tmp_path, OTSU))
    assert manifest.outputs[0].site == Code("39607008", "SCT", "Lung")
    assert manifest.inputs[0].selector.modality == "CT"


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('architecture = "otsu"', 'architecture = "magic"', "engine.architecture"),
        ('activation = "none"', 'activation = "none"\nthreads = 2', "engine.threads"),
        ('mode = "whole"', 'mode = "exact"', "tiling"),
        ("index = 1", "index = 2", "output indices"),
        ('name = "otsu"', 'name = "Otsu!"', "identity.name"),
        ('prefer = "thinnest"', 'prefer = "nicest"', "inputs.0.selector.prefer"),
        ('prefer = "thinnest"', 'preference = "thinnest"', "inputs.0.selector.preference"),
        ('interpolator = "linear"', 'interpolator = "magic"', "interpolator"),
        ('rule = "component"', 'rule = "component"\nclassifier = "shape_and_rim"', "findings.classifier"),
        (
            'rule = "component"',
            'rule = "component"\nminimum_lesion_probability = 0.5',
            "minimum_lesion_probability needs",
        ),
        ("[tiling]", "[tilings]", "til"),
    ],
)
def test_wrong_key_is_named(tmp_path: Path, old: str, new: str, key: str) -> None:
    assert old in OTSU
    with pytest.raises(Misconfigured, match=key):
        Manifest.load(written(tmp_path, OTSU.replace(old, new)))


def test_weights_cannot_leave_the_folder(tmp_path: Path) -> None:
    text = OTSU.replace('activation = "none"', 'activation = "none"\nweights = "../other"')
    with pytest.raises(Misconfigured, match="without folders"):
        Manifest.load(written(tmp_path, text))


def test_layout_and_comments_do_not_change_the_digest_but_every_value_does(tmp_path: Path) -> None:
    plain = model_digest(written(tmp_path / "a", OTSU))
    assert model_digest(written(tmp_path / "b", "# a remark\n\n" + OTSU.replace(" = ", "=", 3))) == plain
    assert model_digest(written(tmp_path / "c", OTSU.replace("bins = 512", "bins = 511"))) != plain


def test_card_is_no_part_of_the_digest(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", OTSU)
    before = model_digest(folder)
    (folder / "card.md").write_text("figures")
    assert model_digest(folder) == before
