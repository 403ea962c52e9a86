"""What must not change a statistic: the unit, the order of patients, the names of labels, left and right."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from voxtrial.validation.agreement.icc import FORMS, intraclass_correlations
from voxtrial.validation.registry import Undefined, run
from voxtrial.validation.segmentation.consensus import staple
from voxtrial.validation.segmentation.lesions import lesion_detection
from voxtrial.validation.segmentation.mask_agreement import segmentation_agreement

NEAR = {"rel": 1e-7, "abs": 1e-9}
few = settings(max_examples=30, deadline=None)

seeds = st.integers(0, 2**32 - 1)
units = st.tuples(st.floats(0.01, 100), st.floats(-50, 50))
masks = arrays.arrays(np.bool_, (5, 6, 7), elements=st.booleans(), fill=st.nothing())
spacings = st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 2.5])] * 3)


def readings(seed: int, raters: int = 2) -> np.ndarray:
    """Return (15, raters) readings of one quantity around 20."""
    rng = np.random.default_rng(seed)
    return rng.normal(20, 4, (15, 1)) + rng.normal(0, 1, (15, raters))


def pair(x: np.ndarray, y: np.ndarray) -> tuple[dict, dict]:
    return {"wide": pd.DataFrame({"x": x, "y": y})}, {"x": "x", "y": "y"}


def same(a: dict, b: dict, names=None) -> None:
    for name in names or a:
        if isinstance(a[name], Undefined):
            assert isinstance(b[name], Undefined)
        else:
            assert a[name] == pytest.approx(b[name], **NEAR), name


@few
@given(seeds, units)
def test_icc_does_not_depend_on_unit_or_order(seed, unit):
    x = readings(seed, 3)
    rng = np.random.default_rng(seed + 1)
    moved = unit[0] * x[rng.permutation(15)][:, rng.permutation(3)] + unit[1]
    before, after = intraclass_correlations(x), intraclass_correlations(moved)
    for name in FORMS:
        for part in ("estimate", "ci_low", "ci_high"):
            assert getattr(after[name], part) == pytest.approx(
                getattr(before[name], part), rel=1e-6, abs=1e-6
            )


@few
@given(seeds, st.integers(2, 12), st.integers(-3, 3))
def test_raters_who_say_the_same_have_an_icc_of_exactly_one(seed, raters, magnitude):
    rng = np.random.default_rng(seed)
    said = rng.normal(20, 10.0**magnitude, (25, 1))
    forms = intraclass_correlations(np.repeat(said, raters, axis=1))
    assert {name: float(forms[name].estimate) for name in FORMS} == dict.fromkeys(FORMS, 1.0)


@few
@given(seeds, st.floats(0.01, 100))
def test_repeatability_scales_with_the_unit_and_its_relative_form_does_not(seed, unit):
    x = readings(seed)
    before, after = (
        run("repeatability", {"wide": pd.DataFrame(v, columns=["a", "b"])}, {"replicates": ["a", "b"]}).values
        for v in (x, unit * x)
    )
    for name in ("wsd", "rc", "rc_ci_low", "rc_ci_high"):
        assert after[name] == pytest.approx(unit * before[name], rel=1e-9)
    for name in ("wcv_rms", "wcv_log", "pct_rc"):
        assert after[name] == pytest.approx(before[name], rel=1e-9)


@few
@given(seeds, units)
def test_limits_of_agreement_mirror_when_the_methods_are_swapped(seed, unit):
    x, y = readings(seed).T
    scale, shift = unit
    plain = run("bland_altman", *pair(x, y)).values
    swapped = run("bland_altman", *pair(scale * y + shift, scale * x + shift)).values
    for low, high in (
        ("bias", "bias"),
        ("loa_low", "loa_high"),
        ("loa_low_ci_low", "loa_high_ci_high"),
        ("loa_low_exact_ci_high", "loa_high_exact_ci_low"),
    ):
        assert swapped[low] == pytest.approx(-scale * plain[high], rel=1e-6, abs=1e-6)


@few
@given(seeds, units)
def test_concordance_is_symmetric_and_without_unit(seed, unit):
    x, y = readings(seed).T
    before = run("lin_ccc", *pair(x, y)).values
    after = run("lin_ccc", *pair(unit[0] * y + unit[1], unit[0] * x + unit[1])).values
    same(before, after, ("ccc", "ci_low", "ci_high", "bias_correction"))
    assert after["scale_shift"] == pytest.approx(1 / before["scale_shift"], rel=1e-6)


@few
@given(seeds, st.floats(0.1, 10), st.floats(0.1, 10))
def test_lines_follow_the_units_of_both_methods(seed, unit_x, unit_y):
    x, y = readings(seed).T
    ratio = (unit_x / unit_y) ** 2
    for name, extra, changed in (("deming", {}, {"error_ratio": ratio}), ("passing_bablok", {}, {})):
        if name == "passing_bablok":
            unit_x = unit_y  # its shift by slopes below -1 knows one unit only
        tables, inputs = pair(x, y)
        before = run(name, tables, inputs | extra).values
        tables, inputs = pair(unit_x * x, unit_y * y)
        after = run(name, tables, inputs | changed).values
        assert after["slope"] == pytest.approx(before["slope"] * unit_y / unit_x, rel=1e-6)
        assert after["intercept"] == pytest.approx(before["intercept"] * unit_y, rel=1e-6, abs=1e-6)


@few
@given(seeds, st.permutations([1, 2, 3, 4]))
def test_unweighted_agreement_does_not_know_the_names_of_categories(seed, names):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, 20)
    first, second = (np.where(rng.random(20) < 0.7, truth, rng.integers(0, 4, 20)) for _ in range(2))
    frame = pd.DataFrame({"a": first, "b": second})
    renamed = pd.DataFrame({"a": np.array(names)[first], "b": np.array(names)[second]})
    raters = {"rater1": "a", "rater2": "b"}
    same(*(run("cohen_kappa", {"wide": f}, raters).values for f in (frame, renamed)), ("kappa", "kappa_se"))
    both = {"raters": ["a", "b"]}
    same(*(run("fleiss_kappa", {"wide": f}, both).values for f in (frame, renamed)), ("kappa", "z"))
    same(*(run("krippendorff_alpha", {"wide": f}, both).values for f in (frame, renamed)), ("nominal",))


@few
@given(seeds)
def test_weighted_agreement_does_not_know_the_direction_of_the_scale(seed):
    rng = np.random.default_rng(seed)
    first = rng.integers(1, 6, 20)
    second = np.clip(first + rng.integers(-1, 2, 20), 1, 5)
    frame = pd.DataFrame({"a": first, "b": second})
    raters = {"rater1": "a", "rater2": "b", "levels": [1, 2, 3, 4, 5]}
    names = ("kappa_linear", "kappa_quadratic", "kappa_quadratic_se")
    same(*(run("cohen_kappa", {"wide": f}, raters).values for f in (frame, 6 - frame)), names)
    both = {"raters": ["a", "b"]}
    same(
        *(run("krippendorff_alpha", {"wide": f}, both).values for f in (frame, 6 - frame)),
        ("ordinal", "interval"),
    )


@few
@given(masks, masks, spacings, st.sampled_from(list(itertools.permutations(range(3)))), st.integers(0, 7))
def test_agreement_of_masks_does_not_know_left_from_right(reference, test, spacing, order, flips):
    axes = [axis for axis in range(3) if flips >> axis & 1]
    moved = [np.flip(mask, axes).transpose(order) for mask in (reference, test)]
    before = segmentation_agreement(reference, test, spacing, (1,))
    same(before, segmentation_agreement(*moved, tuple(spacing[i] for i in order), (1,)))


@few
@given(masks, masks, spacings)
def test_swapped_masks_swap_what_is_directed(reference, test, spacing):
    before = segmentation_agreement(reference, test, spacing, (1,))
    after = segmentation_agreement(test, reference, spacing, (1,))
    symmetric = ("dice", "jaccard", "hd", "hd95_pooled", "hd95_surfel", "assd_pooled", "nsd_surfel_1mm")
    same(before, after, symmetric)
    renamed = {**before, "precision": before["sensitivity"], "asd_test_to_ref": before["asd_ref_to_test"]}
    same(renamed, after, ("precision", "asd_test_to_ref")) if reference.any() and test.any() else None


@few
@given(masks, masks, spacings, st.sampled_from([0.5, 2.0, 10.0]))
def test_lengths_follow_the_unit_and_volumes_its_cube(reference, test, spacing, unit):
    before = segmentation_agreement(reference, test, spacing, (1,))
    scaled = tuple(unit * step for step in spacing)
    after = segmentation_agreement(reference, test, scaled, (unit,))
    for name in ("hd", "hd95_max_of_directed", "hd95_surfel", "assd_pooled", "rms_surface_distance"):
        if not isinstance(before[name], Undefined):
            assert after[name] == pytest.approx(unit * before[name], **NEAR)
    assert after["volume_ref_mm3"] == pytest.approx(unit**3 * before["volume_ref_mm3"])
    if not isinstance(before["nsd_surfel_1mm"], Undefined):
        assert after[f"nsd_surfel_{unit:g}mm"] == pytest.approx(before["nsd_surfel_1mm"], **NEAR)


@few
@given(masks, masks, st.integers(0, 7))
def test_lesions_do_not_know_left_from_right(reference, test, flips):
    axes = [axis for axis in range(3) if flips >> axis & 1]
    before = lesion_detection(reference, test, (1, 1, 1))
    after = lesion_detection(np.flip(reference, axes), np.flip(test, axes), (1, 1, 1))
    same(before, after, ("n_lesions", "n_findings", "n_detected", "sensitivity", "precision", "f1"))


@few
@given(st.lists(masks, min_size=3, max_size=4), st.randoms(use_true_random=False))
def test_consensus_does_not_depend_on_the_order_of_the_readers(readers, random):
    order = list(range(len(readers)))
    random.shuffle(order)
    before, after = staple(readers), staple([readers[i] for i in order])
    np.testing.assert_allclose(after.probability, before.probability, atol=1e-6)


@few
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_adjusted_p_values_are_ordered_by_the_power_of_the_procedure(p):
    values = {name: np.array(v) for name, v in run("multiplicity", {}, {"p": p}).values.items()}
    assert (values["BH"] <= values["hochberg"] + 1e-12).all()
    assert (values["hochberg"] <= values["holm"] + 1e-12).all()
    assert (values["holm"] <= values["bonferroni"] + 1e-12).all()
    assert (np.array(p) <= values["BH"] + 1e-12).all()
    for adjusted in values.values():
        assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= -1e-12).all()
