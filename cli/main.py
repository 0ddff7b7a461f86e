"""`allq`: the commands and their order."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

from allq.version import __version__
from cli import audit, database, doctor, models, query, results, review, screen, status, submit, training, worker
from cli.edge import Commands

app = typer.Typer(
    name="allq",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Panels for eyes; plain text where help goes through a pipe.
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"allq {__version__}")
        raise typer.Exit


@app.callback()
def allq(
    debug: Annotated[bool, typer.Option("--debug", help="Print a traceback with an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Screen blood-smear slides for acute lymphoblastic leukaemia, in bulk and on record. A person decides.

    Research use, decision support. `allq COMMAND --help` has an example of each.

    Example: allq screen ./slides
    """
    from allq.settings import unknown_variables

    if unknown := unknown_variables():
        from cli.console import say
        from cli.wording import variable_words

        say(f"Ignored, as allq has no such setting: {variable_words(unknown)}.", style="yellow")


_SCREENING: Final = "Screening"
_RESULTS: Final = "Results"
_DECIDING: Final = "Deciding and auditing"
_MODELS: Final = "Models"
_INSTALLATION: Final = "Installation"

app.command("screen", rich_help_panel=_SCREENING)(screen.screen)
app.command("submit", rich_help_panel=_SCREENING)(submit.submit)
app.command("worker", rich_help_panel=_SCREENING)(worker.worker)
app.command("status", rich_help_panel=_SCREENING)(status.status)
app.command("retry", rich_help_panel=_SCREENING)(submit.retry)
app.command("cancel", rich_help_panel=_SCREENING)(submit.cancel)
app.command("results", rich_help_panel=_RESULTS)(results.results)
app.command("failures", rich_help_panel=_RESULTS)(results.failures)
app.command("query", rich_help_panel=_RESULTS)(query.query)
app.add_typer(review.app, name="review", rich_help_panel=_DECIDING)
app.add_typer(audit.app, name="audit", rich_help_panel=_DECIDING)
app.add_typer(models.app, name="models", rich_help_panel=_MODELS)
app.command("train", rich_help_panel=_MODELS)(training.train)
app.command("evaluate", rich_help_panel=_MODELS)(training.evaluate)
app.command("doctor", rich_help_panel=_INSTALLATION)(doctor.doctor)
app.add_typer(database.app, name="db", rich_help_panel=_INSTALLATION)


def run() -> None:
    """The entry point of the `allq` command."""
    # A name or an ellipsis that the locale can't show must not end a command.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="allq")
