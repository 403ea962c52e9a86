"""Close study versions, and pass them through the gate to READY or REFUSED.

Every step compares and sets under a lock: an instance that arrives while its version is being closed keeps it
open, one that arrives later opens the next version.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Engine, select
from sqlalchemy.orm import Session

from voxtrial.daemon.errors import Misconfigured, Refused, Retryable, VoxtrialError
from voxtrial.daemon.network.archives import Archive, Listing, archive_of, held
from voxtrial.daemon.network.intake import intake_of
from voxtrial.daemon.services import gate
from voxtrial.daemon.services.completeness import (
    Decision,
    Open,
    is_capped,
    is_quiet,
    quiet_period,
    unreachable,
    with_peer,
    without_peer,
)
from voxtrial.daemon.settings import Route, Settings
from voxtrial.db import queue
from voxtrial.db.engine import sessions
from voxtrial.db.results import ResultObject
from voxtrial.db.states import StudyState
from voxtrial.db.studies import Instance, Series, StudyVersion
from voxtrial.db.transitions import move

if TYPE_CHECKING:
    from voxtrial.daemon.models.store import StoredModel

LOGGER = logging.getLogger(__name__)
ACTOR = "assembler"
PRIORITIES = {"urgent": 0, "routine": 1, "batch": 2}
GATE_ERROR = "gate_error"
MOST_DOUBLINGS = 6
MOVE_PATIENCE_SECONDS = 1.0
"""The other studies wait meanwhile; what comes later is counted when the study is quiet again."""


@dataclass
class Assembled:
    """What one run did."""

    closed: int = 0
    ready: int = 0
    refused: int = 0
    fetched: int = 0


@dataclass(frozen=True)
class _Asked:
    """When the PACS was asked, and how often since the last instance came."""

    at: datetime
    times: int

    def pause(self, quiet: timedelta) -> timedelta:
        """Return how long the PACS is left alone: what it cannot give now it will not give in a minute."""
        return quiet * (1 << min(self.times - 1, MOST_DOUBLINGS))


@dataclass
class Assembler:
    """The duty, bound to a site.

    Parameters
    ----------
    settings
        ``[completeness]``, ``[[routes]]``, ``[site]`` and ``[listener] ae_title`` are used.
    engine
        The site's database.
    """

    settings: Settings
    engine: Engine
    _archive: Archive | None = field(default=None, init=False)
    _asked: dict[int, _Asked] = field(default_factory=dict, init=False)
    """When the PACS was asked last, by study version."""

    def run_once(self, now: datetime) -> Assembled:
        """Move on every study version that is due; one that fails does not hold up the others."""
        result = Assembled()
        for study in self._due(now):
            decision = self._decide(study, now, result)
            self._apply(study, decision, now, result)
        for version_id in self._closed():
            self._pass_gate(version_id, now, result)
        return result

    def _due(self, now: datetime) -> list[Open]:
        """Return the receiving versions that are quiet or too old; a PACS is not asked all the time."""
        rules = self.settings.completeness
        with sessions(self.engine)() as session:
            receiving = select(StudyVersion).where(StudyVersion.state == StudyState.RECEIVING.value)
            studies = [_open(session, version) for version in session.scalars(receiving).all()]
        self._asked = {
            s.version_id: self._asked[s.version_id] for s in studies if s.version_id in self._asked
        }
        return [
            study
            for study in studies
            if is_capped(rules, study, now)
            or (is_quiet(rules, study, now) and not self._asked_lately(study, now))
        ]

    def _asked_lately(self, study: Open, now: datetime) -> bool:
        asked = self._asked.get(study.version_id)
        return asked is not None and now - asked.at < asked.pause(
            quiet_period(self.settings.completeness, study)
        )

    def _closed(self) -> Sequence[int]:
        states = (StudyState.CONFIRMED.value, StudyState.ASSUMED.value)
        with sessions(self.engine)() as session:
            return session.scalars(
                select(StudyVersion.id).where(StudyVersion.state.in_(states)).order_by(StudyVersion.id)
            ).all()

    def _decide(self, study: Open, now: datetime, result: Assembled) -> Decision:
        rules = self.settings.completeness
        if rules.query is None:
            return without_peer(rules, study, now)
        before = self._asked.get(study.version_id)
        again = before.times if before is not None and study.last_instance_at <= before.at else 0
        self._asked[study.version_id] = _Asked(now, again + 1)
        try:
            archive = self._asked_archive()
            listed = self._listed(archive, study.study_instance_uid)
            at_pacs = self._without_results(listed, study.study_instance_uid)
            with sessions(self.engine)() as session:
                ours = _uids(session, session.get_one(StudyVersion, study.version_id))
            decision = with_peer(rules, study, now, held=ours, at_pacs=at_pacs, basis=archive.basis)
        except VoxtrialError as error:
            LOGGER.warning(
                "completeness not decided", extra={"version": study.version_id, "reason": str(error)}
            )
            return unreachable(rules, study, now, error)
        if decision.close is not None and listed.not_taken:
            note = f"{listed.not_taken} objects at the PACS are of SOP classes that are not taken."
            decision = replace(decision, reason=" ".join(filter(None, [decision.reason, note])))
        if decision.missing and decision.close is None and rules.query.retrieve != "none":
            result.fetched += self._fetch(archive, study, listed.only(decision.missing))
        return decision

    def _fetch(self, archive: Archive, study: Open, missing: Listing) -> int:
        """Ask the PACS for what is missing, and count what came; it restarts the quiet period."""
        try:
            archive.fetch(study.study_instance_uid, missing)
        except VoxtrialError as error:
            LOGGER.warning(
                "missing instances not fetched", extra={"version": study.version_id, "reason": str(error)}
            )
        return len(held(self.engine, missing.series_of))

    @staticmethod
    def _listed(archive: Archive, study_instance_uid: str) -> Listing:
        """Return what the PACS lists.

        Raises
        ------
        Retryable
            The PACS says itself that it has more than it lists: it is still filling, or cuts long answers.
        """
        listed = archive.instances(study_instance_uid)
        count = archive.count(study_instance_uid)
        if count is not None and count > len(listed):
            raise Retryable(f"The PACS lists {len(listed)} of the {count} instances that it counts.")
        return listed

    def _without_results(self, listed: Listing, study_instance_uid: str) -> set[str]:
        """Return the SOP Instance UIDs that are listed, our own results left out."""
        with sessions(self.engine)() as session:
            ours = session.scalars(
                select(ResultObject.sop_instance_uid).where(
                    ResultObject.study_instance_uid == study_instance_uid
                )
            ).all()
        return listed.series_of.keys() - set(ours)

    def _asked_archive(self) -> Archive:
        peer = self.settings.completeness.query
        assert peer is not None
        if self._archive is None:
            self._archive = archive_of(
                peer,
                intake_of(self.settings, self.engine),
                ae_title=self.settings.listener.ae_title,
                patience_seconds=MOVE_PATIENCE_SECONDS,
            )
        return self._archive

    def _apply(self, study: Open, decision: Decision, now: datetime, result: Assembled) -> None:
        with sessions(self.engine)() as session, session.begin():
            version = _locked(session, study.version_id)
            if version.state != StudyState.RECEIVING:
                return
            if decision.expected is not None:
                version.expected_instances = decision.expected
                version.missing_uids = list(decision.missing)
            if decision.close is None or version.last_instance_at != study.last_instance_at:
                return  # not complete, or an instance came in while we looked
            version.basis, version.reason = decision.basis, decision.reason
            version.instances = len(_uids(session, version))
            version.closed_at = now
            move(session, version, decision.close, now=now, actor=ACTOR, reason=decision.reason)
            result.closed += 1

    def _pass_gate(self, version_id: int, now: datetime, result: Assembled) -> None:
        with sessions(self.engine)() as session:
            version = session.get_one(StudyVersion, version_id)
            files = [self.settings.site.data / path for path in _paths(session, version)]
        models, problems = self._models()
        try:
            candidates = gate.judge(files, allow_tilt=gate.allows_tilt(models))
            refusal = gate.study_refusal(candidates)
        except Exception as error:
            # One study that breaks the gate must not keep the others from being processed
            LOGGER.exception("gate failed", extra={"version": version_id})
            candidates = []
            refusal = Refused(f"The gate failed: {type(error).__name__}: {error}", rule=GATE_ERROR)
        with sessions(self.engine)() as session, session.begin():
            version = _locked(session, version_id)
            if version.state not in (StudyState.CONFIRMED, StudyState.ASSUMED):
                return  # another assembler was faster
            session.add_all(_row(version_id, candidate) for candidate in candidates)
            if refusal is not None:
                version.rule, version.reason = refusal.rule, str(refusal)
                move(session, version, StudyState.REFUSED, now=now, actor=ACTOR, reason=str(refusal))
                result.refused += 1
                return
            queued = self._enqueue(session, version, candidates, models, now)
            notes = [*problems, *([] if queued or problems else ["No route is for this study."])]
            version.reason = " ".join(filter(None, [version.reason, *notes]))
            move(session, version, StudyState.READY, now=now, actor=ACTOR, reason=" ".join(notes))
            result.ready += 1

    def _models(self) -> tuple[list[tuple[Route, StoredModel]], list[str]]:
        """Return the model of every route, and what is wrong with routes whose model is not there."""
        from voxtrial.daemon.models.store import ModelStore

        store = ModelStore(self.settings.site.data / "models")
        models, problems = [], []
        for route in self.settings.routes:
            try:
                models.append((route, store.get(route.model)))
            except Misconfigured as error:
                problems.append(str(error))
        return models, problems

    def _enqueue(
        self,
        session: Session,
        version: StudyVersion,
        candidates: Sequence[gate.Candidate],
        models: Sequence[tuple[Route, StoredModel]],
        now: datetime,
    ) -> int:
        queued = 0
        for route, model in models:
            if not gate.matches(
                route.when,
                candidates,
                calling_ae=version.calling_ae,
                study_description=version.study_description,
            ):
                continue
            identity = model.manifest.identity
            manifest = model.manifest.model_dump(mode="json")
            queue.enqueue(
                session,
                study_version_id=version.id,
                model=(model.digest, identity.name, identity.version, manifest),
                recipe_digest=model.recipe_digest,
                destinations=route.destinations,
                priority=PRIORITIES[route.priority],
                window=route.window,
                concurrency=route.concurrency,
                planned_peak_mib=gate.planned_peak_mib(candidates, model),
                gpus=route.gpus,
                now=now,
                actor=ACTOR,
            )
            queued += 1
        return queued


def run_once(settings: Settings, engine: Engine, now: datetime) -> Assembled:
    """Run the duty once."""
    return Assembler(settings, engine).run_once(now)


def _locked(session: Session, version_id: int) -> StudyVersion:
    return session.get_one(StudyVersion, version_id, with_for_update=True, populate_existing=True)


def _uids(session: Session, version: StudyVersion) -> Sequence[str]:
    return session.scalars(select(Instance.sop_instance_uid).where(_belongs(version))).all()


def _paths(session: Session, version: StudyVersion) -> list[Path]:
    return [Path(p) for p in session.scalars(select(Instance.path).where(_belongs(version)))]


def _belongs(version: StudyVersion) -> ColumnElement[bool]:
    """Return the condition of instances that joined in this version or in one before it."""
    versions = select(StudyVersion.id).where(
        StudyVersion.study_instance_uid == version.study_instance_uid,
        StudyVersion.version <= version.version,
    )
    return Instance.study_version_id.in_(versions)


def _open(session: Session, version: StudyVersion) -> Open:
    modalities = session.scalars(select(Instance.modality).where(_belongs(version)).distinct()).all()
    return Open(
        version_id=version.id,
        study_instance_uid=version.study_instance_uid,
        calling_ae=version.calling_ae,
        modalities=frozenset(modalities),
        first_instance_at=version.first_instance_at,
        last_instance_at=version.last_instance_at,
        seen_before=version.expected_instances,
    )


def _row(version_id: int, candidate: gate.Candidate) -> Series:
    series, refusal = candidate.series, candidate.refusal
    return Series(
        study_version_id=version_id,
        series_instance_uid=series.series_instance_uid[:64],
        part=candidate.part,
        modality=series.modality[:16],
        description=series.description[:255],
        instances=len(series.paths),
        accepted=refusal is None,
        rule=refusal.rule if refusal else "",
        reason=str(refusal) if refusal else "",
        acquisition=candidate.acquisition,
    )
