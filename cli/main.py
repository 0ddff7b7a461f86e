"""`allq`: the commands and their order, and the edge at which every error becomes one sentence and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from allq.errors import AllqError
from allq.text import printable
from allq.version import __version__
from cli import database, doctor, models, query, results, screen, status, submit, training, worker

INTERRUPTED: Final = 130
_USAGE_ERROR: Final = typer.BadParameter.__base__ or typer.BadParameter
"""The parser's own complaints; Typer prints them, with exit code 2."""


class Commands(TyperGroup):
    """The group of all commands; turns errors into one sentence on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        debug = bool(ctx.params.get("debug"))
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort, _USAGE_ERROR):
            raise
        except BrokenPipeError:
            _close_quietly()
            raise typer.Exit(0) from None  # the reader, `head` perhaps, has all it wanted
        except KeyboardInterrupt:
            _complain("Interrupted. The work done so far is kept.", debug=debug)
            raise typer.Exit(INTERRUPTED) from None
        except AllqError as error:
            _complain(str(error), debug=debug)
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            _complain(_file_problem(error), debug=debug)
            raise typer.Exit(1) from None
        except Exception as error:  # noqa: BLE001  (the edge: whatever else it is, it is a fault of ours)
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            _complain(
                f"allq failed unexpectedly ({what}). Run it again with `allq --debug …` to see where.", debug=debug
            )
            raise typer.Exit(1) from None
        return result


def _complain(sentence: str, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    with suppress(BrokenPipeError):
        print("\n".join(printable(line) for line in sentence.splitlines()), file=sys.stderr)  # noqa: T201


def _file_problem(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    return f"{what}: {os.fsdecode(error.filename)}" if error.filename is not None else f"{what}."


def _close_quietly() -> None:
    """Point stdout at nothing, so that the interpreter's last flush doesn't complain of the closed pipe."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        print(f"allq {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def allq(
    debug: Annotated[bool, typer.Option("--debug", help="Print a traceback with an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Screen blood-smear slides for acute lymphoblastic leukaemia, in bulk and on record. A person decides.

    Research use, decision support. Start with: allq screen ./slides
    """


_SCREENING: Final = "Screening"
_RESULTS: Final = "Results"
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
