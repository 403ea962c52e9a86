"""Conformance to IBSI 1: our value beside the published one, for every feature and configuration.

A certificate is made from features of the IBSI phantoms and a table of reference values. The one that ships
with this version was made by ``voxtrial radiomics-certificate``; reports that use features embed its summary.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from importlib.metadata import version
from pathlib import Path

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.radiomics.configuration import Configuration, Texture
from voxtrial.daemon.radiomics.extract import Features

DIGITAL_PHANTOM = Configuration(name="digital_phantom", texture=Texture(dimensions=("2D", "2.5D", "3D")))
"""The digital phantom is read as it is: grey levels on 2 mm voxels, every way of aggregation."""

SOURCE = (
    "Zwanenburg A, et al. The Image Biomarker Standardization Initiative. Radiology 2020;295:328-338. "
    "doi:10.1148/radiol.2020191145"
)
SIGNIFICANT_DIGITS = 3
"""Digits to which IBSI prints reference values."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A published value. ``tolerance`` is None where IBSI prints none."""

    dataset: str
    family: str
    feature: str
    ibsi_id: str
    aggregation_id: str
    value: float
    tolerance: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Our value against a published one; ``value`` is None where we have none."""

    dataset: str
    family: str
    feature: str
    ibsi_id: str
    aggregation_id: str
    value: float | None
    reference: float
    tolerance: float | None

    @property
    def deviation(self) -> float:
        """Our value minus the reference; NaN where we have none."""
        return math.nan if self.value is None else self.value - self.reference

    @property
    def conforms(self) -> bool:
        """Whether our value, to the digits that IBSI prints, lies within the tolerance.

        Without a printed tolerance the printed digits themselves must agree.
        """
        if self.value is None or math.isnan(self.value):
            return False
        printed = float(f"{self.value:.{SIGNIFICANT_DIGITS}g}")
        return abs(printed - self.reference) <= (self.tolerance or 0.0) + 1e-9 * abs(self.reference)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One family under one configuration.

    ``largest_deviation`` is in units of the tolerance, over the values that have one; NaN where none has.
    """

    dataset: str
    family: str
    values: int
    conforming: int
    largest_deviation: float


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Every comparison that was made, and which software made it."""

    software: str
    source: str
    rows: tuple[Comparison, ...]

    @property
    def conforms(self) -> bool:
        """Whether every value conforms."""
        return all(row.conforms for row in self.rows)

    def summary(self) -> tuple[Summary, ...]:
        """Return one line for each dataset and family, in the order of the rows."""
        groups: dict[tuple[str, str], list[Comparison]] = {}
        for row in self.rows:
            groups.setdefault((row.dataset, row.family), []).append(row)
        return tuple(
            Summary(
                dataset=dataset,
                family=family,
                values=len(rows),
                conforming=sum(row.conforms for row in rows),
                largest_deviation=max(
                    (abs(row.deviation) / row.tolerance for row in rows if row.tolerance), default=math.nan
                ),
            )
            for (dataset, family), rows in groups.items()
        )

    def as_json(self) -> str:
        """Return the certificate as JSON with one row a line; values to ten digits."""
        rounded = (replace(row, value=_ten_digits(row.value)) for row in self.rows)
        rows = ",\n".join(json.dumps(list(asdict(row).values()), ensure_ascii=False) for row in rounded)
        columns = json.dumps(list(Comparison.__dataclass_fields__))
        return (
            f'{{"software": {json.dumps(self.software)},\n"source": {json.dumps(self.source)},\n'
            f'"conforming": {sum(row.conforms for row in self.rows)},\n"values": {len(self.rows)},\n'
            f'"columns": {columns},\n"rows": [\n{rows}\n]}}\n'
        )


def read_reference(path: Path) -> list[Reference]:
    """Read reference values from CSV.

    Parameters
    ----------
    path
        Columns dataset, family, feature, ibsi_id, aggregation_id, value, tolerance; others are ignored.

    Raises
    ------
    Misconfigured
        A column is missing or a number is none; or a key appears twice.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                Reference(
                    dataset=row["dataset"],
                    family=row["family"],
                    feature=row["feature"],
                    ibsi_id=row["ibsi_id"],
                    aggregation_id=row["aggregation_id"],
                    value=float(row["value"]),
                    tolerance=float(row["tolerance"]) if row["tolerance"] else None,
                )
                for row in csv.DictReader(file)
            ]
    except KeyError as error:
        raise Misconfigured(f"Reference table {path} has no column {error}.") from error
    except (OSError, ValueError) as error:
        raise Misconfigured(f"Reference table {path} cannot be read: {error}.") from error
    keys = Counter((row.dataset, row.ibsi_id, row.aggregation_id, row.feature) for row in rows)
    twice = [key for key, count in keys.items() if count > 1]
    if twice:
        raise Misconfigured(f"Reference table {path} has {twice[0]} twice.")
    return rows


def certify(computed: Mapping[str, Features], references: Sequence[Reference]) -> Certificate:
    """Compare features with every reference value of the datasets that were computed.

    Parameters
    ----------
    computed
        Features by dataset: ``digital_phantom``, ``config_A`` to ``config_E``.
    """
    rows: list[Comparison] = []
    for dataset, features in computed.items():
        rows += _compared(features, (row for row in references if row.dataset == dataset))
    return Certificate(software=f"voxtrial {version('voxtrial')}", source=SOURCE, rows=tuple(rows))


def shipped() -> Certificate:
    """Return the certificate that was made for this version."""
    text = (resources.files("voxtrial.daemon.radiomics") / "certificate.json").read_text(encoding="utf-8")
    content = json.loads(text)
    rows = tuple(Comparison(**dict(zip(content["columns"], row, strict=True))) for row in content["rows"])
    return Certificate(software=content["software"], source=content["source"], rows=rows)


def _ten_digits(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(f"{value:.10g}")


def _compared(features: Features, references: Iterable[Reference]) -> list[Comparison]:
    ours = {(row.ibsi_id, row.aggregation_id, row.feature): row.value for row in features}
    return [
        Comparison(
            dataset=row.dataset,
            family=row.family,
            feature=row.feature,
            ibsi_id=row.ibsi_id,
            aggregation_id=row.aggregation_id,
            value=ours.get((row.ibsi_id, row.aggregation_id, row.feature)),
            reference=row.value,
            tolerance=row.tolerance,
        )
        for row in references
    ]
