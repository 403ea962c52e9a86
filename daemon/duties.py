"""The process that looks after what is due: close studies, deliver results, rescue jobs, keep the disk free.

APScheduler wakes each duty; what there is to do is in SQL, so this process may be killed at any moment.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from datetime import timedelta
from functools import partial

from voxtrial.daemon.scheduler import Duty, Scheduler
from voxtrial.daemon.services.assembler import Assembler
from voxtrial.daemon.services.deliverer import Deliverer
from voxtrial.daemon.services.rescuer import Rescuer
from voxtrial.daemon.services.retention import Retention
from voxtrial.daemon.settings import Settings
from voxtrial.db.base import utc_now
from voxtrial.db.engine import connect, sessions

ASSEMBLE_EVERY = timedelta(seconds=1)
DELIVER_EVERY = timedelta(seconds=1)
RESCUE_EVERY = timedelta(seconds=5)
RETAIN_EVERY = timedelta(minutes=10)


def run(settings: Settings) -> None:
    """Look after the duties until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    engine = connect(settings.database_url)
    database = sessions(engine)
    name = f"{socket.gethostname()}:{os.getpid()}"
    assembler = Assembler(settings, engine)
    deliverer = Deliverer(settings, database, name)
    # With several destinations each has a thread of its own: a PACS that takes minutes holds up no other
    own = [d.name for d in settings.destinations] if len(settings.destinations) > 1 else []
    deliverers = {d: Deliverer(settings, database, name, destination=d) for d in own}
    rescuer = Rescuer(settings, engine)
    retention = Retention(settings, engine)
    scheduler = Scheduler(
        [
            Duty(name="assemble", run_once=lambda: assembler.run_once(utc_now()), every=ASSEMBLE_EVERY),
            Duty(name="deliver", run_once=partial(_deliver, deliverer), every=DELIVER_EVERY),
            *(
                Duty(name=f"deliver to {to}", run_once=partial(_deliver, one), every=DELIVER_EVERY)
                for to, one in deliverers.items()
            ),
            Duty(name="rescue", run_once=lambda: rescuer.run_once(utc_now()), every=RESCUE_EVERY),
            Duty(name="retain", run_once=lambda: retention.run_once(utc_now()), every=RETAIN_EVERY),
        ]
    )
    scheduler.start()
    stop.wait()
    scheduler.stop()


def _deliver(deliverer: Deliverer) -> None:
    deliverer.run_once(utc_now())
