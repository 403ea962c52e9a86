"""Estimate who would still be uncensored, and what each patient contributes to that estimate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from voxtrial.validation.tables import Flags, Floats


@dataclass(frozen=True, kw_only=True)
class CensoringDistribution:
    """Kaplan-Meier estimate of remaining uncensored, events first at equal times.

    Parameters
    ----------
    times, at_risk, censored
        (k,) distinct times with a censoring, patients at risk of it there, and how many are censored.
    survival
        (k,) probability of being uncensored from then on.
    """

    times: Floats
    at_risk: Floats
    censored: Floats
    survival: Floats

    def just_before(self, time: Floats) -> Floats:
        """Return the probability of being uncensored just before a time."""
        return np.asarray(np.concatenate([[1.0], self.survival])[np.searchsorted(self.times, time, "left")])

    def influence(self, time: Floats, event: Flags, at: Floats, weight: Floats) -> Floats:
        """Return the influence of each patient on a weighted sum of cumulative censoring hazards.

        Parameters
        ----------
        time, event
            (n,) follow-up of the patients.
        at, weight
            (m,) times, just before which the hazard is taken, and its weights.
        """
        order = np.argsort(at)
        after = np.concatenate([np.cumsum(weight[order][::-1])[::-1], [0.0]])
        later = after[np.searchsorted(at[order], self.times, "right")]
        drift = np.concatenate([[0.0], np.cumsum(later * self.censored / self.at_risk**2)])
        own = np.searchsorted(self.times, time, "right")
        exposed_to = np.where(event, np.searchsorted(self.times, time, "left"), own)
        found = -drift[exposed_to]
        jumps = np.append(later / self.at_risk, 0.0)
        return np.asarray(found + np.where(event, 0.0, jumps[np.where(event, 0, own - 1)]))


def censoring_distribution(time: Floats, event: Flags) -> CensoringDistribution:
    """Return the distribution of the censoring times."""
    times, censored = np.unique(time[~event], return_counts=True)
    ordered, failures = np.sort(time), np.sort(time[event])
    still = time.size - np.searchsorted(ordered, times, "left")
    just_failed = np.searchsorted(failures, times, "right") - np.searchsorted(failures, times, "left")
    at_risk = (still - just_failed).astype(float)
    return CensoringDistribution(
        times=times,
        at_risk=at_risk,
        censored=censored.astype(float),
        survival=np.asarray(np.cumprod(1 - censored / at_risk), dtype=np.float64),
    )
