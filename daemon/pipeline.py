"""One job from stored files to encoded objects: a pure function of files, model and recipe.

The steps, in order: ``verify`` the locked bytes, ``read`` and select the series, ``harmonize``, ``predict``,
``measure`` and ``encode``. Nothing here knows of a database, a queue or a network, so any process on any host
can run it, and running it again gives the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from voxtrial.daemon.dicom import pixels, select, series
from voxtrial.daemon.errors import Fatal
from voxtrial.daemon.harmonize.envelope import audit
from voxtrial.daemon.inference import postprocess
from voxtrial.daemon.inference.predict import predict
from voxtrial.daemon.job import JobInput, JobOutput, MeasuredValue, ResultFile
from voxtrial.daemon.measure.diameter import diameters
from voxtrial.daemon.models.manifest import Code
from voxtrial.daemon.models.store import StoredModel, open_folder
from voxtrial.daemon.results import codes, provenance, seg, sr
from voxtrial.daemon.results.codes import Concept
from voxtrial.daemon.results.content import Finding, Quantity, Work
from voxtrial.daemon.volume import Mask, Volume
from voxtrial.validation import regions
from voxtrial.validation.software import versions

ReportStep = Callable[[str], None]
_PACKAGES = ("torch", "numpy", "scipy", "highdicom", "pydicom")
"""What computed a result, beside Python and Voxtrial."""


def run_job(job: JobInput, report_step: ReportStep = lambda _: None) -> JobOutput:
    """Run one model over one study version.

    Parameters
    ----------
    report_step
        Told the name of each step when it begins.

    Raises
    ------
    Refused
        No series suits the model, or an input lies outside what the model accepts.
    Retryable
        Memory or disk is taken at the moment.
    Fatal
        The model on disk is not the one that the job names.
    """
    clock = _Clock(report_step)
    with clock.step("verify"):
        model = _locked_model(job)
    with clock.step("read"):
        volumes, chosen = _read_inputs(job, model)
    with clock.step("harmonize"):
        flags = _outside_envelope(model, volumes)
        harmonized = {
            one.role: one.harmonization.apply(volumes[one.role], threads=job.threads)
            for one in model.manifest.inputs
        }
    with clock.step("predict"):
        comparable = {role: h.volume for role, h in harmonized.items()}
        prediction = predict(model, comparable, threads=job.threads)
    source = volumes[model.manifest.inputs[0].role]
    with clock.step("measure"):
        found = [
            _described(finding, source, model)
            for finding in postprocess.findings(prediction, source.grid, model, comparable)
        ]
    with clock.step("encode"):
        work = _work(job, model, source, flags)
        objects = _encode(found, work, Path(job.objects_folder))
        labels = _store_labels(found, source, Path(job.objects_folder), work)
    return JobOutput(
        objects=objects,
        measurements=tuple(_measured_values(found, work)),
        seconds=clock.seconds,
        provenance={
            "inputs": chosen,
            "harmonization": {
                role: audit(volumes[role], h, receptive_field_voxels=_receptive_field(model))
                for role, h in harmonized.items()
            },
            "flags": flags,
            "prediction": prediction.facts,
            "acquisition": {k: v for k, v in source.source.acquisition.items() if _is_plain(v)},
            "labels": labels,
            "software": versions(_PACKAGES),
            "work": {"sop_instance_uids": {o.kind: o.sop_instance_uid for o in objects}},
        },
    )


class _Clock:
    """Seconds by step, and the word to whoever watches."""

    def __init__(self, report_step: ReportStep) -> None:
        self.seconds: dict[str, float] = {}
        self._report = report_step

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self._report(name)
        begin = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begin, 4)


def _locked_model(job: JobInput) -> StoredModel:
    model = open_folder(Path(job.model_folder))
    if model.digest != job.model_digest:
        raise Fatal(
            f"The model in {job.model_folder} has digest {model.digest[:12]}, the job is locked to "
            f"{job.model_digest[:12]}; restore it with: voxtrial models add."
        )
    return model


def _read_inputs(job: JobInput, model: StoredModel) -> tuple[dict[str, Volume], dict[str, Any]]:
    """Return the volume of every input role, and which series was taken and why."""
    candidates = series.group([Path(i.path) for i in job.instances])
    digests = {i.sop_instance_uid: i.sha256 for i in job.instances}
    volumes: dict[str, Volume] = {}
    chosen: dict[str, Any] = {}
    for one in model.manifest.inputs:
        selection = select.choose(candidates, one.selector)
        volumes[one.role] = pixels.read(selection.chosen, allow_tilt=one.selector.allow_tilt, digests=digests)
        chosen[one.role] = {
            "series_instance_uid": selection.chosen.series_instance_uid,
            "part": selection.chosen.part,
            "description": selection.chosen.description,
            "instances": len(selection.chosen.paths),
            "not_chosen": [asdict(rejection) for rejection in selection.rejected],
        }
    return volumes, chosen


def _outside_envelope(model: StoredModel, volumes: Mapping[str, Volume]) -> list[str]:
    """Return what must be flagged in the result; the manifest says what is refused instead."""
    return [
        violation.sentence
        for one in model.manifest.inputs
        for violation in one.validated_for.check(volumes[one.role])
    ]


def _receptive_field(model: StoredModel) -> tuple[int, ...]:
    training = model.manifest.training
    return () if training is None or training.receptive_field is None else training.receptive_field


def _described(finding: postprocess.Finding, source: Volume, model: StoredModel) -> Finding:
    """Measure one finding and say it in codes."""
    mask = finding.mask
    size = diameters(Mask(array=mask, affine=source.affine, label=finding.label.name))
    scores = {score.name: score for score in model.manifest.scores}
    volumetric = [
        Quantity(concept=codes.VOLUME, value=finding.volume_mm3, unit=codes.CUBIC_MILLIMETRE),
        *(
            Quantity(concept=_concept(scores[name].concept), value=value, unit=_unit(scores[name].unit))
            for name, value in finding.scores.items()
        ),
    ]
    planar = [
        Quantity(concept=codes.LONG_AXIS, value=size.long_axis_mm, unit=codes.MILLIMETRE),
        Quantity(concept=codes.SHORT_AXIS, value=size.short_axis_mm, unit=codes.MILLIMETRE),
    ]
    return Finding(
        roi=finding.roi,
        label=finding.label.label,
        mask=mask,
        category=_concept(finding.label.category),
        type=_concept(finding.label.type),
        site=None if finding.label.site is None else _concept(finding.label.site),
        volumetric=tuple(volumetric),
        planar=tuple(planar),
        key_slice=size.slice_index,
        display_rgb=finding.label.rgb,
    )


def _concept(code: Code) -> Concept:
    return Concept(value=code.value, scheme=code.scheme, meaning=code.meaning)


def _unit(ucum: str) -> Concept:
    known = {c.value: c for c in (codes.PERCENT, codes.NO_UNITS, codes.MILLIMETRE, codes.GRAM)}
    return known.get(ucum, Concept(value=ucum, scheme="UCUM", meaning=ucum))


def _work(job: JobInput, model: StoredModel, source: Volume, flags: list[str]) -> Work:
    paths = list(dict.fromkeys(instance.path for instance in source.source.instances))
    headers = tuple(pydicom.dcmread(path, stop_before_pixels=True) for path in paths)
    digests = {i.sop_instance_uid: i.sha256 for i in source.source.instances}
    identity = model.manifest.identity
    spacing = "x".join(f"{s:g}" for s in source.spacing_mm)
    return Work(
        site=job.site,
        source=headers,
        source_digests=tuple(digests[str(h.SOPInstanceUID)] for h in headers),
        frames=tuple(i.frame for i in source.source.instances if i.frame is not None),
        model_name=identity.name,
        model_version=identity.version,
        model_digest=model.digest,
        recipe_digest=model.recipe_digest,
        code_version=f"voxtrial {version('voxtrial')}",
        first_started_at=job.first_started_at,
        intended_use=identity.intended_use,
        parameters=("volume measured on the model's grid", f"source grid {spacing} mm", *flags),
        predecessor=pydicom.dcmread(job.predecessor_sr) if job.predecessor_sr else None,
        target=_concept(model.manifest.outputs[0].type),
    )


def _encode(found: list[Finding], work: Work, folder: Path) -> tuple[ResultFile, ...]:
    """Write the Segmentation, when there is a finding, and the report that refers to it."""
    if not found:
        return (provenance.save(sr.report([], work, None), "SR", folder),)
    segmentation = seg.segmentation(found, work)
    report = sr.report(found, work, segmentation)
    return provenance.save(segmentation, "SEG", folder), provenance.save(report, "SR", folder)


def _store_labels(found: list[Finding], source: Volume, folder: Path, work: Work) -> dict[str, str]:
    """Write what the statistics compare with a reference: finding numbers on the source grid.

    The name is recorded without its folder: it lies beside the objects.
    """
    labels = np.zeros(source.grid.shape, np.uint16)
    for finding in found:
        labels[finding.mask] = finding.roi
    path = folder / f"{work.uid('labels')}.npz"
    return {"name": path.name, "sha256": regions.write(path, labels, source.affine)}


def _measured_values(found: list[Finding], work: Work) -> Iterator[MeasuredValue]:
    for finding in found:
        for quantity in (*finding.volumetric, *finding.planar):
            yield MeasuredValue(
                roi=finding.roi,
                tracking_id=work.tracking_id(finding.roi),
                tracking_uid=work.tracking_uid(finding.roi),
                concept_code=quantity.concept.value,
                concept_scheme=quantity.concept.scheme,
                concept_meaning=quantity.concept.meaning,
                unit=quantity.unit.value,
                value=float(quantity.value),
            )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
