"""Evaluate the partial likelihood of proportional hazards: one term for each event, strata kept apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxtrial.validation.tables import Floats


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Partial likelihood at given coefficients.

    Parameters
    ----------
    log_likelihood
        Its logarithm.
    residuals
        (events, p) covariates of the failing patient minus their mean over the risk set.
    information
        (events, p, p) variance of the covariates over the risk set.
    """

    log_likelihood: float
    residuals: Floats
    information: Floats


@dataclass(frozen=True, kw_only=True)
class _Stratum:
    """Patients of one stratum in order of time, with what does not depend on the coefficients."""

    covariates: Floats
    failing: NDArray[np.intp]
    first_at_risk: NDArray[np.intp]
    tie: NDArray[np.intp]
    tie_share: Floats
    n_ties: int


def _stratum(time: Floats, event: NDArray[np.bool_], covariates: Floats, efron: bool) -> _Stratum:
    order = np.lexsort((~event, time))
    t, e = time[order], event[order]
    failing = np.flatnonzero(e)
    _, tie, size = np.unique(t[failing], return_inverse=True, return_counts=True)
    start = np.concatenate([[0], np.cumsum(size)])[:-1]
    rank = np.arange(failing.size) - start[tie]
    share = rank / size[tie] if efron else np.zeros(failing.size)
    return _Stratum(
        covariates=covariates[order],
        failing=failing,
        first_at_risk=np.searchsorted(t, t[failing], "left"),
        tie=tie,
        tie_share=share,
        n_ties=size.size,
    )


class PartialLikelihood:
    """The partial likelihood of one data set, to be evaluated at any coefficients.

    Parameters
    ----------
    time, event
        (n,) follow-up.
    covariates
        (n, p); centred and scaled by the caller where that helps.
    strata
        (n,) labels; risk sets never cross them.
    efron
        Efron's treatment of tied events, else Breslow's.

    References
    ----------
    Efron B. J Am Stat Assoc 1977;72:557-565. doi:10.1080/01621459.1977.10480613.
    Breslow N. Biometrics 1974;30:89-99. doi:10.2307/2529620.
    """

    def __init__(
        self,
        time: Floats,
        event: NDArray[np.bool_],
        covariates: Floats,
        strata: NDArray[np.intp],
        *,
        efron: bool,
    ) -> None:
        groups = [strata == stratum for stratum in np.unique(strata)]
        self._strata = [_stratum(time[g], event[g], covariates[g], efron) for g in groups if event[g].any()]
        self.event_times = np.concatenate([np.sort(time[g & event]) for g in groups if event[g].any()])

    def at(self, coefficients: Floats) -> Terms:
        """Return the terms of all events; strata one after the other, times ascending."""
        log_likelihood = 0.0
        residuals, information = [], []
        for s in self._strata:
            x, failing = s.covariates, s.failing
            predictor = x @ coefficients
            risk = np.exp(predictor - predictor.max())
            moments = (risk, x * risk[:, None], np.einsum("i,ij,ik->ijk", risk, x, x))
            sums = []
            for moment in moments:
                remaining = np.cumsum(moment[::-1], axis=0)[::-1][s.first_at_risk]
                tied = np.zeros((s.n_ties, *moment.shape[1:]))
                np.add.at(tied, s.tie, moment[failing])
                share = s.tie_share.reshape(-1, *[1] * (moment.ndim - 1))
                sums.append(remaining - share * tied[s.tie])
            s0, s1, s2 = sums
            mean = s1 / s0[:, None]
            log_likelihood += float((predictor[failing] - predictor.max() - np.log(s0)).sum())
            residuals.append(x[failing] - mean)
            information.append(s2 / s0[:, None, None] - mean[:, :, None] * mean[:, None, :])
        return Terms(
            log_likelihood=log_likelihood,
            residuals=np.concatenate(residuals),
            information=np.concatenate(information),
        )
