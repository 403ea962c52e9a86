"""``voxtrial work``: the worker alone, on this host."""

from __future__ import annotations

import signal
from threading import Event
from typing import Annotated

import typer

from voxtrial.daemon.commands.site import ConfigFile, database


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("work")(work)


def work(
    config: ConfigFile = None,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="Stop when nothing can be claimed any more.")
    ] = False,
) -> None:
    """Run jobs on this host until SIGTERM; then finish what runs, or give it back after a minute.

    Any number of hosts may run this on one PostgreSQL database and one data folder.
    """
    from voxtrial.daemon import logs
    from voxtrial.daemon.worker import Worker

    logs.configure()
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with database(config, pre_ping=False) as (settings, engine):
        worker = Worker(settings, engine)
        if until_idle:
            worker.run_until_idle()
        else:
            worker.run(stop)
