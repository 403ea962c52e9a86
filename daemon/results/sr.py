"""Findings to a Comprehensive 3D SR: measurement report, TID 1500 (PS3.16).

Each finding has a volume group (TID 1411) that points at its segment, and a planar group (TID 1410) with the
outline on its key slice, under the same tracking UID: viewers that draw nothing for segment references draw
the outline. No quantity stands in both groups, since viewers then show it twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    GraphicTypeValues,
    ImageRegion,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegment,
    SourceImageForRegion,
    SourceImageForSegmentation,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dicom_codes
from skimage.measure import find_contours

from voxtrial.daemon.results import codes
from voxtrial.daemon.results.content import Finding, Quantity, Work
from voxtrial.daemon.results.image_library import image_library
from voxtrial.daemon.results.provenance import (
    algorithm_identification,
    contributing_equipment,
    equipment,
    stamp,
)

_Group = VolumetricROIMeasurementsAndQualitativeEvaluations | PlanarROIMeasurementsAndQualitativeEvaluations


def report(findings: Sequence[Finding], work: Work, segmentation: Dataset | None) -> Dataset:
    """Encode findings as one measurement report; no finding is a result too, and says so.

    Parameters
    ----------
    segmentation
        The Segmentation whose segment n is the n-th finding; None when there is no finding.
    """
    groups = [
        group
        for number, f in enumerate(findings, start=1)
        for group in _groups(number, f, work, segmentation)
    ]
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=_observer(work)),
        procedure_reported=_procedure(work).coded(),
        imaging_measurements=groups or [_absent(work)],
        title=codes.IMAGING_MEASUREMENT_REPORT.coded(),
    )
    _insert_library(content[0], work)
    evidence = [*work.source, *([] if segmentation is None else [segmentation])]
    origin = equipment(work)
    dataset = Comprehensive3DSR(
        evidence=evidence,
        content=content[0],
        series_instance_uid=work.uid("SR series"),
        series_number=work.series_number + 2,
        sop_instance_uid=work.uid("SR"),
        instance_number=1,
        manufacturer=origin["manufacturer"],
        is_complete=True,
        is_final=False,
        is_verified=False,
        previous_versions=None if work.predecessor is None else [work.predecessor],
        contributing_equipment=contributing_equipment(work),
    )
    dataset.ManufacturerModelName = origin["manufacturer_model_name"]
    dataset.SoftwareVersions = origin["software_versions"]
    dataset.DeviceSerialNumber = origin["device_serial_number"]
    stamp(dataset, work, "SR")
    return dataset


def _insert_library(root: Dataset, work: Work) -> None:
    """Put the image library where the template has it: before the measurements."""
    measurements = codes.IMAGING_MEASUREMENTS.coded()
    position = [item.name == measurements for item in root.ContentSequence].index(True)
    root.ContentSequence.insert(position, image_library(work.source))


def _observer(work: Work) -> ObserverContext:
    return ObserverContext(
        observer_type=dicom_codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=work.device_uid,
            name=work.model_name,
            manufacturer_name=equipment(work)["manufacturer"],
            model_name=f"{work.model_name} {work.model_version}",
            serial_number=work.model_digest[:16],
        ),
    )


def _procedure(work: Work) -> codes.Concept:
    modality = str(work.source[0].get("Modality", ""))
    return codes.IMAGING_PROCEDURE_BY_MODALITY.get(modality, codes.IMAGING_PROCEDURE)


class _Shared(TypedDict):
    """What the two groups of one finding have in common."""

    tracking_identifier: TrackingIdentifier
    finding_type: CodedConcept
    finding_category: CodedConcept
    finding_sites: list[FindingSite] | None
    algorithm_id: AlgorithmIdentification


def _groups(number: int, finding: Finding, work: Work, segmentation: Dataset | None) -> list[_Group]:
    if segmentation is None:
        raise ValueError("a finding needs the Segmentation that holds it")
    shared: _Shared = {
        "tracking_identifier": TrackingIdentifier(
            uid=work.tracking_uid(finding.roi), identifier=work.tracking_id(finding.roi)
        ),
        "finding_type": finding.type.coded(),
        "finding_category": finding.category.coded(),
        "finding_sites": None if finding.site is None else [FindingSite(finding.site.coded())],
        "algorithm_id": algorithm_identification(work),
    }
    groups: list[_Group] = [
        VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=_referenced_segment(number, work, segmentation),
            measurements=_measurements(finding.volumetric),
            **shared,
        )
    ]
    if finding.key_slice is not None:
        groups.append(
            PlanarROIMeasurementsAndQualitativeEvaluations(
                referenced_region=_outline(finding.mask[finding.key_slice], finding.key_slice, work),
                measurements=_measurements(finding.planar),
                **shared,
            )
        )
    return groups


def _referenced_segment(number: int, work: Work, segmentation: Dataset) -> ReferencedSegment:
    first = work.source[0]
    return ReferencedSegment(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        segment_number=number,
        source_images=[SourceImageForSegmentation(first.SOPClassUID, first.SOPInstanceUID)]
        if work.frames
        else None,
        source_series=None if work.frames else SourceSeriesForSegmentation(first.SeriesInstanceUID),
    )


def _measurements(quantities: Sequence[Quantity]) -> list[Measurement] | None:
    return [
        Measurement(name=q.concept.coded(), value=float(q.value), unit=q.unit.coded()) for q in quantities
    ] or None


def _outline(mask: NDArray[np.bool_], key_slice: int, work: Work) -> ImageRegion:
    """Return the longest outline of a (rows, columns) mask as a closed polyline in image coordinates.

    find_contours counts from voxel centres, SCOORD from the top left corner of the first voxel: half a pixel.
    """
    contours: list[NDArray[np.float64]] = find_contours(np.pad(mask.astype(np.float32), 1), 0.5)
    rows, columns = (max(contours, key=len) - 1 + 0.5).T
    points = np.column_stack([columns, rows])
    points[-1] = points[0]
    header = work.source[0] if work.frames else work.source[key_slice]
    source = SourceImageForRegion(
        referenced_sop_class_uid=header.SOPClassUID,
        referenced_sop_instance_uid=header.SOPInstanceUID,
        referenced_frame_numbers=[work.frames[key_slice]] if work.frames else None,
    )
    return ImageRegion(graphic_type=GraphicTypeValues.POLYLINE, graphic_data=points, source_image=source)


def _absent(work: Work) -> MeasurementsAndQualitativeEvaluations:
    """Return the group of a negative result: assessed, and absent (TID 1501)."""
    target = codes.FINDING if work.target is None else work.target
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=work.tracking_uid(0), identifier=f"{work.model_name} no finding"
        ),
        finding_type=target.coded(),
        algorithm_id=algorithm_identification(work),
        qualitative_evaluations=[QualitativeEvaluation(name=target.coded(), value=codes.ABSENT.coded())],
    )
