"""How a site comes to each transition, so that the process that makes it can be killed there.

A way begins at a site on which everything has ended, brings a row to the state before, and lets the victim
run. What it leaves behind the site has to finish by itself, with the late slices and the commands of a person
that a real site would get: ``Site.recover``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kill_points import KillPoint
from peers import free_port
from state_machine import Transition

from voxtrial.daemon.network.pacs import SmallPACS
from voxtrial.daemon.network.scu import store
from voxtrial.db.states import JOB_TRANSITIONS, JobState

if TYPE_CHECKING:
    from kill_harness import Site

    from voxtrial.daemon.settings import Settings

Way = Callable[["Site", KillPoint], None]

WAYS: dict[tuple[Transition, str], Way] = {}
"""By transition and by the role that makes it and is killed."""
ALL_BUT_THE_LAST = range(3)
WITHOUT_AN_INNER_SLICE = (0, 2, 3)
"""No volume: the gate refuses it."""
ENDINGS = {
    "RUNNING": "stand_ins:hangs",
    "WAITING": "stand_ins:retries",
    "SUCCEEDED": "stand_ins:reports",
    "REFUSED": "stand_ins:refuses",
    "DEAD": "stand_ins:dies",
}
"""What a job does so that its worker brings it to a state."""
AN_HOUR = 3600.0
AN_INSTANT = 1e-4


def brings(role: str, *transitions: str) -> Callable[[Way], Way]:
    """Say which transitions of which role a way leads to."""

    def register(way: Way) -> Way:
        for text in transitions:
            WAYS[Transition.named(text), role] = way
        return way

    return register


@brings("listen", "study nothing -> RECEIVING")
def scanner_sends(site: Site, point: KillPoint) -> None:
    site.receiver_dies(point)


@brings("tend", "study RECEIVING -> ASSUMED", "study ASSUMED -> READY", "job nothing -> QUEUED")
@brings("work", "job QUEUED -> RUNNING", "job RUNNING -> SUCCEEDED", "delivery nothing -> PENDING")
@brings("tend", "delivery PENDING -> SENT", "delivery SENT -> CONFIRMED")
def study_goes_its_way(site: Site, point: KillPoint) -> None:
    site.feed()
    other = "work" if point.role == "tend" else "tend"
    with site.running(other):
        site.dies(point, target=ENDINGS["SUCCEEDED"])
    site.kills[other] += 1


@brings("tend", "study ASSUMED -> REFUSED")
def study_holds_no_volume(site: Site, point: KillPoint) -> None:
    site.feed(received=WITHOUT_AN_INNER_SLICE)
    site.dies(point)


@brings("tend", "study RECEIVING -> CONFIRMED", "study CONFIRMED -> READY", "study CONFIRMED -> REFUSED")
def archive_counts_as_many(site: Site, point: KillPoint) -> None:
    with SmallPACS(site.data / "archive", "ARCHIVE") as archive:
        refused = point.transition.after == "REFUSED"
        store(site.feed(received=WITHOUT_AN_INNER_SLICE if refused else None), archive.peer)
        query = {"host": "127.0.0.1", "port": archive.port, "ae_title": "ARCHIVE", "retrieve": "none"}
        site.dies(point, settings=site.settings_with(completeness={"query": query}))


@brings("tend", "study RECEIVING -> INCOMPLETE")
def study_is_open_for_too_long(site: Site, point: KillPoint) -> None:
    site.feed(received=ALL_BUT_THE_LAST)
    rules = {"quiet_seconds": AN_HOUR, "cap_hours": AN_INSTANT}
    site.dies(point, settings=site.settings_with(completeness=rules))


@brings("work", "job RUNNING -> WAITING", "job RUNNING -> REFUSED", "job RUNNING -> DEAD")
def job_fails(site: Site, point: KillPoint) -> None:
    site.feed(received=ALL_BUT_THE_LAST)
    bring(site, "job", "QUEUED")
    site.dies(point, target=ENDINGS[point.transition.after])


@brings("work", "job WAITING -> RUNNING")
def job_is_tried_again(site: Site, point: KillPoint) -> None:
    site.feed()
    bring(site, "job", "QUEUED")
    site.dies(point, target=ENDINGS["WAITING"])


@brings("work", "job RUNNING -> CANCELLED")
def running_job_is_cancelled(site: Site, point: KillPoint) -> None:
    site.feed()
    bring(site, "job", "QUEUED")
    with site.victim(point, target=ENDINGS["RUNNING"]):
        site.command("jobs", "cancel", str(site.until("job", "RUNNING")))


@brings("tend", "job RUNNING -> WAITING", "job RUNNING -> DEAD", "job RUNNING -> CANCELLED")
def worker_died(site: Site, point: KillPoint) -> None:
    """The rescuer takes the job back."""
    site.feed()
    number = bring(site, "job", "RUNNING", lease_seconds=2.0)
    if point.transition.after == "CANCELLED":
        site.command("jobs", "cancel", str(number))
    attempts = 1 if point.transition.after == "DEAD" else 100
    site.dies(point, settings=site.settings_with(compute={"maximum_attempts": attempts}))


@brings(
    "tend",
    *(f"job {before} -> SUPERSEDED" for before, afters in JOB_TRANSITIONS.items() if "SUPERSEDED" in afters),
    "delivery WAITING -> CANCELLED",
)
def late_slice_comes(site: Site, point: KillPoint) -> None:
    """A newer version of the study takes the place of what the older one has led to."""
    site.feed(received=ALL_BUT_THE_LAST)
    bring(site, point.transition.subject, point.transition.before)
    site.feed_rest()
    site.dies(point)


@brings("person", "job QUEUED -> CANCELLED", "job WAITING -> CANCELLED")
@brings("person", "job DEAD -> QUEUED", "job CANCELLED -> QUEUED")
@brings("person", "delivery PENDING -> CANCELLED", "delivery WAITING -> CANCELLED")
@brings("person", "delivery DEAD -> PENDING", "delivery CANCELLED -> PENDING")
def person_decides(site: Site, point: KillPoint) -> None:
    subject, before, after = point.transition
    site.feed()
    number = bring(site, subject, before)
    site.dies(point, *_decision(subject, "cancel" if after == "CANCELLED" else "retry", number))


@brings("tend", "delivery PENDING -> WAITING")
def peer_is_away(site: Site, point: KillPoint) -> None:
    site.feed()
    bring(site, "delivery", "PENDING")
    site.dies(point, settings=sends_to(site, free_port()))


@brings("tend", "delivery WAITING -> SENT")
def peer_is_back(site: Site, point: KillPoint) -> None:
    site.feed()
    bring(site, "delivery", "WAITING")
    site.hurry()
    site.dies(point)


@brings("tend", "delivery SENT -> WAITING")
def peer_has_lost_it(site: Site, point: KillPoint) -> None:
    site.feed()
    bring(site, "delivery", "SENT")
    with SmallPACS(site.data / "empty", "SMALLPACS") as another:
        site.dies(point, settings=sends_to(site, another.port))


@brings("tend", "delivery PENDING -> DEAD", "delivery SENT -> DEAD", "delivery WAITING -> DEAD")
def destination_is_gone(site: Site, point: KillPoint) -> None:
    site.feed()
    bring(site, "delivery", point.transition.before)
    site.hurry()
    site.dies(point, settings=sends_to(site, None))


def bring(site: Site, subject: str, state: str, *, lease_seconds: float = 60.0) -> int:
    """Bring the job or the delivery of the study that was fed last to a state; return its number.

    Parameters
    ----------
    lease_seconds
        Of a job that is RUNNING: its worker is dead afterwards.
    """
    return (_bring_job if subject == "job" else _bring_delivery)(site, state, lease_seconds)


def _bring_job(site: Site, state: str, lease_seconds: float) -> int:
    with site.running("tend"):
        number = site.until("job", JobState.QUEUED)
    if state == JobState.CANCELLED:
        site.command(*_decision("job", "cancel", number))
    elif state != JobState.QUEUED:
        slow = {"lease_seconds": lease_seconds, "retry_seconds": AN_HOUR, "longest_retry_seconds": AN_HOUR}
        settings = site.settings_with(compute=slow)
        with site.running("work", target=ENDINGS[state], settings=settings):
            site.until("job", state)
    return number


def _bring_delivery(site: Site, state: str, lease_seconds: float) -> int:
    _bring_job(site, JobState.SUCCEEDED, lease_seconds)
    number = site.until("delivery", "PENDING")
    if state == "SENT":
        site.dies(KillPoint(Transition("delivery", "PENDING", "SENT"), "tend", "after"))
    elif state == "CANCELLED":
        site.command(*_decision("delivery", "cancel", number))
    elif state != "PENDING":
        with site.running("tend", settings=sends_to(site, free_port() if state == "WAITING" else None)):
            site.until("delivery", state)
    return number


def sends_to(site: Site, port: int | None) -> Settings:
    """Return settings under which results go to another port, or under which nobody knows where to."""
    (destination,) = site.settings.model_dump(mode="json")["destinations"]
    return site.settings_with(destinations=[{**destination, "port": port}] if port else [])


def _decision(subject: str, verb: str, number: int) -> tuple[str, str, str]:
    return "jobs" if subject == "job" else "deliveries", verb, str(number)


EVERY_POINT = tuple(
    KillPoint(transition, role, moment) for transition, role in WAYS for moment in ("before", "after")
)
