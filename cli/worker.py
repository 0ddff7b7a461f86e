"""`allq worker`."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import options


def worker(
    concurrency: options.Concurrency = None,
    queues: Annotated[
        str, typer.Option("--queues", help="Queues to serve, separated by commas; the first goes before the next.")
    ] = "stat,routine",
    parent: Annotated[int | None, typer.Option("--parent", hidden=True)] = None,
    card: Annotated[str | None, typer.Option("--card", hidden=True)] = None,
) -> None:
    """Work on what was submitted, until stopped. Any number of workers, on any number of machines.

    SIGTERM or Ctrl-C lets it finish or give back what it has in hand; whatever else ends it, nothing is lost.
    Without a broker it says so and keeps trying.

    Example: allq worker --concurrency 4 --queues stat
    """
    from allq.settings import load
    from worker.run import run_worker

    wanted = [name.strip() for name in queues.split(",") if name.strip()]
    raise typer.Exit(run_worker(load(), concurrency=concurrency, queues=wanted, parent=parent, card=card))
