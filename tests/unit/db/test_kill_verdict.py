"""The judge of the kill tests sees what is lost, doubled and stuck: one that cannot fail proves nothing."""

from __future__ import annotations

from collections import Counter

import pytest
from kill_verdict import Verdict, judge, open_rows
from rows import LEASE, MONDAY, finish, job, study
from sqlalchemy import Engine

from voxtrial.db import queue
from voxtrial.db.engine import sessions

UID = "2.25.1"


def deliver(database: Engine, version: int, *, instances: int = 4, confirmed: bool = True) -> str:
    """Add a version whose job is done and whose result is sent; return the UID of the result."""
    uid = f"{UID}.8.{version}"
    with sessions(database).begin() as session:
        # The instances of a version are those of its predecessors too
        row = study(session, uid=UID, version=version, instances=instances)
        row.instances = 4
        job(session, row)
        finish(session, queue.claim(session, "worker", MONDAY, LEASE), now=MONDAY, uid=uid)
        queue.mark_sent(session, queue.claim_delivery(session, "d", MONDAY, LEASE), now=MONDAY)
        if confirmed:
            sent = queue.claim_delivery(session, "d", MONDAY, LEASE)
            queue.mark_confirmed(session, sent, basis="read-back", now=MONDAY)
    return uid


def judged(database: Engine, *held: str) -> tuple[int, int, int]:
    """Return (lost, duplicated, stuck) when the PACS holds some results."""
    verdict: Verdict = judge(database, {UID: 4}, {UID: set(held)}, Counter())
    return verdict.lost, verdict.duplicated, verdict.stuck


def test_study_with_its_confirmed_result_is_well(database: Engine) -> None:
    assert judged(database, deliver(database, 1)) == (0, 0, 0)


def test_result_of_an_older_version_is_no_substitute(database: Engine) -> None:
    """The newest version is READY and nothing is open, but only the version before it has a result."""
    older = deliver(database, 1)
    with sessions(database).begin() as session:
        study(session, uid=UID, version=2, instances=0).instances = 4
    assert open_rows(database) == []
    assert judged(database, older) == (1, 0, 0)


def test_newer_version_is_well_with_its_own_result(database: Engine) -> None:
    held = deliver(database, 1), deliver(database, 2, instances=0)
    assert judged(database, *held) == (0, 0, 0)


def test_result_that_is_confirmed_but_not_at_the_pacs_is_lost(database: Engine) -> None:
    deliver(database, 1)
    assert judged(database) == (1, 0, 0)


def test_object_that_no_row_knows_is_a_duplicate(database: Engine) -> None:
    assert judged(database, deliver(database, 1), "2.25.99") == (0, 1, 0)


def test_study_that_never_came_or_lacks_an_instance_is_lost(database: Engine) -> None:
    assert judged(database) == (1, 0, 0)
    uid = deliver(database, 1, instances=3)
    assert judged(database, uid) == (1, 0, 0)


@pytest.mark.parametrize("confirmed", [True, False])
def test_what_is_open_is_stuck(database: Engine, confirmed: bool) -> None:
    uid = deliver(database, 1, confirmed=confirmed)
    assert judged(database, uid) == ((0, 0, 0) if confirmed else (1, 0, 1))


@pytest.mark.parametrize("superseded", [True, False])
def test_cancelled_delivery_is_an_end_only_when_its_job_is_superseded(
    database: Engine, superseded: bool
) -> None:
    with sessions(database).begin() as session:
        queued = job(session, study(session, uid=UID, instances=4))
        done = finish(session, queue.claim(session, "worker", MONDAY, LEASE), now=MONDAY)
        assert done.id == queued.id
        if superseded:
            queue.supersede(session, done, now=MONDAY, actor="assembler", reason="Newer version.")
        else:
            queue.cancel_delivery(session, 1, now=MONDAY, actor="user")
    assert len(open_rows(database)) == (0 if superseded else 1)
