"""Every coded concept that result objects use, in one table."""

from __future__ import annotations

from dataclasses import dataclass

from highdicom.sr.coding import CodedConcept


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A code triplet (PS3.3 section 8.1)."""

    value: str
    scheme: str
    meaning: str

    def coded(self) -> CodedConcept:
        """Return the triplet as highdicom takes it."""
        return CodedConcept(self.value, self.scheme, self.meaning)


def _sct(value: str, meaning: str) -> Concept:
    return Concept(value=value, scheme="SCT", meaning=meaning)


def _dcm(value: str, meaning: str) -> Concept:
    return Concept(value=value, scheme="DCM", meaning=meaning)


def _ucum(value: str, meaning: str) -> Concept:
    return Concept(value=value, scheme="UCUM", meaning=meaning)


VOLUME = _sct("118565006", "Volume")
MASS = _sct("118538004", "Mass")
LONG_AXIS = _sct("103339001", "Long Axis")
SHORT_AXIS = _sct("103340004", "Short Axis")
MAXIMUM_3D_DIAMETER = Concept(value="L0JK", scheme="IBSI", meaning="Maximum 3D diameter")
PROBABILITY_OF_CANCER = _dcm("111047", "Probability of cancer")
MEAN = _sct("373098007", "Mean")
ATTENUATION = _dcm("112031", "Attenuation Coefficient")

CUBIC_MILLIMETRE = _ucum("mm3", "cubic millimeter")
MILLIMETRE = _ucum("mm", "millimeter")
GRAM = _ucum("g", "gram")
PERCENT = _ucum("%", "Percent")
NO_UNITS = _ucum("1", "no units")

CT_UNIT = _ucum("[hnsf'U]", "Hounsfield unit")

ABSENT = _sct("2667000", "Absent")
FINDING = _dcm("121071", "Finding")
ARTIFICIAL_INTELLIGENCE = _dcm("123110", "Artificial Intelligence")
PROCESSING_EQUIPMENT = _dcm("109102", "Processing Equipment")
PROCESSING_ALGORITHM = Concept(value="1630", scheme="99IHE", meaning="Processing Algorithm")
SOURCE = _sct("260753009", "Source")
IMAGE_LIBRARY = _dcm("111028", "Image Library")
IMAGE_LIBRARY_GROUP = _dcm("126200", "Image Library Group")
IMAGING_MEASUREMENTS = _dcm("126010", "Imaging Measurements")
IMAGING_MEASUREMENT_REPORT = _dcm("126000", "Imaging Measurement Report")

IMAGING_PROCEDURE_BY_MODALITY = {
    "CT": Concept(value="25045-6", scheme="LN", meaning="CT unspecified body region"),
    "MR": Concept(value="25056-3", scheme="LN", meaning="MRI unspecified body region"),
    "PT": Concept(value="44136-0", scheme="LN", meaning="PET unspecified body region"),
}
"""Of CID 100, Quantitative Diagnostic Imaging Procedures."""
IMAGING_PROCEDURE = _sct("363679005", "Imaging")
"""Used where the modality has no row of its own."""
