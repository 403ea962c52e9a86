"""The statistics of a report: name, module that computes it, and one line on what it is.

Kept as plain data so that listing imports no family; a test holds it against what the modules register.
"""

from __future__ import annotations

from collections.abc import Mapping

CATALOGUE: Mapping[str, Mapping[str, str]] = {
    "agreement.icc": {
        "icc": "Intraclass correlation, six forms of Shrout and Fleiss with F-based intervals",
        "icc_table": "The six intraclass correlations for many features at once",
    },
    "agreement.repeatability": {
        "repeatability": "Within-subject SD and CV, repeatability coefficient, intervals, claim test",
        "change_beyond_repeatability": "Follow-up pairs that differ beyond the repeatability coefficient",
    },
    "agreement.bland_altman": {
        "bland_altman": "Bias and limits of agreement with approximate and exact intervals",
        "bland_altman_ratio": "Limits of agreement of logarithms, transformed back to ratios",
        "bland_altman_regression": "Limits of agreement that follow the size of the measurement",
    },
    "agreement.bland_altman_repeated": {
        "bland_altman_repeated_true_value_constant": "Limits for replicates of a constant true value",
        "bland_altman_repeated_true_value_varies": "Limits for linked pairs while the true value varies",
    },
    "agreement.concordance": {
        "lin_ccc": "Lin's concordance correlation coefficient with z-transformed interval",
    },
    "agreement.variance_components": {
        "variance_components_nested": "Balanced nested precision experiment in closed form",
    },
    "agreement.reml": {
        "variance_components_reml": "Restricted maximum likelihood for unbalanced and crossed factors",
    },
    "agreement.gage": {
        "gage_rr_crossed": "Crossed gage repeatability and reproducibility",
        "reproducibility": "Reproducibility coefficient (RDC) over scanners or other conditions",
    },
    "agreement.deming": {
        "deming": "Deming regression with constant error ratio and jackknife interval",
        "deming_weighted": "Deming regression with the standard deviations of each point",
    },
    "agreement.passing_bablok": {
        "passing_bablok": "Passing-Bablok regression with rank-based interval",
    },
    "agreement.linearity": {
        "linearity": "Straight-line fit with quadratic and cubic terms and lack of fit",
        "bias_by_level": "Bias with interval at every level of the reference",
        "limits_of_quantitation": "Range in which bias and imprecision stay within their bounds",
    },
    "agreement.kappa": {
        "cohen_kappa": "Cohen's kappa, unweighted, linear and quadratic, from ratings or counts",
        "fleiss_kappa": "Fleiss' kappa of many raters",
    },
    "agreement.krippendorff": {
        "krippendorff_alpha": "Krippendorff's alpha at four levels of measurement, missing ratings allowed",
    },
    "agreement.equivalence": {
        "equivalence_tost": "Two one-sided tests of equivalence, paired or independent",
    },
    "agreement.combat": {
        "combat_harmonization": "ComBat of feature tables over scanners",
    },
    "segmentation.mask_agreement": {
        "segmentation_agreement": "Overlap, surface distances in mm, surface Dice, volume error",
    },
    "segmentation.lesions": {
        "lesion_detection": "Lesion-wise detection by connected components",
    },
    "segmentation.consensus": {
        "inter_reader_ceiling": "Agreement of the readers with one another: the ceiling of any algorithm",
    },
    "accuracy.bootstrap_auc": {
        "bootstrap_auc": "Percentile bootstrap of an area under the ROC curve",
    },
    "accuracy.delong": {
        "roc_auc": "Area under the ROC curve with DeLong and logit intervals",
        "auc_comparison_paired": "Two areas under the ROC curve on the same cases",
        "auc_comparison_unpaired": "Areas under the ROC curve of two groups of patients",
        "auc_comparison_global": "Any number of areas under the ROC curve on the same cases",
    },
    "accuracy.roc": {
        "roc_curve": "Operating points of the empirical ROC curve",
        "partial_auc": "Partial areas over high specificity and high sensitivity",
        "average_precision": "Average precision of the stepped precision-recall curve",
    },
    "accuracy.operating_point": {
        "operating_point": "Threshold by Youden, fixed sensitivity, specificity or cost; frozen on a split",
    },
    "accuracy.sample_size": {
        "power_auc_one": "Power and number of patients to show an area above one half",
        "sample_size_auc_comparison": "Number of patients to show that two areas differ",
        "sample_size_noninferiority": "Number of patients to show a proportion not inferior",
        "sample_size_proportion": "Number of patients for a proportion, by precision or against a goal",
    },
    "accuracy.proportions": {
        "proportion_ci": "Binomial proportion with seven intervals",
    },
    "accuracy.proportion_differences": {
        "proportion_difference_independent": "Newcombe and Miettinen-Nurminen intervals of a difference",
        "proportion_difference_paired": "Difference of two paired proportions: McNemar, Tango, Newcombe",
        "noninferiority_independent_proportions": "Farrington-Manning score test of non-inferiority",
        "noninferiority_paired_proportions": "Tango score test of non-inferiority",
    },
    "accuracy.diagnostic": {
        "diagnostic_accuracy": "2x2 table with intervals; predictive values at the intended prevalence",
    },
    "accuracy.paired_tests": {
        "paired_binary_tests": "Two binary tests on the same cases: sensitivity to likelihood ratios",
    },
    "accuracy.clustered": {
        "clustered_auc": "Area under the ROC curve of clustered data (Obuchowski)",
        "clustered_proportion": "Proportion of clustered units (Rao-Scott)",
    },
    "accuracy.mrmc": {
        "mrmc_obuchowski_rockette": "Multi-reader multi-case analysis by Obuchowski and Rockette",
    },
    "accuracy.froc": {
        "froc_jafroc": "FROC figures of merit and their multi-reader comparison",
    },
    "accuracy.calibration": {
        "calibration": "Calibration of predicted probabilities",
    },
    "accuracy.subgroups": {
        "subgroups": "A proportion or AUC in every subgroup with a test of interaction",
    },
    "accuracy.external": {
        "random_effects_summary": "Cohorts, their random-effects summary and prediction interval",
    },
    "accuracy.multilabel": {
        "multilabel_jaccard": "Jaccard by sample, label and pooled; Hamming loss; exact match",
    },
    "survival.curves": {
        "kaplan_meier": "Survival, medians, log-rank tests and restricted mean",
        "logrank_stratified": "Log-rank test within strata",
    },
    "survival.competing_risks": {
        "cumulative_incidence": "Aalen-Johansen cumulative incidence",
    },
    "survival.cox": {
        "cox": "Proportional hazards regression with tests and proportionality",
        "cox_stratified": "Proportional hazards regression with a baseline hazard for each stratum",
    },
    "survival.c_index": {
        "c_index": "Concordance of Harrell and of Uno with standard errors",
        "time_dependent_auc": "Cumulative/dynamic area under the ROC curve at given times",
    },
    "utility.decision_curve": {
        "decision_curve": "Net benefit over thresholds, also at a given prevalence",
        "decision_curve_survival": "Net benefit over thresholds at a horizon of censored data",
    },
    "utility.reclassification": {
        "reclassification": "Net reclassification by part, and integrated discrimination improvement",
    },
    "utility.economics": {
        "cost_effectiveness": "ICER, Fieller interval, net benefit and acceptability of a trial",
        "cost_effectiveness_frontier": "Dominance, extended dominance and sequential ICERs",
        "cost_effectiveness_plane": "Bootstrapped cost and effect differences by quadrant",
    },
    "utility.markov": {
        "markov_cohort": "Markov cohort model of two treatments",
        "discounted_sum": "Present value of yearly amounts",
    },
    "utility.time_saved": {
        "time_saved": "Reading time saved, paired or independent",
    },
    "prediction.tabular": {
        "nested_cross_validation": "Nested cross-validation of ridge and lasso models, with a leak test",
    },
    "prediction.pathways": {
        "pathway_scores": "Pathway scores of gene expression: mean z or single-sample enrichment",
    },
    "prediction.attribution": {
        "shapley_linear": "Exact Shapley values of a linear model, interventional and conditional",
    },
    "case_summary": {
        "case_summary": "Mean, median and spread of a measure over cases, with every case accounted for",
    },
    "multiplicity": {
        "multiplicity": "Bonferroni, Holm, Hochberg and Benjamini-Hochberg adjusted p-values",
        "gatekeeping": "Hierarchical gatekeeping over ordered families of hypotheses",
    },
    "bootstrap": {
        "bootstrap_bca": "Percentile and BCa intervals of a mean or ratio of means, also clustered",
    },
}


def module_of(name: str) -> str | None:
    """Return the module of ``voxtrial.validation`` that registers a statistic, or None."""
    return next((module for module, statistics in CATALOGUE.items() if name in statistics), None)


def names() -> list[str]:
    """Return every statistic in the order of the catalogue."""
    return [name for statistics in CATALOGUE.values() for name in statistics]
