"""Acceptance criteria as predicates on computed values: met, not met, or not evaluable.

criterion  = comparison { "and" comparison }
comparison = term ( ">" | ">=" | "<" | "<=" ) number
term       = name | value(name) | ci_low(name) | ci_high(name) | abs(term)
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["met", "not met", "not evaluable"]

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_COMPARISON = re.compile(
    rf"^(?P<abs>abs\()?(?:(?P<bound>value|ci_low|ci_high)\((?P<of>\w+)\)|(?P<name>\w+))(?(abs)\))"
    rf"\s*(?P<sign>>=|<=|>|<)\s*(?P<limit>{_NUMBER})$"
)


class CriterionError(ValueError):
    """The text is no criterion; the message shows what one looks like."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One term against one limit."""

    name: str
    bound: str
    absolute: bool
    sign: str
    limit: float

    def candidates(self) -> tuple[str, ...]:
        """Return the value names that the term may stand for, best first.

        Statistics name an interval ``auc_ci_low`` when they print several, ``ci_low`` when they print
        one, and ``bca_low`` when it is a bootstrap interval.
        """
        if self.bound == "value":
            return (self.name,)
        return f"{self.name}_{self.bound}", self.bound, f"bca_{self.bound.removeprefix('ci_')}"

    def holds(self, values: Mapping[str, Any]) -> bool | None:
        """Return whether the comparison holds; None when its value is not defined."""
        for name in self.candidates():
            if name in values:
                value = values[name]
                if value is None or isinstance(value, list):
                    return None
                number = abs(float(value)) if self.absolute else float(value)
                return _COMPARISONS[self.sign](number, self.limit)
        return None


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """Comparisons that must all hold."""

    text: str
    comparisons: tuple[Comparison, ...]

    def verdict(self, values: Mapping[str, Any]) -> Verdict:
        """Judge computed values; one undefined value makes the criterion not evaluable."""
        answers = [comparison.holds(values) for comparison in self.comparisons]
        if any(answer is False for answer in answers):
            return "not met"
        return "not evaluable" if None in answers else "met"


def parse(text: str) -> Criterion:
    """Read a criterion.

    Raises
    ------
    CriterionError
        The text does not follow the grammar of the module.
    """
    comparisons = []
    for part in re.split(r"\s+and\s+", text.strip()):
        match = _COMPARISON.match(part.strip())
        if match is None:
            raise CriterionError(
                f"{part!r} is no criterion; write for example: ci_low(sensitivity) > 0.80 and abs(bias) < 5."
            )
        comparisons.append(
            Comparison(
                name=match["of"] or match["name"],
                bound=match["bound"] or "value",
                absolute=match["abs"] is not None,
                sign=match["sign"],
                limit=float(match["limit"]),
            )
        )
    return Criterion(text=text.strip(), comparisons=tuple(comparisons))
