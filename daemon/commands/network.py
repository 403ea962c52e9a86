"""``voxtrial listen``, ``web``, ``health``, ``echo``: the daemon's doors, and who is well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option("--config", help="voxtrial.toml; absent: the defaults.", show_default=False, dir_okay=False),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("listen")(listen)
    app.command("echo")(echo)
    app.command("web")(web)
    app.command("health")(health)


def listen(config: Config = None) -> None:
    """Receive studies: the Storage SCP alone, in several processes on one port, until SIGTERM or Ctrl-C.

    Prints one line of JSON with the port when it accepts associations. An instance is acknowledged when its
    bytes are on disk and its row is committed; at the start, files and rows are brought together.
    """
    from voxtrial.daemon import logs
    from voxtrial.daemon.commands.site import database
    from voxtrial.daemon.network import prefork

    with database(config, upgrade=True) as (settings, _):
        logs.configure()

    def say(port: int, tls_port: int | None) -> None:
        ready = {"listening": settings.listener.host, "port": port, "tls_port": tls_port}
        typer.echo(json.dumps(ready))

    prefork.run(settings, say)


def echo(
    peer: Annotated[str, typer.Argument(help="AE_TITLE@HOST:PORT, or the name of a destination.")],
    config: Config = None,
) -> None:
    """Ask a DICOM node whether it answers (C-ECHO), with our own AE title."""
    from voxtrial.daemon.network import scu
    from voxtrial.daemon.network.address import peer_of
    from voxtrial.daemon.settings import load

    settings = load(config)
    node = peer_of(peer, settings)
    scu.echo(node, ae_title=settings.listener.ae_title)
    typer.echo(f"{node} answers.")


def web(config: Config = None) -> None:
    """Receive studies by DICOMweb: STOW-RS at /studies, and /health, until SIGTERM or Ctrl-C.

    Bound to loopback unless web.host says otherwise; then the addresses of listener.accept may store. With
    [web.tls] it speaks HTTPS, and only to clients with a certificate of its CA.
    """
    from voxtrial.daemon import logs
    from voxtrial.daemon.settings import load
    from voxtrial.daemon.web import server

    settings = load(config)
    logs.configure()

    def say(port: int) -> None:
        scheme = "https" if settings.web.tls else "http"
        typer.echo(json.dumps({"web": settings.web.host, "port": port, "scheme": scheme}))

    server.run(settings, say)


def health(config: Config = None) -> None:
    """Say whether this host could take instances now; exit status 1 when not.

    The same JSON as /health of the web server, without a connection: for the probe of a container, or a
    monitor that has no certificate for [web.tls].
    """
    from voxtrial.daemon.network.health import health as state_of
    from voxtrial.daemon.settings import load

    state = state_of(load(config))
    typer.echo(json.dumps(state))
    if state["status"] != "ok":
        raise typer.Exit(1)
