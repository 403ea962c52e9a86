"""Intraclass correlation: the six forms of Shrout and Fleiss in closed form, for one table or for thousands.

A form is written ICC(model, unit): 1 one-way random, 2 two-way random with absolute agreement, 3 two-way
mixed with consistency; 1 a single rating, k the mean of all raters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import (
    Floats,
    Inputs,
    StatisticError,
    Tables,
    columns,
    complete,
    confidence,
    nearest,
    parameter,
)

FORMS = ("icc1_1", "icc2_1", "icc3_1", "icc1_k", "icc2_k", "icc3_k")
PARTS = ("", "_F", "_df1", "_df2", "_p", "_ci_low", "_ci_high")


@dataclass(frozen=True, kw_only=True)
class MeanSquares:
    """Two-way analysis of variance of (..., subjects, raters) ratings, one value for each leading index."""

    subjects: Floats
    raters: Floats
    within: Floats
    residual: Floats
    n: int
    k: int


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of the coefficient with its F test (H0: 0) and interval; arrays over the leading index."""

    estimate: Floats
    f: Floats
    df1: int
    df2: int
    p: Floats
    ci_low: Floats
    ci_high: Floats

    def at(self, index: int) -> Form:
        """Return the form of one feature."""
        return replace(
            self,
            estimate=self.estimate[index],
            f=self.f[index],
            p=self.p[index],
            ci_low=self.ci_low[index],
            ci_high=self.ci_high[index],
        )


def mean_squares(ratings: Floats) -> MeanSquares:
    """Return the mean squares of (..., n, k) ratings.

    Squares are summed from their own deviations: a difference of larger sums would carry their rounding. A
    mean square below the rounding error of the ratings themselves counts as zero, so that exact agreement is
    recognised.
    """
    n, k = ratings.shape[-2:]
    deviations = ratings - ratings.mean(axis=(-2, -1), keepdims=True)
    by_subject = np.einsum("...ij->...i", deviations)[..., None] / k  # mean() is slow along a short axis
    by_rater = np.einsum("...ij->...j", deviations)[..., None, :] / n
    deviations -= by_subject
    within = _sum_of_squares(deviations)
    deviations -= by_rater
    rounding = n * k * (8 * np.finfo(float).eps * np.abs(ratings).max(axis=(-2, -1))) ** 2

    def over(squares: Floats, degrees: int) -> Floats:
        return np.where(squares <= rounding, 0.0, squares) / degrees

    return MeanSquares(
        subjects=over(k * _sum_of_squares(by_subject), n - 1),
        raters=over(n * _sum_of_squares(by_rater), k - 1),
        within=over(within, n * (k - 1)),
        residual=over(_sum_of_squares(deviations), (n - 1) * (k - 1)),
        n=n,
        k=k,
    )


def _sum_of_squares(deviations: Floats) -> Floats:
    """Return the sum of the squares over the last two axes."""
    return np.asarray(np.einsum("...ij,...ij->...", deviations, deviations))


def intraclass_correlations(ratings: Floats, conf: float = 0.95) -> dict[str, Form]:
    """Return the six forms for (..., subjects, raters) ratings without missing values.

    Parameters
    ----------
    ratings
        (..., n, k) with n, k >= 2; leading axes hold e.g. features.
    conf
        Confidence level of the intervals.

    Notes
    -----
    Intervals are exact F intervals for models 1 and 3; model 2 uses the Satterthwaite degrees of freedom of
    Shrout and Fleiss, and ICC(2,k) its Spearman-Brown transform (irr 0.84.1 prints another, wrong one).
    Without any variance nothing is defined; where raters agree exactly the estimate is 1 while F, p and the
    interval are not defined (NaN here).

    References
    ----------
    Shrout PE, Fleiss JL. Psychol Bull 1979;86:420-428. doi:10.1037/0033-2909.86.2.420.
    McGraw KO, Wong SP. Psychol Methods 1996;1:30-46. doi:10.1037/1082-989X.1.1.30.
    """
    ms = mean_squares(ratings)
    with np.errstate(divide="ignore", invalid="ignore"):
        forms = {
            **_one_error_term("icc1", ms, ms.within, ms.n * (ms.k - 1), conf),
            **_absolute_agreement(ms, conf),
            **_one_error_term("icc3", ms, ms.residual, (ms.n - 1) * (ms.k - 1), conf),
        }
    return {name: forms[name] for name in FORMS}


def _one_error_term(name: str, ms: MeanSquares, error: Floats, df2: int, conf: float) -> dict[str, Form]:
    subjects, df1, k = ms.subjects, ms.n - 1, ms.k
    f = np.where(error > 0, subjects / error, np.nan)
    upper = 1 - (1 - conf) / 2
    f_low: Floats = f / special.fdtri(df1, df2, upper)
    f_high: Floats = f * special.fdtri(df2, df1, upper)
    p = special.fdtrc(df1, df2, f)
    single = Form(
        estimate=(subjects - error) / (subjects + (k - 1) * error),
        f=f,
        df1=df1,
        df2=df2,
        p=p,
        ci_low=(f_low - 1) / (f_low + k - 1),
        ci_high=(f_high - 1) / (f_high + k - 1),
    )
    mean = Form(
        estimate=(subjects - error) / subjects,
        f=f,
        df1=df1,
        df2=df2,
        p=p,
        ci_low=1 - 1 / f_low,
        ci_high=1 - 1 / f_high,
    )
    return {f"{name}_1": single, f"{name}_k": mean}


def _absolute_agreement(ms: MeanSquares, conf: float) -> dict[str, Form]:
    n, k = ms.n, ms.k
    df1, df2 = n - 1, (n - 1) * (k - 1)
    f = np.where(ms.residual > 0, ms.subjects / ms.residual, np.nan)
    p = special.fdtrc(df1, df2, f)
    excess = ms.subjects - ms.residual
    estimate = excess / (ms.subjects + (k - 1) * ms.residual + k * (ms.raters - ms.residual) / n)
    ratio = ms.raters / ms.residual
    rest = n * (1 + (k - 1) * estimate) - k * estimate
    degrees = df2 * (k * estimate * ratio + rest) ** 2 / (df1 * k**2 * estimate**2 * ratio**2 + rest**2)
    upper = 1 - (1 - conf) / 2
    q_low = special.fdtri(df1, degrees, upper)
    q_high = special.fdtri(degrees, df1, upper)
    spread = k * ms.raters + (k * n - k - n) * ms.residual
    low = n * (ms.subjects - q_low * ms.residual) / (q_low * spread + n * ms.subjects)
    high = n * (q_high * ms.subjects - ms.residual) / (spread + n * q_high * ms.subjects)
    single = Form(estimate=estimate, f=f, df1=df1, df2=df2, p=p, ci_low=low, ci_high=high)
    mean = Form(
        estimate=excess / (ms.subjects + (ms.raters - ms.residual) / n),
        f=f,
        df1=df1,
        df2=df2,
        p=p,
        ci_low=spearman_brown(low, k),
        ci_high=spearman_brown(high, k),
    )
    return {"icc2_1": single, "icc2_k": mean}


def spearman_brown(single: Floats, k: int) -> Floats:
    """Return the reliability of the mean of ``k`` ratings from that of a single one."""
    return np.asarray(k * single / (1 + (k - 1) * single))


def _cube(tables: Tables, inputs: Inputs, features: Sequence[str]) -> tuple[Floats, tuple[str, ...]]:
    """Return (features, subjects, raters) ratings of the subjects that a long table rates completely."""
    subject, rater = (str(parameter(inputs, name)) for name in ("subject", "rater"))
    frame = columns(tables, "long", [subject, rater, *features])
    if frame.duplicated([subject, rater]).any():
        raise StatisticError("A rater has rated the same subject twice; the form needs one rating of each.")
    frame = frame.dropna(subset=[subject, rater])
    cube = frame.pivot(index=subject, columns=rater, values=list(features))
    rows = complete({"long": cube}, "long", list(cube.columns))
    if rows.frame.empty:
        raise Undefined("no subject was rated by every rater")
    ratings = rows.matrix(list(cube.columns)).reshape(len(rows.frame), len(features), -1)
    return ratings.transpose(1, 0, 2), rows.notes


def _enough(n: int, k: int) -> None:
    if k < 2:
        raise Undefined("one rater: agreement needs at least two")
    if n < 2:
        raise Undefined(f"{n} complete subjects: at least two are needed")


@statistic("icc", values=[form + part for form in FORMS for part in PARTS])
def icc(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return the six forms of one table.

    Inputs: ``layout`` wide (``raters``: columns) or long (``subject``, ``rater``, ``value``: columns).
    Subjects with a missing rating are left out, and a note says how many.
    """
    if inputs.get("layout", "wide") == "wide":
        raters = list(parameter(inputs, "raters"))
        rows = complete(tables, "wide", raters)
        ratings, notes = rows.matrix(raters), rows.notes
    else:
        cube, notes = _cube(tables, inputs, [str(parameter(inputs, "value"))])
        ratings = cube[0]
    _enough(*ratings.shape)
    values: dict[str, object] = {}
    for name, form in intraclass_correlations(ratings, confidence(inputs)).items():
        values |= _named(name, form)
    return values, notes


def _named(name: str, form: Form) -> Mapping[str, object]:
    same = "no variance: all ratings are equal, or differ by rater alone"
    without_estimate = same if np.isnan(form.estimate) else ""
    without_f = without_estimate or (
        "the raters agree exactly: F is infinite and no interval exists" if np.isnan(form.f) else ""
    )

    def given(value: Floats, why: str) -> object:
        return Undefined(why) if why else float(value)

    return {
        name: given(form.estimate, without_estimate),
        f"{name}_F": given(form.f, without_f),
        f"{name}_df1": form.df1,
        f"{name}_df2": form.df2,
        f"{name}_p": given(form.p, without_f),
        f"{name}_ci_low": given(form.ci_low, without_f),
        f"{name}_ci_high": given(form.ci_high, without_f),
    }


@statistic("icc_table", values=("n", "k"))
def icc_table(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return lists over features: which features survive a change of processing, reader or scanner.

    Inputs: ``subject``, ``rater`` and ``features`` (columns of the table ``long``); ``form`` (default
    ``icc2_1``); ``threshold``: with it, ``stable`` is 1 where the lower confidence limit reaches it.
    """
    features = [str(name) for name in parameter(inputs, "features")]
    name = str(inputs.get("form", "icc2_1"))
    if name not in FORMS:
        raise StatisticError(f"There is no form {name!r}{nearest(name, FORMS)}")
    ratings, notes = _cube(tables, inputs, features)
    _enough(*ratings.shape[1:])
    form = intraclass_correlations(ratings, confidence(inputs))[name]
    named = [_named(name, form.at(i)) for i in range(len(features))]
    values: dict[str, object] = {
        "n": ratings.shape[1],
        "k": ratings.shape[2],
        "feature": features,
        **{key: [row[key] for row in named] for key in (name, f"{name}_ci_low", f"{name}_ci_high")},
    }
    if "threshold" in inputs:
        low = [row[f"{name}_ci_low"] for row in named]
        values["stable"] = [int(isinstance(v, float) and v >= float(inputs["threshold"])) for v in low]
    return values, notes
