"""Say what may leave the site: keyed pseudonyms for logs and cohorts, pseudonymised images and segmentations.

A keep-list, not a drop-list: an attribute that nobody thought of is removed, private ones always. Identities
become keyed hashes (HMAC-SHA256), so that the site, which holds the key, can find the patient again and
nobody else can; the same identity gives the same pseudonym in every object, so references between objects
hold. Dates move by one offset a patient: intervals stay, days do not.

Notes
-----
Faces in head images and text burned into pixels are not removed. Objects that say that they hold such text,
or whose class is made of text (reports, documents, captures), are refused.

References
----------
PS3.15 Annex E, Table E.1-1: Basic Application Level Confidentiality Profile (113100) with the options Retain
Longitudinal Temporal Information with Modified Dates (113107) and Retain Patient Characteristics (113108).
"""

from __future__ import annotations

import copy
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.uid import UID

from voxtrial.daemon.dicom.elements import quietly
from voxtrial.daemon.errors import Misconfigured, Refused

MINIMUM_KEY_BYTES = 16
LARGEST_SHIFT_DAYS = 3650

EXPORTABLE_CLASSES = frozenset(
    (
        "1.2.840.10008.5.1.4.1.1.2",
        "1.2.840.10008.5.1.4.1.1.2.1",
        "1.2.840.10008.5.1.4.1.1.2.2",
        "1.2.840.10008.5.1.4.1.1.4",
        "1.2.840.10008.5.1.4.1.1.4.1",
        "1.2.840.10008.5.1.4.1.1.4.4",
        "1.2.840.10008.5.1.4.1.1.128",
        "1.2.840.10008.5.1.4.1.1.128.1",
        "1.2.840.10008.5.1.4.1.1.130",
        "1.2.840.10008.5.1.4.1.1.66.4",
        "1.2.840.10008.5.1.4.1.1.66.7",
    )
)
"""CT, MR and PET (single-frame, enhanced, legacy converted) and Segmentations."""

KEPT_BY_MODULE = {
    "general": """
        SpecificCharacterSet ImageType FrameType SOPClassUID Modality Manufacturer ManufacturerModelName
        SoftwareVersions BodyPartExamined PatientPosition Laterality SeriesNumber AcquisitionNumber
        InstanceNumber ImageIndex StudyTime SeriesTime AcquisitionTime ContentTime""",
    "patient characteristics": "PatientSex PatientAge PatientSize PatientWeight",
    "CT": """
        SliceThickness SpacingBetweenSlices KVP DataCollectionDiameter ReconstructionDiameter
        GantryDetectorTilt TableHeight RotationDirection ExposureTime XRayTubeCurrent Exposure FilterType
        ConvolutionKernel FocalSpots SpiralPitchFactor SingleCollimationWidth TotalCollimationWidth
        CTDIvol""",
    "MR": """
        ScanningSequence SequenceVariant ScanOptions MRAcquisitionType RepetitionTime EchoTime InversionTime
        NumberOfAverages ImagingFrequency ImagedNucleus EchoNumbers MagneticFieldStrength EchoTrainLength
        FlipAngle PixelBandwidth InPlanePhaseEncodingDirection AcquisitionMatrix TriggerTime DiffusionBValue
        SAR ComplexImageComponent AcquisitionContrast EffectiveEchoTime""",
    "PET": """
        Units CountsSource SeriesType CorrectedImage DecayCorrection DecayFactor ScatterCorrectionMethod
        AttenuationCorrectionMethod RandomsCorrectionMethod ReconstructionMethod FrameReferenceTime
        ActualFrameDuration SUVType DoseCalibrationFactor CollimatorType NumberOfSlices NumberOfTimeSlices
        RadiopharmaceuticalInformationSequence RadiopharmaceuticalStartTime RadionuclideTotalDose
        RadionuclideHalfLife RadionuclidePositronFraction RadionuclideCodeSequence
        RadiopharmaceuticalCodeSequence""",
    "plane": """
        ImagePositionPatient ImageOrientationPatient PixelSpacing SliceLocation PositionReferenceIndicator
        TemporalPositionIdentifier NumberOfTemporalPositions TemporalPositionIndex StackID
        InStackPositionNumber""",
    "pixel": """
        NumberOfFrames SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated BitsStored HighBit
        PixelRepresentation PixelAspectRatio PixelPaddingValue PixelPaddingRangeLimit SmallestImagePixelValue
        LargestImagePixelValue RescaleIntercept RescaleSlope RescaleType WindowCenter WindowWidth
        VOILUTFunction LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod
        BurnedInAnnotation PixelPresentation VolumetricProperties VolumeBasedCalculationTechnique
        PixelData""",
    "functional groups": """
        SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelMeasuresSequence
        PlanePositionSequence PlaneOrientationSequence PixelValueTransformationSequence FrameContentSequence
        FrameAcquisitionNumber DimensionIndexValues DimensionOrganizationType DimensionOrganizationSequence
        DimensionIndexSequence DimensionIndexPointer FunctionalGroupPointer FrameAnatomySequence
        AnatomicRegionSequence FrameLaterality CTImageFrameTypeSequence MRImageFrameTypeSequence
        PETFrameTypeSequence MREchoSequence MRDiffusionSequence FrameVOILUTSequence""",
    "references": """
        ReferencedSeriesSequence ReferencedInstanceSequence ReferencedSOPClassUID ReferencedFrameNumber
        DerivationImageSequence DerivationCodeSequence SourceImageSequence PurposeOfReferenceCodeSequence
        SpatialLocationsPreserved""",
    "segmentation": """
        SegmentSequence SegmentNumber SegmentAlgorithmType SegmentAlgorithmName
        SegmentedPropertyCategoryCodeSequence SegmentedPropertyTypeCodeSequence AnatomicRegionModifierSequence
        RecommendedDisplayCIELabValue SegmentIdentificationSequence ReferencedSegmentNumber SegmentationType
        SegmentationFractionalType MaximumFractionalValue SegmentsOverlap ContentLabel""",
    "code": "CodeValue CodingSchemeDesignator CodeMeaning CodingSchemeVersion",
}
"""Attributes that stay as they are: what the scanner did, where the pixels are, what a code means."""

KEPT = frozenset(keyword for keywords in KEPT_BY_MODULE.values() for keyword in keywords.split())

DATES = frozenset(
    (
        "StudyDate",
        "SeriesDate",
        "AcquisitionDate",
        "ContentDate",
        "AcquisitionDateTime",
        "FrameAcquisitionDateTime",
        "FrameReferenceDateTime",
        "RadiopharmaceuticalStartDateTime",
    )
)
"""Attributes that move by the patient's offset."""

EMPTIED = frozenset(
    (
        "PatientBirthDate",
        "AccessionNumber",
        "ReferringPhysicianName",
        "StudyID",
        "ContentCreatorName",
        "ContentDescription",
    )
)
"""Attributes that their modules require (type 2), without a value (action Z)."""

HASHED = frozenset(("DeviceSerialNumber", "TrackingID"))
"""Attributes that tell things apart: a keyed hash does as well (action D)."""

NOT_REPORTABLE = frozenset(("PatientWeight", "PatientSize", "PatientSex", "SeriesTime", "AcquisitionTime"))
"""Kept facts that describe the patient or the hour: for the cohort's own tables, not for reports."""


def study_hash(key: bytes, uid: str) -> str:
    """Return the name of a study in logs: 16 hexadecimal digits that only the holder of ``key`` can trace."""
    return _keyed(key, "study", uid).hex()[:16]


def reportable(acquisition: Mapping[str, Any]) -> dict[str, Any]:
    """Return those facts of a series that reports may hold: the kind of scanner, not device or day."""
    allowed = KEPT - NOT_REPORTABLE
    return {keyword: value for keyword, value in acquisition.items() if keyword in allowed}


def pseudonymised(data_set: Dataset, key: bytes) -> Dataset:
    """Return a pseudonymised copy of an image or segmentation.

    Parameters
    ----------
    data_set
        Object with its file meta information; not changed.
    key
        Secret of the site, at least 16 bytes, kept outside the database.

    Raises
    ------
    Refused
        ``not_exportable`` (class outside ``EXPORTABLE_CLASSES``), ``burned_in_annotation``,
        ``embedded_overlay``.
    Misconfigured
        If the key is too short.
    """
    with quietly():
        _refuse_text_in_pixels(data_set)
        patient = f"{data_set.get('PatientID', '')}\n{data_set.get('IssuerOfPatientID', '')}"
        shift = timedelta(days=-1 - int.from_bytes(_keyed(key, "shift", patient)[:4]) % LARGEST_SHIFT_DAYS)
        result = _cleaned(data_set, key, shift)
        result.file_meta = _file_meta(data_set, key)
        pseudonym = _keyed(key, "patient", patient).hex()[:16].upper()
        result.PatientID, result.PatientName = pseudonym, pseudonym
        for segment in result.get("SegmentSequence") or ():
            meaning = segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning
            segment.SegmentLabel = f"{meaning} {segment.SegmentNumber}"[:64]
        _declare(result)
    return result


def _keyed(key: bytes, purpose: str, value: str) -> bytes:
    if len(key) < MINIMUM_KEY_BYTES:
        message = (
            f"The pseudonymisation key has {len(key)} bytes; make one of {MINIMUM_KEY_BYTES} or more, "
            'e.g. with "openssl rand 32"'
        )
        raise Misconfigured(message)
    return hmac.new(key, f"{purpose}\n{value}".encode(), hashlib.sha256).digest()


def _refuse_text_in_pixels(data_set: Dataset) -> None:
    sop_class = str(data_set.get("SOPClassUID", ""))
    if sop_class not in EXPORTABLE_CLASSES:
        message = (
            f"Objects of class {sop_class or 'unknown'} are not exported: only CT, MR, PET and segmentations"
        )
        raise Refused(message, rule="not_exportable")
    if data_set.get("BurnedInAnnotation", "NO") != "NO":
        raise Refused("The pixels hold burned-in text (BurnedInAnnotation)", rule="burned_in_annotation")
    for element in data_set:
        if element.tag.group >> 8 == 0x60 and element.tag.element == 0x0102 and element.value:
            raise Refused("An overlay is embedded in unused bits of the pixels", rule="embedded_overlay")


def _cleaned(data_set: Dataset, key: bytes, shift: timedelta) -> Dataset:
    result = Dataset()
    for element in data_set:
        cleaned = _cleaned_element(element, key, shift)
        if cleaned is not None:
            result.add(cleaned)
    return result


def _cleaned_element(element: DataElement, key: bytes, shift: timedelta) -> DataElement | None:
    if element.tag.is_private:
        return None
    keyword = element.keyword
    if keyword in EMPTIED:
        return DataElement(element.tag, element.VR, None)
    if keyword in HASHED:
        return DataElement(element.tag, element.VR, _keyed(key, keyword, str(element.value)).hex()[:16])
    if keyword in DATES:
        return DataElement(element.tag, element.VR, _shifted(str(element.value or ""), shift))
    if element.VR == "UI":
        values = element.value if element.VM > 1 else [element.value]
        return DataElement(element.tag, "UI", [_pseudonymous_uid(str(uid or ""), key) for uid in values])
    if (
        keyword == "ContrastBolusAgent"
    ):  # whether there was contrast matters; what was written may name anyone
        return DataElement(element.tag, element.VR, "CONTRAST AGENT" if element.value else "")
    if keyword not in KEPT:
        return None
    if element.VR == "SQ":
        return DataElement(
            element.tag, "SQ", ItemSequence([_cleaned(item, key, shift) for item in element.value])
        )
    return copy.copy(element)


def _pseudonymous_uid(uid: str, key: bytes) -> UID:
    """Return a UID of the 2.25 form; UIDs of the standard itself stay."""
    if not uid or uid.startswith("1.2.840.10008."):
        return UID(uid)
    return UID(f"2.25.{int.from_bytes(_keyed(key, 'uid', uid)[:16])}")


def _shifted(value: str, shift: timedelta) -> str:
    """Move a DICOM date or date-time; empty where it is no date."""
    try:
        day = datetime.strptime(value[:8], "%Y%m%d") + shift
    except (ValueError, OverflowError):
        return ""
    return f"{day:%Y%m%d}{value[8:]}"


def _file_meta(data_set: Dataset, key: bytes) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = data_set.file_meta.TransferSyntaxUID
    meta.MediaStorageSOPClassUID = data_set.SOPClassUID
    meta.MediaStorageSOPInstanceUID = _pseudonymous_uid(str(data_set.SOPInstanceUID), key)
    return meta


def _declare(result: Dataset) -> None:
    result.PatientIdentityRemoved = "YES"
    result.DeidentificationMethod = "Voxtrial keep-list, keyed HMAC-SHA256"
    result.LongitudinalTemporalInformationModified = "MODIFIED"
    result.DeidentificationMethodCodeSequence = [
        _code("113100", "Basic Application Confidentiality Profile"),
        _code("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
        _code("113108", "Retain Patient Characteristics Option"),
    ]


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item
