"""Six faults that strand or delete studies in the nearest peer, replayed here on both databases.

Each was executed on mercure 0.4.1 (snapshot 3b27722, 2026-07): it deletes slices that it has acknowledged
(A, B), never takes up work behind the lock of a dead process (C, F), forgets tasks whose rule is gone (D) and
aborts a sweep that holds urgent work only (E).
"""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime, timedelta

import pytest
from kill_harness import QUIET_SECONDS, Site
from kill_points import KillPoint
from rows import job
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from state_machine import Transition

from voxtrial.daemon.services import assembler
from voxtrial.daemon.services.assembler import Assembler
from voxtrial.daemon.services.rescuer import Rescuer
from voxtrial.daemon.worker import Worker
from voxtrial.db import queue
from voxtrial.db.engine import sessions
from voxtrial.db.jobs import Job
from voxtrial.db.studies import Instance, StudyVersion

pytestmark = pytest.mark.faults
MINUTE = timedelta(minutes=1)


def later() -> datetime:
    """A time at which every study has been quiet long enough."""
    return datetime.now(UTC) + MINUTE


def route(site: Site) -> None:
    """Receive a study and queue its job."""
    site.feed()
    time.sleep(2 * QUIET_SECONDS)
    assert Assembler(site.settings, site.engine).run_once(datetime.now(UTC)).ready == 1


def on_disk(site: Site) -> int:
    """Instances whose row is there and whose file has the stored size."""
    with Session(site.engine) as session:
        return sum(
            (site.data / instance.path).stat().st_size >= instance.size
            for instance in session.scalars(select(Instance))
        )


def test_a_slices_that_land_while_a_study_is_routed_are_kept_and_make_a_new_version(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.feed(slices=105, received=range(100))
    judge = assembler.gate.judge

    def judged_while_five_more_land(*arguments, **options):
        monkeypatch.setattr(assembler.gate, "judge", judge)
        site.feed_rest()
        return judge(*arguments, **options)

    monkeypatch.setattr(assembler.gate, "judge", judged_while_five_more_land)
    Assembler(site.settings, site.engine).run_once(later())
    Assembler(site.settings, site.engine).run_once(later())
    assert on_disk(site) == 105
    with Session(site.engine) as session:
        versions = session.scalars(select(StudyVersion).order_by(StudyVersion.version)).all()
        assert [(v.version, v.state, v.instances) for v in versions] == [(1, "READY", 100), (2, "READY", 105)]
        assert session.scalars(select(Job.state).order_by(Job.id)).all() == ["SUPERSEDED", "QUEUED"]


def test_b_slice_whose_receiver_died_before_its_row_is_sent_again_and_all_ten_stay(site: Site) -> None:
    """The sender heard success for nine: it sends the tenth again, and the nine are no duplicates."""
    receiver = site.start_receiver("receiver", slices=10, killed_at_row=10)
    receiver.join(60)
    assert receiver.exitcode == -signal.SIGKILL
    with Session(site.engine) as session:
        assert session.scalar(select(func.count()).select_from(Instance)) == 9
    site.feed(slices=10, seed="receiver")
    assert on_disk(site) == 10
    Assembler(site.settings, site.engine).run_once(later())
    with Session(site.engine) as session:
        version = session.scalars(select(StudyVersion)).one()
        assert (version.state, version.instances) == ("READY", 10)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_c_router_killed_half_way_is_taken_up_by_the_next_one(site: Site, moment: str) -> None:
    site.kill_at(KillPoint(Transition("study", "RECEIVING", "ASSUMED"), "tend", moment))
    verdict = site.verdict()
    assert (verdict.lost, verdict.duplicated, verdict.stuck) == (0, 0, 0)


def test_d_job_whose_route_was_deleted_while_it_was_queued_runs_all_the_same(site: Site) -> None:
    route(site)
    without_routes = site.settings.model_copy(update={"routes": ()})
    Worker(without_routes, site.engine, target="stand_ins:quick", poll_seconds=0.05).run_until_idle()
    with Session(site.engine) as session:
        done = session.scalars(select(Job)).one()
        assert (done.state, done.destinations) == ("SUCCEEDED", ["pacs"])


def test_e_four_urgent_jobs_and_no_routine_one_are_all_run_in_order(site: Site) -> None:
    now = datetime.now(UTC)
    with sessions(site.engine).begin() as session:
        urgent = [job(session, priority=0, now=now).id for _ in range(4)]
    with sessions(site.engine).begin() as session:
        claimed = [queue.claim(session, "worker", now, MINUTE) for _ in range(4)]
        assert [one.id for one in claimed if one] == urgent
        assert queue.claim(session, "worker", now, MINUTE) is None


def test_f_job_of_a_processor_that_died_is_ready_again(site: Site) -> None:
    route(site)
    with sessions(site.engine).begin() as session:
        dead = queue.claim(session, "dead", datetime.now(UTC), timedelta(seconds=-1))
    assert dead is not None
    assert Rescuer(site.settings, site.engine).run_once(datetime.now(UTC)) == 1
    with sessions(site.engine).begin() as session:
        again = queue.claim(session, "alive", later(), MINUTE)
    assert again is not None
    assert (again.id, again.attempts) == (dead.id, 2)
