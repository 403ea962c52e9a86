"""Models that stand in for the pipeline: some do their work at once, some ruin their process."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset

from voxtrial.daemon.errors import Fatal, Refused, Retryable
from voxtrial.daemon.job import JobInput, JobOutput, MeasuredValue, ResultFile

ReportStep = Callable[[str], None]
SLEEP = "VOXTRIAL_TEST_SLEEP"
MEETING_SECONDS = 15.0
"""How long a job waits for those that are to run beside it."""


def quick(job: JobInput, report_step: ReportStep) -> JobOutput:
    """Write one object whose bytes and UID follow from the input alone; sleep as long as a file says."""
    report_step("predict")
    wait = Path(job.objects_folder).parents[2] / "seconds"
    if wait.exists():
        time.sleep(float(wait.read_text()))
    report_step("encode")
    key = (
        f"{job.study_instance_uid}/{job.study_version}/{job.model_digest}/{job.first_started_at.isoformat()}"
    )
    uid = f"2.25.{int(hashlib.sha256(key.encode()).hexdigest()[:30], 16)}"
    path = Path(job.objects_folder) / "seg.dcm"
    path.write_bytes(key.encode())
    file = ResultFile(
        kind="SEG",
        path=str(path),
        sop_instance_uid=uid,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.66.4",
        series_instance_uid=f"{uid}.1",
        size=path.stat().st_size,
        sha256=hashlib.sha256(key.encode()).hexdigest(),
    )
    value = MeasuredValue(
        roi=0,
        tracking_id="",
        tracking_uid="",
        concept_code="C0001",
        concept_scheme="99TEST",
        concept_meaning="Instances",
        unit="1",
        value=float(len(job.instances)),
    )
    return JobOutput(objects=(file,), measurements=(value,), seconds={"predict": 0.0})


def takes_a_while(job: JobInput, report_step: ReportStep) -> JobOutput:
    """Write down when it ran: two jobs overlap when their times do.

    The file ``together`` says which jobs are to run at the same time, as pairs of a number and the jobs of
    which so many must have begun. A job waits for the others to begin, so that they overlap whenever they
    may.
    """
    data = Path(job.objects_folder).parents[2]
    times = data / "times"
    times.mkdir(exist_ok=True)
    begin = time.monotonic()
    (times / f"{job.job_id}.begun").touch()
    together = data / "together"
    wanted = json.loads(together.read_text()) if together.exists() else []
    while time.monotonic() < begin + MEETING_SECONDS:
        if all(sum((times / f"{one}.begun").exists() for one in jobs) >= number for number, jobs in wanted):
            break
        time.sleep(0.02)
    time.sleep(0.4)
    (times / str(job.job_id)).write_text(f"{begin} {time.monotonic()}")
    return JobOutput(objects=(), measurements=())


def environment(job: JobInput, report_step: ReportStep) -> JobOutput:
    """Say in the provenance what the process looks like from inside."""
    facts = {
        "pid": os.getpid(),
        "leads_its_group": os.getpgid(0) == os.getpid(),
        "threads": {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
    }
    return JobOutput(objects=(), measurements=(), provenance=facts)


def refuses(job: JobInput, report_step: ReportStep) -> JobOutput:
    report_step("read")
    raise Refused(
        "Slice spacing varies from 2.5 to 5.0 mm; this recipe accepts 1 %", rule="irregular_spacing"
    )


def retries(job: JobInput, report_step: ReportStep) -> JobOutput:
    report_step("encode")
    raise Retryable("No space left on device")


def dies(job: JobInput, report_step: ReportStep) -> JobOutput:
    report_step("verify")
    raise Fatal("The weights have another digest")


def has_a_bug(job: JobInput, report_step: ReportStep) -> JobOutput:
    report_step("measure")
    return JobOutput(objects=(), measurements=(), seconds={"x": 1 / 0})


def segfaults(job: JobInput, report_step: ReportStep) -> JobOutput:
    report_step("predict")
    ctypes.string_at(0)
    raise AssertionError


def exits(job: JobInput, report_step: ReportStep) -> JobOutput:
    report_step("predict")
    os._exit(3)


def leaks(job: JobInput, report_step: ReportStep) -> JobOutput:
    report_step("predict")
    held = []
    while True:
        held.append(bytearray(os.urandom(2**20)) * 8)
        time.sleep(0.005)


def hangs(job: JobInput, report_step: ReportStep) -> JobOutput:
    """Start a child, hold the interpreter's lock in C, and be deaf to SIGTERM."""
    report_step("predict")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "300"])
    (Path(job.objects_folder).parents[2] / "pids").write_text(f"{os.getpid()} {child.pid}")
    ctypes.PyDLL(None).sleep(300)
    raise AssertionError


def exhausts_descriptors(job: JobInput, report_step: ReportStep) -> JobOutput:
    report_step("read")
    held = []
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))


def exhausts_processes(job: JobInput, report_step: ReportStep) -> JobOutput:
    """Leave children behind that outlive the call."""
    children = [subprocess.Popen(["sleep", "300"]) for _ in range(5)]
    return JobOutput(objects=(), measurements=(), provenance={"children": [child.pid for child in children]})


def reports_at_the_second_attempt(job: JobInput, report_step: ReportStep) -> JobOutput:
    """Do as ``reports``, but let every third job fail once."""
    report_step("predict")
    marker = Path(job.objects_folder).parents[2] / "failed" / str(job.job_id)
    if job.job_id % 3 == 0 and not marker.exists():
        marker.parent.mkdir(exist_ok=True)
        marker.touch()
        raise Retryable("No space left on device")
    return reports(job, report_step)


def reports(job: JobInput, report_step: ReportStep) -> JobOutput:
    """Write one real Basic Text SR whose bytes follow from the input alone."""
    report_step("encode")
    key = f"{job.study_instance_uid}/{job.study_version}/{job.model_digest}"
    uid = f"2.25.{int(hashlib.sha256(key.encode()).hexdigest()[:30], 16)}"
    report = Dataset()
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.SOPInstanceUID = uid
    report.StudyInstanceUID = job.study_instance_uid
    report.SeriesInstanceUID = f"{uid}.1"
    report.Modality = "SR"
    report.PatientID = "PHANTOM"
    report.ContentDate = job.first_started_at.strftime("%Y%m%d")
    report.ContentTime = job.first_started_at.strftime("%H%M%S.%f")
    report.ValueType = "TEXT"
    report.TextValue = f"{len(job.instances)} instances"
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    path = Path(job.objects_folder) / "sr.dcm"
    report.save_as(path, enforce_file_format=True)
    file = ResultFile(
        kind="SR",
        path=str(path),
        sop_instance_uid=uid,
        sop_class_uid=report.SOPClassUID,
        series_instance_uid=report.SeriesInstanceUID,
        size=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    return JobOutput(objects=(file,), measurements=(), seconds={"encode": 0.0})


def main() -> None:
    """Be a worker with a hanging job, to be killed: print that it hangs, and wait for the end."""
    import sys
    from datetime import UTC, datetime

    from voxtrial.daemon import isolation

    objects = Path(sys.argv[1])
    job = JobInput(
        job_id=1,
        study_instance_uid="2.25.1",
        study_version=1,
        instances=(),
        model_folder="",
        model_digest="",
        recipe_digest="",
        objects_folder=str(objects),
        first_started_at=datetime.now(UTC),
        site="",
    )
    isolation.start_server("stand_ins:hangs", threads=1)
    isolation.run("stand_ins:hangs", job, isolation.Limits(timeout_seconds=300))


if __name__ == "__main__":
    main()
