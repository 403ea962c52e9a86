"""The statistics of a report: name, module that computes it, and one line on what it is.

Kept as plain data so that listing imports no family; a test holds it against what the modules register.
"""

from __future__ import annotations

from collections.abc import Mapping

CATALOGUE: Mapping[str, Mapping[str, str]] = {
    "icc": {
        "icc": "Intraclass correlation, six forms of Shrout and Fleiss with F-based intervals",
        "icc_table": "The six intraclass correlations for many features at once",
    },
    "repeatability": {
        "repeatability": "Within-subject SD and CV, repeatability coefficient, intervals, claim test",
        "reproducibility": "Reproducibility coefficient (RDC) of a long table over conditions",
        "change_beyond_repeatability": "Follow-up pairs that differ beyond the repeatability coefficient",
    },
    "bland_altman": {
        "bland_altman": "Bias and limits of agreement with approximate and exact intervals",
        "bland_altman_ratio": "Limits of agreement of logarithms, transformed back to ratios",
        "bland_altman_repeated_true_value_constant": "Limits for replicates of a constant true value",
        "bland_altman_repeated_true_value_varies": "Limits for linked pairs while the true value varies",
        "bland_altman_regression": "Limits of agreement that follow the size of the measurement",
    },
    "concordance": {
        "lin_ccc": "Lin's concordance correlation coefficient with z-transformed interval",
    },
    "variance_components": {
        "variance_components_nested": "Balanced nested precision experiment in closed form",
        "variance_components_reml": "Restricted maximum likelihood for unbalanced and crossed factors",
    },
    "gage": {
        "gage_rr_crossed": "Crossed gage repeatability and reproducibility",
    },
    "regression": {
        "deming": "Deming regression with constant error ratio and jackknife interval",
        "deming_weighted": "Deming regression with the standard deviations of each point",
        "passing_bablok": "Passing-Bablok regression with rank-based interval",
    },
    "linearity": {
        "linearity": "Straight-line fit with quadratic and cubic terms and lack of fit",
        "bias_by_level": "Bias with interval at every level of the reference",
        "limits_of_quantitation": "Range in which bias and imprecision stay within their bounds",
    },
    "kappa": {
        "cohen_kappa": "Cohen's kappa, unweighted, linear and quadratic, from ratings or counts",
        "fleiss_kappa": "Fleiss' kappa of many raters",
    },
    "krippendorff": {
        "krippendorff_alpha": "Krippendorff's alpha at four levels of measurement, missing ratings allowed",
    },
    "equivalence": {
        "equivalence_tost": "Two one-sided tests of equivalence, paired or independent",
    },
    "segmentation": {
        "segmentation_agreement": "Overlap, surface distances in mm, surface Dice, volume error",
        "lesion_detection": "Lesion-wise detection by connected components",
        "inter_reader_ceiling": "Agreement of the readers with one another: the ceiling of any algorithm",
    },
    "combat": {
        "combat_harmonization": "ComBat of feature tables over scanners",
    },
    "multiplicity": {
        "multiplicity": "Bonferroni, Holm, Hochberg and Benjamini-Hochberg adjusted p-values",
        "gatekeeping": "Hierarchical gatekeeping over ordered families of hypotheses",
    },
    "bootstrap": {
        "bootstrap_auc": "Percentile bootstrap of an area under the ROC curve",
        "bootstrap_bca": "Percentile and BCa intervals of a ratio of means",
        "bootstrap_mean": "Percentile and BCa intervals of a mean, clusters resampled as a whole",
    },
    "multilabel": {
        "multilabel_jaccard": "Jaccard by sample, label and pooled; Hamming loss; exact match",
    },
}


def module_of(name: str) -> str | None:
    """Return the module of ``voxtrial.validation`` that registers a statistic, or None."""
    return next((module for module, statistics in CATALOGUE.items() if name in statistics), None)


def names() -> list[str]:
    """Return every statistic in the order of the catalogue."""
    return [name for statistics in CATALOGUE.values() for name in statistics]
