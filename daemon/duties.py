"""The process that looks after what is due: close studies, deliver results, rescue jobs, keep the disk free.

APScheduler wakes each duty; what there is to do is in SQL, so this process may be killed at any moment.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from datetime import timedelta

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
    rescuer = Rescuer(settings, engine)
    retention = Retention(settings, engine)
    scheduler = Scheduler(
        [
            Duty(name="assemble", run_once=lambda: assembler.run_once(utc_now()), every=ASSEMBLE_EVERY),
            Duty(name="deliver", run_once=lambda: deliverer.run_once(utc_now()), every=DELIVER_EVERY),
            Duty(name="rescue", run_once=lambda: rescuer.run_once(utc_now()), every=RESCUE_EVERY),
            Duty(name="retain", run_once=lambda: retention.run_once(utc_now()), every=RETAIN_EVERY),
        ]
    )
    scheduler.start()
    stop.wait()
    scheduler.stop()
