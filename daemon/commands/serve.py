"""``voxtrial serve``, ``tend`` and ``config check``: the configured daemon."""

from __future__ import annotations

from typing import Annotated

import typer

from voxtrial.daemon.commands.site import ConfigFile, database

config_group = typer.Typer(no_args_is_help=True, help="The configuration file.")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("serve")(serve)
    app.command("tend")(tend)
    app.add_typer(config_group, name="config")


def serve(config: ConfigFile = None) -> None:
    """Run the whole daemon in the foreground until SIGTERM: listener, duties, workers and web server.

    It may be killed at any moment: what it acknowledged is on disk, what is to be done is in the database.
    """
    from voxtrial.daemon import logs, supervisor

    with database(config, upgrade=True) as (settings, _):
        logs.configure()
    roles = ["listen", "tend"]
    if settings.compute.workers:
        roles.append("work")
    if settings.web.enabled:
        roles.append("web")
    supervisor.serve(roles, config)


def tend(config: ConfigFile = None) -> None:
    """Run the duties alone: close studies, deliver results, rescue jobs, keep the disk free."""
    from voxtrial.daemon import duties, logs
    from voxtrial.daemon.settings import load

    logs.configure()
    duties.run(load(config))


@config_group.command("check")
def check(
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole configuration in use.")] = False,
) -> None:
    """Read the configuration as `serve` would and say what is wrong with it."""
    from voxtrial.daemon.models.store import ModelStore
    from voxtrial.daemon.settings import load

    settings = load(config)
    store = ModelStore(settings.site.data / "models")
    for route in settings.routes:
        store.get(route.model)
    if as_json:
        typer.echo(settings.model_dump_json(indent=2))
    else:
        typer.echo(
            f"{config or 'The defaults'}: {len(settings.routes)} routes, all keys and models are known."
        )
