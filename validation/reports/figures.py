"""Every figure of a report, drawn from the points in its JSON, as SVG with reproducible bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Points = Mapping[str, Any]

# Okabe and Ito 2008: told apart with every kind of colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_STYLE: Any = {
    "svg.hashsalt": "voxtrial",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def draw_all(figures: Mapping[str, Points]) -> dict[str, str]:
    """Return an SVG document by figure name, in the order in which a report shows them."""
    return {
        name: drawn(partial(draw, points=figures[source]))
        for name, (source, draw) in _FIGURES.items()
        if source in figures and _has_points(figures[source])
    }


def drawn(draw: Callable[[Axes], None], size: tuple[float, float] = (4.2, 3.4)) -> str:
    """Return what ``draw`` draws on one pair of axes as SVG in the style of the house; ``size`` in inches."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        return _svg(figure)


def _has_points(points: Points) -> bool:
    return any(any(v is not None for v in values) for values in points.values())


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "Voxtrial"})
    return buffer.getvalue()


def _by_site(points: Points, *names: str) -> dict[str, list[NDArray[np.float64]]]:
    """Return complete rows of the named columns by site."""
    columns = [np.array([np.nan if v is None else v for v in points[name]], float) for name in names]
    complete = np.all(np.isfinite(columns), axis=0)
    sites = np.array([str(s) for s in points["site"]])
    return {
        site: [column[complete & (sites == site)] for column in columns]
        for site in sorted(set(sites.tolist()))
    }


def _volume(axes: Axes, points: Points) -> None:
    limits: list[float] = []
    for colour, (site, (reference, measured)) in zip(
        _cycle(), _by_site(points, "reference_mm3", "measured_mm3").items(), strict=False
    ):
        axes.plot(reference, measured, "o", ms=4, color=colour, alpha=0.8, label=site)
        limits += [*reference[reference > 0], *measured[measured > 0]]
    if limits:
        ends = [min(limits) * 0.9, max(limits) * 1.1]
        axes.plot(ends, ends, "-", lw=0.8, color="0.4", label="identity")
    axes.set(xscale="log", yscale="log", xlabel="Reference volume, mm³", ylabel="Measured volume, mm³")
    axes.legend(fontsize=7, frameon=False)


def _bland_altman(axes: Axes, points: Points) -> None:
    differences: list[float] = []
    for colour, (site, (reference, measured)) in zip(
        _cycle(), _by_site(points, "reference_mm3", "measured_mm3").items(), strict=False
    ):
        percent = 100 * (measured - reference) / ((measured + reference) / 2)
        axes.plot((measured + reference) / 2, percent, "o", ms=4, color=colour, alpha=0.8, label=site)
        differences += percent.tolist()
    if len(differences) > 1:
        bias, sd = float(np.mean(differences)), float(np.std(differences, ddof=1))
        for level, style in ((bias, "-"), (bias - 1.96 * sd, "--"), (bias + 1.96 * sd, "--")):
            axes.axhline(level, ls=style, lw=0.9, color="0.3")
    axes.set(xscale="log", xlabel="Mean of the two volumes, mm³", ylabel="Difference, % of the mean")


def _dice(axes: Axes, points: Points) -> None:
    groups = _by_site(points, "dice")
    rng = np.random.default_rng(0)  # spreads the points sideways, nothing more
    for k, (colour, (values,)) in enumerate(zip(_cycle(), groups.values(), strict=False)):
        axes.plot(k + rng.uniform(-0.15, 0.15, len(values)), values, "o", ms=4, color=colour, alpha=0.7)
        if len(values):
            axes.plot([k - 0.25, k + 0.25], [np.median(values)] * 2, color="black", lw=1.4)
    axes.set_xticks(range(len(groups)), list(groups), rotation=20, ha="right")
    axes.set(ylabel="Dice (line: median)", ylim=(-0.02, 1.02))


def _roc(axes: Axes, points: Points) -> None:
    axes.plot(points["false_positive_rate"], points["true_positive_rate"], "-", color=PALETTE[0], lw=1.6)
    axes.plot([0, 1], [0, 1], "--", lw=0.8, color="0.5")
    axes.set(xlabel="1 - specificity", ylabel="Sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal")


def _cycle() -> tuple[str, ...]:
    return PALETTE * 8


_FIGURES: dict[str, tuple[str, Callable[..., None]]] = {
    "Measured against reference volume": ("volume", _volume),
    "Difference against mean volume": ("volume", _bland_altman),
    "Overlap by site": ("dice", _dice),
    "Receiver operating characteristic": ("roc", _roc),
}
